"""seedbench-r1 export: runs in other projects' formats. Files only; nothing is ever pushed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seedbench_r1.cli import console
from seedbench_r1.cli.given_paths import refuse_folders_of_runs
from seedbench_r1.cli.options import PlainJson, RunPaths, plain_option
from seedbench_r1.errors import ConfigError
from seedbench_r1.files import utc_now

if TYPE_CHECKING:
    from leaderboards.exports.common import Exported

app = typer.Typer(help="Runs in other projects' formats. Files only: nothing is pushed.", no_args_is_help=True)

Out = Annotated[Path, plain_option("--out", help="Folder to write into; made if absent.")]
Judge = Annotated[str | None, plain_option(help="Judge id, or its beginning. Default: the one with most verdicts.")]
AllowIncomplete = Annotated[
    bool, typer.Option("--allow-incomplete", help="Also INCOMPLETE and SUBSET runs; the files say so.")
]


@app.command("every-eval-ever")
def every_eval_ever_command(
    runs: RunPaths,
    *,
    out: Out,
    model_id: Annotated[str | None, plain_option(help="ORG/NAME of the model, for one run. Default: see docs.")] = None,
    organization: Annotated[str, typer.Option(help="Who evaluated.")] = "unknown",
    relationship: Annotated[
        str, typer.Option(help="To the model: first_party, third_party, collaborative, other.")
    ] = "other",
    judge: Judge = None,
    include_reported: Annotated[bool, typer.Option(help="The papers' rows too, as documentation.")] = False,
    allow_incomplete: AllowIncomplete = False,
    as_json: PlainJson = False,
) -> None:
    """Every Eval Ever: an aggregate JSON and a line per question, as its data store lays them out."""
    from leaderboards.exports.common import check_model_id
    from leaderboards.exports.every_eval_ever import RELATIONSHIPS, Source, every_eval_ever_files, reported_files
    from leaderboards.published import load_published
    from leaderboards.suites import SUITES

    # Before any run is read.
    if relationship not in RELATIONSHIPS:
        raise ConfigError(f"--relationship {relationship!r} is unknown. Fix: one of {', '.join(RELATIONSHIPS)}.")
    if model_id is not None and len(runs) > 1:
        raise ConfigError(f"--model-id names one model, and there are {len(runs)} runs. Fix: export them one by one.")
    chosen = None if model_id is None else check_model_id(model_id)
    # One time for all runs of a call.
    source, now = Source(organization, relationship), utc_now()

    def files(exported: Exported) -> dict[Path, str]:
        return every_eval_ever_files(exported, out, source=source, model_id=chosen, now_utc=now)

    reported = reported_files(load_published(SUITES["seedbench-r1"]), out, now_utc=now) if include_reported else {}
    _export(runs, files, judge, allow_incomplete=allow_incomplete, as_json=as_json, more=reported)


@app.command("hub")
def hub_command(
    runs: RunPaths,
    *,
    out: Out,
    dataset: Annotated[str | None, plain_option(help="Hub id of the data set. Default: SEED-Bench-R1's.")] = None,
    source_url: Annotated[str | None, plain_option(help="Where the evaluation is published.")] = None,
    judge: Judge = None,
    allow_incomplete: AllowIncomplete = False,
    as_json: PlainJson = False,
) -> None:
    """.eval_results/*.yaml for a model repository on the Hub. You upload it yourself."""
    from leaderboards.exports.hub_results import hub_files

    def files(exported: Exported) -> dict[Path, str]:
        return hub_files(exported, out, dataset=dataset, source_url=source_url)

    _export(runs, files, judge, allow_incomplete=allow_incomplete, as_json=as_json)


@app.command("lmms-eval")
def lmms_eval_command(
    runs: RunPaths,
    *,
    out: Out,
    judge: Judge = None,
    allow_incomplete: AllowIncomplete = False,
    as_json: PlainJson = False,
) -> None:
    """lmms-eval's <date>_results.json and <date>_samples_<task>.jsonl; `import lmms-eval` reads them back."""
    from leaderboards.exports.lmms_results import lmms_files

    def files(exported: Exported) -> dict[Path, str]:
        return lmms_files(exported, out)

    _export(runs, files, judge, allow_incomplete=allow_incomplete, as_json=as_json)


def _export(
    runs: list[Path],
    files_of: Callable[[Exported], dict[Path, str]],
    judge: str | None,
    *,
    allow_incomplete: bool,
    as_json: bool,
    more: dict[Path, str] | None = None,
) -> None:
    """Read and lay out every run before the first file is written: all of them are exported, or none."""
    from leaderboards.exports.common import load_exported, write_new
    from leaderboards.loading import gc_paused

    refuse_folders_of_runs(runs)
    # Two runs of one model may want the same file: refused, since one would silently win.
    owners: dict[Path, Path] = {}
    files: dict[Path, str] = dict(more or {})
    with gc_paused():
        for run in runs:
            made = files_of(load_exported(run, judge=judge, allow_incomplete=allow_incomplete))
            for path in made:
                if owners.setdefault(path, run) != run:
                    raise ConfigError(f"{owners[path]} and {run} would both be written to {path}. Fix: two --out.")
            # All in memory until every run is known to be exportable.
            files |= made
    # Only now does anything reach the disk.
    written = write_new(files)
    if as_json:
        value = {"schema": "sbr1.export/1", "status": "ok", "written": [str(path) for path in written], "exit_code": 0}
        console.print_json(value)
        return

    screen = console.out()
    for path in written:
        screen.print(f" {path}", soft_wrap=True)
    screen.print(f" {len(runs)} runs, {len(written)} files", soft_wrap=True)
