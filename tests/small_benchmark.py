"""A small data set with real media, and a script for the fake backend. For tests of the runner."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from seedbench_r1.demo.dataset_writer import write_benchmark

ANSWER = "<think>the cup is dirty</think><answer>{}</answer>"


def benchmark(folder: Path) -> Path:
    """28 questions over L1, L2, L3, tiny clips."""
    write_benchmark(folder, seed=0, frame_size=(64, 64), fps=8, seconds=1.0)
    return folder


def copy_of(benchmark_root: Path, target: Path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(benchmark_root, target)
    return target


def write_script(path: Path, *, default: str = "A", seconds: float = 0.0, **answers: object) -> Path:
    """A script that answers `default` to everything."""
    script = {"default": ANSWER.format(default), "seconds": seconds, "answers": answers}
    path.write_text(json.dumps(script), encoding="utf-8")
    return path
