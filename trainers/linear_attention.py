"""Layers of linear attention in packed groups: the state is forked where the prompt ends.

Such a layer (Qwen3.5's gated delta rule, arXiv 2412.06464, equation 10) carries a recurrent state and the last columns
of a convolution from token to token, and no mask keeps one completion's from the next. So it runs over the prompt once,
and from the state that is left there over all completions of the group as a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from seedbench_r1.backends.prefill_each import cache_argument
from seedbench_r1.errors import ConfigError


class Packed(Protocol):
    """What is needed of a group's packing; see shared_prefix."""

    @property
    def prompt(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def places(self) -> Tensor: ...
    @property
    def rows(self) -> Tensor: ...


class _Fork:
    """Stands for transformers' cache of one layer: what the prompt leaves is where every completion begins.

    Nothing is written in place, so that gradients reach the prompt.
    """

    def __init__(self) -> None:
        self._conv: Tensor | None = None  # (1, channels, kernel size)
        self._recurrent: Tensor | None = None  # (1, heads, D, D)
        self._repeats = 0  # completions; 0 while the prompt runs

    def begin_completions(self, count: int) -> None:
        """Raises ConfigError if the layer has kept nothing here: its completions would then begin without a prompt."""
        if self._conv is None or self._recurrent is None:
            raise ConfigError(
                "This version of transformers hands the state of linear attention on in another way: packed groups "
                "would be wrong. Fix: --no-shared-prefix"
            )
        self._repeats = count

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        return self._repeated(self._conv)

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        return self._repeated(self._recurrent)

    def is_recording_past(self, layer_idx: int) -> bool:
        """Completions of a single token too go the way of several, which writes nothing in place."""
        return True

    def update_conv_state(self, states: Tensor, layer_idx: int, conv_kernel_size: int, state_idx: int = 0) -> Tensor:
        """The columns that the convolution sees: what was before, and the new ones."""
        if self._repeats:
            return torch.cat([self._repeated(self._conv), states], dim=-1)  # type: ignore[list-item]
        missing = max(0, conv_kernel_size - states.shape[-1])
        self._conv = torch.nn.functional.pad(states, (missing, 0))[..., -conv_kernel_size:]
        return states

    def update_recurrent_state(self, states: Tensor, layer_idx: int, state_idx: int = 0) -> None:
        if not self._repeats:
            self._recurrent = states

    def _repeated(self, states: Tensor | None) -> Tensor | None:
        if not self._repeats or states is None:
            return None
        return states.expand(self._repeats, *states.shape[1:])


def linear_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The linear-attention modules of a model of Qwen3.5's kind."""
    found = (getattr(layer, "linear_attn", None) for layer in model.modules())
    return [module for module in found if isinstance(module, torch.nn.Module)]


def fork_at_prompts(module: torch.nn.Module) -> None:
    """Let a linear-attention module run packed groups; without one it behaves as before. Undone by unfork."""
    cache_name = cache_argument(module, "cache_params")
    module.forward = partial(_forward, module.forward, cache_name)  # type: ignore[method-assign]


def unfork(module: torch.nn.Module) -> None:
    """The class's own forward again."""
    del module.forward


def _forward(
    run: Callable[..., Tensor],
    cache_name: str,
    hidden_states: Tensor,  # (1, N, H)
    attention_mask: Tensor | None = None,
    shared_prefix: Sequence[Packed] | None = None,
    **options: object,
) -> Tensor:  # (1, N, H)
    if shared_prefix is None:
        return run(hidden_states, attention_mask=attention_mask, **options)
    parts, lengths = [], [packing.length for packing in shared_prefix]
    for packing, states in zip(shared_prefix, torch.split(hidden_states, lengths, dim=1), strict=True):
        fork = _Fork()
        given: dict[str, Any] = options | {cache_name: fork, "attention_mask": None}
        parts.append(run(states[:, : packing.prompt], **given))
        if packing.width:
            # Padded to the right, where no token looks.
            padded = states[0].index_select(0, packing.places).view(-1, packing.width, states.shape[-1])
            fork.begin_completions(len(padded))
            completed = run(padded, **given)
            parts.append(completed.flatten(0, 1).index_select(0, packing.rows)[None])
    return torch.cat(parts, dim=1)
