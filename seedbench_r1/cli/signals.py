"""SIGINT, SIGTERM and SIGUSR1 (Slurm) while a run is under way."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType


@contextmanager
def draining_signals(message: str) -> Iterator[tuple[threading.Event, list[int]]]:
    """The first signal sets the event and prints `message`; the second raises KeyboardInterrupt.

    Yields the event and the signal numbers that have arrived.
    """
    stop, received = threading.Event(), []

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        print(f"\n{message}", file=sys.stderr)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stop, received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
