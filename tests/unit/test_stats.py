"""Worked numbers of the statistics; the same file of numbers is read by the tests of the report's script."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from leaderboards import stats

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "stats_vectors.json").read_text(encoding="utf-8"))
NAN = float("nan")


def cases(section: str) -> list[dict]:
    return GOLDEN[section]["cases"]


def near(section: str, value):
    """The printed number, nan for null, to the tolerance of its section."""
    value = NAN if value is None else value
    return pytest.approx(value, rel=0, abs=GOLDEN[section]["tolerance"] * 1.001, nan_ok=True)


@pytest.mark.parametrize("case", cases("wilson"))
def test_wilson_worked(case):
    lo, hi = stats.wilson_interval(case["k"], case["n"], deff=case["deff"])
    assert (lo, hi) == (near("wilson", case["lo"]), near("wilson", case["hi"]))


@pytest.mark.parametrize("case", cases("standard_errors"))
def test_standard_errors_worked(case):
    errors = stats.standard_errors(case["values"], case["clusters"])
    for name in ("mean", "binomial", "cr1"):
        if name in case:
            assert getattr(errors, name) == near("standard_errors", case[name]), name
    if "design_effect" in case:
        assert stats.design_effect(case["values"], case["clusters"]) == near("standard_errors", case["design_effect"])


@pytest.mark.parametrize("case", cases("sign_flip"))
def test_sign_flip_worked(case):
    assert stats.sign_flip_test(case["differences"], case["clusters"]) == near("sign_flip", case["p"])


@pytest.mark.parametrize("case", cases("sign_flip_sampled"))
def test_sampled_sign_flip_is_pinned(case):
    # raw PCG64 words, so the same with every NumPy and in other languages
    state = np.random.PCG64(stats.SEED).state["state"]
    assert (str(state["state"]), str(state["inc"])) == (case["pcg64_state"], case["pcg64_inc"])
    assert stats.sign_flip_test(case["totals"], list(range(len(case["totals"])))) == near(
        "sign_flip_sampled", case["p"]
    )


@pytest.mark.parametrize("case", cases("mcnemar"))
def test_mcnemar_worked(case):
    result = stats.mcnemar(case["b"], case["c"])
    for name in ("exact", "mid_p", "chi2", "chi2_p", "corrected", "corrected_p"):
        assert getattr(result, name) == near("mcnemar", case[name]), name


@pytest.mark.parametrize("case", cases("gap_interval"))
def test_gap_interval_worked(case):
    result = stats.gap_interval(case["k1"], case["n1"], case["k2"], case["n2"])
    assert result == tuple(near("gap_interval", case[name]) for name in ("difference", "lo", "hi"))


@pytest.mark.parametrize("case", cases("adjustment"))
def test_adjustment_worked_in_every_order(case):
    for order in itertools.permutations(range(len(case["p"]))):
        p = [case["p"][i] for i in order]
        for name in ("holm", "benjamini_hochberg"):
            adjusted = getattr(stats, name)(p).tolist()
            assert adjusted == [near("adjustment", case[name][i]) for i in order]


@pytest.mark.parametrize("case", cases("kappa"))
def test_kappa_worked(case):
    table = tuple(case[name] for name in ("yy", "yn", "ny", "nn"))
    result = stats.kappa_interval(*table)
    assert stats.cohen_kappa(*table) == result.value == near("kappa", case["kappa"])
    assert (result.se, result.lo, result.hi) == tuple(near("kappa", case[name]) for name in ("se", "lo", "hi"))
    assert stats.pabak(*table) == near("kappa", case["pabak"])


@pytest.mark.parametrize("section", ["rogan_gladen", "predictive_value_rate"])
def test_adjusted_rates_worked(section):
    for case in cases(section):
        result = getattr(stats, section)(case["k"], case["n"], tuple(case["table"]))
        for name in ("value", "se", "lo", "hi"):
            assert getattr(result, name) == near(section, case[name]), name
        if "youden" in case:
            youden = stats.sensitivity(*case["table"]) + stats.specificity(*case["table"]) - 1
            assert youden == near(section, case["youden"])


@pytest.mark.parametrize("section", ["minimum_detectable_effect_points", "minimum_detectable_effect_points_of_domains"])
def test_minimum_detectable_effect_worked(section):
    for case in cases(section):
        assert 100 * stats.minimum_detectable_effect(case["n"], case["discordant"]) == near(section, case["points"])


@pytest.mark.parametrize("case", cases("grim"))
def test_grim_worked(case):
    assert stats.grim_counts(case["printed"], case["n"]) == case["counts"]


@pytest.mark.parametrize("case", cases("ranks"))
def test_ranks_and_tiers_worked(case):
    ranks = stats.rank_intervals(case["differences"], case["p_adjusted"])
    assert [list(rank) for rank in ranks] == case["ranks"]
    assert stats.tiers(case["scores"], case["differences"], case["p_adjusted"]) == case["tiers"]
