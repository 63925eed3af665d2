"""seedbench-r1 judge: verdicts on the reasoning of runs, human labels, agreement."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from seedbench_r1.api.cost_limit import token_cost
from seedbench_r1.cli import console
from seedbench_r1.cli.given_paths import refuse_folders_of_runs
from seedbench_r1.cli.judge_labels import agreement_command, calibrate_command
from seedbench_r1.cli.options import Given, PlainJson, RunPaths, with_settings
from seedbench_r1.cli.signals import draining_signals
from seedbench_r1.errors import ConfigError, IncompleteRun, Interrupted
from seedbench_r1.interface import check_judgeable, open_judge
from seedbench_r1.judges.config import GROUPS, JUDGES, TABLE, resolve_judge_config
from seedbench_r1.judges.run import Judge, failure_of, judge_case, judge_run, pending_records
from seedbench_r1.options import in_groups
from seedbench_r1.runs.directory import Run, load_run
from seedbench_r1.runs.samples import runs_of
from seedbench_r1.runs.verdicts import load_verdicts
from seedbench_r1.scoring import lacks_reasoning
from seedbench_r1.types import Verdict

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter

    from seedbench_r1.judges.wording import JudgeSettings


# Judging is what the command is mostly called for, so it needs no second word.
class _RunByDefault(TyperGroup):
    """`judge RUN...` means `judge run RUN...`, options first too; `judge --help` shows the options of both."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        implied = args and args[0] not in self.commands and args[0] not in ctx.help_option_names
        return super().parse_args(ctx, ["run", *args] if implied else args)

    def format_help(self, ctx: Context, formatter: HelpFormatter) -> None:
        super().format_help(ctx, formatter)
        run = self.commands["run"]
        run.format_help(type(ctx)(run, info_name="run", parent=ctx), formatter)


app = typer.Typer(
    help="Does the reasoning support the answer? `judge RUN...` judges runs, with the options of `run` below.",
    cls=_RunByDefault,
    no_args_is_help=True,
)

DRAINING = "Stopping: verdicts in flight are finished and saved. Once more stops at once."
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML with these options in its table judge.")]


@app.command("run")
@with_settings(in_groups(TABLE, GROUPS))
def judge_command(
    given: Given,
    runs: RunPaths,
    *,
    config_file: ConfigFile = None,
    as_json: PlainJson = False,
    judge_id: Annotated[str | None, typer.Option("--judge-id", hidden=True)] = None,
) -> None:
    """Judge runs. The same command continues. It never falls back to another judge: exit 6 if there is none."""
    # Known here only to be explained: a judge's id follows from its settings.
    if judge_id is not None:
        raise ConfigError(
            f"--judge-id {judge_id} names verdicts that exist, for `judge calibrate` and `judge agreement`. "
            f"Fix: say which judge to ask: --judge {', '.join(JUDGES)}."
        )
    config = resolve_judge_config(given, config_file=config_file)
    # All runs are read before the judge is opened: a wrong path must not cost a request.
    runs = runs_of(runs)
    refuse_folders_of_runs(runs)
    loaded = [check_judgeable(load_run(path)) for path in runs]

    def announce(settings: JudgeSettings) -> None:
        for line in [] if as_json else estimate(loaded, settings, config.prices):
            console.err().print(line, soft_wrap=True)

    opened = open_judge(config, announce)
    failures: list[str] = []
    try:
        for run in loaded:
            failures += _judge_one(run, opened, config.limit, as_json=as_json)
    finally:
        opened.close()
    # Last, behind every table: a rate from which verdicts are missing must not look like a result.
    if failures:
        from seedbench_r1.cli.judge_results import failure_message

        # Not raised as an error: standard output holds the runs' JSON objects already.
        said = (
            f"{failure_message(failures)}. The same command asks for them again; another setting is another judge id."
        )
        console.err().print(said, soft_wrap=True)
        raise typer.Exit(IncompleteRun.exit_code)


# Defined where the sheets of labels are.
app.command("calibrate")(calibrate_command)
app.command("agreement")(agreement_command)


def estimate(runs: list[Run], settings: JudgeSettings, prices: tuple[float, float] | None) -> list[str]:
    """Lines for the user before the first request: how many, how large, how dear. 4 characters count as a token."""
    from seedbench_r1.judges.wording import build_judge_prompt

    sizes = []
    for run in runs:
        known = load_verdicts(run.path).get(settings.judge_id, {})
        # Only what would really be asked: settled verdicts and answers without reasoning cost nothing.
        for record in pending_records(run, known):
            if not lacks_reasoning(record):
                # Four characters a token: no tokenizer of a hosted model is known here.
                sizes.append(len(build_judge_prompt(judge_case(run, record), settings.prompt)) // 4)
    prompt, new = settings.votes * sum(sizes), settings.votes * len(sizes) * 60  # 60: about one short sentence
    cost = f", about {token_cost(prompt, new, *prices):.2f} at these prices" if prices else ", cost unknown (no prices)"
    return [
        f"judge {settings.judge_id} {len(sizes)} cases, {settings.votes} votes each",
        f"about {prompt:,} prompt tokens and {new:,} new ones{cost}",
    ]


def _judge_one(run: Run, judge: Judge, limit: int | None, *, as_json: bool) -> list[str]:
    """Why verdicts of the run failed, one text each; empty if none did."""
    from seedbench_r1.cli.judge_results import JudgeProgress, print_consistency, run_json

    progress = JudgeProgress(run, judge.judge_id, quiet=as_json)
    with draining_signals(DRAINING) as (stop, received):
        verdicts: dict[str, Verdict] = judge_run(run, judge, limit=limit, stop=stop, observe=progress.observe)
    if as_json:
        console.print_json(run_json(run, judge.judge_id, verdicts))
    else:
        print_consistency(console.out(), run, judge.judge_id, verdicts)
    # After the table: what exists is shown even when the rest was stopped.
    if received:
        raise Interrupted("Stopped by a signal. Verdicts so far are saved; run it again to go on.", received[0])
    return [why for verdict in verdicts.values() if (why := failure_of(verdict)) is not None]
