"""A real Ray cluster of two workers, real kills: the run ends as an undisturbed one does."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from seedbench_r1.backends import open_backend
from seedbench_r1.config import resolve_eval_config
from seedbench_r1.engines.plan import plan
from seedbench_r1.engines.ray import OBJECT_STORE_BYTES, RayEngine, size_pool, window
from seedbench_r1.engines.ray_worker import Inbox
from seedbench_r1.errors import ConfigError
from seedbench_r1.questions import load_questions
from seedbench_r1.runs.directory import load_run
from seedbench_r1.suites import find_suite
from tests.command import cli
from tests.evaluation import evaluate
from tests.forked import COMMANDS, Forked
from tests.small_benchmark import ANSWER, copy_of, write_script

EVAL = ["eval", "--engine", "ray"]
EASY = ["--workers", "1", "--backend", "fake"]


@pytest.fixture(scope="module")
def cluster():
    """Address of a cluster with two CPUs on this machine."""
    ray = pytest.importorskip("ray")
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture
def script(data_root, tmp_path) -> Path:
    """Another answer to every question, 0.15 s each."""
    rng = random.Random(1)
    answers = {q.question_id: ANSWER.format(rng.choice("ABCD")) for q in load_questions(data_root)}
    return write_script(tmp_path / "script.json", seconds=0.15, **answers)


def command(data_root: Path, script: Path, address: str, *extra: str) -> list[str]:
    source = ["--data-root", str(data_root), "--model", str(script), "--run-name", "x"]
    return [*EVAL, *EASY, "--ray-workers", "2", "--ray-address", address, *source, *extra]


def start(arguments: list[str], cwd: Path) -> Forked:
    return COMMANDS.popen(arguments, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def run(arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return COMMANDS.run(arguments, cwd=cwd, timeout=240)


def undisturbed(data_root: Path, script: Path, folder: Path) -> tuple[dict, dict]:
    """Summary and answers of an ordinary run, in this process."""
    options = {"backend": "fake", "model": str(script), "data_root": data_root, "runs_dir": folder / "plain"}
    planned = plan(resolve_eval_config(options, environ={}, working_dir=folder))
    evaluate(planned, open_backend)
    return outcome(planned.path)


def outcome(path: Path) -> tuple[dict, dict]:
    answers = {i: record.parsed.answer_text for i, record in load_run(path).records.items()}
    return json.loads((path / "summary.json").read_text()), answers


def lines(path: Path, name: str = "records.*-of-2.jsonl") -> list[str]:
    return [json.loads(line)["question_id"] for file in path.glob(name) for line in file.read_text().splitlines()]


def wait_for(path: Path, n: int, name: str = "records.*-of-2.jsonl") -> None:
    deadline = time.monotonic() + 120
    while sum(file.read_bytes().count(b"\n") for file in path.glob(name)) < n:
        assert time.monotonic() < deadline, f"no {n} records within 120 s"
        time.sleep(0.02)


def test_a_killed_worker_changes_nothing(cluster, data_root, script, tmp_path):
    process = start(command(data_root, script, cluster), tmp_path)
    path = tmp_path / "runs" / "x"
    wait_for(path, 3, "records.1-of-2.jsonl")
    first = int((path / ".records.1-of-2.jsonl.lock").read_text())
    os.kill(first, signal.SIGKILL)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "Worker 1 died with" in err
    assert "Traceback" not in err
    assert "raylet" not in out, "Ray's own words do not belong on standard output"
    assert outcome(path) == undisturbed(data_root, script, tmp_path)
    asked = lines(path)
    assert len(asked) == len(set(asked)) == 28, "a question was answered twice"
    both = [len(lines(path, f"records.{i}-of-2.jsonl")) for i in (1, 2)]
    assert min(both) >= 3
    assert both[1] > 14, "the dead worker's questions did not go to the other"
    assert int((path / ".records.1-of-2.jsonl.lock").read_text()) != first, "no successor took over its file"
    again = run(command(data_root, script, cluster, "--json"), tmp_path)
    assert (again.returncode, json.loads(again.stdout)["status"]) == (0, "complete")
    assert sorted(lines(path)) == sorted(asked), "a complete run was asked again"


def test_a_slow_worker_gets_fewer_questions(cluster, data_root, script, tmp_path):
    process = start(command(data_root, script, cluster), tmp_path)
    path = tmp_path / "runs" / "x"
    wait_for(path, 1, "records.1-of-2.jsonl")
    slow = int((path / ".records.1-of-2.jsonl.lock").read_text())
    os.kill(slow, signal.SIGSTOP)
    had = len(lines(path, "records.1-of-2.jsonl"))
    wait_for(path, 28 - had - window_of_the_test(), "records.2-of-2.jsonl")  # all but what the stopped one holds
    os.kill(slow, signal.SIGCONT)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert len(lines(path)) == len(set(lines(path))) == 28


def window_of_the_test() -> int:
    options = {"model": "x", "backend": "fake", "workers": 1, "data_root": Path()}
    return window(resolve_eval_config(options, environ={}))


def test_a_signal_drains_and_the_same_command_goes_on(cluster, data_root, script, tmp_path):
    path = tmp_path / "runs" / "x"
    process = start(command(data_root, script, cluster, "--quiet"), tmp_path)
    wait_for(path, 3)
    process.send_signal(signal.SIGSTOP)  # so that it does not end before the second one has tried
    try:
        second = run(command(data_root, script, cluster), tmp_path)
        process.send_signal(signal.SIGINT)
    finally:
        process.send_signal(signal.SIGCONT)
    assert second.returncode == 3
    assert "Another process (pid" in second.stderr
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    answered = lines(path)
    assert 3 <= len(answered) < 20, "what was only handed out was answered, too"
    done = run(command(data_root, script, cluster), tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{len(answered)} of 28 done" in done.stderr
    assert len(lines(path)) == len(set(lines(path))) == 28
    assert outcome(path) == undisturbed(data_root, script, tmp_path)


def test_a_cluster_of_our_own_and_media_that_are_bad(data_root, script, tmp_path):
    root = copy_of(data_root, tmp_path / "copy")
    next(q.image for q in load_questions(root)).write_bytes(b"no image")
    arguments = [*EVAL, *EASY, "--data-root", str(root), "--model", str(script), "--ray-workers", "2", "--json"]
    done = run(arguments, tmp_path)
    assert done.returncode == 5, done.stderr
    (path,) = (tmp_path / "runs").iterdir()
    failures = {record.failure.kind for record in load_run(path).records.values() if record.failure}
    assert failures == {"media_error"}


def test_what_concerns_all_workers_ends_the_run(cluster, data_root, tmp_path):
    script = write_script(tmp_path / "script.json")
    script.write_text('{"seconds": 0, "unknown": 1}')
    done = run(command(data_root, script, cluster), tmp_path)
    assert done.returncode == 3
    assert "unknown" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ray-workers", "3"], "Fix: --ray-workers 2"),
        (["--ray-workers", "0"], "out of range"),
        (["--shard", "1/2"], "--shard belongs to --engine local"),
        (["--data-parallel", "2"], "--data-parallel belongs to --engine local"),
        (["--device", "cuda:1"], "--device belongs to --backend transformers"),
        (["--suite", "transfer-lmms"], "belongs to --engine ray"),
    ],
)
def test_what_cannot_work_is_said_first(cluster, data_root, script, tmp_path, options, message):
    words = command(data_root, script, cluster, *options)
    asks_the_cluster = "--ray-workers" in options  # in a process of its own: this one is connected already
    done = run(words, tmp_path) if asks_the_cluster else cli(*words, cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert message in done.stderr
    assert not (tmp_path / "runs").exists()


def test_an_address_where_nothing_listens(data_root, script, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        began = time.monotonic()
        done = run(command(data_root, script, address), tmp_path)
    assert done.returncode == 3
    assert f"No Ray cluster at {address}" in done.stderr
    assert time.monotonic() - began < 20


def test_ray_is_not_there(monkeypatch):
    config = resolve_eval_config({"model": "x", "data_root": Path()}, environ={})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[ray\]'"):
        RayEngine(config).check(config, find_suite("seedbench-r1"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "x", "device": "cuda:1"}, "leave out --device cuda:1"),
        ({"backend": "openai:m"}, "An API model needs no Ray"),
    ],
)
def test_settings_that_make_no_sense_with_it(options, message):
    config = resolve_eval_config({"data_root": Path(), "engine": "ray", **options}, environ={})
    with pytest.raises(ConfigError, match=message):
        RayEngine(config).check(config, find_suite("seedbench-r1"))


def test_the_pool_fits_the_cluster():
    def sized(n, resources, **options):
        config = resolve_eval_config({"model": "x", "data_root": Path(), **options}, environ={})
        pool = size_pool(config, n, resources)
        return pool.n, pool.gpus

    node = {"CPU": 64.0, "GPU": 8.0}
    assert sized(None, node) == (8, 1)
    assert sized(3, node) == (3, 1)
    assert sized(None, node, backend="vllm", tensor_parallel=4) == (2, 4)
    assert sized(None, node, device="cpu") == (1, 0)
    assert sized(None, node, backend="fake") == (1, 0)
    assert sized(None, {"CPU": 4.0}) == (1, 0)
    with pytest.raises(ConfigError, match="Fix: --ray-workers 8"):
        sized(9, node)
    with pytest.raises(ConfigError, match="after more machines have joined"):
        sized(None, {"CPU": 4.0}, device="cuda")


def test_an_inbox_is_iterated_again_after_it_was_empty():
    inbox = Inbox()
    inbox.put("a")
    assert inbox.wait()
    taken = list(inbox)
    inbox.put("b")
    taken += list(inbox)
    inbox.close()
    inbox.put("never")
    taken += list(inbox)
    assert taken == ["a", "b"]
    assert not inbox.wait()
    assert list(inbox) == []
