"""seedbench-r1 eval: from a checkpoint to a scored run directory."""

from __future__ import annotations

import shlex
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seedbench_r1.cli import console, eval_many, lmms_benchmarks
from seedbench_r1.cli.given_paths import data_root_explained
from seedbench_r1.cli.options import AsJson, ConfigFile, DryRun, Given, PrintConfig, Quiet, with_settings
from seedbench_r1.config import GROUPS, TABLE, EvalConfig
from seedbench_r1.errors import ConfigError, SeedBenchError
from seedbench_r1.options import in_groups

if TYPE_CHECKING:
    from seedbench_r1.engines.base import Plan

Further = Annotated[
    list[str] | None, typer.Argument(metavar="", help="Further models behind --model.", show_default=False, hidden=True)
]


@with_settings(in_groups(TABLE, GROUPS))
def evaluate_command(
    given: Given,
    further: Further = None,
    *,
    config: ConfigFile = None,
    print_config: PrintConfig = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a checkpoint, or several. The same command again continues an interrupted run.

    --model A B C, or --model 'out/care/checkpoint-*': one after the other; a failed one does not stop the rest.

    Exit codes: 0 done, 3 configuration, 4 data, 5 some questions have no answer, 7 resources, 130/143 interrupted.
    """
    from seedbench_r1.cli import results
    from seedbench_r1.engines.plan import plan
    from seedbench_r1.suites import resolve

    models = _models(given, further or [])
    if len(models) > 1:
        _evaluate_many(given, models, config, dry_run=dry_run or print_config, as_json=as_json, quiet=quiet)
        return
    resolved = resolve(given | {"model": models[0]} if models else given, config_file=config)
    if print_config:
        results.print_config(resolved)
        return
    command = shlex.join(["seedbench-r1", *sys.argv[1:]])
    if resolved.suite == lmms_benchmarks.SUITE:
        lmms_benchmarks.run_benchmarks(resolved, command, dry_run=dry_run, as_json=as_json, quiet=quiet)
        return
    with _explained(resolved, given, config):
        planned = plan(resolved, command=command)
    if dry_run:
        results.print_dry_run(planned, as_json=as_json)
        return
    run_and_report(planned, as_json=as_json, quiet=quiet)


def _explained(resolved: EvalConfig, given: Given, config: Path | None) -> AbstractContextManager[None]:
    """Where the data root comes from, if it is to blame."""
    # Own clips are below the file's folder unless told otherwise: no data root that was set for others is to blame.
    own_folder = resolved.suite == "own" and not given.get("data_root")
    return nullcontext() if own_folder else data_root_explained(given, config)


def _models(given: Given, further: list[str]) -> list[str]:
    """The models of the command line; [] if it names none."""
    if further and "model" not in given:
        raise ConfigError(f"{further[0]!r} is no option. Fix: --model {' '.join(further)}.")
    return eval_many.models_of([str(given["model"]), *further]) if "model" in given else []


def _evaluate_many(
    given: Given, models: list[str], config: Path | None, *, dry_run: bool, as_json: bool, quiet: bool
) -> None:
    from seedbench_r1.engines.plan import plan
    from seedbench_r1.suites import resolve

    for name in ("run_name", "shard"):
        if name in given:
            raise ConfigError(f"{TABLE[name].flag} is for one model, and {len(models)} were given. Fix: leave it out.")
    if dry_run:
        raise ConfigError("--dry-run and --print-config are for one model. Fix: name one of them.")
    command = shlex.join(["seedbench-r1", *sys.argv[1:]])
    plans: list[tuple[str, Plan | SeedBenchError]] = []
    # All of them before the first is loaded: what is refused is known at once.
    for model in models:
        resolved = resolve(given | {"model": model}, config_file=config)
        if resolved.engine != "local" or resolved.suite == lmms_benchmarks.SUITE:
            raise ConfigError("Several models are evaluated by --engine local alone. Fix: a loop.")
        try:
            with _explained(resolved, given, config):
                plans.append((model, plan(resolved, command=command)))
        except SeedBenchError as error:
            plans.append((model, error))
    eval_many.evaluate_many(plans, as_json=as_json, quiet=quiet)


def run_and_report(planned: Plan, *, as_json: bool = False, quiet: bool = False) -> None:
    """Carry a plan out and print how it ended. Raises IncompleteRun or Interrupted if not everything has an answer."""
    from seedbench_r1.cli.carry_out import carry_out
    from seedbench_r1.cli.outcome import exit_code, raise_unless_done
    from seedbench_r1.cli.results import print_result, result_values

    result, signal_number = carry_out(planned, quiet=quiet or as_json)
    if as_json:
        console.print_json(result_values(planned, result, exit_code(planned, result, signal_number)))
    else:
        print_result(planned, result)
    raise_unless_done(planned, result, signal_number)
