"""Templates that open the thoughts themselves, as Qwen3-VL-Thinking's and Qwen3.5's do, and those that are told to."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from seedbench_r1.backends.openai import extra_fields
from seedbench_r1.backends.transformers import TransformersBackend
from seedbench_r1.cli.model_report import report_model
from seedbench_r1.demo.models import shipped_model
from seedbench_r1.engines.plan import plan
from seedbench_r1.errors import ConfigError
from seedbench_r1.kinds import parse
from seedbench_r1.models.any_processor import load_any_processor
from seedbench_r1.models.completions import TAGS, completion_text
from seedbench_r1.models.qwen_vl import load_processor
from seedbench_r1.prompts import DEFAULT_TEMPLATE
from seedbench_r1.protocol import protocol_id
from seedbench_r1.runs.records import manifest_from_json, template_from_json
from seedbench_r1.scoring import to_record
from seedbench_r1.suites.transfer import DEFAULT_TEMPLATE as TRANSFER
from seedbench_r1.types import Question, SamplingConfig, VideoConfig, to_json
from tests.tiny_generic import generic_checkpoint
from tests.tiny_models import request
from tests.unit.test_evaluate import configure

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


# As Qwen3.5's (which thinks unless told not to), and with the argument's name in Kimi-K2.5's.
TOLD = (
    "{{%- if add_generation_prompt -%}}{{%- if {name} is defined and {name} is false -%}}"
    "{{{{ '<think>\\n\\n</think>\\n\\n' }}}}{{%- else -%}}{{{{ '<think>\\n' }}}}{{%- endif -%}}{{%- endif -%}}"
)
OPENED = {"auto": "<think>\n", "on": "<think>\n", "off": "<think>\n\n</think>\n\n"}


def that_listens(folder: Path, source: Path, name: str = "enable_thinking") -> Path:
    shutil.copytree(source, folder)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().rstrip("\n") + TOLD.format(name=name))
    return folder


@pytest.mark.parametrize("name", ["enable_thinking", "thinking"])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "internvl"])
def test_a_template_is_told_to_think_or_not_to(tmp_path, family, name, caplog):
    source = shipped_model("care") if family == "qwen2_5_vl" else generic_checkpoint(family)
    processor = load_any_processor(str(that_listens(tmp_path / "model", source, name)))
    asked = request("L1/1", family)
    plain = load_any_processor(str(source)).render(asked)
    for thinking, opened in OPENED.items():
        told = dataclasses.replace(asked, thinking=thinking)
        assert processor.render(told) == plain + opened
        assert processor.tokenizer.decode(processor.text_ids(told)).endswith(opened)
        assert processor.opened_for(told) == (opened if thinking != "off" else "")
    assert "processor_kwargs" not in caplog.text  # transformers' word for arguments that it does not pass on


def test_answers_of_requests_that_are_told_otherwise_carry_what_was_opened_for_each(tmp_path):
    """In one batch; the tokens are those of templates that have no choice."""
    folder = that_listens(tmp_path / "model", shipped_model("care"))
    sampling = SamplingConfig(temperature=0.0, max_new_tokens=24)
    asked = [dataclasses.replace(request("L1/1"), question_id=f"L1/{told}", thinking=told) for told in OPENED]
    found = dict(TransformersBackend(str(folder), device="cpu").generate(asked, sampling))
    assert {name: answer.opened for name, answer in found.items()} == {
        "L1/auto": "<think>\n",
        "L1/on": "<think>\n",
        "L1/off": "",
    }
    for told, opening in OPENED.items():
        fixed = TransformersBackend(str(with_opening(tmp_path / told, opening)), device="cpu")
        ((_, expected),) = fixed.generate([request("L1/1")], sampling)
        assert found[f"L1/{told}"].token_ids == expected.token_ids
        assert found[f"L1/{told}"].n_prompt_tokens == expected.n_prompt_tokens


def test_a_template_that_does_not_listen_is_refused_before_a_model_is_loaded(data_root, tmp_path):
    for number, source in enumerate((shipped_model("care"), generic_checkpoint("internvl"))):
        options = {"backend": "transformers", "thinking": "off"}
        with pytest.raises(ConfigError, match="--thinking off cannot be: the chat template makes the same prompt"):
            plan(configure(data_root, tmp_path, model=str(source), **options))
        folder = that_listens(tmp_path / str(number), source)
        planned = plan(configure(data_root, tmp_path, model=str(folder), **options))
        assert planned.manifest.template.thinking == "off"
        assert planned.manifest.protocol == "custom"
        assert manifest_from_json(to_json(planned.manifest)) == planned.manifest


def test_doctor_says_whether_a_template_listens(tmp_path):
    source = generic_checkpoint("internvl")
    assert not report_model(str(source)).thinking
    assert report_model(str(that_listens(tmp_path / "model", source))).thinking


def test_a_backend_that_is_asked_directly_refuses_too(tmp_path):
    backend = TransformersBackend(str(shipped_model("care")), device="cpu")
    with pytest.raises(ConfigError, match="--thinking on cannot be"):
        list(backend.generate([dataclasses.replace(request("L1/1"), thinking="on")], SamplingConfig()))


@pytest.mark.parametrize("template", [DEFAULT_TEMPLATE, TRANSFER])
def test_the_protocol_id_says_what_was_told(template):
    told = [template, *(dataclasses.replace(template, thinking=thinking) for thinking in ("on", "off"))]
    assert len({protocol_id(one, VideoConfig(), SamplingConfig()) for one in told}) == 3
    assert "thinking" not in to_json(template)
    for one in told:
        assert template_from_json(to_json(one)) == one


def test_a_server_is_told_in_vllms_words():
    told = dataclasses.replace(request("L1/1"), thinking="off")
    assert extra_fields(told, SamplingConfig(), "images") == {"chat_template_kwargs": {"enable_thinking": False}}
