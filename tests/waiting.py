"""Waiting for what processes do: polled, with a limit that only a failing test reaches."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

LIMIT_S = 120.0


def wait_until(holds: Callable[[], object]) -> None:
    """Return once it holds."""
    deadline = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < deadline, f"not within {LIMIT_S:g} s"
        time.sleep(0.02)


def n_records(runs: Path) -> int:
    """How many records the runs in a folder hold."""
    return sum(file.read_bytes().count(b"\n") for file in runs.glob("*/records*.jsonl"))


def wait_for_records(runs: Path, n: int) -> None:
    """Until the runs in a folder hold n records."""
    wait_until(lambda: n_records(runs) >= n)
