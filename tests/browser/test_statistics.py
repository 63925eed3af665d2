"""The page's statistics and the Python package's give the same numbers on the same vectors."""

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from leaderboards.stats import (
    SEED,
    benjamini_hochberg,
    holm,
    mcnemar,
    paired_interval,
    sign_flip_test,
)

VECTORS = json.loads((Path(__file__).parents[1] / "golden" / "stats_vectors.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def call(browser):
    """call(code, *arguments): the value of a JavaScript expression over the page's statistics; `a` holds arguments."""
    source = resources.files("leaderboards.draw").joinpath("static", "stats.js").read_text(encoding="utf-8")
    state = np.random.PCG64(SEED).state["state"]
    signs = f"new SignSums('{state['state']:x}', '{state['inc']:x}')"
    browser.get("about:blank")

    def run(code, *arguments):
        return browser.execute_script(
            f"const a = arguments; {source}; const signs = {signs}; return {code};", *arguments
        )

    return run


def test_shared_vectors(call):
    for case in VECTORS["mcnemar"]["cases"]:
        found = call("mcnemar(a[0], a[1])", case["b"], case["c"])
        assert (found["exact"], found["midP"]) == pytest.approx((case["exact"], case["mid_p"]), abs=1e-6)
    for case in VECTORS["adjustment"]["cases"]:
        assert call("holm(a[0])", case["p"]) == pytest.approx(case["holm"], abs=1e-6)
        found = call("benjaminiHochberg(a[0])", case["p"])
        assert found == pytest.approx(case["benjamini_hochberg"], abs=1e-5)
    for case in VECTORS["standard_errors"]["cases"]:
        assert call("standardErrors(a[0], a[1]).se", case["values"], case["clusters"]) == pytest.approx(
            case["cr1"], abs=1e-6
        )
    for case in VECTORS["sign_flip"]["cases"]:
        assert call("signFlip(a[0], a[1], signs)", case["differences"], case["clusters"]) == case["p"]
    for case in VECTORS["sign_flip_sampled"]["cases"]:
        clusters = list(range(len(case["totals"])))
        assert call("signFlip(a[0], a[1], signs)", case["totals"], clusters) == pytest.approx(case["p"], abs=1e-12)
        words = call("(() => { const g = signs.source; return [g.word(), g.word(), g.word()]; })()")
        assert [f"{high:08x}{low:08x}" for low, high in words] == case["first_words"]


@pytest.mark.parametrize("n_clusters", [1, 2, 9, 14, 15, 29, 138, 700])
def test_random_answers(call, n_clusters):
    numbers = np.random.default_rng(n_clusters)
    n = 3 * n_clusters
    clusters = numbers.integers(0, n_clusters, n)
    first, second = (numbers.random((2, n)) < [[0.6], [0.5]]).astype(int)
    differences = first - second
    found = call(
        "(() => { const i = pairedInterval(a[0], a[1]); return {mean: i.mean, lo: i.lo, hi: i.hi, se: i.se,"
        "g: i.nClusters, p: signFlip(a[0], a[1], signs)}; })()",
        differences.tolist(),
        clusters.tolist(),
    )
    expected = paired_interval(differences, clusters)
    assert found["g"] == expected.n_clusters
    for name in ("mean", "lo", "hi", "se"):
        value = getattr(expected, name)
        assert found[name] == pytest.approx(value, abs=1e-12) if not np.isnan(value) else found[name] is None
    assert found["p"] == sign_flip_test(differences, clusters)


@pytest.mark.parametrize("n_clusters", [3, 14, 29, 138])
@pytest.mark.parametrize("parts", [3, 8, 10])
def test_means_of_several_samples(call, n_clusters, parts):
    """Differences in between, some of which cancel but for their last bit."""
    numbers = np.random.default_rng(n_clusters * parts)
    n = 3 * n_clusters
    clusters = numbers.integers(0, n_clusters, n)
    first, second = numbers.integers(0, parts + 1, (2, n)) / parts
    differences = first - second
    found = call("signFlip(a[0], a[1], signs)", differences.tolist(), clusters.tolist())
    assert found == sign_flip_test(differences, clusters)


@pytest.mark.parametrize("clusters", [[0], [0, 0, 0, 1], list(range(12))])
@pytest.mark.parametrize("value", [0, 1, -1])
def test_equal_differences(call, clusters, value):
    differences = [value] * len(clusters)
    found = call("(() => { const i = pairedInterval(a[0], a[1]); return [i.lo, i.hi]; })()", differences, clusters)
    expected = paired_interval(differences, clusters)
    assert found == pytest.approx([expected.lo, expected.hi], abs=1e-12)


def test_random_counts(call):
    numbers = np.random.default_rng(0)
    for b, c in [(0, 0), (0, 1), (7, 7), (300, 250), *numbers.integers(0, 900, (20, 2)).tolist()]:
        expected = mcnemar(b, c)
        found = call("mcnemar(a[0], a[1])", b, c)
        assert (found["exact"], found["midP"]) == pytest.approx((expected.exact, expected.mid_p), abs=1e-10)
    p = (0.08 * numbers.random(25) ** 2).round(3).tolist()  # small enough that few are capped at 1; some are equal
    assert call("holm(a[0])", p) == pytest.approx(holm(p).tolist(), abs=1e-15)
    assert call("benjaminiHochberg(a[0])", p) == pytest.approx(benjamini_hochberg(p).tolist(), abs=1e-15)
