"""seedbench-r1 import: other evaluators' result files become a run directory."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seedbench_r1.errors import IncompleteRun

if TYPE_CHECKING:
    from seedbench_r1.runs.imports import ImportedFile, ImportReport

app = typer.Typer(help="Other evaluators' results become a run directory.", no_args_is_help=True)

Files = Annotated[list[Path], typer.Argument(help="Result files, one or more levels.", show_default=False)]
Root = Annotated[Path | None, typer.Option("--data-root", help="Its annotations give N.", show_default=False)]
Level = Annotated[str | None, typer.Option("--level", help="If the file's name does not say.", show_default=False)]
Name = Annotated[str | None, typer.Option("--model-name", help="Default: the file's folder.", show_default=False)]
RunName = Annotated[str | None, typer.Option("--run-name", help="Name of the run directory.", show_default=False)]
RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Where run directories go.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]


@app.command("grpo-care")
def grpo_care_command(
    files: Files,
    data_root: Root = None,
    level: Level = None,
    model_name: Name = None,
    run_name: RunName = None,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Import eval_16frames_seed_bench_r1_L1_results.json and the like, by sample id. Exit 5 if answers are missing."""
    from seedbench_r1.runs.imports import read_grpo_care

    read = [read_grpo_care(path, level) for path in files]
    _import(read, "grpo-care", (data_root, runs_dir), (model_name, run_name), as_json=as_json)


@app.command("lmms-eval")
def lmms_eval_command(
    files: Files,
    data_root: Root = None,
    level: Level = None,
    model_name: Name = None,
    run_name: RunName = None,
    runs_dir: RunsDir = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Import <date>_samples_<task>.jsonl of SEED-Bench-R1 tasks. Exit 5 if answers are missing."""
    from seedbench_r1.runs.imports import read_lmms_eval

    read = [read_lmms_eval(path, level) for path in files]
    _import(read, "lmms-eval", (data_root, runs_dir), (model_name, run_name), as_json=as_json)


def _import(
    read: list[ImportedFile],
    source: str,
    folders: tuple[Path | None, Path],
    names: tuple[str | None, str | None],
    *,
    as_json: bool,
) -> None:
    from seedbench_r1.config import find_data_root
    from seedbench_r1.runs.imports import import_files
    from seedbench_r1.types import to_json

    data_root, runs_dir = folders
    model_name, run_name = names
    report = import_files(
        read,
        find_data_root(data_root),
        runs_dir,
        source=source,
        model_name=model_name or read[0].path.absolute().parent.name,
        run_name=run_name,
        command=shlex.join(["seedbench-r1", *sys.argv[1:]]),
    )
    if as_json:
        typer.echo(json.dumps({"schema": "sbr1.import/1", **to_json(report)}, ensure_ascii=False))
    else:
        _print(report, source)
    missing = sum(len(ids) for ids in report.gaps.values())
    if missing:
        raise IncompleteRun(f"{missing} questions have no answer in these files: the run is INCOMPLETE, not ranked.")


def _print(report: ImportReport, source: str) -> None:
    from seedbench_r1.cli import console

    screen = console.out()
    for level, group in report.summary.splits.items():
        screen.print(
            f" {level}  {group.answered}/{group.n} answered, correct {group.correct} by our rules, "
            f"{group.strict_correct} by the strict rule",
            soft_wrap=True,
        )
    if source == "grpo-care":
        screen.print(f" the files claim {report.claimed_correct} correct", soft_wrap=True)
        if report.claim_differs:
            some = console.printable(", ".join(report.claim_differs[:5]))
            screen.print(
                f" {len(report.claim_differs)} claims differ from the strict rule, e.g. {some}", soft_wrap=True
            )
    if report.duplicates:
        some = console.printable(", ".join(report.duplicates[:5]))
        screen.print(f" {len(report.duplicates)} answers are repeated (the first counts), e.g. {some}", soft_wrap=True)
    for level, ids in report.gaps.items():
        screen.print(f" {level}: {len(ids)} questions without an answer, e.g. {', '.join(ids[:5])}", soft_wrap=True)
    screen.print(f" saved {report.run_path}", soft_wrap=True)
