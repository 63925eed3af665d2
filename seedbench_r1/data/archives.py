"""Archives of media -> files in the layout of docs/data.md. A member's name never chooses a place outside of it."""

from __future__ import annotations

import lzma
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

from seedbench_r1.data.hub import HubFile
from seedbench_r1.errors import DataError, ResourceError
from seedbench_r1.files import replacing

SOURCES = ("EpicKitchens", "Ego4D")  # video_source of the annotations (docs/data.md)
KINDS = {
    **dict.fromkeys((".mp4", ".webm", ".mkv", ".avi", ".mov"), "videos"),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp"), "images"),
}
_NAME = re.compile(
    r"(?P<name>.+?\.(?:tar\.gz|tar\.xz|tar\.bz2|tgz|tar|zip))"
    r"(?P<part>[._-]part[._-]?[0-9a-z]{1,4}|[._-]\d{1,4}|[._-]a[a-z])?",
    re.IGNORECASE,
)
_SPARE = 64 << 20  # bytes left free on the disk while unpacking, so that other programs survive


@dataclass(frozen=True, slots=True)
class Archive:
    """One archive of the repository; large ones are cut into parts that belong one behind the other."""

    name: str  # path in the repository, without the part's suffix
    parts: tuple[HubFile, ...]

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    @property
    def content_ids(self) -> list[str]:
        return [part.content_id for part in self.parts]

    @property
    def source(self) -> str | None:
        """The video source that its name gives; None: any."""
        return _source_in(self.name)

    @property
    def kind(self) -> str | None:
        """ "videos" or "images", if its name says so; None: any."""
        # "video_clips.tar" and "images/part1.zip" alike: the singular begins both forms.
        folder = PurePosixPath(self.name).parts[0].lower()
        return next((kind for kind in ("videos", "images") if folder.startswith(kind[:-1])), None)


def find_archives(files: Iterable[HubFile]) -> list[Archive]:
    """The archives of media in a repository: under videos/ or images/, or named after them or after a source."""
    parts: dict[str, list[HubFile]] = {}
    for file in files:
        match = _NAME.fullmatch(file.path)
        if match:
            parts.setdefault(match["name"], []).append(file)
    # Sorted by suffix, so that part 2 follows part 1; suffixes are of one length.
    found = [Archive(name, tuple(sorted(group, key=lambda f: f.path))) for name, group in sorted(parts.items())]
    return [archive for archive in found if archive.kind or archive.source]


def unpack(
    archive: Archive, paths: list[Path], data_root: Path, *, wanted: Callable[[str, int], bool]
) -> dict[str, int]:
    """Unpack the archive's media into the data root, each file written under a temporary name and renamed.

    Args:
        archive: from the repository's list of files.
        paths: its parts on disk, in order.
        data_root: folder of the data set.
        wanted: (path relative to the data root, bytes) -> write it? Others are only listed.

    Returns:
        Relative path -> bytes, for every media file in the archive, written or not.

    Raises:
        DataError: not an archive, damaged, or a member is a link, a device, or points outside.
        ResourceError: the disk is nearly full.
    """
    listed: dict[str, int] = {}
    try:
        for name, size, content in _members(archive, paths):
            target = member_target(archive, name)
            if target is None:
                continue
            if target in listed:
                raise DataError(f"{archive.name}: two members would both become {target} (the second is {name!r}).")
            # Listed even if not written: the caller learns what the archive holds without a second pass.
            listed[target] = size
            if wanted(target, size):
                _write(data_root / target, size, content)
    except (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError) as error:
        raise DataError(f"{archive.name} cannot be unpacked: {error}. Its hash is right: report it there.") from error
    return listed


def member_target(archive: Archive, name: str) -> str | None:
    """Where a member belongs: <kind>/<source>/<what follows the source's folder>. None: not a media file.

    The source comes from a folder of the member's name, else from the archive's name, else the file lies flat in its
    kind's folder. Raises DataError for a name that points outside.
    """
    # Archives made on Windows have backslashes, which must not hide a "..".
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\x00" in name or re.match(r"[A-Za-z]:", name):
        raise DataError(f"{archive.name}: member {name!r} points outside of the data root. Unpacking stopped.")
    # macOS adds a hidden twin to every file, with the same suffix and no picture in it.
    kind = KINDS.get(path.suffix.lower())
    if kind is None or path.name.startswith(".") or "__MACOSX" in path.parts:
        return None
    for depth, folder in enumerate(path.parts[:-1]):
        source = _source_in(folder)
        if source is not None:
            return PurePosixPath(kind, source, *path.parts[depth + 1 :]).as_posix()
    return PurePosixPath(kind, archive.source or "", path.name).as_posix()


def _source_in(name: str) -> str | None:
    # "ego4d", "Ego4D_videos" and "EPIC-KITCHENS" all name a source.
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return next((source for source in SOURCES if source.lower() in plain), None)


def _members(archive: Archive, paths: list[Path]) -> Iterator[tuple[str, int, IO[bytes]]]:
    if archive.name.lower().endswith(".zip"):
        yield from _zip_members(archive, paths)
        return
    with ExitStack() as stack:
        joined = _Joined([stack.enter_context(path.open("rb")) for path in paths])
        # "r|*" reads forwards only, and so asks for nothing but read()
        tar = stack.enter_context(tarfile.open(fileobj=cast(IO[bytes], joined), mode="r|*"))
        for info in tar:
            # Links and devices are refused, not skipped: they could make a later member leave the data root.
            content = tar.extractfile(info) if info.isfile() else None
            if content is not None:
                yield info.name, info.size, content
            elif not info.isdir():
                raise DataError(f"{archive.name}: member {info.name!r} is a link or a device. Unpacking stopped.")


def _zip_members(archive: Archive, paths: list[Path]) -> Iterator[tuple[str, int, IO[bytes]]]:
    if len(paths) > 1:
        raise DataError(f"{archive.name} is a zip archive in {len(paths)} parts. Fix: join and unpack it by hand.")
    with zipfile.ZipFile(paths[0]) as archive_file:
        for info in archive_file.infolist():
            if info.is_dir():
                continue
            # The upper half of the attributes is the Unix mode; 0 if the archive was made elsewhere.
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
                raise DataError(f"{archive.name}: member {info.filename!r} is a link or a device. Unpacking stopped.")
            if info.flag_bits & 1:
                raise DataError(f"{archive.name}: member {info.filename!r} is encrypted.")
            with archive_file.open(info) as content:
                yield info.filename, info.file_size, content


def _write(target: Path, size: int, content: IO[bytes]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Asked for each file: other programs fill the disk too, and a full one may damage their work.
    free = shutil.disk_usage(target.parent).free
    if free < size + _SPARE:
        raise ResourceError(
            f"No space left at {target.parent} ({free / 1e9:.2f} GB free) while unpacking {target.name}. "
            f"Fix: make room and run the same command again; what is there is kept."
        )
    with replacing(target) as temporary_path, temporary_path.open("wb") as stream:
        shutil.copyfileobj(content, stream, 1 << 20)
        if stream.tell() != size:
            raise EOFError(f"{target.name} has {stream.tell()} of {size} bytes")


class _Joined:
    """The parts of an archive, read as one file."""

    def __init__(self, parts: list[IO[bytes]]) -> None:
        self._parts = parts

    def read(self, size: int) -> bytes:
        while self._parts:
            if block := self._parts[0].read(size):
                return block
            del self._parts[0]
        return b""
