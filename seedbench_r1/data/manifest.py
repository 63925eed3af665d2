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
    """One file that lies in the data root as it does in the repository."""

    size: int  # bytes
    content_id: str  # sha256, or git's blob id of a small file
    mtime_ns: int | None = None  # when its bytes were checked last; None: not yet


@dataclass(slots=True)
class ArchiveEntry:
    """One archive, perhaps in several parts. It is removed after unpacking: this entry says that it was."""

    size: int  # bytes, all parts
    content_ids: list[str]  # of its parts, in order
    unpacked_utc: str | None = None


@dataclass(slots=True)
class MediaEntry:
    """One media file that came out of an archive."""

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
    with replacing(data_root / MANIFEST) as temporary_path:
        temporary_path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def short_files(data_root: Path, files: Iterable[Path], manifest: DataManifest) -> tuple[Path, ...]:
    """Those of the files that have fewer bytes than the download expects, sorted."""
    short = []
    for file in files:
        expected = manifest.expected_size(relative(data_root, file))
        if expected is not None and file.stat().st_size < expected:
            short.append(file)
    return tuple(sorted(short))


def bytes_left(data_root: Path, manifest: DataManifest) -> int:
    """Bytes of the planned files and archives that are not there yet, partial files not counted."""
    left = sum(entry.size for entry in manifest.archives.values() if entry.unpacked_utc is None)
    for name, entry in manifest.files.items():
        path = data_root / name
        if not path.is_file() or path.stat().st_size < entry.size:
            left += entry.size
    return left


def relative(data_root: Path, file: Path) -> str:
    """The file's name in the manifest."""
    return file.relative_to(data_root).as_posix()
