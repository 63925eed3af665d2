"""Questions by the million: sequences of them in little memory, and their ids in less."""

from __future__ import annotations

import pickle
import zlib
from abc import abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, ValuesView
from dataclasses import astuple, fields
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, overload

from seedbench_r1.types import ProgressStep, Question, Source

BLOCK = 1024  # questions that are packed together
AS_OBJECTS = 16 * BLOCK  # the last questions stay what they are: a benchmark's few thousand cost no unpacking
UNPACKED = 8  # blocks that are kept unpacked: a run reads at a few places at once
_PATHS = ("video", "image")
_NAMES = tuple(field.name for field in fields(Question))
_64_BITS = 2**64 - 1
_FREE = 0  # a slot; the others hold a place + 1


class _Questions(Sequence[Question]):
    """Questions by place. Slices hold places, and no questions."""

    @overload
    def __getitem__(self, place: int) -> Question: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Question]: ...
    def __getitem__(self, place: int | slice) -> Question | Sequence[Question]:
        """The question, or the questions, there."""
        if isinstance(place, slice):
            return Selected(self, array("I", range(*place.indices(len(self)))))
        at = place + len(self) * (place < 0)
        if not 0 <= at < len(self):
            raise IndexError(place)
        return self._at(at)

    @abstractmethod
    def _at(self, place: int) -> Question:
        """The question at a place from 0, which is there."""


class PackedQuestions(_Questions):
    """A list of questions of which all but the last few are compressed: about a tenth of the memory."""

    def __init__(self, questions: Iterable[Question] = ()) -> None:
        self._blocks: list[bytes] = []
        self._tail: list[Question] = []
        self._unpacked: Callable[[int], list[Question]] = lru_cache(UNPACKED)(self._unpack)
        for question in questions:
            self.append(question)

    def append(self, question: Question) -> None:
        """Add a question at the end."""
        self._tail.append(question)
        if len(self._tail) >= AS_OBJECTS + BLOCK:
            self._blocks.append(_pack(self._tail[:BLOCK]))
            del self._tail[:BLOCK]

    def __len__(self) -> int:
        return BLOCK * len(self._blocks) + len(self._tail)

    def __iter__(self) -> Iterator[Question]:
        # Not through the cache: whoever reads all of them would drive out what others read.
        for number in range(len(self._blocks)):
            yield from self._unpack(number)
        yield from self._tail

    def _at(self, place: int) -> Question:
        n_packed = BLOCK * len(self._blocks)
        if place >= n_packed:
            return self._tail[place - n_packed]
        return self._unpacked(place // BLOCK)[place % BLOCK]

    def _unpack(self, number: int) -> list[Question]:
        return _unpacked_block(self._blocks[number])


def _pack(questions: Sequence[Question]) -> bytes:
    """Field by field, since equal things compress best side by side."""
    columns: dict[str, list[Any]] = {name: [getattr(q, name) for q in questions] for name in _NAMES}
    for name in _PATHS:
        columns[name] = [None if path is None else str(path) for path in columns[name]]
    columns["source"] = [None if source is None else astuple(source) for source in columns["source"]]
    columns["progress"] = [tuple(astuple(step) for step in steps) for steps in columns["progress"]]
    return zlib.compress(pickle.dumps([columns[name] for name in _NAMES], pickle.HIGHEST_PROTOCOL), 1)


def _unpacked_block(block: bytes) -> list[Question]:
    # Of this process's own making.
    columns = dict(zip(_NAMES, pickle.loads(zlib.decompress(block)), strict=True))
    made: dict[str, Path] = {}  # many questions may be asked of one clip
    for name in _PATHS:
        columns[name] = [None if text is None else made.setdefault(text, Path(text)) for text in columns[name]]
    columns["source"] = [None if source is None else Source(*source) for source in columns["source"]]
    columns["progress"] = [tuple(ProgressStep(*step) for step in steps) for steps in columns["progress"]]
    return [Question(*values) for values in zip(*(columns[name] for name in _NAMES), strict=True)]


class Selected(_Questions):
    """Some questions of a sequence, by their places in it."""

    def __init__(self, questions: Sequence[Question], places: Sequence[int]) -> None:
        self._questions, self._places = questions, places

    def __len__(self) -> int:
        return len(self._places)

    def _at(self, place: int) -> Question:
        return self._questions[self._places[place]]


def joined(parts: Iterable[Sequence[Question]]) -> Sequence[Question]:
    """Several sequences, one behind the other; a single one is itself."""
    found = list(parts)
    return found[0] if len(found) == 1 else _Joined(found)


class _Joined(_Questions):
    def __init__(self, parts: list[Sequence[Question]]) -> None:
        self._parts = parts
        self._ends = list(accumulate(len(part) for part in self._parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[Question]:
        for part in self._parts:
            yield from part

    def _at(self, place: int) -> Question:
        number = bisect_right(self._ends, place)
        part = self._parts[number]
        return part[place - self._ends[number] + len(part)]


class Texts:
    """Different texts and the places at which they came, by 64-bit hashes: 16 to 24 bytes each, whatever their length.

    Two of a million different texts have the same hash with a chance of 3e-8. Who must not mistake one for another
    passes `is_it`, which says of a place whether the text there is the one that is looked for.
    """

    def __init__(self) -> None:
        self._hashes = array("Q")
        self._slots = array("I", [_FREE]) * 64

    def __len__(self) -> int:
        return len(self._hashes)

    def __contains__(self, text: str) -> bool:
        return self.place(text) is not None

    def place(self, text: str, is_it: Callable[[int], bool] | None = None) -> int | None:
        """The place at which a text was added; None if it was not."""
        found = self._slots[self._slot(text, is_it)]
        return None if found == _FREE else found - 1

    def add(self, text: str, is_it: Callable[[int], bool] | None = None) -> int:
        """The text's place: a new one, len(self) - 1 afterwards, or that at which it was added before."""
        slot = self._slot(text, is_it)
        if self._slots[slot] != _FREE:
            return self._slots[slot] - 1
        self._hashes.append(hash(text) & _64_BITS)
        self._slots[slot] = len(self._hashes)
        # Searches are short while at least a third of the slots are free.
        if 3 * len(self._hashes) > 2 * len(self._slots):
            self._grow()
        return len(self._hashes) - 1

    def _slot(self, text: str, is_it: Callable[[int], bool] | None) -> int:
        """Where a text is, or where it would go."""
        wanted, slots, hashes = hash(text) & _64_BITS, self._slots, self._hashes
        mask = len(slots) - 1
        slot = wanted & mask
        while (found := slots[slot]) != _FREE:
            if hashes[found - 1] == wanted and (is_it is None or is_it(found - 1)):
                return slot
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        slots = array("I", [_FREE]) * (2 * len(self._slots))
        mask = len(slots) - 1
        for number, known in enumerate(self._hashes, start=1):
            slot = known & mask
            while slots[slot] != _FREE:
                slot = (slot + 1) & mask
            slots[slot] = number
        self._slots = slots


class QuestionsById(Mapping[str, Question]):
    """Questions by id, in the order of a sequence, which holds them.

    A question whose id came before is left out, as the first one is what ids lead to.
    """

    def __init__(self, questions: Sequence[Question]) -> None:
        self._ids = Texts()
        repeated = False
        for place, question in enumerate(questions):
            repeated |= self._ids.add(question.question_id, _id_at(questions, question.question_id)) != place
            if repeated:
                break
        self.questions = questions
        if repeated:
            self._leave_out_repeated()

    def _leave_out_repeated(self) -> None:
        kept, self._ids = array("I"), Texts()
        found = Selected(self.questions, kept)
        for place, question in enumerate(self.questions):
            if self._ids.add(question.question_id, _id_at(found, question.question_id)) == len(kept):
                kept.append(place)
        self.questions = found

    def find(self, question_id: str) -> tuple[int, Question] | None:
        """The question and its place in the sequence; None if it is not there."""
        place = self._ids.place(question_id)
        if place is None:
            return None
        question = self.questions[place]
        if question.question_id != question_id:  # of the same hash
            other = self._ids.place(question_id, _id_at(self.questions, question_id))
            return None if other is None else (other, self.questions[other])
        return place, question

    def __len__(self) -> int:
        return len(self.questions)

    def __iter__(self) -> Iterator[str]:
        return (question.question_id for question in self.questions)

    def __getitem__(self, question_id: str) -> Question:
        found = self.find(question_id)
        if found is None:
            raise KeyError(question_id)
        return found[1]

    def values(self) -> ValuesView[Question]:
        """The questions, in their order."""
        return _InOrder(self)


class _InOrder(ValuesView[Question]):
    def __init__(self, bank: QuestionsById) -> None:
        super().__init__(bank)
        self._bank = bank

    def __iter__(self) -> Iterator[Question]:
        return iter(self._bank.questions)


def _id_at(questions: Sequence[Question], question_id: str) -> Callable[[int], bool]:
    return lambda place: questions[place].question_id == question_id
