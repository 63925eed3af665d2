"""Wanted media out of the archives of a repository: several at once, none stored, until nothing is missing any more."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Protocol

from seedbench_r1.data.archives import READ_AHEAD, Archive, Member, read_members
from seedbench_r1.data.hub import Repository, Stopped, TransferError
from seedbench_r1.data.manifest import ArchiveEntry, DataManifest, FileEntry, MediaEntry
from seedbench_r1.data.remote import Source
from seedbench_r1.errors import ConfigError, DataError, ResourceError, SeedBenchError, one_line
from seedbench_r1.files import utc_now
from seedbench_r1.media.layout import NameIndex

# Inside the data root, so that renaming never crosses from one disk to another.
WORK = ".seedbench-download"  # members of archives that are being read
_SPARE = 64 << 20  # bytes left free on the disk while unpacking, so that other programs survive
_ENOUGH_SIZES = 16  # media whose mean size says how much room the missing ones take
_COPY_BYTES = 1 << 20
_SHOWN = 5  # problems of one archive that are named


class Observer(Protocol):
    """Who watches a download. Called from several threads."""

    def say(self, text: str) -> None: ...

    def expect(self, n_bytes: int) -> None:
        """So many more bytes are going to be fetched; negative: fewer."""

    def moved(self, n_bytes: int) -> None:
        """So many arrived; negative: were discarded."""


@dataclass(slots=True)
class _Kept:
    """One medium that is complete under a temporary name."""

    path: Path
    size: int
    sha256: str


@dataclass(slots=True)
class _Reading:
    """One archive that is being read."""

    archive: Archive
    folder: Path  # of its temporary files
    kept: dict[str, _Kept] = field(default_factory=dict)
    listed: dict[str, int] = field(default_factory=dict)  # name in the layout -> bytes, wanted or not
    problems: list[str] = field(default_factory=list)  # of members; the rest goes on
    n_bytes: int = 0  # that arrived

    @property
    def has_almost_arrived(self) -> bool:
        return self.archive.size - self.n_bytes <= READ_AHEAD


class _Leave(threading.Event):
    """Set for one archive if all are to end, unless it has almost arrived: its end is what checks the hash."""

    def __init__(self, reading: _Reading, stop: threading.Event) -> None:
        super().__init__()
        self._reading, self._stop = reading, stop

    def is_set(self) -> bool:
        return self._stop.is_set() and not self._reading.has_almost_arrived

    def wait(self, timeout: float | None = None) -> bool:
        return self._stop.wait(timeout)


class Collector:
    """Looks for missing media in archives, and keeps what it finds.

    Args:
        data_root: folder of the data set.
        repository: where the archives are.
        manifest: what is known of archives and media; kept up to date.
        missing: names of wanted media, `<kind>/<source>/<basename>`; those that are found are taken out.
        archives: all of the repository.
        observer: is told what happens.
        on_bytes: called with the number of bytes that arrived, from several threads.
    """

    def __init__(
        self,
        data_root: Path,
        repository: Repository,
        manifest: DataManifest,
        missing: set[str],
        *,
        archives: Sequence[Archive],
        observer: Observer,
        on_bytes: Callable[[int], None],
    ) -> None:
        self.missing = missing
        self.problems: list[str] = []  # why something may be missing
        self.conflicts: list[str] = []  # why something may be wrong
        self.opened = self.unpacked = 0
        self._current = {archive.name: archive.content_ids for archive in archives}
        self._root, self._repository, self._manifest = data_root, repository, manifest
        self._observer, self._on_bytes = observer, on_bytes
        self._wanted = NameIndex(missing)
        self._claimed: set[str] = set()  # being written, or written and not yet under their names
        self._sizes: list[int] = []
        self._stop = threading.Event()
        self._guard = threading.RLock()

    def run(self, archives: Sequence[Archive], workers: int, save: Callable[[bool], None]) -> None:
        """Read archives until nothing is missing any more or all are read. A damaged one is a problem, and no end.

        `save` is called after each, with whether it gave media.

        Raises:
            TransferError: the hub does not give the bytes. ResourceError: the disk is full.
        """
        archives = [archive for archive in archives if self._is_whole(archive)] if self.missing else []
        self._stop = threading.Event()
        self._observer.expect(sum(archive.size for archive in archives))
        with stoppable_pool(workers, self._stop) as pool:
            for future in as_completed([pool.submit(self._read, archive) for archive in archives]):
                kept = future.result()
                with self._guard:
                    save(kept)

    def _is_whole(self, archive: Archive) -> bool:
        if archive.absent is not None:
            self._problem(f"{archive.name} cannot be read: its part {archive.absent} is not in the repository.")
        return archive.absent is None

    def _problem(self, text: str) -> None:
        with self._guard:
            self.problems.append(text)
        self._observer.say(text)

    def _read(self, archive: Archive) -> bool:
        """One archive, from its first byte until its end or until nothing is missing any more. True: it gave media."""
        if self._stop.is_set() or not self.missing:
            self._observer.expect(-archive.size)
            return False
        with self._guard:
            self.opened += 1
            reading = _Reading(archive, self._root / WORK / str(self.opened))
        try:
            to_its_end = self._members(reading)
        except (TransferError, ResourceError, ConfigError, OSError):
            # The archive was not found wrong: what is complete is kept, as of one that is left early.
            self._name(reading, to_its_end=False)
            raise
        except DataError as error:
            reading.problems.insert(0, str(error))
            with self._guard:
                self.missing.update(reading.kept)
                self._claimed.difference_update(reading.kept)
            reading.kept.clear()
        else:
            self._name(reading, to_its_end=to_its_end)
        finally:
            shutil.rmtree(reading.folder, ignore_errors=True)
            self._observer.expect(reading.n_bytes - archive.size)
        if not self.missing:
            self._stop.set()
        if reading.problems:
            more = len(reading.problems) - _SHOWN
            self._problem("\n".join(reading.problems[:_SHOWN] + [f"... and {more} more in it"] * (more > 0)))
        return bool(reading.kept)

    def _members(self, reading: _Reading) -> bool:
        """Keep the wanted members. False: left early. Raises DataError if the archive cannot be read."""
        archive = reading.archive
        leave = _Leave(reading, self._stop)
        source = Source(self._repository, archive.parts, partial(self._arrived, reading), leave)
        try:
            with closing(read_members(archive, source)) as members:
                for member in members:
                    self._member(reading, member)
                    # The rest of a zip archive's directory costs nothing.
                    if not self.missing and not member.separate and not reading.has_almost_arrived:
                        self._stop.set()
                    if leave.is_set():
                        return False
        except Stopped:
            return False
        # Files of others, read by five libraries: whatever they raise says that this archive is no good.
        except Exception as error:
            if _is_ours(error):
                raise
            raise DataError(
                f"{archive.name} cannot be unpacked: {str(error) or type(error).__name__}. Nothing of it was kept. "
                f"Fix: the same command again; if it ends at the same place, unpack what can be saved by hand below "
                f"videos/ or images/, and report it to the data set's owner."
            ) from error
        return True

    def _arrived(self, reading: _Reading, n_bytes: int) -> None:
        reading.n_bytes += n_bytes
        self._on_bytes(n_bytes)

    def _member(self, reading: _Reading, member: Member) -> None:
        archive = reading.archive
        fitting = self._wanted.fitted(member.name)
        if len(fitting) > 1:
            reading.problems.append(f"{archive.name}: {member.name} may be {' or '.join(sorted(fitting))}.")
        if member.refusal is not None:
            reading.problems.append(f"{archive.name}: member {member.name[-200:]!r} is {member.refusal}.")
            return
        if len(fitting) != 1:
            # Listed though it is not wanted: a later download goes straight to the right archive.
            reading.listed[member.name] = member.size
            return
        wanted = fitting[0]
        if wanted in reading.kept and _copy(member) != reading.kept[wanted].sha256:
            raise DataError(f"{archive.name}: two members would both become {wanted}, and they differ.")
        reading.listed[wanted] = member.size
        with self._guard:
            if wanted not in self.missing or wanted in self._claimed:
                return
            self._claimed.add(wanted)
        try:
            self._keep(reading, wanted, member)
        # One member of a zip archive may be damaged, or packed by a method that Python does not know.
        except Exception as error:
            if not member.separate or _is_ours(error):
                raise
            text = f"{archive.name}: member {member.name!r} cannot be read: {one_line(error)}."
            reading.problems.append(text)
        finally:
            if wanted not in reading.kept:
                self._claimed.discard(wanted)

    def _keep(self, reading: _Reading, wanted: str, member: Member) -> None:
        """Write the member under a temporary name: the archive may turn out to be wrong."""
        self._require_room(member.size)
        path = reading.folder / str(len(reading.listed))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            sha256 = _copy(member, stream)
            if stream.tell() != member.size:
                raise EOFError(f"{wanted} has {stream.tell()} of {member.size} bytes")
        reading.kept[wanted] = _Kept(path, member.size, sha256)
        with self._guard:
            self.missing.discard(wanted)
            self._sizes.append(member.size)

    def _require_room(self, size: int) -> None:
        # The sizes of media in tar archives are known when they come. A few tell what the rest will take.
        with self._guard:
            if len(self._sizes) >= _ENOUGH_SIZES:
                size = max(size, sum(self._sizes) // len(self._sizes) * len(self.missing))
        # Asked for each file: other programs fill the disk too, and a full one may damage their work.
        free = shutil.disk_usage(self._root).free
        if free < size + _SPARE:
            raise ResourceError(
                f"No space left at {self._root}: {free / 1e9:.2f} GB are free, {(size + _SPARE) / 1e9:.2f} GB are "
                f"wanted for the media that are missing. Fix: make room and run the same command again; what is there "
                f"is kept."
            )

    def _name(self, reading: _Reading, *, to_its_end: bool) -> None:
        """Give the complete members their names, and write down what the archive holds."""
        archive, media, archives = reading.archive, self._manifest.media, self._manifest.archives
        with self._guard:
            same = self._manifest.has_seen(archive.name, archive.content_ids)
            for name in [] if same else [name for name, entry in media.items() if entry.archive == archive.name]:
                del media[name]  # what an earlier state of it held
            for name, size in reading.listed.items():
                other = media.get(name)
                if other is None or not self._manifest.has_seen(other.archive, self._current.get(other.archive, [])):
                    media[name] = MediaEntry(size, archive.name)
                elif other.size != size and name in self._claimed:
                    self.conflicts.append(
                        f"{archive.name} and {other.archive} hold different files for {name}, of {size} and "
                        f"{other.size} bytes. One of them was kept. Fix: see which is right, and put it there."
                    )
            for wanted, kept in reading.kept.items():
                target = self._root / wanted
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(kept.path, target)
                self.unpacked += 1
                media[wanted] = MediaEntry(kept.size, archive.name)
                self._manifest.files[wanted] = FileEntry(kept.size, kept.sha256, target.stat().st_mtime_ns)
            before = archives[archive.name].unpacked_utc if same else None
            archives[archive.name] = ArchiveEntry(
                archive.size, archive.content_ids, utc_now() if to_its_end else before, pending=not to_its_end
            )
            missing = len(self.missing)
        if reading.kept:
            self._observer.say(f"{archive.name}: {len(reading.kept)} clips and images kept, {missing} still missing")


def _copy(member: Member, stream: IO[bytes] | None = None) -> str:
    """The sha256 of a member's content, which is written to the stream if there is one."""
    digest = hashlib.sha256()
    with member.open() as content:
        while block := content.read(_COPY_BYTES):
            digest.update(block)
            if stream is not None:
                stream.write(block)
    return digest.hexdigest()


def _is_ours(error: Exception) -> bool:
    """True for what says nothing about an archive: our own errors, and those of the disk."""
    return isinstance(error, SeedBenchError | Stopped) or (isinstance(error, OSError) and error.errno is not None)


@contextmanager
def stoppable_pool(workers: int, stop: threading.Event) -> Iterator[ThreadPoolExecutor]:
    """A pool that an error or Ctrl-C ends, also while jobs are being submitted: `stop` is set, what waits is dropped.

    A plain `with` would first carry out everything that was submitted.
    """
    with ThreadPoolExecutor(workers) as pool:
        try:
            yield pool
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
