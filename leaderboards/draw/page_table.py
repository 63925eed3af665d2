"""Board -> what the page's table shows: every text and every coordinate, so that templates never compute."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from leaderboards.board import Board
from leaderboards.draw.numbers import DASH, backbone, interval_text, p_text, percent, points
from leaderboards.published import PublishedRow
from leaderboards.rows import Delta, Gap, LeaderboardRow
from leaderboards.sampled import SampleNumbers
from leaderboards.shares import Bounds
from leaderboards.stats import Proportion
from seedbench_r1.types import DOMAINS

STARS = "stars: Holm-adjusted p below .05, .01, .001"
# How the keys of the columns of differences begin -> what is compared
MEASURES = {"d": "accuracy", "dc": "consistency", "ds": "sound"}
WIDTH, MARGIN = 80.0, 3.0  # of a whisker's drawing, in its own units


@dataclass(frozen=True, slots=True)
class Column:
    """One column. group: "" always shown; "domains", "levels" and "run" on demand, and in print unless "unprinted"."""

    key: str
    label: str
    title: str
    group: str = ""
    numeric: bool = True


@dataclass(frozen=True, slots=True)
class Whisker:
    """A point with its interval on the column's scale, in drawing units; zero: where a difference of 0 lies."""

    x: float | None
    lo: float
    hi: float
    zero: float | None = None


@dataclass(frozen=True, slots=True)
class CellView:
    """One cell. sort None: after all others, whatever the direction."""

    text: str
    kind: str = "value"  # value, bounds, empty, text, flags
    sort: float | str | None = None
    interval: str = ""  # "[42.0, 47.6]"
    note: str = ""  # shown when the pointer rests on the cell
    stars: str = ""  # of the Holm-adjusted p-value
    shared: str = ""  # "n=1,300" where a difference is over fewer questions than either run was asked
    whisker: Whisker | None = None


@dataclass(frozen=True, slots=True)
class RowView:
    """One row of the table. place: index of a measured run in the board's rows, None for a paper's row."""

    row_id: str
    place: int | None
    name: str
    subtitle: str  # base model and step
    cells: tuple[CellView, ...]
    flags: tuple[tuple[str, bool], ...]  # text, and whether it speaks against comparing the row
    facets: dict[str, str]  # data attributes that the filters read
    ranked: bool = False
    is_baseline: bool = False
    provenance: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class TableView:
    columns: tuple[Column, ...]  # of both
    rows: tuple[RowView, ...]  # the board's, in its order
    reported: tuple[RowView, ...]  # the papers'
    averages: tuple[str, ...]  # papers' rows that print an average alone: they would be empty lines
    facets: dict[str, tuple[str, ...]] = field(default_factory=dict)  # filter -> its choices


def table_view(board: Board) -> TableView:
    """Rows in the board's order; the papers' rows in a group of their own."""
    columns = tuple(_columns(board))
    scales = _scales(board)
    rows = tuple(_row(board, place, columns, scales) for place in range(len(board.rows)))
    reported = tuple(_reported(published, columns, scales) for published in board.published if published.accuracy)
    averages = tuple(
        f"{row.method}{', ' if row.base_model else ''}{row.base_model}: {row.average} ({row.source}, {row.table})"
        for row in board.published
        if not row.accuracy
    )
    # What the filters offer: only values that some measured row has.
    facets = {
        name: tuple(sorted({row.facets[name] for row in rows} - {""}))
        for name in ("algo", "frames", "backbone", "protocol")
    }
    return TableView(columns, rows, reported, averages, facets)


def _columns(board: Board) -> Iterable[Column]:
    levels, main = board.bank.levels, board.metric.level
    yield Column("rank", "Rank", "Rank interval from paired tests of all pairs (Holm), and tier")
    yield Column("model", "Model", "Model", numeric=False)
    yield Column("algo", "Training", "Training algorithm", numeric=False)
    for level in levels:
        yield Column(level, level, f"Accuracy on {level}, %")
    for name in (name for name in DOMAINS if name in board.bank.groups):
        yield Column(name, name.replace("Daily life", "Daily"), f"Accuracy on L3 {name}, %", "domains")
    for name in (name for name in DOMAINS if name in board.bank.groups):
        title = f"Accuracy on L3 {name} minus the baseline's, points. Exploratory: p adjusted over all domains and runs"
        label = f"Δ {name.replace('Daily life', 'Daily')} (expl.)"
        yield Column(f"d_{name}", label, title, "domains unprinted")
    for level in levels:
        group = "" if level == main else "levels"
        yield Column(f"c_{level}", f"Cons. {level}", f"Reasoning consistent with the answer on {level}, %", group)
        title = f"Consistency on {level} minus the baseline's, points; {STARS}; ‡: missing verdicts leave the sign open"
        yield Column(f"dc_{level}", f"Δ Cons. {level}", title, "" if level == main else "levels unprinted")
    yield Column("sound", f"Sound {main}", f"Correct and consistent on {main}, % of the judged")
    for level in levels:
        title = f"Correct and consistent on {level} minus the baseline's, points; {STARS}"
        yield Column(f"ds_{level}", f"Δ Sound {level}", title, "levels unprinted")
    for level in levels:
        title = f"Accuracy on {level} minus the baseline's, points; {STARS}"
        yield Column(f"d_{level}", f"Δ {level}", title, "" if level == main else "levels")
    if {"L1", "L3"} <= set(levels) and board.suite.has_levels:
        yield Column("gap", "Gap L1–L3", "Accuracy on L1 minus accuracy on L3, points")
    yield Column("base", "Base model", "What it was trained from", "run unprinted", numeric=False)
    yield Column("step", "Step", "Optimiser steps of its training", "run unprinted")
    yield Column("coverage", "Answered", "Questions answered of those in the annotation files", "run")
    yield Column("frames", "Frames", "Video frames at most", "run")
    yield Column("flags", "Flags", "What to know before comparing", numeric=False)
    yield Column("date", "Date", "When the run was completed (UTC)", "run", numeric=False)
    yield Column("commit", "Code", "Commit or version of the toolkit", "run unprinted", numeric=False)


@dataclass(frozen=True, slots=True)
class _Scale:
    """Fractions lo..hi onto a whisker's drawing."""

    lo: float
    hi: float

    def x(self, value: float) -> float:
        """Where a value lies, in drawing units."""
        # Values beyond the scale stop at its end: a paper's row may lie outside all measured ones.
        share = (min(max(value, self.lo), self.hi) - self.lo) / (self.hi - self.lo)
        return round(MARGIN + share * (WIDTH - 2 * MARGIN), 1)

    def whisker(self, value: float | None, lo: float, hi: float, *, zero: bool = False) -> Whisker | None:
        """A value and its interval; None for the value where only bounds are known."""
        # A single video has no interval, and a point alone would look exact.
        if math.isnan(lo) or math.isnan(hi):
            return None
        point = None if value is None else self.x(value)
        return Whisker(point, self.x(lo), self.x(hi), self.x(0.0) if zero else None)


def _scales(board: Board) -> dict[str, _Scale]:
    """One scale for all accuracies, one for consistency, one for soundness, one a level for distances, one for gaps."""
    rows = board.rows
    accuracy = [end for row in rows for cell in row.accuracy.values() for end in (cell.lo, cell.hi)]
    # Bounds of incomplete rows lie on the same scale as accuracies, so it must hold them too.
    accuracy += [end for row in rows for bounds in row.bounds.values() for end in (bounds.lo, bounds.hi)]
    scales = {
        "accuracy": _spanning(accuracy),
        "consistency": _spanning([end for row in rows for c in row.consistency.values() for end in (c.lo, c.hi)]),
        "sound": _spanning([end for row in rows for c in row.sound.values() for end in (c.lo, c.hi)]),
        "gap": _spanning([0.0] + [end for row in rows if row.gap for end in (row.gap.lo, row.gap.hi)]),
    }
    for key in (f"{prefix}_{name}" for name in board.bank.groups for prefix in MEASURES):
        ends = [end for row in rows if (d := _delta(row, key)) for end in (d.value, d.lo, d.hi)]
        # Symmetric about 0: a whisker left of the middle is a loss, whatever the column.
        half = max((abs(end) for end in ends if not math.isnan(end)), default=0.01) or 0.01
        scales[key] = _Scale(-half, half)
    return scales


def _delta(row: LeaderboardRow, key: str) -> Delta | None:
    """The difference that a column shows, by its key."""
    prefix, _, group = key.partition("_")
    measure = MEASURES[prefix]
    exploratory = row.domain_deltas.get(group) if measure == "accuracy" else None
    return row.delta(measure, group) or exploratory


def _spanning(ends: list[float]) -> _Scale:
    known = [end for end in ends if not math.isnan(end)]
    lo, hi = min(known, default=0.0), max(known, default=1.0)
    return _Scale(lo, hi) if hi > lo else _Scale(lo - 0.01, hi + 0.01)


def _row(board: Board, place: int, columns: tuple[Column, ...], scales: dict[str, _Scale]) -> RowView:
    row = board.rows[place]
    # The base model and the step say what the name may not.
    subtitle = [backbone(row.base_model), f"step {row.step:,}" if row.step is not None else ""]
    return RowView(
        row_id=row.run_id,
        place=place,
        name=row.model,
        subtitle=" · ".join(part for part in subtitle if part and part != row.model),
        cells=tuple(_cell(board, row, place, column.key, scales) for column in columns),
        flags=tuple((flag, flag.startswith(_AGAINST)) for flag in row.flags),
        facets={
            "algo": row.algo or "",
            "frames": "?" if row.frames is None else str(row.frames),
            "backbone": backbone(row.base_model),
            "protocol": row.protocol_id,
            "status": row.status,
            "source": "measured",
            "text": f"{row.model} {row.algo or ''} {row.base_model or ''} {row.run_id}".lower(),
        },
        ranked=row.ranked,
        is_baseline=row.run_id == board.baseline,
        provenance=tuple(row.provenance.items()),
    )


# Flags of rows that must not be compared; the others are remarks.
_AGAINST = ("INCOMPLETE", "SUBSET", "ERRORS", "PROTOCOL", "JUDGE≠", "CONTAM", "IMPOSSIBLE", "EDITED", "MIXED")


def _cell(board: Board, row: LeaderboardRow, place: int, key: str, scales: dict[str, _Scale]) -> CellView:
    if key == "rank":
        return CellView(row.rank.replace("-", DASH) or DASH, "rank", place if row.ranked else None, note=row.tier or "")
    if key in _TEXTS:
        text = _TEXTS[key](row)
        return CellView(text or DASH, "text", text or None)
    if key == "coverage":
        return CellView(f"{row.answered:,}/{row.n:,}", "text", row.coverage)
    if key == "frames":
        return CellView("?" if row.frames is None else str(row.frames), "text", float(row.frames or 0))
    if key == "step":
        return CellView(DASH if row.step is None else f"{row.step:,}", "text", row.step)
    if key == "flags":
        return CellView("", "flags", float(-len(row.flags)))
    if key == "gap":
        return _gap_cell(row.gap, scales["gap"])
    if key == "sound":
        return _share_cell(row.sound.get(board.metric.level), scales["sound"], _judge_note(row))
    if key.startswith("c_"):
        return _consistency_cell(row, key[2:], scales["consistency"])
    if key.partition("_")[0] in MEASURES:
        return _delta_cell(board, row, key, scales[key])
    if key in row.bounds:
        return _bounds_cell(row.bounds[key], scales["accuracy"])
    return _with_samples(_share_cell(row.accuracy.get(key), scales["accuracy"], "not asked"), row.sampled.get(key))


_TEXTS: dict[str, Callable[[LeaderboardRow], str]] = {
    "model": lambda row: row.model,
    "algo": lambda row: row.algo or "",
    "base": lambda row: backbone(row.base_model),
    "date": lambda row: row.date_utc[:10],
    "commit": lambda row: row.commit[:12],
}


def _judge_note(row: LeaderboardRow) -> str:
    return "not judged" if row.judge_id is None else "incomplete"


def _share_cell(cell: Proportion | None, scale: _Scale, absent: str) -> CellView:
    if cell is None or cell.n == 0:
        return CellView(DASH, "empty", note=absent)
    effect = f", design effect {cell.deff:.2f} over {cell.n_clusters:,} videos" if cell.deff > 1 else ""
    return CellView(
        text=percent(cell.value),
        sort=cell.value,
        interval=interval_text(cell.lo, cell.hi),
        note=f"{cell.k:,.10g} of {cell.n:,}{effect}",
        whisker=scale.whisker(cell.value, cell.lo, cell.hi),
    )


def _with_samples(view: CellView, numbers: SampleNumbers | None) -> CellView:
    if numbers is None or not numbers.spread:
        return view
    return replace(view, note=f"mean of {len(numbers.by_sample)} samples, {numbers.spread}; {view.note}")


def _consistency_cell(row: LeaderboardRow, level: str, scale: _Scale) -> CellView:
    view, bounds = _share_cell(row.consistency.get(level), scale, _judge_note(row)), row.verdict_bounds.get(level)
    if bounds is None:
        return view
    unknown = f"{bounds.n - bounds.answered:,} without a verdict: {percent(bounds.lo)} to {percent(bounds.hi)} in all"
    return replace(view, note=f"{view.note}; {unknown}")


def _bounds_cell(bounds: Bounds, scale: _Scale) -> CellView:
    return CellView(
        text=f"{percent(bounds.lo)}{DASH}{percent(bounds.hi)}",
        kind="bounds",
        note=f"incomplete: {bounds.answered:,} of {bounds.n:,} answered; the rest all wrong to all right",
        whisker=scale.whisker(None, bounds.lo, bounds.hi),
    )


def _gap_cell(gap: Gap | None, scale: _Scale) -> CellView:
    if gap is None:
        return CellView(DASH, "empty", note="needs complete L1 and L3")
    return CellView(
        text=points(gap.value),
        sort=gap.value,
        interval=interval_text(gap.lo, gap.hi, points),
        whisker=scale.whisker(gap.value, gap.lo, gap.hi, zero=True),
    )


def _delta_cell(board: Board, row: LeaderboardRow, key: str, scale: _Scale) -> CellView:
    delta, (prefix, _, group) = _delta(row, key), key.partition("_")
    if delta is None or board.baseline is None:
        return CellView("baseline" if row.run_id == board.baseline else DASH, "empty")
    # A reader must see that a difference is over fewer questions than the accuracies next to it.
    tables = [board.measured[run_id].outcomes for run_id in (row.run_id, board.baseline)]
    inside = board.bank.group(group)
    if MEASURES[prefix] != "accuracy":
        inside = inside & board.bank.choice  # the others are shown to no judge
    asked = max(int((table.selected & inside).sum()) for table in tables)
    how = "Benjamini-Hochberg, exploratory" if group in DOMAINS else "Holm"
    tested = delta.p_adjusted
    p = "not tested: too few shared questions" if tested is None else f"p {p_text(tested)} ({how})"
    if delta.missing:
        p += f"; {delta.missing:,} without a verdict: {points(delta.bound_lo)} to {points(delta.bound_hi)} in all"
    return CellView(
        text=points(delta.value),
        sort=delta.value,
        interval=interval_text(delta.lo, delta.hi, points),
        note=f"n = {delta.n:,}, {p}",
        stars="‡" if delta.sign_is_open else row.stars(group, MEASURES[prefix]),
        shared=f"n={delta.n:,}" if delta.n < asked else "",
        whisker=scale.whisker(delta.value, delta.lo, delta.hi, zero=True),
    )


def _source_facts(published: PublishedRow, source: str) -> tuple[tuple[str, str], ...]:
    # Papers measured it in other ways: in the notes, not in the column.
    printed = f"consistency {published.consistency} as printed" if published.consistency else ""
    average = f"average {published.average} as printed" if published.average else ""
    return ("source", source), ("average", average), ("consistency", printed), ("note", published.note)


def _reported(published: PublishedRow, columns: tuple[Column, ...], scales: dict[str, _Scale]) -> RowView:
    """A paper's row: the printed strings; an open mark where an interval is known."""

    def cell(key: str) -> CellView:
        printed = published.accuracy.get(key)
        if key == "rank":
            return CellView("†", "text")
        if key == "model":
            return CellView(published.method, "text", published.method)
        if key == "flags":
            return CellView("", "flags")
        if key == "frames":
            return CellView(published.frames, "text")
        if printed is None:
            return CellView("", "empty")
        lo, hi = (math.nan if end is None else end for end in (printed.lo, printed.hi))
        whisker = scales["accuracy"].whisker(printed.value, lo, hi)
        return CellView(printed.printed, sort=printed.value, note="as printed", whisker=whisker)

    source = f"{published.source}, {published.table}" if published.table else published.source
    return RowView(
        row_id=published.row_id,
        place=None,
        name=published.method,
        subtitle=" · ".join(part for part in (backbone(published.base_model), f"† {source}") if part),
        cells=tuple(cell(column.key) for column in columns),
        flags=tuple((flag, flag.startswith(_AGAINST)) for flag in published.flags),
        # No filter of measured rows matches these, so that papers' rows never answer one.
        facets={
            "algo": "",
            "frames": published.frames,
            "backbone": backbone(published.base_model),
            "protocol": "",
            "status": "reported",
            "source": "reported",
            "text": f"{published.method} {published.base_model} {published.source}".lower(),
        },
        provenance=tuple((name, text) for name, text in _source_facts(published, source) if text),
    )
