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
