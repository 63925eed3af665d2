"""Two runs, question by question: the counts, the tests, and the questions on which they differ."""

from __future__ import annotations

from dataclasses import dataclass
from string import ascii_uppercase

import numpy as np

from leaderboards.board import Board
from leaderboards.outcomes import NO_LETTER, Bools, Measured, QuestionBank
from leaderboards.ranking import JUDGED, compare
from leaderboards.rows import Delta
from leaderboards.shares import has_consistency
from leaderboards.stats import McNemar, mcnemar


@dataclass(frozen=True, slots=True)
class Discordant:
    """A question that only one of the two has right."""

    question_id: str
    gold: str
    first: str | None  # the letter picked; None: no letter could be read
    second: str | None


@dataclass(frozen=True, slots=True)
class LevelComparison:
    """Two runs on the questions of one level that both have answered."""

    level: str
    both: int
    only_first: int
    only_second: int
    neither: int
    difference: Delta  # first - second
    # Supposes independent questions; the p-value of `difference` does not. None: of several samples a question is not
    # right or wrong, and has neither this test nor a place among the counts, which are of the first samples.
    mcnemar: McNemar | None
    discordant: tuple[Discordant, ...]  # in the order of the annotation file; none of several samples
    judged: dict[str, Delta]  # "consistency" and "sound": first - second; empty unless one judge has judged both

    @property
    def n(self) -> int:
        """Questions that both have answered."""
        return self.both + self.only_first + self.only_second + self.neither


def compare_runs(board: Board, first: str, second: str) -> tuple[LevelComparison, ...]:
    """Compare two runs of a board, named by run_id, on each level where they share an answered question."""
    a, b = board.measured[first], board.measured[second]
    same_judge = board.judge_id is not None and a.judge_id == b.judge_id == board.judge_id
    found = []
    for level in board.bank.levels:
        group = board.bank.group(level)
        difference = compare(a, b, group, board.bank)
        if difference is None:
            continue
        # McNemar's counts and the difference are over the same questions.
        common = group & a.outcomes.responded & b.outcomes.responded
        right_a, right_b = a.outcomes.correct & common, b.outcomes.correct & common
        only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
        both = int((right_a & right_b).sum())
        # Positions in the bank, which keeps the order of the annotation file.
        single = not (a.samples or b.samples)
        places = (right_a ^ right_b).nonzero()[0].tolist() if single else []
        found.append(
            LevelComparison(
                level=level,
                both=both,
                only_first=only_a,
                only_second=only_b,
                neither=int(common.sum()) - both - only_a - only_b,
                difference=difference,
                mcnemar=mcnemar(only_a, only_b) if single else None,
                discordant=tuple(_discordant(board, first, second, place) for place in places),
                judged=_judged(a, b, group, board.bank) if same_judge else {},
            )
        )
    return tuple(found)


def _judged(a: Measured, b: Measured, group: Bools, bank: QuestionBank) -> dict[str, Delta]:
    rated = all(has_consistency(m.responses, np.tile(group & bank.choice, m.n_samples)) for m in (a, b))
    found = {measure: compare(a, b, group, bank, measure=measure) for measure in JUDGED} if rated else {}
    return {measure: delta for measure, delta in found.items() if delta is not None}


def _discordant(board: Board, first: str, second: str, place: int) -> Discordant:
    question = board.bank.questions[place]
    a, b = (int(board.measured[run_id].outcomes.picked[place]) for run_id in (first, second))
    return Discordant(question.question_id, question.gold, _letter(a), _letter(b))


def _letter(code: int) -> str | None:
    return None if code == NO_LETTER else ascii_uppercase[code]
