"""The cells of a row of one's own by field: options, right answers, and what a row teaches."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping
from string import ascii_uppercase
from typing import Any

from seedbench_r1.columns import TARGETS, Columns
from seedbench_r1.rows import RowReader
from seedbench_r1.suites.own_answers import as_text

MOST_OPTIONS = len(ascii_uppercase)

_TAG = re.compile(r"</?(?:think|answer)>")


class Cells(RowReader):
    """The cells of a row by field."""

    def __init__(self, where: str, row: dict[str, Any], columns: Columns) -> None:
        self.where, self.row, self.columns = where, row, columns

    def cell(self, field: str) -> Any:  # noqa: ANN401  # whatever the file holds
        """The field's value; None if the row has none."""
        columns = self.columns.of(field)
        return value_of(self.row, columns[0]) if columns else None


def value_of(row: Mapping[str, Any], column: str) -> Any:  # noqa: ANN401  # whatever the file holds
    value = row.get(column)
    # What pandas writes for a gap, and empty cells and lists, are none.
    if isinstance(value, float) and math.isnan(value):
        return None
    empty = value.strip() == "" if isinstance(value, str) else value in ([], {})
    return None if empty else value


def golds_of(row: Mapping[str, Any], columns: Columns) -> dict[str, str]:
    """column -> text, of the columns of the right answer that the row has."""
    found = {name: as_text(value_of(row, name)) for name in columns.of("gold")}
    return {name: text for name, text in found.items() if text}


def options_of(cells: Cells) -> tuple[str, ...]:
    """A row's options in their order, without letters of their own; none if it has none. Raises DataError."""
    columns = cells.columns.of("options")
    if len(columns) > 1:
        given = [value_of(cells.row, name) for name in columns]
        last = max((i for i, value in enumerate(given) if value is not None), default=-1)
        if None in given[: last + 1]:
            raise cells.fail(f"{columns[given.index(None)]} is empty, and {columns[last]}, which follows it, is not.")
        values: object = given[: last + 1]
    else:
        values = _listed(cells.cell("options"))
    if values is None or values == []:
        return ()
    name = cells.columns.name("options")
    texts = [as_text(value) for value in values] if isinstance(values, list) else []
    if not texts or not all(texts):
        raise cells.fail(
            f'{name} is {values!r}, expected a list of texts, such as ["yes", "no"], or a column for each option.'
        )
    if not 2 <= len(texts) <= MOST_OPTIONS:
        raise cells.fail(f"{name} holds {len(texts)} options, expected 2 to {MOST_OPTIONS}.")
    return cells.without_letters([text for text in texts if text])


def _from_text(text: str) -> object:
    for read in (json.loads, ast.literal_eval):  # pandas writes a list as Python does
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return text


def _listed(value: object) -> object:
    """A list of options from what a cell holds: a list, an object by letters, or the text of either."""
    if isinstance(value, str) and value.strip()[:1] in ("[", "{", "("):
        value = _from_text(value)
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, dict) and [str(key).strip().upper() for key in value] == list(ascii_uppercase[: len(value)]):
        value = list(value.values())
    return value


def target_of(cells: Cells, gold: str) -> str:
    """What a row teaches: its response as it stands, or its reasoning and the right answer, each in its tag.

    Raises DataError: the row has none, or its reasoning has tags of its own.
    """
    field = next((field for field in TARGETS if cells.columns.of(field)), TARGETS[0])
    value, name = cells.cell(field), cells.columns.name(field)
    if not isinstance(value, str):
        raise cells.fail(f"{name} is {value!r}, expected the text to teach ({field}).")
    text = value.strip()
    if field == "response":
        return text
    thoughts = text.removeprefix("<think>").removesuffix("</think>").strip()
    if not thoughts or _TAG.search(thoughts):
        raise cells.fail(
            f"{name} is {value!r}, expected the reasoning alone, with or without <think>...</think> around it. "
            f"Fix: mend the row, or --map response={name} if it holds the answer, too."
        )
    return f"<think>{thoughts}</think>\n<answer>{gold}</answer>"
