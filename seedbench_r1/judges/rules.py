"""The judge without a model: which option does a text settle on? A heuristic; docs/judge.md shows how good it is.

It reads sentences from the last to the first and takes the first one that endorses exactly one option, by its letter or
by its text, without a negation in the same clause. No such sentence: undecided.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from seedbench_r1.types import LETTERS, Letter

RULES_VERSION = 1  # part of the judge id

_SENTENCE = re.compile(r"(?<=[.!?;])(?<!\b[A-D]\.)\s+|\n+")  # "B. wash the cup" is one sentence
# "already" negates too: a step that was done is not the next one.
_NEGATION = re.compile(
    r"\b(?:not|no|never|cannot|can't|isn't|aren't|doesn't|don't|won't|wouldn't|shouldn't|wrong|incorrect|unlikely|"
    r"unrelated|irrelevant|rather than|instead of|already|eliminat\w*|rul\w+ out|exclud\w*|dismiss\w*)\b",
    re.IGNORECASE,
)
# "A" is also an article, so a bare letter counts only in forms that mean an option.
_LETTER_FORMS = (
    re.compile(
        r"\b(?:option|choice|answer|letter)s?(?:\s+(?:is|must be|should be|would be))?\s*:?\s*\(?([A-D])\b", re.I
    ),
    re.compile(r"(?<!\w)\(([A-D])\)"),
    re.compile(r"^\s*\*{0,2}([A-D])[.):](?=\s|$|\*)"),
    re.compile(r"(?:^|[\s*(])([BCD])\b(?=\s+(?:is|seems|looks|fits|makes|would)\b)"),
    re.compile(r"\*\*\(?([A-D])\)?\.?\*\*"),
    re.compile(r"\b(?i:so|therefore|thus|hence|choose|pick|select|is)\s+([A-D])[.!]?$"),
    re.compile(r"\b([A-D])\s*(?:,|and|or|/)\s*(?:options?\s+)?[A-D]\b"),
    re.compile(r"\b[A-D]\s*(?:,|and|or|/)\s*(?:options?\s+)?([A-D])\b"),
)
_CLAUSE_END = re.compile(r",|\bbut\b|\bwhile\b|\bwhereas\b|\band then\b")
_ARTICLE = re.compile(r"\b(?:the|a|an)\b\s*")
_SPACE = re.compile(r"\s+")


def settled_option(reasoning: str, options: Sequence[str]) -> str | None:
    """The option that the reasoning settles on: its last unambiguous endorsement by letter or by text; None: none."""
    texts = [_plain(option) for option in options]
    for sentence in reversed(_SENTENCE.split(reasoning.strip())):
        mentions = _by_letter(sentence) + _by_text(sentence, texts)
        named = {letter for letter, clause in mentions if not _NEGATION.search(clause)}
        if len(named) == 1:
            return named.pop()
    return None


def _by_letter(sentence: str) -> list[tuple[Letter, str]]:
    """(letter, its clause) for every letter that is meant as one."""
    found = []
    for form in _LETTER_FORMS:
        for match in form.finditer(sentence):
            letter = LETTERS["ABCD".index(match.group(1).upper())]
            found.append((letter, _clause(sentence, match.start(1), match.end(1))))
    return found


def _by_text(sentence: str, texts: Sequence[str]) -> list[tuple[Letter, str]]:
    """(letter, its clause) for every option text in the sentence, but for one inside a longer one."""
    plain = _plain(sentence)
    found = []
    found_at: list[tuple[int, int]] = []
    # Longest first: "open the box lid" must not also count as "open the box".
    for place in sorted(range(len(texts)), key=lambda i: -len(texts[i])):
        text = texts[place]
        # Options that are equal cannot be distinguished by their text.
        if not text or texts.count(text) > 1:
            continue
        for match in re.finditer(rf"(?<!\w){re.escape(text)}(?!\w)", plain):
            if any(start <= match.start() and match.end() <= end for start, end in found_at):
                continue
            found_at.append(match.span())
            found.append((LETTERS[place], _clause(plain, *match.span())))
    return found


def _clause(sentence: str, start: int, end: int) -> str:
    """The sentence around start..end, between commas, "but", "while" and the like; what is named itself left out."""
    return _CLAUSE_END.split(sentence[:start])[-1] + " " + _CLAUSE_END.split(sentence[end:])[0]


def _plain(text: str) -> str:
    """Lower case, single spaces, without articles and final full stop: options are often quoted loosely."""
    lowered = _SPACE.sub(" ", text.casefold().replace("*", "")).strip().rstrip(".")
    return _ARTICLE.sub("", lowered)
