"""Real processes, really killed: what was answered is never lost, and a resumed run equals an undisturbed one."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest

from seedbench_r1.demo.tiny_model import write_tiny_checkpoint
from seedbench_r1.questions import load_questions
from seedbench_r1.runs.directory import load_run
from tests import forked
from tests.command import RUN
from tests.small_benchmark import ANSWER, write_script

COMMAND = [*RUN, "eval", "--quiet"]
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


def eval_command(data_root: Path, folder: Path, *extra: str) -> list[str]:
    return [*COMMAND, "--data-root", str(data_root), "--runs-dir", str(folder), *extra]


def fake(data_root: Path, folder: Path, seconds: float) -> list[str]:
    rng = random.Random(1)
    answers = {q.question_id: ANSWER.format(rng.choice("ABCD")) for q in load_questions(data_root)}
    script = write_script(folder / "script.json", seconds=seconds, **answers)
    return ["--backend", "fake", "--model", str(script)]


def start(command: list[str]) -> subprocess.Popen:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(command: list[str]) -> None:
    """Run to the end; it must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr


def finish_forked(command: list[str], folder: Path) -> None:
    """The same with an inexpensive process."""
    process = forked.start(command[len(RUN) :], stderr=folder / "stderr.txt")
    process.join(240)
    assert process.exitcode == 0, (folder / "stderr.txt").read_text()


def outcome(folder: Path) -> tuple[dict, dict]:
    (path,) = (p for p in folder.iterdir() if (p / "manifest.json").exists())
    answers = {i: record.parsed.answer_text for i, record in load_run(path).records.items()}
    return json.loads((path / "summary.json").read_text()), answers


def kill_and_resume(command: list[str], folder: Path, kills: int, answer_s: float) -> None:
    """SIGKILL at random moments of the start, and of the answers, then run to the end.

    Args:
        answer_s: about how long one answer takes.
    """
    rng, killed = random.Random(0), 0
    for _ in range(kills):
        process = forked.start(command[len(RUN) :], stderr=folder.with_suffix(".txt"))
        if more := rng.randrange(4):
            wait_for_more(process, folder, n_records(folder) + more)
        time.sleep(rng.uniform(0.0, answer_s if more else 1.0))
        killed += was_killed(process)
    assert killed > kills // 2
    assert n_records(folder) > 0
    finish_forked(command, folder.parent)


def wait_for_more(process: BaseProcess, folder: Path, n: int) -> None:
    wait_until(lambda: n_records(folder) >= n or process.exitcode is not None)


def was_killed(process: BaseProcess) -> bool:
    """SIGKILL, which decoding processes do not outlive. False if it had ended by itself."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        children = []
    process.kill()
    process.join()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive, "decoding processes outlived their parent"
    return process.exitcode == -signal.SIGKILL


@pytest.mark.timeout(300)
def test_twenty_kills_change_nothing(data_root, tmp_path):
    slow = [*fake(data_root, tmp_path, seconds=0.1), "--workers", "1"]
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    finish_forked(eval_command(data_root, undisturbed, *slow), tmp_path)
    kill_and_resume(eval_command(data_root, killed, *slow), killed, kills=20, answer_s=0.1)
    assert outcome(killed) == outcome(undisturbed)
    lines = next(killed.glob("*/records.jsonl")).read_text().splitlines()
    assert len(lines) == len({json.loads(line)["question_id"] for line in lines}), "a question was answered twice"


@pytest.mark.timeout(300)
def test_three_kills_of_a_real_model_change_nothing(data_root, tmp_path):
    model = write_tiny_checkpoint(tmp_path / "model")
    options = ["--model", str(model), "--max-new-tokens", "60", "--batch-size", "2", "--device", "cpu"]
    options += [
        "--max-pixels",
        "3136",
        "--min-pixels",
        "784",
        "--image-max-pixels",
        "3136",
        "--image-min-pixels",
        "784",
    ]
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    finish_forked(eval_command(data_root, undisturbed, *options), tmp_path)
    kill_and_resume(eval_command(data_root, killed, *options), killed, kills=3, answer_s=0.5)
    assert outcome(killed) == outcome(undisturbed)


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
    finish(command)


def test_a_second_signal_stops_at_once(data_root, tmp_path):
    options = eval_command(data_root, tmp_path / "runs", *fake(data_root, tmp_path, seconds=60.0))[len(RUN) :]
    process = start([sys.executable, "-c", ANNOUNCED, *options, str(tmp_path / "answering")])
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
    second = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert second.returncode == 3
    assert f"pid {first.pid}" in second.stderr
    first.kill()
    first.communicate()


def n_records(folder: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in folder.glob("*/records*.jsonl"))


def wait_for_records(folder: Path, n: int) -> None:
    wait_until(lambda: n_records(folder) >= n)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline, "not within 120 s"
        time.sleep(0.02)
