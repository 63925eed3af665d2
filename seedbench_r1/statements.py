"""One line or field of a response -> the letter that it states. The law in words: docs/scoring.md, rules 2 to 6."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

_STOPS = ".。!"

# Emphasis, code and mathematics around a text: all linear, since no content holds its own mark.
_STARS = re.compile(r"(\*{1,3})([^*]+)\1")
_UNDERSCORES = re.compile(r"(?<!\w)(_{1,3})([^_]+)\1(?!\w)")
_TICKS = re.compile(r"(`{1,3})([^`]+)\1")
_DOLLARS = re.compile(r"(\${1,2})([^$]+)\1")
_LATEX = re.compile(r"\\(?:boxed|text|textbf|mathbf|mathrm)\s*\{([^{}]*)\}")
_DISPLAY = re.compile(r"\\[\[(]([^\\]*)\\[\])]")
_PAIRS = {"(": ")", "[": "]", "{": "}", "【": "】", "「": "」", "『": "』", '"': '"', "'": "'", "“": "”", "‘": "’"}
_OPEN_MARKS = re.compile(r"^[*_`$]+(?=\S)")
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"  # characters of no width

# What may stand before a letter, and nothing else: possessive, so that a long row of them is read once.
_LEAD_WORDS = r"(?:so|therefore|thus|hence|the|my|final|correct|right|best|answer|option|choice|is)\b"
_LEAD = re.compile(
    rf"(?:(?:{_LEAD_WORDS}|所以|因此|我的|最终|正确|最佳|答案|选项|选择|应?为|应?是|[:,\-])\s*+)++", re.IGNORECASE
)
_NOUN = re.compile(r"answer|option|choice|答案|选项|选择", re.IGNORECASE)
# "选B" chooses as "the answer is B" does; of numbers it would count.
_CHOOSING = re.compile(
    r"(?:(?:所以|因此|故|应该?|我|最终|正确|答案|本题|[:,])\s*+)*+选(?:择|项)?\s*+(?:[:,]\s*+|是|为)?+"
)
_LEAD_SIGNS = "所因我最正答选应为是故本"  # the first ones of the Chinese words above
_ANSWER = re.compile(r"answer|答案", re.IGNORECASE)
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


class Statement(NamedTuple):  # made in a third of a dataclass's time, once for each line that states something
    """A letter that a line states."""

    letter: str
    firm: bool  # led in by words or alone: "Answer: B", "B"; not "B. wash the cup", which may be a list's line


@dataclass(frozen=True, slots=True)
class _Forms:
    """The forms of a letter from A to a last one."""

    statement: re.Pattern[str]  # of a letter, then nothing, or a separator and a text
    affirmed: re.Pattern[str]  # of a letter and a sentence's rest that says no more than that it is the answer
    begun: re.Pattern[str]  # of the beginning of every line that can be a statement, of ASCII without marks
    marked: re.Pattern[str]  # the same, of other lines
    alone: re.Pattern[str]  # letters that stand alone in a text; "a" and "i" are words


@lru_cache
def _forms(last: str) -> _Forms:
    one = f"[A-{last}a-{last.lower()}]"
    opening, closing = (re.escape("".join(marks)) for marks in (_PAIRS, _PAIRS.values()))
    wrapped = rf"[{opening}]\s*+(?P<wrapped>{one})\s*+[{closing}](?P<after>.*)"
    separator = r"(?:\s*+[.):,;、。!]|[^\S\n]*+\n|\s++[-–—]++(?=\s)|\s*+[–—]|\s*+(?=\())"
    bare = rf"(?P<bare>{one})(?![{_WORD}])(?:\s*+$|{separator}(?P<text>.*))"
    small = "".join(c for c in "abcdefghijklmnopqrstuvwxyz" if c <= last.lower() and c not in "ai")
    right = (
        r"(?i:is\s+(?:the\s+)?(?:correct|right)|is\s+the\s+answer"
        r"|is\s+the\s+(?:correct|right|best)\s+(?:answer|option|choice))|是?正确(?:的|答案|选项)?"
    )
    # Of one line only: every line is asked for its own beginning, and reading on would take their square.
    space = r"[^\S\n]*+"
    lead = f"{space}(?:(?:{_LEAD_WORDS}|[:,\\-]){space})*+"
    return _Forms(
        statement=re.compile(f"{wrapped}|{bare}", re.DOTALL),
        affirmed=re.compile(
            rf"(?:[{opening}]\s*+(?P<wrapped>{one})\s*+[{closing}]|(?P<bare>{one})(?![{_WORD}]))\s*+(?:{right})\s*+[.。!]?"
        ),
        begun=re.compile(rf"\n(?={lead}[{opening}]?{space}{one}(?![{_WORD}]))", re.IGNORECASE),
        marked=re.compile(
            rf"\n(?=(?:[^\S\n]|[*_`$#])*+(?:{_LEAD_WORDS}|{one}(?![{_WORD}])|[{opening}\\:,\-{_LEAD_SIGNS}]"
            r"|[^\x00-\x7f\u4e00-\u9fff]))",
            re.IGNORECASE,
        ),
        # "A cup" has an article, "A is" a letter.
        alone=re.compile(rf"(?<![{_WORD}])(?!A\s+(?!{_AFTER_A}\b)[a-z])([A-{last}{small}])(?![{_WORD}])"),
    )


def plain(text: str) -> str:
    """Compatibility characters folded (NFKC); without Markdown emphasis, mathematics, code marks and outer space."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    # Most texts hold none of these marks, and looking for one is far cheaper than a pattern.
    if "*" in text:
        text = _STARS.sub(r"\2", text)
    if "_" in text:
        text = _UNDERSCORES.sub(r"\2", text)
    if "`" in text:
        text = _TICKS.sub(r"\2", text)
    if "\\" in text:
        # \boxed{\text{B}} is nested; deeper is not written.
        text = _LATEX.sub(r"\1", _LATEX.sub(r"\1", text))
        text = _DISPLAY.sub(r"\1", text)
    if "$" in text:
        text = _DOLLARS.sub(r"\2", text)
    return _outer_space_off(text)


def _outer_space_off(text: str) -> str:
    """Without space and characters of no width around it."""
    return text.strip() if text.isascii() else text.strip().strip(_INVISIBLE).strip()


def _holds_marks(text: str) -> bool:
    # One by one: a set or a pattern looks at every sign, which takes thirty times as long.
    return "*" in text or "_" in text or "`" in text or "$" in text or "\\" in text or "{" in text or "}" in text


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


def read_field(text: str, texts: OptionTexts) -> str | None:
    """The letter that a plain text is, names, or states."""
    bare = without_wrapping(text)
    # A letter is a letter before it is an option's text: options may be letters in another order.
    if len(bare) == 1 and bare.isascii() and bare.upper() in texts.letters:
        return bare.upper()
    named = texts.equal_to(text)
    # Two options of the same text name two letters, and so none.
    if len(named) == 1:
        return named[0]
    stated = statement(text, texts) or (statement(bare, texts) if bare != text else None)
    return stated.letter if stated else None


def read_lines(text: str, texts: OptionTexts) -> str | None:
    """The letter that the last line of an untagged text states, unless another line states another one."""
    text = _outer_space_off(text)
    before, _, last = text.rpartition("\n")
    last = plain(last)
    # Marks that are open at the last line's end began in an earlier one: "```", then B, then "```".
    if not last or (before and _holds_marks(last)):
        before, _, last = plain(text).rpartition("\n")
    if not before.strip():
        return read_field(last, texts)
    stated = statement(last, texts)
    if stated is None:
        return None
    for line in _likely_lines(before, texts):
        # A mark that this line leaves open says nothing about what follows it.
        other = statement(_OPEN_MARKS.sub("", plain(line)), texts)
        # Options that were copied before a firm statement are no statements of their own.
        if other is not None and other.letter != stated.letter and (other.firm or not stated.firm):
            return None
    return stated.letter


def _likely_lines(text: str, texts: OptionTexts) -> Iterator[str]:
    """The lines that begin as a statement does. To fold and match all of them would take most of the reader's time."""
    forms = texts.forms
    marked = not text.isascii() or _holds_marks(text) or "#" in text
    text = "\n" + text
    seen = set()  # a model that loops says one line a thousand times
    for match in (forms.marked if marked else forms.begun).finditer(text):
        end = text.find("\n", match.start() + 1)
        line = text[match.start() + 1 : None if end < 0 else end]
        if line not in seen:
            seen.add(line)
            yield line


def statement(text: str, texts: OptionTexts) -> Statement | None:
    """The whole text as a statement: words that lead in, a letter, then nothing, or a text of no other option."""
    text = text.strip()
    if text.startswith("#"):
        text = _without_heading(text)
    lead = lead_in(text)
    if "选" in text:
        lead = max(lead, _choosing(text), key=len)
    stated = text[len(lead) :]
    forms = texts.forms
    match = forms.statement.fullmatch(stated)
    if match is not None and not (match.group("text") or match.group("after")):
        return Statement((match.group("wrapped") or match.group("bare")).upper(), firm=True)
    affirmed = forms.affirmed.fullmatch(stated)
    if affirmed is not None:
        return Statement((affirmed.group("wrapped") or affirmed.group("bare")).upper(), firm=True)
    if match is None or _ABBREVIATION.match(stated):
        return _with_own_text(stated, texts, firm=bool(lead))
    letter = (match.group("wrapped") or match.group("bare")).upper()
    said = (match.group("text") or match.group("after")).strip()
    if not said:
        return Statement(letter, firm=True)
    rest = said.strip(" \t\r\n.:)-–—")
    named = texts.equal_to(said) or texts.equal_to(rest)
    # An option may be called "-3" or "False": its own text is no denial, and keeps its signs.
    if named:
        return Statement(letter, firm=bool(lead)) if letter in named else None
    if match.group("wrapped") and _VERB.match(rest):
        return None
    # "A (person) washes" and "I, as a model" are words, not letters.
    word = said.startswith("(") and not said.rstrip(_STOPS).endswith(")")
    if word or (letter == "I" and not lead and stated[1:2] == ","):
        return None
    if rest and (_DENIED.match(rest) or texts.names_another(rest, letter)):
        return None
    return Statement(letter, firm=bool(lead) or not rest)


def _without_heading(text: str) -> str:
    """Without the marks of a heading whose leading words name the answer: "### Answer: B", not "### Option B"."""
    bare = text.lstrip("#").lstrip()
    return bare if _ANSWER.search(lead_in(bare)) else text


def _choosing(text: str) -> str:
    match = _CHOOSING.match(text)
    return match.group() if match else ""


def _with_own_text(text: str, texts: OptionTexts, *, firm: bool) -> Statement | None:
    """ "B wash the cup": a letter and exactly its own option's text, without a separator."""
    letter, said = text[:1].upper(), text[1:]
    # A word goes on: "Add water" is no A with "dd water".
    if letter not in texts.letters or not letter or (said[:1].isascii() and not said[:1].isspace()):
        return None
    return Statement(letter, firm) if letter in texts.equal_to(said) else None


class OptionTexts:
    """The option texts of one question, prepared for comparison."""

    __slots__ = ("_folded", "_freed", "_initials", "forms", "letters")

    def __init__(self, options: Sequence[str], letters: str) -> None:
        self.letters = letters
        self.forms = _forms(letters[-1])
        shown = [plain(option) for option in options]
        if shown and len(shown) != len(letters):
            raise ValueError(f"{len(shown)} options for the letters {letters}")
        self._folded = [fold(_without_stop(text)) for text in shown]
        self._freed = [fold(without_wrapping(text)) for text in shown]
        self._initials = {option[:1] for option in (*self._folded, *self._freed)}

    def equal_to(self, text: str) -> list[str]:
        """The letters of all options whose text is `text`, but for case, runs of space and a final stop."""
        exact, freed = _without_stop(text), without_wrapping(text)
        # Nearly all texts begin otherwise than every option, and need not be folded to see that they differ.
        if not {exact[:1].casefold()[:1], freed[:1].casefold()[:1]} & self._initials:
            return []
        return self._places(exact, self._folded) or self._places(freed, self._freed)

    def _places(self, text: str, options: list[str]) -> list[str]:
        # Options are short, and texts may be long: their first words decide.
        start = fold(text[:32])
        if not any(option.startswith(start) for option in options):
            return []
        folded = fold(text)
        return [letter for letter, option in zip(self.letters, options, strict=False) if option == folded]

    def names_another(self, text: str, letter: str) -> bool:
        """Whether a text that follows a letter names another option, by its text or by its letter."""
        if len(text) == 1 and text.upper() in self.letters:
            return text.upper() != letter
        if self._folded:
            own = self._freed[self.letters.index(letter)]
            folded = fold(text)
            names_own = bool(own) and own in folded
            without = _whole_words(own).sub(" ", folded) if names_own else folded
            for option in self._freed:
                # An option inside of the own one is named with it; one that contains the own one is another.
                if option and option != own and _stands(option, without if option in own else folded):
                    return True
            text = _whole_words(own).sub(" ", text) if names_own else text
        alone = self.forms.alone.findall(text)
        return any(other.upper() != letter for other in alone)


@lru_cache(maxsize=4096)
def option_texts(options: tuple[str, ...], letters: str) -> OptionTexts:
    return OptionTexts(options, letters)


def fold(text: str) -> str:
    """For comparing texts: runs of space as one, without case."""
    return " ".join(text.split()).casefold()


def _without_stop(text: str) -> str:
    text = text.strip()
    return text[:-1] if len(text) > 1 and text[-1] in _STOPS else text


@lru_cache(maxsize=16384)  # re keeps 512, and a benchmark has thousands of options
def _whole_words(text: str) -> re.Pattern[str]:
    """The text, in either case; words of Latin letters do not go on at its ends, which Chinese has no sign for."""
    before = r"(?<![\w])" if text[:1].isascii() else ""
    return re.compile(before + re.escape(text) + (r"(?![\w])" if text[-1:].isascii() else ""), re.IGNORECASE)


def _stands(option: str, text: str) -> bool:
    return option in text and _whole_words(option).search(text) is not None
