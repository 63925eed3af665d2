"""seedbench-r1 lmms-path, and eval --suite transfer-lmms: benchmarks as lmms-eval itself runs and scores them."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from seedbench_r1.cli import console
from seedbench_r1.cli.signals import draining_signals
from seedbench_r1.config import EvalConfig
from seedbench_r1.errors import IncompleteRun, Interrupted

if TYPE_CHECKING:
    from seedbench_r1.engines.lmms_transfer import TransferPlan, TransferResult

SUITE = "transfer-lmms"


def lmms_path_command() -> None:
    """Print the folder of our tasks for lmms-eval: --include_path $(seedbench-r1 lmms-path)."""
    from seedbench_r1.engines.lmms_process import TASK_FOLDER

    typer.echo(TASK_FOLDER)


def run_benchmarks(config: EvalConfig, command: str, *, dry_run: bool, as_json: bool, quiet: bool) -> None:
    """`eval --suite transfer-lmms`: lmms-eval's own tasks, one process each."""
    from seedbench_r1.engines.lmms import LmmsEngine
    from seedbench_r1.engines.lmms_process import OWN_MODEL, LmmsModel
    from seedbench_r1.engines.lmms_transfer import plan_transfer, run_transfer

    model = LmmsModel(config.lmms_model or OWN_MODEL, config.lmms_model_args or "")
    planned = plan_transfer(config, model, command=command)
    if dry_run:
        for task in planned.tasks:
            # Quoted, so that a line can be pasted into a shell.
            typer.echo(shlex.join(planned.job(task).command()))
        return

    def say(text: str) -> None:
        if not (quiet or as_json):
            console.err().print(text, soft_wrap=True)

    # A signal ends the benchmark that is running; results of those before it are kept.
    with draining_signals(LmmsEngine.stop_message) as (stop, received):
        results = run_transfer(planned, stop=stop, say=say)
    _finish(planned, results, received[0] if received else 0, as_json=as_json)


def _finish(planned: TransferPlan, results: dict[str, TransferResult], signal_number: int, *, as_json: bool) -> None:
    summary = planned.path / "summary.json"
    # Also those that were never begun because a signal came first.
    open_tasks = [task for task in planned.tasks if task not in results or results[task].status == "incomplete"]
    # Read back from the file: what is printed is what later commands will read.
    if as_json and summary.exists():
        console.print_json(json.loads(summary.read_text(encoding="utf-8")))
    elif results:
        _print(planned, results)
    # A stop is reported as such even if benchmarks are incomplete too: it is the reason.
    if signal_number:
        raise Interrupted(f"Stopped by a signal, {len(open_tasks)} benchmarks left.", signal_number)
    if open_tasks:
        reasons = [f"{task}: {results[task].reason}" for task in open_tasks if task in results]
        raise IncompleteRun(
            f"{len(open_tasks)} of {len(planned.tasks)} benchmarks are incomplete. {' | '.join(reasons)} "
            f"The same command runs only those again."
        )


def _print(planned: TransferPlan, results: dict[str, TransferResult]) -> None:
    from seedbench_r1.engines.lmms_transfer import NOTE

    table = Table(box=None, pad_edge=True, header_style="bold")
    for name, side in (("benchmark", "left"), ("status", "left"), ("n", "right"), ("metric", "left")):
        table.add_column(name, justify="right" if side == "right" else "left", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    for task, result in results.items():
        n = f"{result.n}" if result.expected in (None, result.n) else f"{result.n} of {result.expected}"
        # A benchmark without metrics still gets its line, with its status.
        first, *rest = result.metrics.items() or [("", None)]
        for place, (metric, value) in enumerate([first, *rest]):
            shown = "" if value is None else f"{value:.4g}"
            table.add_row(*((task, result.status, n) if place == 0 else ("", "", "")), metric, shown)
    screen = console.out()
    screen.print(table)
    screen.print(f" {SUITE}: {NOTE}", soft_wrap=True)
    screen.print(f" saved {planned.path / 'summary.json'}", soft_wrap=True)
