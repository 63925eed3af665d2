"""Files of the hub as Python file objects, so that tarfile and zipfile read them without a copy on the disk."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

from seedbench_r1.data import hub
from seedbench_r1.data.hub import HubFile, Repository

_FIRST_WINDOW = 64 << 10  # bytes of a range request after a seek; doubled while reading goes on from there
_LAST_WINDOW = 32 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """Parts of a repository that belong one behind the other, and how they are fetched."""

    repository: Repository
    parts: Sequence[HubFile]
    on_bytes: Callable[[int], None]
    stop: threading.Event

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    def blocks(self, start: int, end: int) -> Generator[bytes, None, None]:
        """The bytes [start, end) of the parts joined. Raises as hub.blocks does."""
        for part in self.parts:
            if start < part.size and end > 0:
                within = (max(start, 0), min(end, part.size))
                rest = hub.blocks(self.repository, part, *within, on_bytes=self.on_bytes, stop=self.stop)
                with closing(rest):
                    yield from rest
            start, end = start - part.size, end - part.size

    def checked_blocks(self) -> Generator[bytes, None, None]:
        """All bytes. Raises DataError at the end of the first part whose hash is not the announced one."""
        for part in self.parts:
            digest = hub.hasher(part)
            rest = hub.blocks(self.repository, part, 0, part.size, on_bytes=self.on_bytes, stop=self.stop)
            with closing(rest):
                for block in rest:
                    digest.update(block)
                    yield block
            if digest.hexdigest() != part.content_id:
                raise hub.wrong_bytes(part)


class Arriving(io.RawIOBase):
    """A file that is read forwards, while its bytes arrive."""

    def __init__(self, blocks: Generator[bytes, None, None]) -> None:
        self._blocks = blocks
        self._block = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not self._block:
            self._block = memoryview(next(self._blocks, b""))
        n = min(len(buffer), len(self._block))
        buffer[:n] = self._block[:n]
        self._block = self._block[n:]
        return n

    def close(self) -> None:
        self._blocks.close()
        super().close()


class Ranged(Arriving):
    """A file that can be sought in: a seek costs a range request, reading on from there few."""

    def __init__(self, source: Source) -> None:
        super().__init__(source.blocks(0, 0))
        self._source = source
        self._position = 0
        self._window = _FIRST_WINDOW

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Nothing is fetched before the next read."""
        position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._source.size}[whence]
        if position != self._position:
            self._blocks.close()
            self._block = memoryview(b"")
            self._position, self._window = position, _FIRST_WINDOW
        return position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        n = super().readinto(buffer)
        if n == 0 and self._position < self._source.size:
            end = min(self._position + self._window, self._source.size)
            self._blocks = self._source.blocks(self._position, end)
            self._window = min(2 * self._window, _LAST_WINDOW)
            n = super().readinto(buffer)
        self._position += n
        return n
