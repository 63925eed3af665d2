"""What every run answered, as arrays over one question bank: all tests, cells and charts count these."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from string import ascii_uppercase

import numpy as np
import numpy.typing as npt

from seedbench_r1.runs.directory import Run
from seedbench_r1.runs.probes import ProbeResult
from seedbench_r1.runs.training_snapshot import TrainingSnapshot
from seedbench_r1.scoring import lacks_reasoning
from seedbench_r1.types import DOMAINS, LEVELS, Question, RunRecord, Verdict

# Codes of Outcomes.outcome. From ANSWERED on, the model produced a response.
ABSENT, UNANSWERED, FAILED, ANSWERED, UNPARSED, TRUNCATED = range(6)
OUTCOME_NAMES = ("absent", "unanswered", "failed", "answered", "unparsed", "truncated")

NO_LETTER = -1  # of Outcomes.picked
NO_VERDICT = -1  # of Outcomes.consistent
UNKNOWN = -1  # of Outcomes.n_tokens

Bools = npt.NDArray[np.bool_]
Values = npt.NDArray[np.bool_] | npt.NDArray[np.float64]  # of answers: right or wrong, or credits from 0 to 1


@dataclass(frozen=True, slots=True)
class QuestionBank:
    """All questions of a board, L1 first, in the order of the annotation files; every array has one entry a question.

    video codes number the source recordings 0..G-1 in the sorted order of their names.
    """

    questions: tuple[Question, ...]
    index: dict[str, int]  # question_id -> position
    level: npt.NDArray[np.str_]
    domain: npt.NDArray[np.str_]  # "" where there is none
    video: npt.NDArray[np.intp]
    choice: Bools  # has options: what judges decide on

    @property
    def suite(self) -> str:
        """That of the questions; runs of one suite share a board."""
        source = self.questions[0].source if self.questions else None
        return "own" if source is not None and source.suite == "own" else "seedbench-r1"

    def group(self, name: str) -> Bools:
        """The questions of a level or of an L3 domain."""
        found: Bools = (self.domain if name in DOMAINS else self.level) == name
        return found

    @property
    def groups(self) -> tuple[str, ...]:
        """Levels, then L3 domains, as far as there are questions of them."""
        levels, domains = set(self.level.tolist()), set(self.domain.tolist())
        # A user's own splits, in the order of the file.
        others = [name for name in dict.fromkeys(self.level.tolist()) if name not in LEVELS]
        return tuple([n for n in LEVELS if n in levels] + others + [n for n in DOMAINS if n in domains])

    @property
    def levels(self) -> tuple[str, ...]:
        """The groups that are levels."""
        return tuple(name for name in self.groups if name not in DOMAINS)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """One run over the bank; every array has one entry a question of the bank."""

    outcome: npt.NDArray[np.int8]  # ABSENT (not of this run), UNANSWERED, FAILED, ANSWERED, UNPARSED, TRUNCATED
    picked: npt.NDArray[np.int8]  # 0..25 for A..Z, NO_LETTER
    correct: Bools  # full credit; False where there is no response
    strict: Bools  # correct by the reference's rule
    consistent: npt.NDArray[np.int8]  # 1 yes, 0 no, NO_VERDICT: not judged, undecided or failed
    bare: Bools  # a response without reasoning, or whose answer could not be read
    n_tokens: npt.NDArray[np.int32]  # generated; UNKNOWN
    credits: npt.NDArray[np.float64]  # 0 to 1; 0 where there is no response

    @property
    def credit(self) -> Values:
        """What accuracy is the mean of: right and wrong where no answer has a credit in between."""
        partly: Bools = (self.credits > 0) & (self.credits < 1)
        return self.credits if partly.any() else self.correct

    @property
    def selected(self) -> Bools:
        """Questions that belong to the run."""
        found: Bools = self.outcome != ABSENT
        return found

    @property
    def responded(self) -> Bools:
        """Questions with a response, right or wrong."""
        found: Bools = self.outcome >= ANSWERED
        return found

    @property
    def judged(self) -> Bools:
        """Responses with a verdict that says yes or no."""
        found: Bools = self.consistent != NO_VERDICT
        return found


@dataclass(frozen=True, slots=True)
class Measured:
    """A run that was read: its directory's content, one judge's verdicts, and both as arrays."""

    run_id: str  # the directory's name; with its parent's where two runs share a name
    run: Run
    judge_id: str | None  # None: not judged (or not by the judge asked for)
    verdicts: dict[str, Verdict]  # of that judge, by question_id
    outcomes: Outcomes
    snapshot: TrainingSnapshot | None = None  # of the checkpoint's training; None: nothing is known of it
    probes: Mapping[str, Mapping[str, ProbeResult]] = field(default_factory=dict)  # probe_id -> question_id -> result


def build_bank(runs: Iterable[Run]) -> QuestionBank:
    """The questions of all runs, each once; the first run that has a question gives its text."""
    merged: dict[str, Question] = {}
    for run in runs:
        if run.questions.keys() - merged.keys():
            first, second = (run.questions, merged) if len(run.questions) > len(merged) else (merged, run.questions)
            merged = {**first, **second}
    rank = {level: place for place, level in enumerate(LEVELS)}
    questions = tuple(sorted(merged.values(), key=lambda question: rank.get(question.split, len(rank))))
    # The domains of tables are L3's.
    own = any(question.source is not None and question.source.suite == "own" for question in questions[:1])
    _, video = np.unique(np.array([question.cluster for question in questions], dtype=str), return_inverse=True)
    return QuestionBank(
        questions=questions,
        index={question.question_id: place for place, question in enumerate(questions)},
        level=np.array([question.split for question in questions], dtype=str),
        domain=np.array(["" if own else question.domain or "" for question in questions], dtype=str),
        video=video.astype(np.intp),
        choice=np.array([question.kind == "choice" for question in questions], dtype=np.bool_),
    )


def outcomes_of(run: Run, verdicts: Mapping[str, Verdict], bank: QuestionBank) -> Outcomes:
    """Align a run and one judge's verdicts (by question_id) with the bank. Verdicts on failed questions are void."""
    n = len(bank.questions)
    table = Outcomes(
        outcome=np.full(n, ABSENT, dtype=np.int8),
        picked=np.full(n, NO_LETTER, dtype=np.int8),
        correct=np.zeros(n, dtype=np.bool_),
        strict=np.zeros(n, dtype=np.bool_),
        consistent=np.full(n, NO_VERDICT, dtype=np.int8),
        bare=np.zeros(n, dtype=np.bool_),
        n_tokens=np.full(n, UNKNOWN, dtype=np.int32),
        credits=np.zeros(n, dtype=np.float64),
    )
    table.outcome[[bank.index[question_id] for question_id in run.questions]] = UNANSWERED
    for question_id, record in run.records.items():
        place = bank.index[question_id]
        _fill(table, place, record, verdicts.get(question_id), choice=bool(bank.choice[place]))
    return table


def _fill(table: Outcomes, place: int, record: RunRecord, verdict: Verdict | None, *, choice: bool) -> None:
    score, parsed = record.score, record.parsed
    if score is None:
        table.outcome[place] = FAILED
        return
    table.outcome[place] = _CODES[score.outcome]
    table.correct[place] = score.correct
    table.credits[place] = score.credit
    table.strict[place] = score.strict_correct
    if choice and parsed is not None and parsed.answer is not None:
        table.picked[place] = ascii_uppercase.index(parsed.answer)
    if lacks_reasoning(record):
        table.bare[place] = True
    if verdict is not None and verdict.consistent is not None:
        table.consistent[place] = verdict.consistent
    if record.generation is not None and record.generation.n_tokens is not None:
        table.n_tokens[place] = record.generation.n_tokens


_CODES = {"answered": ANSWERED, "unparsed": UNPARSED, "truncated": TRUNCATED}
