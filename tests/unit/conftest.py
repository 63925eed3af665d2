from dataclasses import dataclass
from pathlib import Path

import pytest

import tests.no_clock  # noqa: F401 - its effect
from leaderboards.board import Board
from tests.boards import golden_board
from tests.hub_emulator import emulated_hub


@dataclass(frozen=True)
class OnDisk:
    """The runs of tests.boards and their board. A test that damages a run takes a copy."""

    folder: Path
    board: Board


@pytest.fixture(scope="session")
def on_disk(tmp_path_factory) -> OnDisk:
    folder = tmp_path_factory.mktemp("leaderboard-runs")
    return OnDisk(folder, golden_board(folder))


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """An empty hub that huggingface_hub talks to in this process."""
    from huggingface_hub import constants

    with emulated_hub() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.endpoint)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", running.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr("seedbench_r1.data.hub._WAITS_S", (0.01,) * 5)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setenv("NO_PROXY", "*")
        yield running
