"""One small leaderboard with every kind of run, shared by the tests; and its golden tables.

`python -m tests.boards` writes tests/golden/leaderboard.csv and leaderboard_long.csv anew.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from leaderboards.board import Board, build_board
from leaderboards.draw.csv import write_long_csv, write_wide_csv
from tests.synthetic_runs import RunSpec, make_benchmark, write_runs

GOLDEN = Path(__file__).parent / "golden"
SPECS = [
    RunSpec("base", ability=-0.4, seed=1, step=0, algorithm=None),
    RunSpec("grpo-100", ability=0.3, seed=2, step=100, training="grpo"),
    RunSpec("grpo-200", ability=1.0, seed=3, step=200, consistent=0.5, training="grpo"),
    RunSpec("care-200", ability=2.2, seed=4, step=200, algorithm="care", consistent=0.9, training="care"),
    RunSpec(
        "messy", ability=0.3, seed=5, unparsed=0.08, truncated=0.04, bare=0.2, commit="ab+dirty", training="m", seen=3
    ),
    RunSpec("best-of-5", ability=2.0, seed=6, selected_from_k=5),
    RunSpec("other-judge", ability=0.2, seed=7, judges=("openai:big/v1-0a1b2c3d",)),
    RunSpec("not-judged", ability=0.1, seed=8, judges=()),
    RunSpec("frames-32", ability=2.5, seed=9, frames=32),
    RunSpec("stopped", ability=0.4, seed=10, answered=0.9),
    RunSpec("some-failed", ability=0.4, seed=11, failed=0.02),
    RunSpec("limited", ability=0.4, seed=12, limit=20),
    RunSpec("only-l3", ability=0.4, seed=13, levels=("L3",)),
]
COMPLETE = ("base", "grpo-100", "grpo-200", "care-200", "messy", "best-of-5", "other-judge", "not-judged", "only-l3")


def write_all(folder: Path) -> list[Path]:
    return write_runs(folder, SPECS, make_benchmark())


def golden_board(folder: Path) -> Board:
    return build_board(write_all(folder), baseline="base")


def long_board(folder: Path) -> Board:
    """Of two of the runs that golden_board wrote, one of them incomplete."""
    return build_board([folder / "base", folder / "some-failed"], baseline="base")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        board = golden_board(Path(folder))
        write_wide_csv(board, GOLDEN / "leaderboard.csv")
        write_long_csv(long_board(Path(folder)), GOLDEN / "leaderboard_long.csv")


if __name__ == "__main__":
    main()
