"""The runner's own cost: CPU per question, bytes written, time before the model loads. Prints a table and JSON.

python tests/benchmarks/runner.py
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from seedbench_r1.backends.fake import FakeBackend
from seedbench_r1.config import resolve_eval_config
from seedbench_r1.engines.local import answer_all
from seedbench_r1.engines.plan import plan
from seedbench_r1.runs.directory import RunDir
from seedbench_r1.types import Media
from tests.rows import evaluation_row, write_rows
from tests.small_benchmark import write_script

SIZES = {"L1": 2432, "L2": 923, "L3": 1321}
REASONING = "The kettle has been filled and the cup stands ready, so the water has to boil before anything else. " * 11


class ReadyMedia:
    """Media without decoding: what remains is the runner itself."""

    def __init__(self) -> None:
        image = np.zeros((28, 28, 3), np.uint8)
        self._media = Media(np.zeros((4, 28, 28, 3), np.uint8), (0, 1, 2, 3), 30.0, 100, image, "decord")

    def stream(self, questions, *, stop=None):
        return ((question, self._media) for question in questions)


def write_benchmark_rows(root: Path) -> None:
    """4,676 rows; media are empty files, which is enough for all that happens before a model is loaded."""
    for level, n in SIZES.items():
        rows = [evaluation_row(f"{level}_{i}", domain="Work", video_id=f"P{i // 17}") for i in range(n)]
        write_rows(root / "annotations" / f"validation_{level}.jsonl", rows)
        for row in rows:
            for kind, name in (("videos", row["video_basename"]), ("images", row["current_observation_basename"])):
                path = root / kind / row["video_source"] / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()


def bytes_passed_to_write() -> int:
    """wchar of this process: every byte given to write()."""
    text = Path("/proc/self/io").read_text()
    return int(dict(line.split(": ") for line in text.splitlines())["wchar"])


def one_run(root: Path, folder: Path) -> tuple[float, float, float]:
    """CPU ms per question, bytes written / bytes of the run directory, wall ms per question."""
    script = write_script(folder / "script.json")
    options = {"model": str(script), "backend": "fake", "data_root": root, "runs_dir": folder / "runs"}
    planned = plan(resolve_eval_config(options, environ={}, working_dir=folder))
    backend = FakeBackend(lambda *_: f"<think>{REASONING}</think><answer>A</answer>")
    before = bytes_passed_to_write()
    with RunDir.open(planned.path, planned.manifest, planned.questions) as run:
        pending = run.pending(planned.questions)
        cpu, wall = time.process_time(), time.perf_counter()
        answer_all(
            pending,
            ReadyMedia(),
            lambda _: backend,
            planned.config,
            write=lambda record, _: run.append(record),
            stop=threading.Event(),
        )
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    written = bytes_passed_to_write() - before
    data = sum(path.stat().st_size for path in planned.path.iterdir())
    return 1e3 * cpu / len(pending), written / data, 1e3 * wall / len(pending)


def start_up(root: Path, folder: Path) -> tuple[float, float]:
    """Seconds: a new process until the model would be loaded; a new process that only imports torch."""
    script = write_script(folder / "start.json")
    code = f"""
import sys
from seedbench_r1.cli import progress
from seedbench_r1 import backends
def loaded(config):
    raise SystemExit(0)
backends.open_backend = loaded
from seedbench_r1.cli.app import main
sys.argv = ["seedbench-r1", "eval", "--backend", "fake", "--model", {str(script)!r},
            "--data-root", {str(root)!r}, "--runs-dir", {str(folder / "start")!r}, "--fresh", "--quiet"]
main()
"""
    seconds = []
    for command in (code, "import torch"):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", command], check=True, capture_output=True)
        seconds.append(time.perf_counter() - began)
    return seconds[0], seconds[1]


def main() -> None:
    """Five runs and five starts; medians."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "data"
        write_benchmark_rows(root)
        runs = []
        for i in range(5):
            folder = Path(name) / f"run{i}"
            folder.mkdir()
            runs.append(one_run(root, folder))
        starts = [start_up(root, Path(name)) for _ in range(5)]
    cpu, amplification, wall = (statistics.median(column) for column in zip(*runs, strict=True))
    start, torch = (statistics.median(column) for column in zip(*starts, strict=True))
    result = {
        "cpu_ms_per_question": round(cpu, 3),
        "wall_ms_per_question": round(wall, 3),
        "bytes_written_over_data": round(amplification, 4),
        "start_up_s": round(start, 2),
        "import_torch_s": round(torch, 2),
    }
    limits = {"cpu_ms_per_question": 1.0, "bytes_written_over_data": 1.05, "start_up_s": 2.0 + torch}
    for name, value in result.items():
        limit = f"  at most {limits[name]:.2f}" if name in limits else ""
        print(f"{name:<26} {value:>8}{limit}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
