"""Small clips and images for tests, made with PyAV and libx264: textured, moving, every frame different."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

CLOSED = "keyint=12:min-keyint=12:scenecut=0:bframes=3:b-adapt=0"
OPEN = CLOSED + ":open-gop=1"
# Times of 60 frames in units of 1/fps, for a variable frame rate: every fifth frame comes three units late.
UNEVEN = np.cumsum([1 + 3 * (i % 5 == 0) for i in range(60)]).tolist()


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:  # (height, width, 3) uint8
    """Noise with coarse structure, so that an encoder has something to predict."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    grain = rng.integers(-12, 13, (height, width, 3))
    return np.clip(np.asarray(smooth).astype(int) + grain, 0, 255).astype(np.uint8)


def moving_frame(base: np.ndarray, index: int, height: int, width: int) -> np.ndarray:  # (height, width, 3) uint8
    """Frame `index` of a pan over `base`, with a corner whose grey level tells the frames apart."""
    frame = np.roll(base, (index, 2 * index), axis=(0, 1))[:height, :width].copy()
    frame[: height // 4, : width // 4] = 16 + index * 7 % 224
    return frame


def make_clip(
    path: Path,
    *,
    n_frames: int = 60,
    size: tuple[int, int] = (48, 64),
    fps: int = 30,
    x264: str = CLOSED,
    pix_fmt: str = "yuv420p",
    ticks: Sequence[int] | None = None,
    muxer: dict[str, str] | None = None,
) -> Path:
    """Write a clip; the file name's ending chooses the container.

    Args:
        size: (height, width) in pixels.
        ticks: presentation time of each frame in units of 1/fps, for a variable frame rate.
        muxer: options of the container, e.g. {"movflags": "faststart"}.
    """
    height, width = size
    base = texture(height + 16, width + 16)
    with av.open(str(path), "w", options=muxer or {}) as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "veryfast", "x264-params": x264})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = Fraction(1, fps)
        for index in range(n_frames):
            frame = av.VideoFrame.from_ndarray(moving_frame(base, index, height, width), format="rgb24")
            frame.pts = index if ticks is None else ticks[index]
            frame.time_base = Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def encode(path: Path, codec: str, **options: str) -> Path:
    """60 frames of 64 x 48 pixels, by any of FFmpeg's encoders."""
    base = texture(64, 80)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(60):
            frame = av.VideoFrame.from_ndarray(moving_frame(base, index, 48, 64), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def copy_cut(source: Path, target: Path, *, first_packet: int, muxer: dict[str, str] | None = None) -> Path:
    """Copy the video packets from `first_packet` on (in file order) without decoding, as a fast cutter does."""
    with av.open(str(source)) as reading, av.open(str(target), "w", options=muxer or {}) as writing:
        stream = writing.add_stream_from_template(reading.streams.video[0])
        for index, packet in enumerate(reading.demux(reading.streams.video[0])):
            if packet.size and index >= first_packet:
                packet.stream = stream
                writing.mux(packet)
    return target


def turn(source: Path, target: Path, *, quarter_turns_clockwise: int) -> Path:
    """A copy of an MP4 whose track header asks players to turn the picture (ISO/IEC 14496-12, 8.3.2)."""
    a, b, c, d = {0: (1, 0, 0, 1), 1: (0, 1, -1, 0), 2: (-1, 0, 0, -1), 3: (0, -1, 1, 0)}[quarter_turns_clockwise]
    data = bytearray(source.read_bytes())
    start = data.index(b"tkhd") + 44  # the matrix of a version 0 header, in 16.16 and (last column) 2.30 fixed point
    data[start : start + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    target.write_bytes(data)
    return target


def truncate(source: Path, target: Path, share: float) -> Path:
    """The first `share` of a file's bytes."""
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


def decode_all(path: Path) -> list[np.ndarray]:  # each (H, W, 3) uint8
    """Every frame in order, by PyAV, written without the package's own code."""
    with av.open(str(path), metadata_errors="replace") as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def make_image(path: Path, size: tuple[int, int] = (90, 120), seed: int = 1) -> Path:
    """A textured picture; the file name's ending chooses the format."""
    Image.fromarray(texture(*size, seed=seed)).save(path)
    return path
