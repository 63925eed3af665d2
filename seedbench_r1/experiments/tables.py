"""An experiment's tables in Markdown: means, differences to the baseline, the single trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from leaderboards.draw.markdown import markdown_row
from leaderboards.draw.numbers import p_text
from seedbench_r1.experiments.comparison import Cell, Runs, cell, difference, pairs, right_after_wrong


def comparison_tables(variants: Mapping[str, Runs], baseline: str | None) -> list[str]:
    """Means with intervals; differences to the baseline, if it is there and has anything in common; single trainings.

    variants: row -> its runs, all on the same questions.
    """
    first = next(iter(next(iter(variants.values())).values()))
    columns = [("accuracy", split) for split in first.columns]
    columns += [("consistency", "all")] * ("consistency" in first.values)
    titles = [f"{split} {name}" if split != "all" else name for name, split in columns]
    means, singles, gains = [], [], []
    for name, runs in variants.items():
        cells = [cell(runs, measure_name, split) for measure_name, split in columns]
        means.append([name, str(len(runs)), *map(_interval, cells)])
        details = _details(runs)
        singles.append([name, *(" ".join(f"{100 * seed:.1f}" for seed in c.seeds) for c in cells), *details.values()])
        theirs = variants.get(baseline, {}) if baseline is not None and name != baseline else {}
        paired = pairs(runs, theirs)
        if paired:
            found = [difference(paired, measure_name, split) for measure_name, split in columns]
            gains.append([name, *(f"{_interval(c, sign='+')}, p {p_text(p)}" for c, p in found)])
    tables = [_table(["", "runs", *titles], means)]
    tables += [_table([f"minus {baseline}", *titles], gains)] if gains else []
    return [*tables, _table(["", *titles, *details], singles)]


def _details(runs: Runs) -> dict[str, str]:
    """What the reasoning is like, over all of a variant's trainings; {} where no judge was asked."""
    first = next(iter(runs.values()))
    kinds = {"sound": "sound", "conclusion": "right conclusion", "silent": "no conclusion"}
    shares = {
        title: float(np.mean([run.values[kind] for run in runs.values()]))
        for kind, title in kinds.items()
        if kind in first.values
    }
    if "conclusion" in first.values:
        shares["right after a wrong one"] = right_after_wrong(runs)
    for judge in first.agreement:
        shares[f"{judge} judge agrees"] = float(np.mean([run.agreement[judge] for run in runs.values()]))
    found = {title: f"{100 * share:.1f}" for title, share in shares.items()}
    return found | ({"words": f"{np.mean([run.words for run in runs.values()]):.1f}"} if found else {})


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "".join(f"{markdown_row(row)}\n" for row in [head, ["---"] * len(head), *rows])


def _interval(value: Cell, sign: str = "") -> str:
    mean, lo, hi = (f"{100 * number:{sign}.1f}" for number in (value.mean, value.lo, value.hi))
    return f"{mean} [{lo}, {hi}]"
