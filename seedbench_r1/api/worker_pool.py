"""A lazy stream of items worked on by several threads, for work that mostly waits for a server."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_ITEM_DONE = object()  # in the queue of results: all results of one item have been put before this


def in_parallel(items: Iterable[Item], work: Callable[[Item], Iterator[Result]], concurrency: int) -> Iterator[Result]:
    """What `work` yields for each item, as it comes, from `concurrency` threads.

    Items are pulled one at a time, by a thread that is free to work on them; at most `concurrency` are pulled whose
    results have not all been consumed. What `items` or `work` raises ends the pulling, and is raised here after the
    results of everything that was begun. Closing the iterator ends the pulling; results still to come are dropped.
    """
    pool = WorkerPool(items, work, concurrency)
    threads = ThreadPoolExecutor(concurrency, thread_name_prefix="request")
    try:
        for _ in range(concurrency):
            # A thread that ends, by an error too, reports through the same queue as results do: one place to wait at.
            threads.submit(pool.run).add_done_callback(pool.results.put)
        yield from pool.hand_out()
    finally:
        pool.stop()
        threads.shutdown(wait=False, cancel_futures=True)


class WorkerPool(Generic[Item, Result]):
    """What the threads share. `results` holds results, marks of finished items, and the threads that ended."""

    def __init__(self, items: Iterable[Item], work: Callable[[Item], Iterator[Result]], size: int) -> None:
        self.results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._items = iter(items)
        self._work = work
        self._size = size
        self._pulling = threading.Lock()
        self._free = threading.Semaphore(size)  # one for each item that may be pulled
        self._stopped = threading.Event()

    def run(self) -> None:
        """Pull and work until the items end. What goes wrong stays in the thread's future, which is in `results`."""
        for item in self._pull():
            for result in self._work(item):
                self.results.put(result)
            self.results.put(_ITEM_DONE)

    def hand_out(self) -> Iterator[Result]:
        """Results until every thread has ended; then the first error, if any."""
        running, error = self._size, None
        while running:
            found = self.results.get()
            if found is _ITEM_DONE:
                self._free.release()
            elif isinstance(found, Future):
                running -= 1
                # The first error wins; the other threads finish the items that they have begun.
                error = error or found.exception()
                if error is not None:
                    self._stopped.set()
            else:
                yield found
        if error is not None:
            raise error

    def stop(self) -> None:
        """Nothing more is pulled, and no thread waits for a place."""
        self._stopped.set()
        # A permit for each thread that may be waiting for one; it then sees the stop.
        self._free.release(self._size)

    def _pull(self) -> Iterator[Item]:
        """One item at a time, each as soon as there is a place for its results."""
        while True:
            self._free.acquire()
            # A generator must not be advanced by two threads at once.
            with self._pulling:
                try:
                    item = None if self._stopped.is_set() else (next(self._items),)
                except StopIteration:
                    item = None
            if item is None:
                return
            yield item[0]
