"""Which option does a text settle on, and in which sentence? A heuristic; docs/consistency.md shows how good it is.

It reads sentences from the last to the first and takes the first one that endorses exactly one option, by its letter or
by its text, without a negation in the same clause. No such sentence: undecided.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate, chain
from string import ascii_uppercase
from typing import NamedTuple

RULES_VERSION = 1  # part of the judge id
_PLACE_OF_I = ascii_uppercase.index("I")  # options before it

# "already" negates too: a step that was done is not the next one.
_NEGATION = re.compile(
    r"\b(?:not|no|never|cannot|can't|isn't|aren't|doesn't|don't|won't|wouldn't|shouldn't|wrong|incorrect|unlikely|"
    r"unrelated|irrelevant|rather than|instead of|already|eliminat\w*|rul\w+ out|exclud\w*|dismiss\w*)\b",
    re.IGNORECASE,
)
_CLAUSE_END = re.compile(r",|\bbut\b|\bwhile\b|\bwhereas\b|\band then\b")
_ARTICLE = re.compile(r"\b(?:the|a|an)\b\s*")
_SPACE = re.compile(r"\s+")
_BLANKS = re.compile(r"[^\S\n]+")


class Conclusion(NamedTuple):
    """The sentence of a reasoning that settles on an option, as offsets of characters."""

    letter: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Forms:
    """How letters from A to a last one are written."""

    sentence: re.Pattern[str]  # the space behind a sentence
    any_letter: re.Pattern[str]  # without which none of the letters' forms fits: one look instead of eight
    letters: tuple[re.Pattern[str], ...]


@lru_cache
def _forms(n_options: int) -> _Forms:
    last = ascii_uppercase[n_options - 1]
    one = f"[A-{last}]"
    # "A" is also an article and "I" a pronoun, so bare letters count only in forms that mean an option.
    bare = "".join(letter for letter in ascii_uppercase[1:n_options] if letter != "I")
    pronoun = r"(?!(?-i:I)\s+(?!(?:is|fits)\b)(?-i:[a-z]))" if n_options > _PLACE_OF_I else ""
    return _Forms(
        sentence=re.compile(rf"(?<=[.!?;])(?<!\b{one}\.)\s+|\n+"),  # "B. wash the cup" is one sentence
        any_letter=re.compile(rf"(?<![^\W_]){one}(?![^\W_])|option|choice|answer|letter", re.I),
        letters=(
            re.compile(
                rf"\b(?:option|choice|answer|letter)s?(?:\s+(?:is|must be|should be|would be))?\s*:?\s*\(?"
                rf"{pronoun}({one})\b",
                re.I,
            ),
            re.compile(rf"(?<!\w)\(({one})\)"),
            re.compile(rf"^\s*\*{{0,2}}({one})[.):](?=\s|$|\*)"),
            re.compile(rf"(?:^|[\s*(])([{bare}])\b(?=\s+(?:is|seems|looks|fits|makes|would)\b)"),
            re.compile(rf"\*\*\(?({one})\)?\.?\*\*"),
            re.compile(rf"\b(?i:so|therefore|thus|hence|choose|pick|select|is)\s+({one})[.!]?$"),
            re.compile(rf"\b({one})\s*(?:,|and|or|/)\s*(?:options?\s+)?{one}\b"),
            re.compile(rf"\b{one}\s*(?:,|and|or|/)\s*(?:options?\s+)?({one})\b"),
        ),
    )


def settled_option(reasoning: str, options: Sequence[str]) -> str | None:
    """The option that the reasoning settles on: its last unambiguous endorsement by letter or by text; None: none.

    Linear in the length of the reasoning: models that are caught in a loop write tens of thousands of characters.
    """
    found = conclusion(reasoning, options)
    return None if found is None else found.letter


def conclusion(reasoning: str, options: Sequence[str]) -> Conclusion | None:
    """settled_option, and the sentence that it is read from."""
    if not options:
        return None
    texts, forms = [_plain(option) for option in options], _forms(len(options))
    ends = [match.span() for match in forms.sentence.finditer(reasoning)]
    starts = [0, *(end for _, end in ends)]
    for start, end in zip(reversed(starts), reversed([*(start for start, _ in ends), len(reasoning)]), strict=True):
        # Runs of space would be read again and again by the forms below.
        sentence = _BLANKS.sub(" ", reasoning[start:end]).strip()
        named = _named(sentence, texts, forms)
        if len(named) == 1:
            return Conclusion(named.pop(), start, end)
    return None


def _named(sentence: str, texts: Sequence[str], forms: _Forms) -> set[str]:
    """Up to two letters of the options that a sentence endorses; texts: as _plain leaves them."""
    named: set[str] = set()
    for letter in chain(_by_letter(sentence, forms), _by_text(sentence, texts)):
        named.add(letter)
        if len(named) > 1:
            break
    return named


class _Clauses:
    """A sentence between commas, "but", "while" and the like, and where in it something is negated."""

    def __init__(self, sentence: str) -> None:
        self._sentence = sentence

    @cached_property
    def _bounds(self) -> tuple[list[int], list[int]]:
        ends = [match.span() for match in _CLAUSE_END.finditer(self._sentence)]
        return [0, *(end for _, end in ends)], [*(start for start, _ in ends), len(self._sentence)]

    @cached_property
    def _negations(self) -> list[tuple[int, int]]:
        return [match.span() for match in _NEGATION.finditer(self._sentence)]

    def negates(self, start: int, end: int) -> bool:
        """Whether the clause around start..end, what is named itself left out, holds a negation."""
        starts, ends = self._bounds
        first, last = starts[bisect_right(starts, start) - 1], ends[bisect_left(ends, end)]
        before = bisect_left(self._negations, (first,))
        after = bisect_left(self._negations, (end,))
        return any(
            place < len(self._negations) and low <= self._negations[place][0] and self._negations[place][1] <= high
            for place, low, high in ((before, first, start), (after, end, last))
        )


def _by_letter(sentence: str, forms: _Forms) -> Iterator[str]:
    """Every letter that is meant as one and endorsed."""
    if not forms.any_letter.search(sentence):
        return
    clauses = _Clauses(sentence)
    found: set[str] = set()
    for form in forms.letters:
        for match in form.finditer(sentence):
            letter = match.group(1).upper()
            if letter not in found and not clauses.negates(*match.span(1)):
                found.add(letter)
                yield letter


def _by_text(sentence: str, texts: Sequence[str]) -> Iterator[str]:
    """The letter of every option whose text is in the sentence, but for one inside a longer one, and endorsed."""
    plain = _plain(sentence)
    clauses = _Clauses(plain)
    longer: list[tuple[int, int]] = []  # where longer options stand
    # Longest first: "open the box lid" must not also count as "open the box".
    for place in sorted(range(len(texts)), key=lambda i: -len(texts[i])):
        text = texts[place]
        # Options that are equal cannot be distinguished by their text.
        if not text or text not in plain or texts.count(text) > 1:
            continue
        covered = _Cover(longer)
        spans = [match.span() for match in re.finditer(rf"(?<!\w){re.escape(text)}(?!\w)", plain)]
        spans = [span for span in spans if not covered.contains(*span)]
        longer += spans
        if any(not clauses.negates(*span) for span in spans):
            yield ascii_uppercase[place]


class _Cover:
    """Spans of text, asked whether one of them contains another span."""

    def __init__(self, spans: Sequence[tuple[int, int]]) -> None:
        ordered = sorted(spans)
        self._starts = [start for start, _ in ordered]
        # The furthest end among all spans that start no later.
        self._ends = list(accumulate((end for _, end in ordered), max))

    def contains(self, start: int, end: int) -> bool:
        place = bisect_right(self._starts, start) - 1
        return place >= 0 and self._ends[place] >= end


def _plain(text: str) -> str:
    """Lower case, single spaces, without articles and final full stop: options are often quoted loosely."""
    lowered = _SPACE.sub(" ", text.casefold().replace("*", "")).strip().rstrip(".")
    return _ARTICLE.sub("", lowered)
