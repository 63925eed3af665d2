"""How a judge's agreement with human labels is shown."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from leaderboards import stats
from leaderboards.stats import Estimate
from seedbench_r1.cli import console
from seedbench_r1.cli.judge_between import estimate_json, shown
from seedbench_r1.judges.calibration import agreement, judged_counts, labels_by_run

if TYPE_CHECKING:
    from seedbench_r1.judges.calibration import Agreement
    from seedbench_r1.runs.directory import Run
    from seedbench_r1.types import Verdict

Labels = Mapping[str, bool | None]  # row_id -> label
GATE = 0.6  # kappa from which the report shows the column as calibrated


@dataclass(frozen=True, slots=True)
class CorrectedRate:
    """What a run's verdicts and the labels imply about its true rate of consistent reasoning. Fractions."""

    judged: int
    raw: float | None  # None: nothing was judged
    own: Estimate  # by predictive values from labels of this run alone; undefined if there are none
    carried: Estimate  # by sensitivity and specificity in all runs that hold labels


def agreement_json(
    found: Agreement, judge_id: str, runs: list[Run], verdicts: list[dict[str, Verdict]], labels: Labels
) -> dict[str, object]:
    """Everything as fractions, nan where there is no number; the corrected rates run by run."""
    table = found.table
    ppv, npv = stats.predictive_values(*table)
    rates, (sensitivity, specificity) = _rates(runs, verdicts, labels)
    return {
        "schema": "sbr1.agreement/1",
        "judge_id": judge_id,
        "n": found.n,
        "table": {"yy": found.yy, "yn": found.yn, "ny": found.ny, "nn": found.nn},
        "unlabelled": found.unlabelled,
        "undecided": found.undecided,
        "kappa": estimate_json(stats.kappa_interval(*table)),
        "pabak": stats.pabak(*table),
        "base_rate": stats.base_rate(*table),
        "sensitivity": sensitivity,
        "specificity": specificity,
        "ppv": ppv,
        "npv": npv,
        "runs": {
            name: {
                "judged": rate.judged,
                "raw": rate.raw,
                "by_sensitivity": estimate_json(rate.carried),
                "by_predictive_values": estimate_json(rate.own),
            }
            for name, rate in rates.items()
        },
    }


def print_agreement(
    found: Agreement, judge_id: str, runs: list[Run], verdicts: list[dict[str, Verdict]], labels: Labels
) -> None:
    """The block of lines for a person."""
    table = found.table
    kappa = stats.kappa_interval(*table)
    ppv, npv = stats.predictive_values(*table)
    rates, (sensitivity, specificity) = _rates(runs, verdicts, labels)
    screen = console.out()
    screen.print(f"{judge_id} against {found.n} labels", soft_wrap=True)
    screen.print(f"  both yes {found.yy}, judge only {found.yn}, human only {found.ny}, both no {found.nn}")
    screen.print(f"  kappa {shown(kappa)}, PABAK {stats.pabak(*table):.3f}")
    screen.print(f"  base rate (human yes) {stats.base_rate(*table):.3f}; all of this is of the labelled rows")
    screen.print(f"  predictive values: yes {_share(ppv)}, no {_share(npv)}")
    # Of the sheet they would depend on how many of each verdict it holds.
    screen.print(f"  in the runs: sensitivity {_share(sensitivity)}, specificity {_share(specificity)}")
    if found.unlabelled or found.undecided:
        screen.print(f"  {found.unlabelled} rows without a label, {found.undecided} labelled rows without a verdict")
    for name, rate in rates.items():
        # A run without verdicts is listed, so that nobody searches for it.
        raw = "-" if rate.raw is None else f"{100 * rate.raw:.1f}"
        screen.print(f"  {name}: judged {raw} %", soft_wrap=True)
        if not math.isnan(rate.own.value):
            screen.print(f"    corrected by its own labels {_interval(rate.own)}")
        else:
            screen.print(f"    corrected by sensitivity and specificity elsewhere {_interval(rate.carried)}")
    # nan is not at least the gate: without agreement to measure the judge stays uncalibrated.
    verdict = "calibrated" if kappa.value >= GATE else f"kappa is below {GATE}: do not rely on this judge"
    screen.print(f"  {verdict}")


def _rates(
    runs: list[Run], verdicts: list[dict[str, Verdict]], labels: Labels
) -> tuple[dict[str, CorrectedRate], tuple[float, float]]:
    """Name of a run's directory -> its rate; sensitivity and specificity in the runs that hold labels."""
    counts = [judged_counts(run, known) for run, known in zip(runs, verdicts, strict=True)]
    parts = labels_by_run(runs, labels)
    tables = [agreement([run], [known], part).table for run, known, part in zip(runs, verdicts, parts, strict=True)]
    # Labels are a sample of these runs only.
    source = [count for count, table in zip(counts, tables, strict=True) if any(table)]
    together = agreement(runs, verdicts, labels).table
    rates = {}
    for run, count, table in zip(runs, counts, tables, strict=True):
        judged = count.asked + count.by_definition
        rates[run.path.name] = CorrectedRate(
            judged=judged,
            raw=count.yes / judged if judged else None,
            own=stats.corrected_rate(count, table) if any(table) else stats.UNDEFINED,
            carried=stats.corrected_rate(count, together, source=source),
        )
    return rates, stats.weighted_accuracy(stats.pooled(source), together)


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _interval(rate: Estimate) -> str:
    return "-" if math.isnan(rate.value) else f"{100 * rate.value:.1f} [{100 * rate.lo:.1f}, {100 * rate.hi:.1f}]"
