"""Rows of one's own, of any columns -> Questions: a first reading decides what the file holds, a second makes them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seedbench_r1.columns import Columns, find_columns, kind_named, union
from seedbench_r1.errors import DataError
from seedbench_r1.kinds import read_number
from seedbench_r1.media.layout import KINDS
from seedbench_r1.packed import Texts
from seedbench_r1.row_files import form_of, read_any
from seedbench_r1.rows import MOST_VALUES, BadRows, Interned, Place
from seedbench_r1.suites.own_answers import GoldCounts, agreed_letter, as_text, by_form, index_start
from seedbench_r1.suites.own_cells import Cells, golds_of, options_of
from seedbench_r1.types import DOMAINS, Kind, Question, Source

SUITE = "own"
SPLIT = "own"  # of a file without a column of splits
RESERVED = ("all", *DOMAINS)  # names of groups in tables
LONGEST_NAME = 100  # characters of a split
_LOOKED_UP = 20  # repeated ids whose first line is looked for: that reads the file once more each

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]{1,15}://", re.IGNORECASE)
_GUESSED: dict[str, Kind] = {"options": "choice", "number": "numerical", "text": "free-form"}
_IN_WORDS = {"options": "options", "number": "a number and no options", "text": "a text and no options"}


@dataclass(frozen=True, slots=True)
class Reading:
    """How a file is read, decided on all of its rows."""

    form: str  # of the file, in words
    n_rows: int
    columns: Columns
    kind: Kind | None  # of all rows; None: a column says it
    inferred: str = ""  # what the kind follows from: "options", "number" or "text"; empty: it was said
    n_inferred: int = 0  # rows that are so
    starts: dict[str, int] = field(default_factory=dict)  # column of answers -> what an index in it is counted from

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences: what was not said by the file or by --map."""
        gold = ", ".join(self.columns.of("gold"))
        said = []
        if self.kind is not None and self.inferred:
            said.append(f"kind {self.kind}, because rows have {_IN_WORDS[self.inferred]}")
        said += [f"{column} counts options from {start}" for column, start in self.starts.items()]
        if len(self.columns.of("gold")) > 1:
            said.append(f"the right answer is what {gold} agree on")
        return tuple(said)


def read_once(path: Path, mapping: Mapping[str, str]) -> Reading:
    """The first reading: columns, kind, and how answers are written. Rows that cannot be read are left to the second.

    Raises:
        FileNotFoundError: for the caller to say where it should be.
        ConfigError: a mapped column is not there.
        DataError: the file cannot be read, has no rows, lacks a column, or contradicts itself.
    """
    form, seen, survey = form_of(path), dict[str, None](), _Survey()
    columns = find_columns((), {})
    n_rows, unread = 0, BadRows(skip=True)
    for place, row in read_any(path, unread):
        n_rows += 1
        # JSON rows need not all have the same fields. A mapped column may come later.
        if union(seen, row):
            known = {name: value for name, value in mapping.items() if set(value.split("+")) & seen.keys()}
            columns = find_columns(tuple(seen), known | {"kind": mapping["kind"]} if "kind" in mapping else known)
        survey.add(place, row, columns)
    if not n_rows:
        why = unread.messages[0] if unread.messages else "it has no rows."
        raise DataError(f"{path} holds no questions ({form}): {why}")
    columns = find_columns(tuple(seen), mapping)
    _refuse_without(path, columns, tuple(seen))
    starts = _starts(path, survey, columns)
    if columns.kind is not None or columns.of("kind"):
        return Reading(form, n_rows, columns, columns.kind, starts=starts)
    shape, n = survey.shapes.most_common(1)[0] if survey.shapes else ("text", 0)
    return Reading(form, n_rows, columns, _GUESSED[shape], shape, n, starts)


def _starts(path: Path, survey: _Survey, columns: Columns) -> dict[str, int]:
    found = {}
    for name, counts in survey.golds.items():
        try:
            start = index_start(name, counts, columns.gold_form)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        if start is not None:
            found[name] = start
    return found


def _refuse_without(path: Path, columns: Columns, seen: tuple[str, ...]) -> None:
    for name, wanted in (("text", ("text",)), ("gold", ("gold",)), ("video", ("video", "image"))):
        if not any(columns.of(each) for each in wanted):
            what = {"text": "the question", "gold": "the right answer", "video": "the clip or image"}[name]
            raise DataError(
                f"{path}: no column is known to hold {what}. There are: {', '.join(seen)}. "
                f"Fix: --map {name}=COLUMN{' or image=COLUMN' if name == 'video' else ''}."
            )


class _Survey:
    """Counts of the first reading."""

    def __init__(self) -> None:
        self.shapes: Counter[str] = Counter()
        self.golds: dict[str, GoldCounts] = {}

    def add(self, place: Place, row: dict[str, Any], columns: Columns) -> None:
        golds = golds_of(row, columns)
        try:
            options = options_of(Cells(place[0], row, columns))
        except DataError:
            return  # the second reading says it
        if not options and golds:
            self.shapes["number" if all(read_number(text) is not None for text in golds.values()) else "text"] += 1
        if not options:
            return
        self.shapes["options"] += 1
        letters = {name: set(by_form(text, options, None).values()) for name, text in golds.items()}
        for name, text in golds.items():
            others = [letter for other, found in letters.items() if other != name for letter in found]
            self.golds.setdefault(name, GoldCounts()).add(place, text, options, others)


class OwnReader:
    """The second reading: rows to questions.

    Args:
        path: the file or folder.
        reading: from read_once.
        data_root: what relative paths of clips and images are below.
        bad: takes the rows that cannot be used.
    """

    def __init__(self, path: Path, reading: Reading, data_root: Path, bad: BadRows) -> None:
        self.path, self.reading, self.bad = path, reading, bad
        self._root = data_root
        self._interned = Interned()
        self._places: dict[str, tuple[str, Path]] = {}  # of clips and images, as they are written
        self._seen = Texts()
        self._n_repeated = 0

    def questions(self) -> Iterator[Question]:
        """In the file's order. Raises DataError for a bad row unless it is skipped."""
        return (question for _, question in self.rows())

    def rows(self) -> Iterator[tuple[Cells, Question]]:
        """Each question with the cells of its row. Raises as questions()."""
        for place, row in read_any(self.path, self.bad):
            cells = Cells(place[0], row, self.reading.columns)
            try:
                question = self._question(cells, place)
                n_seen = len(self._seen)
                if self._seen.add(question.question_id) < n_seen and (said := self._repeated(question, place)):
                    raise DataError(f"{place[0]}: {said}")
            except DataError as error:
                self.bad.refuse(error)
                continue
            yield cells, question

    def _question(self, cells: Cells, place: Place) -> Question:
        columns, interned = self.reading.columns, self._interned
        split = self._split(cells)
        options = options_of(cells)
        kind = self._kind(cells, options)
        video, image = (self._media(cells, name) for name in ("video", "image"))
        # One column of paths may hold both: the file's ending says what it is.
        if video and not image and KINDS.get(video[1].suffix.lower()) == "images":
            video, image = None, video
        elif image and not video and KINDS.get(image[1].suffix.lower()) == "videos":
            video, image = image, None
        shown = video or image
        if shown is None:
            names = " and ".join(columns.name(name) for name in ("video", "image") if columns.of(name))
            raise cells.fail(f"{names} hold no file; a question needs a clip or an image.")
        cluster, domain = cells.cell("cluster"), cells.cell("domain")
        text = cells.cell("text")
        if not isinstance(text, str):
            raise cells.fail(f"{columns.name('text')} is {text!r}, expected a text.")
        return Question(
            question_id=f"{split}/{self._id(cells, place)}",
            split=split,
            text=interned(text),
            options=interned(options),
            gold=self._gold(cells, kind, options),
            video=video[1] if video else None,
            image=image[1] if image else None,
            cluster=shown[0] if cluster is None else interned(str(cluster)),
            domain=None if domain is None else self._domain(cells, str(domain).strip()),
            kind=kind,
            source=Source(SUITE, interned(self.path.name), place[1]),
        )

    def _split(self, cells: Cells) -> str:
        value = cells.cell("split")
        if value is None:
            return SPLIT
        name = str(value).strip()
        if "/" in name or name in RESERVED or len(name) > LONGEST_NAME or not name.isprintable():
            raise cells.fail(
                f"{cells.columns.name('split')} is {name!r}, expected a printable name of at most {LONGEST_NAME} "
                f"characters, without a slash (ids are written SPLIT/ID), and not one of {', '.join(RESERVED)}."
            )
        return self._interned(name)

    def _domain(self, cells: Cells, name: str) -> str:
        if name == "all":
            raise cells.fail(f"{cells.columns.name('domain')} is 'all', which names all questions of a split.")
        return self._interned(name)

    def _id(self, cells: Cells, place: Place) -> str:
        value = cells.cell("id")
        if value is None and cells.columns.of("id"):
            raise cells.fail(f"{cells.columns.name('id')} is empty; every row has an id, or none has (--map).")
        # Without ids the place in the file is one.
        text = str(place[1]) if value is None else as_text(value)
        if not text or not text.isprintable():
            raise cells.fail(f"{cells.columns.name('id')} is {value!r}, expected a number or a text of one line.")
        return text

    def _repeated(self, question: Question, here: Place) -> str | None:
        """Where the first row of that id stands: read again, since a million lines are not remembered for an error.

        None: nowhere before; an id of the same hash is there.
        """
        name, row_id = self.reading.columns.name("id"), question.question_id.partition("/")[2]
        self._n_repeated += 1
        said = f"{name} {row_id!r} stands already in {question.split!r}"
        if self._n_repeated > _LOOKED_UP:
            return f"{said}, further up."
        for place, row in read_any(self.path, BadRows(skip=True)):
            if place == here:
                return None
            cells = Cells(place[0], row, self.reading.columns)
            try:
                if f"{self._split(cells)}/{self._id(cells, place)}" == question.question_id:
                    return f"{said}, at {place[0]}."
            except DataError:
                continue
        raise AssertionError(question.question_id)

    def _kind(self, cells: Cells, options: tuple[str, ...]) -> Kind:
        reading, name = self.reading, cells.columns.name("kind")
        kind = reading.kind
        if kind is None:
            kind = kind_named(cells.cell("kind"))
            if kind is None:
                raise cells.fail(
                    f"{name} is {cells.cell('kind')!r}, expected choice, numerical, regression, ocr or free-form."
                )
        if reading.inferred:
            self._refuse_other_kind(cells, options)
        elif kind == "choice" and not options:
            raise cells.fail(f"{name} is choice, and {cells.columns.name('options')} is empty.")
        elif kind != "choice" and options:
            raise cells.fail(f"{name} is {kind}, and there are options: {list(options)!r}. Fix: one of the two.")
        return kind

    def _refuse_other_kind(self, cells: Cells, options: tuple[str, ...]) -> None:
        """Raise DataError for a row that is of another kind than most, where no column says kinds."""
        golds = golds_of(cells.row, cells.columns)
        if not golds:
            raise cells.fail(f"{cells.columns.name('gold')} is empty, expected the right answer.")
        number = all(read_number(text) is not None for text in golds.values())
        shape = "options" if options else "number" if number else "text"
        reading = self.reading
        if shape != reading.inferred:
            column, text = next(iter(golds.items()))
            raise cells.fail(
                f"{column} is {text!r}: a row with {_IN_WORDS[shape]}, where {reading.n_inferred} of {reading.n_rows} "
                f"have {_IN_WORDS[reading.inferred]}. Kinds are mixed only where a column says them. Fix: mend the "
                f"row, or --map kind=COLUMN, or one kind for all, such as --map kind=free-form."
            )

    def _gold(self, cells: Cells, kind: Kind, options: tuple[str, ...]) -> str:
        golds = golds_of(cells.row, cells.columns)
        if not golds:
            raise cells.fail(f"{cells.columns.name('gold')} is empty, expected the right answer.")
        if kind == "choice":
            try:
                return agreed_letter(golds, options, self.reading.starts, cells.columns.gold_form)
            except ValueError as error:
                raise cells.fail(str(error)) from error
        if len(set(golds.values())) > 1:
            said = " and ".join(f"{name} is {text!r}" for name, text in golds.items())
            raise cells.fail(f"{said}: they contradict each other. Fix: --map gold=COLUMN, the one that is right.")
        name, text = next(iter(golds.items()))
        # A gold that cannot be read would mark every answer wrong.
        if kind in ("numerical", "regression") and read_number(text) is None:
            raise cells.fail(f"{name} is {text!r}, expected a number ({kind}).")
        return self._interned(text)

    def _media(self, cells: Cells, field: str) -> tuple[str, Path] | None:
        """A clip or image: as it is written, and where it is. Relative ones are below the data root."""
        value, name = cells.cell(field), cells.columns.name(field)
        # The features Image and Video of `datasets` are stored so.
        if isinstance(value, dict) and "path" in value:
            if value.get("bytes"):
                raise cells.fail(
                    f"{name} holds the file itself. Fix: write it to a file, and its path into the column."
                )
            value = value["path"]
        if value is None:
            return None
        if not isinstance(value, str) or _ADDRESS.match(value):
            raise cells.fail(f"{name} is {value!r}, expected the path of a file on this machine.")
        # Many questions may be asked of one clip.
        if value not in self._places:
            path = cells.possible(name, value.strip(), "the path of a file")
            if len(self._places) > MOST_VALUES:
                self._places.clear()
            self._places[value] = str(path), self._root / path
        return self._places[value]
