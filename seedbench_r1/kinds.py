"""Reading and scoring by kind of question: our rule and the reference evaluator's. Pure; in words: docs/transfer.md."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

from seedbench_r1.parsing import PARSER_VERSION, answer_field, parse_response
from seedbench_r1.statements import lead_in, plain, without_wrapping
from seedbench_r1.types import FinishReason, Kind, Outcome, ParsedResponse, Question, Score

SCORER_VERSION = 2  # raise it whenever a number or a text can be read differently or get another score
LAW = f"{PARSER_VERSION}.{SCORER_VERSION}"  # kept with each record: what read and scored it

# VSI-Bench's thresholds (arXiv 2412.14171, section 3): 0.5, 0.55, ..., 0.95
THRESHOLDS = tuple(Fraction(k, 20) for k in range(10, 20))

_WORDS = re.findall(
    r"\w+",
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty",
)
_OTHER_NUMBERS = re.findall(
    r"\w+",
    "hundred thousand million billion trillion lakh crore dozen hundreds thousands millions billions trillions dozens "
    "k bn mn half quarter halves quarters point plus minus or and to st nd rd th 十 百 千 万 亿 半 个半",
)
_NO_NOUNS = frozenset([*_WORDS, *_OTHER_NUMBERS])
_DIGITS = r"[+-]?(?:(?:[0-9]{1,3}(?:,[0-9]{3}){1,12}|[0-9]{1,40})(?:\.[0-9]{1,40})?|\.[0-9]{1,40})(?:e[+-]?[0-9]{1,2})?"
# One unit or noun: "m", "sq. m", "square feet", "m^2", "m/s", "°C", "%", "chairs", "米"
_UNIT = (
    r"(?:%|°|[²³]|(?:(?:square|cubic|sq|cu)\.?\s)?°?[^\W\d_]{1,20}(?:\.|\^?[23²³])?"
    r"(?:/[^\W\d_]{1,12}(?:\^?[23²³])?)?(?:\ssquared)?)"
)
# Powers would be folded into digits: 4² is no 42.
_SIGNS = str.maketrans({"−": "-"} | {power: f"^{n}" for n, power in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")})
_NUMBER = re.compile(
    rf"(?:(?:~|≈|about|around|approximately|approx\.?|roughly|大约|大概|约)\s*)?[$€£¥]?\s?(?P<number>{_DIGITS}|(?:{'|'.join(_WORDS)})\b)"
    rf"(?:\s?[€£¥]|\s*(?P<unit>{_UNIT}))?",
    re.IGNORECASE,
)


def parse(text: str, question: Question, opened: str = "") -> ParsedResponse:
    """Read one response: choices by the parsing law with as many letters as options, numbers by read_number.

    Without an answer tag a number must be the last line, bare or led in as a letter is; texts need the tag.
    """
    if question.kind == "choice":
        return parse_response(text, question.options, question.letters, opened=opened)
    common = parse_response(text, opened=opened)
    field = answer_field(opened + text)
    answer: str | None = None
    if field is not None and question.kind in ("numerical", "regression"):
        answer = _number_text(field.text) if field.tagged else _number_of_last_line(field.text)
    elif field is not None and field.tagged:
        answer = field.text
    return replace(common, answer=answer)


def score(question: Question, parsed: ParsedResponse, finish_reason: FinishReason = "stop") -> Score:
    """Judge one response of any kind. Unparsed and truncated ones get no credit by our rule."""
    return Score(
        outcome=outcome(parsed, finish_reason),
        credit=0.0 if parsed.answer is None else credit(question.kind, parsed.answer, question.gold),
        strict_credit=reference_credit(question.kind, parsed.answer_text, question.gold),
    )


def outcome(parsed: ParsedResponse, finish_reason: FinishReason) -> Outcome:
    """A response that was cut at the length limit but whose answer was read counts as answered; cut and unread is
    "truncated". Both "unparsed" and "truncated" are wrong.
    """
    # The answer stands in the text even if the length limit cut what came after.
    if parsed.answer is not None:
        return "answered"
    return "truncated" if finish_reason == "length" else "unparsed"


def credit(kind: Kind, answer: str, gold: str) -> float:
    """Our rule, on an answer that was read: 0 to 1."""
    if kind == "choice":
        return float(answer == gold)
    if kind == "ocr":
        return 1.0 - min(1.0, word_error_rate(gold, answer))
    if kind == "free-form":
        return rouge_mean(gold, answer)
    value, wanted = read_number(answer), read_number(gold)
    if value is None or wanted is None:
        return 0.0
    if kind == "numerical":
        return float(round(100 * value) == round(100 * wanted))  # exact; halves to even
    return mean_relative_accuracy(value, wanted)


def read_number(text: str) -> Fraction | None:
    """The one number that a text states, exactly; None if it is anything else, two numbers among it.

    Led in or not ("The answer is 4"), in digits or words up to twenty, with one unit or noun behind it ("4 chairs"),
    "~" or a currency before it. Commas may only group thousands. Nothing is converted: "250 cm" is 250.
    """
    found = _number_text(text)
    return None if found is None else Fraction(Decimal(found.replace(",", "")))


def _number_text(text: str) -> str | None:
    """The number in digits as written, commas included; a number word in digits."""
    bare = plain(text.translate(_SIGNS).replace("\\%", "%"))
    bare = without_wrapping(bare[len(lead_in(bare)) :])
    match = _NUMBER.fullmatch(bare)
    if match is None:
        return None
    number, unit = match.group("number").lower(), (match.group("unit") or "").lower()
    # "four five" holds two numbers; "4 million" and "4th" are other ones.
    if unit.rstrip(".") in _NO_NOUNS or (unit[:1] in "十百千万亿半" and unit):
        return None
    return str(_WORDS.index(number)) if number in _WORDS else match.group("number")


def _number_of_last_line(text: str) -> str | None:
    """Outside of a tag a unit needs words that lead in: a sentence may happen to end in a line "5 m"."""
    lines = [line for line in plain(text).split("\n") if line.strip()]
    if not lines:
        return None
    found = _number_text(lines[-1])
    led = lead_in(lines[-1].strip())
    return found if led or found == without_wrapping(lines[-1]) else None


def mean_relative_accuracy(value: Fraction, gold: Fraction) -> float:
    """Share of the ten thresholds t at which |value - gold| / |gold| < 1 - t, in exact arithmetic.

    VSI-Bench, arXiv 2412.14171, section 3. For gold = 0, where that is undefined: 1 if value is 0, else 0.
    """
    if gold == 0:
        return float(value == 0)
    error = abs(value - gold) / abs(gold)
    return sum(error < 1 - threshold for threshold in THRESHOLDS) / len(THRESHOLDS)


def word_error_rate(reference: str, answer: str) -> float:
    """Words to replace, leave out or put in, over the reference's words (at least 1). Case counts; split at space.

    As in the reward for OCR of Video-R1 (arXiv 2503.21776) and of GRPO-CARE's `grpo.py` at 03c3a7c.
    """
    wanted, said = reference.split(), answer.split()
    # Levenshtein's distance, one row at a time.
    row = list(range(len(said) + 1))  # edits from the reference's first words to the first j words said
    for i, word in enumerate(wanted, start=1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(said, start=1):
            cost = min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
            diagonal, row[j] = row[j], cost
    return row[-1] / max(1, len(wanted))


def rouge_mean(reference: str, answer: str) -> float:
    """Mean of the F-measures of ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004), 0 to 1.

    Tokens are runs of a-z and 0-9 in lower case, as in the package rouge-score 0.1.2, but are not stemmed: Video-R1's
    reward stems them, so that ours is never higher. One-word texts have no ROUGE-2 and reach 2/3 at most.
    """
    wanted, said = _tokens(reference), _tokens(answer)
    single = _f_measure(_overlap(wanted, said, 1), len(wanted), len(said))
    double = _f_measure(_overlap(wanted, said, 2), len(wanted) - 1, len(said) - 1)
    longest = _f_measure(_common_subsequence(wanted, said), len(wanted), len(said))
    return (single + double + longest) / 3


def _tokens(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def _overlap(wanted: list[str], said: list[str], n: int) -> int:
    """Runs of n tokens that both have, each as often as both have it."""
    grams = [Counter(zip(*(tokens[k:] for k in range(n)), strict=False)) for tokens in (wanted, said)]
    # Clipped counts: the smaller of the two for each run.
    return (grams[0] & grams[1]).total()


def _common_subsequence(wanted: list[str], said: list[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(said) + 1)
    for word in wanted:
        diagonal = 0
        for j, other in enumerate(said, start=1):
            length = diagonal + 1 if word == other else max(row[j], row[j - 1])
            diagonal, row[j] = row[j], length
    return row[-1]


def _f_measure(common: int, n_wanted: int, n_said: int) -> float:
    """2PR / (P + R) with P = common / n_said and R = common / n_wanted; 0 if nothing is common."""
    return 2 * common / (n_wanted + n_said) if common else 0.0


def reference_credit(kind: Kind, answer_text: str, gold: str) -> float:
    """The rule of GRPO-CARE's `eval_bench.py` at 03c3a7c (Video-R1's too): 0 to 1.

    A choice must equal the gold letter character by character. Numbers are what float() takes after all commas are
    deleted; a numerical answer must agree in having a point or comma, and in value to two decimals. Regression is the
    mean relative accuracy in float32 (reference_relative_accuracy). OCR and free-form get nothing, whatever is said.
    """
    if kind == "choice":
        return float(answer_text == gold)
    if kind not in ("numerical", "regression"):
        return 0.0
    value, wanted = _float(answer_text), _float(gold)
    if value is None or wanted is None:
        return 0.0
    if kind == "regression":
        return reference_relative_accuracy(value, wanted)
    if _has_decimals(answer_text) != _has_decimals(gold) or not math.isfinite(value):
        return 0.0
    return float(round(value, 2) == round(wanted, 2))


def reference_relative_accuracy(value: float, gold: float) -> float:
    """mean_relative_accuracy as the reference computes it, in float32: it differs where the error is a threshold."""
    import numpy as np  # here: commands that score nothing must start without it

    with np.errstate(all="ignore"):
        target = np.float32(gold)
        error = np.abs(np.float32(value) - target) / (np.abs(target) + np.float32(1e-8))
        thresholds = (0.5 + 0.05 * np.arange(10)).astype(np.float32)
        return int(np.sum(error < np.float32(1) - thresholds)) / 10


def _float(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


def _has_decimals(text: str) -> bool:
    return "." in text or "," in text
