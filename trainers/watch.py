"""A training of several processes, watched: what hangs says where, and a process that fails ends the others.

A collective call waits for every process, for hours if one has failed before it. So each process has a thread that
looks, every two seconds, whether another one has failed, and whether this one is still getting on.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from types import TracebackType

from torch.distributed.distributed_c10d import Store, _get_default_store

from seedbench_r1.errors import SeedBenchError
from trainers.errors import PeerEnded
from trainers.processes import Processes

FAILED = "seedbench-r1/failed"  # in the store of the processes: what the first one that failed says
PERIOD_S = 2.0
GRACE_S = 10.0  # for the failure that a peer's end causes here to be said in its own words


class Watch:
    """Use it as a context around everything that calls collectively.

    With one process only hangs are watched. A failure that leaves the context is told to the others, which print it
    and end with its exit code. `finish` ends it well, and is itself collective.
    """

    def __init__(self, processes: Processes, hang_timeout_s: float) -> None:
        self._processes, self._timeout_s = processes, hang_timeout_s
        self._stage, self._since = "start", time.monotonic()
        self._over = threading.Event()
        self._ended: PeerEnded | None = None
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)
        self._store = None if processes.world_size == 1 else _get_default_store()

    def enter(self, stage: str) -> None:
        """A stage begins, such as "rollouts of step 12"; the one before has ended."""
        self._stage, self._since = stage, time.monotonic()

    def finish(self) -> None:
        """Everything collective has been done, in every process: nothing is watched any more."""
        self._over.set()
        self._thread.join()
        # The process that keeps the store may end only when nobody asks it any more.
        self._processes.gather([0])

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        if self._store is None or error is None:
            return
        if (ended := self._failure(self._store, wait_s=0 if isinstance(error, SeedBenchError) else GRACE_S)) is None:
            code = error.exit_code if isinstance(error, SeedBenchError) else 1
            self._store.set(FAILED, f"{code} process {self._processes.rank}: {type(error).__name__}: {error}")
            time.sleep(2 * PERIOD_S)
        elif not isinstance(error, SeedBenchError):
            # A connection broke because the other one had failed: its words say why.
            raise ended from error

    def _look(self) -> None:
        told = self._since
        while not self._over.wait(PERIOD_S):
            if self._store is not None:
                self._look_at_others(self._store)
            stage, since = self._stage, max(self._since, told)
            if time.monotonic() - since > self._timeout_s:
                told = time.monotonic()
                self._say_where(stage, told - self._since)

    def _look_at_others(self, store: Store) -> None:
        ended = self._failure(store)
        # What this process raises by itself, from a connection that broke, ends it in the usual way.
        if ended is None or self._over.wait(2 * GRACE_S):
            return
        print(f"\n{ended}", file=sys.stderr, flush=True)
        # The main thread waits in a call that nobody will answer.
        os._exit(ended.exit_code)

    def _failure(self, store: Store, wait_s: float = 0.0) -> PeerEnded | None:
        """What another process has failed of, given so many seconds to say it."""
        if self._ended is not None:  # the store may be gone by now
            return self._ended
        deadline = time.monotonic() + wait_s
        try:
            while not store.check([FAILED]):
                if time.monotonic() > deadline:
                    return None
                time.sleep(0.1)
            code, _, words = store.get(FAILED).decode().partition(" ")
            self._ended = PeerEnded(words, int(code))
        except RuntimeError as error:  # torch.distributed's, when the process that keeps the store has been killed
            self._ended = PeerEnded(f"process 0 cannot be reached any more ({str(error).splitlines()[0]})", 1)
        return self._ended

    def _say_where(self, stage: str, seconds: float) -> None:
        print(
            f"\nNothing has ended for {seconds:.0f} s in process {self._processes.rank}: {stage}. Where every thread "
            f"stands (--hang-timeout sets when this is said; the training goes on waiting):",
            file=sys.stderr,
            flush=True,
        )
        faulthandler.dump_traceback(file=2, all_threads=True)  # sys.stderr may be a stream of our own
