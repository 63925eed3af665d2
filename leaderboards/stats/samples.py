"""Several samples of one question: their average, what most of them say, and whether any is right. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def average_credits(credits: npt.ArrayLike) -> Floats:
    """(K, n) credits of K samples -> (n,) their mean on each question: what avg@K is the mean of."""
    mean: Floats = np.asarray(credits, dtype=np.float64).mean(axis=0)
    return mean


def majority_credit(answers: Sequence[str | None], credits: Sequence[float]) -> float:
    """The credit of the answer that most of K samples give (self-consistency, arXiv 2203.11171): maj@K of a question.

    Answers that are equally frequent share the vote: the mean of their credits, as if one of them were drawn. None, an
    answer that could not be read, has no vote; 0 if all are None. Of samples with the same answer, the mean credit.
    """
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    winners = [answer for answer, count in votes.items() if count == most]
    pairs = list(zip(answers, credits, strict=True))
    return math.fsum(math.fsum(c for a, c in pairs if a == winner) / most for winner in winners) / len(winners)


def pass_at_k(n: int, correct: int, k: int) -> float:
    """P(at least one of k of the n samples is right) = 1 - C(n - c, k) / C(n, k): unbiased for pass@k.

    Chen et al. 2021 (arXiv 2107.03374), equation 1. Raises ValueError unless 0 <= correct <= n and 1 <= k <= n.
    """
    if not (0 <= correct <= n and 1 <= k <= n):
        raise ValueError(f"pass@{k} of {correct} right among {n} samples")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def shown_k(n: int) -> tuple[int, ...]:
    """The k of pass@k that are shown for n samples: powers of two, and n."""
    return (*(2**power for power in range(n.bit_length()) if 2**power < n), n)
