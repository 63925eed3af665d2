"""Two models on the same questions, many such pairs at once, and the ranks that follow.

A difference d is (first model correct) - (second model correct) of one question: -1, 0 or 1. Inputs may be lists,
clusters may be strings. NaN, lengths that differ and impossible counts raise ValueError.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from leaderboards.stats.proportions import (
    FEW_CLUSTERS,
    NAN,
    Clusters,
    Values,
    Z,
    as_count,
    as_values,
    check_deff,
    cluster_codes,
    standard_errors,
    t_quantile,
)

SEED = 20240101
EXACT_CLUSTERS = 14  # 2^14 = 16,384 sign patterns: enumerated; more clusters are sampled
ALPHA = 0.05  # two-sided, after correction for multiple comparisons
FLOAT32_EXACT = 2**24  # whole numbers up to here, and their sums, are exact in float32
BLOCK = 256  # clusters of the sign matrix, held in memory at once
# Bootstrap replicates at once: their (64, G) counts stay in the cache. Even: the random bits are then used up as they
# would be by any other even number.
REPLICATES = 64

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Mean difference of two models, as a fraction, with its standard error and 95 % interval."""

    mean: float
    lo: float
    hi: float
    se: float
    n: int  # questions
    n_clusters: int


@dataclass(frozen=True, slots=True)
class McNemar:
    """McNemar's test in its usual forms; all but the statistics chi2 and corrected are p-values."""

    exact: float
    mid_p: float
    chi2: float
    chi2_p: float
    corrected: float  # with Edwards' continuity correction
    corrected_p: float


@dataclass(frozen=True, slots=True)
class PairwiseTests:
    """All pairs of M models; entry [i, j] is model i against model j. The diagonal is 0 (differences) or 1 (p)."""

    differences: Floats  # (M, M) mean of i - j, antisymmetric, fractions
    p: Floats  # (M, M) cluster sign-flip test, symmetric
    p_adjusted: Floats  # (M, M) Holm over the M (M - 1) / 2 pairs


def _rows(values: npt.ArrayLike) -> Floats:
    """(R, n) float64 without NaN or infinity. Raises ValueError."""
    rows = np.asarray(values, dtype=np.float64)
    # A vector here would be read as n models with one question each.
    if rows.ndim != 2:
        raise ValueError(f"values have shape {rows.shape}, expected (rows, questions)")
    if not np.isfinite(rows).all():
        raise ValueError("values hold NaN or infinity")
    return rows


def paired_interval(differences: Values, clusters: Clusters) -> PairedDifference:
    """Mean of (n,) differences in [-1, 1], its CR1 standard error and its 95 % interval.

    The interval is Student's t with G - 1 degrees of freedom (E. Miller, arXiv 2411.00640, section on paired
    differences). When all clusters agree exactly, se is 0; for a single one it is nan. Neither says how far the mean
    may be off, and the interval is that of `_interval_without_spread`. No values: nan. Raises ValueError for NaN or
    lengths that differ.
    """
    errors = standard_errors(differences, clusters)
    # Sums of equal differences may differ in their last bit.
    if errors.cr1 > 1e-9:
        # Always Student's t: with many clusters it is the normal quantile.
        half = t_quantile(errors.n_clusters - 1) * errors.cr1
        lo, hi = errors.mean - half, errors.mean + half
    else:
        lo, hi = _interval_without_spread(errors.mean, clusters, errors.n)
    return PairedDifference(errors.mean, lo, hi, errors.cr1, errors.n, errors.n_clusters)


def _interval_without_spread(mean: float, clusters: Clusters, n: int) -> tuple[float, float]:
    """Exact 95 % interval of a mean of values in [-1, 1] when each of G clusters shows this same mean.

    With q = 0.025 ** (1 / G): if more than a share 1 - q of all clusters were at -1 (or at 1) instead, G clusters
    without one of them would be drawn in fewer than 2.5 % of samples. At a mean of 0 these are the Clopper-Pearson
    bounds for 0 of G; at 1 the interval reaches down to 0 just where the sign-flip test reaches p = 0.05. Clusters of
    unequal size count as (sum of sizes)^2 / (sum of squared sizes). No values: nan.
    """
    if n == 0:
        return NAN, NAN
    codes, _ = cluster_codes(clusters, n)
    sizes = np.bincount(codes).astype(np.float64)
    q = 0.025 ** (float(sizes @ sizes) / n**2)
    return q * mean - (1 - q), q * mean + (1 - q)


def difference_of_gaps(near: PairedDifference, far: PairedDifference) -> PairedDifference:
    """near - far: how much more one model loses from one level to another than the other model does.

    Both are paired differences of the same two models, on levels that share no question: se^2 is the sum of the two.
    The quantile is normal, or Student's t of the level with fewer clusters when that has fewer than 30. Where a level
    shows no spread, its se says nothing, and the two intervals are added in squares (as in `gap_interval`).
    """
    # The levels share no question, so their errors are independent.
    mean, se = near.mean - far.mean, math.hypot(near.se, far.se)
    n, n_clusters = near.n + far.n, near.n_clusters + far.n_clusters
    if near.se == 0 or far.se == 0:
        lo = mean - math.hypot(near.mean - near.lo, far.hi - far.mean)
        hi = mean + math.hypot(near.hi - near.mean, far.mean - far.lo)
        return PairedDifference(mean, lo, hi, se, n, n_clusters)
    fewest = min(near.n_clusters, far.n_clusters)
    half = (Z if fewest >= FEW_CLUSTERS else t_quantile(fewest - 1)) * se
    return PairedDifference(mean, mean - half, mean + half, se, n, n_clusters)


def mcnemar(b: int, c: int) -> McNemar:
    """McNemar's test for b questions that only the first model has right and c that only the second has.

    exact: two-sided binomial, capped at 1. mid_p: exact less the probability of min(b, c), and 1 when b == c
    (Fagerland and others, BMC Medical Research Methodology 13:91, 2013). Supposes independent questions; with several
    questions on one video use `sign_flip_test`. Raises ValueError for negative counts.
    """
    b, c = as_count(b, "b"), as_count(c, "c")
    total, fewer = b + c, min(b, c)
    # At b = c the doubled tail would exceed 1; every form of the test is 1 there.
    if b == c:
        return McNemar(1.0, 1.0, 0.0, 1.0, 0.0, 1.0)
    tail = float(special.bdtr(fewer, total, 0.5))
    beyond = float(special.bdtr(fewer - 1, total, 0.5)) if fewer else 0.0
    chi2, corrected = (b - c) ** 2 / total, (abs(b - c) - 1) ** 2 / total
    return McNemar(
        exact=min(1.0, 2 * tail),
        mid_p=tail + beyond,
        chi2=chi2,
        chi2_p=float(special.chdtrc(1, chi2)),
        corrected=corrected,
        corrected_p=float(special.chdtrc(1, corrected)),
    )


def sign_flip_test(differences: Values, clusters: Clusters, *, n_resamples: int = 9999, seed: int = SEED) -> float:
    """Two-sided p-value of the cluster sign-flip permutation test of (n,) differences.

    Under the null hypothesis the sum of each cluster could as well have the other sign. Up to 14 clusters all 2^G sign
    patterns are counted, the observed one included: hits / 2^G. Above: (1 + hits) / (n_resamples + 1). The result does
    not depend on the order of rows, on the names of clusters, on which model comes first, or on clusters that sum to
    zero. No values: 1. Raises ValueError for NaN or lengths that differ.
    """
    return float(sign_flip_tests(as_values(differences)[np.newaxis], clusters, n_resamples=n_resamples, seed=seed)[0])


def sign_flip_tests(
    differences: npt.ArrayLike, clusters: Clusters, *, n_resamples: int = 9999, seed: int = SEED
) -> Floats:
    """`sign_flip_test` of (P, n) differences, P pairs on the same n questions, with one sign matrix: (P,) p-values."""
    rows = _rows(differences)
    if n_resamples < 1:
        raise ValueError(f"n_resamples is {n_resamples}, expected at least 1")
    codes, n_clusters = cluster_codes(clusters, rows.shape[1])
    totals = np.empty((len(rows), n_clusters))
    for row, total in zip(rows, totals, strict=True):
        total[:] = np.abs(np.bincount(codes, weights=row, minlength=n_clusters))
    observed = np.abs(rows.sum(axis=1))
    # Only the sizes of the cluster sums matter. Sorted, with zeros last, they do not depend on any order or name.
    totals = -np.sort(-totals, axis=1)
    totals = totals[:, : int((totals > 0).sum(axis=1).max(initial=0))]
    # Counted over all clusters, so that clusters that sum to zero do not change the method.
    exact = n_clusters <= EXACT_CLUSTERS
    signs = _all_signs(totals.shape[1]) if exact else _random_signs(totals.shape[1], n_resamples, seed)
    hits = _count_hits(totals, observed, signs)
    # The observed pattern is one of all patterns, and is added to sampled ones: p is never 0.
    return hits / signs.shape[1] if exact else (1 + hits) / (n_resamples + 1)


def _all_signs(n_clusters: int) -> npt.NDArray[np.uint8]:
    """(G, 2^G): every pattern of 0 and 1, one a column."""
    patterns = np.arange(2**n_clusters)
    return (patterns >> np.arange(n_clusters)[:, np.newaxis] & 1).astype(np.uint8)


def _random_signs(n_clusters: int, n_resamples: int, seed: int) -> npt.NDArray[np.uint8]:
    """(G, n_resamples) fair bits: row g is the next 64-bit words of PCG64, lowest bit first.

    Raw words, because NumPy keeps them the same from version to version; and a further cluster changes no row before.
    """
    words = -(-n_resamples // 64)
    raw = np.random.PCG64(seed).random_raw(n_clusters * words).astype("<u8").reshape(n_clusters, words)
    return np.unpackbits(raw.view(np.uint8), axis=1, bitorder="little", count=n_resamples)


def _count_hits(totals: Floats, observed: Floats, signs: npt.NDArray[np.uint8]) -> Floats:
    """(P,) number of columns of signs (G, B) whose flipped sum of totals (P, G) is at least as large as observed."""
    size = totals.sum(axis=1)
    # Differences of right answers are whole numbers, which float32 adds exactly, in half the memory.
    integers = bool((totals == np.rint(totals)).all()) and size.max(initial=0) < FLOAT32_EXACT
    dtype = np.float32 if integers else np.float64
    kept = np.zeros((len(totals), signs.shape[1]), dtype=dtype)
    for start in range(0, totals.shape[1], BLOCK):
        kept += totals[:, start : start + BLOCK].astype(dtype) @ signs[start : start + BLOCK].astype(dtype)
    # sum with sign +1 where the bit is set, -1 elsewhere; fractions get a tolerance for the order of additions
    flipped = np.abs(2 * kept - size[:, np.newaxis].astype(dtype))
    tolerance = 0.0 if integers else 1e-9 * size
    hits: Floats = (flipped >= (observed - tolerance)[:, np.newaxis].astype(dtype)).sum(axis=1).astype(np.float64)
    return hits


def cluster_bootstrap(
    values: npt.ArrayLike, clusters: Clusters, *, n_resamples: int = 10_000, seed: int = SEED
) -> tuple[Floats, Floats]:
    """95 % percentile interval of the mean of each row of values (R, n): (lo, hi), each (R,).

    Whole clusters are drawn with replacement, as many as there are, the same for all rows; a replicate's mean is the
    sum of its values over the number of its values. The order of rows does not matter. No values: nan. Raises
    ValueError for NaN or lengths that differ.
    """
    rows = _rows(np.atleast_2d(np.asarray(values, dtype=np.float64)))
    if n_resamples < 1:
        raise ValueError(f"n_resamples is {n_resamples}, expected at least 1")
    codes, n_clusters = cluster_codes(clusters, rows.shape[1])
    if n_clusters == 0:
        return np.full(len(rows), NAN), np.full(len(rows), NAN)
    # First row: sizes of the clusters; then each run's sums. One product per block gives both.
    sums = np.stack([np.bincount(codes, minlength=n_clusters)] + [np.bincount(codes, weights=row) for row in rows])
    source = np.random.PCG64(seed)
    means = np.empty((len(rows), n_resamples))
    # Where the counts of each replicate begin.
    offsets = np.repeat(np.arange(REPLICATES, dtype=np.uint64) * np.uint64(n_clusters), n_clusters)
    for start in range(0, n_resamples, REPLICATES):
        block = min(REPLICATES, n_resamples - start)
        drawn = _draw_clusters(source, offsets[: block * n_clusters], n_clusters) @ sums.T
        means[:, start : start + block] = (drawn[:, 1:] / drawn[:, :1]).T
    lo, hi = np.quantile(means, [0.025, 0.975], axis=1)
    return lo, hi


def _draw_clusters(source: np.random.PCG64, offsets: npt.NDArray[np.uint64], n_clusters: int) -> Floats:
    """(B, G): how often each cluster is drawn by each replicate; offsets (B * G,) hold b * G, G times for each b.

    32 random bits scaled to 0..G-1: bias below G / 2^32.
    """
    raw = source.random_raw(-(-len(offsets) // 2)).astype("<u8", copy=False).view("<u4")[: len(offsets)]
    chosen = np.multiply(raw, np.uint64(n_clusters), dtype=np.uint64)
    chosen >>= np.uint64(32)
    chosen += offsets
    counts = np.bincount(chosen.view(np.int64), minlength=len(offsets))
    return counts.reshape(-1, n_clusters).astype(np.float64)


def minimum_detectable_effect(n: float, discordant: float, *, deff: float = 1.0, power: float = 0.8) -> float:
    """Smallest true difference of two models, as a fraction, that n questions reveal with this power at alpha 0.05.

    discordant: share of questions on which exactly one model is right. Connor's sample size for McNemar's test
    (Biometrics 43 (1987) 207-211), n / deff = (z_a sqrt(s) + z_b sqrt(s - d^2))^2 / d^2 with s the discordant share,
    solved for d: a quadratic. nan when not even d = s would be revealed. Raises ValueError for a share outside [0, 1],
    deff < 1, or a power outside [0.5, 1).
    """
    size = as_count(n, "n") / check_deff(deff)
    if not 0 <= discordant <= 1 or not 0.5 <= power < 1:
        raise ValueError(f"discordant {discordant!r} must lie in [0, 1] and power {power!r} in [0.5, 1)")
    z_power = float(special.ndtri(power))
    if size < Z**2:
        return NAN
    # Connor's equation squared and solved for d; the other root is negative.
    root = Z * math.sqrt(size) + z_power * math.sqrt(size - Z**2 + z_power**2)
    effect = math.sqrt(discordant) * root / (size + z_power**2)
    return effect if 0 < effect <= discordant else NAN


def _p_values(p: Sequence[float] | Floats) -> Floats:
    array = as_values(p)
    if array.size and not (array.min() >= 0 and array.max() <= 1):
        raise ValueError("p-values must lie in [0, 1]")
    return array


def holm(p: Sequence[float] | Floats) -> Floats:
    """Holm's step-down adjustment of (m,) p-values (Scandinavian Journal of Statistics 6, 1979), in the order given."""
    array = _p_values(p)
    order = np.argsort(array, kind="stable")
    adjusted = np.empty_like(array)
    # Adjusted p-values must not fall where raw ones rise.
    adjusted[order] = np.minimum(1, np.maximum.accumulate(array[order] * np.arange(len(array), 0, -1)))
    return adjusted


def benjamini_hochberg(p: Sequence[float] | Floats) -> Floats:
    """Benjamini and Hochberg's adjustment of (m,) p-values (JRSS B 57, 1995), in the order given."""
    array = _p_values(p)
    order = np.argsort(-array, kind="stable")  # largest first
    count = len(array)
    adjusted = np.empty_like(array)
    adjusted[order] = np.minimum(1, np.minimum.accumulate(array[order] * count / np.arange(count, 0, -1)))
    return adjusted


def pairwise_tests(correct: npt.ArrayLike, clusters: Clusters) -> PairwiseTests:
    """All pairs of M models on the same n questions; correct is (M, n) of 0 and 1. Raises as `sign_flip_test` does."""
    rows = _rows(correct)
    models = len(rows)
    # Each pair once: the test is the same in both directions.
    pairs = list(itertools.combinations(range(models), 2))
    first, second = (np.array([pair[side] for pair in pairs], dtype=np.intp) for side in (0, 1))
    apart = rows[first] - rows[second]
    raw = sign_flip_tests(apart, clusters)
    differences, p, adjusted = np.zeros((models, models)), np.ones((models, models)), np.ones((models, models))
    differences[first, second] = apart.mean(axis=1) if apart.size else 0.0
    differences -= differences.T
    p[first, second] = p[second, first] = raw
    adjusted[first, second] = adjusted[second, first] = holm(raw)
    return PairwiseTests(differences, p, adjusted)


def _worse(differences: npt.ArrayLike, p_adjusted: npt.ArrayLike, alpha: float) -> npt.NDArray[np.bool_]:
    """(M, M) bool: [i, j] is True if model i is significantly worse than model j."""
    apart, p = np.asarray(differences, dtype=np.float64), np.asarray(p_adjusted, dtype=np.float64)
    if apart.ndim != 2 or apart.shape[0] != apart.shape[1] or p.shape != apart.shape:
        raise ValueError(f"differences {apart.shape} and p_adjusted {p.shape} must both be (M, M)")
    if np.isnan(apart).any() or np.isnan(p).any():
        raise ValueError("differences or p_adjusted hold NaN")
    # Matrices of two boards, or of one in two orders, would give ranks without any error.
    if not (np.allclose(apart, -apart.T, rtol=0, atol=1e-12) and np.array_equal(p, p.T)):
        raise ValueError("differences must be antisymmetric and p_adjusted symmetric")
    return (apart < 0) & (p < alpha)


def rank_intervals(
    differences: npt.ArrayLike, p_adjusted: npt.ArrayLike, *, alpha: float = ALPHA
) -> list[tuple[int, int]]:
    """(rank_lo, rank_hi) of each of M models from (M, M) differences (row - column) and adjusted p-values.

    rank_lo = 1 + number of models significantly better; rank_hi = M - number significantly worse; significant is
    p_adjusted < alpha. Raises ValueError for NaN or matrices that do not fit.
    """
    worse = _worse(differences, p_adjusted, alpha)
    return [
        (1 + int(better), len(worse) - int(below))
        for better, below in zip(worse.sum(axis=1), worse.sum(axis=0), strict=True)
    ]


def tiers(
    scores: Sequence[float] | Floats,
    differences: npt.ArrayLike,
    p_adjusted: npt.ArrayLike,
    *,
    alpha: float = ALPHA,
) -> list[str]:
    """Tier of each of M models, "A" best, in the order given.

    Walking down by score, the first model of a tier is its anchor; models join until one is significantly worse than
    the anchor, which opens the next tier. The anchor stays fixed, so that small steps do not chain. Equal scores keep
    their order. After "Z" comes "AA". Raises ValueError as `rank_intervals` does.
    """
    ordered = np.argsort(-as_values(scores), kind="stable")
    worse = _worse(differences, p_adjusted, alpha)
    if len(worse) != len(ordered):
        raise ValueError(f"{len(ordered)} scores for {len(worse)} models")
    letters = [""] * len(ordered)
    anchor, tier = -1, -1
    for model in ordered:
        # Only the anchor counts: being no worse than the last member would let tiers chain downwards.
        if tier < 0 or worse[model, anchor]:
            anchor, tier = model, tier + 1
        letters[model] = _letters(tier)
    return letters


def _letters(index: int) -> str:
    """0 -> A, 25 -> Z, 26 -> AA, as spreadsheets count columns."""
    before, last = divmod(index, 26)
    return (_letters(before - 1) if before else "") + chr(ord("A") + last)
