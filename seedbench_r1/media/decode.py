"""Video files: what a clip holds, found almost without decoding it, and the exact frames at given indices.

Everything here runs inside a decoding worker (media/loader.py) or in a command that looks at files; torch is only
imported if the torchcodec reader was asked for.
"""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
import numpy.typing as npt

from seedbench_r1.errors import ConfigError
from seedbench_r1.media.packet_index import SEEKABLE_CONTAINERS, index_packets, packets_of, packets_to_decode
from seedbench_r1.types import Reader

if TYPE_CHECKING:
    from av import VideoFrame

Pixels = npt.NDArray[np.uint8]  # of frames (T, H, W, 3), or of one picture (H, W, 3)

BT601 = 5  # SWS_CS_ITU601 in libswscale/swscale.h


class MediaError(Exception):
    """One image or clip cannot be used; the message names the file. The frame loader turns it into a Failure."""


@dataclass(frozen=True, slots=True)
class ClipInfo:
    """What a clip holds, read from its packets."""

    n_frames: int  # packets with content that the container does not mark as hidden
    native_fps: float  # average frames per second, as the container gives it
    width: int  # pixels, as stored
    height: int
    container: str  # FFmpeg's name of the format, e.g. "matroska,webm"
    rotation: int  # degrees counter-clockwise by which the stored frames are to be turned
    open_gop: bool  # a frame that follows a keyframe in the file is shown before it
    hidden: int  # packets that an edit list hides (a copied cut that begins inside a GOP), or that are empty
    timestamps: bool  # every packet has a presentation time; without it, open_gop cannot be known
    clean_start: bool  # the first packet is a keyframe, and none that follows is shown before it

    @property
    def seek_problem(self) -> str | None:
        """Why packets and frames do not correspond one to one, or the index misleads; None: seeking works."""
        if not any(name in self.container for name in SEEKABLE_CONTAINERS):
            return f"no dependable index ({self.container})"
        if not self.timestamps:
            return "packets without time stamps"
        if self.hidden:
            return f"{self.hidden} hidden frames (edit list)"
        if not self.clean_start:
            return "begins with frames whose references were cut away"
        return None


def check_reader(name: str) -> None:
    """Make sure that the reader exists and works; the PyAV package is needed by all of them.

    Raises:
        ConfigError: unknown name, the package is absent, or its native libraries do not load.
    """
    if name not in get_args(Reader):
        raise ConfigError(f"Unknown video reader {name!r}. Choose one of: {', '.join(get_args(Reader))}")
    if importlib.util.find_spec("av") is None:
        raise ConfigError("PyAV, which every video reader needs, is not installed. Fix: pip install av")
    if name == "decord" and importlib.util.find_spec(name) is None:
        raise ConfigError(_no_decord(platform.system(), platform.machine()))
    if name != "pyav" and importlib.util.find_spec(name) is None:
        raise ConfigError(
            f"The video reader {name!r} is not installed. Fix: pip install {name}, or choose another reader "
            "(another reader is another protocol id)"
        )
    if name == "torchcodec":
        _check_torchcodec_loads()


def _no_decord(system: str, machine: str) -> str:
    other = "--reader pyav (frames are bit-equal, but the protocol id differs)"
    if (system, machine) == ("Linux", "x86_64"):  # what decord 0.6 has wheels for
        return f"decord, the default video reader, is not installed. Fix: pip install decord, or {other}"
    return f"decord, the default video reader, is not available for this platform ({system} {machine}). Fix: {other}"


def _check_torchcodec_loads() -> None:
    try:
        from torchcodec.decoders import VideoDecoder

        VideoDecoder(b"no video")
    except (RuntimeError, OSError, ImportError, ValueError) as error:
        if "libtorchcodec" not in str(error):
            return  # it loaded, and refused the bytes
        raise ConfigError(
            "torchcodec is installed, but cannot load FFmpeg's shared libraries. Fix: install FFmpeg (apt install "
            "ffmpeg) and the torchcodec release that fits torch, or choose another reader"
        ) from error


def probe_clip(path: Path) -> ClipInfo:
    """Read a clip's packets, and decode its first frame only (some milliseconds for a minute of video).

    Raises:
        MediaError: absent, empty or not a video, or cut off: fewer bytes or frames than the file itself declares.
            A file whose container declares neither (MPEG-TS, a fragmented MP4 cut between fragments) passes.
    """
    if not path.is_file():
        raise MediaError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise MediaError(f"{path}: the file is empty (0 bytes)")
    import av

    try:
        clip, wholeness = _scan(path)
        _refuse_truncated(path, clip, wholeness)
    except av.error.FFmpegError as error:
        raise MediaError(f"{path}: cannot be read as a video ({error.strerror or error}). Download it again") from error
    if not wholeness.decodable:
        raise MediaError(f"{path}: 0 frames can be decoded")
    duration_s = wholeness.duration_s
    fps = clip.native_fps or (clip.n_frames / duration_s if duration_s else 0.0)
    if not fps:
        raise MediaError(f"{path}: the file does not say how long its frames last, so its frame rate is unknown")
    return replace(clip, native_fps=fps)


@dataclass(frozen=True, slots=True)
class _Wholeness:
    """What tells whether a file is complete, besides its ClipInfo."""

    n_declared: int  # frames; 0: the container does not say
    duration_s: float  # of the container; 0: it does not say
    cut_packet: bool  # the last packet is shorter than declared
    decodable: bool  # a first frame can be decoded


def _scan(path: Path, **options: str) -> tuple[ClipInfo, _Wholeness]:
    """One pass over the packets of the first video stream. native_fps 0: unknown."""
    import av

    with av.open(str(path), options=options) as container:
        if not container.streams.video:
            raise MediaError(f"{path}: there is no video stream in it")
        stream = container.streams.video[0]
        context = stream.codec_context
        if context is None:
            raise MediaError(f"{path}: nothing can decode its video stream (damaged header or unknown codec)")
        # As the container says: decoding may change them.
        width, height, fps = context.width, context.height, float(stream.average_rate or 0)
        n_declared, duration_s, name = stream.frames, (container.duration or 0) / av.time_base, container.format.name
        context.thread_count = 1
        rotation = None  # of the first frame
        n_packets = n_shown = 0
        open_gop = cut_packet = False
        timestamps = clean_start = True
        first_pts = keyframe_pts = None  # of the first keyframe, and of the last one so far in file order
        for packet in container.demux(stream):
            if rotation is None:
                rotation = next((frame.rotation for frame in context.decode(packet)), None)
            if not packet.size and packet.dts is None:
                continue  # the empty packet that ends a stream
            n_packets += 1
            n_shown += bool(packet.size) and not packet.is_discard
            cut_packet = packet.is_corrupt
            pts = packet.pts
            if pts is None:
                timestamps = False
            elif packet.is_keyframe:
                keyframe_pts = pts
                first_pts = pts if first_pts is None else first_pts
            elif keyframe_pts is None or pts < keyframe_pts:
                open_gop = open_gop or keyframe_pts is not None
                clean_start = clean_start and keyframe_pts != first_pts
    hidden = n_packets - n_shown
    clip = ClipInfo(n_shown, fps, width, height, name, rotation or 0, open_gop, hidden, timestamps, clean_start)
    return clip, _Wholeness(n_declared, duration_s, cut_packet, decodable=rotation is not None)


def _refuse_truncated(path: Path, clip: ClipInfo, wholeness: _Wholeness) -> None:
    n_found, n_declared = clip.n_frames + clip.hidden, wholeness.n_declared
    if n_found < n_declared and "mp4" in clip.container:
        every, _ = _scan(path, ignore_editlist="1")  # an edit list may leave out frames that are there
        n_found = every.n_frames + every.hidden
    n_bytes, n_declared_bytes = path.stat().st_size, _declared_bytes(path)
    if n_bytes < n_declared_bytes:
        n_declared = max(n_declared, round(wholeness.duration_s * clip.native_fps))
    if n_found >= n_declared and n_bytes >= n_declared_bytes and not wholeness.cut_packet:
        return
    n_complete = n_found - wholeness.cut_packet
    if n_declared > n_complete:
        found = f"{n_complete} of {n_declared} frames"
    elif n_declared_bytes > n_bytes:
        found = f"{n_bytes} of {n_declared_bytes} bytes"
    else:
        found = f"{n_complete} frames and a part of the next"
    raise MediaError(f"{path}: the file is cut off: {found} are there. Download it again")


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


def decode_frames(path: Path, indices: Sequence[int], reader: Reader) -> Pixels:  # (T, H, W, 3) uint8
    """The frames at these indices (ascending, in order of presentation), RGB, upright, at the stored size.

    Where decord and PyAV return the same frame, they agree to the last bit (tests/unit/test_clips.py); torchcodec
    0.17 too, but for 10-bit clips, where it rounds differently.

    Raises:
        MediaError: the decoder fails, or delivers fewer frames.
    """
    if reader == "pyav":
        needed = _decode_needed(path, set(indices))
        return decode_in_sequence(path, indices) if needed is None else _stack(path, needed, indices)
    frames = (_decode_decord if reader == "decord" else _decode_torchcodec)(path, indices)
    if len(frames) != len(indices):
        raise MediaError(f"{path}: {reader} delivered {len(frames)} of {len(indices)} frames")
    return frames


def decode_in_sequence(path: Path, indices: Sequence[int]) -> Pixels:  # (T, H, W, 3) uint8
    """With PyAV, every frame from the first on, leaving nothing out: right for every clip, and slow.

    Raises:
        MediaError: as decode_frames.
    """
    wanted = set(indices)
    frames, n_seen = _walk(path, wanted, stop_after=max(indices))
    if len(frames) < len(wanted):
        raise MediaError(
            f"{path}: only {n_seen} frames can be decoded, so {len(frames)} of the {len(wanted)} frames asked for are "
            "there"
        )
    return _stack(path, frames, indices)


def _stack(path: Path, frames: dict[int, Pixels], indices: Sequence[int]) -> Pixels:
    if len({frame.shape for frame in frames.values()}) > 1:
        raise MediaError(f"{path}: the frame size changes within the clip")
    return np.stack([frames[index] for index in indices])


def _decode_needed(path: Path, wanted: set[int]) -> dict[int, Pixels] | None:
    """The wanted frames, decoding only what they need; None if the packets do not say, or if something is wrong."""
    import av

    try:
        index = index_packets(path)
        if index is None or max(wanted) >= len(index.pts):
            return None
        needed = packets_to_decode(index, wanted)
        times = {index.pts[position]: frame for position, frame in needed.items() if frame is not None}
        frames: dict[int, Pixels] = {}
        for frame in _decode_packets(path, needed):
            if frame.is_corrupt:
                return None  # what hides the damage depends on the frames before it
            if frame.pts in times:
                frames[times[frame.pts]] = to_rgb(frame)
    except av.error.FFmpegError:
        return None
    return frames if len(frames) == len(wanted) else None


def _decode_packets(path: Path, needed: dict[int, int | None]) -> Iterator[VideoFrame]:
    """Frames of the packets at these positions, less those that nobody wants and no other frame refers to."""
    import av

    last = max(needed)
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        context.thread_count = 1  # so that skip_frame is read packet by packet
        for position, packet in enumerate(packets_of(container)):
            if position in needed:
                context.skip_frame = "NONREF" if needed[position] is None else "DEFAULT"
                yield from context.decode(packet)
            if position == last:
                yield from context.decode(None)
                return


def count_decodable(path: Path) -> int:
    """Number of frames that decoding delivers: fewer than the packets if the first ones lack their references.

    Raises:
        MediaError: the decoder fails.
    """
    return _walk(path, set(), stop_after=None)[1]


def _walk(path: Path, wanted: set[int], stop_after: int | None) -> tuple[dict[int, Pixels], int]:
    import av

    frames: dict[int, Pixels] = {}
    n_seen = 0
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            for frame in container.decode(stream):
                if n_seen in wanted:
                    frames[n_seen] = to_rgb(frame)
                n_seen += 1
                if stop_after is not None and n_seen > stop_after:
                    break
    except av.error.FFmpegError as error:
        raise MediaError(f"{path}: decoding stopped after {n_seen} frames ({error.strerror or error})") from error
    return frames, n_seen


def to_rgb(frame: VideoFrame) -> Pixels:  # (H, W, 3) uint8
    """A decoded frame as decord and torchcodec give it: by its own colour matrix and range, and turned upright.

    PyAV by itself takes every frame for BT.601 (up to 34 grey levels off for BT.709) and does not turn it.
    """
    # libswscale looks at the frame's matrix only if source and target differ; for RGB the target has no meaning
    rgb = frame.to_ndarray(format="rgb24", src_color_range=int(frame.color_range), dst_colorspace=BT601)
    quarter_turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(rgb, quarter_turns), dtype=np.uint8)


def _decode_decord(path: Path, indices: Sequence[int]) -> Pixels:
    import decord

    with _refusals(path, "decord", RuntimeError, IndexError, decord.DECORDError):
        frames: Pixels = decord.VideoReader(str(path), num_threads=1).get_batch(list(indices)).asnumpy()
    return frames


def _decode_torchcodec(path: Path, indices: Sequence[int]) -> Pixels:
    from torchcodec.decoders import VideoDecoder

    with _refusals(path, "torchcodec", RuntimeError, ValueError, IndexError):
        decoder = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
        frames: Pixels = decoder.get_frames_at(list(indices)).data.numpy()
    return frames


@contextmanager
def _refusals(path: Path, reader: Reader, *kinds: type[Exception]) -> Iterator[None]:
    """What a reader raises for a clip becomes a MediaError that names both."""
    try:
        yield
    except kinds as error:
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MediaError(f"{path}: {reader} cannot decode it ({cause}). The reader pyav may") from error
