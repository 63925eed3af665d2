"""The held-out questions of a training: what is reported of their answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from seedbench_r1.types import Question
from trainers.groups import Rollout
from trainers.heldout import consistent_by_rules, heldout_metrics

QUESTION = Question("train/1", "train", "?", ("wash the cup", "open the box", "c", "d"), "A", Path("v"), None, "v")


@pytest.mark.parametrize(
    ("text", "consistent"),
    [
        ("<think>So I should wash the cup.</think><answer>A</answer>", True),
        ("<think>So I should open the box.</think><answer>A</answer>", False),
        ("<think>Who knows?</think><answer>A</answer>", None),
        ("<think></think><answer>A</answer>", False),
        ("<think>So I should wash the cup.</think>", False),
    ],
)
def test_a_rollout_is_judged_as_the_rules_judge_does(text, consistent):
    assert consistent_by_rules(QUESTION, Rollout((), text, "stop")) is consistent


def test_of_other_kinds_no_judge_says_anything():
    number = replace(QUESTION, kind="numerical", options=(), gold="3")
    for text in ("<think>Three cups.</think><answer>3</answer>", "<think></think><answer>3</answer>", "3"):
        assert consistent_by_rules(number, Rollout((), text, "stop")) is None


def test_shares_by_hand():
    answers = [
        {"accuracy": 1.0, "format": 1.0, "consistent": True},
        {"accuracy": 1.0, "format": 1.0, "consistent": False},
        {"accuracy": 0.0, "format": 1.0, "consistent": False},
        {"accuracy": 0.0, "format": 0.0, "consistent": None},
    ]
    expected = {"n": 4, "accuracy": 0.5, "format": 0.75, "consistency": 1 / 3, "undecided": 1}
    assert heldout_metrics(answers) == expected
    assert heldout_metrics([]) == {"n": 0, "accuracy": None, "format": None, "consistency": None, "undecided": 0}
    assert heldout_metrics(answers[3:])["consistency"] is None
