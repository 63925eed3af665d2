"""seedbench-r1 lmms-path, and eval with --engine lmms-eval or --suite transfer-lmms."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from seedbench_r1.errors import ConfigError, IncompleteRun, Interrupted

if TYPE_CHECKING:
    from seedbench_r1.engines.lmms_transfer import TransferPlan, TransferResult

STOPPING = "Stopping: lmms-eval saves nothing before its end, so the answers of this call are lost."


def lmms_path_command() -> None:
    """Print the folder of our tasks for lmms-eval: --include_path $(seedbench-r1 lmms-path)."""
    from seedbench_r1.engines.lmms_process import TASK_FOLDER

    typer.echo(TASK_FOLDER)


def run_with_lmms_eval(
    options: dict[str, Any], config_file: Path | None, mode: dict[str, bool], lmms: dict[str, str | None]
) -> None:
    """The part of `eval` that lmms-eval does. `lmms` holds engine, lmms_model, lmms_model_args and suite."""
    from seedbench_r1.engines.lmms_transfer import SUITE

    suite, engine = lmms["suite"], lmms["engine"]
    if suite is not None and suite != SUITE:
        raise ConfigError(f"No suite {suite!r}. There are: seedbench-r1, transfer, {SUITE}.")
    if engine is not None and engine != "lmms-eval":
        raise ConfigError(f"No engine {engine!r}. There are: lmms-eval, ray. Without --engine our own backends answer.")
    if suite is not None:
        _run_suite(options, config_file, mode, lmms)
    elif engine is None or lmms["lmms_model"] is None:
        raise ConfigError("lmms-eval needs both --engine lmms-eval and --lmms-model NAME, e.g. qwen2_5_vl.")
    else:
        _run_engine(options, config_file, mode, lmms)


def _run_engine(
    options: dict[str, Any], config_file: Path | None, mode: dict[str, bool], lmms: dict[str, str | None]
) -> None:
    from seedbench_r1.cli import console
    from seedbench_r1.cli.eval import draining_signals, finish, parse_options
    from seedbench_r1.cli.results import print_config, print_dry_run
    from seedbench_r1.config import resolve_eval_config
    from seedbench_r1.engines.lmms import evaluate_with_lmms_eval, plan_with_lmms_eval

    name, args = lmms["lmms_model"] or "", lmms["lmms_model_args"] or ""
    config = resolve_eval_config(_with_model(parse_options(options), name, args), config_file=config_file)
    if mode["print_config"]:
        print_config(config)
        return
    planned, model = plan_with_lmms_eval(config, name, args, command=shlex.join(["seedbench-r1", *sys.argv[1:]]))
    if mode["dry_run"]:
        print_dry_run(planned, as_json=mode["json"])
        return

    def say(text: str) -> None:
        if not (mode["quiet"] or mode["json"]):
            console.err().print(text, soft_wrap=True)

    with draining_signals(STOPPING) as (stop, received):
        result = evaluate_with_lmms_eval(planned, model, stop=stop, say=say)
    finish(planned, result, received[0] if received else 0, mode)


def _run_suite(
    options: dict[str, Any], config_file: Path | None, mode: dict[str, bool], lmms: dict[str, str | None]
) -> None:
    from seedbench_r1.cli import console
    from seedbench_r1.cli.eval import draining_signals, parse_options
    from seedbench_r1.cli.results import print_config
    from seedbench_r1.config import resolve_eval_config
    from seedbench_r1.engines.lmms_process import OWN_MODEL, LmmsModel
    from seedbench_r1.engines.lmms_transfer import plan_transfer, run_transfer

    name, args = lmms["lmms_model"] or OWN_MODEL, lmms["lmms_model_args"] or ""
    options = _with_model(parse_options(options), name, args)
    options["data_root"] = options["data_root"] or Path()  # the suite's videos are lmms-eval's
    config = resolve_eval_config(options, config_file=config_file)
    if mode["print_config"]:
        print_config(config)
        return
    command = shlex.join(["seedbench-r1", *sys.argv[1:]])
    planned = plan_transfer(config, LmmsModel(name, args), command=command)
    if mode["dry_run"]:
        for task in planned.tasks:
            typer.echo(shlex.join(planned.job(task).command()))
        return

    def say(text: str) -> None:
        if not (mode["quiet"] or mode["json"]):
            console.err().print(text, soft_wrap=True)

    with draining_signals(STOPPING) as (stop, received):
        results = run_transfer(planned, stop=stop, say=say)
    _finish_suite(planned, results, received[0] if received else 0, mode)


def _finish_suite(
    planned: TransferPlan, results: dict[str, TransferResult], signal_number: int, mode: dict[str, bool]
) -> None:
    summary = planned.path / "summary.json"
    open_tasks = [task for task in planned.tasks if task not in results or results[task].status == "incomplete"]
    if mode["json"] and summary.exists():
        typer.echo(json.dumps(json.loads(summary.read_text(encoding="utf-8")), ensure_ascii=False))
    elif results:
        _print_suite(planned, results)
    if signal_number:
        raise Interrupted(f"Stopped by a signal, {len(open_tasks)} benchmarks left.", signal_number)
    if open_tasks:
        reasons = [f"{task}: {results[task].reason}" for task in open_tasks if task in results]
        raise IncompleteRun(
            f"{len(open_tasks)} of {len(planned.tasks)} benchmarks are incomplete. {' | '.join(reasons)} "
            f"The same command runs only those again."
        )


def _print_suite(planned: TransferPlan, results: dict[str, TransferResult]) -> None:
    from rich.table import Table

    from seedbench_r1.cli import console
    from seedbench_r1.engines.lmms_transfer import NOTE, SUITE

    table = Table(box=None, pad_edge=True, header_style="bold")
    for name, side in (("benchmark", "left"), ("status", "left"), ("n", "right"), ("metric", "left")):
        table.add_column(name, justify="right" if side == "right" else "left", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    for task, result in results.items():
        n = f"{result.n}" if result.expected in (None, result.n) else f"{result.n} of {result.expected}"
        first, *rest = result.metrics.items() or [("", None)]
        for place, (metric, value) in enumerate([first, *rest]):
            shown = "" if value is None else f"{value:.4g}"
            table.add_row(*((task, result.status, n) if place == 0 else ("", "", "")), metric, shown)
    screen = console.out()
    screen.print(table)
    screen.print(f" {SUITE}: {NOTE}", soft_wrap=True)
    screen.print(f" saved {planned.path / 'summary.json'}", soft_wrap=True)


def _with_model(options: dict[str, Any], name: str, args: str) -> dict[str, Any]:
    """--model may be left out if lmms-eval's arguments name the checkpoint, or the model has none (an API)."""
    from seedbench_r1.engines.lmms import checkpoint_of
    from seedbench_r1.engines.lmms_process import OWN_MODEL

    if options["model"] is not None or name == OWN_MODEL:
        return options
    return options | {"model": checkpoint_of(args) or name}
