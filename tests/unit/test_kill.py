"""Real processes, really killed: what was answered is never lost, and a resumed run equals an undisturbed one."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from seedbench_r1.demo.tiny_model import write_tiny_checkpoint
from seedbench_r1.questions import load_questions
from seedbench_r1.runs.directory import load_run
from tests.forked import COMMANDS, EVAL, Forked, Server
from tests.small_benchmark import ANSWER, write_script
from tests.waiting import n_records, wait_until

MODEL = ("seedbench_r1.backends.transformers", "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl")


def eval_command(data_root: Path, folder: Path, *extra: str) -> list[str]:
    return ["eval", "--quiet", "--data-root", str(data_root), "--runs-dir", str(folder), *extra]


def fake(data_root: Path, folder: Path, seconds: float) -> list[str]:
    rng = random.Random(1)
    answers = {q.question_id: ANSWER.format(rng.choice("ABCD")) for q in load_questions(data_root)}
    script = write_script(folder / "script.json", seconds=seconds, **answers)
    return ["--backend", "fake", "--model", str(script)]


def finish(server: Server, command: list[str]) -> None:
    """Run to the end; it must succeed."""
    done = server.run(command, timeout=240)
    assert done.returncode == 0, done.stderr


def outcome(folder: Path) -> tuple[dict, dict]:
    (path,) = (p for p in folder.iterdir() if (p / "manifest.json").exists())
    answers = {i: record.parsed.answer_text for i, record in load_run(path).records.items()}
    return json.loads((path / "summary.json").read_text()), answers


def kill_and_resume(server: Server, command: list[str], folder: Path, kills: int, answer_s: float) -> None:
    """SIGKILL at random moments of the start, and of the answers, then run to the end.

    Args:
        answer_s: about how long one answer takes.
    """
    rng, killed = random.Random(0), 0
    for _ in range(kills):
        process = server.popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if more := rng.randrange(4):
            wait_for_more(process, folder, n_records(folder) + more)
        time.sleep(rng.uniform(0.0, answer_s if more else 1.0))
        killed += was_killed(process)
    assert killed > kills // 2
    assert n_records(folder) > 0
    finish(server, command)


def wait_for_more(process: Forked, folder: Path, n: int) -> None:
    wait_until(lambda: n_records(folder) >= n or process.poll() is not None)


def has_ended(process: psutil.Process) -> bool:
    """A zombie has, too: whoever inherited it takes a second to notice."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def was_killed(process: Forked) -> bool:
    """SIGKILL, which its decoding processes do not outlive. False if it had ended by itself."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        children = []
    process.kill()
    process.wait()
    wait_until(lambda: all(has_ended(child) for child in children))
    return process.returncode == -signal.SIGKILL


@pytest.mark.timeout(300)
def test_twenty_kills_change_nothing(data_root, tmp_path):
    slow = [*fake(data_root, tmp_path, seconds=0.1), "--workers", "1"]
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    finish(COMMANDS, eval_command(data_root, undisturbed, *slow))
    kill_and_resume(COMMANDS, eval_command(data_root, killed, *slow), killed, kills=20, answer_s=0.1)
    assert outcome(killed) == outcome(undisturbed)
    lines = next(killed.glob("*/records.jsonl")).read_text().splitlines()
    assert len(lines) == len({json.loads(line)["question_id"] for line in lines}), "a question was answered twice"


@pytest.fixture
def models():
    """Starts commands that have imported a model's classes, too."""
    server = Server("seedbench-r1", "seedbench_r1.cli.app:main", [*EVAL, *MODEL])
    yield server
    server.close()


@pytest.mark.timeout(300)
def test_three_kills_of_a_real_model_change_nothing(models, data_root, tmp_path):
    model = write_tiny_checkpoint(tmp_path / "model")
    options = ["--model", str(model), "--max-new-tokens", "60", "--batch-size", "2", "--device", "cpu", "--workers"]
    options += ["1", "--max-pixels", "3136", "--min-pixels", "784"]
    options += ["--image-max-pixels", "3136", "--image-min-pixels", "784"]
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    finish(models, eval_command(data_root, undisturbed, *options))
    kill_and_resume(models, eval_command(data_root, killed, *options), killed, kills=3, answer_s=0.5)
    assert outcome(killed) == outcome(undisturbed)
