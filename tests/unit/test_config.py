from pathlib import Path

import pytest

from seedbench_r1.config import CUSTOM, resolve_eval_config
from seedbench_r1.config_file import parse_levels, parse_shard
from seedbench_r1.errors import ConfigError
from seedbench_r1.prompts import DEFAULT_TEMPLATE, build_messages, build_prompt, load_template
from seedbench_r1.protocol import protocol_id
from seedbench_r1.questions import load_annotations
from seedbench_r1.types import SamplingConfig, Template, VideoConfig
from tests.rows import evaluation_row, write_rows


def resolve(folder: Path, environ=None, **options):
    given = {"model": "m", "data_root": folder} | options
    return resolve_eval_config(given, environ=environ or {}, working_dir=folder)


def test_the_command_line_beats_the_environment_beats_the_file_beats_the_defaults(tmp_path):
    assert resolve(tmp_path).runs_dir == Path("runs")
    (tmp_path / "seedbench-r1.toml").write_text('runs_dir = "from-file"\nbatch-size = 3\n[eval]\nmax_frames = 8\n')
    assert resolve(tmp_path).runs_dir == tmp_path / "from-file"
    assert resolve(tmp_path).batch_size == 3
    assert resolve(tmp_path).video.max_frames == 8
    assert resolve(tmp_path, {"SBR1_RUNS_DIR": "/from-environment"}).runs_dir == Path("/from-environment")
    assert resolve(tmp_path, {"SBR1_RUNS_DIR": "/x"}, runs_dir=Path("here")).runs_dir == Path("here")
    assert resolve(tmp_path, max_frames=4, min_frames=2).video.max_frames == 4


def test_the_standard_protocol_is_the_references(tmp_path):
    """GRPO-CARE's evaluation: its scripts and vision_process.py at b0628fc."""
    config = resolve(tmp_path)
    assert config.video == VideoConfig(2.0, 4, 16, 100352, 105369, 3136, 200704, 28, "decord")
    assert config.sampling == SamplingConfig(0.1, 0.001, 0, 1.0, 1024)
    assert config.video.max_pixels == int(1.05 * 128 * 28 * 28)
    assert resolve(tmp_path, protocol="greedy").sampling.temperature == 0


def test_a_protocol_with_another_number_has_another_name(tmp_path):
    assert resolve(tmp_path).protocol == "standard"
    assert resolve(tmp_path, seed=5, batch_size=1).protocol == "standard"
    assert resolve(tmp_path, max_frames=8).protocol == CUSTOM
    assert resolve(tmp_path, protocol="greedy").protocol == "greedy"


def test_the_protocol_id_changes_with_every_number_but_the_seed():
    base = protocol_id(DEFAULT_TEMPLATE, VideoConfig(), SamplingConfig())
    assert len(base) == 8
    assert protocol_id(DEFAULT_TEMPLATE, VideoConfig(), SamplingConfig(seed=9, logprobs=True)) == base
    others = [
        protocol_id(DEFAULT_TEMPLATE, VideoConfig(reader="pyav"), SamplingConfig()),
        protocol_id(DEFAULT_TEMPLATE, VideoConfig(fps=1.0), SamplingConfig()),
        protocol_id(DEFAULT_TEMPLATE, VideoConfig(), SamplingConfig(top_p=0.5)),
        protocol_id(DEFAULT_TEMPLATE, VideoConfig(), SamplingConfig(max_new_tokens=768)),
        protocol_id(
            Template({"with_video": "{question}{options}", "without_video": "{question}{options}"}),
            VideoConfig(),
            SamplingConfig(),
        ),
    ]
    assert len({base, *others}) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "--temperature"),
        ({"top_p": 0.0}, "--top-p"),
        ({"min_frames": 20}, "--min-frames"),
        ({"max_pixels": 10}, "--min-pixels"),
        ({"dtype": "int8"}, "--dtype"),
        ({"batch_size": 0}, "--batch-size"),
        ({"model": None}, "No model given"),
    ],
)
def test_values_out_of_range_name_the_option(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        resolve(tmp_path, **options)


def test_a_wrong_type_in_the_file_is_named(tmp_path):
    (tmp_path / "seedbench-r1.toml").write_text('max_frames = "16"\n')
    with pytest.raises(ConfigError, match="max_frames is '16', expected int"):
        resolve(tmp_path)
    (tmp_path / "seedbench-r1.toml").write_text("broken")
    with pytest.raises(ConfigError, match="not valid TOML"):
        resolve(tmp_path)


def test_levels_and_shards():
    assert parse_levels("l3,L1") == ("L1", "L3")
    assert parse_shard("2/8") == (2, 8)
    for wrong in ("0/2", "3/2", "1", "a/b", "1/0"):
        with pytest.raises(ConfigError):
            parse_shard(wrong)
    for wrong in ("", "L4"):
        with pytest.raises(ConfigError):
            parse_levels(wrong)


@pytest.fixture
def question(tmp_path):
    row = evaluation_row(question="What about {options} and {0}?", choice_a="wash {question}")
    return load_annotations(write_rows(tmp_path / "a.jsonl", [row]), tmp_path, "L1")[0]


def test_the_prompt_holds_question_and_options_literally(question):
    template = Template({"with_video": "Q {question}\nO\n{options}", "without_video": "{question}{options}"})
    expected = "Q What about {options} and {0}?\nO\n" + "\n".join(
        ("A. wash {question}", "B. open the fridge", "C. wash the cup", "D. close the drawer")
    )
    assert build_prompt(question, template) == expected


def test_messages_are_video_image_text_without_a_system_message(question):
    (message,) = build_messages(question, DEFAULT_TEMPLATE)
    assert message["role"] == "user"
    assert [part["type"] for part in message["content"]] == ["video", "image", "text"]
    with_system = Template(
        {"with_video": "{question}{options}", "without_video": "{question}{options}"}, system="Be brief."
    )
    assert build_messages(question, with_system)[0]["role"] == "system"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("with_video = 1", "with_video"),
        ('with_video = "{question}"\nwithout_video = "x"', r"'with_video' has no \{options\}"),
        ('with_video = "{question}{options}"', "'without_video' is missing"),
        ('prompt = "x"', "unknown key 'prompt'"),
        ("=", "not valid TOML"),
    ],
)
def test_a_bad_prompt_file_is_named(tmp_path, text, message):
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_template(tmp_path / "p.toml")


def test_an_api_model_in_a_file(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('backend = "openai"\nmodel = "gpt-x"\ndata_root = "d"\n')
    found = resolve_eval_config({}, config_file=file, environ={})
    assert (found.backend, found.model) == ("openai", "gpt-x")
    file.write_text('model = "ckpt/care"\ndata_root = "d"\n')
    with pytest.raises(ConfigError, match="names no model"):
        resolve_eval_config({"backend": "openai"}, config_file=file, environ={})
