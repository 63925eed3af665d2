"""GRPO-CARE's consistency bonus: accurate rollouts whose reasoning makes their own answer likely under the reference.

arXiv 2506.16141, Algorithm 1. Pure functions of tensors; where the paper and the authors' code differ, both are here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from seedbench_r1.parsing import answer_block

TIE = 1e-6  # an fp32 mean of equal numbers can exceed each of them; without this, tied groups lose their bonus
ACCURATE = 0.1  # gamma_acc of Algorithm 1: an accuracy reward above it counts as accurate


class Decoder(Protocol):
    """What answer_span needs of a tokenizer."""

    def decode(self, ids: Sequence[int], /) -> str:
        """The text of the tokens, special ones included. Longer prefixes must give longer texts."""


def accurate_rollouts(accuracy: Tensor) -> Tensor:
    """(B, G) accuracy rewards -> (B, G) bool: above 0.1 and at least the mean of the own group (Algorithm 1).

    The mean is over all G rollouts of a question, never over the batch.
    """
    return (accuracy > ACCURATE) & (accuracy >= accuracy.mean(dim=1, keepdim=True) - TIE)


def consistency_bonus(
    accuracy: Tensor,  # (B, G) in [0, 1]; B questions, G rollouts each
    likelihood: Tensor,  # (B, G) mean answer-token probability under the reference; NaN: no answer
    *,
    weight: float = 0.5,
    margin: float = 0.0,
    cap: float = 0.95,
) -> Tensor:  # (B, G), the dtype of accuracy; to be added to the reward
    """Reward accurate rollouts whose capped likelihood reaches the mean of the accurate ones of their group.

    Likelihoods are capped before they are averaged. A rollout without an answer (NaN) neither counts nor gains. The
    paper has margin 0.01, the authors' SEED-Bench-R1 run 0 (its script leaves it unset). Never NaN.
    """
    accurate = accurate_rollouts(accuracy) & ~likelihood.isnan()
    # where, not a product with the mask: NaN x 0 is NaN.
    capped = torch.where(accurate, likelihood.clamp(max=cap), torch.zeros_like(likelihood))
    count = accurate.sum(dim=1, keepdim=True).clamp(min=1)
    baseline = capped.sum(dim=1, keepdim=True) / count - margin
    kept = accurate & (capped >= baseline - TIE)
    return torch.where(kept, weight * accuracy, torch.zeros_like(accuracy))


def dense_bonus(accuracy: Tensor, likelihood: Tensor, *, weight: float = 0.5) -> Tensor:
    """(B, G): weight x accuracy x likelihood, the paper's DenseCons ablation (Table 3). No answer: 0."""
    return weight * accuracy * torch.nan_to_num(likelihood, nan=0.0)


def refgen_bonus(regenerated: Tensor, *, weight: float = 0.5) -> Tensor:
    """(B, G): weight x accuracy of the answer that the reference regenerates from the reasoning; NaN, no reasoning: 0.

    The paper's RefGen ablation (Table 3). The rollout's own answer has no part in it.
    """
    return weight * torch.nan_to_num(regenerated, nan=0.0)


def answer_likelihood(
    logprobs: Tensor,  # (B, G, T) natural log, of the rollouts' own tokens
    mask: Tensor,  # (B, G, T) bool or 0/1: answer tokens
    *,
    mean: Literal["geometric", "arithmetic"] = "geometric",
) -> Tensor:  # (B, G) in [0, 1]; NaN for an empty mask
    """Mean probability of the answer tokens.

    "geometric" is exp of the mean log-probability, as in the authors' code; "arithmetic" the mean of the probabilities,
    as in the paper's equation for p_g. They are equal for one-token answers. Raises ValueError for another mean.
    """
    inside = mask.bool()
    count = inside.sum(dim=-1)
    zero = torch.zeros_like(logprobs)
    if mean == "geometric":
        value = (torch.where(inside, logprobs, zero).sum(dim=-1) / count.clamp(min=1)).exp()
    elif mean == "arithmetic":
        value = torch.where(inside, logprobs.exp(), zero).sum(dim=-1) / count.clamp(min=1)
    else:
        raise ValueError(f"mean is {mean!r}, expected 'geometric' or 'arithmetic'")
    return torch.where(count > 0, value, torch.full_like(value, torch.nan))


def answer_span(tokenizer: Decoder, completion_ids: Sequence[int]) -> tuple[int, int] | None:
    """[start, end) of the tokens that overlap the stripped content of the answer tag that the parser reads.

    None if the tag is absent, unclosed or empty: such a rollout has no likelihood and gains no bonus. Prefixes are
    decoded, so that merged tokens (">A") and tokens that hold parts of characters are located correctly.

    Args:
        tokenizer: the one that made the ids.
        completion_ids: of one rollout, padding left out.
    """
    ids = list(completion_ids)
    text = tokenizer.decode(ids)
    block = answer_block(text)
    if block is None:
        return None
    content = text[block[0] : block[1]]
    start = block[0] + len(content) - len(content.lstrip())
    end = block[0] + len(content.rstrip())
    if start >= end:
        return None
    # A token that holds both tag and answer, such as ">A", belongs to the span: it holds the answer's first character.
    first = first_reaching(tokenizer, ids, text, start + 1)
    last = first_reaching(tokenizer, ids, text, end)
    return first, last + 1


def first_reaching(tokenizer: Decoder, ids: list[int], text: str, length: int) -> int:
    """Index of the token with which the decoded prefix first holds `length` characters of `text`.

    Binary search over prefixes. A prefix that ends inside a character decodes to a replacement character, which is no
    character of the text and does not count.
    """
    low, high = 0, len(ids) - 1
    while low < high:
        middle = (low + high) // 2
        if _common_length(tokenizer.decode(ids[: middle + 1]), text) >= length:
            high = middle
        else:
            low = middle + 1
    return low


def _common_length(prefix: str, text: str) -> int:
    """Characters that `prefix` and `text` have in common from the start."""
    if text.startswith(prefix):
        return len(prefix)
    return next(index for index, (a, b) in enumerate(zip(prefix, text, strict=False)) if a != b)
