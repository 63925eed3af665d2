"""Curves elsewhere: every number under its name in every tracker, the same run after a continuation, no silent loss."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from seedbench_r1.errors import ConfigError
from seedbench_r1.runs.training_snapshot import read_lines
from tests.trainers.test_loop import SMALL, command
from tests.trainers.toy import toy_config
from tests.waiting import wait_until
from trainers.trackers import NAMES, TRACKERS, open_trackers, open_wandb, parse_trackers, tracked

LINE = {
    "step": 3,
    "epoch": 0.5,
    "reward": 1.5,
    "accuracy": 0.5,
    "format": 1.0,
    "bonus": 0.25,
    "likelihood": None,
    "zero_std": 0.0,
    "length": 12.0,
    "truncated": 0.125,
    "reasoning_words": 2,
    "kl": None,
    "loss": -0.1,
    "lr": 1e-6,
    "unusable": [{"reason": "x"}],
    "heldout": {"n": 4, "accuracy": 0.75},
    "seconds": {"io": 2.0},
}
TRACKED = {
    "train/epoch": 0.5,
    "train/reward/total": 1.5,
    "train/reward/accuracy": 0.5,
    "train/reward/format": 1.0,
    "train/reward/consistency_bonus": 0.25,
    "train/zero_std_groups": 0.0,
    "train/completion/length": 12.0,
    "train/completion/truncated": 0.125,
    "train/completion/reasoning_words": 2.0,
    "train/loss": -0.1,
    "train/learning_rate": 1e-6,
    "eval/heldout/n": 4.0,
    "eval/heldout/accuracy": 0.75,
    "train/seconds/io": 2.0,
}


@pytest.fixture
def config(tmp_path):
    """A configuration that needs no model: none is loaded before the trackers are open."""
    (tmp_path / "data").mkdir()
    return toy_config(tmp_path / "model", tmp_path / "data", tmp_path / "out", "care")


def test_names():
    assert tracked(LINE) == TRACKED
    assert len(set(NAMES.values())) == len(NAMES)
    assert tracked({"step": 1, "new": 2}) == {"train/new": 2.0}


def test_several_trackers_and_none():
    assert parse_trackers(None) == parse_trackers("none") == ()
    assert parse_trackers("wandb, tensorboard,wandb") == ("wandb", "tensorboard")
    with pytest.raises(ConfigError, match=r"'mlflow' is unknown. There are: tensorboard, wandb, trackio, none"):
        parse_trackers("wandb,mlflow")


def test_tensorboard_gets_every_number_and_drops_what_comes_again(config):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with open_trackers(["tensorboard"], config, 0) as (board,):
        board.observe(LINE)
        board.observe(LINE | {"step": 4, "reward": 9.0})
    with open_trackers(["tensorboard"], config, 3) as (board,):
        board.observe(LINE | {"step": 4, "reward": 2.0})
    events = EventAccumulator(str(config.out / "tensorboard")).Reload()
    assert sorted(events.Tags()["scalars"]) == sorted(TRACKED)
    assert [(event.step, event.value) for event in events.Scalars("train/reward/total")] == [(3, 1.5), (4, 2.0)]


def wandb_records(folder: Path):
    """(run ids, history rows by step) of the offline runs below a folder, read from their own files."""
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    ids, history = [], {}
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        store = DataStore()
        store.open_for_scan(str(path))
        while data := store.scan_data():
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "run":
                ids.append((record.run.project, record.run.run_id))
            if record.WhichOneof("record_type") == "history":
                row = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item
                }
                history[row["_step"]] = row
    return ids, history


def test_wandb_gets_every_number_and_a_continuation_in_the_same_run(config, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_PROJECT", "ours")
    monkeypatch.delenv("WANDB_DIR", raising=False)
    for step in (1, 2):
        with open_trackers(["wandb"], config, step - 1) as (run,):
            run.observe(LINE | {"step": step})
    # wandb's own process writes the file, and may still do so when a run has been finished.
    wait_until(lambda: len(wandb_records(config.out)[1]) == 2)
    ids, history = wandb_records(config.out)
    run_id = json.loads((config.out / "trackers.json").read_text())["wandb"]
    assert set(ids) == {("ours", run_id)}
    assert sorted(history) == [1, 2]
    assert all({name: row[name] for name in TRACKED} == TRACKED for row in history.values())


def test_trackio_gets_every_number_and_a_continuation_in_the_same_run(config, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "db"))  # trackio reads it when it is imported
    pytest.importorskip("trackio")  # not among the dev packages: it holds pillow back
    script = (
        "import sys; from pathlib import Path; from tests.trainers.toy import toy_config\n"
        "from trainers.trackers import open_trackers; from tests.trainers.test_trackers import LINE\n"
        "root = Path(sys.argv[1]); config = toy_config(root / 'model', root / 'data', root / 'out', 'care')\n"
        "with open_trackers(['trackio'], config, 0) as (run,):\n"
        "    run.observe(LINE | {'step': int(sys.argv[2])})\n"
    )
    own = os.environ | {"TRACKIO_PROJECT": "ours", "HF_HUB_OFFLINE": "1"}
    for step in ("1", "2"):
        arguments = [sys.executable, "-c", script, str(tmp_path), step]
        done = subprocess.run(arguments, env=own, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = SQLiteStorage.get_runs("ours")
    logged = SQLiteStorage.get_logs("ours", run)
    assert [row["step"] for row in logged] == [1, 2]
    assert all({name: row[name] for name in TRACKED} == TRACKED for row in logged)


@pytest.mark.parametrize("name", TRACKERS)
def test_what_is_not_installed_is_said_before_anything_is_written(config, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(ConfigError, match=f"Fix: pip install {name}$"), open_trackers([name], config, 0):
        pass
    assert not config.out.exists()


def test_the_command_reports_its_steps_and_refuses_a_missing_package_before_it_trains(toy, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from seedbench_r1.cli.app import app

    config = toy_config(toy.sft, toy.data, tmp_path / "out", "care", **SMALL | {"max_steps": 1})
    done = CliRunner().invoke(app, command(config, "--report-to", "tensorboard")[3:])
    assert done.exit_code == 0, done.output
    (line,) = read_lines(config.out / "metrics.jsonl")
    events = EventAccumulator(str(config.out / "tensorboard")).Reload()
    assert sorted(events.Tags()["scalars"]) == sorted(tracked(line))
    monkeypatch.setitem(sys.modules, "trackio", None)
    other = toy_config(toy.sft, toy.data, tmp_path / "other", "care", **SMALL)
    refused = CliRunner().invoke(app, command(other, "--report-to", "tensorboard,trackio")[3:])
    assert isinstance(refused.exception, ConfigError)
    assert refused.exception.exit_code == 3
    assert not other.out.exists()


def test_wandb_without_a_login_is_refused(config, monkeypatch, tmp_path):
    import wandb

    def refuse(**options):
        raise wandb.errors.UsageError("No API key configured. Use `wandb login` to log in.")

    monkeypatch.setattr(wandb, "init", refuse)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    with pytest.raises(ConfigError, match=r"No API key .*WANDB_MODE=offline"):
        open_wandb(config)
