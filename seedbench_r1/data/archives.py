"""Archives of media, read from the hub while they arrive. A member's name never chooses a place outside of its kind."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import IO, Self, cast

from seedbench_r1.data.hub import HubFile
from seedbench_r1.data.remote import Arriving, Ranged, Source
from seedbench_r1.errors import DataError
from seedbench_r1.media.layout import KINDS, LEVEL_SOURCES, source_in

_NAME = re.compile(
    r"(?P<name>.+?\.(?:tar\.gz|tar\.xz|tar\.bz2|tgz|txz|tbz2|tar|zip))"
    r"(?:(?P<lead>[._-]?part[._-]?)(?P<marked>\d{1,4}|[a-z]{1,4})|[._-]?(?P<bare>\d{1,4}|(?!md|py|sh)[a-z]{2}))?",
    re.IGNORECASE,
)
_OTHER = re.compile(r".+\.(?:7z|rar|zst|lz4|gz|xz|bz2|z\d\d)(?:[._-]?(?:part)?\d{1,4})?", re.IGNORECASE)
READ_AHEAD = 64 << 10  # bytes that are read ahead: what an archive that is left early may cost too much
_RATIO = 100  # clips and images hardly compress: what unpacks to more is no archive of media
_SLACK = 64 << 20  # bytes by which small archives may exceed that
_HEADER_LIMIT = 1 << 20  # bytes of a tar header's extension, which tarfile reads at once
_DEPTH_LIMIT = 64  # folders


@dataclass(frozen=True, slots=True)
class Archive:
    """One archive of the repository; large ones are cut into parts that belong one behind the other."""

    name: str  # path in the repository, without the part's suffix
    parts: tuple[HubFile, ...]
    absent: str | None = None  # the part that the repository does not have, though it has later ones

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    @property
    def content_ids(self) -> list[str]:
        return [part.content_id for part in self.parts]

    @property
    def source(self) -> str | None:
        """The video source that its name gives; None: any."""
        return source_in(self.name)

    @property
    def kind(self) -> str | None:
        """ "videos" or "images", if its name says so; None: any."""
        # "video_clips.tar" and "images/part1.zip" alike: the singular begins both forms.
        folder = PurePosixPath(self.name).parts[0].lower()
        return next((kind for kind in ("videos", "images") if folder.startswith(kind[:-1])), None)

    def may_hold(self, kind: str, source: str | None) -> bool:
        """False if its name speaks of another kind or source."""
        known = source_in(source or "")
        return self.kind in (None, kind) and (known is None or self.source in (None, known))


@dataclass(frozen=True, slots=True)
class Member:
    """One media file in an archive."""

    name: str  # <kind>/<source, if any folder or the archive's name gives one>/<its folders below>/<basename>
    size: int  # bytes, as the archive says
    refusal: str | None  # why it cannot be read
    open: Callable[[], IO[bytes]]  # to be called, if at all, before the next member is asked for
    separate: bool  # can be read though others are damaged


def find_archives(files: Iterable[HubFile]) -> list[Archive]:
    """The archives of a repository, each with its parts in order, sorted by name with 2 before 10."""
    single: dict[str, Archive] = {}
    groups: dict[tuple[str, bool], dict[str, HubFile]] = {}
    for file in files:
        match = _NAME.fullmatch(file.path)
        number = match and (match["marked"] or match["bare"])
        if match and number:
            groups.setdefault((match["name"], number.isdigit()), {})[number.lower()] = file
        elif match:
            single[file.path] = Archive(file.path, (file,))
    for (name, counted), parts in groups.items():
        # A lone "x.zip.db" is no part of an archive.
        if name not in single and (counted or len(parts) > 1 or set(min(parts)) == {"a"}):
            single[name] = _joined(name, parts)
    return sorted(single.values(), key=lambda archive: [int(n) if n.isdigit() else n for n in _pieces(archive.name)])


def unread_archives(files: Iterable[HubFile]) -> list[str]:
    """Paths of what looks like an archive and is of no kind that is read here."""
    return [file.path for file in files if _OTHER.fullmatch(file.path) and not _NAME.fullmatch(file.path)]


def _pieces(name: str) -> list[str]:
    # Words and numbers alternate, so that the keys of two names can be compared.
    return re.split(r"(\d+)", name)


def _joined(name: str, parts: dict[str, HubFile]) -> Archive:
    """Parts numbered 0, 1, 2 or 1, 2, 3 or aa, ab, ... az, ba, in this order, and the first one that is absent."""
    numbers = {_number(suffix): file for suffix, file in parts.items()}
    first = min(parts, key=lambda suffix: (len(suffix), suffix))
    begin = min(min(numbers), 1) if first.isdigit() else 0
    gap = next((n for n in range(begin, max(numbers)) if n not in numbers), None)
    absent = None if gap is None else f"{parts[first].path[: -len(first)]}{_suffix(gap, like=first)}"
    return Archive(name, tuple(numbers[n] for n in sorted(numbers)), absent)


def _number(suffix: str) -> int:
    if suffix.isdigit():
        return int(suffix)
    number = 0
    for letter in suffix:
        number = 26 * number + ord(letter) - ord("a")
    return number


def _suffix(number: int, like: str) -> str:
    if like.isdigit():
        return str(number).zfill(len(like))
    letters = ""
    for _ in like:
        number, rest = divmod(number, 26)
        letters = chr(ord("a") + rest) + letters
    return letters


def sizes_of_levels(files: Sequence[HubFile], levels: Iterable[str]) -> list[str]:
    """What stands behind the levels, in words: archives and files of the source that their media come from."""
    archives = find_archives(files)
    of_source: dict[str, list[str]] = {}
    for level in levels:
        of_source.setdefault(LEVEL_SOURCES[level], []).append(level)
    lines = []
    for source, names in of_source.items():
        sizes = [archive.size for archive in archives if archive.source == source]
        loose = [f.size for f in files if PurePosixPath(f.path).suffix.lower() in KINDS and source_in(f.path) == source]
        lines.append(
            f"{', '.join(names)} ({source}): {len(sizes)} archives of {sum(sizes) / 1e9:.2f} GB in all, "
            f"{len(loose)} clips and images of {sum(loose) / 1e9:.2f} GB as files"
        )
    if nameless := [archive.size for archive in archives if archive.source is None]:
        lines.append(f"of no named source: {len(nameless)} archives of {sum(nameless) / 1e9:.2f} GB in all")
    return lines


def read_members(archive: Archive, source: Source) -> Generator[Member, None, None]:
    """The media of an archive, in an order in which they can be read.

    A tar archive arrives from its start on, every part's hash is checked at its end, and the connection is closed when
    the caller stops asking. Of a zip archive its directory is fetched, then the members that are opened.

    Raises:
        DataError: other bytes than announced; or a member is a link, a device, or points outside. What tarfile, zipfile
            and the decompressors raise for damage is left to the caller, who reads the members.
    """
    members = _zip_members if archive.name.lower().endswith(".zip") else _tar_members
    return members(archive, source)


def member_name(archive: Archive, name: str) -> str:
    """`<kind>/<source>/<what follows the source's folder>` for a media file of an archive; "" for any other.

    The source comes from a folder of the member's name, else from the archive's name, else there is none.

    Raises:
        DataError: the name points outside.
    """
    # Archives made on Windows have backslashes, which must not hide a "..".
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\x00" in name or re.match(r"[A-Za-z]:", name):
        raise DataError(f"{archive.name}: member {name[:200]!r} points outside of the data root. Unpacking stopped.")
    # macOS adds a hidden twin to every file, with the same suffix and no picture in it.
    kind = KINDS.get(path.suffix.lower())
    if kind is None or path.name.startswith(".") or "__MACOSX" in path.parts:
        return ""
    folders = path.parts[:-1]
    place = next((n for n, folder in enumerate(folders) if source_in(folder) is not None), None)
    if place is not None:
        return "/".join((kind, cast(str, source_in(folders[place])), *folders[place + 1 :], path.name))
    # A folder of the kind's name is the layout's own.
    inside = folders[folders.index(kind) + 1 :] if kind in folders else folders
    return "/".join((kind, *filter(None, (archive.source,)), *inside, path.name))


def _tar_members(archive: Archive, source: Source) -> Generator[Member, None, None]:
    with (
        closing(io.BufferedReader(Arriving(source.checked_blocks()), READ_AHEAD)) as stream,
        closing(_decompressed(stream)) as plain,
        tarfile.open(fileobj=plain, mode="r|", bufsize=READ_AHEAD, tarinfo=_Header) as tar,
    ):
        while (info := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # an archive may have millions
            _check_total(archive, info.offset_data + info.size)
            # Refused, not skipped: with links among them this is no archive of media.
            if not (info.isfile() or info.isdir()):
                raise _not_a_file(archive, info.name)
            if info.isfile() and (name := member_name(archive, info.name)):
                refusal = "sparse" if info.issparse() else _name_refusal(info.name)
                yield Member(name, info.size, refusal, partial(_extracted, tar, info), False)
        # To the end: what checks gzip's CRC and the hash of the last part.
        position = tar.offset
        for rest in (plain, stream):
            while block := rest.read(READ_AHEAD):
                position += len(block)
                _check_total(archive, position)


def _decompressed(stream: io.BufferedReader[Arriving]) -> IO[bytes]:
    # Not tarfile's own "r|gz": it checks no CRC, and ends at the first of several gzip streams.
    start = stream.peek(6)
    if start.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.GzipFile(fileobj=stream))
    if start.startswith(b"BZh"):
        return bz2.BZ2File(stream)
    return lzma.LZMAFile(stream) if start.startswith(b"\xfd7zXZ") else stream


class _Header(tarfile.TarInfo):
    """A member's header. tarfile takes a damaged one for the archive's end, and one of any size into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            info = super().frombuf(buf, encoding, errors)
        except (tarfile.EOFHeaderError, tarfile.EmptyHeaderError):  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"a damaged header: {error}") from error
        if info.size < 0 or (not (info.isfile() or info.isdir()) and info.size > _HEADER_LIMIT):
            raise tarfile.ReadError(f"a header of {info.size} bytes")
        return info


def _extracted(tar: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    content = tar.extractfile(info)
    if content is None:
        raise tarfile.ReadError(f"{info.name!r} has no content")
    return content


def _zip_members(archive: Archive, source: Source) -> Generator[Member, None, None]:
    with (
        closing(io.BufferedReader(Ranged(source), READ_AHEAD)) as stream,
        zipfile.ZipFile(cast(IO[bytes], stream)) as opened,
    ):
        listed = [info for info in opened.infolist() if not info.is_dir()]
        _check_total(archive, sum(info.file_size for info in listed))
        for info in listed:
            # The upper half of the attributes is the Unix mode; 0 if the archive was made elsewhere.
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
                raise _not_a_file(archive, info.filename)
        # In the order of their bytes, so that neighbours come in one request.
        for info in sorted(listed, key=lambda info: info.header_offset):
            if name := member_name(archive, info.filename):
                refusal = "encrypted" if info.flag_bits & 1 else _name_refusal(info.filename)
                yield Member(name, info.file_size, refusal, partial(opened.open, info), True)


def _name_refusal(name: str) -> str | None:
    if name.count("/") + name.count("\\") > _DEPTH_LIMIT:
        return f"more than {_DEPTH_LIMIT} folders deep"
    # What was no UTF-8 in the archive, as Python keeps it.
    return "of a name that is not UTF-8" if any("\ud800" <= letter <= "\udfff" for letter in name) else None


def _check_total(archive: Archive, n_bytes: int) -> None:
    """Known from the headers, before a byte of a member is unpacked."""
    if n_bytes > _RATIO * archive.size + _SLACK:
        raise DataError(f"{archive.name} would unpack to more than {_RATIO} times its size. Unpacking stopped.")


def _not_a_file(archive: Archive, name: str) -> DataError:
    return DataError(f"{archive.name}: member {name[:200]!r} is a link or a device. Unpacking stopped.")
