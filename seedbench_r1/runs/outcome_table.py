"""What counting needs of a run's records, in 22 bytes a question: a million of them are held while a run goes on."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Iterator, Mapping, ValuesView
from functools import lru_cache

from seedbench_r1.packed import QuestionsById
from seedbench_r1.types import Failure, Outcome, ParsedResponse, Question, RunRecord, Score

_ABSENT, _FAILED = 0, 1  # the other codes are of answers


class OutcomeTable(Mapping[str, RunRecord]):
    """The record that counts for each question, without its texts: answer, outcome and credits.

    What it does not hold is None in the records that it gives: reasoning, generation and reader. An answer is held
    once, however many questions it is given to.
    """

    def __init__(self, questions: QuestionsById) -> None:
        n = len(questions)
        self._questions, self._n, self._guard = questions, 0, threading.Lock()
        self._codes, self._credits, self._strict = array("H", bytes(2 * n)), array("d", bytes(8 * n)), array("d")
        self._strict.frombytes(bytes(8 * n))
        self._said = array("I", bytes(4 * n))  # places in _answers
        self._answers: list[str | None] = [None]
        self._answer_of: dict[str | None, int] = {None: 0}
        self._forms: list[tuple[bool | None, Outcome]] = []  # by code - 2: format_ok and outcome
        self._code_of: dict[tuple[bool | None, Outcome], int] = {}
        self._failures: dict[int, Failure] = {}  # by place

    def add(self, record: RunRecord) -> None:
        """Keep a record that counts over the one before. Raises KeyError for a question of another run."""
        found = self._questions.find(record.question_id)
        if found is None:
            raise KeyError(record.question_id)
        # Media that cannot be decoded are noted by a backend's thread, answers by another.
        with self._guard:
            if record.answered or self._codes[found[0]] <= _FAILED:  # RunRecord.counts_over
                self._keep(found[0], record)

    def is_settled(self, place: int, *, retry_errors: bool) -> bool:
        """Whether the question at a place has an answer, or, without retry_errors, has failed."""
        return self._codes[place] > (_FAILED if retry_errors else _ABSENT)

    def _keep(self, place: int, record: RunRecord) -> None:
        self._n += self._codes[place] == _ABSENT
        self._failures.pop(place, None)
        score = record.score
        if score is None:
            self._codes[place] = _FAILED
            if record.failure is not None:
                self._failures[place] = record.failure
            return
        parsed = record.parsed
        self._credits[place], self._strict[place] = score.credit, score.strict_credit
        self._said[place] = self._number(None if parsed is None else parsed.answer)
        # Last: a reader in another thread takes what has a code for complete.
        self._codes[place] = self._code(None if parsed is None else parsed.format_ok, score.outcome)

    def _number(self, answer: str | None) -> int:
        if answer not in self._answer_of:
            self._answers.append(answer)
            self._answer_of[answer] = len(self._answers) - 1
        return self._answer_of[answer]

    def _code(self, format_ok: bool | None, outcome: Outcome) -> int:
        form = format_ok, outcome
        if form not in self._code_of:
            self._forms.append(form)
            self._code_of[form] = _FAILED + len(self._forms)
        return self._code_of[form]

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
        format_ok, outcome = self._forms[code - _FAILED - 1]
        answer = self._answers[self._said[place]]
        parsed = None if format_ok is None else _parsed_alike(answer, format_ok)
        return RunRecord(*named, None, parsed, Score(outcome, self._credits[place], self._strict[place]))


@lru_cache(maxsize=256)
def _parsed_alike(answer: str | None, format_ok: bool) -> ParsedResponse:
    return ParsedResponse(None, answer, "", format_ok)


class _InOrder(ValuesView[RunRecord]):
    def __init__(self, table: OutcomeTable) -> None:
        super().__init__(table)
        self._table = table

    def __iter__(self) -> Iterator[RunRecord]:
        return self._table.in_order()
