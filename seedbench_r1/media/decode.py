"""The exact frames of a clip at given indices, or an error: never another frame, and never one that hides damage.

Everything here runs inside a decoding worker (media/loader.py) or in a command that looks at files; torch is only
imported if the torchcodec reader was asked for.
"""

from __future__ import annotations

import importlib.util
import math
import os
import platform
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, dropwhile
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
import numpy.typing as npt

from seedbench_r1.errors import ConfigError
from seedbench_r1.media.container import MediaError, decoder_errors, harm_in, open_clip, packets_of
from seedbench_r1.media.orientation import display_matrix, upright
from seedbench_r1.media.packet_index import index_packets, is_restart, packets_to_decode
from seedbench_r1.types import Reader

if TYPE_CHECKING:
    from av import VideoFrame
    from av.packet import Packet

Pixels = npt.NDArray[np.uint8]  # of frames (T, H, W, 3), or of one picture (H, W, 3)

# Frames asked of decord at once: one by one, its thread decodes ahead meanwhile what the next seek throws away, a third
# more work in all; at once, all of them are there at full size
DECORD_BATCH = 16
BT601 = 5  # SWS_CS_ITU601 in libswscale/swscale.h
NATIVE_PLACE = re.compile(r"^\[[\d:]+\] \S+:\d+: ")  # decord's time and line of source in front of a message
# What FFmpeg's decoders print of damage, "[h264 @ 0x55e9] concealing 20 DC, ..."; some of it,
# and its scaler's advice, is said of sound clips too
COMPLAINT = re.compile(r"\[(?!swscaler)\w+ @ 0x[0-9a-f]+\] (?!EOI missing|Failed to parse extradata|SEI type|.*EXIF)")


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


Convert = Callable[[Pixels], Pixels]  # what is kept of a frame; so never more than one is there at full size


def decode_frames(path: Path, indices: Sequence[int], reader: Reader, convert: Convert | None = None) -> Pixels:
    """The frames at these indices (ascending, in order of presentation), RGB, upright: (T, H, W, 3) uint8.

    Where decord and PyAV return the same frame, they agree to the last bit (tests/unit/test_clips.py); torchcodec
    0.17 too, but for 10-bit clips, where it rounds differently.

    Args:
        path: of the clip.
        indices: of frames.
        reader: decodes them.
        convert: applied to each frame as it comes, at the stored size; None: that size is kept.

    Raises:
        DamageError: the decoder met damage.
        MediaError: the decoder fails, or delivers fewer frames.
    """
    keep = KeptFrames(path, convert)
    if reader == "pyav":
        # A sequential decode says what is wrong, if something is.
        if not _decode_needed(path, set(indices), keep):
            return decode_in_sequence(path, indices, convert)
    elif reader == "torchcodec":
        _decode_torchcodec(path, sorted(set(indices)), keep)
    elif complaint := decode_with_decord(path, sorted(set(indices)), keep):
        raise DamageError(f"{path}: decord's decoder complains ({complaint})")
    return keep.stacked(indices)


class DamageError(MediaError):
    """A part of the clip is damaged: the decoder filled it with what it guesses, and said so."""


class KeptFrames:
    """Frames by index, each converted as it arrives."""

    def __init__(self, path: Path, convert: Convert | None) -> None:
        self._path, self._convert = path, convert
        self._shapes: set[tuple[int, ...]] = set()
        self.frames: dict[int, Pixels] = {}

    def add(self, index: int, frame: Pixels) -> None:
        """Raises MediaError if the frame has another size than those before it."""
        self._shapes.add(frame.shape)
        if len(self._shapes) > 1:
            raise MediaError(f"{self._path}: the frame size changes within the clip. Encode it anew, at one size")
        self.frames[index] = frame if self._convert is None else self._convert(frame)

    def stacked(self, indices: Sequence[int]) -> Pixels:
        """(T, H, W, 3) uint8, in the order asked for."""
        return np.stack([self.frames[index] for index in indices])


def decode_in_sequence(path: Path, indices: Sequence[int], convert: Convert | None = None) -> Pixels:
    """With PyAV, every frame from the first on, leaving nothing out: right for every clip, and slow.

    Raises:
        DamageError, MediaError: as decode_frames.
    """
    keep, wanted, n_seen = KeptFrames(path, convert), set(indices), 0
    for frame, _ in _frames_in_order(path):
        if n_seen in wanted:
            keep.add(n_seen, to_rgb(frame))
        n_seen += 1
        if n_seen > max(wanted):
            return keep.stacked(indices)
    raise MediaError(
        f"{path}: only {n_seen} frames can be decoded, so {len(keep.frames)} of the {len(wanted)} frames asked for are "
        "there. It is damaged, or frames were lost while it was recorded: download it again, or encode it anew"
    )


def decodable_times(path: Path) -> list[float]:
    """Seconds of every frame that can be shown, NaN where the file does not say.

    They are fewer than the packets if the first ones lack their references.

    Raises:
        DamageError, MediaError: as decode_frames.
    """
    return [seconds for _, seconds in _frames_in_order(path)]


def _frames_in_order(path: Path) -> Iterator[tuple[VideoFrame, float]]:
    """Every frame that can be shown, from the first keyframe on, with its time in seconds (NaN: unknown)."""
    import av

    n_seen, lenient, start = 0, False, None
    try:
        with open_clip(path) as (container, stream), decoder_errors() as errors:
            context = stream.codec_context
            packets = dropwhile(lambda packet: not packet.is_keyframe, packets_of(container, stream))
            for n_packets, packet in enumerate(chain(packets, [None])):
                if n_packets == 0 and packet is not None:
                    lenient, start = not is_restart(packet, context), packet.pts
                # What refers to pictures before the first one was cut away; it can't be shown, and is no damage.
                cut_away = (lenient and not n_seen) or _earlier(packet, start)
                try:
                    frames = context.decode(packet)
                except av.error.InvalidDataError as error:
                    if cut_away:
                        continue
                    raise DamageError(_damaged(path, n_seen, str(error.strerror))) from error
                harm = harm_in(errors)
                errors.clear()
                if harm is not None and not cut_away:
                    raise DamageError(_damaged(path, n_seen, harm))
                for frame in frames:
                    if _earlier(frame, start) or (frame.is_corrupt and lenient and not n_seen):
                        continue
                    if frame.is_corrupt:
                        raise DamageError(_damaged(path, n_seen, "parts of the picture are lost"))
                    yield frame, math.nan if frame.pts is None else float(frame.pts * (stream.time_base or 1))
                    n_seen += 1
    except av.error.FFmpegError as error:
        raise MediaError(f"{path}: decoding stopped after {n_seen} frames ({error.strerror or error})") from error


def _damaged(path: Path, n_seen: int, reason: str) -> str:
    return f"{path}: the file is damaged near frame {n_seen} ({reason}). Download it again"


def _earlier(what: Packet | VideoFrame | None, start: int | None) -> bool:
    return what is not None and what.pts is not None and start is not None and what.pts < start


def _decode_needed(path: Path, wanted: set[int], keep: KeptFrames) -> bool:
    """Keep the wanted frames, decoding only what they need. False: the packets don't say, or something is wrong."""
    import av

    try:
        index = index_packets(path)
        if index is None or max(wanted) >= len(index.pts):
            return False
        needed = packets_to_decode(index, wanted)
        times = {index.pts[position]: frame for position, frame in needed.items() if frame is not None}
        with decoder_errors() as errors:
            for frame in _decode_packets(path, needed):
                if frame.is_corrupt or harm_in(errors):
                    return False
                if frame.pts in times:
                    keep.add(times[frame.pts], to_rgb(frame))
    except av.error.FFmpegError:
        return False
    return len(keep.frames) == len(wanted)


def _decode_packets(path: Path, needed: dict[int, int | None]) -> Iterator[VideoFrame]:
    """Frames of the packets at these positions, less those that nobody wants and no other frame refers to."""
    last = max(needed)
    with open_clip(path) as (container, stream):
        context = stream.codec_context
        for position, packet in enumerate(packets_of(container, stream)):
            if position in needed:
                context.skip_frame = "NONREF" if needed[position] is None else "DEFAULT"
                yield from context.decode(packet)
            if position == last:
                yield from context.decode(None)
                return


def to_rgb(frame: VideoFrame) -> Pixels:  # (H, W, 3) uint8
    """A decoded frame as decord and torchcodec give it: by its own colour matrix and range, and turned upright.

    PyAV by itself takes every frame for BT.601 (up to 34 grey levels off for BT.709) and does not turn it.
    """
    # libswscale looks at the frame's matrix only if source and target differ; for RGB the target has no meaning
    rgb = frame.to_ndarray(format="rgb24", src_color_range=int(frame.color_range), dst_colorspace=BT601)
    return np.ascontiguousarray(upright(np.asarray(rgb, dtype=np.uint8), display_matrix(frame)))


def decode_with_decord(path: Path, indices: Sequence[int], keep: KeptFrames) -> str | None:
    """Keep decord's frames. Returns what its decoder complained of; None: nothing.

    Raises:
        MediaError: it cannot decode them.
    """
    import decord

    # decord conceals damage, and cannot be asked not to: its decoder only says so, from this level on.
    decord.logging.set_level(decord.logging.INFO)
    with _stderr() as printed, _refusals(path, "decord", RuntimeError, IndexError, decord.DECORDError):
        clip = decord.VideoReader(str(path), num_threads=1)
        for start in range(0, len(indices), DECORD_BATCH):
            batch = indices[start : start + DECORD_BATCH]
            for index, frame in zip(batch, clip.get_batch(list(batch)).asnumpy(), strict=True):
                keep.add(index, frame)
    return next((line.partition("] ")[2] for line in printed if COMPLAINT.match(line)), None)


@contextmanager
def _stderr() -> Iterator[list[str]]:
    """What native code prints to standard error meanwhile, as lines, once this is left."""
    lines: list[str] = []
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            lines += file.read().decode(errors="replace").splitlines()


def _decode_torchcodec(path: Path, indices: Sequence[int], keep: KeptFrames) -> None:
    from torchcodec.decoders import VideoDecoder

    with _refusals(path, "torchcodec", RuntimeError, ValueError, IndexError):
        decoder = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
        for index in indices:
            keep.add(index, decoder.get_frame_at(index).data.numpy())


@contextmanager
def _refusals(path: Path, reader: Reader, *kinds: type[Exception]) -> Iterator[None]:
    """What a reader raises for a clip becomes a MediaError that names both."""
    try:
        yield
    except kinds as error:
        cause = NATIVE_PLACE.sub("", (str(error).strip() or type(error).__name__).splitlines()[0])
        raise MediaError(f"{path}: {reader} cannot decode it ({cause}). The reader pyav may") from error
