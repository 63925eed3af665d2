"""seedbench-r1 demo: the whole way on a miniature benchmark that is made on the spot."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seedbench_r1.cli.experiment import experiment_command
from seedbench_r1.cli.miniature import generate_command, model_command
from seedbench_r1.errors import Interrupted

if TYPE_CHECKING:
    from rich.console import Console

QUESTIONS = {"L1": 24, "L2": 12, "L3": 16}
TRAINING_ROWS = 64
TRAINING_STEPS = 220  # about 15 s on two cores: enough to learn the form of an answer, far too few for the task
SMALL_MEDIA: dict[str, Any] = {
    "max_frames": 8,
    "min_pixels": 4 * 28 * 28,
    "max_pixels": 24 * 28 * 28,
    "image_max_pixels": 24 * 28 * 28,
    "device": "cpu",
}
NOTE = (
    "\nThese two models have random weights and some seconds of supervised steps: they know what an answer looks like, "
    "not what is right, and are expected at chance, 25 %. For the task they are untrained; their numbers mean nothing."
    "\nWhat is real is the path: clips, decoding, training, prompt, model, parser, score, judge, statistics, page."
)


app = typer.Typer(invoke_without_command=True)
app.command("generate")(generate_command)
app.command("model")(model_command)
app.command("experiment")(experiment_command)


@app.callback()
def demo_command(
    context: typer.Context,
    folder: Annotated[Path, typer.Option("--out", help="Where everything is written.")] = Path("demo-out"),
    seed: Annotated[int, typer.Option(help="Of the questions and of the models' random weights.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew.")] = False,
) -> None:
    """Make a small benchmark and two tiny models, evaluate, judge and compare them. No GPU, no network."""
    if context.invoked_subcommand is not None:
        return
    from seedbench_r1.cli import console
    from seedbench_r1.demo.dataset_writer import write_benchmark

    screen = console.err()
    if fresh and folder.exists():
        shutil.rmtree(folder)
    data = folder / "data"
    screen.print(f"1/4 writing a miniature benchmark to {data}", soft_wrap=True)
    write_benchmark(data, seed=seed, questions=QUESTIONS, train=TRAINING_ROWS, cot=TRAINING_ROWS, inconsistent=0.3)
    media = dict(SMALL_MEDIA)
    if importlib.util.find_spec("decord") is None:
        screen.print("decord is not there: clips are read with PyAV, which is another protocol id\n")
        media["reader"] = "pyav"
    screen.print("2/4 teaching two tiny Qwen2.5-VL with random weights the form of an answer", soft_wrap=True)
    models = [_taught_model(folder, name, seed + offset, media, screen) for offset, name in enumerate(("a", "b"))]
    screen.print("3/4 evaluating them, by the same code as any other checkpoint\n")
    runs = [_evaluate(folder, model, seed, media) for model in models]
    screen.print("4/4 judging their reasoning and comparing them\n")
    _report(folder, runs)


def _taught_model(folder: Path, name: str, seed: int, media: dict[str, Any], screen: Console) -> Path:
    """A checkpoint that writes answers. An earlier call's is kept; an interrupted one's is continued."""
    import torch

    from seedbench_r1.cli.console import silence_weight_bars
    from seedbench_r1.cli.eval import draining_signals
    from seedbench_r1.demo.tiny_model import TinySize, write_tiny_checkpoint
    from seedbench_r1.demo.traces import vocabulary_texts
    from seedbench_r1.prompts import DEFAULT_TEMPLATE, build_prompt
    from seedbench_r1.questions import load_questions
    from trainers.config import resolve_train_config
    from trainers.loop import train

    silence_weight_bars()
    torch.set_num_threads(1)  # at this size more threads only wait for each other
    base, data = folder / "models" / f"random-{name}", folder / "data"
    if not (base / "model.safetensors").exists():
        prompts = [build_prompt(question, DEFAULT_TEMPLATE) for question in load_questions(data)]
        answers = [f"<think></think><answer>{letter}</answer>" for letter in "ABCD"] * 40
        size = TinySize(max_merges=1500, initializer_range=0.08)
        write_tiny_checkpoint(base, vocabulary_texts=prompts + vocabulary_texts() * 3 + answers, seed=seed, size=size)
    config = resolve_train_config(
        media
        | {
            "algo": "sft",
            "model": str(base),
            "data": data,
            "out": folder / "models" / f"tiny-{name}",
            "learning_rate": 3e-3,
            "warmup_ratio": 0.1,
            "max_grad_norm": 1.0,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 1,
            "gradient_checkpointing": False,
            "max_steps": TRAINING_STEPS,
            "save_steps": TRAINING_STEPS,
            "frame_cache": folder / "frames",
            "seed": seed,
        }
    )
    with draining_signals("Stopping: this step is finished and saved.") as (stop, received):
        result = train(config, stop=stop)
    if received or result.checkpoint is None:
        raise Interrupted("Stopped by a signal. Run the demo again to go on.", received[0] if received else 15)
    screen.print(f"    tiny-{name}: {result.step} supervised steps, {result.checkpoint}", soft_wrap=True)
    return result.checkpoint


def _evaluate(folder: Path, model: Path, seed: int, media: dict[str, Any]) -> Path:
    """A run directory, complete."""
    from seedbench_r1.cli.eval import finish, run_plan
    from seedbench_r1.config import resolve_eval_config
    from seedbench_r1.evaluate import plan

    options = media | {
        "model": str(model),
        "data_root": folder / "data",
        "runs_dir": folder / "runs",
        "seed": seed,
        "dtype": "float32",
        "max_new_tokens": 64,
    }
    planned = plan(resolve_eval_config(options, environ={}, working_dir=folder), command=" ".join(sys.argv))
    result, signal_number = run_plan(planned)
    finish(planned, result, signal_number, {"json": False})
    return planned.path


def _report(folder: Path, runs: list[Path]) -> None:
    """Verdicts, leaderboard.html and leaderboard.csv, and the table on the terminal."""
    from leaderboards.board import build_board
    from leaderboards.csv_report import write_wide_csv
    from leaderboards.html_report import write_html
    from seedbench_r1.cli import console
    from seedbench_r1.cli.leaderboard import print_board
    from seedbench_r1.judge import RulesJudge, judge_run
    from seedbench_r1.runs import load_run

    for path in runs:
        judge_run(load_run(path), RulesJudge())
    board = build_board(runs, baseline=runs[0].name, include_published=False)
    csv_path, html_path = folder / "leaderboard.csv", folder / "leaderboard.html"
    write_wide_csv(board, csv_path)
    page = write_html(board, html_path)
    print_board(board, [html_path, csv_path], page)
    console.out().print(NOTE, soft_wrap=True)
