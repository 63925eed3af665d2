"""A lazy stream pulled ahead of its consumer by a thread: bounded, without ever waiting while something is ready."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")

JOIN_S = 5.0  # how long a closing consumer waits for the thread, which may be inside a slow decoder


class Prefetch(Generic[Item]):
    """Pulls `items` in a thread, at most `ahead` of them before they are taken. A context manager.

    What `items` raises is raised to the consumer, after everything pulled before it has been taken. Closing ends the
    thread after the item that it is pulling.
    """

    def __init__(self, items: Iterable[Item], ahead: int) -> None:
        self._items = items
        self._ahead = ahead
        self._ready: list[Item] = []  # pulled and not yet taken, oldest first
        self._changed = threading.Condition()
        self._exhausted = False  # the source has ended or failed
        self._closed = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._pull, name="prefetch", daemon=True)

    def __enter__(self) -> Prefetch[Item]:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()
        self._thread.join(JOIN_S)

    @property
    def ended(self) -> bool:
        """Whether everything has been taken, and the source ended without an error."""
        with self._changed:
            return self._exhausted and not self._ready and self._error is None

    def take(
        self,
        count: int = 1,
        *,
        wait: bool = True,
        choose: Callable[[Sequence[Item], int], Collection[int]] = lambda ready, count: range(min(count, len(ready))),
    ) -> list[Item]:
        """Remove and return at most `count` ready items, oldest first.

        Args:
            count: how many at most.
            wait: for the first one. Without it, nothing ready is an empty list, and an error stays where it is.
            choose: the places of those to be taken, in (ready items, count).

        Returns:
            An empty list at the end of the stream.
        """
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._ready or self._exhausted)
            chosen = set(choose(self._ready, count)) if self._ready else set()
            taken = [item for place, item in enumerate(self._ready) if place in chosen]
            self._ready = [item for place, item in enumerate(self._ready) if place not in chosen]
            self._changed.notify_all()
            if wait and not taken and self._error is not None:
                raise self._error
            return taken

    def _pull(self) -> None:
        """Runs in the thread."""
        try:
            for item in self._items:
                with self._changed:
                    self._ready.append(item)
                    self._changed.notify_all()
                    # Room is waited for before the next item is pulled: pulling decodes, and holds pixels.
                    self._changed.wait_for(lambda: self._closed or len(self._ready) < self._ahead)
                    if self._closed:
                        return
        except BaseException as error:  # noqa: BLE001 - re-raised in the consumer's thread, by take
            self._error = error
        finally:
            with self._changed:
                self._exhausted = True
                self._changed.notify_all()
