"""How probes are shown: progress, a table of rates, what each shows and does not, and differences between runs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from rich.console import Console

from leaderboards.probed import ProbeAgreement, ProbeRate, Results, probe_difference, probe_rate
from leaderboards.stats import Proportion
from seedbench_r1.cli import console
from seedbench_r1.runs.directory import Run
from seedbench_r1.runs.probes import RELIABLE, ProbeResult, is_exploratory

LINE_EVERY_S = 5.0


class ProbeProgress:
    """A line on standard error every few seconds."""

    def __init__(self, run: Run, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._console = console.err()
        self._seen = 0
        self._last = time.monotonic()
        if not quiet:
            self._console.print(f"probing {run.path}", soft_wrap=True)

    def observe(self, question_id: str, result: ProbeResult) -> None:
        """Take note of a result that was just written."""
        self._seen += 1
        if not self._quiet and time.monotonic() - self._last >= LINE_EVERY_S:
            self._last = time.monotonic()
            self._console.print(f" {self._seen} new results, the last of {result.probe_id}", soft_wrap=True)


def rates_of(run: Run, results: Mapping[str, Results]) -> list[ProbeRate]:
    """Of every probe with a result."""
    found = [probe_rate(run, probe_id, of_probe) for probe_id, of_probe in results.items()]
    return [rate for rate in found if rate is not None]


def print_probes(screen: Console, run: Run, results: Mapping[str, Results]) -> None:
    """Rates in percent by level, with chance next to them, and what each probe shows."""
    rates = rates_of(run, results)
    screen.print(f"{run.path}, probed without a judge", soft_wrap=True)
    table = console.table(["probe"], ("n", "% [95 %]", "L1", "L2", "L3", "chance"), padding=(0, 1, 0, 0))
    for rate in rates:
        shown = [_cell(rate, rate.overall), *(_short(rate, rate.levels.get(level)) for level in ("L1", "L2", "L3"))]
        mark = " (exploratory)" if is_exploratory(rate.probe_id) else ""
        table.add_row(rate.kind.name + mark, str(rate.overall.n), *shown, f"{100 * rate.chance:.0f}")
    if rates:
        screen.print(table)
    else:
        n_answers = sum(record.answered for record in run.records.values())
        screen.print(f" no reasoning: none of {n_answers} answers can be probed", soft_wrap=True)
    for rate in rates:
        screen.print(f" {rate.probe_id}: {rate.kind.rate}.", soft_wrap=False)
        screen.print(f"   {rate.kind.shows} {rate.kind.shows_not}", soft_wrap=False)
        for source, value in rate.sources.items():
            name = "from a rollout" if source == "rollout" else "rewritten by rule"
            screen.print(f"   Reasoning {name}: {value.k} of {value.n}, {_cell(rate, value)} %.")
    if any(is_exploratory(rate.probe_id) for rate in rates):
        screen.print(
            f" exploratory: below {RELIABLE} balanced accuracy against the truth where it is known (docs/miniature.md)"
        )
    if rates and (rates[0].no_reasoning or any(rate.missing for rate in rates)):
        missing = ", ".join(f"{rate.kind.name} {rate.missing}" for rate in rates if rate.missing)
        screen.print(
            f" not probed: {rates[0].no_reasoning} answers without reasoning or a readable answer"
            + (f"; without a result: {missing}" if missing else "")
        )


def print_differences(screen: Console, runs: Sequence[Run], results: Sequence[Mapping[str, Results]]) -> None:
    """Every run against the first, probe by probe."""
    table = console.table(["run", "probe"], ("n", "difference [95 %]", "p"), padding=(0, 1, 0, 0))
    for run, found in zip(runs[1:], results[1:], strict=True):
        for probe_id in found:
            if probe_id not in results[0]:
                continue
            delta = probe_difference((run, found[probe_id]), (runs[0], results[0][probe_id]), probe_id)
            if delta is not None:
                text = f"{100 * delta.value:+.1f} [{100 * delta.lo:+.1f}, {100 * delta.hi:+.1f}]"
                p = "no test" if delta.p is None else "< 0.001" if delta.p < 0.001 else f"{delta.p:.3f}"
                table.add_row(run.path.name, probe_id.partition("/")[0], str(delta.n), text, p)
    if table.row_count:
        screen.print(f"\nagainst {runs[0].path.name}, on the answers that both have a result for", soft_wrap=True)
        screen.print(table)
        screen.print(
            " p: cluster sign-flip test, not adjusted; no test below 95 % of the answers that can be probed. Exchanged "
            "reasoning is compared where both got it from the same source.",
            soft_wrap=False,
        )


def probes_json(run: Run, results: Mapping[str, Results]) -> dict[str, object]:
    """The JSON object of --json: counts and fractions; no level where there is no number."""
    return {
        "schema": "sbr1.probe/1",
        "run_dir": str(run.path),
        "probes": {
            rate.probe_id: {
                "rate": rate.kind.rate,
                "exploratory": is_exploratory(rate.probe_id),
                "chance": round(rate.chance, 6),
                "no_reasoning": rate.no_reasoning,
                "missing": rate.missing,
                "sources": {name: {"n": value.n, "k": value.k} for name, value in rate.sources.items()},
                "levels": {}
                if rate.says_nothing
                else {
                    name: {"n": value.n, "k": value.k, "value": value.value, "lo": value.lo, "hi": value.hi}
                    for name, value in rate.levels.items()
                },
            }
            for rate in rates_of(run, results)
        },
    }


def print_agreement(screen: Console, run: Run, judge_id: str, found: Mapping[str, ProbeAgreement]) -> None:
    """How well each probe tells the judge's consistent answers from the others."""
    numbers = ("consistent", "not", "sensitivity", "specificity", "balanced [95 %]")
    table = console.table(["probe"], numbers, padding=(0, 1, 0, 0))
    for probe_id, one in found.items():
        lo, hi = one.interval
        table.add_row(
            probe_id.partition("/")[0],
            str(one.n_consistent),
            str(one.n_inconsistent),
            f"{one.sensitivity:.3f}",
            f"{one.specificity:.3f}",
            f"{one.balanced_accuracy:.3f} [{lo:.3f}, {hi:.3f}]",
        )
    screen.print(f"{run.path}, against {judge_id}", soft_wrap=True)
    screen.print(table)


def agreement_json(run: Run, judge_id: str, found: Mapping[str, ProbeAgreement]) -> dict[str, object]:
    """The JSON object of --json."""
    probes = {i: asdict(one) | {"balanced_accuracy": one.balanced_accuracy} for i, one in found.items()}
    return {"schema": "sbr1.probe_agreement/1", "run_dir": str(run.path), "judge_id": judge_id, "probes": probes}


def _cell(rate: ProbeRate, value: Proportion) -> str:
    if rate.says_nothing:
        return "no reasoning"
    return f"{100 * value.value:.1f} [{100 * value.lo:.1f}, {100 * value.hi:.1f}]"


def _short(rate: ProbeRate, value: Proportion | None) -> str:
    return "-" if value is None or rate.says_nothing or not value.n else f"{100 * value.value:.1f}"
