"""Log-probabilities of one completion each of several prompts, in one padded batch: supervised fine-tuning's form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seedbench_r1.backends.decoding import vision_tensors
from seedbench_r1.models.qwen_vl import ModelInputs, VisionLayout
from trainers.logprobs import token_logprobs
from trainers.shared_prefix import Projection, inner_model, logprobs_of


def batch_logprobs(
    model: torch.nn.Module,
    layout: VisionLayout,
    prompts: Sequence[ModelInputs],  # B, of any lengths
    completions: Sequence[Tensor],  # B of (C_b,) int64, end token included
) -> tuple[Tensor, Tensor]:  # (B, T) float32 or float64, and (B, T) bool
    """Log-probability of every completion token given its own prompt and the completion so far, padded with 0.

    T is the longest completion; the mask is True on tokens. Rows are padded to the right, where no token attends to
    the padding, and the output layer runs on completion rows only. Equal to one pass per row up to rounding. Gradients
    flow if they are enabled. Raises ValueError if the numbers of prompts and completions differ or are 0.
    """
    if not prompts or len(prompts) != len(completions):
        raise ValueError(f"{len(prompts)} prompts with {len(completions)} completions: a batch needs one of each")
    base = inner_model(model)
    starts = [len(prompt.input_ids) for prompt in prompts]
    width = max(start + len(ids) for start, ids in zip(starts, completions, strict=True))
    input_ids = prompts[0].input_ids.new_zeros(len(prompts), width)
    positions = torch.zeros(3, len(prompts), width, dtype=torch.int64)
    chosen = torch.zeros(len(prompts), width, dtype=torch.bool)
    mask = torch.zeros(len(prompts), max(map(len, completions)), dtype=torch.bool)
    for row, (prompt, start, completion) in enumerate(zip(prompts, starts, completions, strict=True)):
        end = start + len(completion)
        input_ids[row, :start], input_ids[row, start:end] = prompt.input_ids, completion
        input_ids[row, end:] = prompt.input_ids[0]
        positions[:, row, :start] = prompt.positions
        positions[:, row, start:] = torch.arange(start, width) + prompt.delta
        # A token is predicted by the row before it.
        chosen[row, start - 1 : end - 1] = True
        mask[row, : len(completion)] = True
    targets = torch.cat([ids.cpu() for ids in completions]).to(base.device)
    chosen, mask = chosen.to(base.device), mask.to(base.device)

    def score(hidden: Tensor, project: Projection) -> Tensor:
        return token_logprobs(project, hidden[chosen], targets)

    arguments = {"input_ids": input_ids.to(base.device), "position_ids": positions.to(base.device)}
    logprobs = logprobs_of(model, score, arguments | vision_tensors(base, layout, prompts))
    return logprobs.new_zeros(mask.shape).masked_scatter(mask, logprobs), mask
