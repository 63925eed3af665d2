"""What a clip holds, found almost without decoding it, and whether all of the file is there."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from seedbench_r1.media.byte_layout import boxes, declared_bytes, edit_rates, ends_within_a_packet, tail
from seedbench_r1.media.container import MediaError, open_clip, packets_of, video_tracks
from seedbench_r1.media.orientation import is_mirrored
from seedbench_r1.media.packet_index import RESTARTS, SEEKABLE_CONTAINERS, is_restart

if TYPE_CHECKING:
    from av import VideoFrame
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext

COUNTABLE = ("h264", "hevc", "vp9", "av1", "mjpeg", "gif")  # each packet is one frame (tests/media_matrix.py)
INTRA_ONLY = ("mjpeg", "gif")
# Containers that one can read up to any byte: their end is known only from what the rest of the file holds
STREAMED = ("mpegts", "flv", "mpeg")
OWN_CLOCK = ("mpegts", "mpeg")  # times begin anywhere; elsewhere the declared duration is where the last one ends
UNREAD = 0.1  # share of a streamed file behind its last packet that is still no damage
PACKS = 4096  # bytes of two packs of MPEG-PS, which are padded
GIF_END, GIF_TAIL = b"\0\x3b", 64  # of the last picture and of the file, and how much may stand behind it
UNEVEN_FRAMES, UNEVEN_SHARE = 2, 0.01  # a frame is out of its even place by more than so many frames and such a share
GAP = 1.75  # times the usual distance of two frames, from which on one is missing; rounded time stamps differ by less
DISAGREEMENT = 0.02  # of two statements about a clip's length, from which on they contradict each other
EARLY_END, EARLY_END_S = 0.1, 0.5  # a clip that ends earlier than declared by this share, and by so many seconds


@dataclass(frozen=True, slots=True)
class ClipInfo:
    """What a clip holds, read from its packets."""

    n_frames: int  # packets with content that the container does not mark as hidden
    native_fps: float  # average frames per second, so that n_frames / native_fps is the length in seconds
    width: int  # pixels, as stored
    height: int
    container: str  # FFmpeg's name of the format, e.g. "matroska,webm"
    codec: str = "h264"  # FFmpeg's name
    rotation: int = 0  # degrees counter-clockwise by which the stored frames are to be turned
    mirrored: bool = False  # the picture is to be mirrored, too
    unclean_keyframes: str | None = None  # why decoding cannot begin at each keyframe; None: it can
    hidden: int = 0  # packets that an edit list hides (a copied cut that begins inside a GOP), or that are empty
    timestamps: bool = True  # every packet has a presentation time; without it, leading pictures cannot be known
    clean_start: bool = True  # decoding can begin at the first packet, and none that follows is shown before it
    n_tracks: int = 1  # video tracks, covers not counted
    times: tuple[float, ...] | None = None  # seconds of every frame after the first; None: they are evenly spaced
    remarks: tuple[str, ...] = ()  # what the file says of itself, and its packets contradict

    @property
    def seek_problem(self) -> str | None:
        """Why packets and frames do not correspond one to one, or the index misleads; None: seeking works."""
        if not any(name in self.container for name in SEEKABLE_CONTAINERS):
            return f"no dependable index ({self.container})"
        if self.codec not in COUNTABLE:
            return f"packets that may hold no frame ({self.codec})"
        if not self.timestamps:
            return "packets without time stamps"
        if self.hidden:
            return f"{self.hidden} hidden frames (edit list)"
        if not self.clean_start:
            return "begins with frames whose references were cut away"
        return None


def probe_clip(path: Path) -> ClipInfo:
    """Read a clip's packets, and decode its first frame only (some milliseconds for a minute of video).

    Raises:
        MediaError: absent, empty or not a video, or cut off: fewer bytes, frames or seconds than the file declares.
            A file that declares none of these (a fragmented MP4 cut between fragments) passes.
    """
    if not path.is_file():
        raise MediaError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise MediaError(f"{path}: the file is empty (0 bytes)")
    import av

    try:
        scan = _scan(path)
        _refuse_other_speeds(path, scan)
        _refuse_truncated(path, scan)
        _refuse_early_end(path, scan)
    # What the reader of transport streams says where it finds no packet any more.
    except av.error.BlockingIOError as error:
        raise MediaError(f"{path}: nothing can be read after a part of the file. Download it again") from error
    except av.error.FFmpegError as error:
        raise MediaError(f"{path}: cannot be read as a video ({error.strerror or error}). Download it again") from error
    if scan.rotation is None:
        raise MediaError(f"{path}: none of its frames can be decoded. Download it again, or encode it anew")
    return _describe(path, scan)


class _Packet(NamedTuple):
    """What a clip's description needs of one packet."""

    pts: int | None
    dts: int | None
    key: bool  # marked as a keyframe
    restart: bool  # a keyframe after which nothing refers to what lies before it
    shown: bool  # with content, and not hidden by the container
    at: int | None  # byte in the file


@dataclass(frozen=True, slots=True)
class _Scan:
    """One pass over the packets of the track that is shown, and what the file declares."""

    container: str
    codec: str
    width: int
    height: int
    fps: float  # 0: the container does not say
    n_tracks: int
    n_declared: int  # frames; 0: the container does not say
    duration_s: float  # of the container; 0: it does not say
    cut_packet: bool  # the last packet is shorter than declared
    rotation: int | None  # of the first frame; None: none can be decoded
    mirrored: bool  # of the first frame
    size: tuple[int, int] | None  # of the first frame: width, height
    packets: list[_Packet]
    shown_times: list[float]  # seconds of those that are shown, ascending; by decoding time where there is no other


def _scan(path: Path, **options: str) -> _Scan:
    import av

    with open_clip(path, **options) as (container, stream):
        context = stream.codec_context
        # As the container says: decoding may change them.
        width, height, fps = context.width, context.height, float(stream.average_rate or 0)
        first: VideoFrame | None = None
        cut_packet = False
        packets: list[_Packet] = []
        for packet in packets_of(container, stream):
            first = first or _first_frame(context, packet)
            cut_packet = packet.is_corrupt
            key = packet.is_keyframe
            shown = bool(packet.size) and not packet.is_discard
            restart = key and is_restart(packet, context)
            packets.append(_Packet(packet.pts, packet.dts, key, restart, shown, packet.pos))
        first = first or _first_frame(context, None)
        unit = stream.time_base or Fraction(1)
        stamps = [packet.dts if packet.pts is None else packet.pts for packet in packets if packet.shown]
        ascending = np.sort(np.array([stamp for stamp in stamps if stamp is not None], dtype=np.int64))
        return _Scan(
            container=container.format.name,
            codec=context.codec.canonical_name,
            width=width,
            height=height,
            fps=fps,
            n_tracks=len(video_tracks(container)),
            n_declared=stream.frames,
            duration_s=(container.duration or 0) / av.time_base,
            cut_packet=cut_packet,
            rotation=None if first is None else first.rotation,
            mirrored=first is not None and is_mirrored(first),
            size=None if first is None else (first.width, first.height),
            packets=packets,
            shown_times=(ascending * unit.numerator / unit.denominator).tolist(),
        )


def _first_frame(context: VideoCodecContext, packet: Packet | None) -> VideoFrame | None:
    """A frame that this packet completes; what cannot be decoded is the decoding's to report."""
    import av

    try:
        return next(iter(context.decode(packet)), None)
    except av.error.InvalidDataError:
        return None


def _describe(path: Path, scan: _Scan) -> ClipInfo:
    """What the packets say; where the container says otherwise, a remark."""
    shown = [packet for packet in scan.packets if packet.shown]
    leading, clean_start = _order(scan.packets)
    clip = ClipInfo(
        n_frames=len(shown),
        native_fps=scan.fps,
        width=scan.width,
        height=scan.height,
        container=scan.container,
        codec=scan.codec,
        rotation=scan.rotation or 0,
        mirrored=scan.mirrored,
        unclean_keyframes=_unclean_keyframes(path, scan, leading=leading),
        hidden=len(scan.packets) - len(shown),
        timestamps=all(packet.pts is not None for packet in scan.packets),
        clean_start=clean_start,
        n_tracks=scan.n_tracks,
    )
    remarks = []
    if 0 < len(scan.packets) < scan.n_declared and scan.container == "avi":
        remarks.append(f"the container has places for {scan.n_declared} frames, {len(scan.packets)} are there")
    if scan.size is not None and scan.size != (scan.width, scan.height):
        shown_size = "x".join(map(str, scan.size))
        remarks.append(f"the container says {scan.width}x{scan.height} pixels, its frames have {shown_size}")
    times = scan.shown_times if len(set(scan.shown_times)) == len(shown) else []
    n, span_s = len(times), times[-1] - times[0] if times else 0.0
    measured = (n - 1) / span_s if span_s else 0.0
    if not (scan.fps or measured):
        raise MediaError(f"{path}: the file does not say how long its frames last, so its frame rate is unknown")
    if not scan.fps or (measured and _contradict(n / scan.fps, n / measured, tolerance_s=2 / scan.fps)):
        if scan.fps:
            remarks.append(f"the container says {scan.fps:.4g} frames a second, its packets {measured:.4g}")
        clip = replace(clip, native_fps=measured)
    uneven = uneven_times(times)
    if uneven is None and (n_gaps := gaps_in(times)):
        remarks.append(f"{n_gaps} gaps between frames: some were dropped, or lost, which would harm those after them")
    return replace(clip, times=uneven, remarks=tuple(remarks))


def _order(packets: Sequence[_Packet]) -> tuple[bool, bool]:
    """Whether a later keyframe has leading pictures, and whether the clip begins with all that it needs."""
    leading, clean_start = False, bool(packets) and packets[0].restart
    first_pts = keyframe_pts = None  # of the first keyframe, and of the last one so far in file order
    for packet in packets:
        if packet.pts is None:
            continue
        if packet.key:
            keyframe_pts = packet.pts
            first_pts = packet.pts if first_pts is None else first_pts
        elif keyframe_pts is None or packet.pts < keyframe_pts:
            leading = leading or keyframe_pts is not None
            clean_start = clean_start and keyframe_pts != first_pts
    return leading, clean_start


def _unclean_keyframes(path: Path, scan: _Scan, *, leading: bool) -> str | None:
    keys = [packet for packet in scan.packets if packet.key]
    if leading:
        return "open GOPs"
    all_restart = all(packet.restart for packet in keys)
    # Without a table every packet is marked; in H.264 and HEVC the units say whether it is true.
    marked_all = scan.codec not in INTRA_ONLY and len(scan.packets) == len(keys) > 1
    if marked_all and not (scan.codec in RESTARTS and all_restart):
        return "no sync table"
    if "mp4" in scan.container and not _fragments_begin_with_keyframes(path, scan.packets):
        return "fragments that begin inside a group of pictures"
    if not all_restart:
        return "keyframes that are no clean restart (open GOPs or intra refresh)"
    return None


def _fragments_begin_with_keyframes(path: Path, packets: Sequence[_Packet]) -> bool:
    """Of a fragmented MP4 (ISO/IEC 14496-12, 8.8): decord seeks to the beginning of a fragment."""
    fragments = [start for kind, start in boxes(path) if kind == b"moof"]
    if not fragments:
        return True
    stored = sorted((packet.at, packet.key) for packet in packets if packet.at is not None)
    for start in fragments:
        place = bisect.bisect(stored, (start, False))
        if place < len(stored) and not stored[place][1]:
            return False
    return True


def gaps_in(times: Sequence[float]) -> int:
    """How often frames are missing between others: gaps above 1.75 times the usual one."""
    gaps = np.diff(np.asarray(times))
    return int((gaps > GAP * np.median(gaps)).sum()) if len(gaps) > 1 else 0


def uneven_times(times: Sequence[float]) -> tuple[float, ...] | None:
    """Seconds of every frame after the first one; None if the frames are evenly spaced, as far as sampling can tell.

    Uneven: a frame lies more than 2 mean frame durations, and more than 1 % of the clip, from its place on an even
    grid between the first and the last.

    Args:
        times: of all frames, in seconds, ascending.
    """
    if len(times) < 3:
        return None
    after_first = np.asarray(times) - times[0]
    even = np.linspace(0.0, after_first[-1], len(times))
    tolerance = max(UNEVEN_FRAMES * even[1], UNEVEN_SHARE * even[-1])
    return tuple(after_first.tolist()) if np.abs(after_first - even).max() > tolerance else None


def _contradict(a: float, b: float, *, tolerance_s: float) -> bool:
    return abs(a - b) > max(tolerance_s, DISAGREEMENT * max(a, b))


def _refuse_other_speeds(path: Path, scan: _Scan) -> None:
    others = sorted(edit_rates(path) - {1.0}) if "mp4" in scan.container else []
    if others:
        listed = ", ".join(f"{rate:g}" for rate in others)
        raise MediaError(
            f"{path}: its edit list plays parts of it at another speed ({listed}), which no decoder here does: other "
            f"frames than a player's would be shown. Encode it anew"
        )


def _refuse_truncated(path: Path, scan: _Scan) -> None:
    n_found, n_declared = len(scan.packets), scan.n_declared
    if n_found < n_declared and "mp4" in scan.container:
        n_found = len(_scan(path, ignore_editlist="1").packets)  # an edit list may leave out frames that are there
    n_bytes, n_declared_bytes = path.stat().st_size, declared_bytes(path)
    if scan.container == "avi" and n_bytes >= n_declared_bytes > 0:
        n_declared = 0  # places, also for frames that the camera dropped
    if n_bytes < n_declared_bytes:
        n_declared = max(n_declared, round(scan.duration_s * scan.fps))
    if n_found >= n_declared and n_bytes >= n_declared_bytes and not scan.cut_packet:
        return
    n_complete = n_found - scan.cut_packet
    if n_declared > n_complete:
        found = f"{n_complete} of {n_declared} frames"
    elif n_declared_bytes > n_bytes:
        found = f"{n_bytes} of {n_declared_bytes} bytes"
    else:
        found = f"{n_complete} frames and a part of the next"
    raise MediaError(f"{path}: the file is cut off: {found} are there. Download it again")


def _refuse_early_end(path: Path, scan: _Scan) -> None:
    """A file that has its bytes, but ends early: its end was never written, or is overwritten.

    The declared duration may be that of another track: sound that goes on after the last picture is no damage.
    """
    # A clip that keeps the times of the film it was cut from begins late, and is whole.
    from_zero = scan.container not in OWN_CLOCK
    times = scan.shown_times or [0.0]
    end_s = times[-1] if from_zero else times[-1] - times[0]
    early = scan.duration_s - end_s > max(EARLY_END * scan.duration_s, EARLY_END_S, 2 / (scan.fps or 1.0))
    if scan.container == "mpegts" and ends_within_a_packet(path):
        raise MediaError(f"{path}: the file is cut off within a packet of its stream. Download it again")
    streamed = any(name in scan.container for name in STREAMED)
    if not (early or streamed or scan.container == "gif"):
        return
    last_s, last_byte = _last_of_all_tracks(path, from_zero=from_zero)
    n_bytes = path.stat().st_size
    if early and scan.duration_s - last_s > EARLY_END * scan.duration_s:
        raise MediaError(
            f"{path}: the file ends early: {max(end_s, last_s):.1f} of {scan.duration_s:.1f} seconds are there. "
            "Download it again"
        )
    padding = PACKS if scan.container == "mpeg" else 0
    if streamed and n_bytes - last_byte > max(UNREAD * n_bytes, padding):
        raise MediaError(f"{path}: nothing can be read after byte {last_byte} of {n_bytes}. Download it again")
    if scan.container == "gif" and GIF_END not in tail(path, GIF_TAIL):
        raise MediaError(f"{path}: the file is cut off: the mark at the end of a GIF is absent. Download it again")


def _last_of_all_tracks(path: Path, *, from_zero: bool) -> tuple[float, int]:
    """Of the packets of all tracks: seconds from zero (or the first) to the end of the last, and the last byte."""
    first_s, last_s, last_byte = 0.0 if from_zero else math.inf, -math.inf, 0
    with open_clip(path) as (container, _):
        for packet in packets_of(container):
            if packet.dts is not None:
                unit = packet.time_base or Fraction(0)
                first_s = min(first_s, float(packet.dts * unit))
                last_s = max(last_s, float((packet.dts + (packet.duration or 0)) * unit))
            if packet.pos is not None and packet.pos >= 0:
                last_byte = max(last_byte, packet.pos + packet.size)
    return max(0.0, last_s - first_s), last_byte
