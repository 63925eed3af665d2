"""Board -> what each chart shows, in data units. Page and files only map it to coordinates, so they cannot disagree.

A chart that the board has no numbers for is None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from leaderboards.board import Board
from leaderboards.draw.looks import COLOURS, Look, run_looks, training_looks
from leaderboards.rows import LeaderboardRow
from leaderboards.shares import Quadrants
from leaderboards.stats import Proportion
from leaderboards.trainings import TITLES, Training, smooth, trainings
from seedbench_r1.runs.training_snapshot import Points
from seedbench_r1.types import LEVELS


class Span(NamedTuple):
    """A value with the ends of its 95 % interval; all three are equal where it is exact."""

    value: float
    lo: float
    hi: float


class Mark(NamedTuple):
    """One point of a chart."""

    x: Span
    y: Span


@dataclass(frozen=True, slots=True)
class Axis:
    """What is measured along one side of a panel."""

    label: str
    percent: bool = False  # values are fractions, to be shown in percent
    whole: bool = False  # only whole numbers make sense, as of steps
    categories: tuple[str, ...] = ()  # names of the values 0, 1, 2, ...


@dataclass(frozen=True, slots=True)
class Series:
    """One run or one training: points with intervals, or a curve."""

    name: str
    places: tuple[int, ...]  # of its runs among the board's rows
    key: int  # its place among the chart's runs or trainings: the same in every panel, and in page and files
    look: Look
    marks: tuple[Mark, ...] = ()
    curve: Points = ()  # smoothed
    recorded: Points = ()  # the curve before smoothing; empty where that is the same
    is_best: bool = False  # the first of the ranked runs
    is_baseline: bool = False

    @property
    def points(self) -> Points:
        """The curve as it was recorded."""
        return self.recorded or self.curve


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes."""

    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """One picture: a panel, or several that share their series' colours."""

    name: str  # of its files
    title: str
    panels: tuple[Panel, ...]
    note: str  # what a reader without the page must know


@dataclass(frozen=True, slots=True)
class QuadrantPart:
    """One part of a bar: a field of Quadrants and what it is called."""

    field: str
    label: str
    gloss: str = ""  # the usual word for it


@dataclass(frozen=True, slots=True)
class Bar:
    """One run's questions on a level by correctness and consistency, and how often it is consistent within each."""

    name: str
    place: int  # among the board's rows
    quadrants: Quadrants
    if_right: Proportion | None
    if_wrong: Proportion | None

    def share(self, part: QuadrantPart) -> float:
        """A part as a percentage of the level's questions."""
        count: int = getattr(self.quadrants, part.field)
        return 100 * count / self.quadrants.n


@dataclass(frozen=True, slots=True)
class BarChart:
    """A bar a run."""

    name: str
    title: str
    level: str
    bars: tuple[Bar, ...]
    note: str


# In the order of a bar, from its left end.
QUADRANT_PARTS = (
    QuadrantPart("correct_consistent", "right, consistent"),
    QuadrantPart("correct_inconsistent", "right, inconsistent", "lucky"),
    QuadrantPart("wrong_consistent", "wrong, consistent", "honest error"),
    QuadrantPart("wrong_inconsistent", "wrong, inconsistent"),
    QuadrantPart("no_reasoning", "no reasoning or no answer"),
    QuadrantPart("undecided", "undecided"),
    QuadrantPart("error", "failed"),
)

STEP = Axis("step", whole=True)
ACCURACY = Axis("accuracy, %", percent=True)


def level_chart(board: Board, *, at_most: int | None = None) -> Chart | None:
    """Accuracy from L1 to L3, a line a run, of the runs that have two levels.

    Here and below `at_most` limits the runs to the best ones and the baseline, for print.
    """
    # Other suites' splits are no steps of one shift.
    levels = [level for level in LEVELS if level in board.bank.levels] if board.suite.has_levels else []
    # A line needs two ends.
    rows = [row for row in board.comparable if sum(level in row.accuracy for level in levels) > 1]
    shown = _featured(board, rows, at_most)
    if not shown:
        return None
    series = []
    for key, row in enumerate(shown):
        cells = [(i, row.accuracy[level]) for i, level in enumerate(levels) if level in row.accuracy]
        series.append(_of_run(board, row, key, tuple(Mark(_exact(i), _span(cell)) for i, cell in cells)))
    axis = Axis("level", categories=tuple(levels))
    # Printed under the file's chart, which travels without the page's text.
    note = f"95 % intervals, clustered by video{_some(shown, rows)}. The levels hold different questions."
    return Chart("levels", "Accuracy on L1, L2 and L3", (Panel("", axis, ACCURACY, tuple(series)),), note)


def consistency_chart(board: Board, *, at_most: int | None = None) -> Chart | None:
    """Accuracy (x) against consistency (y) on the metric's level, by the board's judge."""
    level = board.metric.level
    rows = [row for row in _judged(board) if level in row.consistency and level in row.accuracy]
    shown = _featured(board, rows, at_most)
    if not shown:
        return None
    series = tuple(
        _of_run(board, row, key, (Mark(_span(row.accuracy[level]), _span(row.consistency[level])),))
        for key, row in enumerate(shown)
    )
    printed = _printed_series(board, level, len(series))
    panel = Panel(
        title=level,
        x=Axis(f"accuracy on {level}, %", percent=True),
        y=Axis(f"reasoning consistency on {level}, %", percent=True),
        series=series + printed,
    )
    reported = " Outlines: as papers print it, their own judge and questions." if printed else ""
    note = f"95 % intervals, clustered by video{_some(shown, rows)}. Judge: {board.judge_id}.{reported}"
    return Chart("consistency", "Accuracy and reasoning consistency", (panel,), note)


def _printed_series(board: Board, level: str, first_key: int) -> tuple[Series, ...]:
    """Papers' rows that print both; of a consistency nothing but the number is known."""
    found: list[Series] = []
    for row in board.published:
        cell = row.accuracy.get(level)
        # The main results; the ablations of Table 3 would crowd the runs out.
        if cell is None or not row.consistency or not row.table.startswith("Table 2"):
            continue
        lo, hi = (cell.value if end is None else end for end in (cell.lo, cell.hi))
        mark = Mark(Span(cell.value, lo, hi), _exact(float(row.consistency) / 100))
        look = Look(COLOURS.get(_algorithm(row.method)), reported=True)
        found.append(Series(f"{row.method} †", (), first_key + len(found), look, (mark,)))
    return tuple(found)


def _algorithm(method: str) -> str:
    """The algorithm that a paper's method names: "GRPO-CARE" -> "care"."""
    name = method.lower()
    return next((algo for algo in COLOURS if algo in name), "")


def quadrant_chart(board: Board, level: str, *, at_most: int | None = None) -> BarChart | None:
    """Answers of a level by correctness and consistency: a bar a run, by the board's judge."""
    rows = [row for row in _judged(board) if level in row.quadrants]
    shown = _featured(board, rows, at_most)
    if not shown:
        return None
    places = _places(board)
    bars = []
    for row in shown:
        if_right, if_wrong = row.consistency_by_correctness.get(level, (None, None))
        bars.append(Bar(row.model, places[row.run_id], row.quadrants[level], if_right, if_wrong))
    note = f"Judge: {board.judge_id}{_some(shown, rows)}."
    return BarChart("quadrants", "Answers by correctness and consistency", level, tuple(bars), note)


def drawn_trainings(board: Board) -> tuple[Training, ...]:
    """The trainings that have something to draw. A training's place here is its key in both charts below."""
    return tuple(t for t in trainings(board) if t.curves or len(set(t.steps)) > 1)


def step_chart(board: Board, measure: str = "accuracy") -> Chart | None:
    """Accuracy or consistency by training step, a panel a level, of trainings with two checkpoints on that level."""
    # A SUBSET checkpoint would bend the line without the model having changed.
    shares = {
        row.run_id: row.accuracy if measure == "accuracy" else row.consistency
        for row in (board.comparable if measure == "accuracy" else _judged(board))
    }
    panels, drawn = [], drawn_trainings(board)
    looks = training_looks(board, drawn)
    for level in board.bank.levels:
        series = []
        # The key counts all drawn trainings, so that it means the same training in every panel.
        for key, (training, look) in enumerate(zip(drawn, looks, strict=True)):
            rows = [(step, board.rows[place]) for step, place in zip(training.steps, training.places, strict=True)]
            cells = [(s, shares[r.run_id][level]) for s, r in rows if level in shares.get(r.run_id, {})]
            if len({step for step, _ in cells}) > 1:
                marks = tuple(Mark(_exact(step), _span(cell)) for step, cell in cells)
                series.append(Series(training.name, training.places, key, look, marks))
        if series:
            panels.append(Panel(level, STEP, Axis(f"{measure}, %", percent=True), tuple(series)))
    if not panels:
        return None
    names = dict.fromkeys(series.name for panel in panels for series in panel.series)
    note = f"{', '.join(names)}. 95 % intervals, clustered by video. The best of several steps is flattered."
    name = "steps" if measure == "accuracy" else f"steps_{measure}"
    return Chart(name, f"{measure.capitalize()} by training step", tuple(panels), note)


def training_chart(board: Board, *, at_most: int | None = None) -> Chart | None:
    """Curves by step, a panel a quantity and a line a training."""
    drawn = drawn_trainings(board)
    looks = training_looks(board, drawn)
    shown = [(key, training) for key, training in enumerate(drawn) if training.curves][:at_most]
    panels = []
    for name, title in TITLES.items():
        known = [(key, training) for key, training in shown if name in training.curves]
        if known:
            series = tuple(_of_training(key, training, looks[key], training.curves[name]) for key, training in known)
            panels.append(Panel(title, STEP, Axis(title), series))
    if not panels:
        return None
    note = "By optimiser step. Faint: at most 300 points a curve. Strong: running mean over a twentieth of them."
    return Chart("training", "Training curves", tuple(panels), note)


def _of_run(board: Board, row: LeaderboardRow, key: int, marks: tuple[Mark, ...]) -> Series:
    place = _places(board)[row.run_id]
    return Series(
        name=row.model,
        places=(place,),
        key=key,
        look=run_looks(board)[row.run_id],
        marks=marks,
        is_best=place == 0 and row.ranked,
        is_baseline=row.run_id == board.baseline,
    )


def _of_training(key: int, training: Training, look: Look, recorded: Points) -> Series:
    # Both are drawn: the mean to be read, the points to see how noisy it is.
    curve = smooth(recorded)
    recorded = () if curve == recorded else recorded
    return Series(training.name, training.places, key, look, curve=curve, recorded=recorded)


def _judged(board: Board) -> list[LeaderboardRow]:
    """Comparable rows with verdicts of the board's judge: rates of different judges never share a chart."""
    return [row for row in board.comparable if row.judge_id == board.judge_id]


def _places(board: Board) -> dict[str, int]:
    return {row.run_id: place for place, row in enumerate(board.rows)}


def _featured(board: Board, rows: Sequence[LeaderboardRow], at_most: int | None) -> list[LeaderboardRow]:
    """The first rows, as many as wanted, the baseline always among them."""
    if at_most is None:
        return list(rows)
    baseline = [row for row in rows[at_most:] if row.run_id == board.baseline]
    return [*rows[: at_most - len(baseline)], *baseline]


def _some(shown: Sequence[LeaderboardRow], rows: Sequence[LeaderboardRow]) -> str:
    return f"; {len(shown)} of {len(rows)} runs" if len(shown) < len(rows) else ""


def _span(cell: Proportion) -> Span:
    return Span(cell.value, cell.lo, cell.hi)


def _exact(value: float) -> Span:
    return Span(value, value, value)
