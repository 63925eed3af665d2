"""seedbench-r1 demo: the whole way on a miniature benchmark that is made on the spot."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

# The demo's own protocol: small frames, few tokens, so that two CPU cores need seconds.
DEMO_PROTOCOL = {
    "max_frames": 8,
    "min_pixels": 4 * 28 * 28,
    "max_pixels": 24 * 28 * 28,
    "image_max_pixels": 24 * 28 * 28,
    "max_new_tokens": 48,
    "dtype": "float32",
    "device": "cpu",
}


def demo_command(
    folder: Annotated[Path, typer.Option("--out", help="Where everything is written.")] = Path("demo-out"),
    seed: Annotated[int, typer.Option(help="Of the questions and of the model's random weights.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew.")] = False,
) -> None:
    """Write a small benchmark and a tiny untrained model, evaluate it, write leaderboard.csv. No GPU, no network."""
    from leaderboards.board import build_board
    from leaderboards.csv_report import write_wide_csv
    from seedbench_r1.cli import console
    from seedbench_r1.cli.eval import run_plan
    from seedbench_r1.cli.results import print_result
    from seedbench_r1.config import resolve_eval_config
    from seedbench_r1.demo.dataset_writer import write_benchmark
    from seedbench_r1.evaluate import plan

    screen = console.err()
    if fresh and folder.exists():
        shutil.rmtree(folder)
    data, model = folder / "data", folder / "models" / "tiny-qwen2.5-vl-untrained"
    screen.print(f"1/3 writing a miniature benchmark to {data}", soft_wrap=True)
    write_benchmark(data, seed=seed)
    screen.print(f"2/3 writing a tiny Qwen2.5-VL with random weights to {model}", soft_wrap=True)
    _write_model(model, data, seed)
    screen.print("3/3 evaluating it, by the same code as any other checkpoint\n")
    options = DEMO_PROTOCOL | {"model": str(model), "data_root": data, "runs_dir": folder / "runs", "seed": seed}
    if importlib.util.find_spec("decord") is None:
        screen.print("decord is not there: clips are read with PyAV, which is another protocol id\n")
        options |= {"reader": "pyav"}
    planned = plan(resolve_eval_config(options, environ={}, working_dir=folder), command=" ".join(sys.argv))
    result, _ = run_plan(planned)
    write_wide_csv(build_board([planned.path], include_published=False), folder / "leaderboard.csv")
    print_result(planned, result)
    notes = console.out()
    notes.print(
        "\nThis model is untrained: its weights are random, so its answers are noise and its accuracy means nothing."
    )
    notes.print("What is real is the path: clips, decoding, prompt, model, parser, score, run directory, table.")
    notes.print(f"leaderboard: {folder / 'leaderboard.csv'}", soft_wrap=True)


def _write_model(folder: Path, data: Path, seed: int) -> None:
    """Written once: the same folder and seed hold the same weights."""
    from seedbench_r1.cli.console import silence_weight_bars
    from seedbench_r1.demo.tiny_model import write_tiny_checkpoint
    from seedbench_r1.prompts import DEFAULT_TEMPLATE, build_prompt
    from seedbench_r1.questions import load_questions

    if (folder / "model.safetensors").exists():
        return
    silence_weight_bars()
    texts = [build_prompt(question, DEFAULT_TEMPLATE) for question in load_questions(data)]
    write_tiny_checkpoint(folder, vocabulary_texts=texts, seed=seed)
