"""Rows of Video-R1's training files for tests, with clips and images, and a tiny model that knows their words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from seedbench_r1.demo.tiny_model import TinySize, write_tiny_checkpoint
from seedbench_r1.suites.transfer import DEFAULT_TEMPLATE
from tests.media import make_clip, make_image
from tests.small_transfer import choice_row, row_of

PROBLEMS = (  # problem type, its question, its answer
    ("multiple choice", "What falls?", "B"),
    ("numerical", "How many cups?", "12"),
    ("OCR", "What does the sign say?", "NO EXIT"),
    ("free-form", "What is it?", "a red ball"),
    ("regression", "How long is it?", "2.5"),
)
OPTIONS = ("rain", "sun", "snow")
SMALL = {
    "device": "cpu",
    "workers": 1,
    "gradient_checkpointing": False,
    "lr_scheduler_type": "constant",
    "max_frames": 4,
    "min_pixels": 3136,
    "max_pixels": 3136,
    "image_min_pixels": 3136,
    "image_max_pixels": 3136,
    "max_completion_length": 16,
    "num_generations": 4,
}


def training_rows(n: int, *, process: str = "") -> list[dict[str, Any]]:
    """n rows, the five kinds in turn, every other one with an image for a clip."""
    rows = []
    for number in range(n):
        kind, problem, gold = PROBLEMS[number % 5]
        medium, path = (
            ("image", f"./pictures/{number % 3}.png") if number % 2 else ("video", f"./clips/{number % 3}.mp4")
        )
        changes = {"problem": problem, "data_type": medium, "path": path, "process": process, "problem_id": number}
        rows.append(
            choice_row(gold, *OPTIONS, **changes) if kind == "multiple choice" else row_of(kind, gold, **changes)
        )
    return rows


def write_training(root: Path, rows: list[dict[str, Any]], name: str = "Video-R1-260k.json") -> Path:
    """The file and its media below `root`; returns the file."""
    for number in range(3):
        for path, make in ((root / f"clips/{number}.mp4", make_clip), (root / f"pictures/{number}.png", make_image)):
            path.parent.mkdir(parents=True, exist_ok=True)
            make(path, seed=number) if make is make_image else make(path, n_frames=40, fps=20)
    file = root / name
    file.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return file


def write_model(folder: Path) -> Path:
    """Random weights; words of the prompts and of answers are few tokens."""
    answers = [f"<think>so {gold}</think><answer>{gold}</answer>" for *_, gold in PROBLEMS]
    texts = [*DEFAULT_TEMPLATE.wording.values(), *(problem for _, problem, _ in PROBLEMS), *answers * 5]
    size = TinySize(hidden=32, layers=2, context=1024, initializer_range=0.05)
    return write_tiny_checkpoint(folder, vocabulary_texts=texts, size=size)
