"""Clips of every codec, container and condition that people have, and what becomes of their frames.

Each frame shows its own number, so that what a reader returns is checked without any decoder. python -m
tests.media_matrix writes the table of docs/data.md.
"""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from seedbench_r1.media.container import MediaError
from seedbench_r1.media.frames import load_media
from seedbench_r1.types import Media, Reader, VideoConfig
from tests.media import turn

N, FPS, GROUP = 40, 10, 8
HEIGHT, WIDTH, CELL = 48, 64, 8  # a grid of 6 x 8 cells: 8 bits, and their complement below
PLAIN = VideoConfig(fps=4.0, min_pixels=1, max_pixels=10**8, size_multiple=1)
OTHER_TRACK = 128  # added to the numbers of a second track
FLIPS = 6  # damaged copies of each clip

CODECS: dict[str, tuple[str, dict[str, str]]] = {
    "H.264 closed": ("libx264", {"x264-params": f"keyint={GROUP}:min-keyint={GROUP}:scenecut=0:bframes=2"}),
    "H.264 open": ("libx264", {"x264-params": f"keyint={GROUP}:min-keyint={GROUP}:scenecut=0:bframes=2:open-gop=1"}),
    "H.264 intra refresh": ("libx264", {"x264-params": f"keyint={GROUP}:intra-refresh=1:bframes=0"}),
    "HEVC closed": (
        "libx265",
        {"x265-params": f"keyint={GROUP}:min-keyint={GROUP}:open-gop=0:bframes=2:log-level=none"},
    ),
    "HEVC open": ("libx265", {"x265-params": f"keyint={GROUP}:min-keyint={GROUP}:open-gop=1:bframes=2:log-level=none"}),
    "AV1": ("libaom-av1", {"cpu-used": "8", "usage": "realtime", "g": str(GROUP)}),
    "VP9": ("libvpx-vp9", {"cpu-used": "8", "deadline": "realtime", "g": str(GROUP)}),
    "MPEG-4": ("mpeg4", {"g": str(GROUP), "bf": "2", "q": "4"}),
    "MJPEG": ("mjpeg", {}),
    "GIF": ("gif", {}),
}
CONTAINERS = ("mp4", "mkv", "webm", "avi", "mov", "ts", "gif")
CONDITIONS = ("whole", "variable rate", "rotated", "ten-bit", "two tracks", "cut", "truncated", "bit flipped")
FORMATS = {"mjpeg": "yuvj420p", "gif": "rgb8"}
TEN_BIT = ("libx264", "libx265", "libvpx-vp9", "libaom-av1")
UNEVEN = [*range(10), *(20 + 5 * index for index in range(N - 10))]  # dense for a second, then sparse


def numbered(index: int) -> np.ndarray:  # (HEIGHT, WIDTH, 3) uint8
    """A picture of an 8-bit number and its complement, over a part that changes."""
    picture = np.full((HEIGHT, WIDTH, 3), (60, 90, 160), np.uint8)
    bits = np.array([index >> place & 1 for place in range(8)])
    for row, values in ((0, bits), (1, 1 - bits)):
        stripe = np.kron(np.where(values, 225, 30), np.ones((2 * CELL, CELL))).astype(np.uint8)
        picture[row * 2 * CELL : (row + 1) * 2 * CELL] = stripe[..., None]
    picture[4 * CELL :, index * 3 % WIDTH :][:, :9] = (220, 80, 40)
    return picture


def number_of(picture: np.ndarray) -> int | None:
    """The number that a picture shows; None: it cannot be read, as in a grey or half refreshed one."""
    bright = [
        [picture[row * 16 + 5 : row * 16 + 11, column * 8 + 2 : column * 8 + 6].mean() > 127 for column in range(8)]
        for row in range(2)
    ]
    if any(one == other for one, other in zip(*bright, strict=True)):
        return None
    return sum(1 << place for place, bit in enumerate(bright[0]) if bit)


def encode(
    path: Path, codec: str, *, ticks: Sequence[int], ten_bit: bool = False, firsts: Sequence[int] = (0,)
) -> Path:
    """A track for each of `firsts`, of frames first, first + 1, ... at these ticks of 1 / FPS seconds."""
    name, options = CODECS[codec]
    with av.open(str(path), "w") as container:
        tracks = [container.add_stream(name, rate=FPS, options=options) for _ in firsts]
        for stream in tracks:
            stream.width, stream.height = WIDTH, HEIGHT
            stream.pix_fmt = "yuv420p10le" if ten_bit else FORMATS.get(name, "yuv420p")
            stream.codec_context.time_base = Fraction(1, FPS)
            stream.codec_context.thread_count = 1
        for index, tick in enumerate(ticks):
            for stream, first in zip(tracks, firsts, strict=True):
                frame = av.VideoFrame.from_ndarray(numbered(first + index), format="rgb24")
                frame = frame.reformat(format=stream.pix_fmt)
                frame.pts, frame.time_base = tick, Fraction(1, FPS)
                container.mux(stream.encode(frame))
        for stream in tracks:
            container.mux(stream.encode(None))
    with av.open(str(path)) as written:
        if len(written.streams.video) != len(firsts):
            raise ValueError(f"{path.suffix} does not say what its tracks hold")
    return path


def cut(source: Path, target: Path, *, first_packet: int) -> Path:
    """The packets from `first_packet` on, as a fast cutter copies them."""
    with av.open(str(source)) as reading, av.open(str(target), "w") as writing:
        track = reading.streams.video[0]
        stream = writing.add_stream_from_template(track, opaque=True)
        for packet in [packet for packet in reading.demux(track) if packet.size][first_packet:]:
            packet.stream = stream
            writing.mux(packet)
    return target


@dataclass(frozen=True)
class Clip:
    """A file, and what is to be seen in it."""

    path: Path
    first_numbers: tuple[int, ...] = (0,)  # of the tracks, any of which a player may show; empty: what is there
    times: tuple[float, ...] | None = None  # seconds of each frame, if not index / FPS
    quarter_turns: int = 0  # counter-clockwise, by which the picture is shown turned
    damaged: bool = False  # a refusal is right
    flipped: bool = False  # most codecs have no checksum: no decoder can notice each flipped bit


class Maker:
    """Writes the clips of each cell into a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def clips(self, codec: str, container: str, condition: str) -> list[Clip]:
        """Raises what the muxer raises if there can be none."""
        path = self._folder / f"{codec} {condition}.{container}".replace(" ", "_")
        if condition == "ten-bit":
            able = CODECS[codec][0] in TEN_BIT
            return [Clip(encode(path, codec, ticks=range(N), ten_bit=True))] if able else []
        if condition == "variable rate":
            return [Clip(encode(path, codec, ticks=UNEVEN), times=tuple(tick / FPS for tick in UNEVEN))]
        if condition == "two tracks":
            return [Clip(encode(path, codec, ticks=range(N), firsts=(0, OTHER_TRACK)), (0, OTHER_TRACK))]
        encode(path, codec, ticks=range(N))
        if condition == "whole":
            return [Clip(path)]
        if condition == "cut":
            target = cut(path, path.with_stem("cut"), first_packet=GROUP // 2)
            return [Clip(target, first_numbers=(), damaged=True)]
        if condition == "rotated":
            if container not in ("mp4", "mov"):
                return []
            return [Clip(turn(path, path.with_stem("turned"), quarter_turns_clockwise=1), quarter_turns=-1)]
        return list(self._damaged(path, condition))

    def _damaged(self, path: Path, condition: str) -> Iterator[Clip]:
        data, rng = path.read_bytes(), random.Random(0)
        if condition == "truncated":
            path.write_bytes(data[: len(data) * 7 // 10])
            yield Clip(path, damaged=True)
            return
        start, end = _pictures_in(path)
        for index in range(FLIPS):
            flipped = bytearray(data)
            flipped[rng.randrange(start, end)] ^= 1 << rng.randrange(8)
            (target := path.with_stem(f"{path.stem}{index}")).write_bytes(flipped)
            yield Clip(target, damaged=True, flipped=True)


def _pictures_in(path: Path) -> tuple[int, int]:
    """First and last byte of the packets: a flip elsewhere is the fuzz suite's."""
    with av.open(str(path)) as container:
        ends = [(packet.pos, packet.pos + packet.size) for packet in container.demux(video=0) if packet.size]
    return max(0, min(start for start, _ in ends)) + 40, max(end for _, end in ends) - 8


def verdict(clip: Clip, reader: Reader) -> str:
    """exact, PyAV (exact, with a note), refused, noted (a contradiction in the file), unnoticed, or WRONG and why."""
    try:
        media = load_media(clip.path, None, VideoConfig(**{**_fields(PLAIN), "reader": reader}))
    except MediaError as error:
        return "refused" if clip.damaged else f"WRONG: refused: {error}"
    wrong = _difference(clip, media)
    if wrong and clip.damaged and media.reader_note and "the container" in media.reader_note:
        return "noted"
    if wrong and clip.flipped:
        return "unnoticed"
    if wrong:
        return f"WRONG: {wrong}; {media.reader}, {media.reader_note}"
    return "exact" if media.reader == reader else "PyAV" if media.reader_note else "WRONG: no note"


def _fields(config: VideoConfig) -> dict[str, object]:
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


def _difference(clip: Clip, media: Media) -> str | None:
    assert media.frames is not None
    frames = [np.rot90(frame, -clip.quarter_turns) for frame in media.frames]
    shown = [number_of(frame) for frame in frames]
    if None in shown:
        return (
            f"unreadable frames at {[index for index, n in zip(media.frame_indices, shown, strict=True) if n is None]}"
        )
    firsts = clip.first_numbers or (shown[0],)
    if not any(shown == [first + index for index in media.frame_indices] for first in firsts):
        return f"asked for {media.frame_indices}, shown {shown}"
    if clip.first_numbers and media.n_total != N:
        return f"{media.n_total} frames counted"
    return None if clip.times is None else _late(clip.times, media, clip.path.suffix)


def _late(times: tuple[float, ...], media: Media, container: str) -> str | None:
    """Frames are to be those nearest to even moments, and the times told for them their own."""
    assert media.native_fps is not None
    # AVI gives frames the places of their packets: with B-frames, those are up to two gaps away.
    tolerance = 1.1 if container == ".avi" else 0.02
    told = media.frame_times or [index / media.native_fps for index in media.frame_indices]
    own = [times[index] for index in media.frame_indices]
    if max(abs(a - b) for a, b in zip(told, own, strict=True)) > tolerance:
        return f"times {told} told for frames of {own}"
    moments = np.linspace(0, times[-1], len(own))
    nearest = np.abs(np.asarray(times)[:, None] - moments).min(axis=0)
    worst = np.abs(np.asarray(own) - moments) - nearest
    return f"frames of {own} for moments {moments}" if worst.max() > tolerance else None


def matrix(folder: Path, codecs: Sequence[str] = tuple(CODECS)) -> Iterator[tuple[str, str, str, Reader, Counter[str]]]:
    """(codec, container, condition, reader, how many clips ended how) for every cell that can be written."""
    av.logging.set_level(av.logging.PANIC)
    maker = Maker(folder)
    for codec in codecs:
        for container in CONTAINERS:
            for condition in CONDITIONS:
                try:
                    clips = maker.clips(codec, container, condition)
                except (av.error.FFmpegError, ValueError):
                    continue  # no such file can be written
                for reader in ("decord", "pyav"):
                    found = Counter(verdict(clip, reader) for clip in clips)
                    if found:
                        yield codec, container, condition, reader, found


SIGNS = {"exact": "=", "PyAV": "P", "refused": "x", "noted": "n", "unnoticed": "u"}


def table(cells: Iterator[tuple[str, str, str, Reader, Counter[str]]]) -> str:
    """Markdown: a row for each codec and container, decord's sign before PyAV's."""
    rows: dict[tuple[str, str], dict[str, list[str]]] = {}
    for codec, container, condition, _, found in cells:
        signs = [sign if len(found) == 1 else f"{found[name]}{sign}" for name, sign in SIGNS.items() if found[name]]
        rows.setdefault((codec, container), {}).setdefault(condition, []).append(" ".join(signs))
    lines = [f"| codec | in | {' | '.join(CONDITIONS)} |", "|---|---|" + "---|" * len(CONDITIONS)]
    for (codec, container), row in rows.items():
        shown = [", ".join(row.get(condition, ())) for condition in CONDITIONS]
        lines.append(f"| {codec} | {container} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


MARK = "<!-- clips: python -m tests.media_matrix -->\n"


def main() -> None:
    """Write the table, and print what is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        cells = list(matrix(Path(folder)))
    document = Path(__file__).parents[1] / "docs" / "data.md"
    before, _, after = document.read_text(encoding="utf-8").split(MARK)
    document.write_text(f"{before}{MARK}{table(iter(cells))}{MARK}{after}", encoding="utf-8")
    for codec, container, condition, reader, found in cells:
        for name in found:
            if name not in SIGNS:
                print(codec, container, condition, reader, name)


if __name__ == "__main__":
    main()
