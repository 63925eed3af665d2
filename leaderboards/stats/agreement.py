"""How far a judge agrees with human labels, and what that does to the rate the judge reports.

The table of labels is four counts: yy both say consistent, yn only the judge does, ny only the human does, nn neither.
A share of nothing is nan; impossible counts raise ValueError.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from leaderboards.stats.proportions import NAN, Z, as_count, as_counts, check_deff


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
