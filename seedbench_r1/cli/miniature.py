"""seedbench-r1 demo generate, demo model: the miniature world and tiny models for it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from seedbench_r1.cli import console
from seedbench_r1.demo.models import copy_shipped_model
from seedbench_r1.errors import ConfigError
from seedbench_r1.types import LEVELS


def generate_command(
    out: Annotated[Path, typer.Option("--out", help="Data root to write.")] = Path("miniature"),
    questions: Annotated[int, typer.Option(help="Of each level.", min=1)] = 200,
    train: Annotated[int, typer.Option(help="Rows of training_6k.jsonl.", min=0)] = 4000,
    traces: Annotated[
        int, typer.Option(help="Rows of training_with_cot_6k.jsonl, the first ones of the former.", min=0)
    ] = 8000,
    inconsistent: Annotated[
        float,
        typer.Option(help="Share of the traces that conclude a wrong action and answer the right one.", min=0, max=1),
    ] = 0.25,
    wrong: Annotated[
        float, typer.Option(help="Share of the traces that conclude a wrong action and answer it.", min=0, max=1)
    ] = 0.25,
    blank: Annotated[str | None, typer.Option(help="clip or image: leave this medium grey.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed, other questions.")] = 0,
) -> None:
    """Write a miniature benchmark: clips, images, L1 to L3, training rows and traces in the benchmark's own format."""
    from seedbench_r1.demo.dataset_writer import write_benchmark
    from seedbench_r1.demo.settings import CLIP, write_settings

    if blank not in (None, "clip", "image"):
        raise ConfigError(f"--blank is {blank!r}, expected clip or image.")
    write_benchmark(
        out,
        seed=seed,
        # Equal levels: intervals of the same width.
        questions=dict.fromkeys(LEVELS, questions),
        train=train,
        cot=traces,
        inconsistent=inconsistent,
        wrong=wrong,
        blank=cast(Literal["clip", "image"] | None, blank),
        **CLIP,
    )
    # After the data: the file's presence says that the benchmark is complete.
    config = write_settings(out)
    screen = console.out()
    screen.print(f" {questions} questions of each level, {train:,} training rows, {traces:,} traces", soft_wrap=True)
    screen.print(f" saved {out}; settings for eval and train: --config {config}", soft_wrap=True)


def model_command(
    out: Annotated[Path, typer.Option("--out", help="Folder of the checkpoint.")] = Path("miniature/base"),
    trained: Annotated[
        str | None, typer.Option(help="sft, grpo or care: the package's trained model instead of random weights.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random weights.")] = 0,
) -> None:
    """Write a Qwen2.5-VL of a million parameters whose tokenizer knows the miniature's words; untrained by default."""
    from seedbench_r1.demo.tiny_model import write_miniature_model

    # Never over a checkpoint: it may be the result of a training.
    if (out / "config.json").exists():
        raise ConfigError(f"{out} holds a model already. Fix: --out ANOTHER_FOLDER.")
    # Saving shows a bar too.
    console.silence_weight_bars()
    # A copy, so that training from it leaves the package as it is.
    if trained is None:
        write_miniature_model(out, seed=seed)
    else:
        copy_shipped_model(trained, out)
    console.out().print(f" saved {out}; next: {_next_command(out, trained)}", soft_wrap=True)


def _next_command(model: Path, trained: str | None) -> str:
    """What comes after such a model: SFT after random weights, CARE after SFT, else its evaluation.

    The data are those next to the model, where `demo generate` has written some.
    """
    from seedbench_r1.demo.settings import CONFIG

    root = model.parent
    settings = str(root / CONFIG) if (root / CONFIG).is_file() else "DATA/miniature.toml"
    if trained in ("grpo", "care"):
        return f"seedbench-r1 eval --config {shlex.quote(settings)} --model {shlex.quote(str(model))}"
    algo = "sft" if trained is None else "care"
    return (
        f"seedbench-r1 train --config {shlex.quote(settings)} --algo {algo} --model {shlex.quote(str(model))} "
        f"--out {shlex.quote(str(root / algo))}"
    )
