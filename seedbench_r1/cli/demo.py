"""seedbench-r1 demo: every step on a miniature benchmark that is made on the spot."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from seedbench_r1.cli import console
from seedbench_r1.cli.miniature import generate_command, model_command
from seedbench_r1.config import resolve_eval_config
from seedbench_r1.demo.models import SHIPPED, shipped_model
from seedbench_r1.judges.run import judge_run
from seedbench_r1.runs.directory import load_run
from seedbench_r1.types import LEVELS

QUESTIONS = 80  # of each level
# Shown with the table, so that nobody quotes these numbers for real models.
NOTE = (
    "\nThree models of 1.3 million parameters, each trained for minutes on two CPU cores: sft imitates traces of which "
    "some reason one way and answer another; grpo and care went on from it. What a trace concludes can be read off "
    "exactly in this world, so the consistency is known, not judged. It says nothing about real models: see "
    "docs/miniature.md."
)

app = typer.Typer(invoke_without_command=True)
app.command("generate")(generate_command)
app.command("model")(model_command)


@app.callback()
def demo_command(
    context: typer.Context,
    *,
    folder: Annotated[Path, typer.Option("--out", help="Where everything is written.")] = Path("demo-out"),
    seed: Annotated[int, typer.Option(help="Of the questions and of the answers.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew.")] = False,
) -> None:
    """Make a small benchmark; evaluate, judge and compare three tiny trained models on it. No GPU, no network."""
    # typer calls this before `demo generate` and the others too.
    if context.invoked_subcommand is not None:
        return
    import torch

    from seedbench_r1.demo.dataset_writer import write_benchmark
    from seedbench_r1.demo.settings import CLIP, write_settings

    screen = console.err()
    if fresh and folder.exists():
        shutil.rmtree(folder)
    data = folder / "data"
    screen.print(f"1/3 writing a miniature benchmark to {data}", soft_wrap=True)
    # Written last, so that its presence says that the benchmark is complete.
    if not (data / "miniature.toml").exists():
        write_benchmark(data, seed=seed, questions=dict.fromkeys(LEVELS, QUESTIONS), **CLIP)
        write_settings(data)
    console.silence_weight_bars()
    torch.set_num_threads(1)  # at this size more threads only wait for each other
    screen.print("2/3 evaluating three tiny models, by the same code as any other checkpoint\n")
    runs = [_evaluate(folder, shipped_model(name), name, seed) for name in SHIPPED]
    screen.print("3/3 judging their reasoning and comparing them\n")
    _report(folder, runs)


def _evaluate(folder: Path, model: Path, name: str, seed: int) -> Path:
    """A run directory, complete."""
    from seedbench_r1.cli.eval import run_and_report
    from seedbench_r1.engines.plan import plan

    options: dict[str, Any] = {
        "model": str(model),
        "runs_dir": folder / "runs",
        "run_name": name,
        "seed": seed,
        # The same numbers everywhere, and no GPU is taken from others for a demonstration.
        "device": "cpu",
    }
    if importlib.util.find_spec("decord") is None:
        console.err().print("decord is not there: clips are read with PyAV, which is another protocol id\n")
        options["reader"] = "pyav"
    # Without the environment: a user's SBR1_* settings would change the demonstration.
    config = resolve_eval_config(options, config_file=folder / "data" / "miniature.toml", environ={})
    planned = plan(config, command=" ".join(sys.argv))
    run_and_report(planned)
    return planned.path


def _report(folder: Path, runs: list[Path]) -> None:
    """Verdicts, leaderboard.html and leaderboard.csv, and the table on the terminal."""
    from leaderboards.board import build_board
    from leaderboards.draw.csv import write_wide_csv
    from leaderboards.draw.page import write_html
    from seedbench_r1.cli.board_tables import print_board
    from seedbench_r1.demo.exact_judge import ExactJudge

    for path in runs:
        judge_run(load_run(path), ExactJudge())
    # Without published rows: they are of another benchmark.
    board = build_board(runs, baseline=runs[0].name, include_published=False)
    csv_path, html_path = folder / "leaderboard.csv", folder / "leaderboard.html"
    write_wide_csv(board, csv_path)
    page = write_html(board, html_path)
    print_board(board, [html_path, csv_path], page)
    console.out().print(NOTE, soft_wrap=True)
