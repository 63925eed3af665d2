"""The page's panel of probes: one table a probe, what it shows above it, every run's rate and difference below."""

from __future__ import annotations

from dataclasses import dataclass

from leaderboards import stats
from leaderboards.board import Board
from leaderboards.draw.numbers import DASH, interval_text, p_text, percent, points
from leaderboards.probed import ALL, ProbeDifference, ProbeRate, probe_difference, probe_rate
from leaderboards.rows import stars_of
from leaderboards.stats import Proportion
from seedbench_r1.runs.probes import RELIABLE, agreement_of, is_exploratory
from seedbench_r1.types import LEVELS


@dataclass(frozen=True, slots=True)
class ProbeRow:
    """One run under one probe, as texts."""

    place: int  # among the board's rows
    name: str
    n: str
    rate: str
    interval: str
    levels: tuple[str, ...]
    difference: str
    difference_interval: str
    stars: str
    note: str


@dataclass(frozen=True, slots=True)
class ProbeTable:
    """One probe."""

    probe_id: str
    title: str
    shows: str
    shows_not: str
    exploratory: str  # why it is marked so; "" if it is not
    chance: str
    levels: tuple[str, ...]
    rows: tuple[ProbeRow, ...]


def probe_tables(board: Board) -> tuple[ProbeTable, ...]:
    """Of every probe with a result in any run, in the order of the runs' files."""
    ids = dict.fromkeys(probe_id for measured in board.measured.values() for probe_id in measured.probes)
    tables = (_table(board, probe_id) for probe_id in ids)
    return tuple(table for table in tables if table is not None)


def _table(board: Board, probe_id: str) -> ProbeTable | None:
    rates: dict[str, ProbeRate] = {}
    for run_id, measured in board.measured.items():
        rate = probe_rate(measured.run, probe_id, measured.probes.get(probe_id, {}))
        if rate is not None:
            rates[run_id] = rate
    if not rates:
        return None
    deltas = _differences(board, probe_id, rates)
    tested = {run_id: delta.p for run_id, delta in deltas.items() if delta.p is not None}
    adjusted = dict(zip(tested, stats.holm(list(tested.values())), strict=True))
    first = next(iter(rates.values()))
    levels = tuple(level for level in LEVELS if any(level in rate.levels for rate in rates.values()))
    known = agreement_of(probe_id)
    weak = (
        "not measured where the truth is known"
        if known is None
        else f"{known:.2f} balanced accuracy where the truth is known, below {RELIABLE}"
    )
    return ProbeTable(
        probe_id=probe_id,
        title=first.kind.rate,
        shows=first.kind.shows,
        shows_not=first.kind.shows_not,
        exploratory=weak if is_exploratory(probe_id) else "",
        chance=percent(first.chance),
        levels=levels if ALL in first.levels else (),
        rows=tuple(
            _row(board, run_id, rate, levels, deltas.get(run_id), adjusted.get(run_id))
            for run_id, rate in rates.items()
        ),
    )


def _differences(board: Board, probe_id: str, rates: dict[str, ProbeRate]) -> dict[str, ProbeDifference]:
    """From the baseline, of runs of its protocol, on the answers that both have a result for."""
    if board.baseline is None or board.baseline not in rates:
        return {}
    base = board.measured[board.baseline]
    found = {}
    for run_id in rates:
        measured = board.measured[run_id]
        same = board.row(run_id).protocol_id == board.row(board.baseline).protocol_id
        # Of a run without reasoning there is no rate, and no difference.
        silent = rates[run_id].says_nothing or rates[board.baseline].says_nothing
        if run_id == board.baseline or silent or not (same or board.force_mixed):
            continue
        pair = (measured.run, measured.probes[probe_id]), (base.run, base.probes[probe_id])
        if (delta := probe_difference(*pair, probe_id)) is not None:
            found[run_id] = delta
    return found


def _row(
    board: Board,
    run_id: str,
    rate: ProbeRate,
    levels: tuple[str, ...],
    delta: ProbeDifference | None,
    p_adjusted: float | None,
) -> ProbeRow:
    notes = [f"{rate.no_reasoning:,} answers without reasoning or a readable answer"] if rate.no_reasoning else []
    notes += [f"{rate.missing:,} without a result"] if rate.missing else []
    notes += [
        f"{value.k:,} of {value.n:,} by {'a rollout' if source == 'rollout' else 'a conclusion rewritten by rule'}"
        for source, value in rate.sources.items()
    ]
    place = next(i for i, row in enumerate(board.rows) if row.run_id == run_id)
    if delta is not None:
        tested = "not tested: too few shared" if p_adjusted is None else f"p {p_text(p_adjusted)} (Holm)"
        same = ", of the same source in both" if rate.sources else ""
        notes.append(f"difference on n = {delta.n:,}{same}, {tested}")
    # Never on a checkpoint that its own score has picked.
    stars = stars_of(p_adjusted) if (board.rows[place].selected_from_k or 1) == 1 else ""
    return ProbeRow(
        place=place,
        name=board.rows[place].model,
        n=f"{rate.overall.n:,}",
        rate="no reasoning" if rate.says_nothing else percent(rate.overall.value),
        interval="" if rate.says_nothing else interval_text(rate.overall.lo, rate.overall.hi),
        levels=tuple(_level(rate, rate.levels.get(level)) for level in levels),
        difference="baseline" if run_id == board.baseline else DASH if delta is None else points(delta.value),
        difference_interval="" if delta is None else interval_text(delta.lo, delta.hi, points),
        stars=stars,
        note="; ".join(notes),
    )


def _level(rate: ProbeRate, value: Proportion | None) -> str:
    return DASH if value is None or rate.says_nothing else percent(value.value)
