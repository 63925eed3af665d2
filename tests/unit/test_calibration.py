"""The corrected rate and the labels it costs: worked by hand, by brute force, and by simulation with a known truth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from leaderboards import stats
from leaderboards.stats import Judged

NAN = float("nan")
PV, RG = "predictive-values", "rogan-gladen"
TABLE = (93, 7, 23, 77)  # both yes, judge only, human only, neither


def scaled(table, factor):
    return tuple(factor * count for count in table)


def test_with_many_labels_it_is_the_plain_rate():
    run = Judged(yes=1386, no=1046)
    found, plain = stats.corrected_rate(run, TABLE), stats.predictive_value_rate(1386, 2432, TABLE)
    assert found.value == pytest.approx(plain.value) == pytest.approx(0.628931, abs=1e-6)
    many = stats.corrected_rate(run, scaled(TABLE, 500))
    plain = stats.predictive_value_rate(1386, 2432, scaled(TABLE, 500))
    assert many.se == pytest.approx(plain.se, rel=1e-3)
    assert (many.lo, many.hi) == pytest.approx((plain.lo, plain.hi), abs=1e-4)


def test_of_its_own_run_rogan_gladen_says_the_same():
    run = Judged(300, 200, 50, deff=1.4)
    own, carried = stats.corrected_rate(run, TABLE), stats.corrected_rate(run, TABLE, source=[run])
    assert (own.value, own.se, own.lo) == pytest.approx((carried.value, carried.se, carried.lo))


def test_carried_to_another_run_it_is_rogan_gladen():
    table = (130, 10, 14, 46)  # labels of a random draw: the sheet has the source's own share of yes
    source, other = Judged(1400, 600), Judged(1386, 1046)
    found, plain = stats.corrected_rate(other, table, source=[source]), stats.rogan_gladen(1386, 2432, table)
    assert found.value == pytest.approx(plain.value) == pytest.approx(0.540357, abs=1e-6)
    assert stats.weighted_accuracy(source, table) == pytest.approx((130 / 144, 46 / 56))
    # Half of the sheet from each side: weighting gives back what a random draw would have shown.
    balanced = (130 * 3, 10 * 3, 14 * 7, 46 * 7)  # 420 of each side
    assert stats.weighted_accuracy(source, balanced) == pytest.approx((130 / 144, 46 / 56))
    assert stats.corrected_rate(other, balanced, source=[source]).value == pytest.approx(plain.value)


def test_answers_that_no_judge_was_asked_about_are_inconsistent():
    asked, with_empty = Judged(60, 40), Judged(60, 40, by_definition=100)
    half = stats.corrected_rate(with_empty, TABLE)
    assert half.value == pytest.approx(stats.corrected_rate(asked, TABLE).value / 2)
    assert stats.corrected_rate(Judged(0, 0, 10), (0, 0, 0, 0)).value == 0.0
    # All labelled and every label as the judge says: what is left is the sample of answers, k of n.
    everything = stats.corrected_rate(Judged(6000, 4000, 10_000), (6000, 0, 0, 4000))
    assert everything.se == pytest.approx(math.sqrt(0.3 * 0.7 / 20_000), rel=0.01)


def test_the_error_of_a_carried_rate_is_its_spread():
    """Both runs drawn anew, labels by verdict from the first; sensitivity 0.9 and specificity 0.8 in both."""
    rng = np.random.default_rng(2)

    def run(n, truth):
        human = rng.random(n) < truth
        return human, rng.random(n) < np.where(human, 0.9, 0.2)

    found, shared = [], []
    for _ in range(2000):
        human, judge = run(1000, 0.7)
        yes, no = human[judge][:150], human[~judge][:100]
        table = (int(yes.sum()), int((~yes).sum()), int(no.sum()), int((~no).sum()))
        _, other = run(800, 0.5)
        first, second = Judged(int(judge.sum()), int((~judge).sum())), Judged(int(other.sum()), int((~other).sum()))
        found.append(stats.corrected_rate(second, table, source=[first]))
        # Labels of both runs in proportion to their size, so that the pool is what they are drawn from.
        shared.append(carried_with_labels_of_both(rng, run))
    assert np.mean([e.se for e in found]) == pytest.approx(np.std([e.value for e in found]), rel=0.05)
    assert 0.93 < np.mean([e.lo <= 0.5 <= e.hi for e in found]) < 0.97
    assert np.mean([e.se for e in shared]) == pytest.approx(np.std([e.value for e in shared]), rel=0.05)
    assert 0.93 < np.mean([e.lo <= 0.5 <= e.hi for e in shared]) < 0.97


def carried_with_labels_of_both(rng, run):
    """The rate of the second of two runs, by labels of both."""
    answers = [run(1000, 0.7), run(800, 0.5)]
    human, judge = (np.concatenate(parts) for parts in zip(*answers, strict=True))
    yes, no = rng.permutation(human[judge])[:150], rng.permutation(human[~judge])[:100]
    table = (int(yes.sum()), int((~yes).sum()), int(no.sum()), int((~no).sum()))
    runs = [Judged(int(j.sum()), int((~j).sum())) for _, j in answers]
    return stats.corrected_rate(runs[1], table, source=runs)


def test_what_is_not_defined():
    run = Judged(60, 40)
    for table in ((0, 0, 3, 4), (3, 4, 0, 0), (0, 0, 0, 0)):
        assert math.isnan(stats.corrected_rate(run, table).value)
    assert stats.corrected_rate(Judged(60, 0), (9, 1, 0, 0)).value == pytest.approx(0.9)
    assert math.isnan(stats.corrected_rate(Judged(0, 0), TABLE).value)
    for useless in ((5, 5, 5, 5), (1, 9, 9, 1)):
        assert math.isnan(stats.corrected_rate(run, useless, source=[run]).value)
        assert stats.corrected_rate(run, useless).value > 0
    assert stats.corrected_rate(run, (10, 0, 0, 10)).se > 0.04  # ten of ten is not certainty
    with pytest.raises(ValueError, match="yes is -1"):
        Judged(-1, 3)
    with pytest.raises(ValueError, match="design effect"):
        Judged(1, 3, deff=0.3)


def variance_of(run, table, after):
    """Of the labels' part, with a pseudo-label of either word, at `after` labels of the two sides."""
    p = run.yes / (run.yes + run.no)
    a, b = (table[0] + 1) / (table[0] + table[1] + 2), (table[2] + 1) / (table[2] + table[3] + 2)
    return p**2 * a * (1 - a) / after[0] + (1 - p) ** 2 * b * (1 - b) / after[1]


@pytest.mark.parametrize("table", [(18, 2, 3, 17), (20, 0, 10, 10), (10, 0, 0, 10), (30, 30, 1, 19)])
@pytest.mark.parametrize("run", [Judged(700, 300), Judged(150, 850), Judged(5000, 500, 90)])
def test_the_division_is_the_best_of_all(table, run):
    plan = stats.plan_labels([run], table, 60, estimator=PV)
    have = table[0] + table[1], table[2] + table[3]
    best = min(range(61), key=lambda yes: variance_of(run, table, (have[0] + yes, have[1] + 60 - yes)))
    assert plan.yes + plan.no == 60
    assert abs(plan.yes - best) <= 1


def test_the_division_for_several_runs_is_the_best_of_all():
    runs, table = [Judged(700, 300), Judged(400, 600)], (18, 2, 5, 15)
    plan = stats.plan_labels(runs, table, 60, estimator=RG)

    def total(yes):
        """Of both rates, from numerical derivatives."""
        n1, n0, a, b = 20 + yes, 80 - yes, 19 / 22, 6 / 22

        def rate(run, a, b):
            frame = 0.55
            t = frame * a + (1 - frame) * b
            se, false = frame * a / t, frame * (1 - a) / (1 - t)
            return (run.yes / 1000 - false) / (se - false)

        h, result = 1e-5, 0.0
        for run in runs:
            by_a = (rate(run, a + h, b) - rate(run, a - h, b)) / (2 * h)
            by_b = (rate(run, a, b + h) - rate(run, a, b - h)) / (2 * h)
            result += by_a**2 * a * (1 - a) / n1 + by_b**2 * b * (1 - b) / n0
        return result

    assert abs(plan.yes - min(range(61), key=total)) <= 1


def test_ten_of_ten_does_not_end_a_side():
    plan = stats.plan_labels([Judged(800, 200)], (10, 0, 5, 5), 100, estimator=PV)
    assert plan.yes > 40
    assert stats.plan_labels([Judged(500, 500)], (0, 0, 0, 0), 40, estimator=PV).yes == 20
    assert stats.plan_labels([Judged(990, 10)], (0, 0, 0, 0), 200, estimator=PV).no == 10  # all there are
    assert stats.plan_labels([Judged(12, 900)], (11, 1, 0, 10), 50, estimator=PV).yes == 0
    few = stats.plan_labels([Judged(6, 4)], (3, 0, 0, 2), 50, estimator=PV)
    assert (few.yes, few.no) == (3, 2)
    assert stats.plan_labels([Judged(500, 500)], (0, 0, 0, 0), 1, estimator=PV).yes in (0, 1)
    with pytest.raises(ValueError, match="2 runs"):
        stats.plan_labels([Judged(5, 5)] * 2, TABLE, 5, estimator=PV)


def test_enough_is_said_when_it_is_and_how_many_are_missing():
    run = Judged(1386, 1046)
    early = stats.plan_labels([run], (18, 2, 5, 15), 40, estimator=PV, target=0.04)
    assert not early.enough
    # With today's shares, so many labels reach the target and fewer do not.
    a, b, p, n = 19 / 22, 6 / 22, 1386 / 2432, 2432

    def half(total):
        """Of the best division of so many labels in all."""
        fixed = (a - b) ** 2 * p * (1 - p) / n
        sides = p**2 * a * (1 - a), (1 - p) ** 2 * b * (1 - b)
        return stats.Z * math.sqrt(fixed + min(sides[0] / n1 + sides[1] / (total - n1) for n1 in range(20, total - 19)))

    assert half(41 + early.still_needed) <= 0.04 < half(39 + early.still_needed)
    late = stats.plan_labels([run], scaled((180, 20, 50, 150), 2), 40, estimator=PV, target=0.04)
    assert late.enough
    assert late.still_needed == 0
    # The sample of answers alone leaves more than that.
    never = stats.plan_labels([Judged(60, 40)], (18, 2, 5, 15), 40, estimator=PV, target=0.02)
    assert never.still_needed is None
    # Every case labelled: a sample of 100, of which as many are consistent as today's shares say.
    everywhere = 0.6 * 19 / 22 + 0.4 * 6 / 22
    assert never.floor == pytest.approx(stats.Z * math.sqrt(everywhere * (1 - everywhere) / 100))
    assert stats.plan_labels([run], (18, 2, 5, 15), 40, estimator=PV).still_needed is None
    assert math.isnan(stats.plan_labels([run], (0, 0, 0, 0), 40, estimator=PV, target=0.04).half_width)


@dataclass(frozen=True)
class Labelled:
    """A simulated run, its labels, and the rate they give."""

    estimate: stats.Estimate
    run: Judged
    table: tuple[int, int, int, int]


def label_adaptively(rng, n, truth, sensitivity, specificity, labels=None, target=None):
    """One run judged and labelled in sheets of ten, as plan_labels says."""
    human = rng.random(n) < truth
    judge = rng.random(n) < np.where(human, sensitivity, 1 - specificity)
    sides = human[judge], human[~judge]
    run, have = Judged(len(sides[0]), len(sides[1])), [0, 0]
    while True:
        yes, no = sides[0][: have[0]], sides[1][: have[1]]
        table = (int(yes.sum()), int((~yes).sum()), int(no.sum()), int((~no).sum()))
        plan = stats.plan_labels([run], table, 10, estimator=PV, target=target)
        if plan.enough or plan.yes + plan.no == 0 or (labels is not None and sum(have) >= labels):
            return Labelled(stats.corrected_rate(run, table), run, table)
        have = [have[0] + plan.yes, have[1] + plan.no]


def coverage(seed, cases, repeats):
    rng = np.random.default_rng(seed)
    found = [(label_adaptively(rng, *case).estimate, case[1]) for _ in range(repeats) for case in cases]
    return np.mean([estimate.lo <= truth <= estimate.hi for estimate, truth in found])


COVERED = [
    (240, 0.6, 0.9, 0.8, 40),
    (1321, 0.6, 0.9, 0.8, 60),
    (240, 0.9, 0.95, 0.7, 60),
    (1321, 0.9, 0.95, 0.7, 80),
    (240, 0.88, 0.9, 0.6, 40),
    (1321, 0.92, 0.9, 0.6, 60),
    (1321, 0.8, 0.8, 0.6, 40),
    (240, 0.5, 0.95, 0.95, 80),
    (240, 0.3, 0.8, 0.9, 40),
    (1321, 0.6, 0.9, 0.8, None, 0.06),
    (1321, 0.8, 0.8, 0.6, None, 0.06),
    (1321, 0.9, 0.95, 0.7, None, 0.03),
]


@pytest.mark.parametrize("case", COVERED, ids=str)
def test_the_interval_covers_with_adaptive_labels(case):
    """(answers, truth, sensitivity, specificity, labels or target): of 100 intervals 93 to 97 hold the truth."""
    assert 0.93 <= coverage(17, [case], 2000) <= 0.97


@pytest.mark.parametrize("case", [(1321, 0.9, 0.97, 0.9, 60), (1321, 0.5, 0.95, 0.95, 40)], ids=str)
def test_where_labels_hold_hardly_a_mistake_it_is_too_wide_rather_than_too_narrow(case):
    """One or two mistakes among the labels: counts so small that no interval could be near 95 %."""
    assert coverage(17, [case], 1000) > 0.97


def test_the_plain_interval_would_not_cover():
    """Why the other exists: the same labels, Wald's interval."""
    rng = np.random.default_rng(17)
    held = []
    for _ in range(1000):
        human = rng.random(1321) < 0.9
        judge = rng.random(1321) < np.where(human, 0.95, 0.3)
        yes, no = human[judge][:45], human[~judge][:15]
        table = (int(yes.sum()), int((~yes).sum()), int(no.sum()), int((~no).sum()))
        plain = stats.predictive_value_rate(int(judge.sum()), 1321, table)
        held.append(plain.lo <= 0.9 <= plain.hi)
    assert np.mean(held) < 0.91


def test_over_truths_drawn_at_random_the_interval_covers():
    rng = np.random.default_rng(23)
    cases = [
        (int(rng.choice([240, 923])), rng.uniform(0.3, 0.95), rng.uniform(0.75, 1), rng.uniform(0.6, 1), 40)
        for _ in range(400)
    ]
    assert 0.93 <= coverage(29, cases, 5) <= 0.97


def test_adaptive_labels_are_worth_more_than_as_many_of_each_side():
    """Mean width after 100 labels: divided by the plan, and half from each side."""
    rng = np.random.default_rng(31)
    adaptive = [label_adaptively(rng, 1321, 0.9, 0.95, 0.7, 100).estimate for _ in range(300)]
    equal = []
    for _ in range(300):
        human = rng.random(1321) < 0.9
        judge = rng.random(1321) < np.where(human, 0.95, 0.3)
        yes, no = human[judge][:50], human[~judge][:50]
        table = (int(yes.sum()), int((~yes).sum()), int(no.sum()), int((~no).sum()))
        equal.append(stats.corrected_rate(Judged(int(judge.sum()), int((~judge).sum())), table))
    widths = [np.mean([e.hi - e.lo for e in found]) for found in (adaptive, equal)]
    assert widths[0] < 0.9 * widths[1]
