"""Text -> ParsedResponse. The only place that knows <think> and <answer>; rewards, scores and judges all call it.

The law, with every accepted and refused form, is in docs/scoring.md and tests/golden/parsing_cases.jsonl.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from seedbench_r1.statements import OptionTexts, option_texts, plain, read_field, read_lines, statement
from seedbench_r1.types import LETTERS, ParsedResponse

PARSER_VERSION = 3  # raise it whenever a text can be read differently
THINK = "<think>\n"  # what templates of thinking models open in the assistant's turn

_AS_ASKED = re.compile(r"\s*+<think>([^<]*+)</think>\s*+<answer>\s*+([A-Z])\s*+</answer>\s*+")
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


class AnswerField(NamedTuple):
    """The part of a response in which its answer is looked for."""

    text: str
    tagged: bool  # it stood in <answer>...</answer>


def parse_response(
    text: str, options: Sequence[str] | None = None, letters: Sequence[str] = LETTERS, *, opened: str = ""
) -> ParsedResponse:
    """Read one response.

    Args:
        text: the completion, untouched.
        options: the option texts in the order shown; without them an answer given by its text is not read.
        letters: those of the options: "A", "B", ... without a gap, at most to "Z".
        opened: what the prompt had opened in the assistant's turn, e.g. THINK.

    Returns:
        answer is None whenever the text does not commit to exactly one option.
    """
    whole = opened + text
    plainly = _AS_ASKED.fullmatch(whole)
    # Nearly all responses have this form, and reports read a hundred thousand.
    if plainly is not None and (answer := plainly.group(2)) in letters:
        return ParsedResponse(plainly.group(1).strip(), answer, answer, format_ok=True)
    return ParsedResponse(
        reasoning=first_block(whole, "think"),
        answer=read_choice(whole, options, letters),
        answer_text=strict_answer(text),
        format_ok=_format_ok(whole),
    )


def assumed_opening(text: str) -> str:
    """What a prompt that is not known must have opened: THINK if the text closes thoughts that it did not open."""
    end = text.find("</think>")
    return THINK if end >= 0 and "<think>" not in text[:end] else ""


def after_opening(response: str, opened: str) -> str:
    """A written response as the continuation of a prompt that has opened its thoughts already."""
    if not opened or not response.lstrip().startswith("<think>"):
        return response
    return response.lstrip()[len("<think>") :].lstrip()


def read_choice(text: str, options: Sequence[str] | None = None, letters: Sequence[str] = LETTERS) -> str | None:
    """The letter that a response commits to, from A to the last of `letters`; None if it does not.

    Args:
        text: what the prompt had opened, then the completion.
        options: as many texts as there are letters, in the order shown.
        letters: "A", "B", ... without a gap, at most to "Z".
    """
    field = answer_field(text)
    if field is None:
        return None
    texts = option_texts(tuple(options or ()), "".join(letters))
    if not field.tagged:
        return read_lines(field.text, texts)
    letter = read_field(plain(field.text), texts)
    return None if _contradicted(text, letter, texts) else letter


def answer_field(text: str) -> AnswerField | None:
    """Where the answer is looked for; None where it may have been cut off.

    The first filled <answer>...</answer> after the last </think>; else what follows the last </think>; else, if nothing
    does, or there are no thoughts, the first filled answer tag; else all of it. An answer tag that is opened after the
    thoughts and not closed, and thoughts that do not end, leave nothing to read.
    """
    if "<" not in text:
        return AnswerField(text.strip(), tagged=False)
    span = answer_block(text)
    if span is not None:
        return AnswerField(text[span[0] : span[1]].strip(), tagged=True)
    start = _end_of_thoughts(text)
    if _is_cut(text, start) or (start == 0 and "<think>" in text):
        return None
    return AnswerField(text[start:].strip(), tagged=False)


def answer_block(text: str) -> tuple[int, int] | None:
    """Character offsets of the unstripped content of the answer tag that counts, or None."""
    start = _end_of_thoughts(text)
    found = _filled_block(text, start)
    if start == 0:
        # Thoughts that go on behind the tag have not ended: the tag was named in them, not given as the answer.
        ended = found is None or "<think>" not in text or not text[found[1] :].removeprefix("</answer>").strip()
        return found if ended else None
    if found is not None or text[start:].strip():
        return found
    return _filled_block(text, 0)


def strict_answer(text: str) -> str:
    """What the reference evaluator compares with the gold letter: the first answer tag's content, else everything.

    GRPO-CARE's `eval_bench.py` at 03c3a7c.
    """
    return first_block(text, "answer") or text.strip()


def first_block(text: str, tag: str) -> str | None:
    """The stripped content of the first <tag>...</tag>, or None. Linear in the length of the text."""
    span = block_span(text, tag)
    return None if span is None else text[span[0] : span[1]].strip()


def _contradicted(text: str, letter: str | None, texts: OptionTexts) -> bool:
    """Whether the last line behind the answer tag states another letter: the tag then only showed the form."""
    span = answer_block(text)
    behind = text[span[1] :].removeprefix("</answer>").strip() if span is not None else ""
    if not behind or "<answer>" in behind:
        return False
    other = statement(plain(behind).split("\n")[-1], texts)
    return other is not None and other.firm and other.letter != letter


def _end_of_thoughts(text: str) -> int:
    """Where the last </think> ends; 0 if there is none."""
    end = text.rfind("</think>")
    return 0 if end < 0 else end + len("</think>")


def _is_cut(text: str, start: int) -> bool:
    """Whether an answer tag is opened after `start` and not closed."""
    return text.rfind("<answer>", start) > text.rfind("</answer>", start)


def _filled_block(text: str, start: int) -> tuple[int, int] | None:
    """The first answer tag from `start` on that holds more than space."""
    return next((span for span in _blocks(text, "answer", start) if text[span[0] : span[1]].strip()), None)


def _blocks(text: str, tag: str, start: int = 0) -> Iterator[tuple[int, int]]:
    while (span := block_span(text, tag, start)) is not None:
        yield span
        start = span[1]


def block_span(text: str, tag: str, start: int = 0) -> tuple[int, int] | None:
    """Character offsets of the unstripped content of the first <tag>...</tag> from `start` on, or None."""
    # Most texts without this tag have none at all, and one sign is found far sooner.
    if "<" not in text:
        return None
    opening, closing = f"<{tag}>", f"</{tag}>"
    start = text.find(opening, start)
    if start < 0:
        return None
    start += len(opening)
    end = text.find(closing, start)
    return None if end < 0 else (start, end)


def _format_ok(text: str) -> bool:
    """One think block, one answer block, and nothing else but space."""
    text = text.strip()
    if not text.startswith("<think>") or not text.endswith("</answer>") or any(text.count(tag) != 1 for tag in _TAGS):
        return False
    end, start = text.find("</think>"), text.find("<answer>")
    return end < start and not text[end + len("</think>") : start].strip()
