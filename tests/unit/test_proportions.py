"""Proportions and clusters against scipy, defining equations and double loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from leaderboards import stats

NAN = float("nan")

some_counts = st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
design_effects = st.floats(1, 5)


def rows(values, max_size: int = 30, labels: str = "abcdefgh"):
    """Lists of (value, cluster)."""
    return st.lists(st.tuples(values, st.sampled_from(labels)), min_size=1, max_size=max_size)


@given(some_counts)
def test_wilson_equals_scipy(count):
    k, n = count
    expected = scipy_stats.binomtest(k, n).proportion_ci(method="wilson")
    assert stats.wilson_interval(k, n) == pytest.approx(tuple(expected), rel=0, abs=1e-9)


@given(some_counts, design_effects)
def test_wilson_ends_solve_the_score_equation(count, deff):
    k, n = count
    for end in stats.wilson_interval(k, n, deff=deff):
        # the end is a rate whose own standard error is z times smaller than its distance from k / n
        assert (k / n - end) ** 2 == pytest.approx(stats.Z**2 * end * (1 - end) * deff / n, rel=1e-6, abs=1e-12)


@given(some_counts, design_effects, design_effects)
def test_wilson_is_symmetric_and_widens_with_the_design_effect(count, one, other):
    k, n = count
    lo, hi = stats.wilson_interval(k, n, deff=min(one, other))
    wider_lo, wider_hi = stats.wilson_interval(k, n, deff=max(one, other))
    assert 0 <= wider_lo <= lo + 1e-12
    assert stats.wilson_interval(0, n, deff=one)[0] == 0.0  # exactly, so that no table shows -0.0
    assert stats.wilson_interval(n, n, deff=one)[1] == 1.0
    assert hi - 1e-12 <= wider_hi <= 1
    assert stats.wilson_interval(n - k, n, deff=min(one, other)) == pytest.approx((1 - hi, 1 - lo), abs=1e-12)


def test_few_clusters_use_students_t():
    t = scipy_stats.t.ppf(0.975, 9)
    lo, hi = stats.wilson_interval(40, 100, deff=2.0, n_clusters=10)
    for end in (lo, hi):
        assert (0.4 - end) ** 2 == pytest.approx(t**2 * end * (1 - end) / 50, rel=1e-9)
    normal = stats.wilson_interval(40, 100, deff=2.0)
    assert stats.wilson_interval(40, 100, deff=2.0, n_clusters=30) == normal
    assert stats.wilson_interval(8, 20, n_clusters=20) == stats.wilson_interval(8, 20)  # nothing shares a cluster
    assert stats.wilson_interval(8, 20, n_clusters=1) == (0.0, 1.0)


def test_no_data_is_nan_and_impossible_counts_are_refused():
    assert all(math.isnan(end) for end in stats.wilson_interval(0, 0))
    assert all(math.isnan(number) for number in stats.gap_interval(0, 0, 1, 2) + stats.gap_interval(1, 2, 0, 0))
    assert stats.wilson_interval(np.int64(3), 5.0) == stats.wilson_interval(3, 5)
    for k, n in ((3, 2), (-1, 2), (1, -2), (NAN, 2), (1, NAN), (0.5, 2), (1, math.inf)):
        with pytest.raises(ValueError, match=r"expected|more than"):
            stats.wilson_interval(k, n)
        with pytest.raises(ValueError, match=r"expected|more than"):
            stats.gap_interval(1, 2, k, n)
    for deff in (0.99, 0, -1, NAN, math.inf):
        with pytest.raises(ValueError, match="design effect"):
            stats.wilson_interval(1, 2, deff=deff)
        with pytest.raises(ValueError, match="design effect"):
            stats.gap_interval(1, 2, 1, 2, deff2=deff)
    for n_clusters in (0, 21, 1.5):
        with pytest.raises(ValueError, match="n_clusters"):
            stats.wilson_interval(8, 20, n_clusters=n_clusters)


@given(some_counts, some_counts, design_effects, design_effects)
def test_gap_is_antisymmetric_and_inside_its_interval(first, second, deff1, deff2):
    difference, lo, hi = stats.gap_interval(*first, *second, deff1=deff1, deff2=deff2)
    assert difference == first[0] / first[1] - second[0] / second[1]
    assert -1 - 1e-12 <= lo <= difference <= hi <= 1 + 1e-12
    swapped = stats.gap_interval(*second, *first, deff1=deff2, deff2=deff1)
    assert swapped == pytest.approx((-difference, -hi, -lo), abs=1e-12)


def test_gap_design_effects_belong_to_their_own_arm():
    p1, p3 = 1386 / 2432, 593 / 1321
    (l1, u1), (l3, u3) = stats.wilson_interval(1386, 2432, deff=3.0), stats.wilson_interval(593, 1321, deff=1.2)
    expected = (p1 - p3, p1 - p3 - math.hypot(p1 - l1, u3 - p3), p1 - p3 + math.hypot(u1 - p1, p3 - l3))
    assert stats.gap_interval(1386, 2432, 593, 1321, deff1=3.0, deff2=1.2) == pytest.approx(expected, abs=1e-15)


@given(st.integers(1, 400), st.integers(0, 3), st.data())
def test_grim_finds_every_count_that_prints_so(n, decimals, data):
    k = data.draw(st.integers(0, n))
    assert k in stats.grim_counts(f"{100 * k / n:.{decimals}f}", n)
    value = data.draw(st.integers(0, 100 * 10**decimals))
    printed = f"{value // 10**decimals}.{value % 10**decimals:0{decimals}d}" if decimals else str(value)
    close = [k for k in range(n + 1) if abs(100 * 10**decimals * k - value * n) * 2 <= n]
    assert stats.grim_counts(printed, n) == close


def test_grim_edges():
    assert stats.grim_counts("12.5", 8) == [1]
    assert stats.grim_counts("12", 8) == stats.grim_counts("13", 8) == [1]  # 12.5 may be rounded either way
    assert stats.grim_counts(" 100.0 ", 3) == [3]
    assert stats.grim_counts("101", 3) == []
    assert stats.grim_counts("50", 0) == []
    for printed in ("", "45 %", "1e2", "-3", ".5", "nan", "٣"):
        with pytest.raises(ValueError, match="decimal number"):
            stats.grim_counts(printed, 10)


def brute_force_variance(values, clusters) -> float:
    """CR1 by a double loop over questions."""
    n, groups, mean = len(values), len(set(clusters)), sum(values) / len(values)
    products = 0.0
    for i, j in itertools.product(range(n), repeat=2):
        if clusters[i] == clusters[j]:
            products += (values[i] - mean) * (values[j] - mean)
    return products / n**2 * groups / (groups - 1) if groups > 1 else NAN


@given(rows(st.sampled_from([-1, 0, 1, 0.25])))
def test_clustered_errors_equal_the_double_loop(table):
    values, clusters = [row[0] for row in table], [row[1] for row in table]
    expected = brute_force_variance(values, clusters)
    assert stats.standard_errors(values, clusters).cr1 ** 2 == pytest.approx(expected, abs=1e-12, nan_ok=True)


@given(rows(st.sampled_from([0, 1])))
def test_design_effect_equals_the_double_loop(table):
    values, clusters = [row[0] for row in table], [row[1] for row in table]
    p, n = sum(values) / len(values), len(values)
    expected = 1.0
    if 0 < p < 1 and len(set(clusters)) > 1:
        expected = max(1.0, brute_force_variance(values, clusters) / (p * (1 - p) / n))
    assert stats.design_effect(values, clusters) == pytest.approx(expected, rel=1e-9)


def test_clustered_error_without_clusters_is_the_naive_one():
    values = [1, 0, 0, 1, 1]
    errors = stats.standard_errors(values, [1, 2, 3, 4, 5])
    assert errors.cr1 == pytest.approx(np.std(values, ddof=1) / math.sqrt(5), rel=1e-12)


def test_cluster_edges():
    assert stats.design_effect([], []) == stats.design_effect([1, 1], ["a", "b"]) == 1.0
    assert stats.design_effect([1, 0, 1], ["a", "a", "a"]) == 1.0
    assert (
        stats.design_effect([True, True, False, False], ["a", "a", "b", "b"]) == 4.0
    )  # S = 1, -1; 2 x 2 / 16 / (1/16)
    assert stats.standard_errors([], []).n == 0
    assert math.isnan(stats.standard_errors([], []).mean)
    assert math.isnan(stats.standard_errors([1, 0], ["a", "a"]).cr1)
    assert math.isnan(stats.standard_errors([1], ["a"]).cr1)


@pytest.mark.parametrize("n_clusters", [3, 29, 30, 100])
def test_an_interval_is_wilsons_by_design_effect_and_number_of_clusters(n_clusters):
    rng = np.random.default_rng(n_clusters)
    clusters = np.arange(200) % n_clusters
    values = rng.random(200) < rng.random(n_clusters)[clusters]
    found = stats.interval(values, clusters)
    deff = stats.design_effect(values, clusters)
    assert (found.k, found.n, found.n_clusters, found.deff) == (values.sum(), 200, n_clusters, deff)
    assert deff > 1
    assert (found.lo, found.hi) == stats.wilson_interval(values.sum(), 200, deff=deff, n_clusters=n_clusters)
    assert found.value == values.mean()
    assert found.se == pytest.approx(math.sqrt(found.value * (1 - found.value) * deff / 200))
    assert stats.interval(values.tolist(), [f"video {c:03}" for c in clusters]) == found


def test_an_interval_of_nothing_and_of_no_proportion():
    nothing = stats.interval([], [])
    assert (nothing.k, nothing.n, nothing.deff, nothing.n_clusters) == (0, 0, 1.0, 0)
    assert all(math.isnan(number) for number in (nothing.value, nothing.se, nothing.lo, nothing.hi))
    for values in ([0.5, 1], [2, 0], [NAN, 1]):
        with pytest.raises(ValueError, match=r"0 or 1|NaN"):
            stats.interval(values, ["a", "b"])


def test_labels_may_be_strings_or_numbers_in_any_container():
    expected = stats.design_effect([1, 1, 0, 1], [0, 0, 1, 2])
    objects = np.array(["P01_1", "P01_1", "P02", "x"], dtype=object)
    for clusters in (["b", "b", "c", "a"], np.array([7, 7, 9, 8]), objects, ("1", "1", "10", "2")):
        assert stats.design_effect(np.array([1, 1, 0, 1], dtype=np.int8), clusters) == expected


@pytest.mark.parametrize(
    "function",
    [
        stats.standard_errors,
        stats.design_effect,
        stats.paired_interval,
        stats.sign_flip_test,
        stats.cluster_bootstrap,
        lambda values, clusters: stats.sign_flip_tests([values], clusters),
        lambda values, clusters: stats.pairwise_tests([values], clusters),
    ],
)
def test_bad_rows_are_refused(function):
    for values, clusters in (
        ([1, NAN], ["a", "b"]),
        ([1, math.inf], ["a", "b"]),
        ([1, 0], ["a"]),
        ([1, 0], []),
        ([[1, 0]], [["a", "b"]]),
        ([1, 0], [1.0, NAN]),
        ([1, 0], ["a", None]),
        ([1, 0], ["a", 1]),
        ([1, 0], [None, None]),
    ):
        with pytest.raises(ValueError, match=r"NaN|clusters|dimension|shape"):
            function(values, clusters)
