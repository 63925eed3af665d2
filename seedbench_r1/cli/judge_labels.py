"""`judge calibrate` and `judge agreement`: sheets for human labels, and what they, or other judges, say of a judge."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from leaderboards.loading import find_judge
from seedbench_r1.cli import console
from seedbench_r1.cli.given_paths import refuse_folders_of_runs
from seedbench_r1.cli.options import Given, PlainJson, RunPaths, plain_option, with_settings
from seedbench_r1.errors import ConfigError
from seedbench_r1.interface import check_judgeable
from seedbench_r1.options import check_values, in_groups, setting, settings_of
from seedbench_r1.runs.directory import Run, load_run
from seedbench_r1.runs.records import run_identity
from seedbench_r1.runs.verdicts import load_verdicts
from seedbench_r1.types import Verdict

if TYPE_CHECKING:
    from leaderboards.stats import Judged, LabelPlan
    from leaderboards.stats.calibration import Estimator

ROWS, ALLOCATED = "Rows", "With --allocate"  # in the order of --help
SHEET, NEXT_SHEET = 200, 40  # rows
FEWEST = 10  # rows of a next sheet: what seems to be missing is an estimate
# As `leaderboard` and `export` call it, too.
JudgeId = Annotated[
    str | None, plain_option("--judge-id", "--judge", help="If several judged: its id, or a beginning.")
]


@dataclass(frozen=True, slots=True)
class SheetConfig:
    """Which rows a sheet gets."""

    n: int | None = setting(None, "Rows: 200, of a next sheet 40.", ROWS, at_least=2)
    strategy: Literal["by-verdict", "random"] = setting("by-verdict", "Half judged yes and half no, or any.", ROWS)
    seed: int = setting(0, "Of the choice of rows.", ROWS)
    half_width: float | None = setting(
        None, "Points on either side of the rate that are enough.", ALLOCATED, above=0, below=50
    )
    estimator: Literal["predictive-values", "rogan-gladen"] = setting(
        "predictive-values", "Of the rate; rogan-gladen takes several runs.", ALLOCATED
    )


TABLE = settings_of(SheetConfig)


@with_settings(in_groups(TABLE, (ROWS, ALLOCATED)))
def calibrate_command(
    given: Given,
    runs: RunPaths,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The sheet to fill in.")] = Path("labels.csv"),
    judge_id: JudgeId = None,
    allocate: Annotated[
        list[Path] | None, plain_option(help="Sheet with labels so far, repeat for more: write the next one.")
    ] = None,
) -> None:
    """Write a blinded sheet for human labels: no run name, no gold answer, no verdict."""
    from seedbench_r1.judges.calibration import calibration_sheet

    check_values(given, TABLE)
    for name in given:
        if not allocate and TABLE[name].option.group == ALLOCATED:
            raise ConfigError(f"{TABLE[name].flag} does nothing without --allocate LABELS. Fix: give both, or none.")
    if allocate and "strategy" in given:
        raise ConfigError("--allocate draws by verdict. Fix: leave out --strategy.")
    config = SheetConfig(**cast("dict[str, Any]", given))
    if allocate:
        _write_next_sheet(runs, out, config, allocate, judge_id)
        return
    loaded, verdicts, chosen = _judged(runs, judge_id)
    _refuse_to_overwrite(out)
    by_verdict = config.strategy == "by-verdict"
    _write(calibration_sheet(loaded, verdicts, config.n or SHEET, by_verdict=by_verdict, seed=config.seed), out, chosen)


def _write_next_sheet(
    paths: list[Path], out: Path, config: SheetConfig, sheets: list[Path], judge_id: str | None
) -> None:
    """Labels so far, the rate they give, and the next sheet unless they are enough."""
    from leaderboards.stats import plan_labels
    from seedbench_r1.judges.calibration import agreement, judged_counts, labels_by_run, next_sheet, read_labels

    labels = read_labels(*sheets)
    loaded, verdicts, chosen = _judged(paths, judge_id)
    _refuse_to_overwrite(out)
    target = None if config.half_width is None else config.half_width / 100
    n, estimator = config.n or NEXT_SHEET, config.estimator
    if estimator == "predictive-values" and len(loaded) > 1:
        raise ConfigError(
            f"Predictive values belong to one run, and these are {len(loaded)}. Fix: one run at a time, or "
            f"--estimator rogan-gladen, which takes the judge to be equally good on all of them."
        )
    found = agreement(loaded, verdicts, labels)
    # Pooled labels speak for the pool that they were drawn from.
    without = [run.path for run, own in zip(loaded, labels_by_run(loaded, labels), strict=True) if not own]
    if found.n and without:
        raise ConfigError(
            f"The labels hold none of {without[0]}, and {estimator} takes them to be drawn from all of these runs. "
            f"Fix: leave it out, and correct it by `judge agreement`, or begin with a sheet of all of them."
        )
    counts = [judged_counts(run, known) for run, known in zip(loaded, verdicts, strict=True)]
    if not any(count.asked for count in counts):
        raise ConfigError(f"There is nothing to label: {chosen} said yes or no to none of these answers.")
    plan = plan_labels(counts, found.table, n, estimator=estimator, target=target)
    # No more than seem to be missing; what is missing after that, the next call says.
    if plan.still_needed is not None and not plan.enough:
        n = min(n, max(plan.still_needed, FEWEST))
        plan = plan_labels(counts, found.table, n, estimator=estimator, target=target)
    _print_rates(loaded, counts, found.table, estimator)
    if found.undecided:
        console.out().print(f" {found.undecided} labelled rows have no verdict of this judge and are not counted")
    _print_goal(plan, target)
    if plan.enough:
        return
    rows = next_sheet(loaded, verdicts, labels, (plan.yes, plan.no), seed=config.seed)
    if not rows:
        console.out().print(" every case is labelled: no sheet was written")
        return
    console.out().print(f" next: {plan.yes} judge-yes and {plan.no} judge-no cases")
    _write(rows, out, chosen)


def _print_rates(runs: list[Run], counts: list[Judged], table: tuple[int, int, int, int], estimator: Estimator) -> None:
    from leaderboards.stats import corrected_rate

    yy, yn, ny, nn = table
    screen = console.out()
    screen.print(f" labelled: {yy + yn} judge-yes ({yy} yes), {ny + nn} judge-no ({ny} yes)")
    source = None if estimator == "predictive-values" else counts
    for run, count in zip(runs, counts, strict=True):
        rate = corrected_rate(count, table, source=source)
        judged = count.asked + count.by_definition
        raw = f"judged {100 * count.yes / judged:.1f} %" if judged else "not judged"
        screen.print(f" {run.path.name}: {raw}", soft_wrap=True)
        if not math.isnan(rate.value):
            width = 50 * (rate.hi - rate.lo)
            interval = f"{100 * rate.value:.1f} [{100 * rate.lo:.1f}, {100 * rate.hi:.1f}]"
            screen.print(f"   corrected {interval}, half-width {width:.1f}, {estimator}")
        else:
            screen.print("   corrected: not yet, labels of both kinds are needed")


def _print_goal(plan: LabelPlan, target: float | None) -> None:
    screen = console.out()
    if target is None:
        return
    goal = f"{100 * target:g} points"
    if plan.enough:
        screen.print(f" enough: the half-width is at most {goal}; no sheet was written")
    elif plan.still_needed is None:
        screen.print(f" {goal} cannot be reached: with every case labelled about {100 * plan.floor:.1f} remain,")
        screen.print(" since the answers are a sample themselves")
    elif plan.still_needed:
        screen.print(f" about {plan.still_needed} more labels to {goal}, by the shares so far")


def _refuse_to_overwrite(out: Path) -> None:
    # Hours of labelling may be in it.
    if out.exists():
        raise ConfigError(f"{out} exists and may hold labels. Fix: --out another name.")


def _write(rows: list[dict[str, str]], out: Path, judge_id: str) -> None:
    from seedbench_r1.judges.calibration import write_sheet

    write_sheet(rows, out)
    console.out().print(f"{len(rows)} rows in {out}, judged by {judge_id}", soft_wrap=True)
    # The one instruction that a labeller needs; the sheet itself has no room for it.
    console.out().print("Write yes or no into supports_answer: does the reasoning lead to that answer?")


def agreement_command(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="Sheets with labels, then run directories; with --judges run directories only.", show_default=False
        ),
    ],
    *,
    judge_id: JudgeId = None,
    judges: Annotated[
        str | None, plain_option(help="Judges to compare with one another: ids or their beginnings, with commas.")
    ] = None,
    as_json: PlainJson = False,
) -> None:
    """Compare a judge with human labels and correct its rate, or judges with one another: kappa and alpha."""
    from seedbench_r1.cli.judge_agreement import agreement_json, print_agreement
    from seedbench_r1.judges.calibration import agreement, read_labels

    sheets = [path for path in paths if path.is_file() or path.suffix == ".csv"]
    runs = [path for path in paths if path not in sheets]
    if judges is not None:
        _agree_between(runs, sheets, judges, judge_id, as_json=as_json)
        return
    if not sheets or not runs:
        what = "No sheet of labels was given" if not sheets else "No run was given"
        raise ConfigError(
            f"{what}. Fix: judge agreement labels.csv RUN..., or judge agreement RUN... --judges A,B to compare judges "
            f"with one another."
        )
    # Before the runs: a path that was mistyped should be what is named.
    labels = read_labels(*sheets)
    loaded, verdicts, chosen = _judged(runs, judge_id)
    found = agreement(loaded, verdicts, labels)
    # Kappa of no rows is no number.
    if not found.n:
        raise ConfigError(f"{', '.join(map(str, sheets))} holds no labels yet ({found.unlabelled} empty rows).")
    if as_json:
        console.print_json(agreement_json(found, chosen, loaded, verdicts, labels))
    else:
        print_agreement(found, chosen, loaded, verdicts, labels)


def _agree_between(runs: list[Path], sheets: list[Path], names: str, judge_id: str | None, *, as_json: bool) -> None:
    """`judge agreement RUN... --judges A,B`."""
    from seedbench_r1.cli.judge_between import between_json, print_between
    from seedbench_r1.judges.between import compare_judges

    if sheets:
        raise ConfigError(f"--judges compares judges with one another; {sheets[0]} holds labels. Fix: leave out one.")
    if judge_id is not None:
        raise ConfigError("--judges and --judge name judges twice. Fix: leave out --judge.")
    if not runs:
        raise ConfigError("No run was given. Fix: judge agreement RUN... --judges A,B.")
    loaded, by_judge = _loaded(runs)
    known = sorted({name for found in by_judge for name in found})
    chosen = [find_judge(known, name.strip()) for name in names.split(",") if name.strip()]
    if len(set(chosen)) < max(2, len(chosen)):
        twice = "names one of them twice" if len(chosen) > len(set(chosen)) else "names fewer than two judges"
        raise ConfigError(f"--judges {names} {twice}. These runs were judged by: {', '.join(known) or 'none'}.")
    found = compare_judges(loaded, by_judge, chosen)
    if as_json:
        console.print_json(between_json(found, loaded))
    else:
        print_between(found, loaded)


def _loaded(paths: list[Path]) -> tuple[list[Run], list[dict[str, dict[str, Verdict]]]]:
    """Runs, and each one's verdicts by judge."""
    refuse_folders_of_runs(paths)
    # A directory given twice, or once more through a link, is one run.
    distinct = {path.resolve(): path for path in reversed(paths)}
    loaded = [check_judgeable(load_run(path)) for path in reversed(distinct.values())]
    return loaded, [load_verdicts(run.path, run_identity(run.manifest)) for run in loaded]


def _judged(paths: list[Path], judge_id: str | None) -> tuple[list[Run], list[dict[str, Verdict]], str]:
    """Runs, one judge's verdicts on each, and which judge. Raises ConfigError unless there is exactly one to take."""
    loaded, by_judge = _loaded(paths)
    known = sorted({name for judges in by_judge for name in judges})
    # Verdicts of different judges are never mixed, so the choice must be clear.
    if judge_id is None and len(known) == 1:
        judge_id = known[0]
    if judge_id is None or not any(name.startswith(judge_id) for name in known):
        listed = ", ".join(known) or "none; run `judge` first"
        what = "Say which judge with --judge-id." if judge_id is None else f"No verdicts of {judge_id!r}."
        raise ConfigError(f"{what} These runs were judged by: {listed}.")
    chosen = find_judge(known, judge_id)
    return loaded, [judges.get(chosen, {}) for judges in by_judge], chosen
