"""Planning, families of tests, ranks and tiers against their definitions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from scipy import stats as scipy_stats

from leaderboards import stats

NAN = float("nan")
design_effects = st.floats(1, 5)


@given(st.integers(1, 5000), st.floats(0.01, 1), design_effects, st.floats(0.5, 0.99))
def test_detectable_effect_solves_connors_equation(n, discordant, deff, power):
    z_power = scipy_stats.norm.ppf(power)

    def lacking(effect: float) -> float:
        need = stats.Z * discordant**0.5 + z_power * max(0.0, discordant - effect**2) ** 0.5
        return (need / effect) ** 2 - n / deff

    effect = stats.minimum_detectable_effect(n, discordant, deff=deff, power=power)
    if lacking(discordant) > 1e-6:
        assert math.isnan(effect)
    elif lacking(discordant) < -1e-6:
        assert effect == pytest.approx(optimize.brentq(lacking, 1e-6, discordant, xtol=1e-14), rel=1e-6)


def test_detectable_effect_edges():
    assert math.isnan(stats.minimum_detectable_effect(0, 0.25))
    assert math.isnan(stats.minimum_detectable_effect(1000, 0.0))
    assert math.isnan(stats.minimum_detectable_effect(10, 0.1))
    # the quick formula 2.80159 sqrt(s deff / n) is printed with a design effect: 3.48 points, and close
    assert 100 * stats.minimum_detectable_effect(2432, 0.25, deff=1.5) == pytest.approx(3.48, abs=0.01)
    assert stats.minimum_detectable_effect(2432, 0.25, deff=2) == stats.minimum_detectable_effect(1216, 0.25)
    for bad in ({"discordant": -0.1}, {"discordant": 1.1}, {"discordant": NAN}, {"power": 0.4}, {"power": 1.0}):
        with pytest.raises(ValueError, match="must lie"):
            stats.minimum_detectable_effect(**{"n": 100, "discordant": 0.2} | bad)
    with pytest.raises(ValueError, match="design effect"):
        stats.minimum_detectable_effect(100, 0.2, deff=0.5)


@given(st.lists(st.floats(0, 1), max_size=12))
def test_adjustments_equal_their_definitions(p):
    m, ranked = len(p), sorted(p)
    steps = [min(1, max((m - j) * ranked[j] for j in range(i + 1))) for i in range(m)]
    ups = [min(1, min(m / (j + 1) * ranked[j] for j in range(i, m))) for i in range(m)]
    assert stats.holm(p).tolist() == pytest.approx([steps[ranked.index(x)] for x in p], rel=1e-12)
    last = {x: ups[m - 1 - ranked[::-1].index(x)] for x in p}
    assert stats.benjamini_hochberg(p).tolist() == pytest.approx([last[x] for x in p], rel=1e-12)
    if p:
        assert stats.benjamini_hochberg(p).tolist() == pytest.approx(
            scipy_stats.false_discovery_control(p, method="bh").tolist(), rel=1e-12
        )


def test_adjustments_refuse_what_is_no_p_value():
    for p in ([0.1, NAN], [-0.1], [1.1]):
        for function in (stats.holm, stats.benjamini_hochberg):
            with pytest.raises(ValueError, match=r"NaN|must lie"):
                function(p)


def test_pairwise_tests_of_three_models():
    rng = np.random.default_rng(10)
    clusters = [f"v{i}" for i in rng.integers(0, 80, 300)]
    correct = (rng.random((3, 300)) < np.array([[0.4], [0.5], [0.75]])).astype(np.int8)
    result = stats.pairwise_tests(correct, clusters)
    raw = []
    for i, j in ((0, 1), (0, 2), (1, 2)):
        apart = correct[i].astype(int) - correct[j]
        raw.append(stats.sign_flip_test(apart, clusters))
        assert result.p[i, j] == result.p[j, i] == raw[-1]
        assert result.differences[i, j] == pytest.approx(apart.mean(), abs=1e-15)
        assert result.differences[j, i] == -result.differences[i, j]
    assert result.p_adjusted[[0, 0, 1], [1, 2, 2]].tolist() == stats.holm(raw).tolist()
    assert np.diag(result.p_adjusted).tolist() == [1, 1, 1]
    assert stats.tiers(correct.mean(axis=1), result.differences, result.p_adjusted)[2] == "A"
    assert stats.pairwise_tests(correct[:1], clusters).p.tolist() == [[1.0]]
    assert stats.pairwise_tests(np.empty((2, 0)), []).p.tolist() == [[1.0, 1.0], [1.0, 1.0]]


def random_matrices(draw, models):
    scores = draw(st.lists(st.integers(0, 50), min_size=models, max_size=models))
    p = np.ones((models, models))
    for i, j in itertools.combinations(range(models), 2):
        p[i, j] = p[j, i] = draw(st.sampled_from([0.001, 0.049, 0.05, 0.4]))
    return scores, np.subtract.outer(scores, scores) / 100, p


@settings(max_examples=60)
@given(st.data(), st.integers(1, 7))
def test_tiers_and_ranks_follow_their_definitions(data, models):
    scores, differences, p = random_matrices(data.draw, models)
    letters = stats.tiers(scores, differences, p)
    by_score = sorted(range(models), key=lambda m: -scores[m])
    assert [letters[m] for m in by_score] == sorted(letters)  # tiers never interleave
    for letter in set(letters):
        members = [m for m in by_score if letters[m] == letter]
        anchor = members[0]
        assert not any(differences[m, anchor] < 0 and p[m, anchor] < 0.05 for m in members)
        before = [m for m in by_score if letters[m] == chr(ord(letter) - 1)]
        if before:
            assert differences[anchor, before[0]] < 0
            assert p[anchor, before[0]] < 0.05
    for m, (lo, hi) in enumerate(stats.rank_intervals(differences, p)):
        significant = [j for j in range(models) if p[m, j] < 0.05]
        assert lo == 1 + sum(scores[j] > scores[m] for j in significant)
        assert hi == models - sum(scores[j] < scores[m] for j in significant)
        assert lo <= hi


def test_tier_letters_go_past_z_and_empty_is_empty():
    scores = [(30 - i) / 100 for i in range(30)]
    p = np.zeros((30, 30))
    assert stats.tiers(scores, np.subtract.outer(scores, scores), p)[24:] == ["Y", "Z", "AA", "AB", "AC", "AD"]
    assert stats.tiers([], np.empty((0, 0)), np.empty((0, 0))) == []
    assert stats.rank_intervals(np.empty((0, 0)), np.empty((0, 0))) == []


def test_rank_matrices_that_do_not_fit_are_refused():
    good = [[0, 0.1], [-0.1, 0]]
    for differences, p in (
        ([[0, 0.1], [0.1, 0]], np.ones((2, 2))),
        (good, [[1, 0.1], [0.2, 1]]),
        (good, np.ones((3, 3))),
        ([0, 0.1], np.ones(2)),
        ([[0, NAN], [NAN, 0]], np.ones((2, 2))),
    ):
        with pytest.raises(ValueError, match=r"symmetric|must both be|NaN"):
            stats.rank_intervals(differences, p)
    with pytest.raises(ValueError, match="3 scores for 2 models"):
        stats.tiers([1, 2, 3], good, np.ones((2, 2)))
