"""One proportion, two proportions, and what clustering by video does to them.

Counts go in, fractions come out; every interval is a two-sided 95 % interval. Inputs may be lists, clusters may be
strings. NaN, lengths that differ and impossible counts raise ValueError; no data at all gives nan.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

Z = 1.959963984540054  # 0.975 quantile of the standard normal distribution: 95 % intervals throughout
FEW_CLUSTERS = 30  # below this many clusters intervals use Student's t, and the report raises a flag
NAN = float("nan")

Values = Sequence[float] | Sequence[bool] | npt.NDArray[np.generic]
Clusters = Sequence[str] | Sequence[int] | npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class StandardErrors:
    """Standard errors of one mean, in the unit of the values. nan where too few values or clusters exist."""

    mean: float
    n: int
    n_clusters: int
    binomial: float  # sqrt(mean (1 - mean) / n); nan unless all values lie in [0, 1]
    naive: float  # sample standard deviation (n - 1) / sqrt(n): no clustering
    cr0: float  # clustered, no small-sample factor
    cr1: float  # clustered, variance times G / (G - 1)
    miller: float  # clustered, Miller's equation 4


def as_count(value: float, name: str) -> int:
    """A whole number of at least zero; 5.0 is taken as 5. Raises ValueError for anything else."""
    if not math.isfinite(value) or value != int(value) or value < 0:
        raise ValueError(f"{name} is {value!r}, expected a whole number of at least 0")
    return int(value)


def as_counts(k: float, n: float) -> tuple[int, int]:
    """(k, n) as whole numbers with 0 <= k <= n. Raises ValueError otherwise."""
    successes, total = as_count(k, "k"), as_count(n, "n")
    if successes > total:
        raise ValueError(f"k is {successes}, more than n = {total}")
    return successes, total


def as_values(values: Values) -> npt.NDArray[np.float64]:
    """(n,) float64 without NaN or infinity. Raises ValueError."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"values have shape {array.shape}, expected one dimension")
    if not np.isfinite(array).all():
        raise ValueError("values hold NaN or infinity")
    return array


def cluster_codes(clusters: Clusters, n: int) -> tuple[npt.NDArray[np.intp], int]:
    """(n,) codes 0..G-1 in the sorted order of the labels, and G. Labels are all strings or all numbers."""
    array = clusters if isinstance(clusters, np.ndarray) else np.asarray(clusters, dtype=object)
    if array.shape != (n,):
        raise ValueError(f"{n} values but clusters of shape {array.shape}")
    if array.dtype == object:
        texts = sum(isinstance(label, str) for label in array)
        if texts not in (0, n) or any(label is None for label in array):
            raise ValueError("clusters must be all strings or all numbers")
        array = array.astype(str) if texts else array.astype(np.float64)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError("clusters hold NaN or infinity")
    labels, codes = np.unique(array, return_inverse=True)
    return codes, len(labels)


def check_deff(deff: float) -> float:
    """The design effect itself. Raises ValueError below 1, for NaN and for infinity."""
    if not (math.isfinite(deff) and deff >= 1):
        raise ValueError(f"design effect is {deff!r}, expected a finite number of at least 1")
    return float(deff)


def effective_sample_size(n: float, deff: float) -> float:
    """n / deff: how many independent questions would carry the same information."""
    return as_count(n, "n") / check_deff(deff)


def wilson_interval(k: float, n: float, *, deff: float = 1.0, n_clusters: int | None = None) -> tuple[float, float]:
    """Wilson's score interval for k of n, with n / deff in place of n. (nan, nan) when n is 0.

    E. B. Wilson, JASA 22 (1927) 209-212. With n_clusters given, fewer than 30 and fewer than n, Student's t with
    n_clusters - 1 degrees of freedom replaces the normal quantile; a single cluster of several values then says
    nothing about the next one, and the interval is (0, 1). Raises ValueError unless 0 <= k <= n and deff >= 1.
    """
    k, n = as_counts(k, n)
    n_effective = effective_sample_size(n, deff)
    if n == 0:
        return NAN, NAN
    z = _quantile(n, n_clusters)
    if math.isinf(z):
        return 0.0, 1.0
    p, spread = k / n, z * z / n_effective
    centre = (p + spread / 2) / (1 + spread)
    half = z * math.sqrt(p * (1 - p) / n_effective + spread / (4 * n_effective)) / (1 + spread)
    return (0.0 if k == 0 else max(0.0, centre - half)), (1.0 if k == n else min(1.0, centre + half))


def _quantile(n: int, n_clusters: int | None) -> float:
    if n_clusters is None:
        return Z
    if not 1 <= as_count(n_clusters, "n_clusters") <= n:
        raise ValueError(f"n_clusters is {n_clusters}, expected 1 to n = {n}")
    if n_clusters >= min(FEW_CLUSTERS, n):
        return Z
    return t_quantile(n_clusters - 1)


def t_quantile(degrees: int) -> float:
    """0.975 quantile of Student's t; infinite for no degrees of freedom."""
    return float(special.stdtrit(degrees, 0.975)) if degrees > 0 else math.inf


def clopper_pearson(k: float, n: float) -> tuple[float, float]:
    """The exact (conservative) interval for k of n: Clopper and Pearson, Biometrika 26 (1934). n = 0: (nan, nan)."""
    k, n = as_counts(k, n)
    if n == 0:
        return NAN, NAN
    lo = 0.0 if k == 0 else float(special.betaincinv(k, n - k + 1, 0.025))
    hi = 1.0 if k == n else float(special.betaincinv(k + 1, n - k, 0.975))
    return lo, hi


def standard_errors(values: Values, clusters: Clusters) -> StandardErrors:
    """Standard errors of the mean of (n,) values whose (n,) clusters are independent of one another.

    With S_g the sum of (value - mean) in cluster g: CR0 variance = sum S_g^2 / n^2, CR1 = G / (G - 1) times that.
    Miller's equation 4 (arXiv 2411.00640): sum (value - mean)^2 / (n (n - 1)) plus the products of different members
    of the same cluster over n^2. Raises ValueError for NaN or lengths that differ.
    """
    array = as_values(values)
    n = len(array)
    codes, n_clusters = cluster_codes(clusters, n)
    if n == 0:
        return StandardErrors(NAN, 0, 0, NAN, NAN, NAN, NAN, NAN)
    mean = float(array.mean())
    residuals = array - mean
    sums = np.bincount(codes, weights=residuals, minlength=n_clusters)
    squares = float(residuals @ residuals)
    between = float(sums @ sums)
    proportion = array.min() >= 0 and array.max() <= 1
    naive = squares / (n * (n - 1)) if n > 1 else NAN
    miller = naive + (between - squares) / n**2
    return StandardErrors(
        mean=mean,
        n=n,
        n_clusters=n_clusters,
        binomial=math.sqrt(mean * (1 - mean) / n) if proportion else NAN,
        naive=math.sqrt(naive),
        cr0=math.sqrt(between) / n,
        cr1=math.sqrt(between * n_clusters / (n_clusters - 1)) / n if n_clusters > 1 else NAN,
        miller=math.sqrt(max(0.0, miller)) if n > 1 else NAN,
    )


def design_effect(values: Values, clusters: Clusters) -> float:
    """Clustered (CR1) variance of a mean over its binomial variance, at least 1.

    values (n,) lie in [0, 1], as correct answers do. 1.0 for no values, for values that are all equal and for a single
    cluster, where the variance between clusters is unknown. Raises ValueError for NaN, for values outside [0, 1] and
    for lengths that differ.
    """
    array = as_values(values)
    if array.size and not (array.min() >= 0 and array.max() <= 1):
        raise ValueError("values must lie in [0, 1]")
    errors = standard_errors(array, clusters)
    if errors.n_clusters < 2 or array.min() == array.max():
        return 1.0
    return max(1.0, (errors.cr1 / errors.binomial) ** 2)


def planned_design_effect(cluster_sizes: Sequence[int], icc: float) -> float:
    """1 + (m - 1) icc, with m the size-weighted mean cluster size and icc the correlation within clusters.

    For planning, before any answer exists. Raises ValueError for icc outside [0, 1]. No clusters: nan.
    """
    sizes = [as_count(size, "cluster size") for size in cluster_sizes]
    if not 0 <= icc <= 1:
        raise ValueError(f"icc is {icc!r}, expected 0 to 1")
    total = sum(sizes)
    return 1 + (sum(size * size for size in sizes) / total - 1) * icc if total else NAN


def gap_interval(
    k1: float, n1: float, k2: float, n2: float, *, deff1: float = 1.0, deff2: float = 1.0
) -> tuple[float, float, float]:
    """(difference, lo, hi) of two independent proportions, k1 / n1 - k2 / n2. All nan when n1 or n2 is 0.

    Newcombe's hybrid score interval (Statistics in Medicine 17 (1998) 873-890, method 10) from the two Wilson
    intervals, each with its own design effect. For different questions, as L1 and L3 are; answers of two models to the
    same questions are paired and need `paired_interval`.
    """
    l1, u1 = wilson_interval(k1, n1, deff=deff1)
    l2, u2 = wilson_interval(k2, n2, deff=deff2)
    if n1 == 0 or n2 == 0:
        return NAN, NAN, NAN
    p1, p2 = k1 / n1, k2 / n2
    difference = p1 - p2
    return difference, difference - math.hypot(p1 - l1, u2 - p2), difference + math.hypot(u1 - p1, p2 - l2)


def grim_counts(printed: str, n: int) -> list[int]:
    """All k for which 100 k / n rounds to a printed percentage such as "44.89". Empty: no such count exists.

    The GRIM test (Brown and Heathers, 2017). The number of decimals is read from the string; a tie may have been
    rounded either way. Exact integer arithmetic. Raises ValueError unless printed is a plain decimal number.
    """
    match = re.fullmatch(r"(\d+)(?:\.(\d+))?", printed.strip(), re.ASCII)
    if match is None:
        raise ValueError(f"{printed!r} is not a plain decimal number such as '44.89'")
    n = as_count(n, "n")
    decimals = match[2] or ""
    value, unit = int(match[1] + decimals), 100 * 10 ** len(decimals)  # value / unit is the printed fraction
    lowest = -((1 - 2 * value) * n // (2 * unit))
    highest = (2 * value + 1) * n // (2 * unit)
    return list(range(max(0, lowest), min(n, highest) + 1)) if n else []
