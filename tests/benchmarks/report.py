"""The cost of a leaderboard: 20 synthetic runs of 4,676 questions, 1,100 characters of reasoning each. CPU time.

python tests/benchmarks/report.py [--runs 20] [--profile]
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

from leaderboards.board import build_board
from leaderboards.draw.csv import write_long_csv, write_wide_csv
from leaderboards.draw.latex import write_latex
from leaderboards.draw.markdown import write_markdown
from leaderboards.draw.page import write_html
from leaderboards.draw.predictions import write_predictions_csv
from leaderboards.draw.svg import write_charts
from leaderboards.loading import gc_paused
from tests.synthetic_runs import FULL, make_benchmark, sweep, write_runs

LIMIT_S = 3.0  # board, tables and page together, after import
REPEATS = 3


@contextmanager
def profiled(wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    profile = cProfile.Profile()
    profile.enable()
    yield
    profile.disable()
    pstats.Stats(profile).sort_stats("tottime").print_stats(25)


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(paths: list[Path], out: Path) -> dict[str, float]:
    """CPU seconds by part, as `leaderboard build` spends them."""
    with gc_paused():
        boards = []
        read = cpu_seconds(lambda: boards.append(build_board(paths, baseline=paths[0].name)))
        board = boards[0]
        return {
            "read, rows, all pairwise tests, 10,000-draw bootstrap": read,
            "leaderboard.csv, leaderboard_long.csv": cpu_seconds(
                lambda: (write_wide_csv(board, out / "a.csv"), write_long_csv(board, out / "b.csv"))
            ),
            "leaderboard.html": cpu_seconds(lambda: write_html(board, out / "a.html")),
            "Markdown and LaTeX": cpu_seconds(
                lambda: (write_markdown(board, out / "a.md"), write_latex(board, out / "a.tex"))
            ),
            "charts, 4 as SVG and PDF": cpu_seconds(lambda: write_charts(board, out / "charts")),
            "predictions.csv (on request)": cpu_seconds(lambda: write_predictions_csv(board, out / "p.csv")),
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_runs(folder / "runs", sweep(options.runs, reasoning_chars=1100), make_benchmark(FULL))
        size = sum(file.stat().st_size for path in paths for file in path.iterdir())
        with profiled(options.profile):
            best = measure(paths, folder)
        for _ in range(0 if options.profile else REPEATS - 1):
            best = {part: min(seconds, best[part]) for part, seconds in measure(paths, folder).items()}
        page = (folder / "a.html").stat().st_size
    print(f"{options.runs} runs x {sum(FULL.values())} questions, {size / 1e6:.0f} MB; page {page / 1e6:.2f} MB")
    for part, seconds in best.items():
        print(f"  {part:<58} {seconds:6.2f} s")
    report = sum(list(best.values())[:3])
    print(f"  {'the first three together':<58} {report:6.2f} s   (limit {LIMIT_S} s)")
    print(json.dumps({"benchmark": "report", "runs": options.runs, "cpu_s": best, "report_cpu_s": report}))


if __name__ == "__main__":
    main()
