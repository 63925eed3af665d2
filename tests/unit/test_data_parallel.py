"""--data-parallel from the command line: real child processes share one run."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import psutil

from seedbench_r1.runs.directory import load_run
from tests.command import cli, cli_forked
from tests.forked import COMMANDS
from tests.small_benchmark import write_script
from tests.waiting import wait_for_records


def test_two_processes_fill_one_run_and_the_whole_is_counted(data_root, tmp_path):
    command = ["eval", "--backend", "fake", "--model", write_script(tmp_path / "s.json"), "--data-root", data_root]
    command += ["--workers", 1]
    done = cli_forked(*command, "--data-parallel", 2, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert value["status"] == "complete"
    (path,) = (tmp_path / "runs").iterdir()
    assert {file.name for file in path.glob("records*.jsonl")} >= {"records.1-of-2.jsonl", "records.2-of-2.jsonl"}
    assert len(load_run(path).records) == 28
    single = json.loads(cli(*command, "--run-name", "single", "--json", cwd=tmp_path).stdout)
    assert single["levels"] == value["levels"]
    assert cli(*command, "--data-parallel", 2, "--shard", "1/2", cwd=tmp_path).returncode == 3


def begun(data_root: Path, tmp_path: Path) -> tuple[list[str], subprocess.Popen[str]]:
    """A slow run of two processes that has three records, and its command."""
    script = write_script(tmp_path / "s.json", seconds=0.3)
    command = ["eval", "--backend", "fake", "--model", str(script), "--data-root", str(data_root)]
    command += ["--runs-dir", str(tmp_path / "runs"), "--data-parallel", "2", "--workers", "1"]
    process = COMMANDS.popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_for_records(tmp_path / "runs", 3)
    return command, process


def test_a_signal_reaches_the_children_and_the_same_command_continues(data_root, tmp_path):
    command, process = begun(data_root, tmp_path)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 143, stderr
    (path,) = (tmp_path / "runs").iterdir()
    assert 3 <= len(load_run(path).records) < 28
    assert cli(*command, cwd=tmp_path).returncode == 0
    assert len(load_run(path).records) == 28


def test_a_killed_child_is_named_and_the_same_command_continues(data_root, tmp_path):
    command, process = begun(data_root, tmp_path)
    psutil.Process(process.pid).children()[0].kill()
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 5, stderr
    assert "A shard ended with exit code 137" in stderr
    assert cli(*command, cwd=tmp_path).returncode == 0
    (path,) = (tmp_path / "runs").iterdir()
    assert len(load_run(path).records) == 28
