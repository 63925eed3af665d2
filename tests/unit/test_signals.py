"""Signals to a run, and a second process on it: it drains, saves, and says how to go on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from seedbench_r1.runs.directory import load_run
from tests.forked import COMMANDS, Forked
from tests.unit.test_kill import eval_command, fake, finish
from tests.waiting import wait_for_records, wait_until

# The same with the fake backend's waits announced by a file, named by the last argument
ANNOUNCED = """
import pathlib, sys, time, types
from seedbench_r1.backends import fake
from seedbench_r1.cli.app import main

def sleep(seconds, file=pathlib.Path(sys.argv.pop())):
    file.touch()
    time.sleep(seconds)

fake.time = types.SimpleNamespace(sleep=sleep, perf_counter=time.perf_counter)
main()
"""


def start(command: list[str]) -> Forked:
    return COMMANDS.popen([*command, "--workers", "1"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains_saves_and_says_how_to_go_on(data_root, tmp_path, number):
    command = eval_command(data_root, tmp_path / "runs", *fake(data_root, tmp_path, seconds=0.2))
    process = start(command)
    wait_for_records(tmp_path / "runs", 3)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 128 + number, stderr
    assert "Stopping" in stderr
    assert "Traceback" not in stderr
    (path,) = (tmp_path / "runs").iterdir()
    loaded = load_run(path)
    assert 3 <= len(loaded.records) < len(loaded.questions)
    assert all(record.answered for record in loaded.records.values())
    finish(COMMANDS, command)


def test_a_second_signal_stops_at_once(data_root, tmp_path):
    command = eval_command(data_root, tmp_path / "runs", *fake(data_root, tmp_path, seconds=60.0))
    program = [sys.executable, "-c", ANNOUNCED, *command, "--workers", "1", str(tmp_path / "answering")]
    process = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_until((tmp_path / "answering").exists)
    process.send_signal(signal.SIGINT)
    assert any("Once more stops at once" in line for line in process.stderr)  # two that arrive together count as one
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, stderr = process.communicate(timeout=120)
    assert time.monotonic() - began < 25  # an answer takes 60 s
    assert process.returncode == 130
    assert "Traceback" not in stderr


def test_a_second_process_is_refused(data_root, tmp_path):
    command = eval_command(data_root, tmp_path / "runs", *fake(data_root, tmp_path, seconds=0.5))
    first = start(command)
    wait_for_records(tmp_path / "runs", 1)
    second = COMMANDS.run(command, timeout=120)
    assert second.returncode == 3
    assert f"pid {first.pid}" in second.stderr
    first.kill()
    first.communicate()
