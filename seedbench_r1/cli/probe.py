"""seedbench-r1 probe: change the reasoning before an answer, and see what the model answers then."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seedbench_r1.cli import console
from seedbench_r1.cli.given_paths import refuse_folders_of_runs
from seedbench_r1.cli.options import Given, PlainJson, RunPaths, with_settings
from seedbench_r1.cli.signals import draining_signals
from seedbench_r1.errors import ConfigError, DataError, IncompleteRun, Interrupted
from seedbench_r1.judges.probe_config import GROUPS, TABLE, resolve_probe_config
from seedbench_r1.options import in_groups
from seedbench_r1.runs.directory import Run, load_run
from seedbench_r1.runs.records import run_identity
from seedbench_r1.runs.samples import runs_of
from seedbench_r1.runs.verdicts import load_verdicts

if TYPE_CHECKING:
    from seedbench_r1.judges.probe_models import ProbedModels
    from seedbench_r1.judges.probes import Probe
    from seedbench_r1.runs.probes import ProbeResult
    from seedbench_r1.types import Verdict

DRAINING = "Stopping: what is in flight is finished and saved. Once more stops at once."
Against = Annotated[
    str | None, typer.Option("--against", help="Also how well each probe tells this judge's consistent answers.")
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML with these options in its table probe.")]


@with_settings(in_groups(TABLE, GROUPS))
def probe_command(
    given: Given,
    runs: RunPaths,
    *,
    config_file: ConfigFile = None,
    against: Against = None,
    as_json: PlainJson = False,
) -> None:
    """Ask a run's model again, with its reasoning kept, removed or exchanged. The same command continues.

    Without a judge: the probability of each option is read off the model. docs/consistency.md says what each probe
    shows and what it does not.
    """
    from seedbench_r1.cli.probe_results import print_differences
    from seedbench_r1.judges.probe_models import ProbedModels
    from seedbench_r1.judges.probing import check_probable, missing_media, probes_of

    settings = resolve_probe_config(given, config_file=config_file)
    runs = runs_of(runs)
    refuse_folders_of_runs(runs)
    loaded = [load_run(path) for path in runs]
    models = ProbedModels(settings)
    # All that can be refused is refused before a model is loaded.
    for run in loaded:
        check_probable(run, settings.config)
        if missing := missing_media(run, settings.config):
            raise DataError(
                f"{len(missing)} media files of {run.path} are not where they were, e.g. {missing[0]}. Fix: put "
                f"them back; or, where they have moved, give the run's `eval` command again with their --data-root."
            )
    probes = probes_of(settings.config, under=models.under_id, text_model=models.text_id)
    for run in loaded:
        if any(not probe.under and not probe.text_model for probe in probes):
            models.check_own(run)
        if any(probe.under for probe in probes):
            models.check_under(run)
    # Before anything is asked: a judge that was mistyped must not cost an hour.
    verdicts = {run.path: _verdicts(run, against) for run in loaded} if against is not None else {}
    results = [_probe_one(run, models, probes, as_json=as_json) for run in loaded]
    if not as_json:
        print_differences(console.out(), loaded, results)
    for run, found in zip(loaded, results, strict=True):
        if against is not None:
            _show_agreement(run, against, found, verdicts[run.path], as_json=as_json)


def _probe_one(
    run: Run, models: ProbedModels, probes: list[Probe], *, as_json: bool
) -> dict[str, dict[str, ProbeResult]]:
    from seedbench_r1.cli.probe_results import ProbeProgress, print_probes, probes_json
    from seedbench_r1.judges.probing import probe_run

    progress = ProbeProgress(run, quiet=as_json)
    console.silence_weight_bars()
    with models.open_loader(run) as loader, draining_signals(DRAINING) as (stop, received):
        results = probe_run(run, models.settings.config, models, probes, loader, stop=stop, observe=progress.observe)
    if as_json:
        console.print_json(probes_json(run, results))
    else:
        print_probes(console.out(), run, results)
    if received:
        raise Interrupted("Stopped by a signal. Results so far are saved; run it again to go on.", received[0])
    failed = [result for of_probe in results.values() for result in of_probe.values() if not result.settled]
    if failed:
        raise IncompleteRun(
            f"{len(failed)} results failed, e.g. {failed[0].note}. Run the same command again: they are asked again."
        )
    return results


def _verdicts(run: Run, judge_id: str) -> dict[str, Verdict]:
    """That judge's verdicts on a run. Raises ConfigError if there are none."""
    known = load_verdicts(run.path, run_identity(run.manifest))
    if judge_id not in known:
        listed = ", ".join(sorted(known)) or "none; run `judge` first"
        raise ConfigError(
            f"--against {judge_id!r}: {run.path} has no verdicts of that judge. It was judged by: {listed}."
        )
    return known[judge_id]


def _show_agreement(
    run: Run,
    judge_id: str,
    results: Mapping[str, Mapping[str, ProbeResult]],
    verdicts: dict[str, Verdict],
    *,
    as_json: bool,
) -> None:
    from leaderboards.probed import probe_agreement
    from seedbench_r1.cli.probe_results import agreement_json, print_agreement

    found = {probe_id: probe_agreement(run, probe_id, of_probe, verdicts) for probe_id, of_probe in results.items()}
    if as_json:
        console.print_json(agreement_json(run, judge_id, found))
    else:
        print_agreement(console.out(), run, judge_id, found)
