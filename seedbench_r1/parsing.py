"""Text -> ParsedResponse. The only place that knows <think> and <answer>; rewards and scores both call it.

The rules, with every accepted and refused form, are in docs/scoring.md and tests/golden/parsing_cases.jsonl.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from seedbench_r1.types import LETTERS, Letter, ParsedResponse

PARSER_VERSION = 1  # part of the protocol id: raise it whenever a text can be read differently

_FORMAT = re.compile(r"<think>.*</think>\s*<answer>.*</answer>", re.DOTALL)
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")

_STARS = re.compile(r"(\*{1,3})([^*]+)\1")
_UNDERSCORES = re.compile(r"(?<!\w)(_{1,3})([^_]+)\1(?!\w)")

_LEAD = r"(?:option\s+|answer:\s*|(?:the\s+)?answer\s+is\s+)?"
_BARE_LETTER = re.compile(r"(?:\(([A-D])\)|([A-D]))[.:]?", re.IGNORECASE)
_LED_LETTER = re.compile(rf"{_LEAD}(?:\(([A-D])\)|([A-D]))[.:]?", re.IGNORECASE)
_LETTER_THEN_TEXT = re.compile(
    rf"{_LEAD}(?:\(([A-D])\)|([A-D])(?:[).:]|[ \t\r]*\n))[.:]?(.*)", re.IGNORECASE | re.DOTALL
)
_LONE_CAPITAL = re.compile(r"\b[A-D]\b")


def parse_response(text: str, options: Sequence[str] | None = None) -> ParsedResponse:
    """Read one response.

    Args:
        text: the completion, untouched.
        options: the four option texts in the order shown; without them an answer given by its text is not read.

    Returns:
        answer is None whenever the text does not commit to exactly one option.
    """
    reasoning = first_block(text, "think")
    tagged = first_block(text, "answer")
    content = tagged or ""
    if tagged is None:
        answer = _letter(_BARE_LETTER.fullmatch(_plain(text)))
    else:
        answer = _read_content(content, options)
    return ParsedResponse(
        reasoning=reasoning,
        answer=answer,
        answer_text=content or text.strip(),
        format_ok=_format_ok(text),
    )


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


def _read_content(content: str, options: Sequence[str] | None) -> Letter | None:
    """Rules 1 to 3 on the content of the answer tag."""
    plain = _plain(content)
    named = _options_named(plain, options)
    if len(named) == 1:
        return named[0]
    letter = _letter(_LED_LETTER.fullmatch(plain))
    if letter is not None:
        return letter
    match = _LETTER_THEN_TEXT.fullmatch(plain)
    letter = _letter(match)
    if match is None or letter is None:
        return None
    rest = match.group(3).strip()
    named = _options_named(rest, options)
    if named:
        return letter if letter in named else None
    contradicted = any(capital != letter for capital in _LONE_CAPITAL.findall(rest))
    return None if contradicted else letter


def _options_named(text: str, options: Sequence[str] | None) -> list[Letter]:
    """The letters of all options whose text is `text`, ignoring case and one final full stop."""
    if not options or not text:
        return []
    wanted = text.removesuffix(".").casefold()
    return [
        letter
        for letter, option in zip(LETTERS, options, strict=True)
        if _plain(option).removesuffix(".").casefold() == wanted
    ]


def _letter(match: re.Match[str] | None) -> Letter | None:
    if match is None:
        return None
    found = (match.group(1) or match.group(2)).upper()
    return LETTERS["ABCD".index(found)]


def _plain(text: str) -> str:
    """Without outer space and Markdown emphasis."""
    text = _STARS.sub(r"\2", text)
    return _UNDERSCORES.sub(r"\2", text).strip()


def _format_ok(text: str) -> bool:
    return all(text.count(tag) == 1 for tag in _TAGS) and _FORMAT.fullmatch(text.strip()) is not None
