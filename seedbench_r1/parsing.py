"""Text -> ParsedResponse. The only place that knows <think> and <answer>; rewards, scores and judges all call it.

The law, with every accepted and refused form, is in docs/scoring.md and tests/golden/parsing_cases.jsonl.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from seedbench_r1.types import LETTERS, ParsedResponse

PARSER_VERSION = 2  # raise it whenever a text can be read differently
THINK = "<think>\n"  # what templates of thinking models open in the assistant's turn

_AS_ASKED = re.compile(r"\s*+<think>([^<]*+)</think>\s*+<answer>\s*+([A-Z])\s*+</answer>\s*+")
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_STOPS = ".。!"

# Emphasis, code and mathematics around a text: all linear, since no content holds its own mark.
_STARS = re.compile(r"(\*{1,3})([^*]+)\1")
_UNDERSCORES = re.compile(r"(?<!\w)(_{1,3})([^_]+)\1(?!\w)")
_TICKS = re.compile(r"(`{1,3})([^`]+)\1")
_DOLLARS = re.compile(r"(\${1,2})([^$]+)\1")
_LATEX = re.compile(r"\\(?:boxed|text|textbf|mathbf|mathrm)\s*\{([^{}]*)\}")
_DISPLAY = re.compile(r"\\[\[(]([^\\]*)\\[\])]")
_PAIRS = {"(": ")", "[": "]", "{": "}", "【": "】", "「": "」", "『": "』", '"': '"', "'": "'", "“": "”", "‘": "’"}
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"  # characters of no width

# What may stand before a letter, and nothing else: possessive, so that a long row of them is read once.
_LEAD = re.compile(
    r"(?:(?:(?:so|therefore|thus|hence|the|my|final|correct|right|best|answer|option|choice|is)\b"
    r"|所以|因此|我的|最终|正确|最佳|答案|选项|选择|应?为|应?是|[:,\-])\s*+)++",
    re.IGNORECASE,
)
_NOUN = re.compile(r"answer|option|choice|答案|选项|选择", re.IGNORECASE)
_ABBREVIATION = re.compile(r"[A-Za-z]\.[A-Za-z](?![A-Za-z])")
_VERB = re.compile(
    r"(?:is|are|was|seems|looks|can|could|may|might|would|should|has|does)\b", re.IGNORECASE
)  # "(A) could be right" chooses nothing
# "(A) is wrong" and "A: not yet" speak of an option without choosing it.
_DENIED = re.compile(
    r"\(?\s*(?:(?:this|it|that|which)\s+)?(?:(?:is|was|seems|looks|would be|can be|may be|has been)\s+)?"
    r"(?:not|no|none|never|wrong|incorrect|false|unlikely|impossible|excluded|eliminated|rejected|ruled out|cannot|or)"
    r"\b"
    r"|however\b|(?:is|was|does|has|would|could|ca)n['’]t\b|\(?(?:不|错|非|没|排除)",
    re.IGNORECASE,
)
_AFTER_A = "(?:is|was|or|and|would|can|could|may|might|seems|looks|has|does|fits|makes|shows)"
_WORD = r"A-Za-z0-9_'’"


@dataclass(frozen=True, slots=True)
class AnswerField:
    """The part of a response in which its answer is looked for."""

    text: str
    tagged: bool  # it stood in <answer>...</answer>


@dataclass(frozen=True, slots=True)
class _Statement:
    letter: str
    firm: bool  # led in by words or alone: "Answer: B", "B"; not "B. wash the cup", which may be a list's line


@dataclass(frozen=True, slots=True)
class _Forms:
    """The forms of a letter from A to a last one."""

    statement: re.Pattern[str]  # of a letter, then nothing, or a separator and a text
    alone: re.Pattern[str]  # letters that stand alone in a text; "a" and "i" are words


@lru_cache
def _forms(last: str) -> _Forms:
    one = f"[A-{last}a-{last.lower()}]"
    opening, closing = (re.escape("".join(marks)) for marks in (_PAIRS, _PAIRS.values()))
    wrapped = rf"[{opening}]\s*+(?P<wrapped>{one})\s*+[{closing}](?P<after>.*)"
    separator = r"(?:\s*+[.):,;、。!]|[^\S\n]*+\n|\s++[-–—]++(?=\s)|\s*+[–—]|\s*+(?=\())"
    bare = rf"(?P<bare>{one})(?![{_WORD}])(?:\s*+$|{separator}(?P<text>.*))"
    small = "".join(c for c in "abcdefghijklmnopqrstuvwxyz" if c <= last.lower() and c not in "ai")
    return _Forms(
        statement=re.compile(f"{wrapped}|{bare}", re.DOTALL),
        # "A cup" has an article, "A is" a letter.
        alone=re.compile(rf"(?<![{_WORD}])(?!A\s+(?!{_AFTER_A}\b)[a-z])([A-{last}{small}])(?![{_WORD}])"),
    )


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
    texts = _option_texts(tuple(options or ()), "".join(letters))
    bare = plain(field.text)
    lines = [bare] if field.tagged else [line for line in bare.split("\n") if line.strip()]
    if len(lines) != 1:
        return _last_statement(lines, texts)
    letter = _read_field(lines[0], texts)
    return None if field.tagged and _contradicted(text, letter, texts) else letter


def answer_field(text: str) -> AnswerField | None:
    """Where the answer is looked for; None where it may have been cut off.

    The first filled <answer>...</answer> after the last </think>; else what follows the last </think>; else, if nothing
    does, or there are no thoughts, the first filled answer tag; else all of it. An answer tag that is opened after the
    thoughts and not closed, and thoughts that do not end, leave nothing to read.
    """
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
    span = _block_span(text, tag)
    return None if span is None else text[span[0] : span[1]].strip()


def plain(text: str) -> str:
    """Compatibility characters folded (NFKC); without Markdown emphasis, mathematics, code marks and outer space."""
    text = unicodedata.normalize("NFKC", text)
    text = _STARS.sub(r"\2", text)
    text = _UNDERSCORES.sub(r"\2", text)
    text = _TICKS.sub(r"\2", text)
    if "\\" in text:
        # \boxed{\text{B}} is nested; deeper is not written.
        text = _LATEX.sub(r"\1", _LATEX.sub(r"\1", text))
        text = _DISPLAY.sub(r"\1", text)
    text = _DOLLARS.sub(r"\2", text)
    return text.strip().strip(_INVISIBLE).strip()


def without_wrapping(text: str) -> str:
    """Without brackets and quotes around the whole, and without one final stop."""
    stopped = False
    while True:
        text = text.strip()
        if len(text) > 1 and text[-1] in _STOPS and not stopped:
            text, stopped = _without_stop(text), True
        # "(A) or (B)" is no text in brackets.
        elif len(text) > 2 and _PAIRS.get(text[0]) == text[-1] and not {text[0], text[-1]} & set(text[1:-1]):
            text = text[1:-1]
        else:
            return text


def lead_in(text: str) -> str:
    """The words before a stated answer, "The correct answer is: "; empty if there are none."""
    match = _LEAD.match(text)
    return match.group() if match and _NOUN.search(match.group()) else ""


def _read_field(text: str, texts: _Texts) -> str | None:
    """The letter that a whole text is, names, or states."""
    bare = without_wrapping(text)
    # A letter is a letter before it is an option's text: options may be letters in another order.
    if len(bare) == 1 and bare.isascii() and bare.upper() in texts.letters:
        return bare.upper()
    named = texts.equal_to(text)
    # Two options of the same text name two letters, and so none.
    if len(named) == 1:
        return named[0]
    statement = _statement(text, texts) or _statement(bare, texts)
    return statement.letter if statement else None


def _contradicted(text: str, letter: str | None, texts: _Texts) -> bool:
    """Whether the last line behind the answer tag states another letter: the tag then only showed the form."""
    span = answer_block(text)
    behind = text[span[1] :].removeprefix("</answer>").strip() if span is not None else ""
    if not behind or "<answer>" in behind:
        return False
    other = _statement(plain(behind).split("\n")[-1], texts)
    return other is not None and other.firm and other.letter != letter


def _last_statement(lines: Sequence[str], texts: _Texts) -> str | None:
    """The letter that the last line states, unless another line states another one."""
    last = _statement(lines[-1], texts) if lines else None
    if last is None:
        return None
    for line in lines[:-1]:
        other = _statement(line, texts)
        # Options that were copied before a firm statement are no statements of their own.
        if other is not None and other.letter != last.letter and (other.firm or not last.firm):
            return None
    return last.letter


def _statement(text: str, texts: _Texts) -> _Statement | None:
    """The whole text as a statement: words that lead in, a letter, then nothing, or a text of no other option."""
    text = text.strip()
    lead = lead_in(text)
    stated = text[len(lead) :]
    match = _forms(texts.letters[-1]).statement.fullmatch(stated)
    if match is None or _ABBREVIATION.match(stated):
        return None
    letter = (match.group("wrapped") or match.group("bare")).upper()
    said = (match.group("text") or match.group("after") or "").strip()
    if not said:
        return _Statement(letter, firm=True)
    rest = said.strip(" \t\r\n.:)-–—")
    named = texts.equal_to(said) or texts.equal_to(rest)
    # An option may be called "-3" or "False": its own text is no denial, and keeps its signs.
    if named:
        return _Statement(letter, firm=bool(lead)) if letter in named else None
    if match.group("wrapped") and _VERB.match(rest):
        return None
    # "A (person) washes" and "I, as a model" are words, not letters.
    word = said.startswith("(") and not said.rstrip(_STOPS).endswith(")")
    if word or (letter == "I" and not lead and stated[1:2] == ","):
        return None
    if rest and (_DENIED.match(rest) or texts.names_another(rest, letter)):
        return None
    return _Statement(letter, firm=bool(lead) or not rest)


class _Texts:
    """The option texts of one question, prepared for comparison."""

    __slots__ = ("_folded", "_freed", "letters")

    def __init__(self, options: Sequence[str], letters: str) -> None:
        self.letters = letters
        shown = [plain(option) for option in options]
        if shown and len(shown) != len(letters):
            raise ValueError(f"{len(shown)} options for the letters {letters}")
        self._folded = [_fold(_without_stop(text)) for text in shown]
        self._freed = [_fold(without_wrapping(text)) for text in shown]

    def equal_to(self, text: str) -> list[str]:
        """The letters of all options whose text is `text`, but for case, runs of space and a final stop."""
        exact, freed = _fold(_without_stop(text)), _fold(without_wrapping(text))
        pairs = list(zip(self.letters, self._folded, self._freed, strict=False))
        return [letter for letter, folded, _ in pairs if folded == exact] or [
            letter for letter, _, option in pairs if option == freed
        ]

    def names_another(self, text: str, letter: str) -> bool:
        """Whether a text that follows a letter names another option, by its text or by its letter."""
        if len(text) == 1 and text.upper() in self.letters:
            return text.upper() != letter
        if self._folded:
            own = self._freed[self.letters.index(letter)]
            folded = " ".join(text.split()).casefold()
            without = re.sub(_whole_words(own), " ", folded) if own else folded
            for option in self._freed:
                # An option inside of the own one is named with it; one that contains the own one is another.
                if option and option != own and _stands(option, without if option in own else folded):
                    return True
            text = re.sub(_whole_words(own), " ", text, flags=re.IGNORECASE) if own else text
        alone = _forms(self.letters[-1]).alone.findall(text)
        return any(other.upper() != letter for other in alone)


@lru_cache(maxsize=4096)
def _option_texts(options: tuple[str, ...], letters: str) -> _Texts:
    return _Texts(options, letters)


def _fold(text: str) -> str:
    return " ".join(text.split()).casefold()


def _without_stop(text: str) -> str:
    text = text.strip()
    return text[:-1] if len(text) > 1 and text[-1] in _STOPS else text


def _whole_words(text: str) -> str:
    """A pattern of the text; words of Latin letters do not go on at its ends, which Chinese has no sign for."""
    before = r"(?<![\w])" if text[:1].isascii() else ""
    return before + re.escape(text) + (r"(?![\w])" if text[-1:].isascii() else "")


def _stands(option: str, text: str) -> bool:
    return option in text and re.search(_whole_words(option), text) is not None


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
    while (span := _block_span(text, tag, start)) is not None:
        yield span
        start = span[1]


def _block_span(text: str, tag: str, start: int = 0) -> tuple[int, int] | None:
    """Character offsets of the unstripped content of the first <tag>...</tag> from `start` on, or None."""
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
