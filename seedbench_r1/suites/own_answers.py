"""The right answer of a row of one's own: a letter, an option's text, or an index, and from where it is counted."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from string import ascii_uppercase

from seedbench_r1.columns import GoldForm
from seedbench_r1.errors import DataError
from seedbench_r1.parsing import first_block
from seedbench_r1.rows import Place
from seedbench_r1.statements import fold

# Evidence for counting from 0 or from 1 that is 20 times as frequent as its contrary leaves this to single odd rows.
CLEAR = 20

_LETTER = re.compile(r"[(\[]?([A-Za-z])[)\].:]?")
_LETTERED = re.compile(r"[(\[]?([A-Z])[)\].:]\s*(\S.*)", re.DOTALL)
_INTEGER = re.compile(r"[+-]?\d{1,9}")


def as_text(value: object) -> str | None:
    """A cell as the text of an answer, without the <answer> tag that some files put around it; None: no such cell."""
    # Nearly all are plain texts.
    if isinstance(value, str):
        text = value.strip()
        return (first_block(text, "answer") or text) if "<" in text else text
    # 3.0 is what pandas makes of 3 in a column with gaps.
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return str(value) if isinstance(value, int | float) else None


def by_form(text: str, options: Sequence[str], start: int | None) -> dict[GoldForm, str]:
    """form -> the letter that the text names in it, of the forms in which it names one.

    start: what an index is counted from; None: a number is no index.
    """
    letters = ascii_uppercase[: len(options)]
    found: dict[GoldForm, str] = {}
    if (match := _LETTER.fullmatch(text)) and match.group(1).upper() in letters:
        found["letter"] = match.group(1).upper()
    wanted = fold(text)
    named = [letter for letter, option in zip(letters, options, strict=True) if fold(option) == wanted]
    if len(named) == 1:
        found["text"] = named[0]
    match = None if found else _LETTERED.fullmatch(text)
    # "B. wash the cup"
    if match and fold(match.group(2)) in (fold(o) for o, x in zip(options, letters, strict=True) if x == match[1]):
        found["letter"] = match.group(1)
    if start is not None and _INTEGER.fullmatch(text) and 0 <= int(text) - start < len(options):
        found["index from 1" if start else "index from 0"] = letters[int(text) - start]
    return found


@dataclass(slots=True)
class GoldCounts:
    """What a first reading finds in a column of answers to choices."""

    numbers: int = 0  # that are an option's text, or lie from 0 to the number of options
    unexplained: int = 0  # of these, no option's text
    evidence: dict[int, int] = field(default_factory=lambda: {0: 0, 1: 0})  # counted from -> rows that say so
    first: dict[int, Place] = field(default_factory=dict)  # the first of them

    def add(self, place: Place, text: str, options: Sequence[str], others: Sequence[str]) -> None:
        """others: the letters that other columns of the row name."""
        if not _INTEGER.fullmatch(text):
            return
        value, explained = int(text), "text" in by_form(text, options, None)
        self.numbers += explained or 0 <= value <= len(options)
        if explained or not 0 <= value <= len(options):
            return
        self.unexplained += 1
        places = [ascii_uppercase.index(letter) for letter in others]
        for start in (0, 1):
            # 0 is no place counted from 1, and of three options there is no third counted from 0.
            if value == (0, len(options))[start] or value - start in places:
                self.evidence[start] += 1
                self.first.setdefault(start, place)


def index_start(column: str, counts: GoldCounts, said: GoldForm | None) -> int | None:
    """What an index in this column is counted from; None: its numbers are options' texts, or there are none.

    Counted from 0 if a row holds a 0, from 1 if one holds as many as it has options, or if that is what agrees with
    another column of answers.

    Raises:
        DataError: both, or neither.
    """
    if said is not None:
        return {"index from 0": 0, "index from 1": 1}.get(said)
    # Options may be numbers themselves; a single odd row makes no index of them.
    if counts.unexplained * CLEAR <= counts.numbers:
        return None
    zero, one = counts.evidence[0], counts.evidence[1]
    fix = f"Fix: --map gold.0={column} if from 0, gold.1={column} if from 1."
    if zero > CLEAR * one or one > CLEAR * zero:
        return 0 if zero > one else 1
    if zero and one:
        raise DataError(
            f"{column} contradicts itself: {counts.first[0][0]} counts options from 0, {counts.first[1][0]} from 1. "
            f"{fix}"
        )
    raise DataError(
        f"{column} holds numbers that may be counted from 0 or from 1: no row has a 0, and none as many as it has "
        f"options. {fix}"
    )


def agreed_letter(
    golds: Mapping[str, str], options: Sequence[str], starts: Mapping[str, int], said: GoldForm | None
) -> str:
    """The one letter that all columns of a row name, in all forms that they can be read in.

    Args:
        golds: column -> its text.
        options: the row's.
        starts: column -> what an index in it is counted from.
        said: the form, where --map says so.

    Raises:
        ValueError: none, or two; the message says which column says what.
    """
    letters: dict[str, str] = {}  # letter -> what names it
    for column, text in golds.items():
        found = by_form(text, options, starts.get(column))
        if said is not None:
            found = {form: letter for form, letter in found.items() if form == said}
        if not found:
            index = f", or an index from {starts[column]}" if column in starts else ""
            last = ascii_uppercase[len(options) - 1]
            raise ValueError(f"{column} is {text!r}, expected a letter from A to {last}, an option's text{index}.")
        for form, letter in found.items():
            letters.setdefault(letter, f"{column} {text!r} as {_article(form)} is {letter}")
    if len(letters) > 1:
        forms = "gold.letter=, gold.text=, gold.0= or gold.1="
        fix = f"--map gold=COLUMN, the one that is right, or {forms}" if len(golds) > 1 else f"--map {forms}"
        raise ValueError(f"{', '.join(letters.values())}: they contradict each other. Fix: {fix}COLUMN.")
    return next(iter(letters))


def _article(form: GoldForm) -> str:
    return {"letter": "a letter", "text": "an option's text"}.get(form, f"an {form}")
