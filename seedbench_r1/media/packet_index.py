"""Which packets of a clip a decoder must see to show given frames; the others are left out, and no pixel changes.

Nothing is decoded here. A clip whose packets do not show this has no index, and is decoded from its start.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from seedbench_r1.media.container import open_clip, packets_of

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext

# FFmpeg's decoders of these leave out frames that no other frame refers to, and the rest stays bit-exact
# (tests/unit/test_packet_index.py); its VP9 decoder ignores the wish
SKIPPABLE = ("h264", "hevc")
# decord 0.6 and torchcodec 0.17 returned wrong frames of H.264 in AVI and in MPEG-TS (tests/unit/test_clips.py)
SEEKABLE_CONTAINERS = ("mp4", "matroska")
# Types of units in a picture before which no decoder needs anything: nal_unit_type in ITU-T H.264, table 7-1 (IDR), and
# in H.265, table 7-1 (IDR_W_RADL, IDR_N_LP); after the other random access points, pictures may refer further back
RESTARTS = {"h264": frozenset({5}), "hevc": frozenset({19, 20})}
START_CODE = re.compile(rb"\x00\x00\x01(.)", re.DOTALL)  # H.264, annex B; H.265 likewise
PARAMETERS = frozenset({7, 8})  # of a sequence, of a picture; H.264 likewise


@dataclass(frozen=True, slots=True)
class PacketIndex:
    """A clip with one frame in every packet. Positions count packets in the order of the file."""

    pts: tuple[int, ...]  # presentation time of each packet's frame, in the stream's time base; no two are equal
    restarts: tuple[int, ...]  # ascending, from 0: nothing before such a packet is needed, and nothing shown after it


def index_packets(path: Path) -> PacketIndex | None:
    """Read the packets of a clip. None if they do not tell which packet holds which frame.

    Raises:
        av.error.FFmpegError: the file cannot be read.
    """
    with open_clip(path) as (container, stream):
        context = stream.codec_context
        name = container.format.name
        if context.codec.canonical_name not in SKIPPABLE:
            return None
        if not any(known in name for known in SEEKABLE_CONTAINERS):
            return None
        is_h264 = context.codec.canonical_name == "h264"
        length_size = length_size_of(context) if is_h264 else 0  # restarts of HEVC are not looked for
        pts: list[int] = []
        contents: list[tuple[bool, set[int]]] = []  # whether it is a keyframe, and the types of its units
        for packet in packets_of(container, stream):
            if not pts and not is_restart(packet, context):
                return None
            if not packet.size or packet.is_discard or packet.is_corrupt or packet.pts is None:
                return None
            pts.append(packet.pts)
            contents.append((packet.is_keyframe, set(unit_types(memoryview(packet), length_size))))
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
    keys = {position for position, (is_key, units) in enumerate(contents) if is_key and RESTARTS["h264"] & units}
    brought = {frozenset(units & PARAMETERS) for position, (_, units) in enumerate(contents) if position in keys}
    elsewhere = any(units & PARAMETERS for position, (_, units) in enumerate(contents) if position not in keys)
    if elsewhere or brought not in ({frozenset()}, {PARAMETERS}):
        return
    latest = list(accumulate(pts, max))
    earliest = list(accumulate(reversed(pts), min))[::-1]
    for key in sorted(keys - {0}):
        if latest[key - 1] < pts[key] == earliest[key]:
            yield key


def is_restart(packet: Packet, context: VideoCodecContext) -> bool:
    """Whether nothing that follows this keyframe refers to what lies before it, as far as its units tell."""
    codec = context.codec.canonical_name
    if codec not in RESTARTS:
        return packet.is_keyframe
    units = unit_types(memoryview(packet), length_size_of(context), hevc=codec == "hevc")
    return packet.is_keyframe and not RESTARTS[codec].isdisjoint(units)


def length_size_of(context: VideoCodecContext) -> int:
    """Bytes of the length in front of each unit of H.264 or HEVC (ISO/IEC 14496-15, 5.3.3.1, 8.3.3.1); 0: not known."""
    at = {"h264": 4, "hevc": 21}.get(context.codec.canonical_name, 0)
    extradata = context.extradata or b""
    return (extradata[at] & 3) + 1 if at and len(extradata) > at + 1 and extradata[0] == 1 else 0


def unit_types(data: memoryview, length_size: int, *, hevc: bool = False) -> Iterator[int]:
    """Types of the H.264 (or HEVC) units in a packet, with lengths in front or, if that is 0, start codes."""
    start_codes = (found[1][0] for found in START_CODE.finditer(data))
    for header in _headers(data, length_size) if length_size else start_codes:
        yield header >> 1 & 63 if hevc else header & 31


def _headers(data: memoryview, length_size: int) -> Iterator[int]:
    at = 0
    while at + length_size < len(data):
        length = int.from_bytes(data[at : at + length_size], "big")
        yield data[at + length_size]
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
