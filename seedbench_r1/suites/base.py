"""What a suite is: questions with their wording, their scores and their summary. Variants are data, not subclasses."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from seedbench_r1 import scoring
from seedbench_r1.config import EvalConfig, SuiteDefaults
from seedbench_r1.packed import joined
from seedbench_r1.row_files import content_sha256
from seedbench_r1.rows import BadRows
from seedbench_r1.scoring import GroupOf, RunSummary
from seedbench_r1.types import Question, RunRecord


@dataclass(frozen=True, slots=True)
class Questions:
    """What a suite has read: its splits in order, each with its questions and the file they come from."""

    splits: Mapping[str, Sequence[Question]]
    files: dict[str, Path]
    bad_rows: dict[str, BadRows] = field(default_factory=dict)  # of each split, left out under --skip-bad-rows
    read_as: str = ""  # what besides a file's bytes decides what its questions are, such as which columns were read
    notes: tuple[str, ...] = ()  # what the user is to be told of how they were read

    def all(self) -> Sequence[Question]:
        """Every question, split by split."""
        return joined(self.splits.values())

    def hashes(self) -> dict[str, str]:
        """split -> 64 hex digits: sha256 of its file's bytes, and of how they were read where that is not fixed."""
        found = {path: content_sha256(path) for path in dict.fromkeys(self.files.values())}
        if self.read_as:
            found = {path: hashlib.sha256(f"{sha}{self.read_as}".encode()).hexdigest() for path, sha in found.items()}
        return {split: found[path] for split, path in self.files.items()}


@dataclass(frozen=True, slots=True)
class Suite:
    """A set of questions. To add one: a file that makes a Suite, and a line in suites/__init__.py."""

    name: str
    defaults: SuiteDefaults  # named protocols, wording
    load: Callable[[EvalConfig], Questions]  # raises DataError
    group_of: GroupOf  # what divides a split in tables
    scorer: int | None  # hashed into the protocol ids of some suites since version 0.1.0
    path_prefix: str  # before the protocol id in the run directory's name
    splits_option: str  # which leaves questions out
    where_media_go: str  # the fix for absent files

    def split_sizes(self, questions: Questions) -> dict[str, dict[str, int]]:
        """split -> {"all": N, group: N}."""
        return {split: scoring.split_sizes(some, self.group_of) for split, some in questions.splits.items()}

    def summarise(
        self,
        records: Mapping[str, RunRecord],
        questions: Iterable[Question],
        n_total: Mapping[str, Mapping[str, int]] | None = None,
    ) -> RunSummary:
        """Count a run: see scoring.summarise."""
        return scoring.summarise(records, questions, n_total, self.group_of)
