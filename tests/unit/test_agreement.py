"""Judge against human labels: edges, simulation and rates worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from leaderboards import stats

NAN = float("nan")
TABLE = (130, 10, 14, 46)  # both yes, judge only, human only, neither


def test_kappa_edges():
    assert math.isnan(stats.cohen_kappa(9, 0, 0, 0))
    assert math.isnan(stats.cohen_kappa(0, 0, 0, 9))
    assert math.isnan(stats.cohen_kappa(0, 0, 0, 0))
    assert stats.cohen_kappa(5, 0, 0, 5) == 1.0
    assert stats.kappa_interval(5, 0, 0, 5).se == 0.0
    assert stats.cohen_kappa(0, 5, 5, 0) == -1.0
    assert stats.cohen_kappa(4, 4, 4, 4) == 0.0
    assert math.isnan(stats.pabak(0, 0, 0, 0))
    with pytest.raises(ValueError, match="yn is -1"):
        stats.cohen_kappa(1, -1, 1, 1)


def test_kappa_error_is_the_spread_of_kappa():
    shares = np.array(TABLE) / 200
    draws = np.random.default_rng(11).multinomial(2000, shares, size=3000)  # larger n: the formula is for large samples
    spread = np.std([stats.cohen_kappa(*map(int, draw)) for draw in draws])
    assert stats.kappa_interval(*(10 * count for count in TABLE)).se == pytest.approx(spread, rel=0.04)


def test_shares_of_the_table():
    assert stats.sensitivity(*TABLE) == 130 / 144
    assert stats.specificity(*TABLE) == 46 / 56
    assert stats.predictive_values(*TABLE) == (130 / 140, 46 / 60)
    assert stats.base_rate(*TABLE) == 144 / 200
    assert math.isnan(stats.sensitivity(0, 3, 0, 4))
    assert math.isnan(stats.specificity(3, 0, 4, 0))


def test_rogan_gladen_undoes_the_judge():
    # 600 of 1000 truly consistent; the judge finds 0.8 of them and calls 0.1 of the others consistent: 480 + 40
    result = stats.rogan_gladen(520, 1000, (80, 10, 20, 90))
    assert result.value == pytest.approx(0.6)
    variance = (0.52 * 0.48 / 1000 + 0.16 * 0.09 / 100 + 0.36 * 0.16 / 100) / 0.49
    assert result.se == pytest.approx(variance**0.5)
    clustered = stats.rogan_gladen(520, 1000, (80, 10, 20, 90), deff=3.0)
    assert clustered.se == pytest.approx((variance + 2 * 0.52 * 0.48 / 1000 / 0.49) ** 0.5)
    assert stats.rogan_gladen(10, 1000, (80, 10, 20, 90)).value == 0.0
    assert stats.rogan_gladen(990, 1000, (80, 10, 20, 90)).value == 1.0
    assert stats.rogan_gladen(990, 1000, (80, 10, 20, 90)).hi == 1.0
    perfect = stats.rogan_gladen(40, 100, (50, 0, 0, 50))
    assert (perfect.value, perfect.se) == pytest.approx((0.4, 0.24**0.5 / 10))
    for table in ((5, 5, 5, 5), (1, 9, 9, 1), (0, 5, 0, 5), (5, 0, 5, 0)):
        assert math.isnan(stats.rogan_gladen(5, 10, table).value)
    assert math.isnan(stats.rogan_gladen(0, 0, TABLE).se)


def test_predictive_values_give_back_the_rate_of_their_own_sample():
    # judge-yes 140 of 200 labelled completely: the estimate is the human's own rate
    assert stats.predictive_value_rate(140, 200, TABLE).value == pytest.approx(144 / 200)
    wider = stats.predictive_value_rate(140, 200, TABLE, deff=2.0).se ** 2
    extra = (130 / 140 + 46 / 60 - 1) ** 2 * 0.7 * 0.3 / 200
    assert wider - stats.predictive_value_rate(140, 200, TABLE).se ** 2 == pytest.approx(extra)
    assert math.isnan(stats.predictive_value_rate(1, 2, (0, 0, 3, 4)).value)
    with pytest.raises(ValueError, match="design effect"):
        stats.predictive_value_rate(1, 2, TABLE, deff=0.5)
    with pytest.raises(ValueError, match="more than"):
        stats.rogan_gladen(3, 2, TABLE)


# Krippendorff (2011), Computing Krippendorff's Alpha-Reliability: sections A (two observers, binary) and C (four
# observers, missing values), with the values printed there.
BINARY = [[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]]
FOUR = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
    [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
]


def test_alpha_of_krippendorffs_examples():
    assert stats.krippendorff_alpha(BINARY, range(10)).value == pytest.approx(0.095, abs=5e-4)
    assert stats.krippendorff_alpha(FOUR, range(12)).value == pytest.approx(0.743, abs=5e-4)


def alpha_by_pairs(ratings):
    """From its meaning: disagreement of pairs within units over that of pairs drawn from all of them."""
    units = [[v for v in column if not math.isnan(v)] for column in zip(*ratings, strict=True)]
    units = [unit for unit in units if len(unit) > 1]
    pairs = [(i, j, unit) for unit in units for i in range(len(unit)) for j in range(len(unit)) if i != j]
    everything = [v for unit in units for v in unit]
    n = len(everything)
    observed = sum((unit[i] != unit[j]) / (len(unit) - 1) for i, j, unit in pairs) / n
    expected = sum(v != w for v in everything for w in everything) / (n * (n - 1))
    return 1 - observed / expected


def test_alpha_kappa_and_their_jackknife_by_brute_force():
    rng = np.random.default_rng(5)
    for _ in range(20):
        raters, n = int(rng.integers(2, 5)), 24
        ratings = rng.integers(0, 2, size=(raters, n)).astype(float)
        ratings[:, : n // 2] = ratings[0, : n // 2]
        ratings[rng.random(ratings.shape) < 0.15] = NAN
        clusters = np.arange(n) % 6
        found = stats.krippendorff_alpha(ratings, clusters)
        assert found.value == pytest.approx(alpha_by_pairs(ratings.tolist()))
        left = np.array([alpha_by_pairs(ratings[:, clusters != c].tolist()) for c in range(6)])
        se = math.sqrt(5 / 6 * ((left - left.mean()) ** 2).sum())
        assert found.se == pytest.approx(se)
        width = 2.570582 * se / (1 - found.value)  # t, 5 degrees of freedom, for log(1 - alpha)
        assert math.log((1 - found.lo) / (1 - found.value)) == pytest.approx(width, rel=1e-6) or found.lo == -1.0
        assert math.log((1 - found.value) / (1 - found.hi)) == pytest.approx(width, rel=1e-6)
        both = ~np.isnan(ratings[:2]).any(axis=0)

        def kappa(chosen, ratings=ratings):
            a, b = ratings[0, chosen] == 1, ratings[1, chosen] == 1
            return stats.cohen_kappa(*(int(x.sum()) for x in (a & b, a & ~b, ~a & b, ~a & ~b)))

        pair = stats.clustered_kappa(ratings[0], ratings[1], clusters)
        assert pair.value == pytest.approx(kappa(both))
        left = np.array([kappa(both & (clusters != c)) for c in range(6)])
        assert pair.se == pytest.approx(math.sqrt(5 / 6 * ((left - left.mean()) ** 2).sum()))


def test_alpha_edges():
    perfect = stats.krippendorff_alpha([[1, 0, 1, 0], [1, 0, 1, 0]], [0, 1, 2, 3])
    assert (perfect.value, perfect.se, perfect.lo, perfect.hi) == (1.0, 0.0, 1.0, 1.0)
    # Without one of its clusters nothing would be left to disagree about.
    assert math.isnan(stats.krippendorff_alpha([[1, 0, 1], [1, 0, 1]], [0, 1, 2]).lo)
    single = stats.krippendorff_alpha(BINARY, [7] * 10)
    assert single.value == pytest.approx(0.095, abs=5e-4)
    assert math.isnan(single.lo)
    for nothing in ([[1, 1], [1, 1]], [[1, NAN], [NAN, 1]], [[NAN], [NAN]], np.zeros((2, 0))):
        assert math.isnan(stats.krippendorff_alpha(nothing, range(np.shape(nothing)[1])).value)
    # A unit with one value and a cluster without pairs change nothing.
    more = [[*BINARY[0], 1, NAN], [*BINARY[1], NAN, NAN]]
    assert stats.krippendorff_alpha(more, range(12)) == stats.krippendorff_alpha(BINARY, range(10))
    with pytest.raises(ValueError, match="two dimensions"):
        stats.krippendorff_alpha([1, 2], [0, 1])
    with pytest.raises(ValueError, match="clusters of shape"):
        stats.krippendorff_alpha(BINARY, [0])
    with pytest.raises(ValueError, match="0, 1 or NaN"):
        stats.clustered_kappa([2, 0], [1, 0], [0, 1])


@pytest.mark.parametrize("shape", [(12, 8), (40, 5), (138, 5)], ids=str)  # videos, answers of each
@pytest.mark.parametrize("easy", [2.2, 3.5])
def test_the_intervals_of_alpha_and_kappa_cover_with_answers_that_share_videos(shape, easy):
    """Truth: that of 100,000 answers. Errors of judges, and what is true, are alike within a video."""
    rng = np.random.default_rng(3)

    def draw(videos):
        clusters = np.repeat(np.arange(videos), rng.poisson(shape[1] - 1, videos) + 1)
        truth = rng.random(len(clusters)) < 1 / (1 + np.exp(-0.5 - rng.normal(size=videos)[clusters]))
        wrong = rng.random((3, len(clusters))) < 1 / (1 + np.exp(easy - rng.normal(size=videos)[clusters]))
        ratings = (truth ^ wrong).astype(float)
        ratings[rng.random(ratings.shape) < 0.05] = NAN
        return ratings, clusters

    def both(ratings, clusters):
        return stats.krippendorff_alpha(ratings, clusters), stats.clustered_kappa(*ratings[:2], clusters)

    truth = [e.value for e in both(*draw(100_000 // shape[1]))]
    held = np.array(
        [[e.lo <= t <= e.hi for e, t in zip(both(*draw(shape[0])), truth, strict=True)] for _ in range(1000)]
    )
    assert (held.mean(axis=0) > 0.93).all(), held.mean(axis=0)
    assert (held.mean(axis=0) < 0.97).all(), held.mean(axis=0)
