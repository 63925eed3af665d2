"""seedbench-r1 leaderboard: runs become tables, charts and a page; two runs are compared question by question."""

from __future__ import annotations

import functools
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from seedbench_r1.cli import console
from seedbench_r1.cli.board_tables import print_board, print_diff
from seedbench_r1.cli.given_paths import refuse_folders_of_runs
from seedbench_r1.cli.options import PlainJson, RunPaths
from seedbench_r1.errors import ConfigError, DataError, IncompleteRun
from seedbench_r1.files import make_folder, utc_now
from seedbench_r1.runs.samples import FILE as SAMPLES
from seedbench_r1.runs.samples import read_seeds
from seedbench_r1.types import to_json

if TYPE_CHECKING:
    from leaderboards.board import Board
    from leaderboards.draw.page import HtmlReport
    from leaderboards.draw.page_payload import Detail

app = typer.Typer(help="Tables, charts and a page from runs; two runs compared.", no_args_is_help=True)

# Options of two panels of --help.
show_option = functools.partial(typer.Option, rich_help_panel="What is shown")
write_option = functools.partial(typer.Option, rich_help_panel="What is written")
DETAILS = ("auto", "none", "full")
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


@app.command("build")
def build_command(
    runs: RunPaths,
    *,
    out: Annotated[Path, write_option("--out", "-o", help="The page; everything else goes next to it.")] = Path(
        "leaderboard.html"
    ),
    csv_path: Annotated[Path | None, write_option("--csv", help="The wide table. Default: next to the page.")] = None,
    baseline: Annotated[str | None, show_option(help="A run: directory, name, or model. Others are compared.")] = None,
    metric: Annotated[
        str | None,
        show_option(
            help="LEVEL.MEASURE or SPLIT.MEASURE: accuracy, sound or consistency. Default: l3.accuracy; of your own "
            "questions the first split's accuracy.",
            show_default=False,
        ),
    ] = None,
    judge: Annotated[str | None, show_option(help="Judge id. Default: the one that judged most runs.")] = None,
    detail: Annotated[str, write_option(help="Reasoning in the page: auto, none, full.")] = "auto",
    max_size: Annotated[str, write_option(help="Of the page.")] = "10MB",
    pictures: Annotated[
        int | None,
        write_option(
            help="Questions whose frames and view the page shows, at most a third of its size. Default: 40 of a toy "
            "world or under eval --free-media, else 0: the benchmark's pictures are not free.",
            min=0,
            show_default=False,
        ),
    ] = None,
    published: Annotated[bool, show_option("--published/--no-published", help="The papers' rows in the page.")] = True,
    include_reported: Annotated[bool, show_option(help="The papers' rows in the other files too.")] = False,
    predictions: Annotated[bool, write_option(help="Also predictions.csv.")] = False,
    force_mixed: Annotated[bool, show_option(help="Rank runs of different protocols together.")] = False,
    rank_unparsed: Annotated[bool, show_option(help="Rank runs of which over 20 % could not be read too.")] = False,
    paragraph: Annotated[
        bool, show_option("--methods-paragraph", help="A paragraph for a paper, with these numbers, at the end.")
    ] = False,
    as_json: PlainJson = False,
) -> None:
    """Compare runs and write the page, tables and charts. Exit 5 if some runs were left out, 4 if all were."""
    from leaderboards.board import build_board
    from leaderboards.loading import gc_paused

    if detail not in DETAILS:
        raise ConfigError(f"--detail {detail!r} is unknown. Fix: one of {', '.join(DETAILS)}.")
    max_bytes = parse_size(max_size)
    # Next to one run, what is none is left out and named: it must not cost the board.
    if not any((run / name).is_file() for run in runs for name in ("manifest.json", SAMPLES)):
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
            board,
            out,
            csv_path,
            include_reported=include_reported,
            predictions=predictions,
            page=(detail, max_bytes, pictures),
        )
    if as_json:
        console.print_json(build_json(board, written))
    else:
        print_board(board, written, page)
        if paragraph:
            from leaderboards.methods import methods_paragraph

            console.out().print(f"\n{methods_paragraph(board)}", soft_wrap=True)
    if board.left_out:
        reasons = "\n".join(f"  {item.path}: {item.reason}" for item in board.left_out)
        raise IncompleteRun(f"{len(board.left_out)} of {len(runs)} runs were left out:\n{reasons}")


@app.command("diff")
def diff_command(
    first: Annotated[Path, typer.Argument(metavar="FIRST", help="Run directory.", show_default=False)],
    second: Annotated[Path, typer.Argument(metavar="SECOND", help="Run directory.", show_default=False)],
    *,
    listed: Annotated[bool, typer.Option("--list", help="Also the questions that only one has right.")] = False,
    judge: Annotated[str | None, typer.Option(help="Judge id. Default: the one that judged most.")] = None,
    as_json: PlainJson = False,
) -> None:
    """Compare two runs on the questions both have answered: counts, difference first - second, tests."""
    from leaderboards.board import build_board
    from leaderboards.versus import compare_runs

    refuse_folders_of_runs([path for path in (first, second) if not read_seeds(path)], several=False)
    # Every test of a run against itself is trivially 1.
    if first.resolve() == second.resolve():
        raise ConfigError(f"{first} and {second} are the same directory.")
    # Two runs that were named are compared whatever their protocols; a warning says so.
    board = build_board([first, second], judge=judge, include_published=False, force_mixed=True)
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
        console.print_json(value)
    else:
        print_diff(board, pair, comparisons, listed=listed)


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
    page: tuple[str, int, int | None],
) -> tuple[list[Path], HtmlReport]:
    """Write everything; the files, and what became of the page."""
    from leaderboards.draw.csv import write_long_csv, write_wide_csv
    from leaderboards.draw.latex import narrow_path, write_latex
    from leaderboards.draw.markdown import write_markdown
    from leaderboards.draw.page import write_html
    from leaderboards.draw.predictions import write_predictions_csv
    from leaderboards.draw.svg import write_charts
    from leaderboards.methods import write_meta

    wide = csv_path or out.with_suffix(".csv")
    _refuse_other_tables(wide)
    # Before the first file: an unusable folder must not leave half of the output.
    for folder in {out.parent, (csv_path or out).parent}:
        make_folder(folder)
    long, predicted = wide.with_name(f"{wide.stem}_long.csv"), wide.with_name("predictions.csv")
    markdown, latex, meta = (out.with_suffix(suffix) for suffix in (".md", ".tex", ".meta.json"))
    write_wide_csv(board, wide, include_reported=include_reported)
    write_long_csv(board, long, include_reported=include_reported)
    write_markdown(board, markdown, include_reported=include_reported)
    write_latex(board, latex, include_reported=include_reported)
    written = [wide, long, markdown, latex, narrow_path(latex)]
    if predictions:
        write_predictions_csv(board, predicted)
        written.append(predicted)
    written += write_charts(board, out.parent / "charts")
    detail, max_bytes, pictures = page
    # One time for page and meta file.
    now = utc_now()
    report = write_html(
        board, out, detail=cast("Detail", detail), max_bytes=max_bytes, pictures=pictures, built_utc=now
    )
    command = shlex.join(["seedbench-r1", *sys.argv[1:]])
    names = [path.name if path.parent == out.parent else f"{path.parent.name}/{path.name}" for path in written]
    write_meta(board, meta, command=command, built_utc=now, files=[out.name, *names])
    return [out, *written, meta], report


def _refuse_other_tables(path: Path) -> None:
    """Raise ConfigError for a CSV that no board wrote: `--out cups.html` would take the questions in cups.csv."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        head = file.read(64)
    if head and not head.startswith(b"run_id,"):
        raise ConfigError(
            f"{path} is no leaderboard's table, and would be written over. Nothing was written. Fix: another --out, or "
            f"--csv FILE."
        )


def build_json(board: Board, written: list[Path]) -> object:
    """The object of --json. Fractions; null where there is no number."""
    from leaderboards.methods import methods_paragraph

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
        "methods_paragraph": methods_paragraph(board),
        "exit_code": IncompleteRun.exit_code if board.left_out else 0,
    }
    return value
