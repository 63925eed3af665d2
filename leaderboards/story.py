"""What a board says, in sentences: who leads in accuracy and in consistency, by how much, and who is not behind."""

from __future__ import annotations

import numpy as np

from leaderboards.board import Board
from leaderboards.ranking import WORDS, Metric, compare, level_tests, rank
from leaderboards.rows import LeaderboardRow
from leaderboards.stats import Proportion

MOST_NAMES = 4  # of runs in a sentence; more are counted


def story(board: Board) -> tuple[str, ...]:
    """The sentences; none where nothing is ranked, or nothing was judged."""
    level = board.metric.level
    measures = [board.metric.measure, *(m for m in ("accuracy", "consistency") if m != board.metric.measure)]
    found = (_sentence(board, Metric(level, measure)) for measure in measures)
    return tuple(sentence for sentence in found if sentence)


def _sentence(board: Board, metric: Metric) -> str:
    """Over the ranked rows that have a value; "" for fewer than two."""
    rows = [row for row in board.rows if row.ranked and _cell(row, metric, board) is not None]
    if len(rows) < 2:
        return ""
    measured = [board.measured[row.run_id] for row in rows]
    tests = level_tests([row.run_id for row in rows], measured, metric, board.bank)
    if tests is None:
        return ""
    values = {row.run_id: _value(row, metric, board) for row in rows}
    _, tiers = rank(tests, values)
    ordered = sorted(rows, key=lambda row: (-values[row.run_id], row.run_id))
    first = [row for row in ordered if tiers[row.run_id] == "A"]
    word, level = WORDS[metric.measure], metric.level
    listed = [f"{row.shown_model} ({100 * values[row.run_id]:.1f} %)" for row in first[:MOST_NAMES]]
    if len(first) > MOST_NAMES:
        listed.append(f"{len(first) - MOST_NAMES} more")
    behind = next((row for row in ordered if tiers[row.run_id] != "A"), None)
    if behind is None:
        return f"{level} {word}: no run is significantly below the highest: {', '.join(listed)}."
    if len(first) == 1:
        said = f"{level} {word}: {listed[0]} is best."
    else:
        said = f"{level} {word}: {', '.join(listed[:-1])} and {listed[-1]} lead, without a significant difference."
    leading, next_best = board.measured[first[0].run_id], board.measured[behind.run_id]
    gap = compare(leading, next_best, board.bank.group(level), board.bank, measure=metric.measure)
    said += f" Next: {behind.shown_model} ({100 * values[behind.run_id]:.1f} %)"
    if gap is None:
        return f"{said}."
    return (
        f"{said}, {100 * gap.value:.1f} points [{100 * gap.lo:.1f}, {100 * gap.hi:.1f}] below {first[0].shown_model}."
    )


def _cell(row: LeaderboardRow, metric: Metric, board: Board) -> Proportion | None:
    judged = metric.measure == "accuracy" or row.judge_id == board.judge_id
    return row.cells(metric.measure).get(metric.level) if judged else None


def _value(row: LeaderboardRow, metric: Metric, board: Board) -> float:
    cell = _cell(row, metric, board)
    return np.nan if cell is None else cell.value
