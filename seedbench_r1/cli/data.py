"""seedbench-r1 data: is the data set there, and is it sound?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seedbench_r1.errors import DataError

if TYPE_CHECKING:
    from seedbench_r1.dataset import LevelStatus

app = typer.Typer(help="Look at the data set on disk.", no_args_is_help=True)

Root = Annotated[
    Path | None, typer.Option("--data-root", help="Folder of annotations/, videos/, images/.", show_default=False)
]
Levels = Annotated[str, typer.Option(help="Levels to look at.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]


@app.command("status")
def status_command(data_root: Root = None, levels: Levels = "L1,L2,L3", as_json: AsJson = False) -> None:
    """Count annotations and media files of each level. Exit 4 if something is absent."""
    from seedbench_r1.config import find_data_root, parse_levels
    from seedbench_r1.dataset import data_status
    from seedbench_r1.types import to_json

    root = find_data_root(data_root)
    levels_found = data_status(root, parse_levels(levels))
    if as_json:
        typer.echo(json.dumps({"schema": "sbr1.data/1", "data_root": str(root), "levels": to_json(levels_found)}))
    else:
        _print_status(root, levels_found)
    problems = [level.error for level in levels_found if level.error]
    missing = sum(len(level.missing) for level in levels_found)
    if missing:
        problems.append(f"{missing} media files are missing under {root}.")
    if problems:
        raise DataError("\n".join(problems))


def _print_status(root: Path, levels: list[LevelStatus]) -> None:
    from rich.table import Table

    from seedbench_r1.cli import console

    table = Table(box=None, header_style="bold")
    table.add_column("level")
    for name in ("questions", "videos", "images", "missing", "MB"):
        table.add_column(name, justify="right")
    for level in levels:
        lost = set(level.missing)
        videos = sum("images" not in path.parts for path in lost)
        table.add_row(
            level.level,
            str(level.questions),
            f"{level.videos - videos}/{level.videos}",
            f"{level.images - (len(lost) - videos)}/{level.images}",
            str(len(lost)),
            f"{level.n_bytes / 1e6:.1f}",
        )
    screen = console.out()
    screen.print(f"data root {root}", soft_wrap=True)
    screen.print(table)
    for path in [path for level in levels for path in level.missing][:5]:
        screen.print(f"missing: {path}", soft_wrap=True)


@app.command("verify")
def verify_command(
    data_root: Root = None,
    levels: Levels = "L1,L2,L3",
    decode_sample: Annotated[int, typer.Option(help="Also decode the frames of N clips.", min=0)] = 0,
    exact_frames: Annotated[
        bool, typer.Option("--exact-frames", help="Also compare decord's frames with a sequential PyAV decode.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Checking processes.", min=1)] = 2,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds for one file.", min=0.1)] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Open every file: absent, cut short, undecodable ones are named. Exit 4 if there are any."""
    from seedbench_r1.cli import console
    from seedbench_r1.config import find_data_root, parse_levels
    from seedbench_r1.dataset import verify
    from seedbench_r1.questions import load_questions
    from seedbench_r1.types import VideoConfig, to_json

    root = find_data_root(data_root)
    questions = load_questions(root, parse_levels(levels))
    found = []
    for problem in verify(
        questions,
        VideoConfig(),
        decode_sample=decode_sample,
        exact_frames=exact_frames,
        workers=workers,
        timeout_s=timeout_s,
    ):
        found.append(problem)
        if not as_json:
            asked = f"{problem.question_ids[0]}" + (f" and {n} more" if (n := len(problem.question_ids) - 1) else "")
            text = problem.message if str(problem.path) in problem.message else f"{problem.path}: {problem.message}"
            console.out().print(console.printable(f"{text} ({asked})"), soft_wrap=True)
    if as_json:
        typer.echo(json.dumps({"schema": "sbr1.verify/1", "checked": len(questions), "problems": to_json(found)}))
    if found:
        raise DataError(f"{len(found)} files are not sound, of {len(questions)} questions.")
    console.err().print(f"all media of {len(questions)} questions are sound")
