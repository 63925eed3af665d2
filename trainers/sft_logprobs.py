"""Log-probabilities of one completion each of several prompts, in one padded batch: supervised fine-tuning's form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seedbench_r1.models.qwen_vl import ModelInputs, VisionLayout
from trainers.logprobs import pad_rows, padded_logprobs


def batch_logprobs(
    model: torch.nn.Module,
    layout: VisionLayout,
    prompts: Sequence[ModelInputs],  # B, of any lengths
    completions: Sequence[Tensor],  # B of (C_b,) int64, end token included
) -> tuple[Tensor, Tensor]:  # (B, T) float32 or float64, and (B, T) bool
    """Log-probability of every completion token given its own prompt and the completion so far, padded with 0.

    T is the longest completion; the mask is True on tokens. The output layer runs on completion rows only. Equal to one
    pass per row up to rounding. Gradients flow if they are enabled. Raises ValueError if the numbers of prompts and
    completions differ or are 0.
    """
    if not prompts or len(prompts) != len(completions):
        raise ValueError(f"{len(prompts)} prompts with {len(completions)} completions: a batch needs one of each")
    spans = [(0, len(ids)) for ids in completions]
    logprobs = padded_logprobs(model, layout, prompts, [ids.cpu() for ids in completions], spans)
    return pad_rows(logprobs, spans, max(map(len, completions)))
