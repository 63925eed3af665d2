"""What engines have in common: a plan, where each record goes, and the one contract that every engine fulfils."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from seedbench_r1.backends.base import sample_id
from seedbench_r1.config import EvalConfig
from seedbench_r1.errors import IncompleteRun
from seedbench_r1.models.checkpoint import Checkpoint
from seedbench_r1.runs.directory import RunDir
from seedbench_r1.scoring import RunSummary
from seedbench_r1.suites.base import Suite
from seedbench_r1.types import Question, RunManifest, RunRecord

Observe = Callable[[RunRecord], None]
DRAINING = "Stopping: answers in flight are finished and saved. Once more stops at once."


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do, known before the model is loaded."""

    config: EvalConfig
    path: Path  # run directory; of several samples, their folder (runs/samples.py)
    manifest: RunManifest
    questions: Sequence[Question]  # of the splits asked for, after --limit
    missing: list[Path]  # media files that are not there
    checkpoint: Checkpoint | None  # None: the fake backend, API models, and models that only lmms-eval can inspect
    suite: Suite


@dataclass(frozen=True, slots=True)
class RunProtocol:
    """What a run's manifest says of how its numbers were made, besides the settings themselves."""

    name: str
    protocol_id: str
    backend: str
    path_prefix: str = ""  # before the id in the run directory's name
    model_suffix: str = ""  # after the model's name there
    transport: dict[str, object] | None = None  # how pixels travel to an API model; part of the id
    versions: dict[str, str] = field(default_factory=dict)  # of what answers, besides this package's own


@dataclass(frozen=True, slots=True)
class EvalResult:
    """How one call of run_plan ended."""

    summary: RunSummary  # of the whole run, all shards
    unanswered: int  # questions asked for in this call and shard without an answer
    failed: int  # of those, the ones whose last attempt failed
    stopped: bool  # a stop was asked for before the questions ran out


@dataclass(slots=True)
class FailuresInARow:
    """Tells a fault of the whole run from faults of single questions."""

    run: str  # its directory, for the message
    limit: int = 20
    message: str = ""  # of the latest backend error, without its numbers
    n: int = 0
    question: str = ""  # the latest one: its further samples are no further questions
    succeeded: bool = False  # a question was answered since the start of the call

    def add(self, record: RunRecord) -> None:
        """Raise IncompleteRun if the limit is reached: the same backend error in a row, and not one answer."""
        if record.answered:
            self.succeeded = True
        # A bad clip is its own fault, and says nothing about the model.
        if record.failure is None or record.failure.kind != "backend_error" or self.succeeded:
            return
        if record.question_id == self.question:
            return
        self.question = record.question_id
        message = re.sub(r"\d+", "#", record.failure.message.replace(record.question_id, ""))
        self.n = self.n + 1 if message == self.message else 1
        self.message = message
        if self.n >= self.limit:
            raise IncompleteRun(
                f"Stopped: {self.n} questions in a row ended in the same backend error, and none was answered: "
                f"{record.failure.message.rstrip('.')}. Fix that and run the same command again: they are asked again. "
                f"All of them: seedbench-r1 show {self.run} --failed"
            )


@dataclass(frozen=True, slots=True)
class Recorder:
    """Where an engine leaves its records. May be called from any thread.

    A run of several samples has a directory for each seed; of one answer to each question, the only one is None's.
    """

    runs: Mapping[int | None, RunDir]
    pending: Mapping[str, tuple[int, ...]]  # question_id -> the seeds that are left; {}: one answer to each question
    observe: Observe
    say: Callable[[str], None]  # a line for the user
    failures: FailuresInARow

    @property
    def run(self) -> RunDir:
        """The directory, of several samples the first one's."""
        return next(iter(self.runs.values()))

    def write(self, record: RunRecord, seed: int | None = None) -> None:
        """Keep a record: in the file when this returns. Raises ResourceError, IncompleteRun: see FailuresInARow."""
        self.keep(record, seed)
        self.failures.add(record)

    def keep(self, record: RunRecord, seed: int | None = None) -> None:
        """As write, for questions that were all asked already: nothing is saved by stopping."""
        self.runs[seed].append(record)
        self.written_by_worker(record, seed)

    def written_by_worker(self, record: RunRecord, seed: int | None = None) -> None:
        """Take note of a record that a worker process has put into a file of its own."""
        self.observe(record if seed is None else replace(record, question_id=sample_id(record.question_id, seed)))


class Engine(AbstractContextManager["Engine"], Protocol):
    """How a plan is carried out. What it needs is started on entering, after everything was checked.

    To add one: a file, a line in engines/plan.py:open_engine, its name in config.ENGINES.
    """

    @property
    def stop_message(self) -> str:
        """What the user is told after the first signal."""
        ...

    def check(self, config: EvalConfig, suite: Suite) -> None:
        """Raise ConfigError if the engine is not installed, or the suite or the settings make no sense with it."""
        ...

    def writers(self, plan: Plan) -> int:
        """Worker processes that write records into files of their own; 0: none."""
        ...

    def answer(self, plan: Plan, pending: Sequence[Question], recorder: Recorder, *, stop: threading.Event) -> None:
        """Ask the pending questions; leave a record of each, failures too, with the recorder.

        When `stop` is set, nothing new is begun; what is in flight is finished and recorded.
        """
        ...
