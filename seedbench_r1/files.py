"""Files that lose nothing: an append-only file of lines, and whole files replaced at once."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from seedbench_r1.errors import ConfigError, ResourceError, SeedBenchError
from seedbench_r1.typed_json import parse_json

# At most this much is lost when the power goes; a killed process loses nothing.
FSYNC_EVERY_S = 1.0

# Half of a surrogate pair, which servers send that cut UTF-16, has no UTF-8. This writes it as JSON does: \ud83d.
_UNPAIRED = "backslashreplace"

JsonObject = dict[str, Any]  # as the json module reads and writes it


class AppendFile:
    """An append-only file of lines, locked for this process, synced by a thread at least once a second.

    Args:
        alone: also hold the folder's .run.lock: True, against every other holder; False, against those who want to be
            alone (shards keep out whole runs, not one another); None, not at all.

    Raises:
        ConfigError: another process holds a lock. ResourceError: the folder or the file cannot be written.
    """

    def __init__(self, folder: Path, name: str, *, alone: bool | None = None) -> None:
        self.path = folder / name
        self._locks: list[int] = []
        try:
            with writing(self.path):
                if alone is not None:
                    kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
                    self._locks.append(claim(folder / ".run.lock", folder, kind))
                # Locked before the file is opened, so that a second writer never touches it.
                self._locks.append(claim(folder / f".{name}.lock", self.path, fcntl.LOCK_EX))
                self._descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        except SeedBenchError:
            for descriptor in self._locks:
                os.close(descriptor)
            raise
        self._guard = threading.Lock()
        self._dirty = False
        self._closed = threading.Event()
        # A kill in the middle of a write leaves half a line, and the next one would be glued to it.
        _end_last_line(self._descriptor)
        self._syncer = threading.Thread(target=self._sync_regularly, name="fsync", daemon=True)
        self._syncer.start()

    def append(self, line: str) -> None:
        """Write a line that ends with its newline: in the file when this returns. Raises ResourceError."""
        data = line.encode("utf-8", _UNPAIRED)
        with self._guard:
            # A disk that is full takes part of a line without an error.
            end = os.fstat(self._descriptor).st_size
            try:
                if os.write(self._descriptor, data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                os.ftruncate(self._descriptor, end)  # no half line stays behind
                raise write_error(self.path, error) from error
            self._dirty = True

    def sync(self) -> None:
        """On the disk when this returns."""
        with self._guard:
            dirty, self._dirty = self._dirty, False
            if dirty:
                # Inside the lock: a line that comes meanwhile waits, and its flag is not lost.
                os.fsync(self._descriptor)

    def empty(self) -> None:
        """Drop all lines."""
        os.ftruncate(self._descriptor, 0)

    def close(self) -> None:
        """Sync and give the locks back. Safe to call twice."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._syncer.join()
        self.sync()
        for descriptor in (self._descriptor, *self._locks):
            os.close(descriptor)

    def _sync_regularly(self) -> None:
        while not self._closed.wait(FSYNC_EVERY_S):
            self.sync()


def utc_now() -> str:
    """The time in UTC to the second, ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_json_object(path: Path, kind: type[SeedBenchError]) -> JsonObject:
    """The JSON object in a file. Raises an error of the given kind if it cannot be read or holds something else."""
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise kind(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(value, dict):
        raise kind(f"{path} is not a JSON object.")
    return value


def write_json(path: Path, value: object) -> None:
    """As write_text, the value as indented JSON."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write under a temporary name, fsync, rename: readers see the old file or the new one. Raises ResourceError."""
    write_lines(path, (text,))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """As write_text, of texts that need not be in memory together; they bring their line ends."""
    with (
        writing(path),
        replacing(path) as temporary_path,
        temporary_path.open("w", encoding="utf-8", errors=_UNPAIRED) as stream,
    ):
        stream.writelines(lines)
        stream.flush()
        # Without it a power cut can leave the new name with no content.
        os.fsync(stream.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder. It is renamed to `path` if the block succeeds, and removed if not."""
    # In the same folder: renaming is atomic only within one file system.
    temporary_path = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary_path
        temporary_path.replace(path)
    finally:
        temporary_path.unlink(missing_ok=True)


def existing_folder(path: Path) -> Path:
    """The folder itself, or the nearest above it that is there: it tells the disk."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


def make_folder(path: Path) -> None:
    """Make a folder and those above it. Raises ResourceError."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the disk refuses inside becomes a ResourceError that names `path`."""
    try:
        yield
    except OSError as error:
        raise write_error(path, error) from error


# What a disk or its owner refuses, and no code of ours could have avoided
REFUSED = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EISDIR}
)


def write_error(path: Path, error: OSError) -> ResourceError:
    """The message for a disk that is full or cannot be written."""
    elsewhere = "choose another place (--runs-dir for runs, --out for what is made from them)"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(
            f"No space left on {path.parent} while writing {path.name}. Everything before it is saved. "
            f"Fix: free some space and run the same command again, or {elsewhere}."
        )
    return ResourceError(f"{path} cannot be written: {error.strerror}. Fix: {elsewhere}.")


def claim(lock: Path, what: Path, kind: int) -> int:
    """Hold the lock file until the descriptor is closed. Raises ConfigError if another process holds it."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        # flock ends with the process, however it dies; a lock file that means "taken" would stay.
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError as error:
        # The holder wrote its process id: "which process?" is the next question.
        holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise ConfigError(
            f"Another process (pid {holder}) is writing {what}. Fix: wait for it or stop it, or choose another folder "
            f"(train: --out; eval: --run-name, or --shard i/n to share a run)."
        ) from error
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


def is_record(line: bytes) -> bool:
    """Whether a last line without its newline is an object all the same: what a kill has torn never is."""
    try:
        return isinstance(parse_json(line), dict)
    except ValueError:
        return False


def _end_last_line(descriptor: int) -> None:
    """Give a complete last line the newline that it lacks, and cut off one that a kill has torn."""
    size = os.fstat(descriptor).st_size
    end = size
    while end > 0:
        # Backwards in blocks: the file may have gigabytes, a line some kilobytes.
        start = max(0, end - 65536)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end == size:
        return
    if is_record(os.pread(descriptor, size - end, end)):
        os.write(descriptor, b"\n")
    else:
        os.ftruncate(descriptor, end)


def set_aside(path: Path, file: AppendFile) -> None:
    """What is in a folder moves to old-<time>/ in it, nothing is deleted. `file`, open and locked, is left empty."""
    old = [p for p in path.iterdir() if p.is_file() and not p.name.startswith(".") and p.stat().st_size]
    if not old:
        return
    with writing(path):
        target = folder_for_old(path)
    # The open and locked file keeps its inode, so it is copied and emptied, not moved. Only this needs room: it comes
    # first, so that a full disk leaves the run as it was.
    if file.path in old:
        try:
            shutil.copyfile(file.path, target / file.path.name)
        except OSError as error:
            shutil.rmtree(target)
            raise write_error(file.path, error) from error
    for item in old:
        if item != file.path:
            item.replace(target / item.name)
    file.empty()


def folder_for_old(path: Path) -> Path:
    """A new folder old-<time>/ in a folder, for what is moved aside."""
    return Path(tempfile.mkdtemp(prefix=f"old-{utc_now().replace(':', '')}-", dir=path))


@contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """Wait for the lock file: several shards may start at once."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
