"""seedbench-r1 experiment: a recipe's trainings, measurements and comparison, carried out, shown and continued."""

from __future__ import annotations

import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seedbench_r1.cli import console
from seedbench_r1.cli.options import PlainJson
from seedbench_r1.cli.signals import draining_signals
from seedbench_r1.errors import ConfigError, IncompleteRun, Interrupted
from seedbench_r1.types import to_json

if TYPE_CHECKING:
    from seedbench_r1.experiments.folder import Folder
    from seedbench_r1.experiments.jobs import Job
    from seedbench_r1.experiments.recipe import Recipe

app = typer.Typer(help="Trainings with several variants and seeds, measured and compared.", no_args_is_help=True)

DRY_QUESTIONS, DRY_ROWS = 4, 64  # of the miniature, for a dry run
DRAINING = "Stopping: what runs saves and ends. Once more stops at once."
File = Annotated[
    Path, typer.Argument(metavar="FILE.toml", help="A recipe, or the name of one in the package.", show_default=False)
]
Out = Annotated[Path | None, typer.Option("--out", help="Everything is written here. Default: NAME-experiment.")]
Only = Annotated[str | None, typer.Option("--only", help="Some variants, joined by commas. Default: all.")]
Seeds = Annotated[str | None, typer.Option("--seeds", help="Some seeds, or others: 0,1,2. Default: the recipe's.")]
Rehearse = Annotated[
    bool,
    typer.Option(
        "--miniature", help="The recipe's commands on few rows of the miniature, from a tiny model, on this CPU."
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Another value than the recipe's. May be given again."),
]


@app.command("run")
def run_command(
    file: File,
    *,
    out: Out = None,
    only: Only = None,
    seeds: Seeds = None,
    jobs: Annotated[int | None, typer.Option("--jobs", help="At once. Default: the recipe's.", min=1)] = None,
    changes: Set = None,
    miniature: Rehearse = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, print the arithmetic, stop.")] = False,
) -> None:
    """Train, evaluate, judge and compare. The same command continues; any subset can be run, and the rest later.

    Exit codes: 0 done, 3 configuration, 4 data, 5 some jobs failed and the others are compared, 7 resources,
    130/143 interrupted.
    """
    from seedbench_r1.experiments import checks
    from seedbench_r1.experiments.driver import Driver, make_data, settled
    from seedbench_r1.experiments.folder import write_settings
    from seedbench_r1.experiments.jobs import jobs_of
    from seedbench_r1.experiments.launch import NO_SHARE, open_launcher, shares
    from seedbench_r1.experiments.report import write_report

    recipe, folder = _open(file, out, changes, miniature)
    planned = jobs_of(recipe, _names(only), _numbers(seeds))
    at_once = jobs or recipe.jobs
    checks.check_settings(recipe)
    if dry_run:
        folder.open(recipe, keep=())
        with tempfile.TemporaryDirectory() as scratch:
            # A rehearsal's files are in its folder, which here is another one.
            recipe, place = _open(file, folder.root, changes, miniature, Path(scratch))
            _dry_run(recipe, place, jobs_of(recipe, _names(only), _numbers(seeds)), at_once)
        return
    screen = console.err()

    def say(text: str) -> None:
        screen.print(f" {text}", soft_wrap=True)

    checks.check_launch(recipe)
    given = [NO_SHARE] * at_once
    if recipe.launch.slurm is None:
        # A rehearsal takes none of the GPUs that it is to precede.
        environ = {"CUDA_VISIBLE_DEVICES": ""} if miniature else None
        given = shares(at_once, recipe.launch.processes, environ, one_core=recipe.miniature is not None)
    with folder.locked(), draining_signals(DRAINING) as (stop, received):
        folder.open(recipe, keep=("data",))
        launcher = open_launcher(recipe.launch, folder.root / "submitit")
        make_data(recipe, folder, stop=stop, say=say)
        readable = settled(planned, folder, launcher, stop=stop, say=say)
        if received:
            raise Interrupted("Stopped by a signal before the first training. The same command continues.", received[0])
        write_settings(recipe, folder.settings, folder.data)
        checks.check_models(recipe, folder)
        found = checks.check_trainings(recipe, folder, readable, here=recipe.launch.slurm is None)
        checks.check_disk(folder, found, at_once)
        folder.open(recipe)
        steps = {one.job.name: one.steps for one in found}
        driver = Driver(recipe, folder, launcher, given, n_steps=steps, say=say)
        driver.run(planned, stop=stop)
    if received:
        left = ", ".join(driver.unfinished)
        raise Interrupted(f"Stopped by a signal; not done: {left}. The same command continues.", received[0])
    typer.echo(write_report(recipe, folder))
    if driver.failed:
        raise IncompleteRun(f"{', '.join(driver.failed)} failed; see {folder.logs}. The same command continues.")


def _dry_run(recipe: Recipe, folder: Folder, planned: list[Job], at_once: int) -> None:
    """Everything that can be looked at, and what it would take; writes nothing outside the folder's scratch."""
    from seedbench_r1.cli.experiment_results import print_arithmetic
    from seedbench_r1.experiments import checks
    from seedbench_r1.experiments.driver import make_data
    from seedbench_r1.experiments.folder import Folder, write_settings

    if recipe.miniature is not None and folder.scratch is not None:
        # Enough for a step; how many there are does not matter next to max_steps.
        few = replace(recipe.miniature, questions=DRY_QUESTIONS, rows=min(recipe.miniature.rows, DRY_ROWS))
        make_data(replace(recipe, miniature=few), Folder(folder.scratch), stop=threading.Event(), say=lambda text: None)
    write_settings(recipe, folder.settings, folder.data)
    checks.check_models(recipe, folder)
    found = checks.check_trainings(recipe, folder, planned, here=False)
    print_arithmetic(recipe, folder, found, at_once)
    checks.check_disk(folder, found, at_once)


@app.command("status")
def status_command(
    file: File, *, out: Out = None, changes: Set = None, miniature: Rehearse = False, as_json: PlainJson = False
) -> None:
    """How far each job is, and where its log is. Reads only; another process may be running the experiment."""
    from seedbench_r1.cli.experiment_results import print_states
    from seedbench_r1.experiments.report import all_jobs
    from seedbench_r1.experiments.states import state_of

    recipe, folder = _open(file, out, changes, miniature)
    found = [state_of(recipe, folder, job) for job in all_jobs(recipe, folder)]
    if as_json:
        console.print_json({"schema": "sbr1.experiment-status/1", "jobs": to_json(found)})
        return
    print_states(folder, found)


@app.command("report")
def report_command(file: File, *, out: Out = None, changes: Set = None, miniature: Rehearse = False) -> None:
    """The tables of all that is complete, on standard output and in experiment.md, and the page of its runs."""
    from seedbench_r1.experiments.report import write_report

    recipe, folder = _open(file, out, changes, miniature)
    typer.echo(write_report(recipe, folder))


def _open(
    file: Path, out: Path | None, changes: list[str] | None, miniature: bool, scratch: Path | None = None
) -> tuple[Recipe, Folder]:
    """The recipe, or its rehearsal, and where it is carried out."""
    from seedbench_r1.experiments.folder import Folder
    from seedbench_r1.experiments.recipe import read_recipe
    from seedbench_r1.experiments.rehearsal import on_miniature

    recipe = read_recipe(file, changes or ())
    name = f"{recipe.name}-miniature" if miniature else recipe.name
    # Absolute: the commands that were done are known by their words, from wherever they are looked at.
    folder = Folder((Path(f"{name}-experiment") if out is None else out).absolute(), scratch)
    return (on_miniature(recipe, folder) if miniature else recipe), folder


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(seed) for seed in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--seeds {text!r} is not understood. Give numbers: 0,1,2.") from error
