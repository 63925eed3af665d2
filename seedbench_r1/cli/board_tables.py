"""A board and a pair of runs on the terminal: tables that fit 80 columns."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from seedbench_r1.cli import console

if TYPE_CHECKING:
    from leaderboards.board import Board
    from leaderboards.draw.page import HtmlReport
    from leaderboards.ranking import Metric
    from leaderboards.rows import Delta, LeaderboardRow
    from leaderboards.versus import LevelComparison

OPEN = " ‡: missing verdicts could turn the difference round."


def print_board(board: Board, written: list[Path], page: HtmlReport) -> None:
    """The tables of tiers and of reasoning, what they say, flags and warnings, and what was written: the page first."""
    from leaderboards.story import story

    screen = console.out()
    screen.print(_table_of_runs(board, board.metric))
    for row in board.rows:
        # Below the table, which has no room for them in 80 columns.
        if row.flags:
            screen.print(f" {row.run_id}: {', '.join(row.flags)}", soft_wrap=True)
    _print_samples(board)
    _print_reasoning(board)
    for sentence in story(board):
        screen.print(f" {sentence}", soft_wrap=True)
    for warning in board.warnings:
        screen.print(f" ! {warning}", soft_wrap=True)
    if board.judge_id is not None:
        others = [judge for judge in board.judges if judge != board.judge_id]
        also = f"; there are verdicts of {', '.join(others)} too: --judge ID" if others else ""
        screen.print(f" judge: {board.judge_id}{also}", soft_wrap=True)
    counts = f" {board.n_measured} measured, {board.n_ranked} ranked, {board.n_incomplete} incomplete"
    screen.print(f"{counts}, {board.n_reported} reported by papers", soft_wrap=True)
    carried = "; ".join(part for part in (page.allocation, page.pictures.said) if part)
    screen.print(f" page: {written[0]} ({page.path.stat().st_size / 1e6:.2f} MB; {carried})", soft_wrap=True)
    if page.pictures.note:
        screen.print(f" ! {page.pictures.note}", soft_wrap=True)
    screen.print(f" files: {', '.join(str(path) for path in written[1:])}", soft_wrap=True)


def _print_samples(board: Board) -> None:
    level = board.metric.level
    for row in board.rows:
        if level in row.sampled and (spread := row.sampled[level].spread):
            console.out().print(f" {row.run_id}: {row.n_samples} samples on {level}, {spread}", soft_wrap=True)


def _table_of_runs(board: Board, metric: Metric) -> Table:
    table = console.table(("tier", "rank"), ())
    table.add_column("run", overflow="fold")
    compared = [] if board.baseline is None else [f"{metric.level} vs baseline"]
    for name in [f"{metric} %", *compared]:
        table.add_column(name, justify="right", no_wrap=True)
    for row in board.rows:
        values = [_value(row, metric)] + ([] if board.baseline is None else [_difference(board, row, metric)])
        table.add_row(row.tier or "-", row.rank or "-", row.run_id, *values)
    return table


def _print_reasoning(board: Board) -> None:
    """Consistency and sound accuracy on the board's level, where the ranking's table is about neither."""
    level = board.metric.level
    judged = [row for row in board.rows if row.judge_id == board.judge_id and level in row.consistency]
    if board.metric.measure != "accuracy" or not judged:
        return
    consistency, sound = (dataclasses.replace(board.metric, measure=name) for name in ("consistency", "sound"))
    table = console.table((), (), padding=(0, 1, 0, 0))
    table.add_column("run", overflow="fold")
    titles = [f"{level} consistency %", *([] if board.baseline is None else ["vs baseline"]), "sound %"]
    for name in titles:
        table.add_column(name, justify="right", no_wrap=True)
    for row in judged:
        compared = [] if board.baseline is None else [_difference(board, row, consistency)]
        table.add_row(row.run_id, _value(row, consistency), *compared, _value(row, sound))
    screen = console.out()
    screen.print("\n", table, sep="", end="")
    screen.print(" sound: right, and the reasoning supports the answer")
    for row in judged:
        differences = [
            f"{measure} {_points(delta, row.stars(level, measure))}, {_tested(delta)}"
            for measure in ("consistency", "sound")
            if (delta := row.delta(measure, level)) is not None
        ]
        if differences:
            screen.print(f" {row.run_id} - {board.baseline}: {'; '.join(differences)}", soft_wrap=True)
    for row in judged:
        if bounds := row.verdict_bounds.get(level):
            without = bounds.n - bounds.answered
            screen.print(
                f" {row.run_id}: {without} of {bounds.n} answers without a verdict; consistency between "
                f"{100 * bounds.lo:.1f} and {100 * bounds.hi:.1f} % whatever they are",
                soft_wrap=True,
            )
    if any(delta is not None and delta.sign_is_open for delta in (row.delta("consistency", level) for row in judged)):
        screen.print(OPEN)


def _value(row: LeaderboardRow, metric: Metric) -> str:
    cell, bounds = row.cells(metric.measure).get(metric.level), row.bounds.get(metric.level)
    # An incomplete group has bounds instead of a value, and of accuracy alone.
    if cell is not None:
        return f"{100 * cell.value:.1f} [{100 * cell.lo:.1f}, {100 * cell.hi:.1f}]"
    if bounds is not None and metric.measure == "accuracy":
        return f"between {100 * bounds.lo:.1f} and {100 * bounds.hi:.1f}"
    return "-"


def _difference(board: Board, row: LeaderboardRow, metric: Metric) -> str:
    delta = row.delta(metric.measure, metric.level)
    if row.run_id == board.baseline:
        return "baseline"
    return "-" if delta is None else _points(delta, row.stars(metric.level, metric.measure))


def _tested(delta: Delta) -> str:
    from leaderboards.draw.numbers import p_text

    return "no test" if delta.p_adjusted is None else f"p {p_text(delta.p_adjusted)}"


def _points(delta: Delta, stars: str) -> str:
    few = f" n={delta.n}, no test" if delta.p is None else ""
    mark = "‡" if delta.sign_is_open else stars
    return f"{100 * delta.value:+.1f} [{100 * delta.lo:+.1f}, {100 * delta.hi:+.1f}]{mark}{few}"


def print_diff(board: Board, pair: tuple[str, str], comparisons: tuple[LevelComparison, ...], *, listed: bool) -> None:
    """Two runs level by level: who is right, consistency, sound accuracy and, if listed, the questions that differ."""
    screen = console.out()
    screen.print(f"first   {pair[0]}\nsecond  {pair[1]}\n", soft_wrap=True)
    numbers = ("n", "both", "first", "second", "none", "points", "p", "McNemar", "mid-p")
    table = console.table(["level"], numbers, padding=(0, 1, 0, 0))
    for item in comparisons:
        d = item.difference
        table.add_row(
            item.level,
            str(item.n),
            *(
                str(count) if item.mcnemar is not None else "-"
                for count in (item.both, item.only_first, item.only_second, item.neither)
            ),
            f"{100 * d.value:+.1f} [{100 * d.lo:+.1f}, {100 * d.hi:+.1f}]",
            "no test" if d.p is None else f"{d.p:.4f}",
            "-" if item.mcnemar is None else f"{item.mcnemar.exact:.4f}",
            "-" if item.mcnemar is None else f"{item.mcnemar.mid_p:.4f}",
        )
    screen.print(table)
    screen.print(
        " both, first, second, none: who is right. points: first - second. p: sign-flip test of whole videos. McNemar "
        "supposes independent questions.",
        soft_wrap=True,
    )
    if any(item.mcnemar is None for item in comparisons):
        screen.print(
            " -: several samples of a question are not right or wrong; the difference is of their means.",
            soft_wrap=True,
        )
    # Explained once, below the table.
    if any(item.difference.p is None for item in comparisons):
        screen.print(" no test: fewer than 95 % of a run's questions were answered by both.", soft_wrap=True)
    _print_judged(board, comparisons)
    for warning in board.warnings:
        screen.print(f" ! {warning}", soft_wrap=True)
    n_discordant = sum(len(item.discordant) for item in comparisons)
    if not listed:
        screen.print(f" {n_discordant} questions differ; --list names them.", soft_wrap=True)
        return
    for item in comparisons:
        for question in item.discordant:
            shown = f"gold {question.gold}  first {question.first or '-'}  second {question.second or '-'}"
            screen.print(f" {question.question_id}  {shown}", soft_wrap=True)


def _print_judged(board: Board, comparisons: tuple[LevelComparison, ...]) -> None:
    """Differences in consistency and sound accuracy, or why there are none."""
    screen = console.out()
    if not any(item.judged for item in comparisons):
        screen.print(
            " consistency: not compared; both need verdicts of one judge, and reasoning (`judge FIRST SECOND`)"
        )
        return
    table = console.table(["level", "share"], ("n", "points", "p", "missing"), padding=(0, 1, 0, 0))
    for item in comparisons:
        for measure, d in item.judged.items():
            p = "no test" if d.p is None else f"{d.p:.4f}"
            mark = "‡" if d.sign_is_open else ""
            shown = f"{100 * d.value:+.1f} [{100 * d.lo:+.1f}, {100 * d.hi:+.1f}]{mark}"
            table.add_row(item.level, measure, str(d.n), shown, p, str(d.missing))
    screen.print("\n", table, sep="", end="")
    screen.print(f" judged by {board.judge_id}; sound: right, and the reasoning supports the answer", soft_wrap=True)
    if any(d.sign_is_open for item in comparisons for d in item.judged.values()):
        screen.print(OPEN)
