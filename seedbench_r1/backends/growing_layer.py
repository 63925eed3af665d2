"""A layer of transformers' DynamicCache with room ahead: a new token is written in place.

DynamicLayer makes new tensors of all columns for every token.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

COLUMNS = 128  # made at once, when there is no room left


class GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Takes over a filled layer; keys and values are views into memory of a few columns more."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, filled: Any) -> None:  # noqa: ANN401  # a DynamicLayer; transformers' layers have no types
        super().__init__()  # type: ignore[no-untyped-call]
        self.lazy_initialization(filled.keys, filled.values)
        self.keys, self.values = filled.keys, filled.values
        self._memory: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *given: object, **options: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append (rows, key heads, new, D) states; all keys and all values."""
        length, end = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        if self._memory is None or end > self._memory[0].shape[-2]:
            self._memory = self._grown(self.keys, end), self._grown(self.values, end)
        for memory, states in zip(self._memory, (key_states, value_states), strict=True):
            memory[..., length:end, :] = states
        self.keys, self.values = (memory[..., :end, :] for memory in self._memory)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Keep these rows."""
        super().reorder_cache(beam_idx)  # type: ignore[arg-type]
        self._memory = None  # the rows that are left have been copied out of it

    @staticmethod
    def _grown(states: torch.Tensor, end: int) -> torch.Tensor:
        memory = states.new_empty(*states.shape[:-2], end + COLUMNS, states.shape[-1])
        memory[..., : states.shape[-2], :] = states
        return memory
