"""Paired comparisons and the bootstrap against slow plain code that counts everything."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from leaderboards import stats

NAN = float("nan")
CLUSTERS = ["A", "A", "A", "B", "B", "C", "C", "D"]


def rows(values, max_size: int = 30, labels: str = "abcdefgh"):
    """Lists of (value, cluster)."""
    return st.lists(st.tuples(values, st.sampled_from(labels)), min_size=1, max_size=max_size)


def test_paired_interval_by_hand():
    result = stats.paired_interval([1, 0, 0, -1, 1, 1, 0, 1], CLUSTERS)
    half = 3.182446305284263 * 0.14657549  # t with 3 degrees of freedom
    assert (result.mean, result.n, result.n_clusters) == (0.375, 8, 4)
    assert (result.lo, result.hi) == pytest.approx((0.375 - half, 0.375 + half), abs=1e-7)
    nothing = stats.paired_interval([], [])
    assert all(math.isnan(number) for number in (nothing.mean, nothing.lo, nothing.hi))


@pytest.mark.parametrize("n", [1, 2, 5, 6, 12, 14, 400])
def test_equal_differences_have_the_exact_interval_of_as_many_videos(n):
    videos = list(range(n))
    never = stats.paired_interval([0] * n, videos)
    most = scipy_stats.binomtest(0, n).proportion_ci(0.95, "exact").high  # of 0 in n
    assert (never.lo, never.hi) == pytest.approx((-most, most), abs=1e-12)
    always = stats.paired_interval([1] * n, videos)
    least = scipy_stats.binomtest(n, n).proportion_ci(0.95, "exact").low  # the others could be lost
    assert (always.lo, always.hi) == pytest.approx((2 * least - 1, 1), abs=1e-12)
    turned = stats.paired_interval([-1] * n, videos)
    assert (turned.lo, turned.hi) == pytest.approx((-always.hi, -always.lo), abs=1e-12)
    # The interval leaves zero out exactly where the test rejects it.
    assert (always.lo > 0) == (stats.sign_flip_test([1] * n, videos) < 0.05) == (n >= 6)


def test_questions_of_one_video_say_little_of_the_next_video():
    one = stats.paired_interval([1, 0, 0, 1], ["a"] * 4)
    assert (one.lo, one.hi) == pytest.approx((0.5 * 0.025 - 0.975, 0.5 * 0.025 + 0.975))
    # Sizes 3 and 1 are worth 16 / 10 videos.
    unequal = stats.paired_interval([0] * 4, ["a", "a", "a", "b"])
    assert unequal.hi == pytest.approx(1 - 0.025 ** (10 / 16))
    # Both videos have the mean 1 / 2 though questions differ: no spread between them either.
    halves = stats.paired_interval([1, 0, 0, 1], ["a", "a", "b", "b"])
    assert (halves.se, halves.lo) == (0, pytest.approx(0.5 * 0.025**0.5 - (1 - 0.025**0.5)))


@pytest.mark.parametrize(("at", "n"), [(0.0, 12), (1.0, 12), (0.0, 100)])
def test_the_interval_without_spread_covers_what_is_likely(at, n):
    # A share of all videos lies at the far end; that n videos show none of them has the probability (1 - share) ** n.
    found = stats.paired_interval([at] * n, list(range(n)))
    for share in np.linspace(0, 1, 201):
        truth = (1 - share) * at + share * (-1.0 if at else 1.0)
        assert (found.lo <= truth <= found.hi) == ((1 - share) ** n >= 0.025)


def test_difference_of_gaps_by_hand():
    near_level = stats.PairedDifference(0.05, NAN, NAN, 0.03, 2432, 138)
    far_level = stats.PairedDifference(0.09, NAN, NAN, 0.04, 1321, 1113)
    result = stats.difference_of_gaps(near_level, far_level)
    assert (result.mean, result.se) == pytest.approx((-0.04, 0.05))
    assert (result.lo, result.hi) == pytest.approx((-0.04 - 0.0979982, -0.04 + 0.0979982), abs=1e-7)
    few = stats.difference_of_gaps(stats.PairedDifference(0.05, NAN, NAN, 0.03, 50, 4), far_level)
    assert few.hi == pytest.approx(-0.04 + 3.182446305284263 * 0.05)
    # A level on which nothing was seen to differ has bounds, and they count: 0.2 and 0.1 below, 0.2 and 0.3 above.
    unseen = stats.difference_of_gaps(
        stats.PairedDifference(0, -0.2, 0.2, 0, 14, 14), stats.PairedDifference(0.5, 0.2, 0.6, 0.03, 50, 40)
    )
    assert (unseen.lo, unseen.hi) == pytest.approx((-0.5 - 0.05**0.5, -0.5 + 0.13**0.5))
    enough = stats.PairedDifference(0.05, NAN, NAN, 0.03, 50, 30)
    assert stats.difference_of_gaps(enough, enough).hi == pytest.approx(1.959963984540054 * 0.03 * 2**0.5)


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_equals_scipy_and_is_symmetric(b, c):
    result = stats.mcnemar(b, c)
    assert result == stats.mcnemar(c, b)
    if b + c:
        assert result.exact == pytest.approx(scipy_stats.binomtest(b, b + c).pvalue, abs=1e-9)
    if b != c:
        # mid-p: the tail beyond the observed split, and half the probability of the split itself, both sides
        tail = sum(math.comb(b + c, i) for i in range(min(b, c)))
        assert result.mid_p == pytest.approx((2 * tail + math.comb(b + c, b)) / 2 ** (b + c), rel=1e-9, abs=1e-15)
        assert result.chi2_p == pytest.approx(scipy_stats.chi2.sf(result.chi2, 1))
        assert result.corrected_p == pytest.approx(scipy_stats.chi2.sf(result.corrected, 1))
    assert 0 <= result.mid_p <= result.exact <= 1


def test_mcnemar_refuses_impossible_counts():
    for b, c in ((-1, 2), (1, NAN), (0.5, 2)):
        with pytest.raises(ValueError, match="whole number"):
            stats.mcnemar(b, c)


def enumerated_p(values, clusters) -> float:
    """All sign patterns, one after the other, in whole numbers."""
    totals: Counter = Counter()
    for value, cluster in zip(values, clusters, strict=True):
        totals[cluster] += value
    observed = abs(sum(values))
    patterns = list(itertools.product((-1, 1), repeat=len(totals)))
    hits = sum(abs(sum(s * t for s, t in zip(p, totals.values(), strict=True))) >= observed for p in patterns)
    return hits / len(patterns)


@settings(max_examples=60)
@given(rows(st.sampled_from([-1, 0, 1])))
def test_sign_flip_equals_enumeration(table):
    values, clusters = [row[0] for row in table], [row[1] for row in table]
    assert stats.sign_flip_test(values, clusters) == enumerated_p(values, clusters)


@settings(max_examples=30)
@given(rows(st.integers(-5, 5)))
def test_sign_flip_of_fractions_is_that_of_whole_numbers(table):
    values, clusters = [row[0] for row in table], [row[1] for row in table]
    tenths = [value / 10 for value in values]  # 0.1 + 0.2 != 0.3 must not lose a hit
    assert stats.sign_flip_test(tenths, clusters) == enumerated_p(values, clusters)


def test_sign_flip_at_the_border_of_enumeration():
    # all clusters agree: only the observed pattern and its opposite reach the observed sum
    assert stats.sign_flip_test([1] * 14, list(range(14))) == 2 / 2**14
    assert stats.sign_flip_test([1] * 60, list(range(60))) == 1 / 10_000
    assert stats.sign_flip_test([1] * 60, list(range(60)), n_resamples=99) == 1 / 100
    assert stats.sign_flip_test([0] * 60, list(range(60))) == 1.0
    assert stats.sign_flip_test([], []) == 1.0
    assert stats.sign_flip_test([1, 1, -1], ["a", "a", "a"]) == 1.0
    with pytest.raises(ValueError, match="n_resamples"):
        stats.sign_flip_test([1], ["a"], n_resamples=0)


def exact_p_by_convolution(totals) -> float:
    """P(|signed sum| >= |sum|) from the whole distribution of the signed sum of whole numbers."""
    distribution = Counter({0: 1})
    for total in totals:
        step: Counter = Counter()
        for value, ways in distribution.items():
            step[value + total] += ways
            step[value - total] += ways
        distribution = step
    observed = abs(sum(totals))
    return sum(ways for value, ways in distribution.items() if abs(value) >= observed) / 2 ** len(totals)


@pytest.mark.parametrize("n_clusters", [15, 40, 700])  # 700: more than one block of the sign matrix
@pytest.mark.parametrize("shift", [0, 1, 2, 3])
def test_sampled_sign_flip_is_near_the_exact_distribution(n_clusters, shift):
    rng = random.Random(f"{n_clusters}:{shift}")
    totals = [rng.choice([-2, -1, -1, 0, 0, 1, 1, 2]) for _ in range(n_clusters)]
    totals = [total + (rng.random() < shift / n_clusters**0.5) for total in totals]
    exact = exact_p_by_convolution(totals)
    sampled = stats.sign_flip_test(totals, list(range(n_clusters)))
    assert abs(sampled - exact) < 4 * math.sqrt(exact * (1 - exact) / 9999) + 1e-4


def test_sampled_sign_flip_ignores_order_names_sides_and_empty_clusters():
    rng = np.random.default_rng(5)
    values, clusters = rng.integers(-1, 2, 400), rng.integers(0, 90, 400)
    values[:30] += 1
    p = stats.sign_flip_test(values, clusters)
    assert 0.01 < p < 0.99
    order = rng.permutation(400)
    renamed = [f"video-{(7 * c) % 97}" for c in clusters]
    assert stats.sign_flip_test(values[order], clusters[order]) == p
    assert stats.sign_flip_test(values.tolist(), renamed) == p
    assert stats.sign_flip_test(-values, clusters) == p
    assert stats.sign_flip_test([*values, 1, -1, 0], [*clusters, 900, 900, 901]) == p
    assert stats.sign_flip_test(values, clusters, seed=1) != p


def test_many_pairs_equal_one_by_one_and_fractions_agree():
    rng = np.random.default_rng(6)
    differences, clusters = rng.integers(-1, 2, (12, 700)), rng.integers(0, 400, 700)
    differences[3] = 0
    together = stats.sign_flip_tests(differences, clusters)
    assert together.tolist() == [stats.sign_flip_test(row, clusters) for row in differences]
    assert stats.sign_flip_tests(differences / 3, clusters).tolist() == together.tolist()  # float64 path
    assert stats.sign_flip_tests(np.empty((0, 700)), clusters).shape == (0,)


def test_sign_flip_never_rejects_more_often_than_its_level():
    sizes, clusters = np.array([3, 2, 2, 1, 1, 1, 0, 5]), np.repeat(np.arange(8), 1)
    signs = np.array(list(itertools.product((-1, 1), repeat=8)))
    p = stats.sign_flip_tests(signs * sizes, clusters)  # every outcome that the null hypothesis allows
    for level in set(p.tolist()):
        assert (p <= level).mean() <= level + 1e-12


def test_clustering_keeps_the_error_rate_where_mcnemar_does_not():
    rng = np.random.default_rng(7)
    clusters = np.repeat(np.arange(40), 12)
    flips = rng.integers(0, 2, (300, 40)) * 2 - 1  # a whole video favours one model, at random
    differences = np.repeat(flips, 12, axis=1) * (rng.random((300, 480)) < 0.3)
    clustered = stats.sign_flip_tests(differences, clusters, n_resamples=999) < 0.05
    plain = [stats.mcnemar(int((d > 0).sum()), int((d < 0).sum())).exact < 0.05 for d in differences]
    assert 0.02 < clustered.mean() < 0.085
    assert np.mean(plain) > 0.2


def test_bootstrap_agrees_with_a_plain_loop():
    rng = np.random.default_rng(8)
    clusters = rng.integers(0, 60, 300)
    values = (rng.random((2, 300)) < np.array([[0.3], [0.7]])).astype(int)
    lo, hi = stats.cluster_bootstrap(values, clusters)
    members = [np.flatnonzero(clusters == c) for c in np.unique(clusters)]
    for row, (low, high) in enumerate(zip(lo, hi, strict=True)):
        means = []
        for _ in range(4000):
            drawn = np.concatenate([members[c] for c in rng.integers(0, len(members), len(members))])
            means.append(values[row, drawn].mean())
        assert (low, high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.006)
        se = stats.standard_errors(values[row], clusters).cr1
        assert (high - low) / (2 * stats.Z * se) == pytest.approx(1, abs=0.05)


def test_bootstrap_of_two_clusters_has_three_outcomes():
    # clusters of 1 and 3 questions: means 1 (one draw in four), 1/4, 0; the ratio, not the mean of cluster means
    lo, hi = stats.cluster_bootstrap([1, 0, 0, 0], ["a", "b", "b", "b"])
    assert (lo.tolist(), hi.tolist()) == ([0.0], [1.0])
    lo, hi = stats.cluster_bootstrap([[1, 1, 0], [1, 1, 1]], ["a", "b", "a"], n_resamples=1)
    assert lo[0] in (0.5, 2 / 3, 1.0)
    assert (lo[1], hi[1]) == (1.0, 1.0)


def test_bootstrap_is_seeded_and_ignores_the_order_of_rows():
    rng = np.random.default_rng(9)
    values, clusters = rng.integers(0, 2, 200), [f"v{i}" for i in rng.integers(0, 50, 200)]
    order = rng.permutation(200)
    first = stats.cluster_bootstrap(values, clusters, n_resamples=500)
    assert stats.cluster_bootstrap(values[order], [clusters[i] for i in order], n_resamples=500) == first
    assert stats.cluster_bootstrap(values, clusters, n_resamples=500, seed=2) != first
    both = stats.cluster_bootstrap([values, 1 - values], clusters, n_resamples=500)
    assert (both[0][0], both[1][0]) == (first[0][0], first[1][0])
    assert (both[0][1], both[1][1]) == pytest.approx((1 - first[1][0], 1 - first[0][0]))
    assert np.isnan(stats.cluster_bootstrap([], [])).all()
    with pytest.raises(ValueError, match="n_resamples"):
        stats.cluster_bootstrap([1], ["a"], n_resamples=0)


def test_equal_differences_have_no_spread_whatever_their_last_bit():
    """0.1 has no exact float: twelve of them showed a spread of 1e-17, and an interval of no width."""
    for value in (0.1, 0.125, 1 / 3):
        found = stats.paired_interval([value] * 12, list(range(12)))
        q = 0.025 ** (1 / 12)
        assert (found.lo, found.hi) == pytest.approx((q * value - (1 - q), q * value + (1 - q)))
