"""The data set from the hub into a data root: resumable, every size and hash checked, disk space asked for first."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from seedbench_r1.data import hub
from seedbench_r1.data.archives import SOURCES, Archive, find_archives, unpack
from seedbench_r1.data.hub import HubFile, Repository
from seedbench_r1.data.manifest import (
    ArchiveEntry,
    DataManifest,
    FileEntry,
    MediaEntry,
    read_data_manifest,
    relative,
    write_data_manifest,
)
from seedbench_r1.errors import DataError, ResourceError
from seedbench_r1.files import utc_now
from seedbench_r1.questions import ANNOTATION_FILES, annotation_path, load_annotations, load_training_rows
from seedbench_r1.types import LEVELS

REPO_ID = "TencentARC/SEED-Bench-R1"
TRAIN = "train"  # besides L1, L2, L3: the training annotations and their media
TRAINING_FILES = ("training_6k.jsonl", "training_with_cot_6k.jsonl")
# Inside the data root, so that renaming never crosses from one disk to another.
WORK = ".seedbench-download"  # archives on their way, inside the data root
_SAVE_EVERY_S = 5.0
_HEADROOM = 1.2  # free disk asked for, over what is needed


@dataclass(frozen=True, slots=True)
class DownloadConfig:
    """What to fetch and where to."""

    data_root: Path
    repo_id: str = REPO_ID
    revision: str = "main"  # branch, tag or commit
    levels: tuple[str, ...] = LEVELS  # and "train"
    only_missing: bool = False  # leave files that are there, and complete by their size, unread
    workers: int = 8  # files at once, as huggingface_hub's own default


@dataclass(slots=True)
class DownloadResult:
    """What one call did. Counts while it does it."""

    data_root: Path
    repo_id: str
    commit: str
    levels: tuple[str, ...]
    fetched: int = 0  # files and parts of archives
    kept: int = 0  # files that were there and right
    unpacked: int = 0  # media files written from archives
    fetched_bytes: int = 0  # that crossed the network in this call


class Observer(Protocol):
    """Who watches a download. Called from several threads."""

    def say(self, text: str) -> None: ...

    def expect(self, n_bytes: int) -> None:
        """So many more bytes are going to be fetched."""

    def moved(self, n_bytes: int) -> None:
        """So many arrived; negative: were discarded."""


def download(config: DownloadConfig, observer: Observer) -> DownloadResult:
    """Bring a data root to the state of the repository, for the levels asked for. Calling it again continues.

    First the annotations, then the media they name: as files of the same name, else out of archives. A second
    download into the same root waits for the first one.

    Raises:
        ConfigError: no such data set or revision, no permission, no connection.
        ResourceError: less free disk than 1.2 x what is needed; nothing was fetched.
        DataError: a file cannot be fetched or is not what was announced; or media are absent in the repository too.
    """
    root = config.data_root
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _alone(root, observer):
            repository = hub.open_repository(config.repo_id, config.revision)
            observer.say(f"{config.repo_id} at {repository.commit[:12]}, {len(repository.files)} files -> {root}")
            return _Download(config, repository, observer).run()
    except OSError as error:
        raise hub.disk_error(error) from error


class _Download:
    """One call's state: the repository, the manifest that is being written, and the counts."""

    def __init__(self, config: DownloadConfig, repository: Repository, observer: Observer) -> None:
        self.config = config
        self.root = config.data_root
        self.repository = repository
        self.observer = observer
        self.tree = {file.path: file for file in repository.files}
        self.manifest = read_data_manifest(self.root)
        # What was asked for, written down even if the download does not finish: status reads it.
        self.manifest.repo_id, self.manifest.revision = repository.repo_id, config.revision
        self.manifest.commit = repository.commit
        self.result = DownloadResult(self.root, repository.repo_id, repository.commit, config.levels)
        self._guard = threading.Lock()
        self._saved = 0.0

    def run(self) -> DownloadResult:
        # Annotations are always checked in full: everything else follows from them.
        self._files(self._annotations(), trust_size=False)
        media = wanted_media(self.root, self.config.levels)
        # Media that lie in the repository as files come first; archives are large, and often not needed.
        found, elsewhere = place_media(self.root, media, self.tree, self.manifest)
        archives = [a for a in find_archives(self.repository.files) if self._needed(a, elsewhere)]
        self._files(found, trust_size=self.config.only_missing, archives=archives)
        for archive in archives:
            self._archive(archive)
        self._save(now=True)
        # Read again: an annotation file may have been replaced by this very call.
        self._complete(wanted_media(self.root, self.config.levels))
        return self.result

    def _annotations(self) -> list[HubFile]:
        names = [ANNOTATION_FILES[level] for level in self.config.levels if level != TRAIN]
        names += TRAINING_FILES if TRAIN in self.config.levels else ()
        absent = [name for name in names if f"annotations/{name}" not in self.tree]
        if absent:
            raise DataError(
                f"{self.repository.repo_id} at {self.repository.commit[:12]} holds no annotations/{absent[0]}. "
                f"Fix: check --repo-id and --revision, or leave the level out with --levels."
            )
        return [self.tree[f"annotations/{name}"] for name in names]

    def _needed(self, archive: Archive, elsewhere: set[str]) -> bool:
        """True if it may hold media that are absent, has changed since, or was fetched but not unpacked to its end."""
        # All parts are here: an earlier call ended while it was unpacking.
        if all(self._work_path(part).exists() for part in archive.parts):
            return True
        entry = self.manifest.archives.get(archive.name)
        current = archive.content_ids
        unpacked = entry is not None and entry.unpacked_utc is not None
        for path in elsewhere:
            owner = self.manifest.media.get(path)
            if owner is not None and owner.archive == archive.name:
                return True
            if owner is None and _may_hold(archive, path) and not (entry and unpacked and entry.content_ids == current):
                return True
        return bool(entry and unpacked and entry.content_ids != current and not self.config.only_missing)

    def _files(self, files: Sequence[HubFile], *, trust_size: bool, archives: Sequence[Archive] = ()) -> None:
        """Fetch the files that are not there or not right."""
        with _stoppable_pool(self.config.workers, threading.Event()) as pool:
            # Hashing releases the interpreter, so threads use several cores.
            right = list(pool.map(lambda file: self._is_right(file, trust_size), files))
        todo = [file for file, is_right in zip(files, right, strict=True) if not is_right]
        self.result.kept += len(files) - len(todo)
        for file in todo:
            # Planned and not yet checked (no time of change): status can say how much is left.
            self.manifest.files[file.path] = FileEntry(file.size, file.content_id)
        for archive in archives:
            self.manifest.archives[archive.name] = ArchiveEntry(archive.size, archive.content_ids)
        targets = [(file, self.root / file.path) for file in todo]
        waiting = [(part, self._work_path(part)) for archive in archives for part in archive.parts]
        left = sum(bytes_to_fetch(file, target) for file, target in [*targets, *waiting])
        # Before the first byte: a download that cannot finish would only fill the disk.
        require_space(self.root, needed_space(targets, archives, self._work_path))
        self._save(now=True)
        self.observer.expect(left)
        self._fetch(targets, self._note_file)

    def _is_right(self, file: HubFile, trust_size: bool) -> bool:
        target = self.root / file.path
        if not target.is_file() or target.stat().st_size != file.size:
            return False
        entry = self.manifest.files.get(file.path)
        changed = target.stat().st_mtime_ns
        # A file that was checked and has not been touched since is not hashed again.
        known = entry is not None and entry.content_id == file.content_id and entry.mtime_ns == changed
        if known or trust_size:
            return True
        if not hub.matches(target, file):
            return False
        with self._guard:
            self.manifest.files[file.path] = FileEntry(file.size, file.content_id, changed)
        return True

    def _archive(self, archive: Archive) -> None:
        """Fetch the archive's parts, unpack them, remove them."""
        paths = [self._work_path(part) for part in archive.parts]
        todo = [(part, path) for part, path in zip(archive.parts, paths, strict=True) if not hub.matches(path, part)]
        self._fetch(todo, lambda file, path: None)
        self.observer.say(f"unpacking {archive.name}")
        written = 0

        def wanted(path: str, size: int) -> bool:
            nonlocal written
            other = self.manifest.media.get(path)
            # The later archive would silently replace clips of the earlier one.
            if other is not None and other.archive != archive.name and other.size != size:
                raise DataError(f"{archive.name} and {other.archive} hold different files for {path}.")
            if self.config.only_missing and hub.bytes_present(self.root / path) == size:
                return False
            written += 1
            return True

        listed = unpack(archive, paths, self.root, wanted=wanted)
        for name, size in listed.items():
            self.manifest.media[name] = MediaEntry(size, archive.name)
        self.result.unpacked += written
        self.manifest.archives[archive.name] = ArchiveEntry(archive.size, archive.content_ids, utc_now())
        self._save(now=True)
        # Removed only now that the manifest says what came out of them.
        for path in paths:
            path.unlink()

    def _fetch(self, jobs: Sequence[tuple[HubFile, Path]], note: Callable[[HubFile, Path], None]) -> None:
        """Fetch several files at once. The first error, or Ctrl-C, stops the others; what arrived is kept."""
        stop = threading.Event()
        try:
            with _stoppable_pool(self.config.workers, stop) as pool:
                futures = {
                    pool.submit(hub.fetch, self.repository, *job, on_bytes=self._moved, stop=stop): job for job in jobs
                }
                for future in as_completed(futures):
                    future.result()
                    self.result.fetched += 1
                    note(*futures[future])
                    self._save()
        except BaseException:
            self._save(now=True)
            raise

    def _note_file(self, file: HubFile, target: Path) -> None:
        self.manifest.files[file.path] = FileEntry(file.size, file.content_id, target.stat().st_mtime_ns)

    def _moved(self, n_bytes: int) -> None:
        with self._guard:
            self.result.fetched_bytes += max(n_bytes, 0)
        self.observer.moved(n_bytes)

    def _save(self, *, now: bool = False) -> None:
        # The manifest lists every medium: too large to be written after each file.
        if now or time.monotonic() - self._saved > _SAVE_EVERY_S:
            write_data_manifest(self.root, self.manifest)
            self._saved = time.monotonic()

    def _work_path(self, part: HubFile) -> Path:
        return self.root / WORK / f"{part.content_id[:16]}-{PurePosixPath(part.path).name}"

    def _complete(self, media: Sequence[Path]) -> None:
        absent = [path for path in media if not path.exists()]
        if absent:
            raise DataError(
                f"{len(absent)} of {len(media)} media files are neither here nor in {self.repository.repo_id} at "
                f"{self.repository.commit[:12]}, as files or in its archives; e.g. {absent[0]}. All else is there. "
                f"Fix: get them from the videos' owners (docs/data.md)."
            )


def wanted_media(data_root: Path, levels: Iterable[str]) -> list[Path]:
    """Every clip and image that the annotations of the levels name: where it is, or where it should be."""
    media: dict[Path, None] = {}
    for level in levels:
        if level == TRAIN:
            files = [data_root / "annotations" / name for name in TRAINING_FILES]
            questions = [row.question for file in files for row in load_training_rows(file, data_root)]
        else:
            questions = load_annotations(annotation_path(data_root, level), data_root, level)
        for question in questions:
            media.update(dict.fromkeys(path for path in (question.video, question.image) if path is not None))
    return list(media)


def place_media(
    data_root: Path, media: Iterable[Path], tree: dict[str, HubFile], manifest: DataManifest
) -> tuple[list[HubFile], set[str]]:
    """(files of the repository that are wanted, wanted paths that can only be in archives).

    A file that is present and is not in the repository under its name is left alone, unless it came out of an archive
    and is shorter than it was there.
    """
    found: dict[str, HubFile] = {}
    elsewhere: set[str] = set()
    for path in media:
        name = relative(data_root, path)
        if path.exists():
            names = [name]
        else:  # absent: path is <root>/<kind>/<source>/<rest>; the flat layouts of docs/data.md are found too
            kind, source, *rest = name.split("/")
            names = [f"{folder}{'/'.join(rest)}" for folder in (f"{kind}/{source}/", f"{kind}/{source}_flatten/")]
            names += [f"{kind}/{'/'.join(rest)}", "/".join(rest)]
        file = next((tree[name] for name in names if name in tree), None)
        came_from_archive = manifest.media.get(name)
        if file is not None:
            found[file.path] = file
        elif not path.exists() or (came_from_archive and path.stat().st_size < came_from_archive.size):
            elsewhere.add(name)
    return list(found.values()), elsewhere


def bytes_to_fetch(file: HubFile, target: Path) -> int:
    """The file's bytes, less those that an earlier call left in its partial file."""
    if target.exists() and target.parent.name == WORK:
        return 0
    return max(file.size - hub.bytes_present(hub.partial_path(target, file)), 0)


def needed_space(
    files: Iterable[tuple[HubFile, Path]], archives: Sequence[Archive], work_path: Callable[[HubFile], Path]
) -> int:
    """Most bytes of disk needed: files, unpacked media, and one archive at a time.

    Clips and images are compressed already, so an archive is assumed to unpack to its own size.
    """
    archived = [sum(bytes_to_fetch(part, work_path(part)) for part in archive.parts) for archive in archives]
    loose = sum(bytes_to_fetch(file, target) for file, target in files)
    return loose + sum(archive.size for archive in archives) + max(archived, default=0)


def require_space(data_root: Path, needed: int) -> None:
    """Raise ResourceError if the disk has less than 1.2 x the needed bytes free."""
    # Headroom: file systems slow down and reserve space when nearly full.
    free = shutil.disk_usage(data_root).free
    if needed and free < _HEADROOM * needed:
        raise ResourceError(
            f"{data_root} has {free / 1e9:.2f} GB free; {_HEADROOM * needed / 1e9:.2f} GB are wanted "
            f"({_HEADROOM:g} x {needed / 1e9:.2f} GB still to fetch and unpack). Nothing of it was fetched. "
            f"Fix: --to /big/disk, or fewer --levels."
        )


@contextmanager
def _stoppable_pool(workers: int, stop: threading.Event) -> Iterator[ThreadPoolExecutor]:
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


def _may_hold(archive: Archive, path: str) -> bool:
    kind, source, *_ = path.split("/")
    return archive.kind in (None, kind) and (archive.source in (None, source) or source not in SOURCES)


@contextmanager
def _alone(data_root: Path, observer: Observer) -> Iterator[None]:
    """Hold the data root's lock; wait while another process holds it."""
    # The lock ends with the process, however that ends.
    descriptor = os.open(data_root / ".seedbench-download.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            observer.say(f"another download into {data_root} is running; waiting for it to end")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
