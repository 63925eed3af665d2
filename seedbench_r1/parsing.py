"""Text -> ParsedResponse. The only place that knows <think> and <answer>; rewards and scores both call it.

The rules, with every accepted and refused form, are in docs/scoring.md and tests/golden/parsing_cases.jsonl.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from seedbench_r1.types import LETTERS, ParsedResponse

PARSER_VERSION = 1  # part of the protocol id: raise it whenever a text can be read differently

_FORMAT = re.compile(r"<think>.*</think>\s*<answer>.*</answer>", re.DOTALL)
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")

_STARS = re.compile(r"(\*{1,3})([^*]+)\1")
_UNDERSCORES = re.compile(r"(?<!\w)(_{1,3})([^_]+)\1(?!\w)")

_LEAD = r"(?:option\s+|answer:\s*|(?:the\s+)?answer\s+is\s+)?"


@dataclass(frozen=True, slots=True)
class _Forms:
    """The forms of rules 2 and 3 for letters from A to a last one."""

    bare: re.Pattern[str]
    led: re.Pattern[str]
    then_text: re.Pattern[str]
    lone_capital: re.Pattern[str]


@lru_cache
def _forms(last: str) -> _Forms:
    one = f"(?-i:[A-{last}a-{last.lower()}])"  # ASCII letters only: ignoring case, the Kelvin sign would be a K
    return _Forms(
        bare=re.compile(rf"(?:\(({one})\)|({one}))[.:]?", re.IGNORECASE),
        led=re.compile(rf"{_LEAD}(?:\(({one})\)|({one}))[.:]?", re.IGNORECASE),
        then_text=re.compile(
            rf"{_LEAD}(?:\(({one})\)|({one})(?:[).:]|[ \t\r]*\n))[.:]?(.*)", re.IGNORECASE | re.DOTALL
        ),
        lone_capital=re.compile(rf"\b[A-{last}]\b"),
    )


def parse_response(text: str, options: Sequence[str] | None = None) -> ParsedResponse:
    """Read one response.

    Args:
        text: the completion, untouched.
        options: the four option texts in the order shown; without them an answer given by its text is not read.

    Returns:
        answer is None whenever the text does not commit to exactly one option.
    """
    return ParsedResponse(
        reasoning=first_block(text, "think"),
        answer=read_choice(text, options),
        answer_text=first_block(text, "answer") or text.strip(),
        format_ok=_format_ok(text),
    )


def read_choice(text: str, options: Sequence[str] | None = None, letters: Sequence[str] = LETTERS) -> str | None:
    """The letter that a response commits to, by rules 1 to 3 with A to the last of `letters`; None if it does not.

    Args:
        text: the completion, untouched.
        options: as many texts as there are letters, in the order shown.
        letters: "A", "B", ... without a gap, at most to "Z".
    """
    content = first_block(text, "answer")
    if content is None:
        # Without a tag prose is not searched for letters: "A" is also a word.
        return _letter(_forms(letters[-1]).bare.fullmatch(plain(text)))
    return _read_content(content, options, letters)


def first_block(text: str, tag: str) -> str | None:
    """The stripped content of the first <tag>...</tag>, or None. Linear in the length of the text."""
    span = first_block_span(text, tag)
    return None if span is None else text[span[0] : span[1]].strip()


def first_block_span(text: str, tag: str) -> tuple[int, int] | None:
    """Character offsets of the unstripped content of the first <tag>...</tag>, or None."""
    opening, closing = f"<{tag}>", f"</{tag}>"
    start = text.find(opening)
    if start < 0:
        return None
    start += len(opening)
    end = text.find(closing, start)
    return None if end < 0 else (start, end)


def _read_content(content: str, options: Sequence[str] | None, letters: Sequence[str]) -> str | None:
    """Rules 1 to 3 on the content of the answer tag."""
    forms = _forms(letters[-1])
    bare = plain(content)
    named = _options_named(bare, options, letters)
    # Two options of the same text name two letters, and so none.
    if len(named) == 1:
        return named[0]
    # The whole content must be the letter: fullmatch, never search.
    letter = _letter(forms.led.fullmatch(bare))
    if letter is not None:
        return letter
    match = forms.then_text.fullmatch(bare)
    letter = _letter(match)
    if match is None or letter is None:
        return None
    rest = match.group(3).strip()
    named = _options_named(rest, options, letters)
    if named:
        return letter if letter in named else None
    # "B. wash the cup, not A" commits to nothing.
    contradicted = any(capital != letter for capital in forms.lone_capital.findall(rest))
    return None if contradicted else letter


def _options_named(text: str, options: Sequence[str] | None, letters: Sequence[str]) -> list[str]:
    """The letters of all options whose text is `text`, ignoring case and one final full stop."""
    if not options or not text:
        return []
    wanted = text.removesuffix(".").casefold()
    return [
        letter
        for letter, option in zip(letters, options, strict=True)
        if plain(option).removesuffix(".").casefold() == wanted
    ]


def _letter(match: re.Match[str] | None) -> str | None:
    if match is None:
        return None
    found: str = match.group(1) or match.group(2)
    return found.upper()


def plain(text: str) -> str:
    """Without outer space and Markdown emphasis."""
    text = _STARS.sub(r"\2", text)
    return _UNDERSCORES.sub(r"\2", text).strip()


def _format_ok(text: str) -> bool:
    return all(text.count(tag) == 1 for tag in _TAGS) and _FORMAT.fullmatch(text.strip()) is not None
