"""The true rate behind a judge's verdicts, corrected with labels drawn by verdict, and which cases to label next.

Labels are drawn at random among a run's judge-yes cases and, in any other number, among its judge-no cases. They
estimate PPV = P(human yes | judge yes) and the false-omission rate P(human yes | judge no); sensitivity and specificity
follow with the run's own share of yes. The idea of spending labels where they shorten the interval is that of Lee et
al. (arXiv 2511.21140), who draw by the human's word instead; which interval covers was measured in tests/unit.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy import special

from leaderboards.stats.agreement import UNDEFINED, Estimate
from leaderboards.stats.proportions import NAN, Z, as_count, check_deff

Table = tuple[int, int, int, int]  # yy, yn, ny, nn: judge and human, judge only, human only, neither
Estimator = Literal["predictive-values", "rogan-gladen"]

# Pseudo-labels of either word on either side. In intervals: of 1/2, 2/3, 4/5 and 1 the one whose coverage stayed
# nearest to 95 % over the truths of tests/unit/test_calibration.py.
PSEUDO = 2 / 3
CAUTION = 1.0  # in planning: ten of ten confirmed must not end the labelling of a side, or of all
FIRST = 10  # labels of each side before shares are believed enough to favour one (2511.21140 takes a pilot of ten, too)


@dataclass(frozen=True, slots=True)
class Judged:
    """A run's answers by verdict."""

    yes: int
    no: int
    by_definition: int = 0  # inconsistent without asking a judge: no reasoning, or no answer; no label is needed
    deff: float = 1.0  # design effect of the verdicts, clustered by video

    def __post_init__(self) -> None:
        for name in ("yes", "no", "by_definition"):
            as_count(getattr(self, name), name)
        check_deff(self.deff)

    @property
    def asked(self) -> int:
        """Answers on which a judge said yes or no."""
        return self.yes + self.no


def pooled(runs: Sequence[Judged]) -> Judged:
    """All runs as one, with the largest design effect."""
    return Judged(
        sum(run.yes for run in runs),
        sum(run.no for run in runs),
        sum(run.by_definition for run in runs),
        max((run.deff for run in runs), default=1.0),
    )


@dataclass(frozen=True, slots=True)
class _Rate:
    """A corrected rate of the answers that a judge was asked about, and what it depends on."""

    value: float
    by_yes: float  # derivative by P(human yes | judge yes)
    by_no: float  # derivative by P(human yes | judge no)
    sampling: float  # variance from the sample of verdicts


def corrected_rate(run: Judged, table: Table, *, source: Sequence[Judged] | None = None) -> Estimate:
    """True share of consistent reasoning among a run's judged answers, with a 95 % interval.

    Without `source` the labels are from this run: p PPV + (1 - p) P(human yes | judge no). With it they are from all
    of these runs together (this one may be among them), and sensitivity and specificity are carried over to the run's
    share of yes (Rogan and Gladen, 1978); of the run alone both say the same. Answers inconsistent by definition count
    as inconsistent.

    The interval is that of a beta distribution with the mean and the variance of the rate, in which each share has
    PSEUDO labels of either word more: unlike the plain one it is not empty after ten of ten. Undefined without labels
    on a side that counts, and for a judge no better than chance if `source` is given.
    """
    return _corrected(run, table, source, PSEUDO)


def _corrected(run: Judged, table: Table, source: Sequence[Judged] | None, pseudo: float) -> Estimate:
    total = run.asked + run.by_definition
    if total == 0 or (run.asked and not _labelled(pooled(source or [run]), table)):
        return UNDEFINED
    plain, smooth = _rate(run, source, table, 0.0), _rate(run, source, table, pseudo)
    if plain is None or smooth is None:
        return UNDEFINED
    yes, no = _shares(table, pseudo)
    n1, n0 = table[0] + table[1] + 2 * pseudo, table[2] + table[3] + 2 * pseudo
    labels = smooth.by_yes**2 * yes * (1 - yes) / (n1 + 1) + smooth.by_no**2 * no * (1 - no) / (n0 + 1)
    asked = run.asked / total
    # Verdicts are a sample of three kinds: the law of total variance over "a judge was asked".
    spread = asked**2 * (labels + smooth.sampling) + smooth.value**2 * run.deff * asked * (1 - asked) / total
    value = asked * plain.value
    lo, hi = _beta_interval(asked * smooth.value, spread)
    return Estimate(value, math.sqrt(spread), min(lo, value), max(hi, value))


def weighted_accuracy(source: Judged, table: Table) -> tuple[float, float]:
    """(sensitivity, specificity) in the run or runs that labels were drawn from by verdict; nan where unknown.

    The table's own would be those of the sheet, where as many judge-no as judge-yes may stand.
    """
    if not source.asked or not _labelled(source, table):
        return NAN, NAN
    p, (yes, no) = source.yes / source.asked, _shares(table, 0.0)
    truly = p * yes + (1 - p) * no
    return (p * yes / truly if truly else NAN), ((1 - p) * (1 - no) / (1 - truly) if truly < 1 else NAN)


@dataclass(frozen=True, slots=True)
class LabelPlan:
    """What to label next. Half-widths are fractions; nan where there are no labels yet."""

    yes: int  # judge-yes cases
    no: int
    half_width: float  # of the widest interval now
    enough: bool  # it is at most the target, also by one pseudo-label of either word
    still_needed: int | None  # labels from here to the target, by today's shares; None: no target, or out of reach
    floor: float  # half-width with every case labelled, by today's shares: the answers are a sample themselves


def plan_labels(
    runs: Sequence[Judged], table: Table, n: int, *, estimator: Estimator, target: float | None = None
) -> LabelPlan:
    """Divide the next n labels between judge-yes and judge-no so that the widest interval gets shortest.

    Neyman's allocation: with predictive values in proportion p sqrt(PPV (1 - PPV)) to (1 - p) sqrt(NPV (1 - NPV)),
    with Rogan-Gladen by the derivatives of all runs' rates, both with a pseudo-label of either word; at least FIRST of
    each side come first. No more than there are cases without a label.

    Args:
        runs: one with predictive values; labels are drawn from all of them together.
        table: labels so far.
        n: how many more.
        estimator: by which the rate will be corrected.
        target: half-width to be reached, as a fraction.

    Raises:
        ValueError: no labels are asked for, or several runs with predictive values, which belong to one.
    """
    if n < 1 or (estimator == "predictive-values" and len(runs) != 1):
        raise ValueError(f"{n} labels of {len(runs)} runs with {estimator}")
    everything = pooled(runs)
    source = runs if estimator == "rogan-gladen" else None
    done = table[0] + table[1], table[2] + table[3]
    left = max(0, everything.yes - done[0]), max(0, everything.no - done[1])
    parts = _variance_parts(runs, source, table)
    yes, no = _divide(n, done, left, parts)
    widths = [(e.hi - e.lo) / 2 for e in (corrected_rate(run, table, source=source) for run in runs)]
    width = NAN if any(map(math.isnan, widths)) else max(widths)
    cautious = [(e.hi - e.lo) / 2 for e in (_corrected(run, table, source, CAUTION) for run in runs)]
    # By the wider one: who stops at the first narrow interval stops at one that is narrow by luck.
    enough = target is not None and all(half <= target for half in (*widths, *cautious))
    needed, floor = _needed(parts, done, left, target)
    return LabelPlan(yes, no, width, enough, needed, floor)


@dataclass(frozen=True, slots=True)
class _Parts:
    """The variance of a run's rate: sampling + by_yes / judge-yes labels + by_no / judge-no labels."""

    sampling: float
    by_yes: float
    by_no: float

    def at(self, n1: int, n0: int) -> float:
        """With so many labels of the two sides."""
        sides = ((self.by_yes, n1), (self.by_no, n0))
        return self.sampling + sum(part / n if n else math.inf for part, n in sides if part)


def _variance_parts(runs: Sequence[Judged], source: Sequence[Judged] | None, table: Table) -> list[_Parts]:
    """Of the runs whose rate is known."""
    yes, no = _shares(table, CAUTION)
    parts = []
    for run in runs:
        rate = _rate(run, source, table, CAUTION)
        if rate is not None and run.asked:
            total = run.asked + run.by_definition
            asked = run.asked / total
            sampling = asked**2 * rate.sampling + rate.value**2 * run.deff * asked * (1 - asked) / total
            sides = (asked * rate.by_yes) ** 2 * yes * (1 - yes), (asked * rate.by_no) ** 2 * no * (1 - no)
            parts.append(_Parts(sampling, *sides))
    return parts


def _divide(n: int, done: tuple[int, int], left: tuple[int, int], parts: Sequence[_Parts]) -> tuple[int, int]:
    """(judge-yes, judge-no) among the next n."""
    by_yes, by_no = math.sqrt(sum(p.by_yes for p in parts)), math.sqrt(sum(p.by_no for p in parts))
    share = by_yes / (by_yes + by_no) if by_yes + by_no else 0.5
    wanted = round((sum(done) + n) * share)
    # The first of each side, as far as n and the cases go.
    least = [min(max(0, FIRST - have), there) for have, there in zip(done, left, strict=True)]
    if sum(least) > n:
        least[0] = min(least[0], max(n // 2, n - least[1]))
        least[1] = n - least[0]
    yes = min(max(wanted - done[0], least[0]), n - least[1], left[0])
    no = min(n - yes, left[1])
    # What one side lacks, the other gives.
    return min(n - no, left[0]), no


def _needed(
    parts: Sequence[_Parts], done: tuple[int, int], left: tuple[int, int], target: float | None
) -> tuple[int | None, float]:
    """(labels from here to the target; half-width with every case labelled)."""

    def half_width(n: int) -> float:
        yes, no = _divide(n, done, left, parts)
        return Z * math.sqrt(max((part.at(done[0] + yes, done[1] + no) for part in parts), default=0.0))

    floor = half_width(sum(left))
    if target is None or floor > target:
        return None, floor
    return bisect.bisect_left(range(sum(left)), True, key=lambda n: half_width(n) <= target), floor


def _rate(run: Judged, source: Sequence[Judged] | None, table: Table, pseudo: float) -> _Rate | None:
    """None if the judge is no better than chance where that matters. Of a run of which nothing was asked: 0."""
    if not run.asked:
        return _Rate(0.0, 0.0, 0.0, 0.0)
    yes, no = _shares(table, pseudo)
    p = run.yes / run.asked
    sampled = run.deff * p * (1 - p) / run.asked
    if source is None:
        return _Rate(p * yes + (1 - p) * no, p, 1 - p, (yes - no) ** 2 * sampled)
    everything = pooled(source)
    frame = everything.yes / everything.asked
    if yes <= no or not 0 < frame < 1:
        return None
    part = run.asked / everything.asked if run in source else 0.0
    samples = _Samples(sampled, everything.deff * frame * (1 - frame) / everything.asked, part)
    return _carried_over(p, frame, yes, no, samples)


@dataclass(frozen=True, slots=True)
class _Samples:
    run: float  # variance of the run's share of yes
    source: float
    part: float  # share of the source's answers that are the run's


def _carried_over(p: float, frame: float, yes: float, no: float, samples: _Samples) -> _Rate:
    """Rogan-Gladen with sensitivity and specificity from shares by verdict, its value cut at 0 and 1.

    With t = frame yes + (1 - frame) no, the source's true rate: (p - (1 - specificity)) / (sensitivity + specificity -
    1) = t (p (1 - t) - frame (1 - yes)) / (frame (1 - frame) (yes - no)).
    """
    t, power = frame * yes + (1 - frame) * no, frame * (1 - frame) * (yes - no)
    inner = p * (1 - t) - frame * (1 - yes)
    value = t * inner / power

    def derivative(of_t: float, of_inner: float, of_power: float) -> float:
        return (of_t * inner + t * of_inner - value * of_power) / power

    by_yes = derivative(frame, frame * (1 - p), frame * (1 - frame))
    by_no = derivative(1 - frame, -p * (1 - frame), -frame * (1 - frame))
    by_frame = derivative(yes - no, -p * (yes - no) - (1 - yes), (1 - 2 * frame) * (yes - no))
    by_p = t * (1 - t) / power
    # The run's answers are part of the source's, so the two shares vary together.
    together = 2 * by_p * by_frame * samples.part * samples.run
    sampling = by_p**2 * samples.run + by_frame**2 * samples.source + together
    return _Rate(min(1.0, max(0.0, value)), by_yes, by_no, max(0.0, sampling))


def _labelled(source: Judged, table: Table) -> bool:
    """Labels on each side that has cases."""
    yy, yn, ny, nn = table
    return not ((source.yes and not yy + yn) or (source.no and not ny + nn))


def _shares(table: Table, pseudo: float) -> tuple[float, float]:
    """P(human yes | judge yes), P(human yes | judge no); 0.5 on a side without labels, where it has no weight."""
    yy, yn, ny, nn = (as_count(count, "a count of labels") for count in table)
    n1, n0 = yy + yn + 2 * pseudo, ny + nn + 2 * pseudo
    return ((yy + pseudo) / n1 if n1 else 0.5), ((ny + pseudo) / n0 if n0 else 0.5)


def _beta_interval(mean: float, variance: float) -> tuple[float, float]:
    """2.5 % and 97.5 % quantiles of the beta distribution with this mean and variance."""
    if variance <= 0 or not 0 < mean < 1:
        return mean, mean
    # No distribution on [0, 1] varies more than mean (1 - mean): nothing is known then.
    size = mean * (1 - mean) / variance - 1
    if size <= 0:
        return 0.0, 1.0
    a, b = mean * size, (1 - mean) * size
    return float(special.betaincinv(a, b, 0.025)), float(special.betaincinv(a, b, 0.975))
