"""The error that training alone knows."""

from __future__ import annotations

from seedbench_r1.errors import SeedBenchError


class TrainingEnded(SeedBenchError):
    """The training learned nothing any more and was ended. What was saved before is complete."""

    exit_code = 7


class PeerEnded(SeedBenchError):
    """Another process of this training failed, and this one ends with its words and its exit code."""

    def __init__(self, words: str, exit_code: int) -> None:
        super().__init__(f"The training has ended: {words}")
        self.exit_code = exit_code
