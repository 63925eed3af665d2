"""seedbench-r1 demo experiment: the paper's comparison in the miniature world, by commands that a user types."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from seedbench_r1.cli import console
from seedbench_r1.config import child_environment
from seedbench_r1.demo.models import newest_checkpoint, shipped_model
from seedbench_r1.errors import ConfigError
from seedbench_r1.files import make_folder, write_text, writing

DATA_SEED = 2  # other rows than those that the supervised start has seen, or on which the recipe was chosen

VARIANTS: dict[str, tuple[str, ...]] = {  # what each adds to the recipe of miniature.toml
    "sft": ("--algo", "sft", "--gradient-accumulation-steps", "8"),  # as many responses a step as the others' rollouts
    "grpo": ("--algo", "grpo"),
    "grpo-nokl": ("--preset", "grpo-nokl"),
    "care": ("--algo", "care"),
    "care-frozen": ("--algo", "care", "--reference", "frozen"),
    "care-no-margin": ("--algo", "care", "--bonus-margin", "0"),
}
# Run by default; care-no-margin, a question of its own, only when named.
COMPARED = ("sft", "grpo", "grpo-nokl", "care", "care-frozen")


@dataclass(frozen=True, slots=True)
class Job:
    """One model: the commands that make it, one after the other. Each of them continues what it finds."""

    name: str
    commands: tuple[tuple[str, ...], ...]


def experiment_command(
    out: Annotated[Path, typer.Option("--out", help="Everything is written here.")] = Path("miniature-experiment"),
    variants: Annotated[str, typer.Option(help="Some of " + ",".join(VARIANTS) + ".")] = ",".join(COMPARED),
    seeds: Annotated[str, typer.Option(help="One training each.")] = "0,1,2",
    start: Annotated[
        Path | None, typer.Option(help="Checkpoint to start from. Default: the supervised one in the package.")
    ] = None,
    questions: Annotated[int, typer.Option(help="Of each level.", min=1)] = 300,
    rows: Annotated[int, typer.Option(help="Training rows, and as many traces.", min=1)] = 2400,
    steps: Annotated[int | None, typer.Option(help="Of each training; default: the recipe's.", min=1)] = None,
    jobs: Annotated[int, typer.Option(help="Trainings at once, each with its share of the cores.", min=1)] = 2,
) -> None:
    """Train every variant from one start with every seed; evaluate, judge and compare them.

    Any subset can be run or run again: the same command continues where it stopped.
    """
    from seedbench_r1.demo.settings import CONFIG

    names, numbers = _chosen(variants, seeds)
    start = start or shipped_model("sft")
    data = out / "data"
    screen = console.err()
    config = data / CONFIG
    # Its last file: without it the benchmark is incomplete and is written again.
    if not config.exists():
        generate = ("demo", "generate", "--out", str(data), "--questions", str(questions), "--seed", str(DATA_SEED))
        _run((*generate, "--train", str(rows), "--traces", str(rows)), out / "logs" / "generate.log")
    # The start is measured too: what training adds is the difference to it.
    planned = [Job("start", _measuring(out, config, start, "start"))]
    planned += [_job(out, config, start, variant, seed, steps) for seed in numbers for variant in names]
    failed = []
    # Threads only wait here; each training is a process of its own.
    with ThreadPoolExecutor(jobs) as pool:
        for job, problem in zip(planned, pool.map(lambda job: _attempt(job, out, jobs), planned), strict=True):
            screen.print(f" {job.name}: {problem or 'done'}", soft_wrap=True)
            failed += [job.name] if problem else []
    if failed:
        raise ConfigError(f"{', '.join(failed)} failed; see {out / 'logs'}. The same command continues.")
    # All runs in the folder, also those of variants of earlier calls.
    runs = sorted(str(path.parent) for path in (out / "runs").glob("*/manifest.json"))
    page = ("leaderboard", "build", *runs, "-o", str(out / "leaderboard.html"))
    _run((*page, "--baseline", "start", "--judge", "miniature/v1", "--no-published"), out / "logs" / "leaderboard.log")
    _print_table(out, names, numbers)


def _chosen(variants: str, seeds: str) -> tuple[list[str], list[int]]:
    names = [name.strip() for name in variants.split(",") if name.strip()]
    if unknown := [name for name in names if name not in VARIANTS]:
        raise ConfigError(f"No variant {unknown[0]!r}. There are: {', '.join(VARIANTS)}.")
    try:
        return names, [int(seed) for seed in seeds.split(",")]
    except ValueError as error:
        raise ConfigError(f"--seeds {seeds!r} is not understood. Give numbers: 0,1,2.") from error


def _job(out: Path, config: Path, start: Path, variant: str, seed: int, steps: int | None) -> Job:
    name = f"{variant}-seed{seed}"
    folder = out / "trainings" / name
    train = ["train", "--config", str(config), "--model", str(start), "--out", str(folder), *VARIANTS[variant]]
    train += ["--seed", str(seed), "--workers", "1", *(("--max-steps", str(steps)) if steps else ())]
    return Job(name, (tuple(train), *_measuring(out, config, folder, name)))


def _measuring(out: Path, config: Path, model: Path, name: str) -> tuple[tuple[str, ...], ...]:
    """Evaluate and judge; of a folder of checkpoints, the newest."""
    run = out / "runs" / name
    where = ("--runs-dir", str(out / "runs"), "--run-name", name)
    return (
        # Judged twice: the exact judge gives the result, the rules judge shows how far heuristics get.
        ("eval", "--config", str(config), "--data-root", str(config.parent), "--model", str(model), *where),
        ("judge", str(run), "--judge", "miniature"),
        ("judge", str(run), "--judge", "rules"),
    )


def _attempt(job: Job, out: Path, jobs: int) -> str | None:
    """What went wrong, or None."""
    log = out / "logs" / f"{job.name}.log"
    try:
        for command in job.commands:
            _run(command, log, threads=max(1, (os.cpu_count() or 1) // jobs))
    except subprocess.CalledProcessError as error:
        return f"exit code {error.returncode}, see {log}"
    return None


def _run(command: Sequence[str], log: Path, *, threads: int | None = None) -> None:
    """Run a command of ours with its output in `log`. Raises CalledProcessError."""
    make_folder(log.parent)
    # Looked up when the command runs: the training that writes the checkpoint comes before it.
    words = list(command)
    if "--model" in command:
        place = command.index("--model") + 1
        words[place] = str(newest_checkpoint(Path(command[place])))
    options = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    with writing(log), log.open("a", encoding="utf-8") as stream:
        stream.write(f"$ seedbench-r1 {' '.join(words)}\n")
        stream.flush()
        # Not the installed script: the same interpreter and the same copy of the package.
        code = "from seedbench_r1.cli.app import main; main()"
        arguments = [sys.executable, "-c", code, *words]
        environment = child_environment(options)
        subprocess.run(
            arguments, check=True, env=environment, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT
        )


def _print_table(out: Path, variants: list[str], seeds: list[int]) -> None:
    """The experiment's tables on standard output and in experiment.md."""
    from seedbench_r1.demo import rollout_log
    from seedbench_r1.demo.comparison import markdown, measure

    measured = {"start": [measure(out / "runs" / "start")]}
    for variant in variants:
        measured[variant] = [measure(out / "runs" / f"{variant}-seed{seed}") for seed in seeds]
    trainings = {variant: [out / "trainings" / f"{variant}-seed{seed}" for seed in seeds] for variant in variants}
    text = "\n".join(table for table in (markdown(measured), rollout_log.markdown(trainings)) if table)
    write_text(out / "experiment.md", text)
    typer.echo(text)
