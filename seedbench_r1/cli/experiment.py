"""seedbench-r1 experiment: a recipe's trainings, measurements and comparison, carried out, shown and continued."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seedbench_r1.cli import console
from seedbench_r1.cli.options import PlainJson
from seedbench_r1.cli.signals import draining_signals
from seedbench_r1.errors import ConfigError, IncompleteRun, Interrupted
from seedbench_r1.experiments.driver import Driver, make_data
from seedbench_r1.experiments.folder import Folder
from seedbench_r1.experiments.jobs import jobs_of
from seedbench_r1.experiments.launch import open_launcher, shares
from seedbench_r1.experiments.recipe import Recipe, read_recipe
from seedbench_r1.types import to_json

app = typer.Typer(help="Trainings with several variants and seeds, measured and compared.", no_args_is_help=True)

DRAINING = "Stopping: what runs saves and ends. Once more stops at once."
File = Annotated[
    Path, typer.Argument(metavar="FILE.toml", help="A recipe, or the name of one in the package.", show_default=False)
]
Out = Annotated[Path | None, typer.Option("--out", help="Everything is written here. Default: NAME-experiment.")]
Only = Annotated[str | None, typer.Option("--only", help="Some variants, joined by commas. Default: all.")]
Seeds = Annotated[str | None, typer.Option("--seeds", help="Some seeds, or others: 0,1,2. Default: the recipe's.")]
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, print the arithmetic, stop.")] = False,
) -> None:
    """Train, evaluate, judge and compare. The same command continues; any subset can be run, and the rest later.

    Exit codes: 0 done, 3 configuration, 4 data, 5 some jobs failed and the others are compared, 7 resources,
    130/143 interrupted.
    """
    from seedbench_r1.experiments.checks import check_data, check_disk, check_settings
    from seedbench_r1.experiments.report import write_report

    recipe = read_recipe(file, changes or ())
    planned = jobs_of(recipe, _names(only), _numbers(seeds))
    folder, at_once = _folder(recipe, out), jobs or recipe.jobs
    screen = console.err()

    def say(text: str) -> None:
        screen.print(f" {text}", soft_wrap=True)

    check_settings(recipe)
    given = shares(at_once, recipe.launch.processes)
    launcher = open_launcher(recipe.launch, folder.root / "submitit")
    with folder.locked(), draining_signals(DRAINING) as (stop, received):
        folder.open(recipe)
        make_data(recipe, folder, stop=stop, say=say)
        if received:
            raise Interrupted("Stopped by a signal before the first training. The same command continues.", received[0])
        found = check_data(recipe, folder, planned, here=recipe.launch.slurm is None and not dry_run)
        check_disk(folder, found, at_once)
        driver = Driver(recipe, folder, launcher, given, n_steps={one.job: one.steps for one in found}, say=say)
        driver.run(planned, stop=stop)
    if received:
        left = ", ".join(driver.unfinished)
        raise Interrupted(f"Stopped by a signal; not done: {left}. The same command continues.", received[0])
    typer.echo(write_report(recipe, folder))
    if driver.failed:
        raise IncompleteRun(f"{', '.join(driver.failed)} failed; see {folder.logs}. The same command continues.")


@app.command("status")
def status_command(file: File, *, out: Out = None, changes: Set = None, as_json: PlainJson = False) -> None:
    """How far each job is, and where its log is. Reads only; another process may be running the experiment."""
    from seedbench_r1.experiments.report import all_jobs
    from seedbench_r1.experiments.states import state_of

    recipe = read_recipe(file, changes or ())
    folder = _folder(recipe, out)
    found = [state_of(recipe, folder, job) for job in all_jobs(recipe, folder)]
    if as_json:
        typer.echo(console.json_text({"schema": "sbr1.experiment-status/1", "jobs": to_json(found)}))
        return
    table = console.table(["job", "state", "", "log"], [])
    for one in found:
        share = f"{one.done} of {one.total}" if one.total is not None else ""
        table.add_row(one.job, one.state, f"{one.doing} {share}".strip(), one.log.name)
    screen = console.out()
    screen.print(table)
    screen.print(f" logs in {folder.logs}", soft_wrap=True)
    for one in (one for one in found if one.why):
        screen.print(f" {one.job}: {one.why}", soft_wrap=True)


@app.command("report")
def report_command(file: File, *, out: Out = None, changes: Set = None) -> None:
    """The tables of all that is complete, on standard output and in experiment.md, and the page of its runs."""
    from seedbench_r1.experiments.report import write_report

    recipe = read_recipe(file, changes or ())
    typer.echo(write_report(recipe, _folder(recipe, out)))


def _folder(recipe: Recipe, out: Path | None) -> Folder:
    return Folder(Path(f"{recipe.name}-experiment") if out is None else out)


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(seed) for seed in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--seeds {text!r} is not understood. Give numbers: 0,1,2.") from error
