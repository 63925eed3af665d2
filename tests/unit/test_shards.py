"""Data parallelism: real children, real signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from seedbench_r1.engines.shards import launch_shards, plan_shards, worst_exit_code
from seedbench_r1.errors import ConfigError
from seedbench_r1.runs.directory import load_run
from tests.command import RUN
from tests.small_benchmark import write_script
from tests.waiting import wait_for_records, wait_until


@pytest.mark.parametrize(
    ("n", "each", "visible", "expected"),
    [
        (2, 1, None, ["0", "1"]),
        (2, 2, None, ["0,1", "2,3"]),
        (2, 2, "4,5,6,7", ["4,5", "6,7"]),
        (3, 1, "GPU-aa, GPU-bb ,MIG-cc", ["GPU-aa", "GPU-bb", "MIG-cc"]),
        (1, 1, "7,3", ["7"]),
        (2, 0, None, [None, None]),
        (2, 0, "1", ["1", "1"]),
    ],
)
def test_devices_are_divided(n, each, visible, expected):
    environ = {"HOME": "/h"} | ({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    shards = plan_shards(["run", "it"], n, gpus_per_shard=each, environ=environ)
    assert [shard.environ.get("CUDA_VISIBLE_DEVICES") for shard in shards] == expected
    assert [shard.command for shard in shards] == [["run", "it", "--shard", f"{i}/{n}"] for i in range(1, n + 1)]
    assert all(shard.environ["HOME"] == "/h" for shard in shards)


@pytest.mark.parametrize(
    ("n", "each", "visible", "message"),
    [
        (4, 2, "0,1,2", "needs 8.*names 3.*data-parallel 1"),
        (1, 1, "", "names 0.*Fix: --data-parallel 1 --device cpu"),
        (0, 1, None, "at least 1"),
    ],
)
def test_too_few_devices(n, each, visible, message):
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    with pytest.raises(ConfigError, match=message):
        plan_shards([], n, gpus_per_shard=each, environ=environ)


@pytest.mark.parametrize(
    ("codes", "worst"), [([], 0), ([0, 0], 0), ([0, 5], 5), ([5, 3], 3), ([1, 5], 1), ([130, 1], 130), ([-9, 5], 137)]
)
def test_the_worst_code(codes, worst):
    assert worst_exit_code(codes) == worst


def test_a_failing_child_stops_no_other(tmp_path):
    """Shard 2 fails at once; the others write their file half a second later."""
    script = (
        "import sys, time, pathlib; i = sys.argv[-1].split('/')[0]\n"
        "if i == '2': sys.exit(4)\n"
        f"time.sleep(0.5); pathlib.Path({str(tmp_path)!r}, i).touch()"
    )
    assert launch_shards([sys.executable, "-c", script], 3, gpus_per_shard=0, environ=os.environ) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "3"]


def evaluation(data_root, folder, seconds):
    script = write_script(folder / "script.json", seconds=seconds)
    options = ["eval", "--quiet", "--data-root", str(data_root), "--runs-dir", str(folder / "runs")]
    options += ["--workers", "1"]
    return [*RUN, *options, "--backend", "fake", "--model", str(script)]


def test_shards_answer_every_question_once(data_root, tmp_path):
    command = evaluation(data_root, tmp_path, seconds=0.0)
    assert launch_shards(command, 3, gpus_per_shard=0, environ=os.environ) == 0
    (path,) = (tmp_path / "runs").iterdir()
    loaded = load_run(path)
    assert loaded.records.keys() == loaded.questions.keys()
    files = sorted(path.glob("records*.jsonl"))
    assert [file.name for file in files] == [f"records.{i}-of-3.jsonl" for i in (1, 2, 3)]
    lines = [json.loads(line)["question_id"] for file in files for line in file.read_text().splitlines()]
    assert sorted(lines) == sorted(loaded.questions)
    assert all(file.read_text() for file in files)


def test_a_signal_is_passed_on_once_and_the_run_continues(data_root, tmp_path):
    command = evaluation(data_root, tmp_path, seconds=0.2)
    stop = threading.Event()

    def interrupt():
        wait_for_records(tmp_path / "runs", 2)
        stop.set()

    threading.Thread(target=interrupt).start()
    assert launch_shards(command, 2, gpus_per_shard=0, environ=os.environ, stop=stop) == 128 + signal.SIGTERM
    (path,) = (tmp_path / "runs").iterdir()
    loaded = load_run(path)
    assert 2 <= len(loaded.records) < len(loaded.questions)
    assert launch_shards(command, 2, gpus_per_shard=0, environ=os.environ) == 0
    assert load_run(path).records.keys() == loaded.questions.keys()


COUNTING = """
import os, pathlib, signal, time
end = time.monotonic() + 120

def count(*_):
    global end
    os.write(1, b"signal\\n")
    end = min(end, time.monotonic() + 1.5)  # time for a second one

signal.signal(signal.SIGINT, count)
signal.signal(signal.SIGTERM, count)
os.write(1, b"ready\\n")
if "READY" in os.environ:
    pathlib.Path(os.environ["READY"], str(os.getpid())).touch()
while time.monotonic() < end:
    time.sleep(0.1)
"""
PARENT = f"""
import os, sys
from seedbench_r1.engines.shards import launch_shards
launch_shards([sys.executable, "-c", {COUNTING!r}], 2, gpus_per_shard=0, environ=os.environ)
"""


def test_a_stop_is_passed_on_once(capfd, tmp_path):
    stop = threading.Event()

    def interrupt():
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2)  # without its handler the signal would end a child
        stop.set()

    threading.Thread(target=interrupt, daemon=True).start()
    command, environ = [sys.executable, "-c", COUNTING], os.environ | {"READY": str(tmp_path)}
    assert launch_shards(command, 2, gpus_per_shard=0, environ=environ, stop=stop) == 0
    assert sorted(capfd.readouterr().out.split()) == ["ready"] * 2 + ["signal"] * 2


def test_ctrl_c_reaches_every_child_once():
    """A terminal sends it to the whole process group; a second one would make `eval` drop what is in flight."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert stdout.split() == ["signal"] * 2
    assert stderr.rstrip().endswith("KeyboardInterrupt")
