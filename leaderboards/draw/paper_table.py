"""What the tables in Markdown and LaTeX have in common: columns, names of rows, what is bold, what is left empty."""

from __future__ import annotations

from leaderboards.board import Board
from leaderboards.published import PublishedRow
from leaderboards.rows import Delta, LeaderboardRow
from leaderboards.stats import Proportion

# As in the papers' tables: levels, with L3's domains before its total.
PAPER_COLUMNS = ("L1", "L2", "Daily life", "Hobbies", "Recreation", "Work", "L3")
DASH = "–"


def columns(board: Board) -> tuple[str, ...]:
    """The papers' columns; of other suites, their splits."""
    return PAPER_COLUMNS if board.suite.has_levels else board.bank.levels


def main_level(board: Board) -> str:
    """The level of consistency and differences: L3 as in the papers; of other suites, the metric's split."""
    return "L3" if board.suite.has_levels else board.metric.level


def row_label(row: LeaderboardRow) -> str:
    """The model's name, with its step where the run's name does not say it already, and of how many samples it is."""
    # A run that is named like its model names its checkpoint already.
    step = [] if row.model == row.run_id or row.step is None else [f"step {row.step}"]
    more = [*step, *([f"avg@{row.n_samples}"] if row.n_samples > 1 else [])]
    return f"{row.model} ({', '.join(more)})" if more else row.model


def reported_label(row: PublishedRow) -> str:
    """The method of a paper's row and its base model."""
    return row.method if not row.base_model else f"{row.method}, {row.base_model}"


def printed(row: PublishedRow, name: str) -> str:
    """A paper's number for a level or domain as it was printed, or a dash."""
    return row.accuracy[name].printed if name in row.accuracy else DASH


def is_bold(board: Board, row: LeaderboardRow, name: str) -> bool:
    """True for every member of tier A in the column that ranks, not only for the highest number."""
    return row.tier == "A" and board.metric.measure == "accuracy" and name == board.metric.level


def comparable_consistency(board: Board, row: LeaderboardRow) -> Proportion | None:
    """Consistency on main_level, unless another judge than the board's said so: one column never mixes judges."""
    return row.consistency.get(main_level(board)) if row.judge_id == board.judge_id else None


def open_sign(delta: Delta) -> str:
    """A mark where missing verdicts could turn a difference round."""
    return "‡" if delta.sign_is_open else ""
