"""Board -> the page's training charts as coordinates: curves in small multiples, and accuracy by training step."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from leaderboards.board import Board
from leaderboards.draw.page_figures import Tick
from leaderboards.draw.page_table import MINUS, backbone, interval_text, percent
from leaderboards.stats import Proportion
from leaderboards.trainings import TITLES, Training, smooth, trainings
from seedbench_r1.runs.training_snapshot import Points
from seedbench_r1.types import LEVELS

WIDTH, HEIGHT = 340.0, 190.0  # of one panel, in drawing units
LEFT, RIGHT, TOP, BOTTOM = 44.0, 332.0, 8.0, 162.0
FINE = 10  # curves are drawn in tenths of a unit, as whole numbers: half the bytes


@dataclass(frozen=True, slots=True)
class Mark:
    """One evaluated checkpoint: its accuracy with its interval."""

    x: float
    y: float
    y_lo: float
    y_hi: float


@dataclass(frozen=True, slots=True)
class Line:
    """One training in one panel."""

    key: int  # place among the trainings of the section: its colour
    places: str  # of its runs among the board's rows, "0 3": what the filter and the highlight look for
    name: str
    path: str  # the curve, smoothed; of marks, their connection
    faint: str  # the curve as it is; "" where that is the same
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class Panel:
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


@dataclass(frozen=True, slots=True)
class TrainingSection:
    """Everything of the section; rows of its table are (training, first and last value of each curve)."""

    legend: tuple[LegendEntry, ...]
    panels: tuple[Panel, ...]
    steps: tuple[Panel, ...]  # accuracy by step, one a level
    heads: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


def training_section(board: Board) -> TrainingSection | None:
    """None unless a run kept curves, or one training has two evaluated checkpoints."""
    shown = [t for t in trainings(board) if t.curves or len(set(t.steps)) > 1]
    names = [name for name in TITLES if any(name in training.curves for training in shown)]
    steps = [panel for level in LEVELS if (panel := _step_panel(board, shown, level)) is not None]
    if not names and not steps:
        return None
    return TrainingSection(
        legend=tuple(_legend(board, key, training) for key, training in enumerate(shown)),
        panels=tuple(_curve_panel(shown, name) for name in names),
        steps=tuple(steps),
        heads=tuple(TITLES[name] for name in names),
        rows=tuple(
            (training.name, tuple(_from_to(training.curves.get(name, ())) for name in names))
            for training in shown
            if training.curves
        ),
    )


def _legend(board: Board, key: int, training: Training) -> LegendEntry:
    row = board.rows[training.places[0]]
    algorithm = "" if row.algo == training.name else row.algo or ""
    evaluated = ", ".join(f"{step:,}" for step in dict.fromkeys(training.steps))
    noun = "steps" if len(set(training.steps)) > 1 else "step"
    about = [part for part in (algorithm, backbone(row.base_model), f"evaluated at {noun} {evaluated}") if part]
    return LegendEntry(key, _places(training), training.name, " · ".join(about))


def _curve_panel(shown: Sequence[Training], name: str) -> Panel:
    known = [(key, training) for key, training in enumerate(shown) if name in training.curves]
    points = [point for _, training in known for point in training.curves[name]]
    x, x_ticks = _scale([0.0, *(step for step, _ in points)], LEFT, RIGHT, whole=True)
    y, y_ticks = _scale([value for _, value in points], BOTTOM, TOP)
    lines = []
    for key, training in known:
        curve = training.curves[name]
        smoothed = smooth(curve)
        faint = "" if smoothed == curve else _path(curve, x, y)
        lines.append(Line(key, _places(training), training.name, _path(smoothed, x, y), faint))
    text = "; ".join(f"{training.name} {_from_to(training.curves[name])}" for _, training in known)
    return Panel(TITLES[name], f"{TITLES[name]} by step: {text}", x_ticks, y_ticks, tuple(lines))


def _step_panel(board: Board, shown: Sequence[Training], level: str) -> Panel | None:
    """Accuracy of the checkpoints of those trainings that have two with this level complete; None if there are none."""
    known: list[tuple[int, Training, list[tuple[int, Proportion]]]] = []
    for key, training in enumerate(shown):
        rows = zip(training.steps, (board.rows[place] for place in training.places), strict=True)
        cells = [
            (step, row.accuracy[level]) for step, row in rows if level in row.accuracy and row.status == "complete"
        ]
        if len({step for step, _ in cells}) > 1:
            known.append((key, training, cells))
    if not known:
        return None
    every = [cell for _, _, cells in known for _, cell in cells]
    x, x_ticks = _scale([step for _, _, cells in known for step, _ in cells], LEFT + 8, RIGHT - 8, whole=True)
    y, y_ticks = _scale([100 * end for cell in every for end in (cell.lo, cell.hi)], BOTTOM, TOP)
    lines, texts = [], []
    for key, training, cells in known:
        marks = tuple(
            Mark(round(x(step), 1), *(round(y(100 * end), 1) for end in (cell.value, cell.hi, cell.lo)))
            for step, cell in cells
        )
        path = _path([(step, 100 * cell.value) for step, cell in cells], x, y)
        lines.append(Line(key, _places(training), training.name, path, "", marks))
        listed = ", ".join(f"step {step:,}: {percent(c.value)} {interval_text(c.lo, c.hi)}" for step, c in cells)
        texts.append(f"{training.name}: {listed}")
    return Panel(
        f"{level}, accuracy %", f"Accuracy on {level} by step. {'; '.join(texts)}", x_ticks, y_ticks, tuple(lines)
    )


def _places(training: Training) -> str:
    return " ".join(map(str, training.places))


def _path(points: Sequence[tuple[float, float]], x: Callable[[float], float], y: Callable[[float], float]) -> str:
    """A path in tenths of a drawing unit, each point relative to the one before."""
    parts = []
    last = (0, 0)
    for place, (step, value) in enumerate(points):
        here = round(FINE * x(step)), round(FINE * y(value))
        dx, dy = here[0] - last[0], here[1] - last[1]
        parts.append(f"M{dx} {dy}" if place == 0 else f"l{dx} {dy}" if dy >= 0 else f"l{dx}{dy}")
        last = here
    return "".join(parts)


def _scale(
    values: Sequence[float], start: float, end: float, *, whole: bool = False
) -> tuple[Callable[[float], float], tuple[Tick, ...]]:
    """A linear scale over round numbers that enclose the values, and a tick at each of these."""
    lo, hi = min(values), max(values)
    step = _round_step(hi - lo or abs(hi) or 1.0, whole=whole)
    first, last = math.floor(lo / step + 1e-9), math.ceil(hi / step - 1e-9)
    last = max(last, first + 1)
    if whole:  # steps: the scale ends where the training does
        first_value, last_value = lo, max(hi, lo + 1)
    else:
        first_value, last_value = first * step, last * step

    def place(value: float) -> float:
        return start + (value - first_value) / (last_value - first_value) * (end - start)

    at = [step * i for i in range(first, last + 1) if first_value <= step * i <= last_value]
    return place, tuple(
        Tick(round(place(value), 1), text) for value, text in zip(at, _tick_texts(at, step), strict=True)
    )


def _tick_texts(values: Sequence[float], step: float) -> list[str]:
    """As many decimals as the step needs; below a thousandth in powers of ten, since zeros would not fit."""
    exponent, largest = math.floor(math.log10(step) + 1e-9), max(map(abs, values), default=0.0)
    if not 0 < largest < 1e-3:
        return [_fixed(value, max(0, -exponent)) for value in values]
    digits = math.floor(math.log10(largest) + 1e-9) - exponent + 1
    return [re.sub(r"e-0?", "e-", f"{value:.{digits}g}").replace("-", MINUS) for value in values]


def _round_step(span: float, *, whole: bool) -> float:
    """1, 2 or 5 times a power of ten, so that about four of them span it."""
    rough = span / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.99)
    return max(1.0, step) if whole else step


def _fixed(value: float, decimals: int) -> str:
    """So many decimals, thousands with commas, a true minus sign."""
    text = f"{abs(value):,.{decimals}f}"
    return MINUS + text if value < 0 and float(text.replace(",", "")) else text


def _from_to(points: Points) -> str:
    """ "0.31 to 0.92": means over the first and the last tenth of a curve."""
    if not points:
        return "–"
    size = max(1, len(points) // 10)
    first, last = (sum(value for _, value in part) / size for part in (points[:size], points[-size:]))
    return f"{_short(first)} to {_short(last)}"


def _short(value: float) -> str:
    """Three significant digits, thousands with commas, no needless zeros."""
    size = abs(float(f"{value:.3g}"))
    if size and size < 0.001:
        text = f"{size:.0e}".replace("e-0", "e-")
    else:
        text = f"{size:,.0f}" if size >= 1000 else f"{size:.6f}".rstrip("0").rstrip(".")
    return MINUS + text if value < 0 and size else text
