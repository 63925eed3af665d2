"""Every accepted and refused form is a row of the golden table; here are the table and what holds for any text."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbench_r1.parsing import parse_response

CASES = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "golden" / "parsing_cases.jsonl").read_text(encoding="utf-8").splitlines()
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["text"][:40])
def test_golden_table(case):
    parsed = parse_response(case["text"], case["options"], opened=case.get("opened", ""))
    assert parsed.answer == case["answer"], case["source"]
    assert parsed.answer_text == case["answer_text"]
    assert parsed.format_ok is case["format_ok"]
    assert parsed.reasoning == case["reasoning"]


def test_the_table_is_large_and_sourced():
    assert len(CASES) >= 220
    assert all(case["source"] for case in CASES)
    assert sum(case["answer"] is None for case in CASES) >= 40
    assert sum(not case["text"].isascii() for case in CASES) >= 30


PIECES = st.lists(
    st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "A", "B", "(", ")", ".", "*", "_", " ", "\n", "x"])
)


@given(PIECES)
def test_any_text_is_read_without_an_error(pieces):
    parsed = parse_response("".join(pieces), ["A", "x", "x.", "b"])
    assert parsed.answer in {None, "A", "B", "C", "D"}


UNITS = ["*", "_", "**_", "$", "`", "\\text{", "(", "<answer>", "<think>", "</think>", "</answer>", "<answer></answer>"]
UNITS += [
    "(A",
    "answer is ",
    "The answer is ",
    "so the ",
    "\n",
    " ",
    "A\n",
    "A. ",
    "B, ",
    "B. wash the cup\n",
    "\u7b54\u6848",
    "\u200b",
    "# ",
    "### Answer: ",
    "\u9009",
    "B is ",
]
FORMS = ["{}", "<answer>{}</answer>", "<think>r</think>\n{}", "<think>{}</think><answer>B</answer>", "B. {}"]


@pytest.mark.parametrize("unit", UNITS)
def test_long_output_is_read_in_linear_time(unit):
    """64,000 characters take some 50 ms at most; what is quadratic takes minutes."""
    for form in FORMS:
        text = form.format(unit * (64_000 // len(unit)))
        began = time.process_time()
        parse_response(text, ["open the fridge", "wash the cup", "close the drawer", "Add water."])
        assert time.process_time() - began < 2.0, form


def test_nothing_but_the_text_and_its_opening_counts():
    """Reading twice, or with options in another container, is reading once."""
    for case in CASES:
        options, opened = case["options"], case.get("opened", "")
        first = parse_response(case["text"], options, opened=opened)
        assert parse_response(case["text"], options and tuple(options), opened=opened) == first
        assert parse_response(opened + case["text"], options).answer == first.answer
