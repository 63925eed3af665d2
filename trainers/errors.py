"""The error that training alone knows."""

from __future__ import annotations

from seedbench_r1.errors import SeedBenchError


class TrainingEnded(SeedBenchError):
    """The training learned nothing any more and was ended. What was saved before is complete."""

    exit_code = 7
