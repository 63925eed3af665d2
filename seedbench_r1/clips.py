"""Video files: what a clip holds, found without decoding it, and the exact frames at given indices.

Everything here runs inside a decoding worker (frame_loader.py) or in a command that looks at files; torch is only
imported if the torchcodec reader was asked for.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np

from seedbench_r1.errors import ConfigError
from seedbench_r1.types import Reader

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet


class MediaError(Exception):
    """One image or clip cannot be used; the message names the file. The frame loader turns it into a Failure."""


@dataclass(frozen=True, slots=True)
class ClipInfo:
    """What demuxing says about a clip."""

    n_frames: int  # frames that are to be shown: packets that the container does not mark as discarded
    native_fps: float  # average frames per second
    width: int  # pixels, as stored; rotation metadata is not applied
    height: int
    codec: str  # FFmpeg's name, e.g. "h264"
    open_gop: bool  # a frame after a keyframe in the file is shown before it
    discards: bool  # an edit list hides decoded frames (a cut that does not begin at a keyframe)
    timestamps: bool  # every packet has a presentation time; without it open_gop cannot be known


def check_reader(name: str) -> None:
    """Make sure that the reader exists and is installed; the PyAV package is needed by all of them.

    Raises:
        ConfigError: unknown name, or the package is absent.
    """
    if name not in get_args(Reader):
        raise ConfigError(f"Unknown video reader {name!r}. Choose one of: {', '.join(get_args(Reader))}")
    if importlib.util.find_spec("av") is None:
        raise ConfigError("PyAV, which every video reader needs, is not installed. Fix: pip install av")
    if name != "pyav" and importlib.util.find_spec(name) is None:
        raise ConfigError(
            f"The video reader {name!r} is not installed. Fix: pip install {name}, or choose another reader "
            "(another reader is another protocol id)"
        )


def probe_clip(path: Path) -> ClipInfo:
    """Read a clip's packets without decoding them (some milliseconds for a minute of video).

    Raises:
        MediaError: absent, empty or not a video, or cut off: fewer bytes or frames than the file itself declares.
    """
    if not path.is_file():
        raise MediaError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise MediaError(f"{path}: the file is empty (0 bytes)")
    import av

    try:
        scan = _scan(path)
    except av.error.FFmpegError as error:
        raise MediaError(f"{path}: cannot be read as a video ({error.strerror or error}). Download it again") from error
    _refuse_truncated(path, scan)
    if scan.n_shown == 0:
        raise MediaError(f"{path}: the video stream holds 0 frames")
    if not scan.fps:
        raise MediaError(f"{path}: the file does not say how long its frames last, so its frame rate is unknown")
    return ClipInfo(
        n_frames=scan.n_shown,
        native_fps=scan.fps,
        width=scan.width,
        height=scan.height,
        codec=scan.codec,
        open_gop=scan.open_gop,
        discards=scan.n_shown < scan.n_packets,
        timestamps=scan.timestamps,
    )


@dataclass(slots=True)
class _Scan:
    """One pass over the packets of the first video stream."""

    format: str
    codec: str
    width: int
    height: int
    fps: float  # 0: unknown
    n_declared: int  # 0: the container does not say
    duration_s: float  # of the container; 0: it does not say
    n_packets: int = 0
    n_shown: int = 0
    open_gop: bool = False
    timestamps: bool = True
    cut_packet: bool = False  # the last packet is shorter than declared


def _scan(path: Path, **options: str) -> _Scan:
    import av

    with av.open(str(path), options=options) as container:
        if not container.streams.video:
            raise MediaError(f"{path}: there is no video stream in it")
        stream = container.streams.video[0]
        context = stream.codec_context
        scan = _Scan(
            format=container.format.name,
            codec=context.name,
            width=context.width,
            height=context.height,
            fps=float(stream.average_rate or 0),
            n_declared=stream.frames,
            duration_s=(container.duration or 0) / av.time_base,
        )
        keyframe_pts: int | None = None
        for packet in _packets(container):
            scan.n_packets += 1
            scan.n_shown += not packet.is_discard
            scan.cut_packet = packet.is_corrupt
            if packet.pts is None:
                scan.timestamps = False
            elif packet.is_keyframe:
                keyframe_pts = packet.pts
            elif keyframe_pts is not None and packet.pts < keyframe_pts:
                scan.open_gop = True
    return scan


def _packets(container: InputContainer) -> list[Packet]:
    """The packets of the first video stream without the empty one that ends it."""
    return [packet for packet in container.demux(container.streams.video[0]) if packet.size]


def _refuse_truncated(path: Path, scan: _Scan) -> None:
    n_found = scan.n_packets
    if n_found < scan.n_declared and "mp4" in scan.format:
        n_found = _scan(path, ignore_editlist="1").n_packets  # an edit list may leave out frames that are there
    n_declared = scan.n_declared
    n_bytes, n_declared_bytes = path.stat().st_size, _declared_bytes(path)
    if n_bytes < n_declared_bytes:
        n_declared = max(n_declared, round(scan.duration_s * scan.fps))
    if n_found >= n_declared and n_bytes >= n_declared_bytes and not scan.cut_packet:
        return
    n_whole = n_found - scan.cut_packet
    declared = f"{n_declared} frames" if n_declared > n_whole else "the frames that it declares"
    raise MediaError(f"{path}: the file is cut off: {n_whole} of {declared} are there. Download it again")


def _declared_bytes(path: Path) -> int:
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


def decode_frames(path: Path, indices: Sequence[int], reader: Reader) -> np.ndarray:  # (T, H, W, 3) uint8
    """The frames at these indices (ascending, in order of presentation), RGB, at the stored size.

    Raises:
        MediaError: the decoder fails, or delivers fewer frames.
    """
    if reader == "decord":
        return _decode_decord(path, indices)
    if reader == "torchcodec":
        return _decode_torchcodec(path, indices)
    return decode_in_sequence(path, indices)[0]


def decode_in_sequence(path: Path, indices: Sequence[int]) -> tuple[np.ndarray, int]:
    """Decode from the first frame on with PyAV, never seeking: right for every clip.

    Returns:
        frames (T, H, W, 3) uint8, and the number of frames seen until the last index was reached.

    Raises:
        MediaError: the decoder fails, or the clip ends before the last index.
    """
    frames, n_seen = _walk(path, set(indices), stop_after=max(indices))
    if len(frames) < len(set(indices)):
        raise MediaError(
            f"{path}: only {n_seen} frames can be decoded, so {len(frames)} of the {len(set(indices))} frames asked "
            "for are there"
        )
    if len({frame.shape for frame in frames.values()}) > 1:
        raise MediaError(f"{path}: the frame size changes within the clip")
    return np.stack([frames[index] for index in indices]), n_seen


def count_decodable(path: Path) -> int:
    """Number of frames that decoding delivers; differs from the packets where the first frames lack references."""
    return _walk(path, set(), stop_after=None)[1]


def _walk(path: Path, wanted: set[int], stop_after: int | None) -> tuple[dict[int, np.ndarray], int]:
    import av

    frames: dict[int, np.ndarray] = {}
    n_seen = 0
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            for frame in container.decode(stream):
                if n_seen in wanted:
                    frames[n_seen] = frame.to_ndarray(format="rgb24")
                n_seen += 1
                if stop_after is not None and n_seen > stop_after:
                    break
    except av.error.FFmpegError as error:
        raise MediaError(f"{path}: decoding stopped after {n_seen} frames ({error.strerror or error})") from error
    return frames, n_seen


def _decode_decord(path: Path, indices: Sequence[int]) -> np.ndarray:
    import decord

    try:
        clip = decord.VideoReader(str(path), num_threads=1)
        frames = clip.get_batch(list(indices)).asnumpy()
    except (RuntimeError, IndexError, decord.DECORDError) as error:
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MediaError(f"{path}: decord cannot decode it ({cause})") from error
    if len(frames) != len(indices):
        raise MediaError(f"{path}: decord delivered {len(frames)} of {len(indices)} frames")
    return frames


def _decode_torchcodec(path: Path, indices: Sequence[int]) -> np.ndarray:
    check_reader("torchcodec")
    from torchcodec.decoders import VideoDecoder

    try:
        decoder = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
        frames = decoder.get_frames_at(list(indices)).data.numpy()
    except (RuntimeError, ValueError, IndexError) as error:
        raise MediaError(f"{path}: torchcodec cannot decode it ({error})") from error
    if len(frames) != len(indices):
        raise MediaError(f"{path}: torchcodec delivered {len(frames)} of {len(indices)} frames")
    return frames
