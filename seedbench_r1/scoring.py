"""Results -> records -> counts. How an answer is read and scored follows from its kind (kinds.py), in every suite."""

from __future__ import annotations

import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from seedbench_r1.kinds import parse, score
from seedbench_r1.parsing import parse_response
from seedbench_r1.types import (
    LETTERS,
    Failure,
    Generation,
    Media,
    Outcome,
    Question,
    Request,
    RunRecord,
)

GroupOf = Callable[[Question], str | None]

_LONGEST_LETTER = 40  # characters: a letter with parentheses, emphasis, a stop, or inside an answer tag


@dataclass(frozen=True, slots=True)
class GroupSummary:
    """Counts of one split, domain or kind."""

    n: int  # questions in the file, whatever was run
    selected: int  # questions that belong to this run: n, or fewer under --limit (a SUBSET, never ranked)
    answered: int  # questions with a response
    correct: float  # sum of the credits: a whole number for choices
    strict_correct: float  # the same by the reference's rule
    unparsed: int
    truncated: int
    failed: int  # questions whose last attempt failed
    format_ok: int

    @property
    def accuracy(self) -> float:
        """correct / selected as a fraction; nan for none. Unparsed, truncated and unanswered count as wrong."""
        return self.correct / self.selected if self.selected else float("nan")

    @property
    def strict_accuracy(self) -> float:
        """strict_correct / selected as a fraction; nan for none."""
        return self.strict_correct / self.selected if self.selected else float("nan")

    @property
    def is_complete(self) -> bool:
        """Whether every question of this run has an answer."""
        return self.answered == self.selected


@dataclass(frozen=True, slots=True)
class ReasoningProfile:
    """What the reasoning of a run looks like: the collapses that users report show here first."""

    n: int  # answered questions
    empty: int  # no think block, or nothing in it
    letter_only: int  # the reasoning is nothing but an option's letter
    median_words: float  # of the reasoning that is not empty; nan if all is


@dataclass(frozen=True, slots=True)
class RunSummary:
    """Counts of a whole run. status is "complete", "incomplete" or "subset"."""

    status: Literal["complete", "incomplete", "subset"]
    splits: dict[str, GroupSummary]
    groups: dict[str, dict[str, GroupSummary]] = field(default_factory=dict)  # split -> domain or kind -> counts

    @property
    def pending(self) -> int:
        return sum(split.selected - split.answered for split in self.splits.values())


def to_record(
    question: Question,
    result: Generation | Failure,
    media: Request | Media | None = None,
) -> RunRecord:
    """Parse and score a result. media: what was shown, for the reader that decoded it."""
    record = RunRecord(
        question_id=question.question_id,
        split=question.split,
        domain=question.domain,
        cluster=question.cluster,
        failure=result if isinstance(result, Failure) else None,
        reader=media.reader if media else None,
        reader_note=media.reader_note if media else None,
    )
    # A failure has no score: counting it as wrong would hide that the machine failed, not the model.
    if isinstance(result, Failure):
        return record
    return reread(replace(record, generation=result), question)


def reread(record: RunRecord, question: Question) -> RunRecord:
    """An answer read and scored by the present law, whatever an earlier one made of it. Failures stay as they are."""
    generation = record.generation
    if generation is None:
        return record
    parsed = parse(generation.text, question, generation.opened)
    return RunRecord(  # not replace(), which takes three times as long: reports read a hundred thousand
        record.question_id,
        record.split,
        record.domain,
        record.cluster,
        generation,
        parsed,
        score(question, parsed, generation.finish_reason),
        None,
        record.reader,
        record.reader_note,
    )


def by_domain(question: Question) -> str | None:
    """What divides a split of SEED-Bench-R1 in tables: the domain of L3's rows, elsewhere None."""
    return question.domain


def by_kind(question: Question) -> str:
    """What divides a general benchmark in tables: numbers, choices and texts are scored by different rules."""
    return question.kind


def by_domain_or_kind(question: Question) -> str:
    """What divides questions of one's own in tables: their domain, where the file has one, else the kind."""
    return question.domain or question.kind


# Of the suites that are divided by anything but the domain
GROUP_OF: dict[str, GroupOf] = {"transfer": by_kind, "own": by_domain_or_kind}


def summarise(
    records: Mapping[str, RunRecord],
    questions: Iterable[Question],
    n_total: Mapping[str, Mapping[str, int]] | None = None,
    group_of: GroupOf = by_domain,
) -> RunSummary:
    """Count a run, split by split; each split's questions also by what the suite divides it into.

    Args:
        records: the record that counts, by question_id.
        questions: the questions that belong to the run.
        n_total: split -> {"all": N, domain or kind: N} of the files; without it the questions are all there are.
        group_of: what divides a split in tables.

    Returns:
        status is "complete" only if every question of every split has an answer, "subset" if the run never meant to
        ask them all, "incomplete" otherwise.
    """
    splits = defaultdict[str, _Count](_Count)
    groups = defaultdict[str, defaultdict[str, _Count]](lambda: defaultdict(_Count))
    for question in questions:
        record, name = records.get(question.question_id), group_of(question)
        splits[question.split].add(record)
        # Splits that nothing divides (L1, L2) have no groups.
        if name is not None:
            groups[question.split][name].add(record)
    # N comes from the files, not from the questions asked: a subset must not look like the whole.
    sizes = {split: (n_total or {}).get(split, {}) for split in splits}
    counted = {split: count.summary(sizes[split].get("all")) for split, count in splits.items()}
    parts = {
        split: {name: count.summary(sizes[split].get(name)) for name, count in groups[split].items()}
        for split in splits
        if split in groups
    }
    if not all(split.is_complete for split in counted.values()):
        return RunSummary("incomplete", counted, parts)
    subset = any(split.selected < split.n for split in counted.values())
    return RunSummary("subset" if subset else "complete", counted, parts)


def split_sizes(questions: Sequence[Question], group_of: GroupOf = by_domain) -> dict[str, int]:
    """{"all": N, domain or kind: N} of one split."""
    sizes = {"all": len(questions)}
    for question in questions:
        if (name := group_of(question)) is not None:
            sizes[name] = sizes.get(name, 0) + 1
    return sizes


@dataclass(slots=True)
class _Total:
    """A sum of credits that is rounded once, however many there are: nearly all are 0 or 1, and only counted."""

    ones: int = 0
    between: array[float] = field(default_factory=lambda: array("d"))

    def add(self, credit: float) -> None:
        if credit == 1:
            self.ones += 1
        elif credit:
            self.between.append(credit)

    @property
    def value(self) -> float:
        """An int if it is a whole number, as it always is for choices."""
        total = math.fsum([self.ones, *self.between])
        return int(total) if total.is_integer() else total


@dataclass(slots=True)
class _Count:
    """Adds the questions of one split or group up, one at a time."""

    selected: int = 0
    answered: int = 0
    failed: int = 0
    format_ok: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    credit: _Total = field(default_factory=_Total)
    strict: _Total = field(default_factory=_Total)

    def add(self, record: RunRecord | None) -> None:
        """A question with the record that counts; None: not asked yet."""
        self.selected += 1
        if record is None:
            return
        self.failed += record.failure is not None
        self.format_ok += record.parsed is not None and record.parsed.format_ok
        # Of the answered ones only: the others are in `failed`, or not asked yet, and leave the run INCOMPLETE.
        if record.score is not None:
            self.answered += 1
            self.outcomes[record.score.outcome] += 1
            self.credit.add(record.score.credit)
            self.strict.add(record.score.strict_credit)

    def summary(self, n: int | None) -> GroupSummary:
        """n: questions in the file; None: those that were added."""
        return GroupSummary(
            n=self.selected if n is None else n,
            selected=self.selected,
            answered=self.answered,
            correct=self.credit.value,
            strict_correct=self.strict.value,
            unparsed=self.outcomes["unparsed"],
            truncated=self.outcomes["truncated"],
            failed=self.failed,
            format_ok=self.format_ok,
        )


def lacks_reasoning(record: RunRecord) -> bool:
    """True if there is nothing to judge: no reasoning, or no answer that could be read."""
    return record.parsed is None or not record.parsed.reasoning or record.parsed.answer is None


def reasoning_profile(records: Iterable[RunRecord], letters: Sequence[str] = LETTERS) -> ReasoningProfile:
    """Length of the reasoning, and how often it is empty or nothing but a letter, one of `letters`."""
    texts = [record.parsed.reasoning or "" for record in records if record.parsed is not None]
    words = sorted(len(text.split()) for text in texts if text)
    # ~middle is the mirrored place: the same one for an odd count.
    middle = len(words) // 2
    median = float("nan") if not words else (words[middle] + words[~middle]) / 2
    return ReasoningProfile(
        n=len(texts),
        empty=sum(not text for text in texts),
        letter_only=sum(_is_a_letter(text, letters) for text in texts),
        median_words=median,
    )


def _is_a_letter(text: str, letters: Sequence[str]) -> bool:
    """True if all the text says is one option's letter. Longer texts say more and need no parsing."""
    return len(text) <= _LONGEST_LETTER and parse_response(text, letters=letters).answer is not None
