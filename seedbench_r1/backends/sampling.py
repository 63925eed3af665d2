"""Choosing the next token of every row of a batch, reproducibly.

One uniform number per row and step goes through the inverse of the row's cumulative distribution. The numbers come from
the row's own generator, so a completion depends on neither neighbours nor batch size nor device.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

from seedbench_r1.types import SamplingConfig

NOT_FINITE = -1
HEAD = 1024  # tokens among which top_p nearly always finds its share: sorting 152k logits a row costs far more


class NonFiniteLogits(ArithmeticError):
    """The model computes NaN or infinity: broken weights, or an overflow of its dtype."""

    def __init__(self) -> None:
        super().__init__(
            "the model's logits are not finite: its weights hold NaN or infinity (a broken merge, an overflow in "
            "training), or its dtype overflows (try --dtype bfloat16 or float32)"
        )


def row_generator(seed: int, question_id: str, k: int) -> random.Random:
    """The source of randomness of the k-th completion of a question. Python hashes the string with SHA-512."""
    return random.Random(f"{seed}:{question_id}:{k}")


def next_tokens(
    logits: torch.Tensor,  # (B, V), any floating dtype
    sampling: SamplingConfig,
    generators: Sequence[random.Random],  # one per row; untouched when greedy
    *,
    forbidden_ids: torch.Tensor | None = None,  # (F,) int64
    seen: torch.Tensor | None = None,  # (B, V) bool: tokens of the prompt and the completion; for the penalty only
) -> tuple[torch.Tensor, torch.Tensor | None]:  # (B,) int64; (B,) float32 or None
    """Draw one token per row, and its log-probability if sampling.logprobs.

    The log-probability is that of the raw logits in float32. Then, in the order of transformers and vLLM: repetition
    penalty, forbidden tokens, temperature (0: the first largest logit), top_k, top_p. NOT_FINITE stands for the token
    of a row whose logits hold NaN or +infinity.
    """
    raw = logits.to(torch.float32)
    # Told by the token, since every step waits for the tokens anyway: another look at the device would be another wait.
    finite = raw.amax(dim=1).isfinite()  # a NaN anywhere is the largest value
    scores = penalise_repetition(raw, seen, sampling.repetition_penalty) if seen is not None else raw
    if forbidden_ids is not None:
        scores = scores.index_fill(1, forbidden_ids, float("-inf"))
    if sampling.temperature == 0:
        tokens = scores.argmax(dim=1)
    else:
        uniform = torch.tensor([generator.random() for generator in generators], dtype=torch.float64)
        tokens = draw(scores.masked_fill(~finite[:, None], 0.0), sampling, uniform.to(scores.device))
    tokens = tokens.masked_fill(~finite, NOT_FINITE)
    if not sampling.logprobs:
        return tokens, None
    return tokens, raw.log_softmax(dim=1).gather(1, tokens[:, None].clamp(min=0)).squeeze(1)


def penalise_repetition(scores: torch.Tensor, seen: torch.Tensor, penalty: float) -> torch.Tensor:
    """Divide positive and multiply negative logits of seen tokens by the penalty (CTRL, arXiv 1909.05858)."""
    return torch.where(seen, torch.where(scores > 0, scores / penalty, scores * penalty), scores)


def draw(
    scores: torch.Tensor,  # (B, V) float32, -inf for impossible tokens
    sampling: SamplingConfig,  # temperature above 0
    uniform: torch.Tensor,  # (B,) float64 in [0, 1)
) -> torch.Tensor:  # (B,) int64
    """The token at which the cumulative probability of what top_k and top_p leave first exceeds uniform x its total.

    With a filter, tokens are ordered by falling logit (ties by token id); without one, by token id.
    """
    vocabulary = scores.shape[1]
    order = None
    if 0 < sampling.top_k < vocabulary:
        scores, order = _largest(scores, sampling.top_k)
    mass = (scores / sampling.temperature).softmax(dim=1).to(torch.float64)
    if order is None and sampling.top_p < 1:
        order = _largest(scores, min(HEAD, vocabulary))[1]
        if vocabulary > HEAD and bool((mass.gather(1, order).sum(dim=1) < sampling.top_p).any()):
            order = _largest(scores, vocabulary)[1]
        mass = mass.gather(1, order)
    cumulative = mass.cumsum(dim=1)
    if order is not None:
        # top_p keeps the smallest head of the order that reaches it: tokens with less than top_p before them
        kept = (cumulative - mass < sampling.top_p).sum(dim=1, keepdim=True).clamp(min=1)
        total = cumulative.gather(1, kept - 1)
    else:
        total = cumulative[:, -1:].contiguous()
    place = torch.searchsorted(cumulative, uniform[:, None] * total, right=True)
    # rounding must not push the place behind the last token that has any mass
    last = torch.searchsorted(cumulative, total, right=False)
    place = torch.minimum(place, last)
    return (place if order is None else order.gather(1, place)).squeeze(1)


def _largest(scores: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, count) largest scores of each row, falling, and their tokens; of equal ones the smaller token first."""
    # topk leaves the order of equal values open, and logits in bfloat16 have many: so it is given whole numbers in the
    # order of the scores, in which the token breaks ties. Without -0.0, whose bits are not those of 0.0.
    bits = (scores + 0.0).view(torch.int32).to(torch.int64)
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    keys = (ordered << 32) - torch.arange(scores.shape[1], device=scores.device)
    order = keys.topk(count, dim=1).indices
    return scores.gather(1, order), order
