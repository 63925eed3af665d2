"""Time and peak memory of a million questions of a user's own: python -m tests.benchmarks.own_questions --rows 1000000

Loading alone, then an evaluation on the fake backend; every question shows one of a thousand names of one small image.
Memory is this process's peak beyond what importing the same modules takes; decoding workers are not counted.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

from PIL import Image

from seedbench_r1.cli.eval import run_and_report
from seedbench_r1.engines.plan import plan
from seedbench_r1.suites import resolve

NAMES = 1000


def write_questions(folder: Path, rows: int, form: str) -> Path:
    """Rows as real ones are: a question of ten words, three options, a recording."""
    picture = folder / "0.png"
    Image.new("RGB", (32, 32), (90, 120, 40)).save(picture)
    for number in range(1, NAMES):
        (folder / f"{number}.png").hardlink_to(picture)
    path = folder / f"questions.{form}"
    with path.open("w", encoding="utf-8") as file:
        if form == "csv":
            file.write("id,question,choice_a,choice_b,choice_c,answer,image\n")
        for n in range(rows):
            text = f"What does the person in the kitchen do at second {n}?"
            values = [f"q{n}", text, "open the fridge", "wash the cup", "add water", "ABC"[n % 3], f"{n % NAMES}.png"]
            if form == "csv":
                file.write(",".join(values) + "\n")
            else:
                names = ("id", "question", "choice_a", "choice_b", "choice_c", "answer", "image")
                file.write(json.dumps(dict(zip(names, values, strict=True))) + "\n")
    return path


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--form", choices=("jsonl", "csv"), default="jsonl")
    parser.add_argument("--load-only", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = write_questions(folder, given.rows, given.form)
        script = folder / "script.json"
        script.write_text(json.dumps({"default": "<think>The cup is dirty, so B.</think><answer>B</answer>"}))
        options = {
            "suite": "own",
            "questions": path,
            "backend": "fake",
            "model": str(script),
            "runs_dir": folder / "runs",
        }
        before, began = peak_mb(), time.perf_counter()
        planned = plan(resolve(options, environ={}, working_dir=folder))
        print(
            f"{given.rows:,} rows planned in {time.perf_counter() - began:.1f} s, {peak_mb() - before:.0f} MB beyond "
            f"the {before:.0f} MB of the imports"
        )
        if given.load_only:
            return
        began = time.perf_counter()
        run_and_report(planned, quiet=True)
        took = time.perf_counter() - began
        print(f"asked, scored and shown: {1000 * took / given.rows:.2f} ms a question, {peak_mb() - before:.0f} MB")


if __name__ == "__main__":
    main()
