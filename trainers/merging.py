"""A policy's weights as vLLM reads them: adapters merged into their base, shards gathered, one parameter at a time.

W + scale x BA is computed in the wider of the two dtypes and rounded once to W's. In bfloat16 most of a young adapter
is lost in that: after ten steps at 1e-5 nine tenths of it. So the loss is corrected for vLLM's probabilities, and the
built-in sampler computes adapters apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from trainers.sharding import full_tensor

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


def _merged(weight: Tensor, layer: Any) -> Tensor:  # noqa: ANN401  # peft's LoraLayer
    delta: Tensor = layer.get_delta_weight(ADAPTER).detach()
    return (weight + delta).to(weight.dtype)
