"""Does the reasoning support the answer that was given? Verdicts of a run, one judge at a time, resumable.

A judge sees question, options, reasoning and the answer given: never the gold answer, never the video, never the run's
name. The share of responses judged consistent is the consistency rate of GRPO-CARE (arXiv 2506.16141, section 4.1).
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Protocol

from seedbench_r1.conclusions import RULES_VERSION, settled_option
from seedbench_r1.errors import JudgeUnavailable, ResourceError
from seedbench_r1.files import AppendFile
from seedbench_r1.runs.directory import Run
from seedbench_r1.runs.records import run_identity
from seedbench_r1.runs.verdicts import (
    FAILED,
    FILE,
    NO_ANSWER,
    NO_REASONING,
    UNDECIDED,
    is_settled,
    load_verdicts,
    verdict_line,
)
from seedbench_r1.scoring import lacks_reasoning
from seedbench_r1.types import RunRecord, Verdict

HOPELESS_AFTER = 20  # failed verdicts from the start on, and no other among them


@dataclass(frozen=True, slots=True)
class JudgeCase:
    """What a judge is shown."""

    question_id: str
    question: str
    options: tuple[str, ...]
    reasoning: str
    answer: str

    @property
    def letters(self) -> str:
        """ "ABC" for three options."""
        return ascii_uppercase[: len(self.options)]


class Judge(Protocol):
    """Gives verdicts in any order, as they come. What fails is a verdict with consistent None, never another method."""

    @property
    def judge_id(self) -> str: ...

    def verdicts(self, cases: Iterable[JudgeCase]) -> Iterator[tuple[str, Verdict]]: ...

    def close(self) -> None: ...


class RulesJudge:
    """The embedded default: deterministic, no model. Undecided where no option is settled on."""

    judge_id = f"rules/v{RULES_VERSION}"

    def verdicts(self, cases: Iterable[JudgeCase]) -> Iterator[tuple[str, Verdict]]:
        """One verdict a case, in order."""
        for case in cases:
            settled = settled_option(case.reasoning, case.options)
            if settled is None:
                # Undecided is kept apart from inconsistent, and asked by no one again: the rules do not change.
                yield case.question_id, Verdict(None, UNDECIDED, self.judge_id)
            else:
                reason = f"the reasoning settles on {settled}"
                yield case.question_id, Verdict(settled == case.answer, reason, self.judge_id)

    def close(self) -> None:
        """Nothing is held."""


def judge_run(
    run: Run,
    judge: Judge,
    *,
    limit: int | None = None,
    stop: threading.Event | None = None,
    observe: Callable[[str, Verdict], None] | None = None,
) -> dict[str, Verdict]:
    """Judge every answered question of a run that this judge has not settled yet, and write each verdict as it comes.

    An answer without reasoning, or without a letter, is inconsistent by definition and shown to no judge.

    Args:
        run: its folder gets the verdicts.
        judge: opened.
        limit: at most so many new verdicts from the judge.
        stop: when set, nothing new is begun; what is in flight is saved.
        observe: called with every verdict right after it was written.

    Returns:
        This judge's verdicts on the run, earlier ones included.

    Raises:
        ConfigError: another process judges the same run. ResourceError: disk. JudgeUnavailable: from the judge, or its
            first HOPELESS_AFTER verdicts all failed.
    """
    # Verdicts of other judges stand in the same file and are left alone.
    known = load_verdicts(run.path, run_identity(run.manifest)).get(judge.judge_id, {})
    # Read once at the start: nobody else writes while we hold the file's lock.
    waiting = pending_records(run, known)
    stop = stop or threading.Event()
    try:
        file = AppendFile(run.path, FILE)
    except ResourceError as error:
        raise ResourceError(f"{error} Verdicts are kept in the run: make it writable, or judge a copy.") from error

    # One line for each verdict as it comes, so that a kill loses only what is in flight.
    def write(question_id: str, verdict: Verdict) -> None:
        file.append(verdict_line(question_id, verdict, run_identity(run.manifest)))
        known[question_id] = verdict
        if observe is not None:
            observe(question_id, verdict)

    try:
        for record in waiting:
            if lacks_reasoning(record):
                write(record.question_id, without_judge(record, judge.judge_id))
        # The limit counts questions to the judge; verdicts by definition cost nothing.
        cases = [judge_case(run, record) for record in waiting if not lacks_reasoning(record)][:limit]
        hopeless = threading.Event()
        verdicts = judge.verdicts(_until((stop, hopeless), cases))
        for question_id, verdict in _while_hopeful(verdicts, hopeless, judge.judge_id):
            write(question_id, verdict)
    finally:
        file.close()
    return known


def pending_records(run: Run, known: dict[str, Verdict]) -> list[RunRecord]:
    """Answers to choices without a settled verdict, in the run's order. Of other kinds nothing can be settled on."""
    choices = [question_id for question_id, question in run.questions.items() if question.kind == "choice"]
    records = [run.records[question_id] for question_id in choices if question_id in run.records]
    return [record for record in records if record.answered and not is_settled(known.get(record.question_id))]


def is_case(run: Run, record: RunRecord) -> bool:
    """Whether a judge is asked: an answer to a choice, with reasoning. Others have a verdict by definition or none."""
    choice = run.questions[record.question_id].kind == "choice"
    return choice and record.answered and not lacks_reasoning(record)


def judge_case(run: Run, record: RunRecord) -> JudgeCase:
    """The case of a record that has reasoning and an answer. Raises ValueError if it has not."""
    question, parsed = run.questions[record.question_id], record.parsed
    if parsed is None or not parsed.reasoning or parsed.answer is None:
        raise ValueError(f"{record.question_id} has nothing to judge")
    return JudgeCase(record.question_id, question.text, question.options, parsed.reasoning, parsed.answer)


def without_judge(record: RunRecord, judge_id: str) -> Verdict:
    """The verdict on an answer without reasoning, or reasoning without a readable answer."""
    # Two reasons, so that the report can say how many answers had none of either.
    reasoned = record.parsed is not None and record.parsed.reasoning
    return Verdict(False, NO_ANSWER if reasoned else NO_REASONING, judge_id)


def failure_of(verdict: Verdict) -> str | None:
    """Why a verdict failed; None if it did not."""
    return None if is_settled(verdict) else verdict.reason.removeprefix(FAILED)


def majority(votes: Sequence[bool]) -> bool | None:
    """The verdict of several votes; None for a tie or no votes."""
    yes = sum(votes)
    # A tie is undecided: which side would win must not depend on the order of votes.
    return None if 2 * yes == len(votes) else 2 * yes > len(votes)


def flip_rate(verdicts: Iterable[Verdict]) -> tuple[int, int]:
    """(cases whose votes disagree, cases with at least two votes)."""
    voted = [verdict for verdict in verdicts if len(verdict.votes) > 1]
    return sum(len(set(verdict.votes)) > 1 for verdict in voted), len(voted)


def blinded_id(run_path: Path, question_id: str) -> str:
    """Names a row for human labels without giving away run or question."""
    # The run's name, not its path: sheets are filled in on other machines.
    return hashlib.sha256(f"{run_path.name}/{question_id}".encode()).hexdigest()[:12]


def _until(stops: Sequence[threading.Event], cases: Iterable[JudgeCase]) -> Iterator[JudgeCase]:
    for case in cases:
        # Before each case, so that what is in flight is finished and nothing new begins.
        if any(stop.is_set() for stop in stops):
            return
        yield case


def _while_hopeful(
    verdicts: Iterator[tuple[str, Verdict]], hopeless: threading.Event, judge_id: str
) -> Iterator[tuple[str, Verdict]]:
    """The verdicts. Sets `hopeless`, and at the end raises JudgeUnavailable, if the first of them all failed."""
    failures: list[str | None] = []
    for question_id, verdict in verdicts:
        yield question_id, verdict
        if len(failures) < HOPELESS_AFTER:
            failures.append(failure_of(verdict))
        # Thousands more would cost time and money, and fail alike. What is in flight is still saved.
        if len(failures) == HOPELESS_AFTER and None not in failures:
            hopeless.set()
    if hopeless.is_set():
        raise JudgeUnavailable(
            f"The first {HOPELESS_AFTER} verdicts of {judge_id} all failed, the last: {failures[-1]}. No more were "
            f"asked for. Run judge again once that is mended."
        )
