"""How a judge's agreement with human labels is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seedbench_r1.cli import console

if TYPE_CHECKING:
    from seedbench_r1.judges.calibration import Agreement
    from seedbench_r1.runs.directory import Run
    from seedbench_r1.types import Verdict

GATE = 0.6  # kappa from which the report shows the column as calibrated


def agreement_json(
    found: Agreement, judge_id: str, runs: list[Run], verdicts: list[dict[str, Verdict]]
) -> dict[str, Any]:
    """Everything as fractions; the adjusted rates run by run."""
    from leaderboards import stats

    table = (found.yy, found.yn, found.ny, found.nn)
    kappa = stats.kappa_interval(*table)
    ppv, npv = stats.predictive_values(*table)
    return {
        "schema": "sbr1.agreement/1",
        "judge_id": judge_id,
        "n": found.n,
        "table": {"yy": found.yy, "yn": found.yn, "ny": found.ny, "nn": found.nn},
        "unlabelled": found.unlabelled,
        "undecided": found.undecided,
        "kappa": {"value": kappa.value, "lo": kappa.lo, "hi": kappa.hi},
        "pabak": stats.pabak(*table),
        "base_rate": stats.base_rate(*table),
        "sensitivity": stats.sensitivity(*table),
        "specificity": stats.specificity(*table),
        "ppv": ppv,
        "npv": npv,
        "runs": {run.path.name: _rates(known, table) for run, known in zip(runs, verdicts, strict=True)},
    }


def _rates(known: dict[str, Verdict], table: tuple[int, int, int, int]) -> dict[str, Any]:
    """The raw rate of a run and what it implies about the true one."""
    from leaderboards import stats

    judged = [verdict.consistent for verdict in known.values() if verdict.consistent is not None]
    k, n = sum(judged), len(judged)
    adjusted = stats.rogan_gladen(k, n, table)
    predictive = stats.predictive_value_rate(k, n, table)
    return {
        "judged": n,
        "raw": k / n if n else None,
        "by_sensitivity": {"value": adjusted.value, "lo": adjusted.lo, "hi": adjusted.hi},
        "by_predictive_values": {"value": predictive.value, "lo": predictive.lo, "hi": predictive.hi},
    }


def print_agreement(found: Agreement, judge_id: str, runs: list[Run], verdicts: list[dict[str, Verdict]]) -> None:
    """The block of lines for a person."""
    value = agreement_json(found, judge_id, runs, verdicts)
    kappa = value["kappa"]
    screen = console.out()
    screen.print(f"{judge_id} against {found.n} labels", soft_wrap=True)
    screen.print(f"  both yes {found.yy}, judge only {found.yn}, human only {found.ny}, both no {found.nn}")
    screen.print(f"  kappa {kappa['value']:.3f} [{kappa['lo']:.3f}, {kappa['hi']:.3f}], PABAK {value['pabak']:.3f}")
    screen.print(f"  base rate (human yes) {value['base_rate']:.3f}")
    screen.print(f"  sensitivity {value['sensitivity']:.3f}, specificity {value['specificity']:.3f}")
    screen.print(f"  predictive values: yes {value['ppv']:.3f}, no {value['npv']:.3f}")
    if found.unlabelled or found.undecided:
        screen.print(f"  {found.unlabelled} rows without a label, {found.undecided} labelled rows without a verdict")
    for name, rates in value["runs"].items():
        raw = "-" if rates["raw"] is None else f"{100 * rates['raw']:.1f}"
        low_high = [_interval(rates[key]) for key in ("by_sensitivity", "by_predictive_values")]
        screen.print(f"  {name}: judged {raw} %, adjusted by sensitivity {low_high[0]}", soft_wrap=True)
        screen.print(f"    by predictive values (only for the run the labels are from) {low_high[1]}", soft_wrap=True)
    verdict = "calibrated" if kappa["value"] >= GATE else f"kappa is below {GATE}: do not rely on this judge"
    screen.print(f"  {verdict}")


def _interval(rate: dict[str, float]) -> str:
    return f"{100 * rate['value']:.1f} [{100 * rate['lo']:.1f}, {100 * rate['hi']:.1f}]"
