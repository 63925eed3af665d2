"""How a judge's agreement with human labels is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from leaderboards import stats
from leaderboards.stats import Estimate
from seedbench_r1.cli import console

if TYPE_CHECKING:
    from seedbench_r1.judges.calibration import Agreement
    from seedbench_r1.runs.directory import Run
    from seedbench_r1.types import Verdict

GATE = 0.6  # kappa from which the report shows the column as calibrated


@dataclass(frozen=True, slots=True)
class AdjustedRate:
    """What a run's rate of consistent verdicts implies about the true one. Fractions."""

    judged: int
    raw: float | None  # None: nothing was judged
    by_sensitivity: Estimate
    by_predictive_values: Estimate  # only for the run that the labels are from


def agreement_json(
    found: Agreement, judge_id: str, runs: list[Run], verdicts: list[dict[str, Verdict]]
) -> dict[str, object]:
    """Everything as fractions; the adjusted rates run by run."""
    table = _table(found)
    kappa = stats.kappa_interval(*table)
    ppv, npv = stats.predictive_values(*table)
    return {
        "schema": "sbr1.agreement/1",
        "judge_id": judge_id,
        "n": found.n,
        "table": {"yy": found.yy, "yn": found.yn, "ny": found.ny, "nn": found.nn},
        "unlabelled": found.unlabelled,
        "undecided": found.undecided,
        "kappa": _without_se(kappa),
        "pabak": stats.pabak(*table),
        "base_rate": stats.base_rate(*table),
        "sensitivity": stats.sensitivity(*table),
        "specificity": stats.specificity(*table),
        "ppv": ppv,
        "npv": npv,
        "runs": {
            name: {
                "judged": rate.judged,
                "raw": rate.raw,
                "by_sensitivity": _without_se(rate.by_sensitivity),
                "by_predictive_values": _without_se(rate.by_predictive_values),
            }
            for name, rate in _rates(found, runs, verdicts).items()
        },
    }


def print_agreement(found: Agreement, judge_id: str, runs: list[Run], verdicts: list[dict[str, Verdict]]) -> None:
    """The block of lines for a person."""
    table = _table(found)
    kappa = stats.kappa_interval(*table)
    ppv, npv = stats.predictive_values(*table)
    screen = console.out()
    screen.print(f"{judge_id} against {found.n} labels", soft_wrap=True)
    screen.print(f"  both yes {found.yy}, judge only {found.yn}, human only {found.ny}, both no {found.nn}")
    screen.print(f"  kappa {kappa.value:.3f} [{kappa.lo:.3f}, {kappa.hi:.3f}], PABAK {stats.pabak(*table):.3f}")
    screen.print(f"  base rate (human yes) {stats.base_rate(*table):.3f}")
    screen.print(f"  sensitivity {stats.sensitivity(*table):.3f}, specificity {stats.specificity(*table):.3f}")
    screen.print(f"  predictive values: yes {ppv:.3f}, no {npv:.3f}")
    if found.unlabelled or found.undecided:
        screen.print(f"  {found.unlabelled} rows without a label, {found.undecided} labelled rows without a verdict")
    for name, rate in _rates(found, runs, verdicts).items():
        # A run without verdicts is listed, so that nobody searches for it.
        raw = "-" if rate.raw is None else f"{100 * rate.raw:.1f}"
        sensitivity, predictive = _interval(rate.by_sensitivity), _interval(rate.by_predictive_values)
        screen.print(f"  {name}: judged {raw} %, adjusted by sensitivity {sensitivity}", soft_wrap=True)
        screen.print(f"    by predictive values (only for the run the labels are from) {predictive}", soft_wrap=True)
    # nan is not at least the gate: without agreement to measure the judge stays uncalibrated.
    verdict = "calibrated" if kappa.value >= GATE else f"kappa is below {GATE}: do not rely on this judge"
    screen.print(f"  {verdict}")


def _table(found: Agreement) -> tuple[int, int, int, int]:
    return found.yy, found.yn, found.ny, found.nn


def _rates(found: Agreement, runs: list[Run], verdicts: list[dict[str, Verdict]]) -> dict[str, AdjustedRate]:
    """Name of a run's directory -> its rate."""
    rates = {}
    for run, known in zip(runs, verdicts, strict=True):
        # Undecided and failed verdicts are missing, as on the leaderboard.
        judged = [verdict.consistent for verdict in known.values() if verdict.consistent is not None]
        k, n = sum(judged), len(judged)
        rates[run.path.name] = AdjustedRate(
            judged=n,
            raw=k / n if n else None,
            by_sensitivity=stats.rogan_gladen(k, n, _table(found)),
            by_predictive_values=stats.predictive_value_rate(k, n, _table(found)),
        )
    return rates


def _without_se(estimate: Estimate) -> dict[str, float]:
    return {"value": estimate.value, "lo": estimate.lo, "hi": estimate.hi}


def _interval(rate: Estimate) -> str:
    return f"{100 * rate.value:.1f} [{100 * rate.lo:.1f}, {100 * rate.hi:.1f}]"
