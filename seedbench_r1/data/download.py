"""The data set from the hub into a data root: resumable, every size and hash checked, disk space asked for first."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from seedbench_r1.data import hub
from seedbench_r1.data.archives import Archive, find_archives, sizes_of_levels, unread_archives
from seedbench_r1.data.collect import WORK, Collector, Observer, stoppable_pool
from seedbench_r1.data.hub import HubFile, Repository
from seedbench_r1.data.manifest import (
    ArchiveEntry,
    DataManifest,
    FileEntry,
    read_data_manifest,
    relative,
    write_data_manifest,
)
from seedbench_r1.errors import DataError, ResourceError
from seedbench_r1.media.layout import NameIndex, place_of
from seedbench_r1.questions import ANNOTATION_FILES, annotation_path, load_annotations, load_training_rows
from seedbench_r1.types import LEVELS

REPO_ID = "TencentARC/SEED-Bench-R1"
TRAIN = "train"  # besides L1, L2, L3: the training annotations and their media
TRAINING_FILES = ("training_6k.jsonl", "training_with_cot_6k.jsonl")
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
    fetched: int = 0  # files, and archives that were opened
    kept: int = 0  # files that were there and right
    unpacked: int = 0  # media files written from archives
    fetched_bytes: int = 0  # that crossed the network in this call


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
        for line in sizes_of_levels(self.repository.files, self.config.levels):
            self.observer.say(line)
        # What a killed process left of the archives that it was reading.
        shutil.rmtree(self.root / WORK, ignore_errors=True)
        # Annotations are always checked in full: everything else follows from them.
        self._files(self._annotations(), trust_size=False)
        media = wanted_media(self.root, self.config.levels)
        # Media that lie in the repository as files come first; archives are large, and often not needed.
        found, unpacked, absent = place_media(self.root, media, self.tree, self.manifest)
        archives = find_archives(self.repository.files)
        missing = absent | self._changed(unpacked, archives)
        groups = group_archives(archives, missing, self.manifest)
        for archive in [archive for group in groups for archive in group]:
            entry = ArchiveEntry(archive.size, archive.content_ids)
            self.manifest.archives.setdefault(archive.name, entry).pending = True
        sizes = [self.manifest.media[name].size for name in missing if name in self.manifest.media]
        self._files(found, trust_size=self.config.only_missing, reserved=sum(sizes))
        collector = Collector(
            self.root,
            self.repository,
            self.manifest,
            missing,
            archives=archives,
            observer=self.observer,
            on_bytes=self._moved,
        )
        try:
            for group in groups:
                collector.run(group, self.config.workers, lambda kept: self._save(now=kept))
        finally:
            self.result.fetched += collector.opened
            self.result.unpacked = collector.unpacked
            shutil.rmtree(self.root / WORK, ignore_errors=True)
            self._save(now=True)
        # Read again: an annotation file may have been replaced by this very call.
        self._complete(wanted_media(self.root, self.config.levels), collector)
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

    def _changed(self, names: Iterable[str], archives: Iterable[Archive]) -> set[str]:
        """Media that are there and came out of an archive, and are not what it holds now."""
        media, files = self.manifest.media, self.manifest.files
        changed = {name for name in names if (self.root / name).stat().st_size < media[name].size}
        if self.config.only_missing:
            return changed
        # The repository's archive is another one now, and what it holds is not known without reading it.
        other = {a.name for a in archives if not self.manifest.has_seen(a.name, a.content_ids)}
        changed.update(name for name in names if media[name].archive in other)
        checked = [HubFile(n, files[n].size, files[n].content_id, "") for n in names if n in files and n not in changed]
        return changed | {file.path for file in checked if file not in self._right(checked, trust_size=False)}

    def _files(self, files: Sequence[HubFile], *, trust_size: bool, reserved: int = 0) -> None:
        """Fetch the files that are not there or not right, if the disk takes them and the reserved bytes."""
        right = self._right(files, trust_size=trust_size)
        todo = [file for file in files if file not in right]
        self.result.kept += len(right)
        for file in todo:
            # Planned and not yet checked (no time of change): status can say how much is left.
            self.manifest.files[file.path] = FileEntry(file.size, file.content_id)
        targets = [(file, self.root / file.path) for file in todo]
        left = sum(max(f.size - hub.bytes_present(hub.partial_path(target, f)), 0) for f, target in targets)
        # Before the first byte: a download that cannot finish would only fill the disk.
        require_space(self.root, left + reserved)
        self._save(now=True)
        self.observer.expect(left)
        self._fetch(targets)

    def _right(self, files: Sequence[HubFile], *, trust_size: bool) -> set[HubFile]:
        with stoppable_pool(self.config.workers, threading.Event()) as pool:
            # Hashing releases the interpreter, so threads use several cores.
            right = pool.map(lambda file: self._is_right(file, trust_size), files)
            return {file for file, is_right in zip(files, right, strict=True) if is_right}

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

    def _fetch(self, jobs: Sequence[tuple[HubFile, Path]]) -> None:
        """Fetch several files at once. The first error, or Ctrl-C, stops the others; what arrived is kept."""
        stop = threading.Event()
        try:
            with stoppable_pool(self.config.workers, stop) as pool:
                futures = {
                    pool.submit(hub.fetch, self.repository, *job, on_bytes=self._moved, stop=stop): job for job in jobs
                }
                for future in as_completed(futures):
                    future.result()
                    self.result.fetched += 1
                    file, target = futures[future]
                    self.manifest.files[file.path] = FileEntry(file.size, file.content_id, target.stat().st_mtime_ns)
                    self._save()
        except BaseException:
            self._save(now=True)
            raise

    def _moved(self, n_bytes: int) -> None:
        with self._guard:
            self.result.fetched_bytes += max(n_bytes, 0)
        self.observer.moved(n_bytes)

    def _save(self, *, now: bool = False) -> None:
        # The manifest lists every medium: too large to be written after each file.
        if now or time.monotonic() - self._saved > _SAVE_EVERY_S:
            write_data_manifest(self.root, self.manifest)
            self._saved = time.monotonic()

    def _complete(self, media: Sequence[Path], collector: Collector) -> None:
        if absent := [path for path in media if not path.exists()]:
            problems = "".join(f"\n{problem}" for problem in [*collector.problems, *collector.conflicts])
            if unread := unread_archives(self.repository.files):
                problems += (
                    f"\n{len(unread)} archives are of a kind that is not read, e.g. {unread[0]}. Fix: unpack them by "
                    f"hand below videos/ or images/."
                )
            raise DataError(
                f"{len(absent)} of {len(media)} media files are neither here nor in {self.repository.repo_id} at "
                f"{self.repository.commit[:12]}, as files or in its archives; e.g. {absent[0]}. All else is there. "
                f"Fix: get them from the videos' owners (docs/data.md).{problems}"
            )
        for entry in self.manifest.archives.values():
            entry.pending = False
        self._save(now=True)
        if collector.conflicts:
            raise DataError("\n".join(["All media are there, but:", *collector.conflicts]))


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
) -> tuple[list[HubFile], set[str], set[str]]:
    """(files of the repository that are wanted, names of media that are there from archives, names of absent ones).

    A file that is present, came out of no archive, and is not in the repository under its name is left alone.

    Raises:
        DataError: two files of the repository may be the same medium, and differ.
    """
    files = NameIndex(tree)
    found: dict[str, HubFile] = {}
    unpacked: set[str] = set()
    absent: set[str] = set()
    for path in media:
        name = relative(data_root, path)
        file = tree.get(name) if path.exists() else _in_repository(name, tree, files)
        if file is not None:
            found[file.path] = file
        elif not path.exists():
            absent.add(name)
        elif name in manifest.media:
            unpacked.add(name)
    return list(found.values()), unpacked, absent


def _in_repository(name: str, tree: dict[str, HubFile], files: NameIndex) -> HubFile | None:
    """The file for <kind>/<source>/<basename>, in one of the layouts of docs/data.md or in a sub-folder."""
    kind, source, *rest = name.split("/")
    basename = "/".join(rest)
    for known in (name, f"{kind}/{source}_flatten/{basename}", f"{kind}/{basename}", basename):
        if known in tree:
            return tree[known]
    fitting = [tree[known] for known in files.find(name)]
    if len({file.content_id for file in fitting}) > 1:
        raise DataError(
            f"{fitting[0].path} and {fitting[1].path} of the repository differ, and either may be {name}. Fix: "
            f"fetch the right one by hand to {name} in the data root."
        )
    return fitting[0] if fitting else None


def group_archives(archives: Sequence[Archive], missing: set[str], manifest: DataManifest) -> list[list[Archive]]:
    """Archives that may hold what is missing, in groups to be read one after another.

    First those that are known to hold something, then those whose name fits, then those whose name says nothing. One
    that was read to its end holds nothing more.
    """
    seen = {archive.name for archive in archives if manifest.has_seen(archive.name, archive.content_ids)}
    listed = NameIndex(manifest.media)
    holders = {wanted: {manifest.media[name].archive for name in listed.find(wanted)} for wanted in missing}
    known = set().union(*holders.values())
    # An archive that has changed since may hold its media no longer.
    places = {place_of(wanted)[:2] for wanted, names in holders.items() if not names & seen}
    read = {name for name in seen if manifest.archives[name].unpacked_utc is not None}
    others = [a for a in archives if a.name not in known | read and any(a.may_hold(*place) for place in places)]
    return [
        [archive for archive in archives if archive.name in known],
        [archive for archive in others if archive.kind or archive.source],
        [archive for archive in others if not (archive.kind or archive.source)],
    ]


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
