"""How results on the general video benchmarks of GRPO-CARE's Table 4 are shown."""

from __future__ import annotations

import math
from collections.abc import Callable

from rich.table import Table

from seedbench_r1.cli import console
from seedbench_r1.scoring import GroupSummary, RunSummary
from seedbench_r1.suites.transfer import BENCHMARKS
from seedbench_r1.types import VideoConfig, to_json


def print_transfer(summary: RunSummary, video: VideoConfig | None) -> None:
    """One column for each benchmark of Table 4, then scores by kind of question."""
    screen = console.out()
    table = transfer_table(summary)
    wide = screen.measure(table, options=screen.options.update(width=400)).maximum
    screen.width = max(wide, screen.width)  # a line that the terminal wraps is better than numbers cut off
    screen.print(table)
    for line in kind_lines(summary):
        screen.print(line, soft_wrap=True)
    how = "imported, settings unknown"
    if video is not None:
        how = f"own prompt, {video.max_frames} frames of at most {video.max_pixels:,} pixels"
    screen.print(f" transfer: {how}; not to be mixed with SEED-Bench-R1 results", soft_wrap=True)


def transfer_table(summary: RunSummary) -> Table:
    """Rows: our score, the reference's rule, and counts. Columns: the benchmarks, in the order of Table 4."""
    table = console.table([""], BENCHMARKS.values())
    rows: dict[str, Callable[[GroupSummary], str]] = {
        "score %": _score_cell,
        "reference rule %": lambda group: _percent(group.strict_accuracy if group.is_complete else None),
        "questions": lambda group: f"{group.n}" if group.selected == group.n else f"{group.selected} of {group.n}",
        "unparsed": lambda group: str(group.unparsed),
        "truncated": lambda group: str(group.truncated),
        "failed": lambda group: str(group.failed),
    }
    for name, cell in rows.items():
        groups = [summary.splits.get(key) for key in BENCHMARKS]
        table.add_row(name, *("-" if group is None else cell(group) for group in groups))
    return table


def kind_lines(summary: RunSummary) -> list[str]:
    """For benchmarks of several kinds: each kind's score, all questions together, and the mean of the kinds."""
    lines = []
    for key, kinds in summary.groups.items():
        if len(kinds) < 2:
            continue
        parts = [f"{_metric(kind)} {_percent(_mean(group))} (n {group.selected})" for kind, group in kinds.items()]
        parts.append(f"all questions {_percent(_mean(summary.splits[key]))}")
        parts.append(f"mean of types {_percent(mean_of_kinds(kinds))}")
        lines.append(f" {BENCHMARKS[key]}: {', '.join(parts)}")
    return lines


def mean_of_kinds(kinds: dict[str, GroupSummary]) -> float | None:
    """The unweighted mean of the kinds' means, as a fraction; None while a question has no answer."""
    means = [mean for group in kinds.values() if (mean := _mean(group)) is not None]
    return math.fsum(means) / len(means) if means and len(means) == len(kinds) else None


def transfer_values(summary: RunSummary) -> dict[str, object]:
    """The summary for --json. Fractions, not percentages; null where there is no number."""
    return {
        "status": summary.status,
        "benchmarks": {name: _values(group) for name, group in summary.splits.items()},
        "problem_types": {
            name: {kind: _values(group) for kind, group in kinds.items()} for name, kinds in summary.groups.items()
        },
        "mean_of_types": {name: mean_of_kinds(kinds) for name, kinds in summary.groups.items()},
    }


def _values(group: GroupSummary) -> dict[str, object]:
    strict = group.strict_accuracy if group.is_complete else None
    return {**to_json(group), "mean": _mean(group), "strict_mean": strict}


def _mean(group: GroupSummary) -> float | None:
    return group.accuracy if group.is_complete else None


def _metric(kind: str) -> str:
    return "regression (MRA)" if kind == "regression" else kind


def _score_cell(group: GroupSummary) -> str:
    """The mean; for an incomplete group the bounds with the missing answers all wrong and all right."""
    missing = group.selected - group.answered
    if not missing:
        return _percent(group.accuracy)
    return f"{100 * group.correct / group.selected:.1f}-{100 * (group.correct + missing) / group.selected:.1f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
