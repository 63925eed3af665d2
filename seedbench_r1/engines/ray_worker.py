"""A worker of `eval --engine ray`: one backend, its decoders and its record file, in a process of its own."""

from __future__ import annotations

import asyncio
import queue
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from seedbench_r1.backends import open_backend
from seedbench_r1.config import EvalConfig
from seedbench_r1.engines.local import answer_all, open_loader
from seedbench_r1.errors import ConfigError
from seedbench_r1.media.loader import FrameLoader
from seedbench_r1.runs.directory import RunDir, read_manifest
from seedbench_r1.types import Failure, Media, Question, RunManifest, RunRecord

LOCK_WAIT_S = 120.0  # a file server keeps a dead machine's locks for a while: NFS on Linux for 90 s
RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class Job:
    """What every worker of a run is told. Paths are absolute."""

    config: EvalConfig
    path: Path  # run directory
    manifest: RunManifest
    n_workers: int


def record_file(job: Job, number: int) -> Path:
    """Where worker `number` (1-based) writes."""
    return job.path / f"records.{number}-of-{job.n_workers}.jsonl"


class Worker:
    """Answers the questions it is given, in any order, and writes each record before it tells.

    Its methods are coroutines, so that Ray can call answer() for many questions at once; one thread does the work. What
    that thread raises (ConfigError, ResourceError, a bug) is raised by every answer() from then on.

    Args:
        successor: takes over the file of a worker that died, whose lock may outlive it for LOCK_WAIT_S.
    """

    def __init__(self, job: Job, number: int, *, successor: bool = False) -> None:
        self._job = job
        self._number = number
        self._lock_wait_s = LOCK_WAIT_S if successor else 0.0
        self._inbox = Inbox()
        self._promises: dict[str, Future[RunRecord | None]] = {}
        self._guard = threading.Lock()
        self._stop = threading.Event()
        self._end = ThreadPoolExecutor(1, thread_name_prefix="answers").submit(self._work)
        self._end.add_done_callback(self._settle)

    async def answer(self, question: Question) -> RunRecord | None:
        """The question's record, once it is written; None if the worker was stopped before it began the question."""
        promise: Future[RunRecord | None] = Future()
        with self._guard:
            self._promises[question.question_id] = promise
        self._inbox.put(question)
        # The thread may have died between two questions: nobody would keep this promise.
        if self._end.done():
            self._settle(self._end)
        return await asyncio.wrap_future(promise)

    async def stop(self) -> None:
        """Begin nothing new. What the backend holds is finished, the other questions are given back."""
        self._stop.set()
        self._inbox.close()

    async def close(self) -> None:
        """Let model and record file go, after what was asked is answered."""
        self._inbox.close()
        await asyncio.wait([asyncio.wrap_future(self._end)])

    def _work(self) -> None:
        job, config = self._job, self._job.config
        # Before the model is loaded: an unshared folder would show only after minutes.
        _check_shared(job)
        with self._open_run() as run, open_loader(config) as loader:

            def write(record: RunRecord) -> None:
                run.append(record)
                self._keep_promise(record)

            source = _InboxLoader(loader, self._inbox)
            answer_all(
                self._inbox, source, open_backend, config, write=lambda record, _: write(record), stop=self._stop
            )

    def _open_run(self) -> RunDir:
        deadline = time.monotonic() + self._lock_wait_s
        while True:
            try:
                shard = (self._number, self._job.n_workers)
                return RunDir.open(self._job.path, self._job.manifest, (), shard=shard)
            # The file of a dead worker stays locked until the file server notices.
            except ConfigError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(RETRY_S)

    def _keep_promise(self, record: RunRecord) -> None:
        if record.generation is not None:
            # The driver only counts; token ids would be most of the message.
            record = replace(record, generation=replace(record.generation, token_ids=(), logprobs=None))
        with self._guard:
            promise = self._promises.pop(record.question_id)
        promise.set_result(record)

    def _settle(self, end: Future[None]) -> None:
        """The thread has ended: nobody waits in vain."""
        with self._guard:
            left, self._promises = list(self._promises.values()), {}
        error = end.exception()
        for promise in left:
            if error is None:
                promise.set_result(None)
            else:
                promise.set_exception(error)


class Inbox:
    """Questions as the driver sends them. Iterating ends where nothing has come yet, and may be begun again."""

    def __init__(self) -> None:
        self._sent: queue.SimpleQueue[Question | None] = queue.SimpleQueue()  # None: no more will come
        self._first: Question | None = None
        self._closed = False

    def put(self, question: Question) -> None:
        self._sent.put(question)

    def close(self) -> None:
        """No more will come."""
        self._sent.put(None)

    def wait(self) -> bool:
        """Block until there is a question; False once the inbox is closed and empty."""
        if self._first is None and not self._closed:
            self._first = self._sent.get()
            self._closed = self._first is None
        return self._first is not None

    def __iter__(self) -> Inbox:
        return self

    def __next__(self) -> Question:
        first, self._first = self._first, None
        try:
            question = first if first is not None or self._closed else self._sent.get_nowait()
        except queue.Empty:
            raise StopIteration from None
        if question is None:
            self._closed = True
            raise StopIteration
        return question


class _InboxLoader:
    """A FrameLoader whose stream goes on until the inbox is closed: the loader looks again when it has room."""

    def __init__(self, loader: FrameLoader, inbox: Inbox) -> None:
        self._loader = loader
        self._inbox = inbox

    def stream(
        self, questions: Iterable[Question], *, stop: threading.Event | None = None
    ) -> Iterator[tuple[Question, Media | Failure]]:
        """Each question of the inbox with its media, until it is closed or stop is set."""
        stop = stop or threading.Event()
        # An empty inbox ends one pass of the loader, not the stream.
        while not stop.is_set() and self._inbox.wait():
            yield from self._loader.stream(questions, stop=stop)


def _check_shared(job: Job) -> None:
    """Raise ConfigError if this machine does not see what all machines must share. Nothing is created here."""
    here = socket.gethostname()
    if read_manifest(job.path) is None:
        raise ConfigError(
            f"A Ray worker on {here} does not see the run directory {job.path}. Fix: --runs-dir on a file system that "
            f"all machines share."
        )
    for name, path in (("--data-root", job.config.data_root), ("--model", Path(job.config.model))):
        # Relative names are hub ids here: Job's paths are absolute.
        if path.is_absolute() and not path.exists():
            raise ConfigError(
                f"A Ray worker on {here} does not see {path}. Fix: {name} on a file system that all machines share."
            )
