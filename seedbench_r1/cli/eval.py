"""seedbench-r1 eval: from a checkpoint to a scored run directory."""

from __future__ import annotations

import functools
import shlex
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

import typer

from seedbench_r1.cli.given_paths import data_root_explained
from seedbench_r1.cli.options import AsJson, ConfigFile, DryRun, Given, PrintConfig, Quiet, with_settings
from seedbench_r1.config import GROUPS, TABLE
from seedbench_r1.options import in_groups

if TYPE_CHECKING:
    from seedbench_r1.engines.base import EvalResult, Plan


@with_settings(in_groups(TABLE, GROUPS))
def evaluate_command(
    given: Given,
    *,
    config: ConfigFile = None,
    print_config: PrintConfig = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a checkpoint. The same command again continues an interrupted run.

    Exit codes: 0 done, 3 configuration, 4 data, 5 some questions have no answer, 7 resources, 130/143 interrupted.
    """
    from seedbench_r1.cli import lmms_benchmarks, results
    from seedbench_r1.engines.plan import plan
    from seedbench_r1.suites import resolve

    resolved = resolve(given, config_file=config)
    if print_config:
        results.print_config(resolved)
        return
    command = shlex.join(["seedbench-r1", *sys.argv[1:]])
    if resolved.suite == lmms_benchmarks.SUITE:
        lmms_benchmarks.run_benchmarks(resolved, command, dry_run=dry_run, as_json=as_json, quiet=quiet)
        return
    # Its clips are below the file's folder unless told otherwise: no data root that was set for others is to blame.
    own_folder = resolved.suite == "own" and not given.get("data_root")
    with nullcontext() if own_folder else data_root_explained(given, config):
        planned = plan(resolved, command=command)
    if dry_run:
        results.print_dry_run(planned, as_json=as_json)
        return
    run_and_report(planned, as_json=as_json, quiet=quiet)


def run_and_report(planned: Plan, *, as_json: bool = False, quiet: bool = False) -> None:
    """Carry a plan out and print how it ended. Raises IncompleteRun or Interrupted if not everything has an answer."""
    from seedbench_r1.cli.outcome import exit_code, raise_unless_done
    from seedbench_r1.cli.results import print_result, result_json

    result, signal_number = carry_out(planned, quiet=quiet or as_json)
    if as_json:
        typer.echo(result_json(planned, result, exit_code(planned, result, signal_number)))
    else:
        print_result(planned, result)
    raise_unless_done(planned, result, signal_number)


def carry_out(planned: Plan, *, quiet: bool) -> tuple[EvalResult, int]:
    """Evaluate with progress on standard error and signals handled. Returns the result and the signal, 0 if none."""
    from seedbench_r1.cli.console import silence_weight_bars
    from seedbench_r1.cli.progress import EvalProgress
    from seedbench_r1.cli.signals import draining_signals
    from seedbench_r1.engines.plan import open_engine
    from seedbench_r1.engines.run import run_plan

    if planned.checkpoint is not None:
        silence_weight_bars()
    with (
        open_engine(planned.config) as engine,
        draining_signals(engine.stop_message) as (stop, received),  # inside: Ray sets a handler of its own
        EvalProgress(planned, quiet=quiet) as progress,
    ):
        # Where nothing is shown, a million records need not be held for showing.
        run = functools.partial(run_plan, planned, engine, stop=stop, say=progress.say)
        result = run() if quiet else run(observe=progress.observe, opened=progress.opened)
    return result, received[0] if received else 0
