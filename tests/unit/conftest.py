from dataclasses import dataclass
from pathlib import Path

import pytest

import tests.no_clock  # noqa: F401 - its effect
from leaderboards.board import Board
from tests.boards import golden_board


@dataclass(frozen=True)
class OnDisk:
    """The runs of tests.boards and their board. A test that damages a run takes a copy."""

    folder: Path
    board: Board


@pytest.fixture(scope="session")
def on_disk(tmp_path_factory) -> OnDisk:
    folder = tmp_path_factory.mktemp("leaderboard-runs")
    return OnDisk(folder, golden_board(folder))
