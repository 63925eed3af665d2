"""The table of options: ranges in messages, owners, what needs what, and the command line made from it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from seedbench_r1 import config
from seedbench_r1.config import resolve_eval_config, settings
from seedbench_r1.config_file import toml_lines
from seedbench_r1.engines.plan import open_engine
from seedbench_r1.errors import ConfigError
from seedbench_r1.judges.config import resolve_judge_config
from seedbench_r1.protocol import protocol_id
from seedbench_r1.suites import find_suite, resolve
from tests.command import cli
from trainers.resolve import resolve_train_config


def evaluation(**options):
    return resolve_eval_config({"model": "m", "data_root": Path(), **options}, environ={})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "--batch-size is 0, which is out of range: at least 1."),
        ({"top_p": 1.5}, "--top-p is 1.5, which is out of range: above 0 and at most 1."),
        ({"reader": "mpv"}, "--reader is 'mpv', which is out of range: one of decord, pyav, torchcodec."),
        ({"min_frames": 20}, "--min-frames is 20, which is out of range: at most --max-frames, 16."),
        ({"decode_timeout_s": 0.0}, "--decode-timeout is 0.0, which is out of range: above 0."),
        ({"thinking": "yes"}, "--thinking is 'yes', which is out of range: one of auto, on, off."),
        ({"limit": True}, "limit is True, expected int."),
        ({"engine": "slurm"}, "--engine is 'slurm', which is out of range: one of local, ray, lmms-eval."),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_range(options, message):
    with pytest.raises(ConfigError) as error:
        evaluation(**options)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"backend": "fake", "tensor_parallel": 8},
            "--tensor-parallel belongs to --backend vllm, and this is --backend",
        ),
        ({"ray_workers": 2}, "--ray-workers belongs to --engine ray, and this is --engine local"),
        ({"lmms_model": "qwen2_5_vl"}, "--lmms-model belongs to --engine lmms-eval or --suite transfer-lmms"),
        ({"engine": "ray", "data_parallel": 2}, "--data-parallel belongs to --engine local"),
        ({"max_cost": 1.0}, "Fix: leave it out, or add --backend openai:MODEL."),
        ({"benchmarks": "mmvu"}, "--benchmarks belongs to --suite transfer, and this is --suite seedbench-r1"),
        ({"backend": "fake", "thinking": "on"}, "--thinking belongs to --backend transformers or --backend vllm or"),
        ({"frame_cache_gb": 5.0}, "--frame-cache-gb does nothing without --frame-cache"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(options, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        evaluation(**options)


def test_a_file_may_serve_two_backends(tmp_path):
    """Its options go with its own choice; only what the command line adds is held against the command line's."""
    (tmp_path / "seedbench-r1.toml").write_text('backend = "vllm"\ntensor_parallel = 4\n')
    given = {"model": "m", "data_root": tmp_path, "backend": "fake"}
    assert resolve_eval_config(given, environ={}, working_dir=tmp_path).tensor_parallel == 4
    (tmp_path / "seedbench-r1.toml").write_text('backend = "fake"\ntensor_parallel = 4\n')
    with pytest.raises(ConfigError, match="--tensor-parallel"):
        resolve_eval_config(given, environ={}, working_dir=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algo": "grpo", "bonus_weight": 1.0}, "--bonus-weight belongs to --bonus care or --bonus dense"),
        ({"algo": "sft", "num_generations": 4}, "--num-generations belongs to --algo grpo or --algo care"),
        ({"algo": "care", "lora_r": 8}, "--lora-r does nothing without --lora"),
        ({"algo": "care", "reference": "frozen", "ema_decay": 0.9}, "--ema-decay belongs to --reference ema"),
        ({"algo": "care", "kl_on": "accurate"}, "--kl-on accurate does nothing without a KL penalty. Fix: add --beta"),
        (
            {"algo": "care", "warmup_ratio": 1.0},
            "--warmup-ratio is 1.0, which is out of range: at least 0 and below 1.",
        ),
        ({"algo": "ppo"}, "--algo is 'ppo', which is out of range: one of care, grpo, sft"),
    ],
)
def test_training_options_too(tmp_path, options, message):
    given = {"model": "m", "data": tmp_path, "out": tmp_path / "out", **options}
    with pytest.raises(ConfigError, match=message):
        resolve_train_config(given, environ={}, working_dir=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"judge": "oracle"}, "No judge 'oracle'. There are: rules, openai:MODEL, local:PATH, miniature."),
        ({"judge": "openai"}, "No judge 'openai'"),
        ({"judge": "rules:x"}, "No judge 'rules:x'"),
        ({"votes": 3}, "--votes belongs to --judge openai:MODEL, and this is --judge rules"),
        ({"judge": "openai:m", "max_cost": 1.0}, "--max-cost needs --price-in and --price-out"),
        ({"judge": "openai:m", "tries": 0}, "--tries is 0, which is out of range: at least 1."),
    ],
)
def test_judging_options_too(options, message):
    with pytest.raises(ConfigError, match=message):
        resolve_judge_config(options)


def test_a_judge_may_be_named_in_the_file(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text('[judge]\njudge = "openai:m"\nvotes = 3\n')
    config = resolve_judge_config({}, config_file=file)
    assert (config.kind, config.model, config.votes, config.vote_temperature) == ("openai", "m", 3, 0.7)


def test_unknown_suites_are_answered_with_the_list(tmp_path):
    with pytest.raises(
        ConfigError, match=r"No suite 'mmlu'\. There are: seedbench-r1, transfer, own, and transfer-lmms"
    ):
        resolve({"model": "m", "data_root": tmp_path, "suite": "mmlu"})


def test_the_settings_of_a_run_lead_back_to_it(tmp_path):
    """What a shard is told by a file is what its parent was told by options."""
    given = {"backend": "openai:m", "base_url": "http://h:1/v1", "levels": ("L1", "L3"), "protocol": "greedy"}
    asked = evaluation(**given, max_frames=8, thinking="off", model=None, data_root=tmp_path)
    file = tmp_path / "eval.toml"
    file.write_text(toml_lines(settings(asked)))
    assert resolve_eval_config({}, config_file=file, environ={}) == asked
    file.write_text(toml_lines({"a key": "\x7f", "list": ("a", "b")}))
    import tomllib

    assert tomllib.loads(file.read_text()) == {"a key": "\x7f", "list": ["a", "b"]}


def test_protocol_ids_stand_for_what_they_stood_for():
    """A change here makes old runs incomparable: see docs/protocols.md."""
    greedy, ours = evaluation(protocol="greedy"), evaluation()
    assert protocol_id(ours.template, ours.video, ours.sampling) == "5afd59b6"
    assert protocol_id(greedy.template, greedy.video, greedy.sampling) == GREEDY
    transfer = resolve({"model": "m", "data_root": Path(), "suite": "transfer"}, environ={})
    scorer = find_suite("transfer").scorer
    assert protocol_id(transfer.template, transfer.video, transfer.sampling, scorer=scorer) == "65d2e16e"


GREEDY = "2a56433a"


def test_every_setting_of_eval_is_an_option_with_help():
    names = {row.name for row in config.TABLE.values()}
    assert names >= {"model", "max_frames", "temperature", "prompt_file", "seed", "ray_workers"}
    assert all(row.option.help.endswith(".") for row in config.TABLE.values())
    assert {row.option.group for row in config.TABLE.values()} == set(config.GROUPS)


def test_a_folder_named_as_one_of_our_packages_is_told_from_it(tmp_path):
    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers" / "__init__.py").write_text("")
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from seedbench_r1.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert f"{tmp_path}/trainers" in done.stderr
    assert "Fix:" in done.stderr


def test_python_m_is_the_command(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "seedbench_r1", "--version"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout == cli("--version", cwd=tmp_path).stdout


def test_the_suite_of_the_command_line_alone_says_so():
    with pytest.raises(ConfigError, match="only the command line runs: seedbench-r1 eval --suite transfer-lmms"):
        find_suite("transfer-lmms")


def test_unknown_engines_are_answered_with_the_list(tmp_path):
    with pytest.raises(ConfigError, match=r"--engine is 'slurm', .*: one of local, ray, lmms-eval\."):
        resolve_eval_config({"model": "m", "engine": "slurm"}, environ={}, working_dir=tmp_path)


@pytest.mark.parametrize("shard", [(0, 4), (5, 4), [1], 3])
def test_shards_that_do_not_exist_are_refused_in_every_form(shard):
    with pytest.raises(ConfigError, match=r"--shard .* is not understood"):
        evaluation(shard=shard)
    assert evaluation(shard=[2, 4]).shard == (2, 4)


def test_levels_may_be_a_list_or_a_text():
    assert evaluation(levels=["l3", "L1"]).levels == evaluation(levels="L1,L3").levels == ("L1", "L3")
    for levels in (["L9"], 3, [1]):
        with pytest.raises(ConfigError, match=r"--levels .* is not understood"):
            evaluation(levels=levels)


def test_the_patch_grid_of_a_checkpoint_changes_no_protocol_s_name():
    config = evaluation()
    of_qwen3 = settings(replace(config, video=replace(config.video, size_multiple=32)))
    assert resolve_eval_config(of_qwen3, environ={}).protocol == "standard"


def test_a_limit_on_the_cost_is_not_multiplied_by_shards():
    prices = {"price_in": 1.0, "price_out": 1.0, "max_cost": 5.0}
    config = evaluation(backend="openai:m", model=None, data_parallel=4, **prices)
    with pytest.raises(ConfigError, match="--max-cost holds for one process"):
        open_engine(config).check(config, find_suite("seedbench-r1"))


@pytest.mark.parametrize(
    "setting", [{"dtype": "float16"}, {"batch_size": 4}, {"max_frames": 64}, {"workers": 9}, {"thinking": "on"}]
)
def test_what_a_model_of_lmms_eval_s_own_never_sees_is_refused(setting):
    pytest.importorskip("lmms_eval")
    config = evaluation(engine="lmms-eval", lmms_model="qwen2_5_vl", **setting)
    with pytest.raises(ConfigError, match=f"--{next(iter(setting)).replace('_', '-')} does not reach lmms-eval's own"):
        open_engine(config).check(config, find_suite("seedbench-r1"))
