"""Experiments carried out by real processes: stopped, killed, on a disk that is full, with a model that fails."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from seedbench_r1.demo.dataset_writer import write_benchmark
from seedbench_r1.experiments.comparison import measure
from tests.command import RUN, cli
from tests.small_benchmark import write_script
from tests.waiting import wait_until

TINY = """
[data.miniature]
questions = 4
rows = 16

[models]
start = "demo:sft"

[train]
max_steps = 3
save_steps = 1
per_device_train_batch_size = 2
workers = 1

[variants.grpo]
algo = "grpo"

[[judges]]
judge = "miniature"

[[judges]]
judge = "rules"
"""
DISK = (
    "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, resource.RLIM_INFINITY));"
    "from seedbench_r1.cli.app import main; main()"
)


def tables(folder: Path) -> list[str]:
    text = (folder / "experiment.md").read_text()
    return [line for line in text.splitlines() if line.startswith("|")]


def kill_everything(process: subprocess.Popen) -> None:
    """As when the power goes: the driver, and all that it has started."""
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    for child in children:
        if child.is_running():
            child.kill()


def start(file: Path, out: Path, *words: str) -> subprocess.Popen:
    command = [*RUN, "experiment", "run", file, "--out", out, "--seeds", "0", *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=out.parent)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """The folder of an experiment that nothing has disturbed; its recipe next to it."""
    root = tmp_path_factory.mktemp("undisturbed")
    (root / "tiny.toml").write_text(TINY)
    done = cli("experiment", "run", "tiny.toml", "--seeds", "0", cwd=root)
    assert done.returncode == 0, done.stderr
    assert (root / "tiny-experiment" / "experiment.md").read_text() in done.stdout
    return root / "tiny-experiment"


def test_an_experiment_leaves_its_tables_and_a_page(undisturbed):
    assert any(line.startswith("| grpo | 1 |") for line in tables(undisturbed))
    page = (undisturbed / "leaderboard.html").read_text()
    assert "grpo-seed0" in page
    assert "curve" in page
    log = (undisturbed / "logs" / "grpo-seed0.log").read_text()
    assert [line.split()[2] for line in log.splitlines() if line.startswith("$ ")] == [
        "train",
        "eval",
        "judge",
        "judge",
    ]


def test_its_states_and_its_report_again(undisturbed):
    file, out = undisturbed.parent / "tiny.toml", undisturbed
    said = cli("experiment", "status", file, "--out", out, cwd=out)
    assert ["grpo-seed0", "done", "grpo-seed0.log"] in [line.split() for line in said.stdout.splitlines()]
    listed = json.loads(cli("experiment", "status", file, "--out", out, "--json", cwd=out).stdout)["jobs"]
    # 42: the recipe's own seed
    assert [(one["job"], one["state"]) for one in listed] == [
        ("start", "done"),
        ("grpo-seed42", "waiting"),
        ("grpo-seed0", "done"),
    ]
    before = tables(out)
    again = cli("experiment", "report", file, "--out", out, cwd=out)
    assert again.returncode == 0
    assert "Not measured yet: grpo-seed42." in again.stdout
    assert tables(out) == before


def test_a_full_disk_and_a_kill_in_the_middle_give_the_same_tables(undisturbed, tmp_path):
    file, out = undisturbed.parent / "tiny.toml", tmp_path / "out"
    words = ["experiment", "run", file, "--out", out, "--seeds", "0"]
    full = subprocess.run([sys.executable, "-c", DISK, *words], capture_output=True, text=True, cwd=tmp_path)
    assert full.returncode == 5, full.stderr
    assert "grpo-seed0: train ended with exit code 7" in full.stderr
    assert "cannot be written" in (out / "logs" / "grpo-seed0.log").read_text()
    assert [line for line in tables(out) if line.startswith("| start")] == [
        line for line in tables(undisturbed) if line.startswith("| start")
    ]
    assert json.loads((out / "jobs" / "grpo-seed0.json").read_text())["failed"]
    process = start(file, out)
    wait_until(lambda: list(out.glob("trainings/grpo-seed0/checkpoint-*")))
    process.kill()  # alone: what it has started ends by itself, or is waited for
    process.wait()
    done = cli("experiment", "run", file, "--out", out, "--seeds", "0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert tables(out) == tables(undisturbed)


@pytest.mark.slow
def test_killed_at_five_random_moments_it_gives_the_same_tables(undisturbed, tmp_path):
    file, out, rng = undisturbed.parent / "tiny.toml", tmp_path / "out", random.Random(7)
    for number in range(5):
        process = start(file, out, "--jobs", "2")
        time.sleep(rng.uniform(3, 12))
        if process.poll() is None and number % 2:
            process.kill()
            process.wait()
        elif process.poll() is None:
            kill_everything(process)
    done = cli("experiment", "run", file, "--out", out, "--seeds", "0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert tables(out) == tables(undisturbed)


def test_ctrl_c_and_a_second_driver(undisturbed, tmp_path):
    file, out = undisturbed.parent / "tiny.toml", tmp_path / "out"
    process = start(file, out)
    wait_until(lambda: (out / "jobs").is_dir())
    second = cli("experiment", "run", file, "--out", out, "--seeds", "0", cwd=tmp_path)
    assert (second.returncode, f"(pid {process.pid})" in second.stderr) == (3, True)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130


def write_scripts(root: Path, benchmark: Path, extra: str = "") -> Path:
    """A recipe of two models that answer from scripts, and of which one cannot answer a question."""
    good = write_script(root / "good.json")
    bad = write_script(root / "bad.json", **{"L1/0": {"failure": "no answer"}})
    (root / "scripts.toml").write_text(
        f'baseline = "good"\n[models]\ngood = "{good}"\nbad = "{bad}"\n[eval]\nbackend = "fake"\n'
        f'data_root = "{benchmark}"\n[suites.short]\nlevels = ["L1"]\n[[judges]]\njudge = "rules"\n{extra}'
    )
    return root / "scripts.toml"


def test_several_samples_of_each_question(tmp_path):
    recipe = """
    [data.miniature]
    questions = 4
    rows = 8
    [models]
    care = "demo:care"
    [eval]
    samples = 2
    [[judges]]
    judge = "miniature"
    [[judges]]
    judge = "rules"
    [[probes]]
    probes = "forced"
    """
    (tmp_path / "samples.toml").write_text(recipe)
    done = cli("experiment", "run", "samples.toml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "samples-experiment"
    care = folder / "runs" / "seedbench-r1" / "care"
    judges = [{"judge": "miniature"}, {"judge": "rules"}]
    single = [measure(care / f"seed-{seed}", judges, miniature=True) for seed in (0, 1)]
    both = measure(care, judges, miniature=True)
    for name, values in both.values.items():
        assert values.tolist() == ((single[0].values[name] + single[1].values[name]) / 2).tolist()
    assert f"| care | 1 | {100 * both.values['accuracy'][both.splits == 'L1'].mean():.1f} [" in done.stdout
    assert "probes.jsonl" in {path.name for path in (care / "seed-1").iterdir()}
    assert "maj@2" in (folder / "leaderboard.html").read_text()
    # A sample that is lost takes the run out of the tables, and says so.
    shutil.rmtree(care / "seed-1")
    report = cli("experiment", "report", "samples.toml", cwd=tmp_path)
    assert "Not in the tables: care:" in report.stdout


def test_a_model_that_fails_is_named_and_the_others_are_compared(data_root, tmp_path):
    file = write_scripts(tmp_path, data_root)
    done = cli("experiment", "run", file, "--jobs", "2", cwd=tmp_path)
    assert done.returncode == 5, done.stderr
    out = tmp_path / "scripts-experiment"
    assert f"bad: eval ended with exit code 5, see {out / 'logs' / 'bad.log'}" in done.stderr
    assert "| good | 1 |" in done.stdout
    assert "Not in the tables: bad: " in done.stdout
    status = cli("experiment", "status", file, cwd=tmp_path)
    assert ["bad", "failed", "eval", "11", "of", "12", "bad.log"] in [
        line.split() for line in status.stdout.splitlines()
    ]
    assert max(map(len, status.stdout.splitlines()[:3])) <= 80
    (tmp_path / "bad.json").write_text((tmp_path / "good.json").read_text())
    assert out.is_dir()


def test_jobs_of_slurm_by_submitits_own_local_executor(data_root, tmp_path):
    pytest.importorskip("submitit")
    extra = '[launch]\ncluster = "local"\nslurm = {timeout_min = 10}\n'
    file = write_scripts(tmp_path, data_root, extra)
    done = cli("experiment", "run", file, cwd=tmp_path)
    assert done.returncode == 5, done.stderr
    assert "| good | 1 |" in done.stdout
    assert list((tmp_path / "scripts-experiment" / "submitit").glob("*_result.pkl"))
    assert "$ seedbench-r1 eval" in (tmp_path / "scripts-experiment" / "logs" / "good.log").read_text()


def test_what_a_dry_run_refuses_is_refused_before_anything_starts(tmp_path):
    write_benchmark(tmp_path / "data", questions={"L1": 2}, frame_size=(64, 64), fps=8, seconds=1.0, train=2)
    (tmp_path / "bad.py").write_text("def raises(question, completion):\n    raise ValueError('no')\n")
    text = (
        '[models]\nstart = "demo:sft"\n[train]\ndata = "data"\n[eval]\ndata_root = "data"\nlevels = "L1"\n'
        '[variants.care]\nalgo = "care"\n[variants.other]\nalgo = "{}"\n'
    )
    file, out = tmp_path / "two.toml", tmp_path / "two-experiment"
    # A reward of one's own that raises, rows that are not there, and a model that is not.
    for last, changes, code, line, said in (
        (
            "care",
            ["--set", f"variants.other.reward=['{tmp_path}/bad.py:raises']"],
            3,
            None,
            "--set variants.other.reward: ",
        ),
        ("sft", [], 4, 10, "variant other: No training file at"),
        ("care", ["--set", "suites.none.levels=L2"], 4, None, "suite none: "),
        ("care", ["--set", f"models.start={tmp_path}/none"], 3, None, "none"),
    ):
        file.write_text(text.format(last))
        for more in ([], ["--dry-run"]):
            done = cli("experiment", "run", file, *changes, *more, cwd=tmp_path)
            assert done.returncode == code, done.stderr
            assert said in done.stderr
            assert line is None or f"{file}:{line}: " in done.stderr
            assert not any((out / name).exists() for name in ("logs", "runs", "trainings"))
