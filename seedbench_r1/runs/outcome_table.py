"""What counting needs of a run's records, in 20 bytes a question: a million of them are held while a run goes on."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Iterator, Mapping, ValuesView

from seedbench_r1.packed import QuestionsById
from seedbench_r1.types import Failure, Outcome, ParsedResponse, Question, RunRecord, Score

_ABSENT, _FAILED = 0, 1  # the other codes are of answers


class OutcomeTable(Mapping[str, RunRecord]):
    """The record that counts for each question, without its texts: outcome, credits, and of choices the letter.

    What it does not hold is None in the records that it gives: reasoning, answers in words, generation and reader.
    """

    def __init__(self, questions: QuestionsById) -> None:
        n = len(questions)
        self._questions, self._n, self._guard = questions, 0, threading.Lock()
        self._codes, self._credits, self._strict = array("H", bytes(2 * n)), array("d", bytes(8 * n)), array("d")
        self._strict.frombytes(bytes(8 * n))
        self._answers: list[tuple[ParsedResponse | None, Outcome]] = []  # by code - 2
        self._code_of: dict[tuple[str | None, bool | None, Outcome], int] = {}
        self._failures: dict[int, Failure] = {}  # by place

    def add(self, record: RunRecord) -> None:
        """Keep a record that counts over the one before. Raises KeyError for a question of another run."""
        found = self._questions.find(record.question_id)
        if found is None:
            raise KeyError(record.question_id)
        # Media that cannot be decoded are noted by a backend's thread, answers by another.
        with self._guard:
            if record.answered or self._codes[found[0]] <= _FAILED:  # RunRecord.counts_over
                self._keep(*found, record)

    def is_settled(self, place: int, *, retry_errors: bool) -> bool:
        """Whether the question at a place has an answer, or, without retry_errors, has failed."""
        return self._codes[place] > (_FAILED if retry_errors else _ABSENT)

    def _keep(self, place: int, question: Question, record: RunRecord) -> None:
        self._n += self._codes[place] == _ABSENT
        self._failures.pop(place, None)
        score = record.score
        if score is None:
            self._codes[place] = _FAILED
            if record.failure is not None:
                self._failures[place] = record.failure
            return
        # A choice's answer is one of 26; those of other kinds are texts.
        parsed = record.parsed
        letter = parsed.answer if parsed is not None and question.kind == "choice" else None
        self._credits[place], self._strict[place] = score.credit, score.strict_credit
        # Last: a reader in another thread takes what has a code for complete.
        self._codes[place] = self._code(letter, None if parsed is None else parsed.format_ok, score.outcome)

    def _code(self, letter: str | None, format_ok: bool | None, outcome: Outcome) -> int:
        key = letter, format_ok, outcome
        if key not in self._code_of:
            parsed = None if format_ok is None else ParsedResponse(None, letter, "", format_ok)
            self._answers.append((parsed, outcome))
            self._code_of[key] = _FAILED + len(self._answers)
        return self._code_of[key]

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[str]:
        """In the order of the questions."""
        return (q.question_id for place, q in enumerate(self._questions.questions) if self._codes[place] != _ABSENT)

    def __getitem__(self, question_id: str) -> RunRecord:
        found = self._questions.find(question_id)
        if found is None or self._codes[found[0]] == _ABSENT:
            raise KeyError(question_id)
        return self._record(*found)

    def values(self) -> ValuesView[RunRecord]:
        """In the order of the questions."""
        return _InOrder(self)

    def in_order(self) -> Iterator[RunRecord]:
        """What values() gives."""
        for place, question in enumerate(self._questions.questions):
            if self._codes[place] != _ABSENT:
                yield self._record(place, question)

    def _record(self, place: int, question: Question) -> RunRecord:
        code, named = self._codes[place], (question.question_id, question.split, question.domain, question.cluster)
        if code == _FAILED:
            return RunRecord(*named, None, None, None, self._failures.get(place))
        parsed, outcome = self._answers[code - _FAILED - 1]
        return RunRecord(*named, None, parsed, Score(outcome, self._credits[place], self._strict[place]))


class _InOrder(ValuesView[RunRecord]):
    def __init__(self, table: OutcomeTable) -> None:
        super().__init__(table)
        self._table = table

    def __iter__(self) -> Iterator[RunRecord]:
        return self._table.in_order()
