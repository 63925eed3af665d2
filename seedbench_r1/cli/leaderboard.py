"""seedbench-r1 leaderboard: runs become tables, charts and a page; two runs are compared question by question."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.table import Table

from seedbench_r1.cli import console
from seedbench_r1.cli.given_paths import refuse_folders_of_runs
from seedbench_r1.cli.options import PlainJson, RunPaths
from seedbench_r1.errors import ConfigError, DataError, IncompleteRun
from seedbench_r1.files import make_folder, utc_now
from seedbench_r1.terminal import printable
from seedbench_r1.types import to_json

if TYPE_CHECKING:
    from leaderboards.board import Board
    from leaderboards.draw.page import HtmlReport
    from leaderboards.draw.page_payload import Detail
    from leaderboards.ranking import Metric
    from leaderboards.rows import LeaderboardRow
    from leaderboards.versus import LevelComparison

app = typer.Typer(help="Tables, charts and a page from runs; two runs compared.", no_args_is_help=True)

# Options of two panels of --help.
show_option = functools.partial(typer.Option, rich_help_panel="What is shown")
write_option = functools.partial(typer.Option, rich_help_panel="What is written")
DETAILS = ("auto", "none", "full")
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
FOLDED_NAME = 20  # columns of the terminal to which a run's name may be folded to make room for a second measure


@app.command("build")
def build_command(
    runs: RunPaths,
    *,
    out: Annotated[Path, write_option("--out", "-o", help="The page; everything else goes next to it.")] = Path(
        "leaderboard.html"
    ),
    csv_path: Annotated[Path | None, write_option("--csv", help="The wide table. Default: next to the page.")] = None,
    baseline: Annotated[str | None, show_option(help="A run: directory, name, or model. Others are compared.")] = None,
    metric: Annotated[str, show_option(help="LEVEL.MEASURE: accuracy, sound or consistency.")] = "l3.accuracy",
    judge: Annotated[str | None, show_option(help="Judge id. Default: the one that judged most runs.")] = None,
    detail: Annotated[str, write_option(help="Reasoning in the page: auto, none, full.")] = "auto",
    max_size: Annotated[str, write_option(help="Of the page.")] = "10MB",
    published: Annotated[bool, show_option("--published/--no-published", help="The papers' rows in the page.")] = True,
    include_reported: Annotated[bool, show_option(help="The papers' rows in the other files too.")] = False,
    predictions: Annotated[bool, write_option(help="Also predictions.csv.")] = False,
    force_mixed: Annotated[bool, show_option(help="Rank runs of different protocols together.")] = False,
    rank_unparsed: Annotated[bool, show_option(help="Rank runs of which over 20 % could not be read too.")] = False,
    as_json: PlainJson = False,
) -> None:
    """Compare runs and write the page, tables and charts. Exit 5 if some runs were left out, 4 if all were."""
    from leaderboards.board import build_board
    from leaderboards.loading import gc_paused

    if detail not in DETAILS:
        raise ConfigError(f"--detail {detail!r} is unknown. Fix: one of {', '.join(DETAILS)}.")
    max_bytes = parse_size(max_size)
    # Next to one run, what is none is left out and named: it must not cost the board.
    if not any((run / "manifest.json").is_file() for run in runs):
        refuse_folders_of_runs([run for run in runs if run.is_dir()])
    with gc_paused():
        board = build_board(
            runs,
            baseline=baseline,
            metric=metric,
            judge=judge,
            include_published=published or include_reported,
            force_mixed=force_mixed,
            rank_unparsed=rank_unparsed,
        )
        written, page = _write(
            board, out, csv_path, include_reported=include_reported, predictions=predictions, page=(detail, max_bytes)
        )
    if as_json:
        typer.echo(console.json_text(build_json(board, written)))
    else:
        print_board(board, written, page)
    if board.left_out:
        reasons = "\n".join(f"  {item.path}: {item.reason}" for item in board.left_out)
        raise IncompleteRun(f"{len(board.left_out)} of {len(runs)} runs were left out:\n{reasons}")


@app.command("diff")
def diff_command(
    first: Annotated[Path, typer.Argument(metavar="A", help="Run directory.", show_default=False)],
    second: Annotated[Path, typer.Argument(metavar="B", help="Run directory.", show_default=False)],
    *,
    listed: Annotated[bool, typer.Option("--list", help="Also the questions that only one has right.")] = False,
    as_json: PlainJson = False,
) -> None:
    """Compare two runs on the questions both have answered: counts, difference A - B, tests."""
    from leaderboards.board import build_board
    from leaderboards.versus import compare_runs

    refuse_folders_of_runs([first, second], several=False)
    # Every test of a run against itself is trivially 1.
    if first.resolve() == second.resolve():
        raise ConfigError(f"{first} and {second} are the same directory.")
    # Two runs that were named are compared whatever their protocols; a warning says so.
    board = build_board([first, second], baseline=None, include_published=False, force_mixed=True)
    if board.left_out:
        raise DataError("\n".join(f"{item.path} cannot be compared: {item.reason}" for item in board.left_out))
    # run_ids may differ from the folders' names where these collide.
    names = {measured.run.path.resolve(): run_id for run_id, measured in board.measured.items()}
    pair = names[first.resolve()], names[second.resolve()]
    comparisons = compare_runs(board, *pair)
    if not comparisons:
        raise DataError(f"{first} and {second} have answered no question in common.")
    if as_json:
        value = {"schema": "sbr1.leaderboard-diff/1", "a": pair[0], "b": pair[1], "levels": to_json(comparisons)}
        typer.echo(console.json_text(without_nan(value)))
    else:
        _print_diff(board, pair, comparisons, listed=listed)


def parse_size(text: str) -> int:
    """ "10MB" -> 10,000,000 bytes. Raises ConfigError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?B)?\s*", text, re.IGNORECASE | re.ASCII)
    size = 0 if match is None else int(float(match[1]) * UNITS[(match[2] or "").upper()])
    if size < 1:
        raise ConfigError(f"--max-size {text!r} is not a size. Fix: a number above 0 and KB, MB or GB, such as 10MB.")
    return size


def _write(
    board: Board,
    out: Path,
    csv_path: Path | None,
    *,
    include_reported: bool,
    predictions: bool,
    page: tuple[str, int],
) -> tuple[list[Path], HtmlReport]:
    """Write everything; the files, and what became of the page."""
    from leaderboards.draw.csv import write_long_csv, write_predictions_csv, write_wide_csv
    from leaderboards.draw.latex import write_latex
    from leaderboards.draw.markdown import write_markdown
    from leaderboards.draw.page import write_html
    from leaderboards.draw.svg import write_charts
    from leaderboards.methods import write_meta

    # Before the first file: an unusable folder must not leave half of the output.
    for folder in {out.parent, (csv_path or out).parent}:
        make_folder(folder)
    wide = csv_path or out.with_suffix(".csv")
    long, predicted = wide.with_name(f"{wide.stem}_long.csv"), wide.with_name("predictions.csv")
    markdown, latex, meta = (out.with_suffix(suffix) for suffix in (".md", ".tex", ".meta.json"))
    write_wide_csv(board, wide, include_reported=include_reported)
    write_long_csv(board, long, include_reported=include_reported)
    write_markdown(board, markdown, include_reported=include_reported)
    write_latex(board, latex, include_reported=include_reported)
    written = [wide, long, markdown, latex]
    if predictions:
        write_predictions_csv(board, predicted)
        written.append(predicted)
    written += write_charts(board, out.parent / "charts")
    detail, max_bytes = page
    # One time for page and meta file.
    now = utc_now()
    report = write_html(board, out, detail=cast("Detail", detail), max_bytes=max_bytes, built_utc=now)
    command = shlex.join(["seedbench-r1", *sys.argv[1:]])
    names = [path.name if path.parent == out.parent else f"{path.parent.name}/{path.name}" for path in written]
    write_meta(board, meta, command=command, built_utc=now, files=[out.name, *names])
    return [out, *written, meta], report


def build_json(board: Board, written: list[Path]) -> object:
    """The object of --json. Fractions; null where there is no number."""
    value = {
        "schema": "sbr1.leaderboard/1",
        "status": "partial" if board.left_out else "ok",
        "metric": str(board.metric),
        "baseline": board.baseline,
        "judge": board.judge_id,
        "rows": [
            {
                "run_id": row.run_id,
                "model": row.model,
                "status": row.status,
                # null, not [null, null]: the row is not ranked.
                "rank": [row.rank_lo, row.rank_hi] if row.ranked else None,
                "tier": row.tier,
                "value": board.score(row),
                "accuracy": {level: cell.value for level, cell in row.accuracy.items()},
                "flags": list(row.flags),
            }
            for row in board.rows
        ],
        "left_out": [{"path": str(item.path), "reason": item.reason} for item in board.left_out],
        "warnings": list(board.warnings),
        "written": [str(path) for path in written],
        "exit_code": IncompleteRun.exit_code if board.left_out else 0,
    }
    return without_nan(value)


def without_nan(value: object) -> object:
    """JSON knows no NaN: null stands for it."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return value


def print_board(board: Board, written: list[Path], page: HtmlReport) -> None:
    """The table of tiers, flags and warnings, and what was written: the page first."""
    from rich.cells import cell_len
    from rich.measure import Measurement

    screen, omitted = console.out(), []
    # The narrow table first; the wide one replaces it only where it fits.
    table = _table_of_runs(board, [board.metric])
    if board.metric.measure == "accuracy" and any(row.consistency for row in board.rows):
        consistency = dataclasses.replace(board.metric, measure="consistency")
        both = _table_of_runs(board, [board.metric, consistency])
        longest = max(cell_len(printable(row.run_id)) for row in board.rows)
        # Rich folds names silently: measured at a width where nothing folds.
        unfolded = Measurement.get(screen, screen.options.update(max_width=10_000), both).maximum
        needed = unfolded - max(longest - FOLDED_NAME, 0)
        if needed <= screen.width:
            table = both
        else:
            omitted.append(
                f"no room for the consistency rate in {screen.width} columns: it is in the files below; here it needs "
                f"COLUMNS={needed}"
            )
    screen.print(table)
    for row in board.rows:
        # Below the table, which has no room for them in 80 columns.
        if row.flags:
            screen.print(f" {row.run_id}: {', '.join(row.flags)}", soft_wrap=True)
    for warning in (*board.warnings, *omitted):
        screen.print(f" ! {warning}", soft_wrap=True)
    if board.judge_id is not None:
        others = [judge for judge in board.judges if judge != board.judge_id]
        also = f"; there are verdicts of {', '.join(others)} too: --judge ID" if others else ""
        screen.print(f" judge: {board.judge_id}{also}", soft_wrap=True)
    counts = f" {board.n_measured} measured, {board.n_ranked} ranked, {board.n_incomplete} incomplete"
    screen.print(f"{counts}, {board.n_reported} reported by papers", soft_wrap=True)
    screen.print(f" page: {written[0]} ({page.path.stat().st_size / 1e6:.2f} MB; {page.allocation})", soft_wrap=True)
    screen.print(f" files: {', '.join(str(path) for path in written[1:])}", soft_wrap=True)


def _table_of_runs(board: Board, metrics: list[Metric]) -> Table:
    table = console.table(("tier", "rank"), ())
    table.add_column("run", overflow="fold")
    compared = [] if board.baseline is None else [f"{board.metric.level} vs baseline"]
    for name in [f"{metric} %" for metric in metrics] + compared:
        table.add_column(name, justify="right", no_wrap=True)
    for row in board.rows:
        values = [_value(row, metric) for metric in metrics]
        values += [] if board.baseline is None else [_difference(board, row)]
        table.add_row(row.tier or "-", row.rank or "-", row.run_id, *values)
    return table


def _value(row: LeaderboardRow, metric: Metric) -> str:
    cells = {"accuracy": row.accuracy, "sound": row.sound, "consistency": row.consistency}[metric.measure]
    cell, bounds = cells.get(metric.level), row.bounds.get(metric.level)
    # An incomplete group has bounds instead of a value, and of accuracy alone.
    if cell is not None:
        return f"{100 * cell.value:.1f} [{100 * cell.lo:.1f}, {100 * cell.hi:.1f}]"
    if bounds is not None and metric.measure == "accuracy":
        return f"between {100 * bounds.lo:.1f} and {100 * bounds.hi:.1f}"
    return "-"


def _difference(board: Board, row: LeaderboardRow) -> str:
    delta = row.deltas.get(board.metric.level)
    if row.run_id == board.baseline:
        return "baseline"
    if delta is None:
        return "-"
    few = f" n={delta.n}, no test" if delta.p is None else ""
    return (
        f"{100 * delta.value:+.1f} [{100 * delta.lo:+.1f}, {100 * delta.hi:+.1f}]{row.stars(board.metric.level)}{few}"
    )


def _print_diff(board: Board, pair: tuple[str, str], comparisons: tuple[LevelComparison, ...], *, listed: bool) -> None:
    screen = console.out()
    screen.print(f"A  {pair[0]}\nB  {pair[1]}\n", soft_wrap=True)
    numbers = ("n", "both", "A", "B", "none", "A - B, points", "p", "McNemar", "mid-p")
    table = console.table(["level"], numbers, padding=(0, 1, 0, 0))
    for item in comparisons:
        d = item.difference
        table.add_row(
            item.level,
            *(str(count) for count in (item.n, item.both, item.only_first, item.only_second, item.neither)),
            f"{100 * d.value:+.1f} [{100 * d.lo:+.1f}, {100 * d.hi:+.1f}]",
            "no test" if d.p is None else f"{d.p:.4f}",
            f"{item.mcnemar.exact:.4f}",
            f"{item.mcnemar.mid_p:.4f}",
        )
    screen.print(table)
    screen.print(
        " both, A, B, none: who is right. p: sign-flip test of whole videos. McNemar supposes independent questions.",
        soft_wrap=True,
    )
    # Explained once, below the table.
    if any(item.difference.p is None for item in comparisons):
        screen.print(" no test: fewer than 95 % of a run's questions were answered by both.", soft_wrap=True)
    for warning in board.warnings:
        screen.print(f" ! {warning}", soft_wrap=True)
    n_discordant = sum(len(item.discordant) for item in comparisons)
    if not listed:
        screen.print(f" {n_discordant} questions differ; --list names them.", soft_wrap=True)
        return
    for item in comparisons:
        for question in item.discordant:
            shown = f"gold {question.gold}  A {question.first or '-'}  B {question.second or '-'}"
            screen.print(f" {question.question_id}  {shown}", soft_wrap=True)
