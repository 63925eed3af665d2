"""Templates that open the thoughts themselves, as Qwen3-VL-Thinking's and Qwen3.5's do: same weights, same answers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from seedbench_r1.backends.transformers import TransformersBackend
from seedbench_r1.demo.models import shipped_model
from seedbench_r1.kinds import parse
from seedbench_r1.models.completions import TAGS, completion_text
from seedbench_r1.models.qwen_vl import load_processor
from seedbench_r1.scoring import to_record
from seedbench_r1.types import Question, SamplingConfig
from tests.tiny_models import request

HEADER = "<|im_start|>assistant\\n"


def with_opening(folder: Path, opening: str) -> Path:
    """The trained tiny model, whose template puts `opening` behind the assistant's header."""
    shutil.copytree(shipped_model("care"), folder)
    template = folder / "chat_template.jinja"
    text = template.read_text()
    assert text.count(HEADER) == 1
    template.write_text(text.replace(HEADER, HEADER + opening.replace("\n", "\\n")))
    return folder


@pytest.mark.parametrize(
    ("opening", "opened"),
    [
        ("", ""),
        ("<think>", "<think>"),
        ("<think>\n", "<think>\n"),
        ("<think>\n\n</think>\n\n", ""),  # Qwen3.5 without thinking: opened and closed
        ("Sure. <think>\n", "<think>\n"),
        ("<think>\n\n</think>\n\n<answer>", "<answer>"),
    ],
)
def test_what_a_template_opens_is_known(tmp_path, opening, opened):
    assert load_processor(str(with_opening(tmp_path / "model", opening))).opened == opened


def test_the_users_own_words_open_nothing(tmp_path):
    """A prompt that names the tag stands in the user's turn."""
    folder = with_opening(tmp_path / "model", "")
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + "{# <think> #}")
    assert load_processor(str(folder)).opened == ""


def test_an_answer_carries_what_was_opened_and_is_read_with_it(tmp_path):
    backend = TransformersBackend(str(with_opening(tmp_path / "model", "<think>")), device="cpu")
    ((_, generation),) = backend.generate([request("L1/1")], SamplingConfig(temperature=0.0, max_new_tokens=80))
    assert generation.opened == "<think>"
    assert not generation.text.startswith("<think>")
    question = Question("L1/1", "L1", "?", ("a", "b", "c", "d"), "A", None, Path("x"), "v")
    record = to_record(question, generation)
    assert record.parsed == parse(generation.text, question, "<think>")
    closed = to_record(
        question, generation.__class__("so </think><answer>A</answer>", (), "stop", 1, 1, 0.1, None, "<think>")
    )
    assert (closed.parsed.reasoning, closed.parsed.format_ok, closed.score.correct) == ("so", True, True)


@pytest.mark.parametrize("special", [False, True])
def test_tags_that_are_special_tokens_stay_in_the_text(tmp_path, special):
    """R1 recipes add them to the tokeniser so; other special tokens are left out as ever."""
    from transformers import AddedToken

    tokenizer = load_processor(str(with_opening(tmp_path / "model", ""))).tokenizer
    tokenizer.add_tokens([AddedToken(tag, special=special) for tag in TAGS], special_tokens=special)
    text = "<think>The lamp is lit.</think><answer>B</answer>"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert completion_text(tokenizer, [*ids, end]) == text
