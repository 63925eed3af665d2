"""From a lazy stream of items to batches of similar size, without ever waiting while something is ready."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from typing import Generic, TypeVar

Item = TypeVar("Item")

JOIN_S = 5.0  # how long a closing consumer waits for the feeder, which may be inside a slow decoder


class _Buffer(Generic[Item]):
    """What the feeder thread has pulled and the consumer has not yet taken, oldest first."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.items: list[Item] = []
        self.changed = threading.Condition()
        self.exhausted = False  # the source has ended or failed
        self.abandoned = False  # the consumer has stopped
        self.error: BaseException | None = None

    def fill(self, source: Iterable[Item]) -> None:
        """Pull the source until it ends, fails or the consumer stops. Runs in the feeder thread."""
        with self:
            iterator = iter(source)
            while self._wait_for_room():
                self._put(next(iterator))

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        """Filling is over. What the source raised is kept for the consumer, who re-raises it in its own thread."""
        with self.changed:
            self.exhausted = True
            self.error = None if isinstance(error, StopIteration) else error
            self.changed.notify_all()
        return True

    def _put(self, item: Item) -> None:
        with self.changed:
            self.items.append(item)
            self.changed.notify_all()

    def _wait_for_room(self) -> bool:
        """Block while the buffer is full. False if nobody wants more."""
        with self.changed:
            self.changed.wait_for(lambda: self.abandoned or len(self.items) < self.capacity)
            return not self.abandoned

    def take(self, count: int, size: Callable[[Item], float]) -> list[Item]:
        """Wait until something is ready; remove and return at most `count` items. Empty when the stream has ended."""
        with self.changed:
            self.changed.wait_for(lambda: self.items or self.exhausted)
            chosen = similar(self.items, count, size)
            self.items = [item for place, item in enumerate(self.items) if place not in chosen]
            self.changed.notify_all()
            if not chosen and self.error is not None:
                raise self.error
            return list(chosen.values())

    def abandon(self) -> None:
        with self.changed:
            self.abandoned = True
            self.items.clear()
            self.changed.notify_all()


def similar(items: list[Item], count: int, size: Callable[[Item], float]) -> dict[int, Item]:
    """At most `count` of the items by place, the oldest always among them, with the smallest spread of sizes."""
    if len(items) <= count:
        return dict(enumerate(items))
    order = sorted(range(len(items)), key=lambda place: (size(items[place]), place))
    oldest = order.index(0)
    starts = range(max(0, oldest - count + 1), min(oldest, len(items) - count) + 1)
    best = min(starts, key=lambda start: size(items[order[start + count - 1]]) - size(items[order[start]]))
    return {place: items[place] for place in sorted(order[best : best + count])}


def ready_batches(
    items: Iterable[Item], batch_size: int, size: Callable[[Item], float]
) -> Generator[list[Item], None, None]:
    """Batches of at most `batch_size` items, as soon as the consumer asks and anything is ready.

    A feeder thread keeps at most two batches of pulled items. If more than a batch is ready, the oldest item leaves
    with those nearest to it in size. An exception raised by `items` is raised here after everything pulled before it
    has been handed out. Closing the iterator ends the feeder after the item that it is pulling.
    """
    buffer: _Buffer[Item] = _Buffer(2 * batch_size)
    feeder = threading.Thread(target=buffer.fill, args=(items,), name="request-feeder", daemon=True)
    feeder.start()
    try:
        while batch := buffer.take(batch_size, size):
            yield batch
    finally:
        buffer.abandon()
        feeder.join(JOIN_S)
