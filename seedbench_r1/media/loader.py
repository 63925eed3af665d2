"""Decoding ahead in processes that can be killed: native decoders hang and crash, questions must not."""

from __future__ import annotations

import ctypes
import logging
import os
import queue
import signal
import sys
import threading
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any

from pebble import ProcessExpired, ProcessPool

from seedbench_r1.errors import ConfigError, ResourceError
from seedbench_r1.media.cache import CachedMedia
from seedbench_r1.media.container import MediaError
from seedbench_r1.media.decode import check_reader
from seedbench_r1.media.frames import load_media
from seedbench_r1.terminal import make_streams_inert
from seedbench_r1.types import Failure, Media, Question, VideoConfig

Load = Callable[[Path | None, Path | None, VideoConfig], Media | CachedMedia]
Loaded = Media | CachedMedia | Failure

WARNINGS = {"dropped": 5, "unusable": 1}  # of the frame cache, at most; all are counted
log = logging.getLogger(__name__)

PREFETCH_PER_WORKER = 4  # questions in decoding or decoded and waiting; 4.5 MB each at the default sizes
PR_SET_PDEATHSIG = 1  # linux/prctl.h
MOST_BREAKS = 3  # of the pool in a row, without one question in between
POLL_S = 0.1  # how often a waiting consumer looks whether it is to stop, and whether the pool still lives


class _RememberingContext(SpawnContext):
    """Keeps the processes that it makes while they live."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[SpawnProcess] = []

    def Process(self, *args: Any, **kwargs: Any) -> SpawnProcess:  # type: ignore[override]  # noqa: ANN401  # a class attribute there
        process = SpawnProcess(*args, **kwargs)
        self.processes = [*(other for other in self.processes if other.exitcode is None), process]
        return process


class FrameLoader:
    """Decodes questions' media ahead of the consumer, in `workers` processes.

    Open it in a thread that outlives it (the main thread): on Linux the workers die with the thread that started them.
    As with every spawned process, a script that opens it at its top level needs `if __name__ == "__main__":`.

    Args:
        timeout_s: seconds of decoding, counted from when a worker starts on the question; then that worker is killed.
        load: what a worker runs; must be importable by name, or a functools.partial of such a function.

    Attributes:
        cache_counts: how often the frame cache did what, by CacheEvent.kind; empty without a cache.

    Raises:
        ConfigError: the reader is not installed, or a number is not positive.
    """

    def __init__(
        self,
        config: VideoConfig,
        *,
        workers: int,
        timeout_s: float,
        load: Load = load_media,
    ) -> None:
        check_reader(config.reader)
        if workers < 1 or timeout_s <= 0:
            raise ConfigError(
                f"Decoding needs at least 1 worker and a time limit above 0 seconds; got workers {workers}, "
                f"timeout {timeout_s:g} s"
            )
        self._prefetch = PREFETCH_PER_WORKER * workers
        self._config = config
        self._timeout_s = timeout_s
        self._load = load
        self.cache_counts: Counter[str] = Counter()
        # pebble keeps its processes to itself; closing must reach those that have just been started.
        self._context = _RememberingContext()
        self._workers = workers
        self._n_breaks = 0
        self._closed = False
        self._pool = self._new_pool()

    def _new_pool(self) -> ProcessPool:
        return ProcessPool(
            max_workers=self._workers,
            initializer=start_worker,
            initargs=(os.getpid(),),
            context=self._context,
        )

    def __enter__(self) -> FrameLoader:
        # Reading the property is what starts them.
        _ = self._pool.active  # starts the workers, so that they import while the model loads
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the workers, busy or not. Safe to call twice.

        Before the pool does: it first removes their semaphores, and one that still starts would print a traceback.
        """
        self._closed = True
        self._stop_pool()

    def _stop_pool(self) -> None:
        self._pool.stop()  # type: ignore[no-untyped-call]
        for process in self._context.processes:
            if process.pid is not None:  # it was started
                process.kill()
        self._pool.join()

    def stream(
        self, questions: Iterable[Question], *, stop: threading.Event | None = None
    ) -> Iterator[tuple[Question, Media | Failure]]:
        """Each question with its media, in the order in which they are ready. Questions are pulled lazily.

        Args:
            questions: pulled as workers become free.
            stop: when set, the stream ends within 0.2 s, also while it waits for a decoder. What is then being
                decoded, or decoded and not yet asked for, is given up.

        Raises:
            ResourceError: the workers do not stay alive.
        """
        stop = stop or threading.Event()
        waiting = iter(questions)
        done: queue.SimpleQueue[Future[Loaded]] = queue.SimpleQueue()
        pending: dict[Future[Loaded], Question] = {}
        try:
            while True:
                self._submit(waiting, pending, done)
                future = self._next_done(pending, done, stop) if pending else None
                if future is None:
                    return
                if isinstance(future.exception(), BrokenProcessPool):
                    self._renew_pool(pending, done)
                    continue
                self._n_breaks = 0
                question = pending.pop(future)
                yield question, self._outcome(question, future)
        finally:
            for future in pending:
                # Jobs that run are killed by the pool; those that wait never start.
                future.cancel()

    def _submit(
        self,
        waiting: Iterator[Question],
        pending: dict[Future[Loaded], Question],
        done: queue.SimpleQueue[Future[Loaded]],
    ) -> None:
        while len(pending) < self._prefetch:
            question = next(waiting, None)
            if question is None:
                return
            try:
                self._schedule(question, pending, done)
            except RuntimeError:
                self._renew_pool(pending, done)
                self._schedule(question, pending, done)

    def _schedule(
        self,
        question: Question,
        pending: dict[Future[Loaded], Question],
        done: queue.SimpleQueue[Future[Loaded]],
    ) -> None:
        # Paths and settings only: a question's text need not cross to the worker.
        job = (self._load, question.video, question.image, self._config)
        future = self._pool.schedule(_load_or_fail, args=job, timeout=self._timeout_s)
        pending[future] = question
        future.add_done_callback(done.put)

    def _next_done(
        self,
        pending: dict[Future[Loaded], Question],
        done: queue.SimpleQueue[Future[Loaded]],
        stop: threading.Event,
    ) -> Future[Loaded] | None:
        """The next future that is done; None once the stop is set."""
        while not stop.is_set():
            try:
                future = done.get(timeout=POLL_S)
            except queue.Empty:
                # A pool that broke may finish no future, so waiting alone would never end.
                if not self._pool.active:
                    self._renew_pool(pending, done)
                continue
            if future in pending:  # else of a pool before this one
                return future
        return None

    def _renew_pool(self, pending: dict[Future[Loaded], Question], done: queue.SimpleQueue[Future[Loaded]]) -> None:
        """A pool breaks when one of its idle workers is killed. Another one begins with what it was given.

        Raises:
            ResourceError: that has not helped several times in a row, or the loader is closed.
        """
        self._n_breaks += 1
        if self._closed or self._n_breaks > MOST_BREAKS:
            raise self._broken()
        self._stop_pool()
        self._pool = self._new_pool()
        questions = list(pending.values())
        pending.clear()
        for question in questions:
            self._schedule(question, pending, done)

    def _outcome(self, question: Question, future: Future[Loaded]) -> Media | Failure:
        media = question.video or question.image
        try:
            # Done already: this never waits.
            result = future.result()
            return self._take_note(result) if isinstance(result, CachedMedia) else result
        except ProcessExpired as error:
            return Failure("media_error", f"{media}: the decoding process died ({_describe_exit(error.exitcode)})")
        except TimeoutError:
            return Failure(
                "media_error",
                f"{media}: decoding took longer than {self._timeout_s:g} s and was stopped. "
                "Check the file, or raise --decode-timeout",
            )

    def _take_note(self, cached: CachedMedia) -> Media:
        """Count what the cache did, and log what is wrong with it."""
        for event in cached.events:
            self.cache_counts[event.kind] += 1
            if event.message and self.cache_counts[event.kind] <= WARNINGS[event.kind]:
                log.warning(event.message)
        return cached.media

    def _broken(self) -> ResourceError:
        return ResourceError(
            "The decoding workers do not stay alive: they were killed while idle (out of memory?), or the script that "
            'opened the loader does so outside `if __name__ == "__main__":`. What was computed is saved; run the same '
            "command again to continue, with fewer --workers if memory is short"
        )


def _load_or_fail(load: Load, video: Path | None, image: Path | None, config: VideoConfig) -> Loaded:
    """Runs in a worker. Whatever a file makes a decoder raise is that question's failure, so a value."""
    try:
        return load(video, image, config)
    except MediaError as error:
        return Failure("media_error", str(error))
    except MemoryError:
        return Failure("media_error", f"{video or image}: not enough memory to decode it")
    # Decoders raise about anything for a damaged file; one of them must not end a run of thousands.
    except Exception as error:  # noqa: BLE001  # a value, as all failures
        where = traceback.extract_tb(error.__traceback__)[-1]
        described = f"{type(error).__name__}: {error}, {Path(where.filename).name} line {where.lineno}"
        return Failure("media_error", f"{video or image}: cannot be read ({described})")


def start_worker(parent: int) -> None:
    """Runs once in each worker: die with the parent and on SIGTERM at once, even inside native code.

    SIGUSR1 is the parent's to act on: a scheduler that warns the process group must not end what is in flight.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)
    make_streams_inert()  # a library's warning may name the file
    # Pillow warns of each odd tag.
    warnings.filterwarnings("ignore", module="PIL")
    import av

    # FFmpeg prints a line for each odd packet; what matters comes back as a MediaError.
    av.logging.set_level(av.logging.PANIC)


def _describe_exit(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {-code}, {signal.Signals(-code).name}"
    return f"exit code {code}"
