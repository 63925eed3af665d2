"""Rows of question files: JSON lines or one JSON list, and what is said of a row that cannot be used."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterator, Sequence
from json import JSONDecodeError, JSONDecoder
from pathlib import Path, PurePosixPath
from string import ascii_uppercase
from typing import Any, TextIO, TypeVar

from seedbench_r1.errors import DataError
from seedbench_r1.typed_json import MOST_DEPTH, RepeatedKey, parse_json, refuse_deep, unique_keys

_LETTERED = re.compile(r"\(?([A-Z])[.):](\s*)(.*)", re.DOTALL)
MOST_VALUES = 50_000  # remembered by Interned, so that a file of a million different ones costs nothing

H = TypeVar("H", bound=Hashable)
_LONGEST_NAME, _LONGEST_PATH = 255, 3000  # bytes; Linux takes 255 and, with the folders above, 4095
_LONGEST_MESSAGE = 600  # characters of a value and what is expected of it
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")  # it may be
_HALF_PAIR_TEXT = re.compile(_HALF_PAIR.pattern.decode())
_SPACE = re.compile(r"[ \t\r\n]*")
_PIECE = 1 << 20  # characters of a list that are read at once

Place = tuple[str, int]  # where a row stands, for messages, and its line or its place in a list, both from 1


class BadRows:
    """Rows that cannot be used: an error at the first one, or left out, counted and remembered.

    Args:
        skip: leave them out; None: nobody can ask for it, so the error does not offer it.
    """

    def __init__(self, *, skip: bool | None = None) -> None:
        self.skip = skip
        self.messages: list[str] = []

    def refuse(self, error: DataError) -> None:
        """Raise the error, or remember it."""
        if self.skip is None:
            raise error
        if not self.skip:
            raise DataError(f"{error} To leave such rows out: --skip-bad-rows.") from error
        self.messages.append(str(error))


def read_rows(path: Path, bad: BadRows) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Objects of a file of JSON lines, or of one JSON list, with where they stand. A byte order mark is no text.

    Raises:
        FileNotFoundError: for the caller to say where it should be.
        DataError: it cannot be read, or a row is bad and not to be skipped.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
            file.seek(0)
            rows = _list_items(path) if begins_a_list(head) else _lines(path, file, bad)
            for place, row, escaped in rows:
                if not isinstance(row, dict):
                    found = repr(row) if isinstance(row, RepeatedKey) else type(row).__name__
                    bad.refuse(DataError(f"{place[0]}: expected a JSON object, found {found}."))
                elif escaped and (field := next(filter(lambda name: not _is_text({name: row[name]}), row), None)):
                    bad.refuse(DataError(f"{place[0]}: {field!a} holds half of a surrogate pair: an emoji cut in two?"))
                else:
                    yield place, row
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def begins_a_list(head: bytes) -> bool:
    """Whether a file that begins so, without byte order mark and space, is one JSON list."""
    return head.startswith(b"[")


def _is_text(value: object) -> bool:
    """Whether it can be written and tokenised: JSON takes a lone \\ud83d."""
    try:
        json.dumps(value, ensure_ascii=False, default=repr).encode()
    except UnicodeEncodeError:
        return False
    return True


def _list_items(path: Path) -> Iterator[tuple[Place, object, bool]]:
    """The items of a JSON list, read a piece at a time: a list of 260,000 rows takes no more memory than its rows."""
    index = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for text, value in _items_of(file):
                yield (f"{path}: index {index}", index + 1), value, _HALF_PAIR_TEXT.search(text) is not None
                index += 1
    except ValueError as error:
        reason = f"{error.msg} at index {index}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise DataError(f"{path} is not valid JSON ({reason}). Is it a Git LFS pointer or a half download?") from error


def _items_of(file: TextIO) -> Iterator[tuple[str, object]]:
    """Each item of the JSON list in a file as text and value. Raises ValueError as parse_json does."""
    read, piece = JSONDecoder(object_pairs_hook=unique_keys).raw_decode, _PIECE
    rest = file.read(piece).lstrip()
    while not rest:
        rest = file.read(piece).lstrip()  # it has a bracket
    at, begun, ended = 1, False, False
    while True:
        at = _SPACE.match(rest, at).end()  # type: ignore[union-attr]
        try:
            if not begun and rest.startswith("]", at):
                end, sign, value = at, "]", None
            else:
                value, stop = read(rest, at)
                end = _SPACE.match(rest, stop).end()  # type: ignore[union-attr]
                sign = rest[end : end + 1]
                if sign not in (",", "]"):  # it may have been cut: 12 is the beginning of 123
                    raise JSONDecodeError("Expecting ',' delimiter", rest, end)
                text = rest[at:stop]
                if text.count("[") + text.count("{") > MOST_DEPTH:
                    refuse_deep(value)
                yield text, value
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        except JSONDecodeError:
            if ended:
                raise
            # Twice as much each time, so that a damaged file is not read over and over.
            more = file.read(piece)
            rest, at, piece, ended = rest[at:] + more, 0, 2 * piece, len(more) < piece
            continue
        at, begun = end + 1, True
        if sign == "]":
            if (rest[at:] + file.read()).strip():
                raise JSONDecodeError("Extra data", rest, at)
            return


def _lines(path: Path, file: Iterator[bytes], bad: BadRows) -> Iterator[tuple[Place, object, bool]]:
    # Lines end with LF alone: option texts may hold U+2028, which str.splitlines takes for a line's end.
    for number, line in enumerate(file, start=1):
        place = (f"{path}:{number}", number)
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            if text.strip():
                yield place, parse_json(text, unique=True), _HALF_PAIR.search(line) is not None
        except UnicodeDecodeError as error:
            bad.refuse(DataError(f"{place[0]}: not UTF-8 text (byte {error.start}). Is {path.name} an archive?"))
        except ValueError as error:
            hint = " This is a Git LFS pointer, not the file: fetch it." if line.startswith(b"version https") else ""
            bad.refuse(DataError(f"{place[0]}: not valid JSON ({error}).{hint}"))


class RowReader:
    """The fields of one row of any suite's file, and where it stands for the error message."""

    where: str
    row: dict[str, Any]

    def fail(self, message: str) -> DataError:
        """The error to raise; of a value as long as a book, its beginning and what was expected."""
        if len(message) > _LONGEST_MESSAGE:
            message = f"{message[: _LONGEST_MESSAGE // 2]} ... {message[-_LONGEST_MESSAGE // 2 :]}"
        return DataError(f"{self.where}: {message}")

    def text(self, key: str) -> str:
        """A field that must hold a text. Raises DataError."""
        value = self.row.get(key)
        if not isinstance(value, str) or not value.strip():
            raise self.fail(f"{key} is {value!r}, expected a text.")
        return value

    def inside(self, key: str, value: str, expected: str) -> PurePosixPath:
        """A relative path that stays inside its folder, and that a file may have. Raises DataError."""
        path = PurePosixPath(value)
        # Question files come from the network; they may not lead outside the data root.
        if path.is_absolute() or ".." in path.parts:
            raise self.fail(f"{key} is {value!r}, expected {expected}.")
        return self.possible(key, value, expected)

    def possible(self, key: str, value: str, expected: str) -> PurePosixPath:
        """A path that a file may have. Raises DataError."""
        path = PurePosixPath(value)
        if "\x00" in value:
            raise self.fail(f"{key} is {value!r}, expected {expected}.")
        sizes = [len(part.encode()) for part in path.parts]
        if sum(sizes) + len(sizes) > _LONGEST_PATH or max(sizes, default=0) > _LONGEST_NAME:
            raise self.fail(f"{key} is {value!r}, longer than a file's name can be.")
        return path

    def without_letters(self, texts: Sequence[str]) -> tuple[str, ...]:
        """Options' texts: "A. text" loses its letter if every option has its own; shown, each has exactly one.

        Raises:
            DataError: one has its own letter, or two have letters, but not all their own. (One may be "C. elegans".)
        """
        matches = [_LETTERED.fullmatch(text.strip()) for text in texts]
        wanted = ascii_uppercase[: len(texts)]
        if [match and match.group(1) for match in matches] == list(wanted):
            return tuple(match.group(3).strip() for match in matches if match)
        # "e.g. this" and "A.M." are no letters.
        stated = "".join(match.group(1) if match and match.group(2) else "-" for match in matches)
        own = any(letter == place for letter, place in zip(stated, wanted, strict=True))
        if own or len(stated.replace("-", "")) > 1:
            raise self.fail(f"options have the letters {stated!r}, expected {wanted!r} or none at all.")
        return tuple(texts)


class Interned:
    """One object for equal values: goals, recordings and narrations stand in thousands of rows."""

    def __init__(self) -> None:
        self._values: dict[Hashable, Any] = {}

    def __call__(self, value: H) -> H:
        if len(self._values) > MOST_VALUES:
            self._values.clear()
        kept: H = self._values.setdefault(value, value)
        return kept
