"""JSON lines that another process writes meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from seedbench_r1.errors import DataError
from seedbench_r1.files import JsonObject
from seedbench_r1.typed_json import parse_json


class WasCut(Exception):
    """What was read of a log before is gone: its writer went back. It has to be read again from the start."""


@dataclass(slots=True)
class GrowingFile:
    """A log that is appended to, and cut when its writer goes back."""

    path: Path
    read: int = 0  # bytes, all of complete lines
    _inode: int = 0
    _last: bytes = b""  # the last line read: if it does not stand there any more, the file was cut and has grown again

    def more(self) -> Iterator[tuple[int, JsonObject]]:
        """The further lines, each with the place where it begins, line by line.

        A line that is being written is left for the next time. Without a file there are none. Raises WasCut if what
        was read before is gone, DataError for a line that is no JSON object.
        """
        if not self.path.is_file():
            if self.read:
                raise WasCut(self.path)
            return
        with self.path.open("rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            if self.read and (inode != self._inode or not self._still_there(file)):
                raise WasCut(self.path)
            self._inode = inode
            file.seek(self.read)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                place = self.read
                content = self._object(line, place)
                self.read, self._last = place + len(line), line
                yield place, content

    def forget(self) -> None:
        """Begin again at the next reading."""
        self.read, self._last = 0, b""

    def line(self, place: int) -> JsonObject:
        """The line that begins there. Raises DataError if none does any more."""
        with self.path.open("rb") as file:
            file.seek(place)
            return self._object(file.readline(), place)

    def _still_there(self, file: BinaryIO) -> bool:
        file.seek(self.read - len(self._last))
        return file.read(len(self._last)) == self._last

    def _object(self, line: bytes, place: int) -> JsonObject:
        try:
            return dict(parse_json(line))
        except (ValueError, TypeError) as error:
            raise DataError(
                f"{self.path}: the line at byte {place} is not valid JSON. Fix: remove that line."
            ) from error
