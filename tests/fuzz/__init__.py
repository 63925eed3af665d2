"""Damaged and hostile inputs for everything that reads files and replies of others: python -m tests.fuzz.

A target makes an input from a seeded generator, and checks what the package does with it. Whatever else comes out than
the target expects is a finding: the input is kept, and once mended it becomes a case of tests/fuzz_cases.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Protocol

Input = tuple[str, bytes]  # the name of the one file that is mutated, and its content


class Target(Protocol):
    """Makes inputs, and knows what may become of them."""

    def make(self, rng: random.Random) -> Input:
        """The same input for the same generator, in any process."""

    def check(self, name: str, data: bytes) -> str:
        """What became of it, in a few words, for counting. Raises anything for a finding."""

    def close(self) -> None:
        """End what it started."""


# In the order in which they run
TARGETS = {
    "clips": "tests.fuzz.media:Clips",
    "images": "tests.fuzz.media:Images",
    "annotations": "tests.fuzz.texts:Annotations",
    "runs": "tests.fuzz.texts:Runs",
    "checkpoints": "tests.fuzz.checkpoints:Checkpoints",
    "archives": "tests.fuzz.network:Archives",
    "replies": "tests.fuzz.network:Replies",
}


def open_target(name: str, folder: Path) -> Target:
    """One of TARGETS, or MODULE:CLASS, over an empty folder of its own."""
    module, _, kind = TARGETS.get(name, name).partition(":")
    maker: Callable[[Path], Target] = getattr(import_module(module), kind)
    return maker(folder)
