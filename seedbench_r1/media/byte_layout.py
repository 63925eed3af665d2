"""What the bytes of a container say, which FFmpeg reads and does not tell: its own size, its boxes, its last packet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

TS_SYNC = b"\x47"  # the first byte of a packet (ITU-T H.222.0, 2.4.3.2)
TS_PACKETS = (188, 192, 204)  # bytes of a packet: plain, with a time code, with error correction


def boxes(path: Path) -> Iterator[tuple[bytes, int]]:
    """Kinds of the outermost boxes of an MP4, and where each begins (ISO/IEC 14496-12, 4.2)."""
    with path.open("rb") as file:
        for kind, at, _, _ in _boxes_in(file, 0, path.stat().st_size):
            yield kind, at


def edit_rates(path: Path) -> set[float]:
    """Speeds at which edit lists of an MP4's video tracks play them; 0: a picture stands (ISO/IEC 14496-12, 8.6.6).

    FFmpeg, and so every reader here, plays all of them at 1.
    """
    rates: set[float] = set()
    with path.open("rb") as file:
        movies = _inside(file, [(0, path.stat().st_size)], b"moov")
        for track in _inside(file, movies, b"trak"):
            handlers = _inside(file, _inside(file, [track], b"mdia"), b"hdlr")
            if any(_read(file, start + 8, 4) == b"vide" for start, _ in handlers):
                for start, end in _inside(file, _inside(file, [track], b"edts"), b"elst"):
                    rates |= _rates(_read(file, start, min(end - start, _LONGEST_LIST)))
    return rates


_LONGEST_LIST = 1 << 20  # bytes: some 87,000 edits


def _rates(data: bytes) -> set[float]:
    """Of the entries of an edit list: 16.16 fixed point, behind duration and media time."""
    times = 16 if data[:1] == b"\x01" else 8
    n = min(int.from_bytes(data[4:8], "big"), (len(data) - 8) // (times + 4))
    places = (8 + i * (times + 4) + times for i in range(n))
    return {int.from_bytes(data[at : at + 4], "big", signed=True) / 65536 for at in places}


def _inside(file: BinaryIO, parents: list[tuple[int, int]], kind: bytes) -> list[tuple[int, int]]:
    """Contents of the boxes of one kind right inside of others, as places of bytes."""
    return [
        (start, end) for low, high in parents for found, _, start, end in _boxes_in(file, low, high) if found == kind
    ]


def _boxes_in(file: BinaryIO, at: int, end: int) -> Iterator[tuple[bytes, int, int, int]]:
    """Boxes from `at` to `end`: kind, where it begins, where its content begins and ends."""
    while at + 8 <= end:
        head = _read(file, at, 16)
        size = int.from_bytes(head[:4], "big")
        content = at + (16 if size == 1 else 8)
        # 1: a longer size follows; 0: up to the end.
        size = int.from_bytes(head[8:16], "big") if size == 1 else size or end - at
        yield head[4:8], at, content, min(at + max(size, 8), end)
        at += max(size, 8)


def _read(file: BinaryIO, at: int, n_bytes: int) -> bytes:
    file.seek(at)
    return file.read(n_bytes)


def tail(path: Path, n_bytes: int) -> bytes:
    """The last bytes of a file, all of them if it has fewer."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - n_bytes))
        return file.read()


def ends_within_a_packet(path: Path) -> bool:
    """Whether the rest behind the last complete packet of a transport stream is the beginning of one."""
    n_bytes = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(1)
        # A recording that begins within a packet is counted from elsewhere.
        if head != TS_SYNC or not all(n_bytes % size for size in TS_PACKETS):
            return False
        file.seek(n_bytes // TS_PACKETS[0] * TS_PACKETS[0])
        return file.read(1) == TS_SYNC


def declared_bytes(path: Path) -> int:
    """Size in bytes that a Matroska/WebM or AVI file gives for itself; 0 if it gives none."""
    with path.open("rb") as file:
        head = file.read(64)
    if head[:4] == b"RIFF":
        return 8 + int.from_bytes(head[4:8], "little")
    if head[:4] != b"\x1a\x45\xdf\xa3":  # EBML header (RFC 8794, section 11.2.1)
        return 0
    header_size, start = _ebml_size(head, 4)
    segment = start + header_size
    if head[segment : segment + 4] != b"\x18\x53\x80\x67":  # Segment (RFC 9559, section 5.1)
        return 0
    size, start = _ebml_size(head, segment + 4)
    return start + size if size else 0


def _ebml_size(data: bytes, at: int) -> tuple[int, int]:
    """Variable-length size (RFC 8794, section 6) and the offset after it; size 0 if it is marked unknown."""
    if at >= len(data) or data[at] == 0:
        return 0, at + 1
    length = 9 - data[at].bit_length()
    bits = 7 * length
    size = int.from_bytes(data[at : at + length], "big") & ((1 << bits) - 1)
    return (0 if size == (1 << bits) - 1 else size), at + length
