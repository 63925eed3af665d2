"""Which columns the rows of a growing cache see, in the form that attention takes.

Left to a model, its mask is made anew for every token, and the host waits each time to hear whether it hides anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# (rows, columns) int64; (rows, 1, 1, columns) bool, or such by the kind of layer; None: all columns are visible
Mask = torch.Tensor | dict[str, torch.Tensor | None] | None


class GrowingMask:
    """The mask (B, L) int64 of left-padded prompts, and a column more for every token.

    It has the values that transformers would compute, and is absent where transformers leaves it out, since attention
    without a mask takes other kernels.
    """

    def __init__(self, model: PreTrainedModel, layers: Sequence[Any], mask: torch.Tensor, room: int) -> None:
        from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionLayer

        sliding = [layer for layer in layers if type(layer) is DynamicSlidingWindowLayer and layer.is_initialized]
        self._sliding = sliding[0] if sliding else None
        text = model.config.get_text_config()
        # Models of several kinds of layers take a mask for each, as generate() gives it to them.
        mixed = set(getattr(text, "layer_types", None) or ()) == {"full_attention", "sliding_attention"}
        known = (DynamicLayer, LinearAttentionLayer, *([DynamicSlidingWindowLayer] if mixed else []))
        sdpa = text._attn_implementation == "sdpa"
        self._finished = sdpa and all(type(layer) in known for layer in layers)
        self._length = mask.shape[1]
        # Columns of tokens to come are visible from the start: each step passes only those that exist.
        self._columns = torch.cat([mask, mask.new_ones(len(mask), room)], dim=1)
        if self._finished:
            self._columns = self._columns.bool()
        self._padded = self._is_padded()

    def keep(self, index: torch.Tensor) -> None:
        """Drop all other rows."""
        self._columns = self._columns[index]
        self._padded = self._is_padded()

    def grown(self) -> Mask:
        """For the next token of every row."""
        self._length += 1
        if not self._finished:
            return self._columns[:, : self._length]
        whole = self._columns[:, None, None, : self._length]
        if self._sliding is None:
            return whole if self._padded else None
        seen, _ = self._sliding.get_mask_sizes(1)
        hides = self._padded or seen >= self._sliding.sliding_window
        return {
            "full_attention": whole if self._padded else None,
            "sliding_attention": whole[..., -seen:] if hides else None,
        }

    def _is_padded(self) -> bool:
        return self._finished and not bool(self._columns.all())
