"""Charts for papers: charts/*.svg and *.pdf, drawn by matplotlib. The same board gives the same bytes.

SVG text is text; ink is `currentColor` and series colours are CSS variables, light or dark as the reader prefers.
Series differ by colour and by marker, parts of a bar by colour and by pattern.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from leaderboards.board import Board
from leaderboards.draw import charts
from seedbench_r1.files import make_folder, write_error, write_text

FEATURED = 12  # lines that a reader can still follow in one chart
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

# Of the parts of a bar: place in the palette, pattern.
PART_STYLES = {
    "correct_consistent": (2, ""),
    "correct_inconsistent": (2, "////"),
    "wrong_consistent": (1, ""),
    "wrong_inconsistent": (1, "////"),
    "no_reasoning": (3, r"\\\\"),
    "undecided": (5, "xxxx"),
    "error": (4, "----"),
}

# matplotlib types the keys as a Literal of every setting there is.
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
    # The metric's level only: a file a level would be a folder that nobody looks through.
    described: tuple[charts.Chart | charts.BarChart | None, ...] = (
        charts.level_chart(board, at_most=FEATURED),
        charts.consistency_chart(board, at_most=FEATURED),
        charts.quadrant_chart(board, board.metric.level, at_most=FEATURED),
        charts.step_chart(board),
        charts.step_chart(board, "consistency"),
        charts.training_chart(board, at_most=FEATURED),
    )
    written = []
    for chart in described:
        if chart is None:
            continue
        # The salt makes matplotlib's ids the same in every process, and different from those of the other charts.
        with mpl.rc_context({**_SETTINGS, "svg.hashsalt": f"seedbench-r1 {chart.name}"}):
            figure = draw(chart)
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # laid out once, for both files
            make_folder(folder)
            try:
                figure.savefig(folder / f"{chart.name}.pdf", metadata={"CreationDate": None, "Creator": None})
            except OSError as error:
                raise write_error(folder, error) from error
            write_text(folder / f"{chart.name}.svg", svg(figure, chart.name, f"{chart.title}, {board.title}"))
        written += [folder / f"{chart.name}.svg", folder / f"{chart.name}.pdf"]
    return written


def draw(chart: charts.Chart | charts.BarChart) -> Figure:
    """The chart as a figure, not yet laid out."""
    if isinstance(chart, charts.BarChart):
        return _bars(chart)
    draw_lines = {
        "levels": _levels,
        "consistency": _consistency,
        "steps": _steps,
        "steps_consistency": _steps,
        "training": _training,
    }
    return draw_lines[chart.name](chart)


def _levels(chart: charts.Chart) -> Figure:
    (panel,) = chart.panels
    figure, axes = _canvas(6.5, 4.0)
    labels = []
    for i, series in enumerate(panel.series):
        # Side by side, so that intervals of one level do not hide each other.
        shift = 0.12 * (i / max(1, len(panel.series) - 1) - 0.5)
        _line(axes, series, [mark.x.value + shift for mark in series.marks])
        labels.append((100 * series.marks[-1].y.value, series.name, _ink(series)))
    last = len(panel.x.categories) - 1
    axes.set_xticks(range(last + 1), panel.x.categories)
    axes.set_xlim(-0.3, last + 0.2)
    axes.set_ylabel(panel.y.label)
    _end_labels(axes, labels, last + 0.14)
    _note(figure, chart.note)
    return figure


def _consistency(chart: charts.Chart) -> Figure:
    (panel,) = chart.panels
    figure, axes = _canvas(6.5, 4.4)
    for series in panel.series:
        (mark,) = series.marks
        axes.errorbar(
            [100 * mark.x.value],
            [100 * mark.y.value],
            xerr=_errors([mark.x]),
            yerr=_errors([mark.y]),
            color=_ink(series),
            alpha=_shade(series),
            marker=_marker(series.key),
            markerfacecolor="none" if series.look.reported else None,
            markersize=5,
            linewidth=1,
            label=series.name,
        )
    axes.set_xlabel(panel.x.label)
    axes.set_ylabel(panel.y.label)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    _note(figure, chart.note)
    return figure


def _bars(chart: charts.BarChart) -> Figure:
    figure, axes = _canvas(6.5, 1.1 + 0.3 * len(chart.bars))
    left = [0.0] * len(chart.bars)
    for part in charts.QUADRANT_PARTS:
        shares = [bar.share(part) for bar in chart.bars]
        # A legend entry for what no run has would only take room.
        if any(shares):
            colour, pattern = PART_STYLES[part.field]
            axes.barh(
                range(len(chart.bars)),
                shares,
                left=left,
                color=_colour(colour),
                hatch=pattern,
                edgecolor=INK,
                linewidth=0.4,
                label=f"{part.label} ({part.gloss})" if part.gloss else part.label,
            )
        left = [start + share for start, share in zip(left, shares, strict=True)]
    axes.set_yticks(range(len(chart.bars)), [bar.name for bar in chart.bars])
    # The best run on top, as in the table.
    axes.invert_yaxis()
    # Without it matplotlib leaves a margin right of 100 %.
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"share of the questions of {chart.level}, %")
    _legend_above(figure, *axes.get_legend_handles_labels(), columns=2)
    _note(figure, chart.note)
    return figure


def _steps(chart: charts.Chart) -> Figure:
    figure = _figure(6.5, 2.6)
    panels = figure.subplots(1, len(chart.panels), sharey=True, squeeze=False)[0]
    for axes, panel in zip(panels, chart.panels, strict=True):
        for series in panel.series:
            _line(axes, series, [mark.x.value for mark in series.marks])
        axes.set_title(panel.title, fontsize=9, color=INK)
        axes.set_xlabel(panel.x.label)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=panel.x.whole))
        _grid(axes)
    panels[0].set_ylabel(chart.panels[0].y.label)
    labels = _labels_of(panels)
    if len(labels) > 1:
        _legend_above(figure, list(labels.values()), list(labels), columns=2)
    _note(figure, chart.note)
    return figure


def _training(chart: charts.Chart) -> Figure:
    columns = min(3, len(chart.panels))
    lines = math.ceil(len(chart.panels) / columns)
    figure = _figure(6.5, 0.2 + 1.75 * lines)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, panel in zip(panels, chart.panels, strict=False):
        for series in panel.series:
            _curve(axes, series)
        axes.set_title(panel.title, fontsize=8, color=INK)
        axes.tick_params(labelsize=7)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=panel.x.whole))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        _grid(axes)
    # The last row of panels may not be full.
    for axes in panels[len(chart.panels) :]:
        axes.set_axis_off()
    labels = _labels_of(panels)
    _legend_above(figure, list(labels.values()), list(labels), columns=3)
    _note(figure, chart.note)
    return figure


def _labels_of(panels: Iterable[Axes]) -> dict[str, Artist]:
    """Name -> one of its lines, over all panels: a series may be in some of them only."""
    return {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}


def _curve(axes: Axes, series: charts.Series) -> None:
    colour = _ink(series)
    if series.recorded:
        axes.plot(*zip(*series.recorded, strict=True), color=colour, linewidth=0.5, alpha=0.3)
    at, values = zip(*series.curve, strict=True)
    axes.plot(at, values, color=colour, linewidth=1.2, linestyle=_style(series), label=series.name)


def _line(axes: Axes, series: charts.Series, at: Sequence[float]) -> None:
    axes.errorbar(
        at,
        [100 * mark.y.value for mark in series.marks],
        yerr=_errors([mark.y for mark in series.marks]),
        color=_ink(series),
        alpha=_shade(series),
        marker=_marker(series.key),
        linestyle=_style(series),
        markersize=4.5,
        linewidth=1.2,
        elinewidth=0.8,
        label=series.name,
    )


def _errors(spans: Sequence[charts.Span]) -> tuple[list[float], list[float]]:
    """Lengths below and above, in percent."""
    # Rounding may put an end a hair on the wrong side of its value, which matplotlib refuses.
    below = [max(0.0, 100 * (span.value - span.lo)) for span in spans]
    return below, [max(0.0, 100 * (span.hi - span.value)) for span in spans]


def _colour(key: int) -> str:
    return PALETTE[key % len(PALETTE)][0]


def _marker(key: int) -> str:
    return MARKERS[key % len(MARKERS)]


def _ink(series: charts.Series) -> str:
    """The algorithm's colour, unshaded; the baseline is plain, as on the page."""
    return INK if series.is_baseline or series.look.colour is None else _colour(series.look.colour)


def _shade(series: charts.Series) -> float:
    return 1.0 if series.is_baseline else series.look.shade


def _style(series: charts.Series) -> str:
    """Dashes for the baseline, and for the second of a colour."""
    return "--" if series.is_baseline or series.look.dashed else "-"


def svg(figure: Figure, name: str, title: str) -> str:
    """The figure as an SVG document whose ink and series colours follow the page around it, or the reader's theme."""
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue().decode("utf-8")
    # The date and the program's name would change the bytes from day to day.
    text = re.sub(r"(?s)<metadata>.*?</metadata>\s*", "", text).replace(INK, "currentColor")
    # Each colour becomes a variable, with itself for viewers that know none.
    for place, (light, _) in enumerate(PALETTE, start=1):
        text = text.replace(light, f"var(--chart-{place}, {light})")
    # Two charts in one page must not share ids: a reference would find the other chart's shape.
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
    # Without pyplot: no window system, no global state, nothing to close.
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


def _end_labels(axes: Axes, labels: list[tuple[float, str, str]], x: float) -> None:
    """Names at the right end of their lines, moved apart where they would touch."""
    low, high = axes.get_ylim()
    # About the height of a line of text, in data units.
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


def _legend_above(figure: Figure, handles: Sequence[Artist], labels: Sequence[str], *, columns: int) -> None:
    """A legend in as many columns, up to `columns`, as the width holds; the figure grows by its height."""
    # Long names need fewer columns; a single one is used whatever its width.
    for n in range(columns, 0, -1):
        legend = figure.legend(handles, labels, loc="outside upper center", ncols=n, frameon=False, fontsize=8)
        extent = legend.get_window_extent()
        if extent.width <= figure.bbox.width or n == 1:
            break
        legend.remove()
    figure.set_figheight(figure.get_figheight() + extent.height / figure.dpi)


def _note(figure: Figure, text: str) -> None:
    figure.supxlabel(text, fontsize=7.5, color=INK)
