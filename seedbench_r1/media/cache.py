"""Decoded and resized media kept on disk, so that the next run, model or epoch need not decode them again.

An entry is found by what its media files are, not by where they lie, and by everything that decides its pixels. It is
written under a temporary name and renamed, and carries a checksum: any number of processes may read, write and evict,
and be killed at any moment. A cache that cannot be used costs time, never an answer.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import secrets
import struct
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from seedbench_r1.media.decode import Pixels
from seedbench_r1.media.frames import load_media
from seedbench_r1.types import Media, VideoConfig

FORMAT = 2  # of the file; raise it, too, when this package begins to make other pixels of the same file
N_PARTS = 16  # subfolders, by the key's first hex digit; each has its share of the room, so a write lists only one
EDGE_BYTES = 64 * 1024  # of a media file's beginning and end that are hashed
STALE_S = 600.0  # an unfinished file this old belongs to a writer that was killed
_PREFIX = struct.Struct("<8sII")  # magic, bytes of the JSON header, CRC-32 of that number and of all that follows
_MAGIC = b"SBR1FRMS"
_KEPT = ("native_fps", "n_total", "reader", "reader_note")  # of Media, as they are
_NO_SPACE = "an entry of {size:.1f} MB is more than a sixteenth of --frame-cache-gb, so it is not kept"


@dataclass(frozen=True, slots=True)
class FrameCache:
    """A folder and its limit. Each of its 16 parts holds at most max_bytes / 16, plus an entry per further writer."""

    folder: Path
    max_bytes: int


@dataclass(frozen=True, slots=True)
class CacheEvent:
    """What the cache did for one question. dropped: an entry was damaged; unusable: reading or writing failed."""

    kind: Literal["read", "written", "evicted", "dropped", "unusable"]
    message: str | None = None  # for the user; None: nothing to say


@dataclass(frozen=True, slots=True)
class CachedMedia:
    """Media as load_media makes them, and how they came."""

    media: Media
    events: tuple[CacheEvent, ...]


class _DamagedEntry(Exception):
    """The file is not a complete entry of its key."""


def media_loader(
    folder: Path | None, max_gb: float
) -> Callable[[Path | None, Path | None, VideoConfig], Media | CachedMedia]:
    """What a decoding worker runs: load_media, behind the cache in `folder` if there is one (max_gb in 1e9 bytes)."""
    if folder is None:
        return load_media
    return functools.partial(load_cached, cache=FrameCache(folder.absolute(), int(max_gb * 1e9)))


def load_cached(video: Path | None, image: Path | None, config: VideoConfig, *, cache: FrameCache) -> CachedMedia:
    """The media of one question from the cache, else decoded and stored. Pixels are those of load_media, always.

    Raises:
        MediaError: as load_media. Failures are not kept.
    """
    # Taken before decoding and compared after it: a file may be replaced meanwhile.
    sources = _identities(video, image)
    if sources is None:
        return CachedMedia(load_media(video, image, config), ())  # which finds out what is wrong with the file
    key = entry_key(sources, config, has_clip=video is not None)
    path = cache.folder / key[0] / f"{key}.frames"
    events: list[CacheEvent] = []
    try:
        media = read_entry(path, key)
        with suppress(OSError):  # a cache that may only be read is still good for reading
            os.utime(path)  # the least recently used entries go first
        return CachedMedia(media, (CacheEvent("read"),))
    except FileNotFoundError:
        pass
    except _DamagedEntry as error:
        with suppress(OSError):
            path.unlink()
        events.append(CacheEvent("dropped", f"damaged entry dropped, its media are decoded anew: {path} ({error})"))
    except OSError as error:
        return CachedMedia(load_media(video, image, config), (_unusable(cache, error),))
    media = load_media(video, image, config)
    if sources == _identities(video, image):  # else a file was replaced meanwhile
        events += _store(cache, path, key, media)
    return CachedMedia(media, tuple(events))


def entry_key(sources: list[str], config: VideoConfig, *, has_clip: bool) -> str:
    """64 hex digits over the media files' identities, VideoConfig, and the versions that turn it into pixels."""
    settings = asdict(config)
    # Which the pixels made here do not depend on.
    del settings["preprocess"]
    parts = {
        "format": FORMAT,
        # A lone file may be a clip or an image: the list of sources does not say.
        "clip": has_clip,
        "sources": sources,
        "video": settings,
        "libraries": [_version(name) for name in ("pillow", "av", config.reader)],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _identities(*paths: Path | None) -> list[str] | None:
    try:
        return [_identity(path) for path in paths if path is not None]
    except OSError:
        return None


def _identity(path: Path) -> str:
    """Which file this is: size, time of change, first and last 64 KiB; the same after a move or another mount.

    The time of change shows edits in the middle of a file, and the ends tell files apart that were copied or unpacked
    at once, without reading all of every clip, which would cost about as much as the cache saves on a slow disk.
    """
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        digest = hashlib.sha256(file.read(EDGE_BYTES))
        file.seek(max(0, status.st_size - EDGE_BYTES))
        digest.update(file.read(EDGE_BYTES))
    return f"{status.st_size}:{status.st_mtime_ns}:{digest.hexdigest()}"


@functools.cache
def _version(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{package} of unknown version"


def read_entry(path: Path, key: str) -> Media:
    """One entry, its checksum verified.

    Raises:
        FileNotFoundError, OSError: it is not there, or cannot be read.
        _DamagedEntry: anything about it is not as it was written.
    """
    with path.open("rb") as file:
        prefix = file.read(_PREFIX.size)
        if len(prefix) < _PREFIX.size:
            raise _DamagedEntry("cut off")
        magic, header_bytes, checksum = _PREFIX.unpack(prefix)
        # One read into one array, of which frames and image are views: no copy.
        content = np.empty(max(0, os.fstat(file.fileno()).st_size - _PREFIX.size), dtype=np.uint8)
        n_read = file.readinto(content.data)
    if magic != _MAGIC:
        raise _DamagedEntry("no entry of a frame cache")
    if n_read != len(content) or _checksum(header_bytes, [content]) != checksum:
        raise _DamagedEntry("the checksum does not fit")
    header = json.loads(bytes(content[:header_bytes]))
    if header["key"] != key:
        raise _DamagedEntry("the entry of other media")
    # The image fills the rest.
    n_frame_bytes = int(np.prod(header["frames_shape"])) if header["frames_shape"] else 0
    frames, image = content[header_bytes : header_bytes + n_frame_bytes], content[header_bytes + n_frame_bytes :]
    return Media(
        frames=frames.reshape(header["frames_shape"]) if header["frames_shape"] else None,
        image=image.reshape(header["image_shape"]) if image.size else None,
        frame_indices=tuple(header["frame_indices"]),
        frame_times=tuple(header["frame_times"]) if header["frame_times"] else None,
        **{name: header[name] for name in _KEPT},
    )


def _store(cache: FrameCache, path: Path, key: str, media: Media) -> list[CacheEvent]:
    """Write an entry, after evicting what is in its way. What goes wrong is an event."""
    pieces = _pieces(key, media)
    size = sum(memoryview(piece).nbytes for piece in pieces)
    # It could push out a complete part and would still not fit.
    if size > cache.max_bytes // N_PARTS:
        return [CacheEvent("unusable", f"frame cache {cache.folder}: {_NO_SPACE.format(size=size / 1e6)}")]
    temporary_path = path.with_name(f".{key}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        evicted = _make_room(path.parent, cache.max_bytes // N_PARTS - size)
        with temporary_path.open("xb") as file:
            for piece in pieces:
                file.write(piece)
        temporary_path.replace(path)  # no fsync: after a power cut the checksum tells, and the media are decoded again
    except OSError as error:
        with suppress(OSError):
            temporary_path.unlink()
        return [_unusable(cache, error)]
    return [CacheEvent("evicted")] * evicted + [CacheEvent("written")]


def _pieces(key: str, media: Media) -> list[bytes | memoryview]:
    """Prefix, header, frames and image, as they follow each other in the file."""
    fields = {
        "key": key,
        "frames_shape": None if media.frames is None else media.frames.shape,
        "image_shape": (0, 0, 3) if media.image is None else media.image.shape,
        "frame_indices": media.frame_indices,
        "frame_times": media.frame_times,
        **{name: getattr(media, name) for name in _KEPT},
    }
    header = json.dumps(fields).encode()
    arrays = [np.ascontiguousarray(pixels) for pixels in (media.frames, media.image) if pixels is not None]
    checksum = _checksum(len(header), [np.frombuffer(header, dtype=np.uint8), *arrays])
    return [_PREFIX.pack(_MAGIC, len(header), checksum), header, *(array.data for array in arrays)]


def _checksum(header_bytes: int, pieces: list[Pixels]) -> int:
    """CRC-32: this is to notice accidents, and costs a third of a cryptographic hash (1.3 ms for a question)."""
    first = zlib.crc32(struct.pack("<I", header_bytes))
    return functools.reduce(lambda so_far, piece: zlib.crc32(piece.data, so_far), pieces, first)


def _make_room(part: Path, room: int) -> int:
    """Delete the least recently used entries until the rest fits into `room` bytes. Returns how many.

    Readers that have such an entry open go on reading it; another process may have deleted it already.
    """
    entries: list[tuple[int, int, str]] = []
    total = 0
    for found in os.scandir(part):
        with suppress(FileNotFoundError):
            status = found.stat(follow_symlinks=False)
            if found.name.endswith(".frames"):
                entries.append((status.st_mtime_ns, status.st_size, found.path))
            # Younger ones are being written by other processes.
            elif found.name.endswith(".tmp") and time.time() - status.st_mtime > STALE_S:
                os.unlink(found.path)
                continue
            total += status.st_size
    evicted = 0
    for _, size, name in sorted(entries):
        if total <= room:
            break
        with suppress(FileNotFoundError):
            os.unlink(name)
            evicted += 1
        total -= size
    return evicted


def _unusable(cache: FrameCache, error: OSError) -> CacheEvent:
    reason = error.strerror or str(error)
    return CacheEvent("unusable", f"frame cache {cache.folder}: {reason}; the media are decoded, and not kept")
