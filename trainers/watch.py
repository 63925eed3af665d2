"""A training of several processes, watched: what hangs says where, and a process that fails ends the others.

A collective call waits for every process, for hours if one has failed before it. So each process has a thread that
looks, every two seconds, whether another one has failed or is silent, and whether this one is still getting on.
"""

from __future__ import annotations

import faulthandler
import itertools
import os
import sys
import threading
import time
from types import TracebackType

from torch.distributed.distributed_c10d import Store, _get_default_store

from seedbench_r1.errors import SeedBenchError
from trainers.errors import PeerEnded
from trainers.processes import Processes

# In the store of the processes, with the training's number: what the first one that failed says, and signs of life.
FAILED, ALIVE = "seedbench-r1/failed", "seedbench-r1/alive"
_NUMBERS = itertools.count()  # of trainings in this process, of which every process has as many
PERIOD_S = 2.0
DEAD_S = 60.0  # without a sign of life: killed, or its machine is gone
GRACE_S = 10.0  # for the failure that a peer's end causes here to be said in its own words


class Watch:
    """Use it as a context around everything that calls collectively.

    With one process only hangs are watched. A failure that leaves the context is told to the others, which print it
    and end with its exit code. `finish` ends it well, and is itself collective.
    """

    def __init__(self, processes: Processes, hang_timeout_s: float) -> None:
        self._processes, self._timeout_s = processes, hang_timeout_s
        self._stage = "start"
        self._over = threading.Event()
        self._ended: PeerEnded | None = None
        number = next(_NUMBERS)
        self._failed, self._alive = f"{FAILED}/{number}", f"{ALIVE}/{number}"
        self._beats: dict[int, tuple[bytes, float]] = {}  # of the others: the last sign of life, and since when known
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)
        # A connection of its own: on the group's the main thread may be waiting, for instance in new_group.
        self._store = None if processes.world_size == 1 else _get_default_store().clone()

    def enter(self, stage: str) -> None:
        """A stage begins, such as "step 12"; the one before has ended. Processes.stage names those within it."""
        self._stage, self._processes.stage = stage, ""

    def finish(self) -> None:
        """Everything collective has been done, in every process: nothing is watched any more."""
        # All together, so that nobody misses the signs of life of one that is done, or the store that process 0 keeps.
        self._processes.gather([0])
        self._over.set()
        self._thread.join()

    def __enter__(self) -> Watch:
        if self._store is not None:
            # A first sign of life of each is there before anybody looks: one may be killed at once.
            self._store.set(f"{self._alive}/{self._processes.rank}", "begun")
            self._processes.gather([0])
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        # An interrupt is the launcher's or the user's, who tell every process.
        if self._store is None or not isinstance(error, Exception):
            return
        # When another process has failed, its connections break here: as a RuntimeError of torch.distributed.
        broken = isinstance(error, RuntimeError)
        if (ended := self._failure(self._store, wait_s=GRACE_S if broken else 0)) is None:
            code = error.exit_code if isinstance(error, SeedBenchError) else 1
            self._store.set(self._failed, f"{code} process {self._processes.rank}: {type(error).__name__}: {error}")
            time.sleep(2 * PERIOD_S)
        elif broken:
            raise ended from error

    @property
    def _where(self) -> str:
        """Such as "step 12, rollouts"."""
        return ", ".join(filter(None, (self._stage, self._processes.stage)))

    def _look(self) -> None:
        stage, since = self._where, time.monotonic()
        told = since
        for beat in itertools.count():
            if self._over.wait(PERIOD_S):
                return
            now, here = time.monotonic(), self._where
            if here != stage:
                stage, since, told = here, now, now
            elif now - told > self._timeout_s:
                told = now
                self._say_where(stage, now - since)
            if self._store is not None:
                self._look_at_others(self._store, f"{beat} {here}")

    def _look_at_others(self, store: Store, sign: str) -> None:
        try:
            ended = self._failure(store) or self._silent(store, sign)
        except RuntimeError:  # the store is gone: asked once more, it says so
            ended = self._failure(store)
        # What this process raises by itself, from a connection that broke, ends it in the usual way.
        if ended is None or self._over.wait(2 * GRACE_S):
            return
        print(f"\n{ended}", file=sys.stderr, flush=True)
        # The main thread waits in a call that nobody will answer.
        os._exit(ended.exit_code)

    def _silent(self, store: Store, sign: str) -> PeerEnded | None:
        """Give a sign of life, which says in which stage; the first process that has given none for DEAD_S."""
        names = {rank: f"{self._alive}/{rank}" for rank in range(self._processes.world_size)}
        store.set(names[self._processes.rank], sign)
        now = time.monotonic()
        for rank, name in names.items():
            if rank == self._processes.rank:
                continue
            value = store.get(name)
            last, since = self._beats.get(rank, (b"", now))
            if value != last:
                self._beats[rank] = value, now
            elif now - since > DEAD_S:
                silent = f"process {rank} has given no sign of life for {DEAD_S:.0f} s{self._last_stage(rank)}: killed?"
                self._ended = PeerEnded(silent, 1)
                return self._ended
        return None

    def _last_stage(self, rank: int) -> str:
        """ ", last in step 12, rollouts", of another process; nothing if it has not said so."""
        _, _, stage = self._beats.get(rank, (b"", 0.0))[0].decode().partition(" ")
        return stage and f", last in {stage}"

    def _failure(self, store: Store, wait_s: float = 0.0) -> PeerEnded | None:
        """What another process has failed of, given so many seconds to say it."""
        if self._ended is not None:  # the store may be gone by now
            return self._ended
        deadline = time.monotonic() + wait_s
        try:
            while not store.check([self._failed]):
                if time.monotonic() > deadline:
                    return None
                time.sleep(0.1)
            code, _, words = store.get(self._failed).decode().partition(" ")
            self._ended = PeerEnded(words, int(code))
        except RuntimeError as error:  # torch.distributed's, when the process that keeps the store has been killed
            why = str(error).splitlines()[0]
            self._ended = PeerEnded(f"process 0 cannot be reached any more{self._last_stage(0)} ({why})", 1)
        return self._ended

    def _say_where(self, stage: str, seconds: float) -> None:
        print(
            f"\nNothing has ended for {seconds:.0f} s in process {self._processes.rank}: {stage}. Where every thread "
            f"stands (--hang-timeout sets when this is said; the training goes on waiting):",
            file=sys.stderr,
            flush=True,
        )
        faulthandler.dump_traceback(file=2, all_threads=True)  # sys.stderr may be a stream of our own
