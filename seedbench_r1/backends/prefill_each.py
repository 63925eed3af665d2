"""Prompts of any family, prefilled one by one as their processor made them, and their caches joined for decoding.

Batching prompts would take knowledge of each family's tensors; the prefill of one prompt keeps a GPU busy as it is, and
it is decoding that a batch speeds up.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from seedbench_r1.errors import ConfigError
from seedbench_r1.models.generic import GenericInputs

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel


@torch.inference_mode()
def prefill_each(
    model: PreTrainedModel, prompts: Sequence[GenericInputs]
) -> tuple[torch.Tensor, DynamicCache, torch.Tensor, list[int]]:
    """Run each prompt through the model once.

    Returns the logits after the last prompt token (B, V), the key-value cache of all, left-padded, the attention mask
    (B, L) int64, and the position of each row's next token.
    """
    from transformers import DynamicCache

    last_only = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    logits, caches, following = [], [], []
    for prompt in prompts:
        cache = DynamicCache(config=model.config.get_text_config())
        arguments = {name: _placed(value, model) for name, value in prompt.arguments.items()}
        if hasattr(inner(model), "rope_deltas"):
            inner(model).rope_deltas = None  # the last prompt's, which a prompt of text alone would leave there
        arguments |= {cache_argument(model): cache, "use_cache": True}
        output = model(**arguments, **last_only)
        logits.append(output.logits[:, -1])
        caches.append(cache)
        # Families with positions on three axes work out where the text goes on, and keep it for the next call.
        delta = getattr(inner(model), "rope_deltas", None)
        following.append(len(prompt.input_ids) + (0 if delta is None else int(delta)))
    lengths = [len(prompt.input_ids) for prompt in prompts]
    columns = torch.arange(max(lengths), device=model.device)
    mask = (columns >= max(lengths) - torch.tensor(lengths, device=model.device)[:, None]).long()
    return torch.cat(logits), join(caches), mask, following


def cache_argument(module: torch.nn.Module, former: str = "past_key_values") -> str:
    """What a module's forward calls its cache: "cache" since transformers 5.24, `former` before, and in older code."""
    kind: Hashable = type(module)  # type: ignore[assignment]  # which mypy takes for unhashable: type.__hash__ is a slot
    return _cache_argument(kind, former)


@functools.cache
def _cache_argument(kind: Hashable, former: str) -> str:
    # A wrapper without a forward of its own hands on what it is given.
    forward = getattr(kind, "forward", None)
    return "cache" if forward is not None and "cache" in inspect.signature(forward).parameters else former


def inner(model: PreTrainedModel) -> Any:  # noqa: ANN401  # of any family
    """The model below the output layer."""
    return getattr(model, "model", model)


def join(caches: Sequence[DynamicCache]) -> DynamicCache:
    """One cache of the rows of all, shorter ones padded on the left; the given ones are used up.

    Raises ConfigError for a kind of layer that is not known here.
    """
    joined = caches[0]
    if len(caches) > 1:
        layers: list[Any] = joined.layers
        for place, layer in enumerate(layers):
            _join_layer(layer, [cache.layers[place] for cache in caches])
            for cache in caches[1:]:
                cache.layers[place] = None  # type: ignore[call-overload]  # its memory is free from now on
    return joined


def _join_layer(layer: Any, rows: Sequence[Any]) -> None:  # noqa: ANN401  # transformers' layers have no types
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionCacheLayerMixin

    known = isinstance(layer, DynamicLayer | LinearAttentionCacheLayerMixin)
    # A layer that reads another one's keys holds nothing.
    if not known and layer.keys is not None:
        raise ConfigError(f"Caches of {type(layer).__name__} cannot be joined. Fix: --batch-size 1")
    if isinstance(layer, LinearAttentionCacheLayerMixin):
        for states in ("conv_states", "recurrent_states"):
            kept = getattr(layer, states)
            for place, first in kept.items():
                if first is not None:
                    kept[place] = torch.cat([getattr(row, states)[place] for row in rows])
    if isinstance(layer, DynamicLayer) and layer.is_initialized:
        width = max(row.keys.shape[-2] for row in rows)
        layer.keys, layer.values = (
            torch.cat([_padded(getattr(row, name), width) for row in rows]) for name in ("keys", "values")
        )
    if isinstance(layer, DynamicSlidingWindowLayer):
        layer.cumulative_length = max(row.cumulative_length for row in rows)


def _padded(states: torch.Tensor, width: int) -> torch.Tensor:  # (rows, heads, columns, D)
    return torch.nn.functional.pad(states, (0, 0, width - states.shape[-2], 0))


def _placed(value: Any, model: PreTrainedModel) -> Any:  # noqa: ANN401  # what a processor returns
    """On the model's device; pixels in its type."""
    if isinstance(value, torch.Tensor):
        return value.to(model.device, model.dtype if value.is_floating_point() else None)
    if isinstance(value, list | tuple):
        return type(value)(_placed(item, model) for item in value)
    return value
