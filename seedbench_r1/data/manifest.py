"""What a download put, or was going to put, into a data root: `.seedbench-download.json`. Readable without the hub."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from seedbench_r1.errors import DataError
from seedbench_r1.files import replacing, utc_now
from seedbench_r1.typed_json import from_json, parse_json
from seedbench_r1.types import to_json

MANIFEST = ".seedbench-download.json"
SCHEMA = "sbr1.download/1"


@dataclass(slots=True)
class FileEntry:
    """One file of the data root: its name in the repository, or where it was unpacked to."""

    size: int  # bytes
    content_id: str  # sha256, or git's blob id of a small file
    mtime_ns: int | None = None  # when its bytes were checked last; None: not yet


@dataclass(slots=True)
class ArchiveEntry:
    """One archive, perhaps in several parts. It is read while it arrives and never stored."""

    size: int  # bytes, all parts
    content_ids: list[str]  # of its parts, in order, when it was read last
    unpacked_utc: str | None = None  # when it was read to its end: all its media are listed; None: not yet
    pending: bool = False  # a download that has not finished is going to read it


@dataclass(slots=True)
class MediaEntry:
    """One media file that an archive holds. If it was unpacked, it is among the files too."""

    size: int  # bytes
    archive: str


@dataclass(slots=True)
class DataManifest:
    """Grows while a download runs. Paths are relative to the data root, with "/" between folders."""

    repo_id: str = ""
    revision: str = ""  # as asked for
    commit: str = ""  # what it was when the latest download began
    created_utc: str = ""
    updated_utc: str = ""
    files: dict[str, FileEntry] = field(default_factory=dict)
    archives: dict[str, ArchiveEntry] = field(default_factory=dict)
    media: dict[str, MediaEntry] = field(default_factory=dict)

    def expected_size(self, path: str) -> int | None:
        """Bytes that a file should have; None: the download knows nothing of it."""
        entry = self.files.get(path) or self.media.get(path)
        return entry.size if entry else None

    def has_seen(self, archive: str, content_ids: list[str]) -> bool:
        """True if the archive is known, and of the same content as now."""
        entry = self.archives.get(archive)
        return entry is not None and entry.content_ids == content_ids


def read_data_manifest(data_root: Path) -> DataManifest:
    """The manifest of a data root; an empty one if nothing was ever downloaded into it.

    Raises:
        DataError: the file is there but is not a manifest.
    """
    path = data_root / MANIFEST
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict) or value.get("schema") != SCHEMA:
            raise ValueError(f"its schema is not {SCHEMA!r}")
        return from_json(DataManifest, value)
    except FileNotFoundError:
        return DataManifest()
    except ValueError as error:
        raise DataError(
            f"{path} is not a download manifest ({error}). Fix: delete it and run "
            f"seedbench-r1 data download again; files that are there are checked, not fetched again."
        ) from error


def write_data_manifest(data_root: Path, manifest: DataManifest) -> None:
    """Write and rename: a reader sees the old one or the new one. Raises OSError."""
    manifest.updated_utc = utc_now()
    manifest.created_utc = manifest.created_utc or manifest.updated_utc
    value = {"schema": SCHEMA, **to_json(manifest)}
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    with replacing(data_root / MANIFEST) as temporary_path:
        # Names of files need not be UTF-8: such a byte is written as JSON's \\udc80 to \\udcff, and read back.
        temporary_path.write_text(text, encoding="utf-8", errors="backslashreplace")


def short_files(data_root: Path, files: Iterable[Path], manifest: DataManifest) -> tuple[Path, ...]:
    """Those of the files that have fewer bytes than the download expects, sorted."""
    short = []
    for file in files:
        expected = manifest.expected_size(relative(data_root, file))
        if expected is not None and file.stat().st_size < expected:
            short.append(file)
    return tuple(sorted(short))


def bytes_left(data_root: Path, manifest: DataManifest) -> int:
    """Bytes of the planned files and archives that are not there yet, partial files not counted; at most so many."""
    left = sum(entry.size for entry in manifest.archives.values() if entry.pending)
    for name, entry in manifest.files.items():
        path = data_root / name
        if not path.is_file() or path.stat().st_size < entry.size:
            left += entry.size
    return left


def relative(data_root: Path, file: Path) -> str:
    """The file's name in the manifest."""
    return file.relative_to(data_root).as_posix()
