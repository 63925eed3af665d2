"""From a lazy stream of items to batches of similar size, without ever waiting while something is ready."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from typing import TypeVar

from seedbench_r1.api.prefetch import Prefetch

Item = TypeVar("Item")


def similar(items: Sequence[Item], count: int, size: Callable[[Item], float]) -> Collection[int]:
    """The places of at most `count` items, the oldest always among them, with the smallest spread of sizes."""
    if len(items) <= count:
        return range(len(items))
    order = sorted(range(len(items)), key=lambda place: (size(items[place]), place))
    oldest = order.index(0)
    starts = range(max(0, oldest - count + 1), min(oldest, len(items) - count) + 1)
    best = min(starts, key=lambda start: size(items[order[start + count - 1]]) - size(items[order[start]]))
    return order[best : best + count]


def ready_batches(
    items: Iterable[Item], batch_size: int, size: Callable[[Item], float]
) -> Generator[list[Item], None, None]:
    """Batches of at most `batch_size` items, as soon as the consumer asks and anything is ready.

    At most two batches of items are pulled ahead. If more than a batch is ready, the oldest item leaves with those
    nearest to it in size. See Prefetch for errors and for closing.
    """
    with Prefetch(items, 2 * batch_size) as ahead:
        while batch := ahead.take(batch_size, choose=lambda ready, count: similar(ready, count, size)):
            yield batch
