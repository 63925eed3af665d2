"""Carrying jobs out: so many at once, each command after the other; what fails stops no other job."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from seedbench_r1.demo.settings import CONFIG
from seedbench_r1.errors import ConfigError, SeedBenchError
from seedbench_r1.experiments.folder import Folder
from seedbench_r1.experiments.jobs import Job, Step, launch_words, next_step
from seedbench_r1.experiments.launch import PROGRAM, Launcher, LocalLauncher, Running, Share, Start
from seedbench_r1.experiments.recipe import Miniature, Recipe
from seedbench_r1.experiments.video_r1_files import uses_video_r1, write_video_r1_files

POLL_S = 0.1  # how soon the end of a command is noticed


@dataclass(slots=True)
class _Slot:
    """One of the jobs that run at once."""

    share: Share
    job: Job | None = None
    step: Step | None = None  # what was started
    running: Running | None = None
    waits: bool = False  # for what an earlier driver has started, and it was said


class Driver:
    """Starts commands and waits for them, in one thread.

    Attributes:
        failed: job -> why it did not end well.
        unfinished: jobs that a stop has left undone.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Folder,
        launcher: Launcher,
        shares: Sequence[Share],
        *,
        n_steps: Mapping[str, int],  # job -> steps of its training
        say: Callable[[str], None],
    ) -> None:
        self._recipe, self._folder, self._launcher, self._say = recipe, folder, launcher, say
        self._n_steps = n_steps
        self._slots = [_Slot(share) for share in shares]
        self._done: set[str] = set()
        self._stopped = False
        self.failed: dict[str, str] = {}
        self.unfinished: list[str] = []

    def run(self, jobs: Sequence[Job], *, stop: threading.Event) -> None:
        """Until all jobs have ended; after a stop, until what runs has saved."""
        left = list(jobs)
        try:
            while left or any(slot.job for slot in self._slots):
                if stop.is_set() and not self._stopped:
                    self._stopped = True
                    self.unfinished += [job.name for job in left]
                    left.clear()
                    self._send(signal.SIGTERM)
                for slot in self._slots:
                    slot.job = slot.job or self._take(left)
                    self._advance(slot)
                time.sleep(POLL_S)
        except BaseException:
            self._send(signal.SIGINT)
            while any(
                slot.running and not slot.running.submitted and slot.running.poll() is None for slot in self._slots
            ):
                time.sleep(POLL_S)
            raise

    def _take(self, left: list[Job]) -> Job | None:
        """The next job that can start. What starts from a job that has failed has failed, too."""
        for job in list(left):
            if job.after in self.failed:
                left.remove(job)
                self._fail(job, f"{job.after} failed, from which it starts")
            elif job.after is None or job.after in self._done:
                left.remove(job)
                return job
        return None

    def _advance(self, slot: _Slot) -> None:
        """Begin the next command of the slot's job if the one before has ended."""
        if slot.job is None:
            return
        try:
            if slot.running is None:
                self._begin(slot, slot.job)
            elif (code := slot.running.poll()) is not None:
                self._end(slot, slot.job, code)
        except SeedBenchError as error:  # a full disk, or a run that was edited: this job's alone
            self._fail(slot.job, str(error))
            slot.job = slot.running = None

    def _begin(self, slot: _Slot, job: Job) -> None:
        if self._stopped:
            self.unfinished.append(job.name)
            slot.job = None
            return
        record = self._folder.record(job.name)
        slot.step = step = next_step(self._recipe, self._folder, job, record)
        if step is None:
            self._done.add(job.name)
            self._say(f"{job.name}: done")
            slot.job = None
            return
        if record.submitted is not None and (running := self._launcher.find(record.submitted)):
            slot.running = running
            self._say(f"{job.name}: {step.kind} was submitted as {record.submitted}")
            return
        lock = self._folder.claim_job(job.name)
        if lock is None:
            if not slot.waits:
                slot.waits = True
                self._say(f"{job.name}: waiting for what an earlier call has started")
            return
        slot.waits = False
        try:
            record = replace(
                record, doing=step.words, failed="", submitted=None, steps=self._n_steps.get(job.name, record.steps)
            )
            self._folder.write_record(job.name, record)
            slot.running = self._launcher.start(self._start(slot, job, step), lock)
        finally:
            os.close(lock)
        if slot.running.submitted is not None:
            self._folder.write_record(job.name, replace(record, submitted=slot.running.submitted))
        self._say(f"{job.name}: {step.kind}")

    def _start(self, slot: _Slot, job: Job, step: Step) -> Start:
        processes = self._recipe.launch.processes if step.kind == "train" else 1
        return Start(
            words=launch_words(self._recipe, step, PROGRAM),
            log=self._folder.log(job.name),
            lock=self._folder.lock(job.name),
            environment=slot.share.environment(processes) if self._recipe.launch.slurm is None else {},
        )

    def _end(self, slot: _Slot, job: Job, code: int) -> None:
        step, slot.running = slot.step, None
        assert step is not None
        record = self._folder.record(job.name)
        if code == 0:
            record = replace(record, done=(*record.done, step.words), doing=(), submitted=None)
            self._folder.write_record(job.name, record)
            # What ends well without having made anything would be begun for ever.
            if next_step(self._recipe, self._folder, job, record) != step:
                return
            self._fail(job, f"{step.kind} made no {step.made}, see {self._folder.log(job.name)}")
        elif self._stopped:
            self.unfinished.append(job.name)
        else:
            self._fail(job, f"{step.kind} ended with {_ending(code)}, see {self._folder.log(job.name)}")
        slot.job = None

    def _fail(self, job: Job, why: str) -> None:
        self.failed[job.name] = why
        self._say(f"{job.name}: {why}")
        try:
            record = replace(self._folder.record(job.name), failed=why, submitted=None)
            self._folder.write_record(job.name, record)
        except SeedBenchError as error:  # the disk that is full may be this one; `failed` has it all the same
            self._say(f"{job.name}: {error}")

    def _send(self, number: signal.Signals) -> None:
        for slot in self._slots:
            if slot.running is None:
                continue
            # What was submitted goes on without this process.
            if slot.running.submitted is not None and slot.job is not None:
                self.unfinished.append(slot.job.name)
                slot.job = slot.running = None
            else:
                slot.running.stop(number)


def _ending(code: int) -> str:
    memory = ", as where main memory has run out" if code == 128 + signal.SIGKILL else ""
    return f"exit code {code}" if code < 128 else f"signal {code - 128}{memory}"


def settled(
    jobs: Sequence[Job], folder: Folder, launcher: Launcher, *, stop: threading.Event, say: Callable[[str], None]
) -> list[Job]:
    """The jobs of which nothing is running that an earlier driver has started, so that their files can be read.

    What runs on this machine got SIGTERM when its driver died, and is waited for; what was submitted elsewhere goes on.
    """
    found, said = [], False
    for job in jobs:
        submitted = folder.record(job.name).submitted
        while submitted is None and folder.is_running(job.name) and not stop.is_set():
            if not said:
                said = True
                say("waiting for what an earlier call has started")
            time.sleep(POLL_S)
        if submitted is None or not (folder.is_running(job.name) or launcher.find(submitted)):
            found.append(job)
    return found


def make_data(recipe: Recipe, folder: Folder, *, stop: threading.Event, say: Callable[[str], None]) -> None:
    """Write the miniature's data, if the recipe is on it and they are not there. Raises ConfigError if that fails."""
    if recipe.miniature is None:
        return
    # Its last file: without it the data are incomplete and are written again.
    if not (folder.data / CONFIG).exists():
        say(f"writing {folder.data}")
        _generate(recipe.miniature, folder, stop)
    if not stop.is_set() and uses_video_r1(recipe):
        write_video_r1_files(folder.data)


def _generate(wanted: Miniature, folder: Folder, stop: threading.Event) -> None:
    """`demo generate` in a process of its own."""
    name = "generate"
    words = ["demo", "generate", "--out", str(folder.data), "--questions", str(wanted.questions)]
    words += ["--seed", str(wanted.seed), "--train", str(wanted.rows), "--traces", str(wanted.rows)]
    # One that an earlier call has started may still be writing.
    while (lock := folder.claim_job(name)) is None:
        time.sleep(POLL_S)
    try:
        running = LocalLauncher().start(Start((*PROGRAM, *words), folder.log(name), folder.lock(name), {}), lock)
    finally:
        os.close(lock)
    while (code := running.poll()) is None:
        if stop.is_set():
            running.stop(signal.SIGTERM)
        time.sleep(POLL_S)
    if code and not stop.is_set():
        raise ConfigError(f"The data could not be written ({_ending(code)}); see {folder.log(name)}.")
