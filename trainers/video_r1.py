"""Video-R1's training files -> training rows: Video-R1-260k.json for RL, Video-R1-COT-165k.json for SFT.

A file is a JSON list of objects like those of the transfer suite's evaluation files (docs/transfer.md); in the CoT file
`process` holds the reasoning in its tag, and `solution` the answer in its. An error names file and index.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from string import ascii_uppercase
from typing import NamedTuple, overload

from seedbench_r1.errors import DataError
from seedbench_r1.questions import TrainingRow
from seedbench_r1.rows import BadRows, Interned, read_rows
from seedbench_r1.suites.transfer import KIND_OF, VideoR1RowReader
from seedbench_r1.types import Kind, Question, Source

SUITE = "video-r1"
FIELDS = {"problem", "problem_type", "solution"}  # that every row has, and no other file's
_TYPES = tuple(KIND_OF)
_LETTERED = tuple(f"{letter}. " for letter in ascii_uppercase)
_SHORT = 200  # characters of a path that needs no look at its parts' lengths


class _Row(NamedTuple):
    """What is kept of a row."""

    place: int  # in the file, from 0
    kind: Kind
    is_video: bool
    text: str
    options: tuple[str, ...]
    gold: str
    path: str  # relative to the data root
    origin: str | None
    response: str | None


class VideoR1Rows(Sequence[TrainingRow]):
    """The rows of a file. A row's question is made when it is read: 260,000 of them would take seconds and 200 MB."""

    def __init__(self, file: str, data_root: Path, rows: list[_Row]) -> None:
        self._file, self._root, self._rows = file, data_root, rows
        self._within: dict[str, bool] = {}  # first folder of a path -> whether the root is that folder itself

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> TrainingRow: ...
    @overload
    def __getitem__(self, place: slice) -> VideoR1Rows: ...
    def __getitem__(self, place: int | slice) -> TrainingRow | VideoR1Rows:
        """The row, or the rows, there."""
        if isinstance(place, slice):
            return VideoR1Rows(self._file, self._root, self._rows[place])
        row = self._rows[place]
        file = Path(self._located(row.path))
        question = Question(
            question_id=f"{SUITE}/{row.place}",
            split=SUITE,
            kind=row.kind,
            text=row.text,
            options=row.options,
            gold=row.gold,
            video=file if row.is_video else None,
            image=None if row.is_video else file,
            cluster=row.path,
            source=Source(SUITE, self._file, row.place + 1, origin=row.origin),
        )
        return TrainingRow(question, question.gold_text, (), True, row.response, None)

    def missing_media(self) -> list[str]:
        """The paths of the rows' clips and images that are not there, each once, sorted."""
        # Texts, not Path objects: those would take longer than all the rest.
        paths = {self._located(row.path) for row in self._rows}
        return sorted(path for path in paths if not os.path.exists(path))

    def _located(self, relative: str) -> str:
        """Below the root, or absolute; where the root is itself the path's first folder, in it."""
        if relative.startswith("/"):
            return relative
        first, _, inside = relative.partition("/")
        if first not in self._within:
            self._within[first] = self._root.name == first and not (self._root / first).exists()
        return f"{self._root}/{inside if self._within[first] else relative}"


def load_video_r1_rows(path: Path, data_root: Path, bad: BadRows, *, responses: bool) -> VideoR1Rows:
    """Read a training file.

    Args:
        path: a JSON list, or JSON lines.
        data_root: the folder that the rows' paths begin at ("./CLEVR/images/1.png").
        bad: takes the rows that cannot be used.
        responses: read `process` as the reasoning to teach; without it a row teaches its answer alone.

    Raises:
        DataError: there is no such file, or no row in it; a row cannot be used, unless it is to be skipped.
    """
    rows = []
    reader = _RowReader(path.name, responses=responses)
    try:
        with _nothing_to_free():
            for (where, place), row in read_rows(path, bad):
                reader.where, reader.index, reader.row = where, place - 1, row
                try:
                    rows.append(reader.kept())
                except DataError as error:
                    bad.refuse(error)
    except FileNotFoundError as error:
        raise DataError(f"No training file at {path}. Fix: point --train-file at Video-R1's file.") from error
    if not rows:
        raise DataError(f"{path} holds no rows to train on. Fix: fetch the file again.")
    return VideoR1Rows(path.name, data_root, rows)


@contextmanager
def _nothing_to_free() -> Iterator[None]:
    """No search for unreachable objects: where all that is made is kept, it took half of the time."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class _RowReader(VideoR1RowReader):
    """One row after the other: where, index and row are set for each."""

    def __init__(self, file: str, *, responses: bool) -> None:
        super().__init__("", file, 0, {})
        self.responses, self.interned = responses, Interned()

    def kept(self) -> _Row:
        """What is kept of the row. Raises DataError."""
        kind = KIND_OF[self.one_of("problem_type", _TYPES)]
        is_video = self.one_of("data_type", ("video", "image")) == "video"
        options = self.options() if kind == "choice" else ()
        gold = self.gold(kind, options)
        origin = self.row.get("data_source")
        return _Row(
            self.index,
            kind,
            is_video,
            self.text("problem"),
            options,
            gold,
            self.relative_path(),
            self.interned(origin) if isinstance(origin, str) else None,
            self.response(),
        )

    # Nearly all rows have one of a few forms, which need no regular expression: a file has a million options.
    def options(self) -> tuple[str, ...]:
        values = self.row.get("options")
        if isinstance(values, list) and 2 <= len(values) <= len(_LETTERED):
            texts = [
                value[3:].strip()
                for value, start in zip(values, _LETTERED, strict=False)
                if isinstance(value, str) and value.startswith(start)
            ]
            if len(texts) == len(values):
                return tuple(texts)
        return super().options()

    def gold(self, kind: Kind, options: tuple[str, ...]) -> str:
        solution = self.row.get("solution")
        if isinstance(solution, str) and solution.startswith("<answer>") and solution.endswith("</answer>"):
            content = solution[len("<answer>") : -len("</answer>")]
            if kind == "choice" and content in tuple(ascii_uppercase[: len(options)]):
                return content
            if kind in ("numerical", "regression") and content.isascii() and content.isdigit():
                return content
        return super().gold(kind, options)

    def relative_path(self) -> str:
        value = self.text("path")
        if len(value) > _SHORT or value[0] == "/" or ".." in value or "\x00" in value:
            return str(self.path())
        return value.removeprefix("./")

    def response(self) -> str | None:
        """The reasoning and the answer, with a line break between."""
        process = self.row.get("process") if self.responses else None
        if process is None or process == "":
            return None
        thoughts = process.strip() if isinstance(process, str) else ""
        if not thoughts.startswith("<think>") or not thoughts.endswith("</think>"):
            raise self.fail(f"process is {process!r}, expected '<think>...</think>', or nothing.")
        return f"{thoughts}\n{self.text('solution').strip()}"
