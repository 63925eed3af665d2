"""Charts for papers: charts/*.svg and *.pdf, drawn by matplotlib. The same board gives the same bytes.

SVG text is text; ink is `currentColor` and series colours are CSS variables, light or dark as the reader prefers.
Series differ by colour and by marker, parts of a bar by colour and by pattern.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from leaderboards.board import Board
from leaderboards.rows import LeaderboardRow
from leaderboards.stats import Proportion
from leaderboards.trainings import TITLES as CURVE_TITLES
from leaderboards.trainings import smooth, trainings
from seedbench_r1.files import make_folder, write_error, write_text
from seedbench_r1.runs.training_snapshot import Points
from seedbench_r1.types import LEVELS

FEATURED = 12  # lines that can still be told apart in one chart
INK = "#1b1c1e"
# Okabe and Ito's colours, readable without colour vision; the two lightest are left out. Second: on dark paper.
PALETTE = (
    ("#0072b2", "#56b4e9"),
    ("#d55e00", "#f0853a"),
    ("#009e73", "#2fc79b"),
    ("#cc79a7", "#e39cc3"),
    ("#7a5195", "#b48ad0"),
    ("#8c6d1f", "#d6b656"),
)
MARKERS = "osD^vPX*"

# Field of Quadrants, label, place in the palette, pattern.
PARTS = (
    ("correct_consistent", "right, consistent", 2, ""),
    ("correct_inconsistent", "right, inconsistent (lucky)", 2, "////"),
    ("wrong_consistent", "wrong, consistent (honest error)", 1, ""),
    ("wrong_inconsistent", "wrong, inconsistent", 1, "////"),
    ("no_reasoning", "no reasoning or no answer", 3, r"\\\\"),
    ("undecided", "undecided", 5, "xxxx"),
    ("error", "failed", 4, "----"),
)

_SETTINGS: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.6,
}


def write_charts(board: Board, folder: Path) -> list[Path]:
    """Write those charts that the board has numbers for; the files, SVG and PDF by turns. Raises ResourceError."""
    charts: dict[str, Callable[[Board], Figure | None]] = {
        "levels": level_chart,
        "consistency": consistency_chart,
        "quadrants": quadrant_chart,
        "steps": step_chart,
        "training": training_chart,
    }
    written = []
    for name, draw in charts.items():
        with mpl.rc_context({**_SETTINGS, "svg.hashsalt": f"seedbench-r1 {name}"}):
            figure = draw(board)
            if figure is None:
                continue
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # laid out once, for both files
            make_folder(folder)
            try:
                figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None, "Creator": None})
            except OSError as error:
                raise write_error(folder, error) from error
            write_text(folder / f"{name}.svg", svg(figure, name, f"{TITLES[name]}, SEED-Bench-R1"))
        written += [folder / f"{name}.svg", folder / f"{name}.pdf"]
    return written


TITLES = {
    "levels": "Accuracy on L1, L2 and L3",
    "consistency": "Accuracy and reasoning consistency",
    "quadrants": "Answers by correctness and consistency",
    "steps": "Accuracy by training step",
    "training": "Training curves",
}


def level_chart(board: Board) -> Figure | None:
    """Accuracy from L1 to L3, a line a run, with intervals. None without a run that has two levels."""
    levels = [level for level in LEVELS if level in board.bank.levels]
    rows = [row for row in _comparable(board) if sum(level in row.accuracy for level in levels) > 1]
    shown = _featured(board, rows)
    if not shown:
        return None
    figure, axes = _canvas(6.5, 4.0)
    labels = []
    for place, row in enumerate(shown):
        shift = 0.12 * (place / max(1, len(shown) - 1) - 0.5)
        at = [i + shift for i, level in enumerate(levels) if level in row.accuracy]
        cells = [row.accuracy[level] for level in levels if level in row.accuracy]
        _series(axes, place, at, cells, row.run_id)
        labels.append((100 * cells[-1].value, row.model, _colour(place)))
    axes.set_xticks(range(len(levels)), levels)
    axes.set_xlim(-0.3, len(levels) - 1 + 0.2)
    axes.set_ylabel("accuracy, %")
    _end_labels(axes, labels, len(levels) - 1 + 0.14)
    _note(figure, f"95 % intervals, clustered by video{_some(shown, rows)}. The levels hold different questions.")
    return figure


def consistency_chart(board: Board) -> Figure | None:
    """Accuracy (x) against consistency (y) on the metric's level, with interval crosses. None without verdicts."""
    level = board.metric.level
    rows = [
        r for r in _comparable(board) if r.judge_id == board.judge_id and level in r.consistency and level in r.accuracy
    ]
    shown = _featured(board, rows)
    if not shown:
        return None
    figure, axes = _canvas(6.5, 4.4)
    for place, row in enumerate(shown):
        x, y = row.accuracy[level], row.consistency[level]
        axes.errorbar(
            [100 * x.value],
            [100 * y.value],
            xerr=_errors([x]),
            yerr=_errors([y]),
            color=_colour(place),
            marker=MARKERS[place % len(MARKERS)],
            markersize=5,
            linewidth=1,
            label=row.model,
        )
    axes.set_xlabel(f"accuracy on {level}, %")
    axes.set_ylabel(f"reasoning consistency on {level}, %")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    _note(figure, f"95 % intervals, clustered by video{_some(shown, rows)}. Judge: {board.judge_id}.")
    return figure


def quadrant_chart(board: Board) -> Figure | None:
    """Shares of right and wrong, consistent and inconsistent answers: a bar a run, on the metric's level."""
    level = board.metric.level
    rows = [row for row in _comparable(board) if row.judge_id == board.judge_id and level in row.quadrants]
    shown = _featured(board, rows)
    if not shown:
        return None
    figure, axes = _canvas(6.5, 1.1 + 0.3 * len(shown))
    left = [0.0] * len(shown)
    for name, label, colour, pattern in PARTS:
        shares = [100 * getattr(row.quadrants[level], name) / row.quadrants[level].n for row in shown]
        if any(shares):
            face = PALETTE[colour][0]
            axes.barh(
                range(len(shown)),
                shares,
                left=left,
                color=face,
                hatch=pattern,
                edgecolor=INK,
                linewidth=0.4,
                label=label,
            )
        left = [start + share for start, share in zip(left, shares, strict=True)]
    axes.set_yticks(range(len(shown)), [row.model for row in shown])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"share of the questions of {level}, %")
    _legend_above(figure, *axes.get_legend_handles_labels(), columns=2)
    _note(figure, f"Judge: {board.judge_id}{_some(shown, rows)}.")
    return figure


def step_chart(board: Board) -> Figure | None:
    """Accuracy by training step, a line a training. None unless one has two checkpoints."""
    comparable = {row.run_id for row in _comparable(board)}
    sweeps: dict[str, list[tuple[int, LeaderboardRow]]] = {}
    for training in trainings(board):
        rows = [(step, board.rows[place]) for step, place in zip(training.steps, training.places, strict=True)]
        rows = [(step, row) for step, row in rows if row.run_id in comparable]
        if len({step for step, _ in rows}) > 1:
            sweeps[training.name] = rows
    levels = [level for level in LEVELS if level in board.bank.levels]
    if not sweeps or not levels:
        return None
    figure = _figure(6.5, 2.6)
    panels = figure.subplots(1, len(levels), sharey=True, squeeze=False)[0]
    for axes, level in zip(panels, levels, strict=True):
        for place, (name, rows) in enumerate(sweeps.items()):
            points = [(step, row.accuracy[level]) for step, row in rows if level in row.accuracy]
            _series(axes, place, [step for step, _ in points], [cell for _, cell in points], name)
        axes.set_title(level, fontsize=9, color=INK)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        _grid(axes)
    panels[0].set_ylabel("accuracy, %")
    if len(sweeps) > 1:
        _legend_above(figure, *panels[0].get_legend_handles_labels(), columns=2)
    _note(figure, f"{', '.join(sweeps)}. 95 % intervals, clustered by video. The best of several steps is flattered.")
    return figure


def training_chart(board: Board) -> Figure | None:
    """Curves of the trainings, a panel a quantity and a line a training. None where no run kept any."""
    shown = [training for training in trainings(board) if training.curves][:FEATURED]
    names = [name for name in CURVE_TITLES if any(name in training.curves for training in shown)]
    if not names:
        return None
    columns = min(3, len(names))
    lines = math.ceil(len(names) / columns)
    figure = _figure(6.5, 0.2 + 1.75 * lines)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=False):
        for place, training in enumerate(shown):
            if name in training.curves:
                _curve(axes, place, training.curves[name], training.name)
        axes.set_title(CURVE_TITLES[name], fontsize=8, color=INK)
        axes.tick_params(labelsize=7)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        _grid(axes)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    labels = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    _legend_above(figure, list(labels.values()), list(labels), columns=3)
    _note(
        figure, "By optimiser step. Faint: at most 300 points a curve. Strong: running mean over a twentieth of them."
    )
    return figure


def _curve(axes: Axes, place: int, points: Points, label: str) -> None:
    style = "-" if place < len(PALETTE) else "--"
    colour = _colour(place)
    smoothed = smooth(points)
    if smoothed != points:
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=0.5, alpha=0.3)
    axes.plot(*zip(*smoothed, strict=True), color=colour, linewidth=1.2, linestyle=style, label=label)


def svg(figure: Figure, name: str, title: str) -> str:
    """The figure as an SVG document whose ink and series colours follow the page around it, or the reader's theme."""
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue().decode("utf-8")
    text = re.sub(r"(?s)<metadata>.*?</metadata>\s*", "", text).replace(INK, "currentColor")
    for place, (light, _) in enumerate(PALETTE, start=1):
        text = text.replace(light, f"var(--chart-{place}, {light})")
    text = re.sub(
        r'id="((?:figure|axes|patch|line2d|text|matplotlib|legend|xtick|ytick|PathCollection|LineCollection)[._]\w+)"',
        rf'id="{name}-\1"',
        text,
    )
    light = "".join(f"--chart-{place}:{colours[0]};" for place, colours in enumerate(PALETTE, start=1))
    dark = "".join(f"--chart-{place}:{colours[1]};" for place, colours in enumerate(PALETTE, start=1))
    style = (
        f"<style>:root{{color:{INK};{light}}}"
        f"@media (prefers-color-scheme: dark){{:root{{color:#e8e6e3;{dark}}}}}</style>"
    )
    return re.sub(
        r"(<svg [^>]*)>", rf'\1 role="img" aria-label="{title}">\n <title>{title}</title>{style}', text, count=1
    )


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    figure = _figure(width, height)
    axes = figure.subplots()
    _grid(axes)
    return figure, axes


def _grid(axes: Axes) -> None:
    axes.grid(visible=True, color=INK, alpha=0.12, linewidth=0.6)
    axes.set_axisbelow(True)


def _comparable(board: Board) -> list[LeaderboardRow]:
    """Complete runs of the ranked protocol: only these share a chart."""
    protocols = {group.protocol_id for group in board.protocols if group.ranked}
    return [row for row in board.rows if row.status == "complete" and row.protocol_id in protocols]


def _featured(board: Board, rows: Sequence[LeaderboardRow]) -> list[LeaderboardRow]:
    """The best rows, as many as can be told apart, the baseline always among them."""
    shown = list(rows[:FEATURED])
    baseline = [row for row in rows[FEATURED:] if row.run_id == board.baseline]
    return shown[: FEATURED - len(baseline)] + baseline


def _some(shown: Sequence[LeaderboardRow], rows: Sequence[LeaderboardRow]) -> str:
    return f"; {len(shown)} of {len(rows)} runs" if len(shown) < len(rows) else ""


def _colour(place: int) -> str:
    return PALETTE[place % len(PALETTE)][0]


def _errors(cells: Sequence[Proportion]) -> list[list[float]]:
    below = [max(0.0, 100 * (cell.value - cell.lo)) for cell in cells]
    return [below, [max(0.0, 100 * (cell.hi - cell.value)) for cell in cells]]


def _series(axes: Axes, place: int, at: Sequence[float], cells: Sequence[Proportion], label: str) -> None:
    axes.errorbar(
        at,
        [100 * cell.value for cell in cells],
        yerr=_errors(cells),
        color=_colour(place),
        marker=MARKERS[place % len(MARKERS)],
        linestyle="-" if place < len(PALETTE) else "--",
        markersize=4.5,
        linewidth=1.2,
        elinewidth=0.8,
        label=label,
    )


def _end_labels(axes: Axes, labels: list[tuple[float, str, str]], x: float) -> None:
    """Names at the right end of their lines, moved apart where they would touch."""
    low, high = axes.get_ylim()
    apart = (high - low) / 20
    ordered = sorted(labels, reverse=True)
    places: list[float] = []
    for value, _, _ in ordered:
        places.append(min(value, places[-1] - apart) if places else value)
    floor = low
    for i in reversed(range(len(places))):  # up again where they left the axes below
        places[i] = max(places[i], floor)
        floor = places[i] + apart
    for y, (_, name, colour) in zip(places, ordered, strict=True):
        axes.text(x, y, name, color=colour, va="center", fontsize=8)


def _legend_above(figure: Figure, handles: Sequence[Any], labels: Sequence[str], *, columns: int) -> None:
    """A legend in as many columns, up to `columns`, as the width holds; the figure grows by its height."""
    for n in range(columns, 0, -1):
        legend = figure.legend(handles, labels, loc="outside upper center", ncols=n, frameon=False, fontsize=8)
        extent = legend.get_window_extent()
        if extent.width <= figure.bbox.width or n == 1:
            break
        legend.remove()
    figure.set_figheight(figure.get_figheight() + extent.height / figure.dpi)


def _note(figure: Figure, text: str) -> None:
    figure.supxlabel(text, fontsize=7.5, color=INK)
