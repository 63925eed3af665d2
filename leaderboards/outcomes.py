"""What every run answered, as arrays over one question bank: all tests, cells and charts count these."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from string import ascii_uppercase
from typing import Any

import numpy as np
import numpy.typing as npt

from leaderboards.sampled import SampleNumbers
from leaderboards.suites import SUITES, TOY, BoardSuite
from seedbench_r1.runs.directory import Run
from seedbench_r1.runs.probes import ProbeResult
from seedbench_r1.runs.training_snapshot import TrainingSnapshot
from seedbench_r1.scoring import lacks_reasoning
from seedbench_r1.types import DOMAINS, Question, RunRecord, Verdict

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
    """All questions of a board, split by split, in the order of their files; every array has one entry a question.

    video codes number the source recordings 0..G-1 in the sorted order of their names.
    """

    suite: BoardSuite  # of all runs
    questions: tuple[Question, ...]
    index: dict[str, int]  # question_id -> position
    level: npt.NDArray[np.str_]  # the column's name: a level, a split of one's own, a benchmark
    domain: npt.NDArray[np.str_]  # "" where there is none
    video: npt.NDArray[np.intp]
    choice: Bools  # has options: what judges decide on

    @property
    def is_toy(self) -> bool:
        """Whether a question is of a toy world."""
        return any(question.source is not None and question.source.origin == TOY for question in self.questions)

    def repeated(self, count: int) -> QuestionBank:
        """The same arrays `count` times in a row, for the responses of as many samples."""
        if count == 1:
            return self
        arrays: dict[str, Any] = {
            name: np.tile(getattr(self, name), count) for name in ("level", "domain", "video", "choice")
        }
        return replace(self, **arrays)

    def group(self, name: str) -> Bools:
        """The questions of a level or of an L3 domain."""
        found: Bools = (self.domain if name in DOMAINS else self.level) == name
        return found

    @property
    def groups(self) -> tuple[str, ...]:
        """Levels, then L3 domains, as far as there are questions of them."""
        domains = set(self.domain.tolist())
        return (*dict.fromkeys(self.level.tolist()), *(name for name in DOMAINS if name in domains))

    @property
    def levels(self) -> tuple[str, ...]:
        """The groups that are levels."""
        return tuple(name for name in self.groups if name not in DOMAINS)


@dataclass(frozen=True, slots=True)
class SampleCounts:
    """How many of a question's K samples are what; arrays (n,) of int."""

    k: int
    judged: npt.NDArray[np.intp]  # have a verdict
    consistent: npt.NDArray[np.intp]
    sound: npt.NDArray[np.intp]  # right and consistent
    right_unjudged: npt.NDArray[np.intp]

    def share_of(self, counted: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
        """Of the samples with a verdict; 0 where none has one."""
        found: npt.NDArray[np.float64] = counted / np.maximum(self.judged, 1)
        return found


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
    counts: SampleCounts | None = None  # of several samples; None: one answer to each question

    @property
    def consistency(self) -> Values:
        """What the consistency rate is the mean of, where `judged`: of several samples the share of the judged ones."""
        if self.counts is not None:
            return self.counts.share_of(self.counts.consistent)
        found: Bools = self.consistent == 1
        return found

    @property
    def soundness(self) -> Values:
        """What sound accuracy is the mean of, where `judged`."""
        if self.counts is not None:
            return self.counts.share_of(self.counts.sound)
        found: Bools = (self.consistent == 1) & self.correct
        return found

    @property
    def settled(self) -> Bools:
        """Responses that lack no verdict, in no sample."""
        found: Bools = self.judged if self.counts is None else self.counts.judged == self.counts.k
        return found

    @property
    def credit(self) -> Values:
        """What accuracy is the mean of: right and wrong where no answer has a credit in between."""
        if self.counts is not None:
            return self.credits
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
        """Responses with a verdict that says yes or no; of several samples, in any of them."""
        found: Bools = self.consistent != NO_VERDICT if self.counts is None else self.counts.judged > 0
        return found


@dataclass(frozen=True, slots=True)
class Measured:
    """A run that was read: its directory's content, one judge's verdicts, and both as arrays."""

    run_id: str  # the directory's name; with its parent's where two runs share a name
    run: Run  # of several samples the first one, whose texts are shown
    judge_id: str | None  # None: not judged (or not by the judge asked for)
    verdicts: dict[str, Verdict]  # of that judge, by question_id
    outcomes: Outcomes  # of several samples their means: see `together`
    snapshot: TrainingSnapshot | None = None  # of the checkpoint's training; None: nothing is known of it
    probes: Mapping[str, Mapping[str, ProbeResult]] = field(default_factory=dict)  # probe_id -> question_id -> result
    samples: tuple[Outcomes, ...] = ()  # of several samples each one's
    seeds: tuple[int, ...] = ()  # theirs
    sampled: Mapping[str, SampleNumbers] = field(default_factory=dict)  # level -> avg@K, maj@K, pass@k

    @property
    def n_samples(self) -> int:
        """Answers to each question."""
        return len(self.samples) or 1

    @property
    def responses(self) -> Outcomes:
        """Every response of every sample; arrays n_samples times as long as the bank's."""
        return end_to_end(self.samples) if self.samples else self.outcomes


def build_bank(runs: Iterable[Run]) -> QuestionBank:
    """The questions of all runs, each once; the first run that has a question gives its text."""
    merged: dict[str, Question] = {}
    suite = SUITES["seedbench-r1"]
    for run in runs:
        suite = SUITES[run.manifest.suite]
        if run.questions.keys() - merged.keys():
            first, second = (run.questions, merged) if len(run.questions) > len(merged) else (merged, run.questions)
            merged = {**first, **second}
    splits = dict.fromkeys(question.split for question in merged.values())
    rank = {name: place for place, name in enumerate(dict.fromkeys((*suite.known, *map(suite.column, splits))))}
    # Split by split also where a user's file mixes them: the columns follow this order.
    questions = tuple(sorted(merged.values(), key=lambda question: rank[suite.column(question.split)]))
    _, video = np.unique(np.array([question.cluster for question in questions], dtype=str), return_inverse=True)
    return QuestionBank(
        suite=suite,
        questions=questions,
        index={question.question_id: place for place, question in enumerate(questions)},
        level=np.array([suite.column(question.split) for question in questions], dtype=str),
        domain=np.array([(question.domain or "") if suite.has_levels else "" for question in questions], dtype=str),
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


def end_to_end(samples: Sequence[Outcomes]) -> Outcomes:
    """All samples' arrays one after the other."""
    arrays: dict[str, Any] = {name: np.concatenate([getattr(table, name) for table in samples]) for name in _ARRAYS}
    return Outcomes(**arrays)


def together(samples: Sequence[Outcomes]) -> Outcomes:
    """K samples as one run, question by question.

    Values are means over the samples: `credit`, `consistency`, `soundness`. A question has an answer where every sample
    has one. What has no mean (letter, right or wrong, verdict, length) is the first sample's, whose text is shown.
    """
    first = samples[0]
    stacked: dict[str, Any] = {name: np.stack([getattr(table, name) for table in samples]) for name in _ARRAYS}
    missing = (stacked["outcome"] < ANSWERED).any(axis=0)
    failed = (stacked["outcome"] == FAILED).any(axis=0)
    outcome = np.where(missing, np.where(failed, FAILED, UNANSWERED), first.outcome)
    judged, consistent, right = stacked["consistent"] != NO_VERDICT, stacked["consistent"] == 1, stacked["correct"]
    return replace(
        first,
        outcome=np.where(first.outcome == ABSENT, ABSENT, outcome).astype(np.int8),
        credits=stacked["credits"].mean(axis=0),
        counts=SampleCounts(
            len(samples),
            judged=judged.sum(axis=0),
            consistent=consistent.sum(axis=0),
            sound=(consistent & right).sum(axis=0),
            right_unjudged=(right & ~judged).sum(axis=0),
        ),
    )


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


_ARRAYS = [f.name for f in fields(Outcomes) if f.name != "counts"]
_CODES = {"answered": ANSWERED, "unparsed": UNPARSED, "truncated": TRUNCATED}
