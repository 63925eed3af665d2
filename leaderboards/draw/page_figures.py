"""The page's pictures of runs, as coordinates: accuracy over levels, accuracy x consistency, and what is behind it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from leaderboards.board import Board
from leaderboards.draw.charts import QUADRANT_PARTS, Bar, BarChart, Chart, Series, quadrant_chart
from leaderboards.draw.looks import Look
from leaderboards.draw.numbers import interval_text, percent, points
from leaderboards.draw.page_scales import Tick, share_scale
from leaderboards.rows import Delta, Gap, LeaderboardRow
from leaderboards.stats import PairedDifference, Proportion, difference_of_gaps

LINE = 17.0  # height of a label, in drawing units
LETTER = 7.0  # width of a letter, on average


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
class Label:
    """Where a name stands; anchor: the end of it that is at x."""

    x: float
    y: float
    anchor: str = "start"


@dataclass(frozen=True, slots=True)
class PlacedSeries:
    """One run: its place among the board's rows, its points, and where its label stands."""

    place: int | None  # None: a paper's row
    name: str
    text: str  # for those who cannot see it
    points: tuple[Point, ...]
    label: Label
    strong: bool  # the best ranked run
    is_baseline: bool
    look: Look


@dataclass(frozen=True, slots=True)
class PlacedChart:
    """A chart in drawing units."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    series: tuple[PlacedSeries, ...]


@dataclass(frozen=True, slots=True)
class GapRow:
    """One line of the table of gaps."""

    place: int
    name: str
    gap: str
    interval: str
    versus: str  # the baseline's gap subtracted
    versus_interval: str


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a bar."""

    name: str
    label: str
    count: int
    share: float  # percent of the level's questions


@dataclass(frozen=True, slots=True)
class Contrast:
    """How often the reasoning is consistent, if the answer is right or if it is wrong, on a scale of 0 to 100."""

    text: str
    interval: str
    x: float
    lo: float
    hi: float


@dataclass(frozen=True, slots=True)
class QuadrantBar:
    """One run's bar, with the rates beneath it."""

    place: int
    name: str
    parts: tuple[Part, ...]
    right: Contrast | None
    wrong: Contrast | None


def slope_view(chart: Chart | None) -> PlacedChart | None:
    """The chart of levels. It grows with the number of runs, so that their names have room."""
    if chart is None:
        return None
    (panel,) = chart.panels
    levels = panel.x.categories
    # 22 units a run: a label's height and some air.
    height = max(340.0, 100 + 22 * len(panel.series))
    left, right, top, bottom = 56.0, 420.0, 20.0, height - 36
    y = share_scale([end for s in panel.series for mark in s.marks for end in mark.y[1:]], bottom, top)
    # Categories at equal distances; 24 units keep the first interval off the axis.
    xs = [left + 24 + (right - left - 24) * i / (len(levels) - 1) for i in range(len(levels))]
    # Labels at the right end of the lines, where the eye arrives.
    ends = _apart([round(y(s.marks[-1].y.value), 1) for s in panel.series], top, bottom)
    placed = []
    for series, label_y in zip(panel.series, ends, strict=True):
        at = [int(mark.x.value) for mark in series.marks]
        spans = [mark.y for mark in series.marks]
        marks = tuple(Point(xs[i], *(round(y(value), 1) for value in span)) for i, span in zip(at, spans, strict=True))
        text = ", ".join(f"{levels[i]} {percent(span.value)} %" for i, span in zip(at, spans, strict=True))
        placed.append(_placed(series, text, marks, Label(right + 14, label_y)))
    return PlacedChart(
        width=640,
        height=height,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        x_ticks=tuple(Tick(x, name) for x, name in zip(xs, levels, strict=True)),
        y_ticks=y.ticks,
        series=tuple(placed),
    )


def scatter_view(chart: Chart | None) -> PlacedChart | None:
    """The chart of accuracy (across) and consistency (up)."""
    if chart is None:
        return None
    (panel,) = chart.panels
    left, right, top, bottom, width = 44.0, 500.0, 16.0, 330.0, 560.0
    spans = [(series.marks[0].x, series.marks[0].y) for series in panel.series]
    x = share_scale([end for accuracy, _ in spans for end in accuracy[1:]], left, right)
    y = share_scale([end for _, consistency in spans for end in consistency[1:]], bottom, top)
    marks = []
    for accuracy, consistency in spans:
        x_at, x_lo, x_hi = (round(x(value), 1) for value in accuracy)
        y_at, y_lo, y_hi = (round(y(value), 1) for value in consistency)
        marks.append(Point(x_at, y_at, y_lo, y_hi, x_lo, x_hi))
    # In the order of rows: the best runs get the places nearest to their marks.
    labels = _free_labels(marks, [series.name for series in panel.series], width)
    placed = []
    for series, (a, c), mark, label in zip(panel.series, spans, marks, labels, strict=True):
        text = f"accuracy {percent(a.value)} %, consistency {percent(c.value)} %"
        placed.append(_placed(series, text, (mark,), label))
    return PlacedChart(
        width=width,
        height=380,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        x_ticks=x.ticks,
        y_ticks=y.ticks,
        series=tuple(placed),
    )


def quadrant_bars(board: Board) -> dict[str, tuple[QuadrantBar, ...]]:
    """level -> a bar for each run of its chart; levels without any are absent."""
    charts: dict[str, BarChart | None] = {level: quadrant_chart(board, level) for level in board.bank.levels}
    return {level: tuple(map(_bar, chart.bars)) for level, chart in charts.items() if chart is not None}


def gap_rows(board: Board) -> tuple[GapRow, ...]:
    """Gap of each row that has one, and how much larger it is than the baseline's (paired within each level)."""
    found = []
    for place, row in enumerate(board.rows):
        if isinstance(row.gap, Gap):
            interval = interval_text(row.gap.lo, row.gap.hi, points)
            # Not only of comparable runs, as in the chart: each line is read by itself.
            found.append(GapRow(place, row.model, points(row.gap.value), interval, *_versus(row)))
    return tuple(found)


def _versus(row: LeaderboardRow) -> tuple[str, str]:
    near, far = row.deltas.get("L1"), row.deltas.get("L3")
    # A single video has no standard error, and then the difference of gaps has none.
    if near is None or far is None or math.isnan(near.se) or math.isnan(far.se):
        return "", ""
    difference = difference_of_gaps(_paired(near), _paired(far))
    return points(difference.mean), interval_text(difference.lo, difference.hi, points)


def _paired(delta: Delta) -> PairedDifference:
    return PairedDifference(delta.value, delta.lo, delta.hi, delta.se, delta.n, delta.n_clusters)


def _bar(bar: Bar) -> QuadrantBar:
    parts = tuple(
        Part(part.field, part.label, getattr(bar.quadrants, part.field), round(bar.share(part), 3))
        for part in QUADRANT_PARTS
    )
    return QuadrantBar(bar.place, bar.name, parts, _contrast(bar.if_right), _contrast(bar.if_wrong))


def _contrast(cell: Proportion | None) -> Contrast | None:
    if cell is None or cell.n == 0:
        return None
    # The bar's scale is percent of its width.
    x, lo, hi = (round(100 * value, 1) for value in (cell.value, cell.lo, cell.hi))
    return Contrast(percent(cell.value), interval_text(cell.lo, cell.hi), x, lo, hi)


def _placed(series: Series, text: str, marks: tuple[Point, ...], label: Label) -> PlacedSeries:
    place = series.places[0] if series.places else None
    return PlacedSeries(place, series.name, text, marks, label, series.is_best, series.is_baseline, series.look)


def _apart(ys: list[float], top: float, bottom: float) -> list[float]:
    """Heights of labels, at least LINE apart, each as near to its own as the ones above it let it be."""
    order = sorted(range(len(ys)), key=lambda i: ys[i])
    placed = [0.0] * len(ys)
    lowest = top
    # Downwards from the top: each label gives way to the one above it.
    for i in order:
        placed[i] = max(ys[i], lowest)
        lowest = placed[i] + LINE
    # Then upwards from the bottom, for those that were pushed out below.
    limit = bottom
    for i in reversed(order):
        placed[i] = round(min(placed[i], limit), 1)
        limit = placed[i] - LINE
    return placed


def _free_labels(marks: Sequence[Point], names: Sequence[str], width: float) -> list[Label]:
    """A place near each mark where its name overlaps neither a name nor a mark; the right of it if there is none."""
    # A mark is a circle of radius 4: no label may cover one.
    occupied = [(mark.x - 5, mark.y - 5, mark.x + 5, mark.y + 5) for mark in marks]
    placed = []
    for mark, name in zip(marks, names, strict=True):
        choices = [
            (Label(mark.x + dx, mark.y + dy, anchor), _box(mark.x + dx, mark.y + dy, anchor, name))
            # Right of the mark first, near before far.
            for dx, anchor in ((10, "start"), (-10, "end"))
            for dy in (-8, 16, -24, 32)
        ]
        free = [choice for choice in choices if _is_free(choice[1], occupied, width)]
        label, box = (free or choices)[0]
        occupied.append(box)
        placed.append(Label(round(label.x, 1), round(label.y, 1), label.anchor))
    return placed


def _box(x: float, y: float, anchor: str, name: str) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a label."""
    # The page knows no font metrics; an estimate keeps most labels apart.
    length = LETTER * len(name)
    left = x if anchor == "start" else x - length
    return left, y - 12, left + length, y + 3


def _is_free(
    box: tuple[float, float, float, float], occupied: Sequence[tuple[float, float, float, float]], width: float
) -> bool:
    x0, y0, x1, y1 = box
    return x0 >= 0 and x1 <= width and not any(x0 < b[2] and x1 > b[0] and y0 < b[3] and y1 > b[1] for b in occupied)
