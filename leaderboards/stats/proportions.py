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
class Proportion:
    """k of n with its 95 % interval, clustered. Fractions; value, se, lo and hi are nan for no questions."""

    k: float  # successes, a whole number; of answers with credits in between, the sum of these
    n: int
    lo: float
    hi: float
    deff: float  # design effect: the interval is that of n / deff independent questions; below 1 for credits alone
    n_clusters: int

    @property
    def value(self) -> float:
        """k / n."""
        return self.k / self.n if self.n else math.nan

    @property
    def se(self) -> float:
        """Binomial standard error at n / deff."""
        return math.sqrt(self.value * (1 - self.value) * self.deff / self.n) if self.n else math.nan


@dataclass(frozen=True, slots=True)
class StandardErrors:
    """Standard errors of one mean, in the unit of the values. nan where too few values or clusters exist."""

    mean: float
    n: int
    n_clusters: int
    binomial: float  # sqrt(mean (1 - mean) / n); nan unless all values lie in [0, 1]
    cr1: float  # clustered, with the small-sample factor G / (G - 1) on the variance


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
    # As objects: numpy would turn a mixture of names and numbers into names.
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


def wilson_interval(k: float, n: float, *, deff: float = 1.0, n_clusters: int | None = None) -> tuple[float, float]:
    """Wilson's score interval for k of n, with n / deff in place of n. (nan, nan) when n is 0.

    E. B. Wilson, JASA 22 (1927) 209-212. With n_clusters given, fewer than 30 and fewer than n, Student's t with
    n_clusters - 1 degrees of freedom replaces the normal quantile; a single cluster of several values then says
    nothing about the next one, and the interval is (0, 1). Raises ValueError unless 0 <= k <= n and deff >= 1.
    """
    k, n = as_counts(k, n)
    n_effective = n / check_deff(deff)
    # No questions are no error: an empty level must not stop a board.
    if n == 0:
        return NAN, NAN
    z = _quantile(n, n_clusters)
    # One cluster of several values says nothing of the next one.
    if math.isinf(z):
        return 0.0, 1.0
    p, spread = k / n, z * z / n_effective
    centre = (p + spread / 2) / (1 + spread)
    half = z * math.sqrt(p * (1 - p) / n_effective + spread / (4 * n_effective)) / (1 + spread)
    # Exactly 0 and 1, where rounding would print -0.0 or 100.00000001.
    return (0.0 if k == 0 else max(0.0, centre - half)), (1.0 if k == n else min(1.0, centre + half))


def _quantile(n: int, n_clusters: int | None) -> float:
    if n_clusters is None:
        return Z
    if not 1 <= as_count(n_clusters, "n_clusters") <= n:
        raise ValueError(f"n_clusters is {n_clusters}, expected 1 to n = {n}")
    # As many clusters as values: nothing is clustered, and the normal quantile serves.
    if n_clusters >= min(FEW_CLUSTERS, n):
        return Z
    return t_quantile(n_clusters - 1)


def t_quantile(degrees: int) -> float:
    """0.975 quantile of Student's t; infinite for no degrees of freedom."""
    return float(special.stdtrit(degrees, 0.975)) if degrees > 0 else math.inf


def standard_errors(values: Values, clusters: Clusters) -> StandardErrors:
    """Standard errors of the mean of (n,) values whose (n,) clusters are independent of one another.

    With S_g the sum of (value - mean) in cluster g, the CR1 variance is G / (G - 1) sum S_g^2 / n^2: E. Miller, arXiv
    2411.00640, with the factor for few clusters. Raises ValueError for NaN or lengths that differ.
    """
    array = as_values(values)
    n = len(array)
    codes, n_clusters = cluster_codes(clusters, n)
    if n == 0:
        return StandardErrors(NAN, 0, 0, NAN, NAN)
    mean = float(array.mean())
    residuals = array - mean
    # Questions of one video err together: sums within a video are what is independent.
    sums = np.bincount(codes, weights=residuals, minlength=n_clusters)
    between = float(sums @ sums)
    # Paired differences lie in [-1, 1] and have no binomial error.
    proportion = array.min() >= 0 and array.max() <= 1
    return StandardErrors(
        mean=mean,
        n=n,
        n_clusters=n_clusters,
        binomial=math.sqrt(mean * (1 - mean) / n) if proportion else NAN,
        cr1=math.sqrt(between * n_clusters / (n_clusters - 1)) / n if n_clusters > 1 else NAN,
    )


def design_effect(values: Values, clusters: Clusters) -> float:
    """Clustered (CR1) variance of a mean over its binomial variance, at least 1.

    values (n,) lie in [0, 1], as correct answers do. 1.0 for no values, for values that are all equal and for a single
    cluster, where the variance between clusters is unknown. Raises ValueError for NaN, for values outside [0, 1] and
    for lengths that differ.
    """
    array = as_values(values)
    return _design_effect(array, standard_errors(array, clusters))


def _design_effect(array: npt.NDArray[np.float64], errors: StandardErrors) -> float:
    if array.size and not (array.min() >= 0 and array.max() <= 1):
        raise ValueError("values must lie in [0, 1]")
    # One cluster, or values that are all equal, tell nothing of the variance between clusters.
    if errors.n_clusters < 2 or array.min() == array.max():
        return 1.0
    return max(1.0, (errors.cr1 / errors.binomial) ** 2)


def interval(values: Values, clusters: Clusters) -> Proportion:
    """Share of ones among (n,) values of 0 and 1, with the interval that console, tables, page and files show.

    Wilson's interval at n / design effect, clustered; with fewer than 30 clusters by Student's t, see
    `wilson_interval`. Raises ValueError for values other than 0 and 1 and for lengths that differ.
    """
    array = as_values(values)
    errors = standard_errors(array, clusters)
    if errors.n == 0:
        return Proportion(0, 0, NAN, NAN, 1.0, 0)
    if not ((array == 0) | (array == 1)).all():
        raise ValueError("values must be 0 or 1")
    k = int(array.sum())
    deff = _design_effect(array, errors)
    lo, hi = wilson_interval(k, errors.n, deff=deff, n_clusters=errors.n_clusters)
    return Proportion(k, errors.n, lo, hi, deff, errors.n_clusters)


def credit_interval(credits: Values, clusters: Clusters) -> Proportion:
    """Mean of (n,) credits in [0, 1] as `interval` gives it where all are 0 or 1; k is their sum.

    Else mean -+ Student's t with G - 1 degrees of freedom times the CR1 standard error, inside [0, 1]. Where all
    clusters show the same mean m, exact: with q = 0.025 ** (1 / G), from q m to q m + 1 - q, since a share of more than
    1 - q of other clusters would have shown itself. Raises ValueError for NaN, other values and lengths that differ.
    """
    array = as_values(credits)
    if ((array == 0) | (array == 1)).all():
        return interval(array, clusters)
    if array.min() < 0 or array.max() > 1:
        raise ValueError("credits must lie in [0, 1]")
    errors = standard_errors(array, clusters)
    total, mean = float(array.sum()), errors.mean
    # Sums of equal credits may differ in their last bit.
    if errors.cr1 > 1e-9:
        half = t_quantile(errors.n_clusters - 1) * errors.cr1
        deff = (errors.cr1 / errors.binomial) ** 2
        return Proportion(total, errors.n, max(0.0, mean - half), min(1.0, mean + half), deff, errors.n_clusters)
    q = 0.025 ** (1 / errors.n_clusters)
    return Proportion(total, errors.n, q * mean, q * mean + 1 - q, 1.0, errors.n_clusters)


def gap_interval(
    k1: float, n1: float, k2: float, n2: float, *, deff1: float = 1.0, deff2: float = 1.0
) -> tuple[float, float, float]:
    """(difference, lo, hi) of two independent proportions, k1 / n1 - k2 / n2. All nan when n1 or n2 is 0.

    Newcombe's hybrid score interval (Statistics in Medicine 17 (1998) 873-890, method 10) from the two Wilson
    intervals, each with its own design effect. For different questions, as L1 and L3 are; answers of two models to the
    same questions are paired and need `paired_interval`.
    """
    # Newcombe's square-and-add: each end from the arm that moves the difference that way.
    l1, u1 = wilson_interval(k1, n1, deff=deff1)
    l2, u2 = wilson_interval(k2, n2, deff=deff2)
    if n1 == 0 or n2 == 0:
        return NAN, NAN, NAN
    return square_and_add((k1 / n1, l1, u1), (k2 / n2, l2, u2))


def square_and_add(first: tuple[float, float, float], second: tuple[float, float, float]) -> tuple[float, float, float]:
    """(difference, lo, hi) of two independent values, each given with the ends of its interval.

    Zou and Donner 2008 (Statistics in Medicine 27, 1693-1702): Newcombe's step, for intervals of any kind.
    """
    (p1, l1, u1), (p2, l2, u2) = first, second
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
    # Integers throughout: 44.885 has no exact float.
    value, unit = int(match[1] + decimals), 100 * 10 ** len(decimals)  # value / unit is the printed fraction
    # Half a unit of the last digit on both sides, rounded inwards.
    lowest = -((1 - 2 * value) * n // (2 * unit))
    highest = (2 * value + 1) * n // (2 * unit)
    return list(range(max(0, lowest), min(n, highest) + 1)) if n else []
