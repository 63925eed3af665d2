"""Board -> the page's charts as coordinates: accuracy over levels, accuracy x consistency, and what is behind it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from leaderboards.board import Board
from leaderboards.draw.page_table import interval_text, percent, points
from leaderboards.rows import Delta, Gap, LeaderboardRow, Quadrants
from leaderboards.stats import PairedDifference, Proportion, difference_of_gaps
from seedbench_r1.types import LEVELS

LINE = 17.0  # height of a label, in drawing units

# Field of Quadrants, label, in the order of the bar.
PARTS = (
    ("correct_consistent", "right, consistent"),
    ("correct_inconsistent", "right, inconsistent"),
    ("wrong_consistent", "wrong, consistent"),
    ("wrong_inconsistent", "wrong, inconsistent"),
    ("no_reasoning", "no reasoning or no answer"),
    ("undecided", "undecided"),
    ("error", "failed"),
)


@dataclass(frozen=True, slots=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Point:
    """A share with its interval. On a slope chart the interval is vertical; x_lo and x_hi are those of a cross."""

    x: float
    y: float
    y_lo: float
    y_hi: float
    x_lo: float = 0.0
    x_hi: float = 0.0


@dataclass(frozen=True, slots=True)
class Series:
    """One run: its place among the board's rows, its points, and where its label stands."""

    place: int
    name: str
    text: str  # for those who cannot see it
    points: tuple[Point, ...]
    label_x: float
    label_y: float
    anchor: str
    strong: bool  # the first ranked row: the one drawn in colour
    is_baseline: bool


@dataclass(frozen=True, slots=True)
class Chart:
    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    series: tuple[Series, ...]


@dataclass(frozen=True, slots=True)
class GapRow:
    """One line of the table beside the slope chart."""

    place: int
    name: str
    gap: str
    interval: str
    versus: str  # the baseline's gap subtracted
    versus_interval: str


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    label: str
    count: int
    share: float  # percent of the level's questions


@dataclass(frozen=True, slots=True)
class Contrast:
    """P(consistent | right) or P(consistent | wrong), on a scale of 0 to 100."""

    text: str
    interval: str
    x: float
    lo: float
    hi: float


@dataclass(frozen=True, slots=True)
class QuadrantBar:
    place: int
    name: str
    parts: tuple[Part, ...]
    right: Contrast | None
    wrong: Contrast | None


def slope_chart(board: Board) -> Chart | None:
    """Accuracy on L1, L2 and L3 of the complete rows; None unless there are two levels."""
    levels = [name for name in LEVELS if name in board.bank.levels]
    rows = [(place, row) for place, row in enumerate(board.rows) if all(name in row.accuracy for name in levels)]
    if len(levels) < 2 or not rows:
        return None
    height = max(340.0, 100 + 22 * len(rows))
    left, right, top, bottom = 56.0, 420.0, 20.0, height - 36
    axis = _axis([end for _, row in rows for name in levels for end in _interval(row.accuracy[name])])
    xs = [left + 24 + (right - left - 24) * i / (len(levels) - 1) for i in range(len(levels))]

    def y(value: float) -> float:
        return round(bottom - (value - axis[0]) / (axis[-1] - axis[0]) * (bottom - top), 1)

    ends = _apart([y(row.accuracy[levels[-1]].value) for _, row in rows], top, bottom)
    series = []
    for (place, row), label_y in zip(rows, ends, strict=True):
        cells = [row.accuracy[name] for name in levels]
        marks = tuple(Point(x, y(c.value), y(c.lo), y(c.hi)) for x, c in zip(xs, cells, strict=True))
        text = ", ".join(f"{name} {percent(c.value)} %" for name, c in zip(levels, cells, strict=True))
        series.append(_series(board, place, text, marks, (right + 14, label_y, "start")))
    return Chart(
        width=640,
        height=height,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        x_ticks=tuple(Tick(x, name) for x, name in zip(xs, levels, strict=True)),
        y_ticks=tuple(Tick(y(value), f"{100 * value:.0f}") for value in axis),
        series=tuple(series),
    )


def scatter_chart(board: Board) -> Chart | None:
    """Accuracy (x) against consistency (y) on the metric's level, by the board's judge; None if nothing was judged."""
    level = board.metric.level
    rows = [
        (place, row)
        for place, row in enumerate(board.rows)
        if level in row.accuracy and level in row.consistency and row.judge_id == board.judge_id
    ]
    if not rows:
        return None
    left, right, top, bottom, width = 44.0, 500.0, 16.0, 330.0, 560.0
    x_axis = _axis([end for _, row in rows for end in _interval(row.accuracy[level])])
    y_axis = _axis([end for _, row in rows for end in _interval(row.consistency[level])])

    def x(value: float) -> float:
        return round(left + (value - x_axis[0]) / (x_axis[-1] - x_axis[0]) * (right - left), 1)

    def y(value: float) -> float:
        return round(bottom - (value - y_axis[0]) / (y_axis[-1] - y_axis[0]) * (bottom - top), 1)

    marks = []
    for _, row in rows:
        a, c = row.accuracy[level], row.consistency[level]
        marks.append(Point(x(a.value), y(c.value), y(c.lo), y(c.hi), x(a.lo), x(a.hi)))
    labels = _labels(marks, [row.model for _, row in rows], width)
    series = []
    for (place, row), mark, label in zip(rows, marks, labels, strict=True):
        text = f"accuracy {percent(row.accuracy[level].value)} %, consistency {percent(row.consistency[level].value)} %"
        series.append(_series(board, place, text, (mark,), label))
    return Chart(
        width=width,
        height=380,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        x_ticks=tuple(Tick(x(value), f"{100 * value:.0f}") for value in x_axis),
        y_ticks=tuple(Tick(y(value), f"{100 * value:.0f}") for value in y_axis),
        series=tuple(series),
    )


def gap_rows(board: Board) -> tuple[GapRow, ...]:
    """Gap of each row that has one, and how much larger it is than the baseline's (paired within each level)."""
    return tuple(
        GapRow(
            place=place,
            name=row.model,
            gap=points(row.gap.value),
            interval=interval_text(row.gap.lo, row.gap.hi, points),
            versus=_versus(row)[0],
            versus_interval=_versus(row)[1],
        )
        for place, row in enumerate(board.rows)
        if isinstance(row.gap, Gap)
    )


def quadrant_bars(board: Board) -> dict[str, tuple[QuadrantBar, ...]]:
    """level -> a bar for each judged row, by the board's judge; levels without any are absent."""
    found = {
        level: tuple(
            _bar(place, row, level, row.quadrants[level])
            for place, row in enumerate(board.rows)
            if level in row.quadrants and row.judge_id == board.judge_id
        )
        for level in board.bank.levels
    }
    return {level: bars for level, bars in found.items() if bars}


def _versus(row: LeaderboardRow) -> tuple[str, str]:
    near, far = row.deltas.get("L1"), row.deltas.get("L3")
    if near is None or far is None or math.isnan(near.se) or math.isnan(far.se):
        return "", ""
    difference = difference_of_gaps(_paired(near), _paired(far))
    return points(difference.mean), interval_text(difference.lo, difference.hi, points)


def _paired(delta: Delta) -> PairedDifference:
    return PairedDifference(delta.value, delta.lo, delta.hi, delta.se, delta.n, delta.n_clusters)


def _bar(place: int, row: LeaderboardRow, level: str, quadrants: Quadrants) -> QuadrantBar:
    counts = [(name, label, getattr(quadrants, name)) for name, label in PARTS]
    parts = tuple(Part(name, label, k, round(100 * k / quadrants.n, 3)) for name, label, k in counts)
    right, wrong = row.consistency_by_correctness.get(level, (None, None))
    return QuadrantBar(place, row.model, parts, _contrast(right), _contrast(wrong))


def _contrast(cell: Proportion | None) -> Contrast | None:
    if cell is None or cell.n == 0:
        return None
    x, lo, hi = (round(100 * value, 1) for value in (cell.value, cell.lo, cell.hi))
    return Contrast(percent(cell.value), interval_text(cell.lo, cell.hi), x, lo, hi)


def _series(board: Board, place: int, text: str, marks: tuple[Point, ...], label: tuple[float, float, str]) -> Series:
    row = board.rows[place]
    strong, is_baseline = place == 0 and row.ranked, row.run_id == board.baseline
    return Series(place, row.model, text, marks, *label, strong=strong, is_baseline=is_baseline)


def _interval(cell: Proportion) -> tuple[float, float]:
    return cell.lo, cell.hi


def _axis(ends: Sequence[float]) -> list[float]:
    """Ticks that enclose all ends: steps of 1, 2, 5, 10 or 20 points, at most eight."""
    known = [end for end in ends if not math.isnan(end)] or [0.0, 1.0]
    lo, hi = min(known), max(known)
    for step in (1, 2, 5, 10, 20):
        first, last = math.floor(100 * lo / step + 1e-9), math.ceil(100 * hi / step - 1e-9)
        if last - first <= 7:
            break
    last = max(last, first + 1)
    return [step * i / 100 for i in range(first, last + 1)]


def _apart(ys: list[float], top: float, bottom: float) -> list[float]:
    """Heights of labels, at least LINE apart, each as near to its own as the ones above it let it be."""
    order = sorted(range(len(ys)), key=lambda i: ys[i])
    placed = [0.0] * len(ys)
    lowest = top
    for i in order:
        placed[i] = max(ys[i], lowest)
        lowest = placed[i] + LINE
    limit = bottom
    for i in reversed(order):
        placed[i] = round(min(placed[i], limit), 1)
        limit = placed[i] - LINE
    return placed


def _labels(marks: list[Point], names: list[str], width: float) -> list[tuple[float, float, str]]:
    """A place beside each mark where its name overlaps neither a name nor a mark; the right of it if there is none."""
    taken = [(mark.x - 5, mark.y - 5, mark.x + 5, mark.y + 5) for mark in marks]
    placed = []
    for mark, name in zip(marks, names, strict=True):
        length = 7.0 * len(name)
        choices = [(mark.x + 10, dy, "start") for dy in (-8, 16, -24, 32)]
        choices += [(mark.x - 10, dy, "end") for dy in (-8, 16, -24, 32)]
        boxes = []
        for x, dy, anchor in choices:
            x0 = x if anchor == "start" else x - length
            boxes.append((x0, mark.y + dy - 12, x0 + length, mark.y + dy + 3))
        free = [
            i
            for i, (x0, y0, x1, y1) in enumerate(boxes)
            if x0 >= 0 and x1 <= width and not any(x0 < b[2] and x1 > b[0] and y0 < b[3] and y1 > b[1] for b in taken)
        ]
        best = free[0] if free else 0
        taken.append(boxes[best])
        x, dy, anchor = choices[best]
        placed.append((round(x, 1), round(mark.y + dy, 1), anchor))
    return placed
