"""Paired tests between the rows of a board: every pair on every level, ranks and tiers, distances to the baseline."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from leaderboards import stats
from leaderboards.outcomes import Bools, Measured, QuestionBank, Values
from leaderboards.rows import Delta, open_sign
from leaderboards.suites import BoardSuite
from seedbench_r1.errors import ConfigError
from seedbench_r1.types import DOMAINS, LEVELS

SHARED = 0.95  # share of either run's questions that a test of two runs needs
JUDGED = ("consistency", "sound")  # measures that rest on verdicts; sound: correct and consistent
MEASURES = ("accuracy", "consistency", "sound")
WORDS = {"accuracy": "accuracy", "consistency": "consistency", "sound": "sound accuracy"}  # in sentences

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Metric:
    """What rows are ordered and ranked by: a measure on a level."""

    level: str
    measure: str  # accuracy, sound (correct and consistent) or consistency

    def __str__(self) -> str:
        return f"{self.level.lower()}.{self.measure}"

    def values(self, measured: Measured) -> tuple[Values, Bools]:
        """(n,) hits or credits and (n,) the questions that have a value, over the whole bank."""
        table = measured.outcomes
        if self.measure == "accuracy":
            return table.credit, table.responded
        return (table.soundness if self.measure == "sound" else table.consistency), table.judged

    def limits(self, measured: Measured) -> tuple[Floats, Floats]:
        """(n,) what each value is at least and at most: every missing verdict not consistent, and consistent."""
        table, sound = measured.outcomes, self.measure == "sound"
        hits, valued = self.values(measured)
        if self.measure == "accuracy":
            return hits.astype(np.float64), hits.astype(np.float64)
        if table.counts is not None:
            known, k = table.counts.sound if sound else table.counts.consistent, table.counts.k
            unknown = table.counts.right_unjudged if sound else k - table.counts.judged
            return known / k, (known + unknown) / k
        could = table.responded & ~valued & (table.correct if sound else True)
        return hits.astype(np.float64), np.where(could, 1.0, hits)


@dataclass(frozen=True, slots=True)
class LevelTests:
    """All pairs of M rows on one level; entry [i, j] is row i against row j, in the order of `run_ids`.

    nan where two rows are not compared: one is not complete, or they belong to different protocols. Holm is over all
    the pairs that are.
    """

    run_ids: tuple[str, ...]
    differences: Floats  # (M, M) mean of i - j, antisymmetric, fractions
    p: Floats  # (M, M) cluster sign-flip test, symmetric
    p_holm: Floats  # (M, M)


def parse_metric(text: str | None, suite: BoardSuite, columns: Sequence[str]) -> Metric:
    """ "l3.accuracy", "vsibench.sound" -> Metric; None: accuracy on L3, elsewhere on the first column. ConfigError."""
    levels = suite.has_levels
    known = (*LEVELS, "custom") if levels else tuple(columns)
    # The name of a split may have a dot.
    level, _, measure = (text or f"{'L3' if levels else known[0]}.accuracy").rpartition(".")
    names = {name.lower(): name for name in known} | {
        split: name for split, name in suite.names.items() if name in known
    }
    if level.lower() not in names or measure not in MEASURES:
        raise ConfigError(
            f"--metric {text!r} is unknown. Fix: a {'level' if levels else 'split'} ({', '.join(names)}), a dot, and "
            f"one of {', '.join(MEASURES)}."
        )
    # Of names that differ in case alone each is still found as it is written.
    return Metric(level if level in known else names[level.lower()], measure)


def no_tests(run_ids: Sequence[str]) -> LevelTests:
    """Nothing is compared with anything."""
    size = len(run_ids)
    return LevelTests(tuple(run_ids), *(np.full((size, size), np.nan) for _ in range(3)))


def level_tests(
    all_ids: Sequence[str], compared: Sequence[Measured], metric: Metric, bank: QuestionBank
) -> LevelTests | None:
    """Test all pairs of the runs `compared`, on the questions of the metric's level that all of them have a value for.

    None if these are fewer than 95 % of those that any one of them has.
    """
    tests = no_tests(all_ids)
    if compared:
        group = bank.group(metric.level)
        pairs = [metric.values(measured) for measured in compared]
        # On questions that all runs have, so that differences add up: (a - b) + (b - c) = a - c.
        common = np.logical_and.reduce([valued for _, valued in pairs]) & group
        if common.sum() < SHARED * max(int((valued & group).sum()) for _, valued in pairs):
            return None
        found = stats.pairwise_tests(np.stack([hits[common] for hits, _ in pairs]), bank.video[common])
        if metric.measure != "accuracy":
            judged = group & bank.choice
            for i, j in itertools.combinations(range(len(compared)), 2):
                # What missing verdicts could turn round tells no two runs apart, whatever the others say.
                if _is_open(metric, compared[i], compared[j], judged):
                    for p in (found.p, found.p_adjusted):
                        p[i, j] = p[j, i] = 1.0
        # Rows that are not compared keep their nan.
        places = [all_ids.index(measured.run_id) for measured in compared]
        grid = np.ix_(places, places)
        tests.differences[grid], tests.p[grid], tests.p_holm[grid] = found.differences, found.p, found.p_adjusted
    return tests


def rank(tests: LevelTests, scores: Mapping[str, float]) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    """Rank interval and tier, by run_id, of the runs that have a score (a fraction); `tests` compares all of them."""
    # Best first: tiers are made walking down.
    run_ids = sorted(scores, key=lambda run_id: -scores[run_id])
    places = [tests.run_ids.index(run_id) for run_id in run_ids]
    grid = np.ix_(places, places)
    differences, adjusted = tests.differences[grid], tests.p_holm[grid]
    letters = stats.tiers([scores[run_id] for run_id in run_ids], differences, adjusted)
    ranks = stats.rank_intervals(differences, adjusted)
    return dict(zip(run_ids, ranks, strict=True)), dict(zip(run_ids, letters, strict=True))


def bootstrap_intervals(compared: Sequence[Measured], level: str, bank: QuestionBank) -> dict[str, tuple[float, float]]:
    """run_id -> 95 % percentile interval of the accuracy on a level, 10,000 draws of whole videos, the same for all.

    Of the runs that have answered all of the level's questions.
    """
    group = bank.group(level)
    whole = [measured for measured in compared if not (group & ~measured.outcomes.responded).any()]
    if not whole:
        return {}
    correct = np.stack([measured.outcomes.credit[group] for measured in whole])
    lo, hi = stats.cluster_bootstrap(correct, bank.video[group])
    return {measured.run_id: (float(lo[i]), float(hi[i])) for i, measured in enumerate(whole)}


def deltas(
    baseline: Measured, others: Sequence[Measured], metric: Metric, bank: QuestionBank, tests: LevelTests | None
) -> dict[str, Delta]:
    """run_id -> the metric's value minus the baseline's, on the questions that both have one for.

    The p-value is refused where both have answered fewer than 95 % of the questions that either run was asked. Where
    `tests` (of the metric) holds it, it is read from there.
    """
    found: dict[str, Delta] = {}
    group = bank.group(metric.level)
    for measured in others:
        known = math.nan
        if tests is not None:
            # The sign matrix is the costly part, and the board has tested most pairs already.
            known = tests.p[tests.run_ids.index(measured.run_id), tests.run_ids.index(baseline.run_id)]
        known_p = None if math.isnan(known) else float(known)
        delta = compare(measured, baseline, group, bank, measure=metric.measure, known_p=known_p)
        if delta is not None:
            found[measured.run_id] = delta
    # One family a level: everything that is compared with this baseline on it.
    # Nobody knows beforehand at which cell a reader will look: all cells are one family.
    tested = [(run_id, delta.p) for run_id, delta in found.items() if delta.p is not None]
    for (run_id, _), adjusted in zip(tested, stats.holm([p for _, p in tested]), strict=True):
        found[run_id] = replace(found[run_id], p_adjusted=float(adjusted))
    return found


def domain_deltas(baseline: Measured, others: Sequence[Measured], bank: QuestionBank) -> dict[str, dict[str, Delta]]:
    """run_id -> domain -> accuracy minus the baseline's, as `deltas`.

    Exploratory: p-values are adjusted by Benjamini and Hochberg over all domains and runs together.
    """
    found: dict[str, dict[str, Delta]] = {measured.run_id: {} for measured in others}
    for domain in (name for name in bank.groups if name in DOMAINS):
        group = bank.group(domain)
        # Runs with the whole domain share one sign matrix; `compare` tests the others one by one.
        known = _p_together(baseline, others, group, bank)
        for measured in others:
            delta = compare(measured, baseline, group, bank, known_p=known.get(measured.run_id))
            if delta is not None:
                found[measured.run_id][domain] = delta
    tested = [
        (r, d, delta.p) for r, by_domain in found.items() for d, delta in by_domain.items() if delta.p is not None
    ]
    for (run_id, domain, _), adjusted in zip(tested, stats.benjamini_hochberg([p for _, _, p in tested]), strict=True):
        found[run_id][domain] = replace(found[run_id][domain], p_adjusted=float(adjusted))
    return found


def _p_together(baseline: Measured, others: Sequence[Measured], group: Bools, bank: QuestionBank) -> dict[str, float]:
    """p-values of the runs that have answered all of the group, as the baseline has: one matrix of signs serves all."""
    whole = [m for m in (baseline, *others) if not (group & ~m.outcomes.responded).any()]
    # Without the baseline's answers, or with its alone, there is no difference to test.
    if whole[:1] != [baseline] or len(whole) < 2:
        return {}
    ours = baseline.outcomes.credit[group].astype(np.float64)
    differences = np.stack([measured.outcomes.credit[group] - ours for measured in whole[1:]])
    p = stats.sign_flip_tests(differences, bank.video[group])
    return {measured.run_id: float(value) for measured, value in zip(whole[1:], p, strict=True)}


def compare(
    first: Measured,
    second: Measured,
    group: Bools,
    bank: QuestionBank,
    *,
    measure: str = "accuracy",
    known_p: float | None = None,
) -> Delta | None:
    """first - second on the questions of `group` that both have a value for; None if there are none.

    p_adjusted is None. The interval ends where a difference of shares does, at -1 and 1.
    """
    metric = Metric("", measure)
    (ours, valued), (theirs, also) = metric.values(first), metric.values(second)
    # Questions without options are shown to no judge, and lack no verdict.
    group = group if measure == "accuracy" else group & bank.choice
    answered = first.outcomes.responded & second.outcomes.responded & group
    common = answered & valued & also
    n = int(common.sum())
    if n == 0:
        return None
    differences = ours[common].astype(np.float64) - theirs[common]
    interval = stats.paired_interval(differences, bank.video[common])
    p = known_p
    # Both sides count: a run of 50 questions shares all of them with a run of 4,676.
    asked = [int((run.outcomes.selected & group).sum()) for run in (first, second)]
    if p is None and all(answered.sum() >= SHARED * n_asked for n_asked in asked):
        p = stats.sign_flip_test(differences, bank.video[common])
    # A t interval may leave the range that a difference of shares cannot.
    lo, hi = (float(end) for end in np.clip((interval.lo, interval.hi), -1.0, 1.0))
    least, most = _bounds(metric, first, second, answered)
    settled = first.outcomes.settled & second.outcomes.settled
    return Delta(
        *(interval.mean, lo, hi, interval.se, n, interval.n_clusters, p),
        p_adjusted=None,
        missing=0 if measure == "accuracy" else int((answered & ~settled).sum()),
        bound_lo=least,
        bound_hi=most,
    )


def _bounds(metric: Metric, first: Measured, second: Measured, answered: Bools) -> tuple[float, float]:
    """first - second with every missing verdict against the first and for the second, and the other way round."""
    (our_least, our_most), (their_least, their_most) = metric.limits(first), metric.limits(second)
    least, most = (our_least - their_most)[answered], (our_most - their_least)[answered]
    return float(least.mean()), float(most.mean())


def _is_open(metric: Metric, first: Measured, second: Measured, group: Bools) -> bool:
    """Whether missing verdicts could turn the difference of two runs round."""
    answered = first.outcomes.responded & second.outcomes.responded & group
    if not (answered & ~(first.outcomes.settled & second.outcomes.settled)).any():
        return False
    (ours, valued), (theirs, also) = metric.values(first), metric.values(second)
    common = answered & valued & also
    value = float((ours[common].astype(np.float64) - theirs[common]).mean()) if common.any() else 0.0
    return open_sign(value, *_bounds(metric, first, second, answered))
