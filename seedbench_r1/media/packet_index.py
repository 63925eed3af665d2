"""Which packets of a clip a decoder must see to show given frames; the others are left out, and no pixel changes.

Nothing is decoded here. A clip whose packets do not show this has no index, and is decoded from its start.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet

# FFmpeg's decoders of these leave out frames that no other frame refers to, and the rest stays bit-exact
# (tests/unit/test_packet_index.py); its VP9 decoder ignores the wish
SKIPPABLE = ("h264", "hevc")
# decord 0.6 and torchcodec 0.17 returned wrong frames of H.264 in AVI and in MPEG-TS (tests/unit/test_clips.py)
SEEKABLE_CONTAINERS = ("mp4", "matroska")
IDR = 5  # nal_unit_type in ITU-T H.264, table 7-1
PARAMETERS = frozenset({7, 8})  # of a sequence, of a picture; likewise


@dataclass(frozen=True, slots=True)
class PacketIndex:
    """A clip with one frame in every packet. Positions count packets in the order of the file."""

    pts: tuple[int, ...]  # presentation time of each packet's frame, in the stream's time base; no two are equal
    restarts: tuple[int, ...]  # ascending, from 0: nothing before such a packet is needed, and nothing shown after it


def packets_of(container: InputContainer) -> Iterator[Packet]:
    """Packets of the first video stream, without the empty one that ends it."""
    for packet in container.demux(container.streams.video[0]):
        if packet.size or packet.dts is not None:
            yield packet


def index_packets(path: Path) -> PacketIndex | None:
    """Read the packets of a clip. None if they do not tell which packet holds which frame.

    Raises:
        av.error.FFmpegError: the file cannot be read.
    """
    import av

    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        name = container.format.name
        if context is None or context.codec.canonical_name not in SKIPPABLE:
            return None
        if not any(known in name for known in SEEKABLE_CONTAINERS):
            return None
        length_size = _length_size(context.codec.canonical_name, context.extradata)
        pts: list[int] = []
        contents: list[tuple[bool, set[int]]] = []  # whether it is a keyframe, and the types of its units
        for packet in packets_of(container):
            if not packet.size or packet.is_discard or packet.is_corrupt or packet.pts is None:
                return None
            pts.append(packet.pts)
            contents.append((packet.is_keyframe, set(_nal_types(memoryview(packet), length_size))))
    if not pts or len(set(pts)) < len(pts) or min(pts) != pts[0]:
        return None
    fixed = "matroska" in name or _one_sample_description(path)
    return PacketIndex(tuple(pts), tuple(_restarts(pts, contents)) if fixed else (0,))


def packets_to_decode(index: PacketIndex, frames: Iterable[int]) -> dict[int, int | None]:
    """Positions to feed to the decoder, ascending, each with the number of the frame to keep from it, or None.

    Args:
        index: of the clip.
        frames: numbers in the order of presentation.

    Raises:
        IndexError: a frame that the clip does not have.
    """
    in_order = sorted(range(len(index.pts)), key=index.pts.__getitem__)
    kept = {in_order[frame]: frame for frame in frames}
    needed: dict[int, int | None] = {}
    for start, end in zip(index.restarts, (*index.restarts[1:], len(index.pts)), strict=True):
        last = max((position for position in kept if start <= position < end), default=start - 1)
        needed |= {position: kept.get(position) for position in range(start, last + 1)}
    return needed


def _restarts(pts: list[int], contents: list[tuple[bool, set[int]]]) -> Iterator[int]:
    """Position 0, and each IDR picture that is shown after everything before it in the file, and before the rest.

    Only 0 if a decoder could miss parameters in what is left out: every coded sequence must bring all of them along,
    or all must take the container's only ones.
    """
    yield 0
    keys = {position for position, (is_key, units) in enumerate(contents) if is_key and IDR in units}
    brought = {frozenset(units & PARAMETERS) for position, (_, units) in enumerate(contents) if position in keys}
    elsewhere = any(units & PARAMETERS for position, (_, units) in enumerate(contents) if position not in keys)
    if elsewhere or brought not in ({frozenset()}, {PARAMETERS}):
        return
    latest = list(accumulate(pts, max))
    earliest = list(accumulate(reversed(pts), min))[::-1]
    for key in sorted(keys - {0}):
        if latest[key - 1] < pts[key] == earliest[key]:
            yield key


def _length_size(codec: str, extradata: bytes | None) -> int:
    """Bytes of the length in front of each H.264 unit (ISO/IEC 14496-15, 5.3.3.1); 0: another codec or form."""
    if codec != "h264" or not extradata or len(extradata) < 7 or extradata[0] != 1:
        return 0
    return (extradata[4] & 3) + 1


def _nal_types(data: memoryview, length_size: int) -> Iterator[int]:
    """Types of the H.264 units in a packet; none if length_size is 0."""
    at = 0
    while length_size and at + length_size < len(data):
        length = int.from_bytes(data[at : at + length_size], "big")
        yield data[at + length_size] & 31
        at += length_size + length


def _one_sample_description(path: Path) -> bool:
    """Whether no track of an MP4 changes its decoder's parameters on the way (ISO/IEC 14496-12, 8.5.2).

    Looks for the four letters anywhere: if they stand among the pictures too, the answer may be no, never a wrong yes.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        counts, at = [], data.find(b"stsd")
        while at >= 0:
            counts.append(int.from_bytes(data[at + 8 : at + 12], "big"))  # after the type, version and flags
            at = data.find(b"stsd", at + 4)
    return set(counts) == {1}
