"""What a training prints before and after: sizes, and the command that comes next, which has to work as it stands."""

import json
import shlex
from dataclasses import replace

import pytest

from seedbench_r1.cli import outcome
from seedbench_r1.cli.outcome import refusals_said_once
from seedbench_r1.cli.train_results import continuation, duration, eval_command, print_result, size
from seedbench_r1.errors import ConfigError
from tests.command import cli
from tests.trainers.toy import toy_config
from trainers.loop import TrainResult
from trainers.plan import plan_training


@pytest.fixture
def planned(toy, tmp_path):
    return plan_training(toy_config(toy.raw, toy.data, tmp_path / "out", "care", max_steps=60))


def result(planned, step):
    return TrainResult(step, 60, planned.config.out / f"checkpoint-{step}", replaced=0)


def test_the_next_command_evaluates_with_file_data_prompt_and_pixels_of_the_training(planned, tmp_path):
    prompt = planned.config.data / "prompt.toml"
    settings = tmp_path / "my settings.toml"
    settings.write_text("[train]\nseed = 1\n\n[eval]\ntemperature = 1.0\nruns_dir = 'elsewhere'\n")
    given = {"algo": "care", "prompt_file": prompt, "max_frames": 12, "seed": 3}
    line = eval_command(planned, result(planned, 60), given, settings)
    name, *words = shlex.split(line)
    assert name == "seedbench-r1"
    done = cli(*words, "--print-config", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["model"] == str(planned.config.out / "checkpoint-60")
    assert shown["data_root"] == str(planned.config.data)
    assert shown["sampling"]["temperature"] == 1.0
    assert shown["video"]["max_frames"] == 12
    assert shown["runs_dir"] == str(tmp_path / "elsewhere")
    assert "--seed" not in line


def test_after_a_stop_the_command_that_continues_is_printed(planned, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/seedbench-r1", "train", "--algo", "care", "--out", "my out"])
    print_result(planned, result(planned, 7), {}, None, as_json=False)
    shown = capsys.readouterr().out
    assert "next: seedbench-r1 train --algo care --out 'my out'\n" in shown
    assert "eval" not in shown
    several = continuation(replace(planned, world_size=2))
    assert several == "behind the same launcher and its options: seedbench-r1 train --algo care --out 'my out'"
    never = replace(planned, config=replace(planned.config, save_optimizer="never"))
    assert continuation(never).startswith("the same command with another --out")


def test_sizes_and_times_leave_a_number():
    assert [size(n) for n in (43.2e9, 1e8, 5.24e6)] == ["43.2 GB", "0.1 GB", "5.2 MB"]
    assert [duration(s) for s in (5400, 10.04, 0.00123)] == ["1.5 h", "10.0 s", "1.2 ms"]


@pytest.mark.parametrize(
    ("environment", "waits"),
    [
        ({}, False),
        ({"TORCHELASTIC_RUN_ID": "none", "LOCAL_RANK": "0"}, False),
        ({"TORCHELASTIC_RUN_ID": "none", "LOCAL_RANK": "1"}, True),
        ({"LOCAL_RANK": "1"}, False),  # started one by one: nobody would end it
    ],
)
def test_who_waits_before_a_refusal_is_said(monkeypatch, environment, waits):
    waited = []
    for name in ("TORCHELASTIC_RUN_ID", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("time.sleep", waited.append)
    with pytest.raises(ConfigError, match="no"), refusals_said_once():
        raise ConfigError("no")
    assert waited == [outcome.WAIT_FOR_THE_FIRST_S] * waits
