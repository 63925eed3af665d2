"""The table for a README: Markdown, followed by how it was made."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from leaderboards.board import Board
from leaderboards.draw import paper_table
from leaderboards.draw.paper_table import DASH, columns, main_level
from leaderboards.methods import methods
from leaderboards.published import PublishedRow
from leaderboards.ranking import JUDGED
from leaderboards.rows import LeaderboardRow
from leaderboards.stats import Proportion
from leaderboards.story import story
from seedbench_r1.files import write_text
from seedbench_r1.types import DOMAINS


def write_markdown(board: Board, path: Path, *, include_reported: bool = False) -> None:
    """leaderboard.md. Raises ResourceError."""
    write_text(path, markdown(board, include_reported=include_reported))


def markdown(board: Board, *, include_reported: bool = False) -> str:
    """A table with intervals as plus-minus, then how it was made."""
    main = _escape(main_level(board))
    titles = [f"L3 {name}" if name in DOMAINS else _escape(name) for name in columns(board)]
    # Without a baseline there is nothing to subtract: no empty column.
    compared = [] if board.baseline is None else [f"Δ {main}", f"Δ Consistency {main}", f"Δ Sound {main}"]
    header = ["Rank", "Tier", "Model", *titles, f"Consistency {main}", *compared, "Flags"]
    sentences = [line for sentence in story(board) for line in (_escape(sentence), "")]
    lines = [
        f"# {_escape(board.title)} leaderboard",
        "",
        *sentences,
        *(f"> {_escape(text)}" for text in board.warnings),
    ]
    lines += [*([""] if board.warnings else []), markdown_row(header), markdown_row("---" for _ in header)]
    lines += [_measured(board, row) for row in board.rows]
    if include_reported:
        lines += [_reported(board, row, empty=1 + len(compared)) for row in board.published]
    # A table that is copied into a README must carry what its numbers mean.
    notes = [f"- {_escape(sentence)}" for sentence in methods(board)]
    legend = "Percent ± half of the 95 % interval. Bold: tier A. Sound: right and consistent."
    if board.baseline is not None:
        legend += " Δ: minus the baseline, points; ‡: missing verdicts leave its sign open."
    return "\n".join([*lines, "", legend, "", *notes]) + "\n"


def _measured(board: Board, row: LeaderboardRow) -> str:
    cells = [row.rank or DASH, row.tier or DASH, _escape(paper_table.row_label(row))]
    for name in columns(board):
        text = _accuracy(row, name)
        cells.append(f"**{text}**" if paper_table.is_bold(board, row, name) else text)
    cells.append(_plus_minus(paper_table.comparable_consistency(board, row)))
    if board.baseline is not None:
        is_baseline = row.run_id == board.baseline
        main = main_level(board)
        cells += ["baseline" if is_baseline else _difference(row, measure, main) for measure in ("accuracy", *JUDGED)]
    return markdown_row([*cells, _escape(", ".join(row.flags)) or DASH])


def _reported(board: Board, row: PublishedRow, *, empty: int) -> str:
    """A paper's row; `empty` columns between its accuracies and its flags are not compared with anything."""
    name = f"*{_escape(paper_table.reported_label(row))}* †"
    flags = _escape(", ".join((*row.flags, f"{row.source}, {row.table}")))
    numbers = [paper_table.printed(row, column) for column in columns(board)]
    return markdown_row([DASH, DASH, name, *numbers, *[DASH] * empty, flags])


def _accuracy(row: LeaderboardRow, name: str) -> str:
    # Of an incomplete group only the bounds are known.
    bounds = row.bounds.get(name)
    return f"{100 * bounds.lo:.1f} to {100 * bounds.hi:.1f}" if bounds else _plus_minus(row.accuracy.get(name))


def _plus_minus(cell: Proportion | None) -> str:
    return DASH if cell is None or cell.n == 0 else f"{100 * cell.value:.1f} ±{50 * (cell.hi - cell.lo):.1f}"


def _difference(row: LeaderboardRow, measure: str, level: str) -> str:
    delta = row.delta(measure, level)
    if delta is None:
        return DASH
    shown = f"{100 * delta.value:+.1f} [{100 * delta.lo:.1f}, {100 * delta.hi:.1f}]"
    # An asterisk would begin emphasis.
    stars = row.stars(level, measure).replace("*", "\\*")
    # No test was made: the reader must see on how few questions the difference rests.
    few = f" n={delta.n}" if delta.p is None else ""
    return f"{shown}{stars}{few}{paper_table.open_sign(delta)}"


def markdown_row(cells: Iterable[str]) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def _escape(text: str) -> str:
    """Text that Markdown shows as it is: no table cell ends early, no HTML, no emphasis, no line break."""
    flat = " ".join(text.split())
    # The backslash first, or it would escape the others' escapes.
    for char in ("\\", "`", "*", "_", "[", "]", "|"):
        flat = flat.replace(char, f"\\{char}")
    return flat.replace("&", "&amp;").replace("<", "&lt;")
