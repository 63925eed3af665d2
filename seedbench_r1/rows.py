"""Rows of question files: JSON lines or one JSON list, and what is said of a row that cannot be used."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any, TypeVar

from seedbench_r1.errors import DataError
from seedbench_r1.typed_json import parse_json

_LETTERED = re.compile(r"\(?([A-Z])[.):](\s*)(.*)", re.DOTALL)
_MOST_VALUES = 50_000  # remembered by Interned, so that a file of a million different ones costs nothing

H = TypeVar("H", bound=Hashable)
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
            rows = _list_items(path, file.read()) if head.startswith(b"[") else _lines(path, file, bad)
            for place, row in rows:
                if isinstance(row, dict):
                    yield place, row
                else:
                    bad.refuse(DataError(f"{place[0]}: expected a JSON object, found {type(row).__name__}."))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def _list_items(path: Path, content: bytes) -> Iterator[tuple[Place, object]]:
    try:
        value = parse_json(content.decode("utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON ({error}). Is it a Git LFS pointer or a half download?") from error
    for index, row in enumerate(value):
        yield (f"{path}: index {index}", index + 1), row


def _lines(path: Path, file: Iterator[bytes], bad: BadRows) -> Iterator[tuple[Place, object]]:
    # Lines end with LF alone: option texts may hold U+2028, which str.splitlines takes for a line's end.
    for number, line in enumerate(file, start=1):
        place = (f"{path}:{number}", number)
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            if text.strip():
                yield place, parse_json(text)
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
        """The error to raise."""
        return DataError(f"{self.where}: {message}")

    def text(self, key: str) -> str:
        """A field that must hold a text. Raises DataError."""
        value = self.row.get(key)
        if not isinstance(value, str) or not value.strip():
            raise self.fail(f"{key} is {value!r}, expected a text.")
        return value

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
        if len(self._values) > _MOST_VALUES:
            self._values.clear()
        kept: H = self._values.setdefault(value, value)
        return kept
