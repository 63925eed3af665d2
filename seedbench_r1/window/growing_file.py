"""JSON lines that another process writes meanwhile."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from seedbench_r1.errors import DataError
from seedbench_r1.files import JsonObject
from seedbench_r1.typed_json import parse_json


@dataclass(slots=True)
class GrowingFile:
    """A log that is appended to, and cut when its writer goes back."""

    path: Path
    read: int = 0  # bytes, all of complete lines
    _inode: int = 0
    _last: bytes = b""  # the last line read: if it does not stand there any more, the file was cut and has grown again

    def more(self) -> tuple[bool, list[tuple[int, JsonObject]]]:
        """Whether what was read before is gone, and the further lines, each with the place where it begins.

        A line that is being written is left for the next time. Without a file there are no lines. Raises DataError for
        a line that is no JSON object.
        """
        if not self.path.is_file():
            gone = self.read > 0
            self.forget()
            return gone, []
        with self.path.open("rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            gone = self.read > 0 and not (inode == self._inode and self._still_there(file))
            if gone:
                self.forget()
            self._inode = inode
            file.seek(self.read)
            new = file.read()
        lines = []
        for line in new[: new.rfind(b"\n") + 1].splitlines(keepends=True):
            lines.append((self.read, self._object(line)))
            self.read, self._last = self.read + len(line), line
        return gone, lines

    def forget(self) -> None:
        """Begin again at the next reading."""
        self.read, self._last = 0, b""

    def line(self, place: int) -> JsonObject:
        """The line that begins there. Raises DataError if none does any more."""
        with self.path.open("rb") as file:
            file.seek(place)
            return self._object(file.readline())

    def _still_there(self, file: BinaryIO) -> bool:
        file.seek(self.read - len(self._last))
        return file.read(len(self._last)) == self._last

    def _object(self, line: bytes) -> JsonObject:
        try:
            return dict(parse_json(line))
        except (ValueError, TypeError) as error:
            raise DataError(f"{self.path} holds a line that is no JSON object.") from error
