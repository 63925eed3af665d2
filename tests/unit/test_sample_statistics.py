"""avg@K, maj@K and pass@k against brute force, and hand-worked values."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from leaderboards.sampled import vote_of
from leaderboards.stats import average_credits, majority_credit, pass_at_k, shown_k
from seedbench_r1.scoring import to_record
from seedbench_r1.types import Generation, Question


def test_pass_at_k_is_the_share_of_subsets_with_a_right_one():
    for n in range(1, 8):
        for correct in range(n + 1):
            drawn = [i < correct for i in range(n)]
            for k in range(1, n + 1):
                subsets = list(itertools.combinations(drawn, k))
                assert pass_at_k(n, correct, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)


def test_pass_at_k_of_numbers_that_cannot_be():
    for n, correct, k in ((4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5)):
        with pytest.raises(ValueError, match="pass@"):
            pass_at_k(n, correct, k)


@pytest.mark.parametrize(
    ("answers", "credits", "expected"),
    [
        ("AAB", (1, 1, 0), 1.0),
        ("ABB", (1, 0, 0), 0.0),
        ("AB", (1, 0), 0.5),  # one of two equally frequent answers is drawn
        ("AABBC", (1, 1, 0, 0, 0), 0.5),
        ("ABCD", (0, 0, 1, 0), 0.25),
        ([None, None, "A"], (0, 0, 1), 1.0),  # what could not be read does not vote
        ([None, None], (0, 0), 0.0),
        (["7.5", "8", "8"], (1.0, 0.4, 0.4), 0.4),
    ],
)
def test_the_majority_by_hand(answers, credits, expected):
    assert majority_credit(list(answers), credits) == pytest.approx(expected, abs=1e-12)


def test_the_majority_is_that_of_drawing_among_the_winners():
    random = np.random.default_rng(3)
    for _ in range(200):
        size = int(random.integers(1, 9))
        answers = [None if x == 4 else "ABCD"[x] for x in random.integers(0, 5, size)]
        credits = [float(answer == "B") for answer in answers]
        counts = {answer: answers.count(answer) for answer in set(answers) - {None}}
        winners = [answer for answer, count in counts.items() if count == max(counts.values())]
        expected = float(np.mean([answer == "B" for answer in winners])) if winners else 0.0
        assert majority_credit(answers, credits) == pytest.approx(expected, abs=1e-12)


def test_averages_and_which_k_are_shown():
    assert average_credits([[1, 0, 0.5], [1, 1, 0.0]]).tolist() == [1.0, 0.5, 0.25]
    assert [shown_k(n) for n in (1, 2, 3, 8, 10)] == [(1,), (1, 2), (1, 2, 3), (1, 2, 4, 8), (1, 2, 4, 8, 10)]


def test_a_number_is_one_vote_however_it_is_written():
    def question(kind: str, gold: str) -> Question:
        return Question("s/0", "s", "How many?", (), gold, Path("a.mp4"), None, "a", kind=kind)

    def vote(kind: str, gold: str, text: str) -> str | None:
        asked = question(kind, gold)
        answer = Generation(f"<answer>{text}</answer>", (), "stop", None, None, None)
        return vote_of(asked, to_record(asked, answer))

    assert len({vote("numerical", "10", text) for text in ("10", "10.0", "10.001", "ten")}) == 1
    assert vote("numerical", "10", "9") != vote("numerical", "10", "10")
    assert vote("regression", "10", "10.001") != vote("regression", "10", "10")
    assert vote("regression", "10", "many") is None
