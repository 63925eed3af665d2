"""What a probe puts in place of a response, text by text."""

from dataclasses import replace
from pathlib import Path

import pytest

from seedbench_r1.conclusions import conclusion, settled_option
from seedbench_r1.judges.probe_texts import (
    after_template,
    answer_texts,
    other_option,
    rewritten,
    shuffled,
    until_answer,
    with_reasoning,
)
from seedbench_r1.judges.probes import ALONE, Probe, exchanged, read_scores, requests_of
from seedbench_r1.prompts import DEFAULT_TEMPLATE
from seedbench_r1.runs.probes import Rollout
from seedbench_r1.scoring import to_record
from seedbench_r1.types import Failure, Generation, Question

OPTIONS = ("wash the cup", "open the box", "close the box", "wash the cup again")
QUESTION = Question("L1/1", "L1", "What next?", OPTIONS, "B", Path("v.mp4"), Path("i.png"), "v")


def record_of(text, opened="", question=QUESTION):
    return to_record(question, Generation(text, (), "stop", 1, 1, 0.1, opened=opened))


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        ("<think>x</think><answer>B</answer>", "<think>x</think><answer>"),
        ("<think>x</think>\n\n<answer> B </answer>", "<think>x</think>\n\n<answer> "),
        ("<think><answer>A</answer> no</think><answer>B</answer>", "<think><answer>A</answer> no</think><answer>"),
        ("<think>x</think>\nB", "<think>x</think>\n<answer>"),
        ("just B", "just B<answer>"),
    ],
)
def test_a_prefix_ends_where_the_answer_begins(text, prefix):
    assert until_answer(text) == prefix


def test_reasoning_is_exchanged_between_the_same_spaces():
    text = "<think>\nold thoughts \n</think>\n<answer>B</answer>"
    assert with_reasoning(text, "new") == "<think>\nnew \n</think>\n<answer>B</answer>"
    assert with_reasoning(text, "") == "<think></think>\n<answer>B</answer>"
    with pytest.raises(ValueError, match="no <think>"):
        with_reasoning("<answer>B</answer>", "new")


@pytest.mark.parametrize(
    ("text", "silent"),
    [
        ("<think>x</think>\nTherefore it is B.\n<answer>B</answer>", "<think></think>\n<answer>B</answer>"),
        ("<think>x</think>Therefore: <answer>B</answer> Yes.", "<think></think> <answer>B</answer> Yes."),
        ("<think>x</think>\n\nIt is B", "<think></think>"),
    ],
)
def test_what_is_said_behind_the_thoughts_goes_with_them(text, silent):
    """ "Therefore it is B." says what the thoughts conclude, too."""
    assert with_reasoning(text, "") == silent
    assert "B" not in until_answer(with_reasoning(text, ""))


@pytest.mark.parametrize(
    ("text", "opened", "rest"),
    [
        ("<think>\nx</think>", "<think>\n", "x</think>"),
        ("<think>x</think>", "<think>\n", "x</think>"),
        ("<think>x</think>", "", "<think>x</think>"),
        (" <think> x", "<think>", "x"),
    ],
)
def test_what_a_template_opens_is_not_said_twice(text, opened, rest):
    assert after_template(text, opened) == rest


def test_a_response_that_begins_otherwise_than_the_template_is_refused():
    with pytest.raises(ValueError, match="the template opens '<think>'"):
        after_template("So: B", "<think>\n")


@pytest.mark.parametrize(
    ("said", "texts"),
    [
        ("B", ("A", "B", "C", "D")),
        ("B. open the box", ("A", "B", "C", "D")),
        ("Open  the box.", tuple(f"{option}</answer>" for option in OPTIONS)),
    ],
)
def test_options_are_asked_for_in_the_form_of_the_answer(said, texts):
    assert answer_texts(QUESTION, record_of(f"<think>x</think><answer>{said}</answer>")) == texts


def test_equal_options_have_letters_and_no_texts():
    twice = replace(QUESTION, options=("open the box", "open the box", "close the box", "wash the cup"))
    assert answer_texts(twice, record_of("<think>x</think><answer>B</answer>", question=twice)) == ("A", "B", "C", "D")
    with pytest.raises(ValueError, match="the same text"):
        answer_texts(twice, record_of("<think>x</think><answer>close the box</answer>", question=twice))


@pytest.mark.parametrize("n", [2, 3, 4, 7])
def test_no_option_stays_in_its_place(n):
    question = replace(QUESTION, options=tuple(f"step {i}" for i in range(n)), gold="B")
    seen = set()
    for number in range(30):
        moved, order = shuffled(replace(question, question_id=f"L1/{number}"), seed=0)
        assert sorted(order) == list(question.letters)
        assert all(a != b for a, b in zip(order, question.letters, strict=True))
        assert [question.options[question.letters.index(letter)] for letter in order] == list(moved.options)
        assert moved.gold_text == question.gold_text
        seen.add(order)
    assert (len(seen) > 1) == (n > 2)


@pytest.mark.parametrize(
    ("reasoning", "target", "expected"),
    [
        ("It is dirty. So I should wash the cup.", "B", "It is dirty. So I should open the box."),
        ("The answer is A. That is all.", "C", "The answer is C. That is all."),
        ("It is option (A), surely.", "D", "It is option (D), surely."),
        ("Not wash the cup, but open the box.", "C", "Not wash the cup, but close the box."),
    ],
)
def test_a_conclusion_is_rewritten_where_it_stands(reasoning, target, expected):
    assert rewritten(reasoning, OPTIONS, target) == expected
    assert settled_option(expected, OPTIONS) == target


@pytest.mark.parametrize(
    "reasoning", ["Hard to say.", "x", "", "A, B, C or D? Nobody knows.", "It is A or B. It is a cup!"]
)
@pytest.mark.parametrize("target", "ABCD")
def test_every_rewriting_settles_on_the_target(reasoning, target):
    assert settled_option(rewritten(reasoning, OPTIONS, target), OPTIONS) == target


def test_the_concluding_sentence_is_told_by_its_place():
    text = "The cup is clean.  So I should  open the box. That is all!"
    found = conclusion(text, OPTIONS)
    assert found.letter == "B"
    assert text[found.start : found.end] == "So I should  open the box."


def test_another_rollouts_reasoning_comes_first_and_else_the_own_one_rewritten():
    record = record_of("<think>So I should open the box.</think><answer>B</answer>")
    same, other = "<think>I should open the box.</think>B", "<think>I should close the box.</think><answer>C</answer>"
    rollouts = {0: Rollout(0, same), 1: Rollout(1, "no thoughts"), 3: Rollout(3, other)}
    assert exchanged(QUESTION, record, rollouts, 0) == ("I should close the box.", "C", "rollout 3")
    reasoning, target, source = exchanged(QUESTION, record, {0: Rollout(0, same)}, 0)
    assert source == "rewritten"
    assert target in "ACD"
    assert settled_option(reasoning, OPTIONS) == target
    # A rollout whose thoughts were opened by the template.
    opened = {0: Rollout(0, "I should close the box.</think><answer>C</answer>", "<think>\n")}
    assert exchanged(QUESTION, record, opened, 0)[2] == "rollout 0"


def test_with_two_options_both_taken_there_is_no_other():
    with pytest.raises(ValueError, match="no other option"):
        other_option(replace(QUESTION, options=("a", "b")), ["A", "B"], 0)


def asked(kind, text="<think>So I should open the box.</think><answer>B</answer>", opened=""):
    record = record_of(text.removeprefix(opened), opened)
    return requests_of(Probe(kind, f"{kind}/v1"), QUESTION, record, ALONE, DEFAULT_TEMPLATE, lambda _: opened, {})


def test_each_probe_changes_what_it_says_and_nothing_else():
    plain, _ = asked("forced")
    assert plain.prefix == "<think>So I should open the box.</think><answer>"
    assert plain.continuations == ("A", "B", "C", "D")
    assert asked("silent")[0].prefix == "<think></think><answer>"
    assert asked("silent")[0].messages == plain.messages
    assert asked("shuffle")[0].prefix == plain.prefix
    assert asked("shuffle")[0].messages != plain.messages
    swapped, stands_for = asked("swapped")
    assert swapped.messages == plain.messages
    assert stands_for.result.changed in swapped.prefix
    alone, _ = asked("text-match")
    assert {part["type"] for part in alone.messages[0]["content"]} == {"text"}
    assert {part["type"] for part in plain.messages[0]["content"]} == {"video", "image", "text"}
    assert asked("silent", "<think>\nx</think><answer>B</answer>", "<think>\n")[0].prefix == "</think><answer>"


def test_scores_become_probabilities_of_the_questions_own_letters():
    _, stands_for = asked("shuffle")
    order = stands_for.letters
    result = read_scores(stands_for, (-1.0, -2.0, -3.0, -4.0))
    assert result.after == order[0]
    assert result.p_after == pytest.approx(1 / (1 + 2.718281828**-1 + 2.718281828**-2 + 2.718281828**-3), abs=1e-5)
    _, stands_for = asked("forced")
    assert read_scores(stands_for, (-1.0, -1.0, -9.0, -9.0)).after == "B"  # of equal ones, the answer given
    assert not read_scores(stands_for, Failure("backend_error", "no")).settled
