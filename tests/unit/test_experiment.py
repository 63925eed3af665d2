"""The tables of an experiment, by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest

from seedbench_r1.demo.rollout_log import below_cap
from seedbench_r1.demo.rollout_log import markdown as likelihood_table
from seedbench_r1.experiments.comparison import Measured, cell, difference, pairs
from seedbench_r1.experiments.tables import comparison_tables


def measured(accuracy, consistency):
    accuracy, consistency = np.array(accuracy, float), np.array(consistency, float)
    conclusion, silent = accuracy * np.array([1, 0, 0, 1, 1]), (1 - accuracy) * np.array([0, 1, 0, 0, 0])
    return Measured(
        columns=("L1", "L2", "L3"),
        splits=np.array(["L1", "L1", "L1", "L2", "L3"]),
        videos=np.array(["a", "a", "b", "c", "d"]),
        values={
            "accuracy": accuracy,
            "consistency": consistency,
            "sound": accuracy * consistency,
            "conclusion": conclusion,
            "silent": silent,
            "lucky": accuracy * (1 - conclusion - silent),
        },
        agreement={"rules": 1.0},
        words=10.0,
    )


def by_seed(*runs):
    return dict(enumerate(runs))


def test_cells_and_differences_by_hand():
    ours = by_seed(measured([1, 1, 1, 1, 0], [1, 1, 1, 1, 1]), measured([1, 1, 0, 1, 0], [1, 1, 0, 1, 1]))
    theirs = by_seed(measured([0, 0, 1, 1, 0], [1, 0, 0, 0, 1]), measured([0, 1, 0, 1, 0], [0, 0, 0, 1, 1]))
    found = cell(ours, "accuracy", "L1")
    assert found.mean == pytest.approx((1 + 1 + 0.5) / 3)
    assert found.seeds == pytest.approx((1.0, 2 / 3))
    assert cell(ours, "sound", "all").mean == pytest.approx((4 / 5 + 3 / 5) / 2)
    gain, p = difference(pairs(ours, theirs), "accuracy", "L1")
    assert gain.mean == pytest.approx((1 + 0.5 + 0) / 3)
    assert gain.seeds == pytest.approx((2 / 3, 1 / 3))
    # sums over seeds and questions by video: a 3, b 0; |T| = 3 under all four sign patterns
    assert p == 1.0
    _, p = difference(pairs(ours, theirs), "consistency", "all")
    # by video: a 2 + 1 = 3 (questions 1 and 2), b 1, c 1, d 0: |T| = 5 in 4 of 16 patterns
    assert p == pytest.approx(4 / 16)


def test_pairs_go_by_seed_and_a_model_without_one_is_compared_with_each():
    one, two, three = (measured([number, 0, 0, 0, 0], [0] * 5) for number in (0, 1, 0.5))
    assert pairs({0: one, 1: two}, {1: three, 2: one}) == [(two, three)]
    assert pairs({0: one, 1: two}, {None: three}) == [(one, three), (two, three)]
    assert pairs({None: one}, {0: two}) == []
    assert pairs({0: one}, {}) == []


def test_the_tables_name_every_variant_and_its_seeds():
    runs = by_seed(measured([1, 0, 1, 1, 0], [1, 1, 1, 1, 1]), measured([1, 1, 0, 1, 0], [1, 1, 0, 1, 1]))
    means, gains, singles = comparison_tables({"start": {None: runs[0]}, "grpo": runs, "care": runs}, "grpo")
    assert "|  | runs | L1 accuracy | L2 accuracy | L3 accuracy | consistency |" in means
    assert "| care | 2 | 66.7 [" in means
    assert "| start | 1 | 66.7 [" in means
    # consistent in 5 and 4 of 5; sound in 3 and 3; concluding the right one in 2 and 2, nothing in 1 and 0; so a wrong
    # one in 2 and 3, of which 1 and 1 answer right
    details = "60.0 | 40.0 | 10.0 | 40.0 | 100.0 | 10.0"
    assert (
        "| sound | right conclusion | no conclusion | right after a wrong one | rules judge agrees | words |" in singles
    )
    assert f"| care | 66.7 66.7 | 100.0 100.0 | 0.0 0.0 | 100.0 80.0 | {details} |" in singles
    assert "| care | +0.0 [-87.1, +87.1], p = 1.000" in gains  # two videos of 2 and 1 questions: worth 1.8
    assert "start" not in gains


def test_the_tables_of_a_suite_without_a_judge():
    plain = replace(
        measured([1, 0, 0.5, 1, 0], [0] * 5), values={"accuracy": np.array([1, 0, 0.5, 1, 0])}, agreement={}
    )
    means, gains, singles = comparison_tables({"start": {None: plain}, "care": {7: plain}}, "start")
    assert "consistency" not in means + gains + singles
    assert "words" not in singles
    assert "| care | 50.0 | 100.0 | 0.0 |" in singles
    assert "| care | +0.0 [" in gains


def rollout(step, concluded, answer, likelihood, accuracy=1.0):
    text = f"<think>So I should {concluded}.</think><answer> {answer} </answer>"
    return {"step": step, "text": text, "accuracy": accuracy, "likelihood": likelihood}


def test_rollouts_below_the_cap_by_hand(tmp_path):
    rows = [
        rollout(1, "fill the cup", "fill the cup", 0.99),
        rollout(1, "fill the cup", "empty the cup", 0.5),
        rollout(2, "fill the cup", "empty the cup", 0.96),
        rollout(2, "fill the cup", "empty the cup", 0.5, accuracy=0.0),
        rollout(3, "cup", "empty the cup", 0.94),
        rollout(3, "fill the cup", "empty the cup", None),
    ]
    (tmp_path / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert below_cap(tmp_path) == {
        "the answer": [(0, 1), (0, 0), (0, 0)],
        "another action": [(1, 1), (0, 1), (0, 0)],
        "nothing": [(0, 0), (0, 0), (1, 1)],
    }
    text = likelihood_table({"grpo": [tmp_path / "none"], "care": [tmp_path, tmp_path]})
    assert "| care | another action | 2 of 2 | 0 of 2 | 0 of 0 |" in text
    assert "grpo" not in text
    assert likelihood_table({"grpo": [tmp_path / "none"]}) == ""
