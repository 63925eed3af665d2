"""The miniature's experiment: its table by hand, and the command with models of a few steps."""

import json
import subprocess
import sys

import numpy as np
import pytest

from seedbench_r1.cli.experiment import VARIANTS
from seedbench_r1.demo.comparison import Measured, cell, difference, markdown
from seedbench_r1.demo.models import copy_shipped_model, newest_checkpoint, shipped_model
from seedbench_r1.demo.rollout_log import below_cap
from seedbench_r1.demo.rollout_log import markdown as likelihood_table
from seedbench_r1.demo.tiny_model import write_miniature_model
from seedbench_r1.errors import ConfigError, ResourceError
from tests.command import cli


def measured(accuracy, consistency):
    accuracy, consistency = np.array(accuracy, float), np.array(consistency, float)
    return Measured(
        levels=np.array(["L1", "L1", "L1", "L2", "L3"]),
        videos=np.array(["a", "a", "b", "c", "d"]),
        values={
            "accuracy": accuracy,
            "consistency": consistency,
            "sound": accuracy * consistency,
            "conclusion": accuracy * np.array([1, 0, 0, 1, 1]),
            "silent": (1 - accuracy) * np.array([0, 1, 0, 0, 0]),
        },
        agreement=1.0,
        words=10.0,
    )


def test_cells_and_differences_by_hand():
    ours = [measured([1, 1, 1, 1, 0], [1, 1, 1, 1, 1]), measured([1, 1, 0, 1, 0], [1, 1, 0, 1, 1])]
    theirs = [measured([0, 0, 1, 1, 0], [1, 0, 0, 0, 1]), measured([0, 1, 0, 1, 0], [0, 0, 0, 1, 1])]
    found = cell(ours, "accuracy", "L1")
    assert found.mean == pytest.approx((1 + 1 + 0.5) / 3)
    assert found.seeds == pytest.approx((1.0, 2 / 3))
    assert cell(ours, "sound", "all").mean == pytest.approx((4 / 5 + 3 / 5) / 2)
    gain, p = difference(ours, theirs, "accuracy", "L1")
    assert gain.mean == pytest.approx((1 + 0.5 + 0) / 3)
    assert gain.seeds == pytest.approx((2 / 3, 1 / 3))
    # sums over seeds and questions by video: a 3, b 0; |T| = 3 under all four sign patterns
    assert p == 1.0
    _, p = difference(ours, theirs, "consistency", "all")
    # by video: a 2 + 1 = 3 (questions 1 and 2), b 1, c 1, d 0: |T| = 5 in 4 of 16 patterns
    assert p == pytest.approx(4 / 16)


def test_the_table_names_every_variant_and_its_seeds():
    runs = [measured([1, 0, 1, 1, 0], [1, 1, 1, 1, 1]), measured([1, 1, 0, 1, 0], [1, 1, 0, 1, 1])]
    means, singles, gains = markdown({"start": runs[:1], "grpo": runs, "care": runs}).split("\n\n")
    assert "| care | 2 | 66.7 [" in means
    assert "| start | 1 | 66.7 [" in means
    # consistent in 5 and 4 of 5; sound in 3 and 3; concluding the right one in 2 and 2, nothing in 1 and 0; so a wrong
    # one in 2 and 3, of which 1 and 1 answer right
    details = "60.0 | 40.0 | 10.0 | 40.0 | 100.0 | 10.0"
    assert f"| care | 66.7 66.7 | 100.0 100.0 | 0.0 0.0 | 100.0 80.0 | {details} |" in singles
    assert "| care | +0.0 [-87.1, +87.1], p = 1.000" in gains  # two videos of 2 and 1 questions: worth 1.8
    assert "start" not in gains


def rollout(step, concluded, answer, likelihood, accuracy=1.0):
    text = f"<think>So I should {concluded}.</think><answer> {answer} </answer>"
    return {"step": step, "text": text, "accuracy": accuracy, "likelihood": likelihood}


def test_rollouts_below_the_cap_by_hand(tmp_path):
    rows = [
        rollout(1, "fill the cup", "fill the cup", 0.99),
        rollout(1, "fill the cup", "empty the cup", 0.5),
        rollout(2, "fill the cup", "empty the cup", 0.96),
        rollout(2, "fill the cup", "empty the cup", 0.5, accuracy=0.0),
        rollout(3, "cup", "empty the cup", 0.94),
        rollout(3, "fill the cup", "empty the cup", None),
    ]
    (tmp_path / "rollouts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert below_cap(tmp_path) == {
        "the answer": [(0, 1), (0, 0), (0, 0)],
        "another action": [(1, 1), (0, 1), (0, 0)],
        "nothing": [(0, 0), (0, 0), (1, 1)],
    }
    text = likelihood_table({"grpo": [tmp_path / "none"], "care": [tmp_path, tmp_path]})
    assert "| care | another action | 2 of 2 | 0 of 2 | 0 of 0 |" in text
    assert "grpo" not in text
    assert likelihood_table({"grpo": [tmp_path / "none"]}) == ""


def test_newest_checkpoint(tmp_path):
    for name in ("checkpoint-50", "checkpoint-150", "checkpoint-9", "checkpoint-150.tmp"):
        (tmp_path / name).mkdir()
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-150"
    assert newest_checkpoint(tmp_path / "checkpoint-50") == tmp_path / "checkpoint-50"


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="sft, grpo, care"):
        shipped_model("dapo")
    done = cli("demo", "experiment", "--variants", "care,dapo", cwd=tmp_path)
    assert done.returncode == 3
    assert ", ".join(VARIANTS) in done.stderr
    assert cli("demo", "experiment", "--seeds", "one", cwd=tmp_path).returncode == 3


def test_a_trained_model_of_the_package_is_copied_whole_and_over_nothing(tmp_path):
    done = cli("demo", "model", "--trained", "care", "--out", "base", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    copied = {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()}
    assert copied == {path.name: path.read_bytes() for path in shipped_model("care").iterdir()}
    again = cli("demo", "model", "--trained", "sft", "--out", "base", cwd=tmp_path)
    assert (again.returncode, "base holds a model already" in again.stderr) == (3, True)
    unknown = cli("demo", "model", "--trained", "dapo", "--out", "other", cwd=tmp_path)
    assert (unknown.returncode, "sft, grpo, care" in unknown.stderr) == (3, True)
    assert not (tmp_path / "other").exists()


MAKING = {
    "generate": ["--questions", "2", "--train", "0", "--traces", "0"],
    "random": ["--seed", "1"],
    "trained": ["--trained", "sft"],
}


@pytest.mark.parametrize("what", MAKING)
def test_a_disk_that_refuses_is_named_and_nothing_half_made_passes_for_whole(tmp_path, what):
    """The limit on file sizes stands for a full disk."""
    out = tmp_path / "made"
    limit = 500 if what == "generate" else 100_000
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY));"
        "from seedbench_r1.cli.app import main; main()"
    )
    words = ["demo", "generate" if what == "generate" else "model", *MAKING[what]]
    done = subprocess.run([sys.executable, "-Bc", code, *words, "--out", out], capture_output=True, text=True)
    assert done.returncode == 7, done.stderr
    assert str(out) in done.stderr
    assert "Fix: " in done.stderr
    assert not list(out.rglob(".*"))
    if what != "generate":
        assert cli(*words, "--out", out, cwd=tmp_path).returncode == 0  # once there is room


@pytest.mark.parametrize("make", [lambda folder: copy_shipped_model("sft", folder), write_miniature_model])
def test_a_file_where_the_folder_should_be(tmp_path, make):
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match=r"file/base cannot be written: Not a directory"):
        make(tmp_path / "file" / "base")


@pytest.mark.slow
def test_the_experiment_runs_and_runs_again(tmp_path):
    command = ("demo", "experiment", "--variants", "care", "--seeds", "3")
    options = ("--rows", "8", "--questions", "4", "--steps", "1", "--out", "mini")
    done = cli(*command, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "| care | 1 |" in done.stdout
    assert (tmp_path / "mini" / "leaderboard.html").is_file()
    assert (tmp_path / "mini" / "experiment.md").read_text() in done.stdout
    checkpoint = tmp_path / "mini" / "trainings" / "care-seed3" / "checkpoint-1"
    kept = {path: path.stat().st_mtime_ns for path in (checkpoint / "model.safetensors", checkpoint / "training.json")}
    assert cli(*command, *options, cwd=tmp_path).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
