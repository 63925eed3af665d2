"""The scripts of docs/scale.md, cut out of the page and run, with Slurm's commands replaced by small scripts."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from seedbench_r1.runs.directory import load_run
from tests.small_benchmark import write_script

PAGE = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")
EVAL = f'#!/bin/sh\nexec "{sys.executable}" -c "from seedbench_r1.cli.app import main; main()" "$@"\n'
COMMANDS = {
    "seedbench-r1": EVAL,
    "srun": '#!/bin/sh\nexec "$@"\n',
    "scontrol": '#!/bin/sh\necho "$@" >> scontrol.log\n',
    "torchrun": f'#!/bin/sh\nexec "{sys.executable}" -m torch.distributed.run "$@"\n',
}


def block(containing: str) -> str:
    """The one shell block of the page that contains this text."""
    (found,) = [text for text in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) if containing in text]
    return found


@pytest.fixture
def site(data_root, tmp_path) -> Path:
    """A working directory where the page's scripts run with the fake backend."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in COMMANDS.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (tmp_path / "seedbench-r1.toml").write_text('[eval]\nbackend = "fake"\nworkers = 1\n')
    return tmp_path


def environment(site: Path, data_root: Path, seconds: float = 0.0, **more: str) -> dict[str, str]:
    script = write_script(site / "script.json", seconds=seconds)
    own = {"MODEL": str(script), "RUNS": str(site / "runs"), "SBR1_DATA_ROOT": str(data_root)}
    return os.environ | {"PATH": f"{site / 'bin'}:{os.environ['PATH']}"} | own | more


def shell(name: str, site: Path, env: dict[str, str]) -> subprocess.Popen:
    return subprocess.Popen(
        ["bash", name], cwd=site, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def is_complete(site: Path, n_shards: int) -> bool:
    (path,) = (site / "runs").iterdir()
    assert {file.name for file in path.glob("records*")} == {
        f"records.{i + 1}-of-{n_shards}.jsonl" for i in range(n_shards)
    }
    asked = [line for file in path.glob("records*") for line in file.read_text().splitlines()]
    assert len(asked) == len(load_run(path).questions), "a question was asked twice"
    return json.loads((path / "summary.json").read_text())["status"] == "complete"


def slurm_script(site: Path, n: int) -> None:
    """The page's script with n tasks instead of 8."""
    text = block("#SBATCH --array")
    assert "#SBATCH --array=1-8\n" in text
    assert '--shard "$SLURM_ARRAY_TASK_ID/8"' in text
    options = ("--workers 6", "--workers 1")  # two cores are enough for one decoder each
    (site / "eval.sbatch").write_text(text.replace("TASK_ID/8", f"TASK_ID/{n}").replace(*options))


def test_the_array_answers_everything(site, data_root):
    slurm_script(site, 2)
    env = environment(site, data_root)
    tasks = [shell("eval.sbatch", site, env | {"SLURM_ARRAY_TASK_ID": str(i), "SLURM_JOB_ID": "7"}) for i in (1, 2)]
    for task in tasks:
        _, err = task.communicate(timeout=120)
        assert task.returncode == 0, err
    assert is_complete(site, 2)
    assert not (site / "scontrol.log").exists()


def test_a_warned_task_requeues_itself_and_goes_on(site, data_root):
    slurm_script(site, 1)
    env = environment(site, data_root, seconds=0.2, SLURM_ARRAY_TASK_ID="1", SLURM_JOB_ID="4711")
    task = shell("eval.sbatch", site, env)
    records = wait_for_records(site, 3)
    for process in reversed(psutil.Process(task.pid).children(recursive=True)):
        process.send_signal(signal.SIGUSR1)  # Slurm may warn every process of the step: eval's decoders, then eval
    _, err = task.communicate(timeout=120)
    assert task.returncode == 138, err
    assert (site / "scontrol.log").read_text() == "requeue 4711\n"
    answered = [json.loads(line) for line in records.read_text().splitlines()]
    assert 3 <= len(answered) < 28
    assert all("score" in record for record in answered), "a decoder was ended by the warning"
    again = shell("eval.sbatch", site, env)
    _, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert f"{len(answered)} of 28 done" in err
    assert is_complete(site, 1)
    assert (site / "scontrol.log").read_text() == "requeue 4711\n"


def test_a_broken_task_is_not_requeued(site, data_root):
    slurm_script(site, 1)
    env = environment(site, data_root, SLURM_ARRAY_TASK_ID="2", SLURM_JOB_ID="1")  # shard 2/1
    task = shell("eval.sbatch", site, env)
    task.communicate(timeout=120)
    assert task.returncode == 3
    assert not (site / "scontrol.log").exists()


def test_torchrun_starts_the_shards(site, data_root):
    (site / "shard.sh").write_text(block("$WORLD_SIZE"))
    (command,) = block("torchrun --signals").splitlines()
    assert "--nproc-per-node 8 " in command
    (site / "launch.sh").write_text(command.replace("--nproc-per-node 8 ", "--nproc-per-node 2 "))
    env = environment(site, data_root, OMP_NUM_THREADS="1")
    launched = shell("launch.sh", site, env)
    _, err = launched.communicate(timeout=120)
    assert launched.returncode == 0, err
    assert is_complete(site, 2)


def test_the_loop_on_one_machine(site, data_root):
    text = block("for i in 1 2 3 4")
    assert text.count("$i/4") == 1
    (site / "loop.sh").write_text(text.replace("1 2 3 4", "1 2").replace("$i/4", "$i/2"))
    done = shell("loop.sh", site, environment(site, data_root))
    _, err = done.communicate(timeout=120)
    assert done.returncode == 0, err
    assert is_complete(site, 2)


def wait_for_records(site: Path, n: int) -> Path:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for file in site.glob("runs/*/records.1-of-1.jsonl"):
            if file.read_bytes().count(b"\n") >= n:
                return file
        time.sleep(0.02)
    raise AssertionError(f"no {n} records within 120 s")
