"""The page's pictures of trainings, as coordinates: curves in small multiples, and accuracy by training step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leaderboards.board import Board
from leaderboards.draw.charts import Panel, drawn_trainings, step_chart, training_chart
from leaderboards.draw.looks import Look, training_looks
from leaderboards.draw.numbers import DASH, backbone, interval_text, percent, short
from leaderboards.draw.page_figures import Point
from leaderboards.draw.page_scales import Scale, Tick, round_scale
from leaderboards.trainings import Training
from seedbench_r1.runs.training_snapshot import Points

WIDTH, HEIGHT = 340.0, 190.0  # of one panel, in drawing units
LEFT, RIGHT, TOP, BOTTOM = 44.0, 332.0, 8.0, 162.0
FINE = 10  # curves are drawn in tenths of a unit, as whole numbers: half the bytes


@dataclass(frozen=True, slots=True)
class Line:
    """One training in one panel."""

    key: int  # place among the trainings of the section
    places: str  # of its runs among the board's rows, "0 3": what the filter and the highlight look for
    name: str
    path: str  # the curve, smoothed; of marks, their connection
    faint: str  # the curve as it is; "" where that is the same
    look: Look
    marks: tuple[Point, ...] = ()  # evaluated checkpoints: accuracy with its interval


@dataclass(frozen=True, slots=True)
class PlacedPanel:
    title: str
    text: str  # for those who cannot see it
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class LegendEntry:
    key: int
    places: str
    name: str
    about: str  # algorithm, base model, evaluated steps
    look: Look


@dataclass(frozen=True, slots=True)
class TrainingSection:
    """Everything of the section; rows of its table are (training, first and last value of each curve)."""

    legend: tuple[LegendEntry, ...]
    panels: tuple[PlacedPanel, ...]
    steps: tuple[PlacedPanel, ...]  # accuracy by step, one a level
    consistency: tuple[PlacedPanel, ...]  # the same of consistency
    heads: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def training_section(board: Board) -> TrainingSection | None:
    """None unless a run kept curves, or one training has two checkpoints that can be compared."""
    curves, steps, consistency = training_chart(board), step_chart(board), step_chart(board, "consistency")
    if curves is None and steps is None:
        return None
    shown, panels = drawn_trainings(board), () if curves is None else curves.panels
    looks = training_looks(board, shown)
    # A training whose checkpoints cannot be compared has no line: it leaves the legend too.
    drawn = {
        series.key
        for chart in (curves, steps, consistency)
        if chart
        for panel in chart.panels
        for series in panel.series
    }
    return TrainingSection(
        legend=tuple(_legend(board, key, training, looks[key]) for key, training in enumerate(shown) if key in drawn),
        panels=tuple(_curve_panel(panel) for panel in panels),
        steps=() if steps is None else tuple(_step_panel(panel) for panel in steps.panels),
        consistency=() if consistency is None else tuple(_step_panel(panel) for panel in consistency.panels),
        heads=tuple(panel.title for panel in panels),
        rows=tuple(
            (training.name, tuple(_from_to(_points(panel, key)) for panel in panels))
            for key, training in enumerate(shown)
            if training.curves
        ),
    )


def _points(panel: Panel, key: int) -> Points:
    return next((series.points for series in panel.series if series.key == key), ())


def _legend(board: Board, key: int, training: Training, look: Look) -> LegendEntry:
    row = board.rows[training.places[0]]
    algorithm = "" if row.algo == training.name else row.algo or ""
    evaluated = ", ".join(f"{step:,}" for step in dict.fromkeys(training.steps))
    noun = "steps" if len(set(training.steps)) > 1 else "step"
    about = [part for part in (algorithm, backbone(row.base_model), f"evaluated at {noun} {evaluated}") if part]
    return LegendEntry(key, _places(training.places), training.name, " · ".join(about), look)


def _curve_panel(panel: Panel) -> PlacedPanel:
    points = [point for series in panel.series for point in series.points]
    # From step 0, so that a continued training does not look like a fresh one.
    x = round_scale([0.0, *(step for step, _ in points)], LEFT, RIGHT, whole=panel.x.whole)
    y = round_scale([value for _, value in points], BOTTOM, TOP)
    lines = tuple(
        Line(
            key=series.key,
            places=_places(series.places),
            name=series.name,
            path=_path(series.curve, x, y),
            faint=_path(series.recorded, x, y),
            look=series.look,
        )
        for series in panel.series
    )
    text = "; ".join(f"{series.name} {_from_to(series.points)}" for series in panel.series)
    return PlacedPanel(panel.title, f"{panel.title} by step: {text}", x.ticks, y.ticks, lines)


def _step_panel(panel: Panel) -> PlacedPanel:
    every = [mark for series in panel.series for mark in series.marks]
    x = round_scale([mark.x.value for mark in every], LEFT + 8, RIGHT - 8, whole=panel.x.whole)
    y = round_scale([100 * end for mark in every for end in mark.y[1:]], BOTTOM, TOP)
    lines, texts = [], []
    for series in panel.series:
        marks = tuple(
            Point(round(x(step.value), 1), *(round(y(100 * end), 1) for end in (share.value, share.hi, share.lo)))
            for step, share in series.marks
        )
        path = _path([(step.value, 100 * share.value) for step, share in series.marks], x, y)
        lines.append(Line(series.key, _places(series.places), series.name, path, "", series.look, marks))
        listed = ", ".join(
            f"step {step.value:,.0f}: {percent(share.value)} {interval_text(share.lo, share.hi)}"
            for step, share in series.marks
        )
        texts.append(f"{series.name}: {listed}")
    measure = panel.y.label
    text = f"{measure} on {panel.title} by step. {'; '.join(texts)}"
    return PlacedPanel(f"{panel.title}, {measure}", text, x.ticks, y.ticks, tuple(lines))


def _places(places: Sequence[int]) -> str:
    return " ".join(map(str, places))


def _path(points: Sequence[tuple[float, float]], x: Scale, y: Scale) -> str:
    """A path in tenths of a drawing unit, each point relative to the one before; "" for no points."""
    parts = []
    last = (0, 0)
    for place, (step, value) in enumerate(points):
        here = round(FINE * x(step)), round(FINE * y(value))
        dx, dy = here[0] - last[0], here[1] - last[1]
        parts.append(f"M{dx} {dy}" if place == 0 else f"l{dx} {dy}" if dy >= 0 else f"l{dx}{dy}")
        last = here
    return "".join(parts)


def _from_to(points: Points) -> str:
    """ "0.31 to 0.92": means over the first and the last tenth of a curve."""
    if not points:
        return DASH
    size = max(1, len(points) // 10)
    # A tenth, since single steps are noisy.
    first, last = (sum(value for _, value in part) / size for part in (points[:size], points[-size:]))
    return f"{short(first)} to {short(last)}"
