"""How far each job of an experiment is, read from its folder while it runs or later."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seedbench_r1.experiments.folder import Folder, JobRecord
from seedbench_r1.experiments.jobs import Job, next_step
from seedbench_r1.experiments.recipe import Recipe
from seedbench_r1.runs.answers import recorded
from seedbench_r1.runs.directory import read_manifest
from seedbench_r1.runs.training_snapshot import METRICS, read_lines

State = Literal["waiting", "running", "queued", "stopped", "failed", "done"]


@dataclass(frozen=True, slots=True)
class JobState:
    """A line of `experiment status`."""

    job: str
    state: State
    doing: str  # train, eval, judge, probe; empty: nothing was begun, or all is done
    done: int  # steps or questions, of what it does
    total: int | None  # None: not known yet, or nothing to count
    log: Path
    why: str  # of a failure


def state_of(recipe: Recipe, folder: Folder, job: Job) -> JobState:
    """Read a job's record and, of what it does, the file that grows. Raises DataError for a record that was edited."""
    record, log = folder.record(job.name), folder.log(job.name)
    # Whatever the record says last: who looks at a job that has ended sees the end.
    if not record.doing and not record.failed and record.done and next_step(recipe, folder, job, record) is None:
        return JobState(job.name, "done", "", 0, None, log, "")
    running = folder.is_running(job.name)
    doing = record.doing[0] if record.doing else ""
    state: State = "stopped" if doing else "waiting"
    if running:
        state = "running"
    elif record.failed:
        state = "failed"
    elif record.submitted is not None:
        state = "queued"
    done, total = _progress(folder, job, record)
    return JobState(job.name, state, doing, done, total, log, record.failed if state == "failed" else "")


def _progress(folder: Folder, job: Job, record: JobRecord) -> tuple[int, int | None]:
    """Of the command that runs, or was to run last."""
    match record.doing[:1]:
        case ("train",):
            lines = read_lines(folder.trainings / job.name / METRICS)
            return (int(lines[-1]["step"]) if lines else 0), record.steps
        case ("eval",):
            words = record.doing
            run = Path(words[words.index("--runs-dir") + 1]) / words[words.index("--run-name") + 1]
            manifest = read_manifest(run)
            total = None if manifest is None else sum(of["all"] for of in manifest.n_total.values())
            return (sum(record.answered for record in recorded(run).values()) if run.is_dir() else 0), total
    return 0, None
