"""Rows of question files: JSON lines or one JSON list, and what is said of a row that cannot be used."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from string import ascii_uppercase
from typing import Any, TypeVar

from seedbench_r1.errors import DataError
from seedbench_r1.typed_json import RepeatedKey, parse_json

_LETTERED = re.compile(r"\(?([A-Z])[.):](\s*)(.*)", re.DOTALL)
MOST_VALUES = 50_000  # remembered by Interned, so that a file of a million different ones costs nothing

H = TypeVar("H", bound=Hashable)
_LONGEST_NAME, _LONGEST_PATH = 255, 3000  # bytes; Linux takes 255 and, with the folders above, 4095
_LONGEST_MESSAGE = 600  # characters of a value and what is expected of it
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")  # it may be

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
            rows = _list_items(path, file.read()) if begins_a_list(head) else _lines(path, file, bad)
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


def _list_items(path: Path, content: bytes) -> Iterator[tuple[Place, object, bool]]:
    try:
        value = parse_json(content.decode("utf-8-sig"), unique=True)
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON ({error}). Is it a Git LFS pointer or a half download?") from error
    escaped = _HALF_PAIR.search(content) is not None
    for index, row in enumerate(value):
        yield (f"{path}: index {index}", index + 1), row, escaped


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
