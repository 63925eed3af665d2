"""A policy's weights as others read them: adapters merged into their base, shards gathered, one parameter at a time.

Rollouts are drawn from merged weights, by vLLM and by the built-in sampler: with adapters apart, a token costs nearly
twice the kernels. W + scale x BA is computed in the wider of the two dtypes and rounded once to W's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from trainers.sharding import adapted_layers, full_tensor

ADAPTER = "default"  # peft's name of a model's first adapter


def whole_parameters(model: torch.nn.Module, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """A model's parameters by their Hugging Face names, in the order of its layers. The model is not changed.

    dtype: that passes run in; shards are float32 and rounded to it before they are gathered. Gathering is collective:
    under --fsdp every process must take all of them.
    """
    for name, parameter in model.named_parameters():
        layer, _, rest = name.rpartition(".base_layer.")
        if layer:
            value = full_tensor(parameter.detach())
            yield f"{layer}.{rest}", _merged(value, model.get_submodule(layer)) if rest == "weight" else value
        elif ".lora_" not in name:
            yield name, full_tensor(parameter.detach().to(dtype))


class BaseWeights:
    """What adapters are merged into, kept in main memory: subtracting them again would not restore every bit."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._layers = adapted_layers(model)
        self._kept = {name: in_main_memory(layer.base_layer.weight.detach()) for name, layer in self._layers.items()}

    @contextmanager
    @torch.no_grad()
    def merged(self) -> Iterator[None]:
        """The model with its adapters merged, in place, so that recorded graphs find the weights where they were."""
        try:
            for layer in self._layers.values():
                layer.base_layer.weight.copy_(_merged(layer.base_layer.weight.detach(), layer))
                layer.merged_adapters.append(ADAPTER)  # peft then leaves the adapters out
            yield
        finally:
            for name, layer in self._layers.items():
                layer.base_layer.weight.copy_(self._kept[name], non_blocking=True)
                layer.merged_adapters.clear()


def in_main_memory(tensor: Tensor) -> Tensor:
    """A copy, of a GPU's tensor in pinned memory: it is read back in every step."""
    return torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda).copy_(tensor)


def _merged(weight: Tensor, layer: Any) -> Tensor:  # noqa: ANN401  # peft's LoraLayer
    delta: Tensor = layer.get_delta_weight(ADAPTER).detach()
    return (weight + delta).to(weight.dtype)
