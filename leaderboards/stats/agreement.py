"""How far a judge agrees with human labels or with other judges, and what that does to the rate the judge reports.

The table of labels is four counts: yy both say consistent, yn only the judge does, ny only the human does, nn neither.
A share of nothing is nan; impossible counts raise ValueError.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from leaderboards.stats.proportions import (
    NAN,
    Clusters,
    Z,
    as_count,
    as_counts,
    check_deff,
    cluster_codes,
    t_quantile,
)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its standard error and 95 % interval; all nan where it is not defined."""

    value: float
    se: float
    lo: float
    hi: float


UNDEFINED = Estimate(NAN, NAN, NAN, NAN)


def _table(yy: int, yn: int, ny: int, nn: int) -> tuple[int, int, int, int]:
    return as_count(yy, "yy"), as_count(yn, "yn"), as_count(ny, "ny"), as_count(nn, "nn")


def _share(part: int, whole: int) -> float:
    return part / whole if whole else NAN


def cohen_kappa(yy: int, yn: int, ny: int, nn: int) -> float:
    """Cohen's kappa (Educational and Psychological Measurement 20, 1960).

    nan when agreement by chance is 1, that is when both say only yes or only no, and for an empty table.
    """
    return kappa_interval(yy, yn, ny, nn).value


def kappa_interval(yy: int, yn: int, ny: int, nn: int) -> Estimate:
    """Cohen's kappa with the large-sample standard error of Fleiss, Cohen and Everitt (Psychological Bulletin, 1969).

    Normal interval, cut at -1 and 1.
    """
    yy, yn, ny, nn = _table(yy, yn, ny, nn)
    n = yy + yn + ny + nn
    judge, human = yy + yn, yy + ny
    by_chance = judge * human + (n - judge) * (n - human)  # times n^2; whole numbers, so that 1 is exactly 1
    # Agreement by chance is certain: the denominator of kappa is 0.
    if by_chance == n * n:
        return UNDEFINED
    observed, chance = (yy + nn) / n, by_chance / n**2
    kappa = (observed - chance) / (1 - chance)
    judge_yes, human_yes = judge / n, human / n
    # Fleiss, Cohen and Everitt's variance, cell by cell: agreements on the diagonal, then the others.
    on = yy * (1 - (judge_yes + human_yes) * (1 - kappa)) ** 2
    on += nn * (1 - (2 - judge_yes - human_yes) * (1 - kappa)) ** 2
    off = yn * (human_yes + 1 - judge_yes) ** 2 + ny * (judge_yes + 1 - human_yes) ** 2
    # Rounding may leave a tiny negative variance where agreement is perfect.
    spread = (on + off * (1 - kappa) ** 2) / n - (kappa - chance * (1 - kappa)) ** 2
    se = math.sqrt(max(0.0, spread) / n) / (1 - chance)
    return Estimate(kappa, se, max(-1.0, kappa - Z * se), min(1.0, kappa + Z * se))


def krippendorff_alpha(ratings: npt.ArrayLike, clusters: Clusters) -> Estimate:
    """Krippendorff's alpha for nominal values, with missing ones allowed, and an interval clustered by video.

    K. Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C. The standard error is that of a
    delete-one-cluster jackknife, the interval symmetric for log(1 - alpha), with Student's t. Of a single cluster only
    the value is known.

    Args:
        ratings: (R, n) numbers that name categories; a row a rater, a column a unit; NaN where a rater gave none. Units
            with fewer than two values say nothing and are left out.
        clusters: (n,) of the units.

    Raises:
        ValueError: not two-dimensional, infinite values, or lengths that differ.
    """
    values = np.asarray(ratings, dtype=np.float64)
    if values.ndim != 2 or np.isinf(values).any():
        raise ValueError(f"ratings have shape {values.shape}, expected two dimensions and no infinity")
    categories = np.unique(values[~np.isnan(values)])
    counts = (values[None] == categories[:, None, None]).sum(axis=1, dtype=np.float64)  # (C, n)
    given = counts.sum(axis=0)
    counts[:, given < 2] = 0.0
    # Of each unit: how many ordered pairs of its values differ, over the number of its values less one.
    differing = (counts * (given - counts)).sum(axis=0) / np.maximum(given - 1, 1.0)
    return _jackknife(np.vstack([differing, counts]), clusters, _alpha)


def _alpha(sums: Floats) -> Floats:  # (..., 1 + C): observed disagreement, then the categories' counts
    counts = sums[..., 1:]
    n = counts.sum(axis=-1)
    expected = n * n - (counts**2).sum(axis=-1)
    # A single category: nothing could have differed.
    return np.where(expected > 0, 1 - (n - 1) * sums[..., 0] / np.where(expected > 0, expected, 1.0), NAN)


def clustered_kappa(first: npt.ArrayLike, second: npt.ArrayLike, clusters: Clusters) -> Estimate:
    """Cohen's kappa of two raters of yes (1) and no (0), NaN where one gave none; interval as of krippendorff_alpha.

    first, second and clusters are (n,). Raises ValueError for other values and for lengths that differ.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"ratings have shapes {a.shape} and {b.shape}, expected the same number")
    if not np.isin(np.concatenate([a, b])[~np.isnan(np.concatenate([a, b]))], (0.0, 1.0)).all():
        raise ValueError("ratings must be 0, 1 or NaN")
    both = ~np.isnan(a) & ~np.isnan(b)
    yes = np.nan_to_num(np.stack([a, b]))
    cells = [yes[0] * yes[1], yes[0] * (1 - yes[1]), (1 - yes[0]) * yes[1], (1 - yes[0]) * (1 - yes[1])]
    return _jackknife(np.stack(cells) * both, clusters, _kappa)


def _kappa(tables: Floats) -> Floats:  # (..., 4): yy, yn, ny, nn
    yy, yn, ny, nn = np.moveaxis(tables, -1, 0)
    n = yy + yn + ny + nn
    by_chance = (yy + yn) * (yy + ny) + (nn + yn) * (nn + ny)
    left = n * n - by_chance
    return np.where(left > 0, (n * (yy + nn) - by_chance) / np.where(left > 0, left, 1.0), NAN)


def _jackknife(parts: Floats, clusters: Clusters, statistic: Callable[[Floats], Floats]) -> Estimate:
    """A statistic of sums over units (k, n), with a delete-one-cluster jackknife (Efron and Stein, 1981)."""
    codes, n_clusters = cluster_codes(clusters, parts.shape[1])
    sums = np.stack([np.bincount(codes, weights=part, minlength=n_clusters) for part in parts], axis=1)  # (G, k)
    # Clusters without a pair of values cannot vary anything.
    sums = sums[sums.any(axis=1)]
    n_clusters = len(sums)
    value = float(statistic(sums.sum(axis=0)))
    without = statistic(sums.sum(axis=0) - sums)
    if math.isnan(value) or n_clusters < 2 or np.isnan(without).any():
        return Estimate(value, NAN, NAN, NAN)
    spread = ((without - without.mean()) ** 2).sum() * (n_clusters - 1) / n_clusters
    # Equal numbers may differ from their mean by a rounding error.
    se = 0.0 if without.max() == without.min() else float(math.sqrt(spread))
    # On the scale of log(1 - value), where the spread hardly depends on the value: else too narrow near 1.
    left = 1 - value
    factor = math.exp(se * t_quantile(n_clusters - 1) / left) if left > 0 else 1.0
    return Estimate(value, se, max(-1.0, 1 - left * factor), 1 - left / factor)


def pabak(yy: int, yn: int, ny: int, nn: int) -> float:
    """Prevalence- and bias-adjusted kappa, 2 x agreement - 1 (Byrt, Bishop and Carlin, 1993)."""
    yy, yn, ny, nn = _table(yy, yn, ny, nn)
    return 2 * _share(yy + nn, yy + yn + ny + nn) - 1


def base_rate(yy: int, yn: int, ny: int, nn: int) -> float:
    """Share of labels that the human calls consistent."""
    yy, yn, ny, nn = _table(yy, yn, ny, nn)
    return _share(yy + ny, yy + yn + ny + nn)


def sensitivity(yy: int, yn: int, ny: int, nn: int) -> float:
    """Share of the human's yes that the judge also calls yes."""
    yy, yn, ny, nn = _table(yy, yn, ny, nn)
    return _share(yy, yy + ny)


def specificity(yy: int, yn: int, ny: int, nn: int) -> float:
    """Share of the human's no that the judge also calls no."""
    yy, yn, ny, nn = _table(yy, yn, ny, nn)
    return _share(nn, nn + yn)


def predictive_values(yy: int, yn: int, ny: int, nn: int) -> tuple[float, float]:
    """(PPV, NPV): shares of the judge's yes, and of the judge's no, that the human confirms."""
    yy, yn, ny, nn = _table(yy, yn, ny, nn)
    return _share(yy, yy + yn), _share(nn, nn + ny)


def rogan_gladen(k: int, n: int, table: tuple[int, int, int, int], *, deff: float = 1.0) -> Estimate:
    """True rate of consistent reasoning behind k judge-yes of n, corrected with the table (yy, yn, ny, nn) of labels.

    Rogan and Gladen, American Journal of Epidemiology 107 (1978) 71-76, with the binomial variances of rate,
    sensitivity and specificity. For labels drawn without regard to the verdict. Value and interval are cut at 0 and 1.
    deff widens the part of the n verdicts. Undefined when a side of the table is empty or sensitivity + specificity
    <= 1: the judge is no better than chance.
    """
    k, n = as_counts(k, n)
    yy, yn, ny, nn = _table(*table)
    check_deff(deff)
    # An empty side of the table leaves sensitivity or specificity unknown.
    if n == 0 or yy + ny == 0 or yn + nn == 0:
        return UNDEFINED
    p, hit, reject = k / n, yy / (yy + ny), nn / (yn + nn)
    # Youden's index: 0 for a judge that does not look at the reasoning.
    power = hit + reject - 1
    if power <= 0:
        return UNDEFINED
    rate = min(1.0, max(0.0, (p + reject - 1) / power))
    # Three sources: the sample of verdicts, and the labels that specificity and sensitivity come from.
    spread = deff * p * (1 - p) / n
    spread += (1 - rate) ** 2 * reject * (1 - reject) / (yn + nn)
    spread += rate**2 * hit * (1 - hit) / (yy + ny)
    return _rate(rate, math.sqrt(spread) / power)


def predictive_value_rate(k: int, n: int, table: tuple[int, int, int, int], *, deff: float = 1.0) -> Estimate:
    """True rate of consistent reasoning behind k judge-yes of n, from labels drawn by verdict from the same run.

    p PPV + (1 - p) (1 - NPV), with p = k / n and both values from the table (yy, yn, ny, nn). Narrower than
    `rogan_gladen`, and not transferable to another run. Undefined when the judge's yes or no was never labelled.
    """
    k, n = as_counts(k, n)
    yy, yn, ny, nn = _table(*table)
    check_deff(deff)
    if n == 0 or yy + yn == 0 or ny + nn == 0:
        return UNDEFINED
    # Labels drawn by verdict estimate these two; sensitivity they would not.
    p, ppv, npv = k / n, yy / (yy + yn), nn / (ny + nn)
    spread = (ppv + npv - 1) ** 2 * deff * p * (1 - p) / n
    spread += p**2 * ppv * (1 - ppv) / (yy + yn) + (1 - p) ** 2 * npv * (1 - npv) / (ny + nn)
    return _rate(p * ppv + (1 - p) * (1 - npv), math.sqrt(spread))


def _rate(rate: float, se: float) -> Estimate:
    return Estimate(rate, se, max(0.0, rate - Z * se), min(1.0, rate + Z * se))
