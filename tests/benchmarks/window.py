"""The window of `view`: how soon it opens, and what following a training costs.

    python tests/benchmarks/window.py [--seconds 60]

Opening: from the start of the command until it prints its address, the median of three; runs of 4,676 questions with
1,100 characters of reasoning an answer. Following: CPU time of the window that is asked every five seconds, as its page
does, over that of a CARE training of the miniature, in the same seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.benchmarks.report_page import write_prose_run  # noqa: E402
from tests.synthetic_runs import sweep  # noqa: E402

PROGRAM = [sys.executable, "-m", "seedbench_r1"]
EVERY_S = 5.0  # as static/trainings.js asks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="Of following.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = [write_prose_run(folder, spec) for spec in sweep(2)]
        for paths in (runs[:1], runs):
            seconds = statistics.median(opened(paths, kept=False)[0] for _ in range(3))
            print(f"opens {len(paths)} runs in {seconds:.1f} s")
        follow(folder, options.seconds)


def opened(paths: list[Path], *, kept: bool) -> tuple[float, str, subprocess.Popen[str]]:
    """Seconds until the address, the address, and the process, which goes on if it is kept."""
    start = time.perf_counter()
    command = [*PROGRAM, "view", "--no-open", *map(str, paths)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    seconds = time.perf_counter() - start
    if not kept:
        process.kill()
        process.wait()
    return seconds, address, process


def follow(folder: Path, seconds: float) -> None:
    """Train, follow, and print the share."""
    data, out = folder / "miniature", folder / "care"
    subprocess.run([*PROGRAM, "demo", "generate", "--out", data, "--questions", "4", "--train", "400"], check=True)
    subprocess.run([*PROGRAM, "demo", "model", "--trained", "sft", "--out", folder / "base"], check=True)
    words = ["--config", data / "miniature.toml", "--data", data, "--model", folder / "base", "--out", out]
    training = subprocess.Popen([*PROGRAM, "train", "--algo", "care", *words], stdout=subprocess.DEVNULL)
    while not (out / "metrics.jsonl").is_file() or not (out / "metrics.jsonl").stat().st_size:
        time.sleep(0.5)
    opening, address, window = opened([out], kept=True)
    before = cpu(window.pid), cpu(training.pid)
    seen, changes, end = "", 0, time.monotonic() + seconds
    while time.monotonic() < end and training.poll() is None:
        with urllib.request.urlopen(f"{address}trainings/state?seen={seen}") as reply:
            if reply.status == 200:
                seen, changes = json.load(reply)["state"], changes + 1
        time.sleep(EVERY_S)
    window_s, training_s = cpu(window.pid) - before[0], cpu(training.pid) - before[1]
    print(f"opens a training in {opening:.1f} s")
    print(f"follows it, {changes} changes, with {100 * window_s / training_s:.1f} % of its CPU time")
    for process in (window, training):
        process.kill()


def cpu(pid: int) -> float:
    """Seconds of a process and its children."""
    every = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(sum(process.cpu_times()[:2]) for process in every)


if __name__ == "__main__":
    main()
