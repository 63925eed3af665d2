"""The scorers of the transfer suite, against cases worked by hand and against independent oracles."""

from __future__ import annotations

import itertools
import json
from fractions import Fraction
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seedbench_r1 import kinds
from seedbench_r1.cli.transfer_results import mean_of_kinds, transfer_values
from seedbench_r1.kinds import (
    credit,
    mean_relative_accuracy,
    read_number,
    reference_credit,
    reference_relative_accuracy,
    rouge_mean,
    word_error_rate,
)
from seedbench_r1.parsing import parse_response, read_choice
from seedbench_r1.scoring import by_kind, summarise
from seedbench_r1.types import Generation, ParsedResponse, Question, RunRecord, Score
from tests.unit.test_parsing import CASES

LETTERS = "ABCDEFGHIJ"
TEXTS = ("red", "green", "blue", "white", "black", "grey", "pink", "brown", "gold", "silver")


def asked(kind: str, gold: str = "", options: tuple[str, ...] = ()) -> Question:
    return Question("q/0", "q", "What?", options, gold, Path("a.mp4"), None, "v", kind=kind)


def tagged(content: str) -> str:
    return f"<think>r</think><answer>{content}</answer>"


# ---- choices with n options


@pytest.mark.parametrize("n", range(2, 11))
def test_every_letter_up_to_the_last_is_read_and_none_beyond(n):
    letters, options = LETTERS[:n], TEXTS[:n]
    for letter, option in zip(letters, options, strict=True):
        for form in ("{}", "({})", "{}.", " {}:", "**{}**", "Option {}", "the answer is {}", "{}) because", "{}\n why"):
            assert read_choice(tagged(form.format(letter)), options, letters) == letter, form
        assert read_choice(tagged(letter.lower()), options, letters) == letter
        assert read_choice(tagged(option.upper() + "."), options, letters) == letter
        assert read_choice(tagged(f"{letter}. {option}"), options, letters) == letter
        assert read_choice(f" {letter}. ", options, letters) == letter
        assert read_choice(f"it is {letter}", options, letters) is None
    beyond = "ABCDEFGHIJK"[n]
    for form in ("{}", "({})", "{}. text", "Option {}"):
        assert read_choice(tagged(form.format(beyond)), options, letters) is None
    assert read_choice(tagged(f"A. not {letters[-1]}"), options, letters) is None
    assert read_choice(tagged(f"A. vitamin {beyond}"), options, letters) == "A"
    assert read_choice(tagged(f"A. {options[1]}"), options, letters) is None


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["text"][:40])
def test_four_options_are_read_by_the_golden_table(case):
    options = case["options"] or [f"option {k}" for k in "1234"]
    expected = case["answer"] if case["options"] else parse_response(case["text"], options).answer
    question = asked("choice", options=tuple(options))
    assert kinds.parse(case["text"], question, case.get("opened", "")).answer == expected


@pytest.mark.parametrize("sign", ["\u0131", "\u0130"])  # dotless i, dotted I: alike when case is ignored
def test_look_alikes_of_letters_are_no_letters(sign):
    letters = "ABCDEFGHIJK"
    assert read_choice(tagged(sign), [str(k) for k in range(11)], letters) is None


# ---- numbers


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-3.5", Fraction(-7, 2)),
        ("+.5", Fraction(1, 2)),
        ("3.", 3),
        (" **4** ", 4),
        ("1,234,567.5", Fraction(2469135, 2)),
        ("4 meters", 4),
        ("4m", 4),
        ("12 square metres.", 12),
        ("7.5 m²", Fraction(15, 2)),
        ("10%", 10),
        ("250 cm", 250),
        ("3.5e-2", Fraction(7, 200)),
        ("", None),
        (".", None),
        ("-", None),
        ("four", 4),
        ("Seventeen steps", 17),
        ("twenty", 20),
        ("twenty-one", None),
        ("four five", None),
        ("4 chairs", 4),
        ("There are 4 chairs.", None),
        ("The answer is 4 chairs.", 4),
        ("4 chairs and tables", None),
        ("4 (four)", None),
        ("\\boxed{4}", 4),
        ("$\\boxed{4}$", 4),
        ("`4`", 4),
        ("\uff14", 4),
        ("4\u7c73", 4),
        ("4 sq. m", 4),
        ("4 m^2", 4),
        ("4 m/s", 4),
        ("3.5 \u00b0C", Fraction(7, 2)),
        ("12.5 meters squared", Fraction(25, 2)),
        ("4th", None),
        ("4\u00b2", None),
        ("4 m\u00b2", 4),
        ("4\u4e07", None),
        ("4 \u4e07", None),
        ("4\u4e2a\u534a", None),
        ("4 lakh", None),
        ("4 millions", None),
        ("4 bn", None),
        ("\u22124", -4),
        ("\u7ea64\u7c73", 4),
        ("\u5927\u7ea6 4 \u7c73", 4),
        ("4\\%", 4),
        ("4 thousand", None),
        ("5k", None),
        ("4 to 5", None),
        ("4 x 5", None),
        ("4.5.6", None),
        ("1,00", None),
        ("3,5", None),
        ("1,2345", None),
        ("12,34", None),
        ("3..", None),
        ("3 or 4", None),
        ("3-4", None),
        ("about 3", 3),
        ("~3", 3),
        ("\u22483 m", 3),
        ("3 million", None),
        ("$4", 4),
        ("$4$", 4),
        ("4\u20ac", 4),
        ("$3 or $4", None),
        ("1/2", None),
        ("nan", None),
        ("inf", None),
        ("1e400", None),
        ("٣", None),
        ("1_000", None),
    ],
)
def test_numbers(text, value):
    assert read_number(text) == value


@given(st.text("0123456789.,+-e *", max_size=14))
def test_what_is_read_as_a_bare_number_is_one_for_python_too(text):
    answer = kinds.parse(text, asked("regression")).answer
    if answer is not None:
        assert float(answer.replace(",", "")) == pytest.approx(
            float(text.replace(",", "").replace("*", "").strip().removesuffix("."))
        )


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>r</think>\n\n4", "4"),
        ("<think>r</think>\nThere are some.\nThe answer is 4 chairs.", "4"),
        ("<think>r</think>\nThe table is wide.\n5 m", None),
        ("The answer is 4.", "4"),
        ("There are 4", None),
        ("<think>4", None),
        ("<think>r</think><answer>4", None),
    ],
)
def test_numbers_outside_of_a_tag(text, answer):
    assert kinds.parse(text, asked("regression")).answer == answer


def test_texts_are_read_from_the_tag_after_the_thoughts_only():
    assert kinds.parse("r <answer>x</answer></think><answer>EXIT</answer>", asked("ocr"), "<think>\n").answer == "EXIT"
    assert kinds.parse("<think>r</think>EXIT", asked("ocr")).answer is None


@pytest.mark.parametrize(
    ("answer", "gold", "ours", "reference"),
    [
        ("3", "3", 1, 1),
        ("4", "3", 0, 0),
        ("3.0", "3", 1, 0),  # the reference wants a point in both or in neither
        ("1,000", "1000", 1, 0),  # and counts a comma as one
        ("1,000", "1,000", 1, 1),
        ("3.001", "3.00", 1, 1),
        ("3.006", "3.00", 0, 0),
        ("0.125", "0.12", 1, 1),  # 12.5 goes to the even 12; so does round() here
        ("2.675", "2.68", 1, 0),  # 267.5 goes to 268; as a float it is below 2.675
        ("3 meters", "3", 1, 0),
        ("3.", "3", 1, 0),
        ("3,5", "35", 0, 0),
        ("3,5", "35.0", 0, 1),  # the reference deletes the comma
        ("nan", "3", 0, 0),
        ("inf", "3", 0, 0),
        ("", "3", 0, 0),
    ],
)
def test_numerical(answer, gold, ours, reference):
    parsed = kinds.parse(tagged(answer), asked("numerical"))
    score = kinds.score(asked("numerical", gold), parsed)
    assert (score.credit, score.strict_credit) == (ours, reference)


# ---- regression


@pytest.mark.parametrize(
    ("value", "gold", "expected"),
    [
        (100, 100, 1.0),
        (95, 100, 0.9),  # 0.05 is not below 1 - 0.95
        (96, 100, 1.0),
        (75, 100, 0.5),  # 0.25 is below 0.5, 0.45, 0.4, 0.35 and 0.3
        (125, 100, 0.5),
        (51, 100, 0.1),
        (50, 100, 0.0),
        (-100, 100, 0.0),
        (-75, -100, 0.5),
        (0, 0, 1.0),
        (1, 0, 0.0),
    ],
)
def test_mean_relative_accuracy_by_hand(value, gold, expected):
    assert mean_relative_accuracy(Fraction(value), Fraction(gold)) == expected


@given(st.integers(-400, 400), st.integers(-200, 200).filter(bool))
def test_mean_relative_accuracy_in_whole_numbers(value, gold):
    # |v - g| / |g| < 1 - t with 1 - t = k / 20 for k = 1..10, without a division
    expected = sum(20 * abs(value - gold) < k * abs(gold) for k in range(1, 11))
    assert round(10 * mean_relative_accuracy(Fraction(value), Fraction(gold))) == expected


def torch_relative_accuracy(value: float, gold: float) -> float:
    """In torch, in float32, as the reference evaluates it."""
    said, wanted = torch.tensor([value, gold], dtype=torch.float32)
    levels = torch.arange(0.5, 0.975, 0.05, dtype=torch.float32)
    return ((said - wanted).abs() / (wanted.abs() + 1e-8) < 1 - levels).double().mean().item()


def test_the_references_rounding_is_kept_bit_by_bit():
    pairs = [(float(value), float(gold)) for gold in range(0, 61) for value in range(0, 125)]
    pairs += [(2.4, 2.5), (1e39, 3.0), (float("nan"), 3.0), (float("inf"), 3.0), (-7.0, 3.0)]
    theirs = [torch_relative_accuracy(*pair) for pair in pairs]
    assert [reference_relative_accuracy(*pair) for pair in pairs] == pytest.approx(theirs, abs=1e-12)
    exact = [mean_relative_accuracy(Fraction(v), Fraction(g)) for v, g in pairs[:-5]]
    differing = [pair for pair, a, b in zip(pairs, exact, theirs, strict=False) if abs(a - b) > 1e-9 and pair[1]]
    assert (9.0, 10.0) in differing  # an error of exactly 0.1: float32 takes it to be below 1 - 0.9
    assert all(20 * abs(v - g) % g == 0 for v, g in differing), "only where the error is a threshold"


def test_regression_scores_by_both_rules():
    score = kinds.score(asked("regression", "100"), kinds.parse(tagged("75 meters"), asked("regression")))
    assert (score.outcome, score.credit, score.strict_credit) == ("answered", 0.5, 0.0)
    score = kinds.score(asked("regression", "100"), kinds.parse("75", asked("regression")))
    assert (score.outcome, score.credit, score.strict_credit) == ("answered", 0.5, 0.5)
    score = kinds.score(asked("regression", "100"), kinds.parse("about 75 meters", asked("regression")))
    assert (score.outcome, score.credit) == ("unparsed", 0.0)
    assert kinds.parse("75 meters", asked("regression")).answer is None, "without a tag: a bare number"


# ---- texts


@pytest.mark.parametrize(
    ("reference", "answer", "rate"),
    [
        ("no exit here", "no exit here", 0),
        ("no exit here", "no exit", 1 / 3),
        ("no exit here", "no way exit here", 1 / 3),
        ("no exit here", "no entry here", 1 / 3),
        ("no exit here", "", 1),
        ("no exit here", "here exit no", 2 / 3),
        ("EXIT", "exit", 1),
        ("exit", "a b c", 3),
        ("", "a", 1),
        ("", "", 0),
    ],
)
def test_word_error_rate(reference, answer, rate):
    assert word_error_rate(reference, answer) == pytest.approx(rate, abs=1e-12)


WORDS = st.lists(st.sampled_from(["a", "b", "c"]), max_size=6)


@given(WORDS, WORDS)
def test_word_error_rate_is_the_shortest_way_over_all_edits(wanted, said):
    @cache
    def edits(i: int, j: int) -> int:
        if i == len(wanted) or j == len(said):
            return len(wanted) - i + len(said) - j
        same = edits(i + 1, j + 1) + (wanted[i] != said[j])
        return min(same, 1 + edits(i + 1, j), 1 + edits(i, j + 1))

    assert word_error_rate(" ".join(wanted), " ".join(said)) == pytest.approx(edits(0, 0) / max(1, len(wanted)))


@pytest.mark.parametrize(
    ("reference", "answer", "expected"),
    [
        ("a red cat", "a red cat", 1),
        ("A red, cat!", "a RED cat", 1),
        ("a red cat", "blue dog", 0),
        ("a red cat", "", 0),
        ("cat", "cat", 2 / 3),  # one word has no pairs
        # 1-grams: 2 of 3 and 2 of 2 -> 0.8; pairs: 1 of 2 and 1 of 1 -> 2/3; longest: 2 -> 0.8
        ("a red cat", "red cat", (0.8 + 2 / 3 + 0.8) / 3),
        # 1-grams: all; pairs: "red cat" -> "cat red": none; longest: 1 of 2
        ("red cat", "cat red", (1 + 0 + 0.5) / 3),
        ("the the cat", "the", (0.5 + 0 + 0.5) / 3),
    ],
)
def test_rouge_by_hand(reference, answer, expected):
    assert rouge_mean(reference, answer) == pytest.approx(expected, abs=1e-12)


def common_by_removal(wanted: list, said: list) -> int:
    left = list(said)
    return sum(gram in left and left.remove(gram) is None for gram in wanted)


def longest_by_trial(wanted: list[str], said: list[str]) -> int:
    def subsequences(words: list[str]) -> set[tuple[str, ...]]:
        return {picked for n in range(len(words) + 1) for picked in itertools.combinations(words, n)}

    return max(map(len, subsequences(wanted) & subsequences(said)))


@settings(max_examples=60)
@given(WORDS, WORDS)
def test_rouge_by_brute_force(wanted, said):
    def f(common: int, n: int, m: int) -> float:
        precision, recall = common / max(1, m), common / max(1, n)
        return 2 * precision * recall / (precision + recall) if common else 0.0

    pairs = [list(itertools.pairwise(words)) for words in (wanted, said)]
    one = f(common_by_removal(wanted, said), len(wanted), len(said))
    two = f(common_by_removal(*pairs), len(pairs[0]), len(pairs[1]))
    long = f(longest_by_trial(wanted, said), len(wanted), len(said))
    assert rouge_mean(" ".join(wanted), " ".join(said)) == pytest.approx((one + two + long) / 3, abs=1e-12)


# ---- scores


@pytest.mark.parametrize(
    ("kind", "text", "gold", "ours", "reference"),
    [
        ("choice", tagged("B"), "B", 1, 1),
        ("choice", tagged("B."), "B", 1, 0),
        ("choice", tagged("C"), "B", 0, 0),
        ("choice", "B", "B", 1, 1),
        ("ocr", tagged("NO EXIT"), "NO EXIT", 1, 0),  # the reference evaluator gives texts nothing
        ("ocr", tagged("NO"), "NO EXIT", 0.5, 0),
        ("ocr", tagged("a b c d e"), "NO EXIT", 0, 0),  # more errors than words: not below 0
        ("ocr", "NO EXIT", "NO EXIT", 0, 0),  # no tag: nothing was given as the answer
        ("free-form", tagged("a red cat"), "a red cat", 1, 0),
        ("free-form", "a red cat", "a red cat", 0, 0),
    ],
)
def test_each_type_by_both_rules(kind, text, gold, ours, reference):
    question = asked(kind, gold, ("x", "y", "z") if kind == "choice" else ())
    score = kinds.score(question, kinds.parse(text, question))
    assert (score.credit, score.strict_credit) == (ours, reference)


@pytest.mark.parametrize("kind", ["choice", "numerical", "ocr", "free-form", "regression"])
@pytest.mark.parametrize("text", ["", "<answer></answer>", "<answer> </answer>", "<answer>", "<think>A"])
def test_nothing_said_is_no_credit(kind, text):
    gold = {"choice": "A", "ocr": "x", "free-form": "x"}.get(kind, "0")
    question = asked(kind, gold, ("x", "y", "z") if kind == "choice" else ())
    parsed = kinds.parse(text, question)
    assert parsed.answer is None
    assert kinds.score(question, parsed) == Score("unparsed", 0.0, 0.0)
    assert kinds.score(question, parsed, "length").outcome == "truncated"


def test_the_first_tag_counts_and_a_cut_answer_that_was_read_is_answered():
    question = asked("numerical", "4")
    parsed = kinds.parse("<think>r</think><answer>4</answer><answer>5</answer>", question)
    assert (parsed.answer, parsed.answer_text, parsed.reasoning, parsed.format_ok) == ("4", "4", "r", False)
    assert kinds.score(question, parsed, "length") == Score("answered", 1.0, 1.0)


@given(st.sampled_from(["choice", "numerical", "ocr", "free-form", "regression"]), st.text(max_size=30))
def test_any_text_gets_a_credit_between_0_and_1(kind, text):
    gold = {"choice": "A", "ocr": "a b", "free-form": "a b"}.get(kind, "2.5")
    question = asked(kind, gold, ("x", "y", "z") if kind == "choice" else ())
    for said in (text, tagged(text)):
        score = kinds.score(question, kinds.parse(said, question))
        assert 0 <= score.credit <= 1
        assert 0 <= score.strict_credit <= 1


@pytest.mark.timeout(10)
@pytest.mark.parametrize("unit", ["1", "1,", "1,111", "9 ", ".", "*"])
def test_long_output_is_read_in_linear_time(unit):
    for kind in ("numerical", "regression"):
        kinds.parse(f"<answer>{unit * 20_000}</answer>", asked(kind))
    assert reference_credit("numerical", unit * 20_000, "1") == 0
    assert credit("ocr", "a " * 2000, "b") == 0


# ---- counts


def scored(question: Question, value: float, strict: float = 0.0) -> RunRecord:
    return RunRecord(
        question_id=question.question_id,
        split=question.split,
        domain=None,
        cluster="v",
        generation=Generation("", (), "stop", 1, 1, 0.1),
        parsed=ParsedResponse(None, "A", "A", True),
        score=Score("answered", value, strict),
    )


def test_choices_and_regression_are_merged_question_by_question(tmp_path):
    """VSI-Bench: two choices (1, 0) and three numbers (1, 0.5, 0): together 2.5 / 5, mean of the types 0.5."""
    from seedbench_r1.suites.transfer import load_transfer_file
    from tests.small_transfer import choice_row, row_of

    rows = [choice_row(), choice_row(), *(row_of("regression", "10") for _ in range(3)), choice_row()]
    path = Path(tmp_path / "eval_vsibench.json")
    path.write_text(json.dumps(rows))
    questions = load_transfer_file(path, tmp_path, "vsibench")
    credits = [1.0, 0.0, 1.0, 0.5, 0.1]
    records = {q.question_id: scored(q, value, value / 2) for q, value in zip(questions, credits, strict=False)}
    summary = summarise(records, questions[:5], group_of=by_kind)
    whole, groups = summary.splits["vsibench"], summary.groups["vsibench"]
    assert (summary.status, whole.selected, whole.correct, whole.accuracy) == ("complete", 5, 2.6, 0.52)
    assert whole.strict_accuracy == pytest.approx(0.26)
    assert groups["choice"].accuracy == 0.5
    assert groups["regression"].accuracy == pytest.approx(1.6 / 3)
    assert mean_of_kinds(groups) == pytest.approx((0.5 + 1.6 / 3) / 2)
    part = summarise(records, questions, group_of=by_kind)
    values = transfer_values(part)
    assert (part.status, part.pending) == ("incomplete", 1)
    assert values["benchmarks"]["vsibench"]["mean"] is None
    assert values["mean_of_types"]["vsibench"] is None
    assert values["problem_types"]["vsibench"]["regression"]["mean"] == pytest.approx(1.6 / 3)
    sizes = {"vsibench": {"all": 6, "choice": 3, "regression": 3}}
    assert summarise(records, questions[:5], sizes, by_kind).status == "subset"


@pytest.mark.parametrize(
    ("said", "answer"), [("C", "C"), ("A", "A"), ("E", "E"), ("(c)", "C"), ("C. D", "C"), ("C. A", None)]
)
def test_options_that_are_letters_in_another_order(said, answer):
    """Video-R1's VideoMMMU file, problem 4: a letter is a letter before it is an option's text."""
    question = asked("choice", "C", options=("C", "B", "D", "E", "A"))
    parsed = kinds.parse(tagged(said), question)
    assert parsed.answer == answer
    assert kinds.score(question, parsed).correct is (answer == "C")


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("I, as an AI language model, cannot watch videos.", None),
        ("I", "I"),
        ("I. gold", "I"),
        ("The answer is I.", "I"),
    ],
)
def test_with_nine_options_i_is_a_letter_and_a_pronoun(said, answer):
    assert kinds.parse(tagged(said), asked("choice", options=TEXTS[:9])).answer == answer
