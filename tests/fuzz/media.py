"""Clips through the frame loader as in a run, and images: right, refused by name, or damaged where nobody can know."""

from __future__ import annotations

import io
import random
import re
import sys
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import get_args

import av
import numpy as np
from PIL import Image

from seedbench_r1.media.container import MediaError
from seedbench_r1.media.frames import IMAGE_FORMATS, load_image
from seedbench_r1.media.loader import FrameLoader
from seedbench_r1.types import Failure, Media, Question, Reader, VideoConfig
from tests.fuzz import Input
from tests.fuzz.mutate import mutated
from tests.media import copy_cut, texture, turn
from tests.media_matrix import PLAIN, UNEVEN, WIDTH, N, encode, number_of

CLIPS = (
    *(("H.264 closed", "mp4"), ("H.264 open", "mkv"), ("H.264 intra refresh", "ts"), ("H.264 closed", "avi")),
    *(("HEVC closed", "mov"), ("HEVC open", "ts"), ("AV1", "webm"), ("AV1", "mp4"), ("VP9", "webm")),
    *(("MPEG-4", "avi"), ("MPEG-4", "mp4"), ("MJPEG", "avi"), ("MJPEG", "mkv"), ("GIF", "gif")),
)
READERS: tuple[Reader, ...] = ("decord", "pyav")
LIMIT_S = 20.0
OURS = {path.name for path in (Path(__file__).parents[2] / "seedbench_r1").rglob("*.py")}
_CATCH_ALL = re.compile(r"cannot be read \((?P<kind>\w+): .*, (?P<file>\S+) line \d+\)$", re.DOTALL)


def question(name: str, video: Path | None, image: Path | None = None) -> Question:
    return Question(name, "L1", "?", ("a", "b"), "A", video, image, "c")


class Clips:
    """Each mutated clip goes through the loader together with a sound one."""

    def __init__(self, folder: Path) -> None:
        av.logging.set_level(av.logging.PANIC)
        self._folder = folder
        self._sound = encode(folder / "sound.mp4", "H.264 closed", ticks=range(N))
        self._loaders: dict[str, FrameLoader] = {}

    @cached_property
    def _seeds(self) -> list[tuple[str, bytes]]:
        folder = self._folder
        paths = [encode(folder / f"{n}.{kind}", codec, ticks=range(N)) for n, (codec, kind) in enumerate(CLIPS)]
        paths.append(encode(folder / "uneven.mkv", "H.264 closed", ticks=UNEVEN))
        paths.append(encode(folder / "tracks.mp4", "MPEG-4", ticks=range(N), firsts=(0, 128)))
        paths.append(turn(paths[0], folder / "turned.mp4", quarter_turns_clockwise=1))
        fragments = {"movflags": "frag_keyframe+empty_moov"}
        fragmented = copy_cut(paths[0], folder / "fragmented.mp4", first_packet=0, muxer=fragments)
        return [(path.suffix, path.read_bytes()) for path in (*paths, fragmented)]

    def make(self, rng: random.Random) -> Input:
        suffix, data = rng.choice(self._seeds)
        return rng.choice(READERS) + suffix, mutated(rng, data, [other for _, other in self._seeds])

    def check(self, name: str, data: bytes) -> str:
        reader, _, _ = name.partition(".")
        (path := self._folder / name).write_bytes(data)
        if reader not in self._loaders:
            config = replace(PLAIN, reader=reader)
            self._loaders[reader] = FrameLoader(config, workers=1, timeout_s=LIMIT_S)
        asked = [question("mutated", path), question("sound", self._sound)]
        came = [(asked.question_id, media) for asked, media in self._loaders[reader].stream(asked)]
        found = dict(came)
        assert sorted(name for name, _ in came) == ["mutated", "sound"], came
        assert isinstance(found["sound"], Media), found["sound"]
        assert numbers(found["sound"]) == list(found["sound"].frame_indices)
        return outcome(path, found["mutated"])

    def close(self) -> None:
        for loader in self._loaders.values():
            loader.close()


def numbers(media: Media) -> list[int | None]:
    """What the frames show of themselves; None where that cannot be read."""
    assert media.frames is not None
    plain = [frame if frame.shape[1] == WIDTH else np.rot90(frame) for frame in media.frames]
    return [number_of(frame) if frame.shape[1] == WIDTH else None for frame in plain]


def outcome(path: Path, found: Media | Failure) -> str:
    """Sound, damaged or refused. Raises AssertionError for what is neither."""
    if isinstance(found, Failure):
        assert found.kind == "media_error", found
        assert found.message.startswith(str(path)), found.message
        assert len(found.message) < 1000 + len(str(path)), found.message
        # Of what was not expected, an exception's name is all that is said: our own code is to say more.
        if caught := _CATCH_ALL.search(found.message):
            assert caught["file"] not in OURS, found.message
            return f"refused by the last net: {caught['kind']} in {caught['file']}"
        return "took too long" if "was stopped" in found.message else "refused"
    frames = found.frames
    assert frames is not None, found
    assert frames.dtype == np.uint8, frames.dtype
    assert frames.shape[0] == len(found.frame_indices), frames.shape
    assert frames.shape[3] == 3, frames.shape
    assert found.reader in get_args(Reader), found.reader
    shown = numbers(found)
    first = (shown[0] or 0) - found.frame_indices[0]
    if shown == [first + index for index in found.frame_indices]:
        return "the frames asked for"
    return f"other frames in {path.suffix}, {'with a note' if found.reader_note else 'unnoticed'}"


class Images:
    """Formats that are read, and others under the suffix of one that is."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[str] = []
        sys.addaudithook(self._hear)

    @cached_property
    def _seeds(self) -> list[bytes]:
        picture = Image.fromarray(texture(40, 60))
        modes = [picture, *map(picture.convert, ("RGBA", "L", "P", "1", "CMYK", "LA"))]
        modes.append(Image.fromarray(texture(40, 60)[..., 0].astype(np.uint16) << 8))
        seeds = [_svg(), _heic(), b"8BPS\0\1" + b"\0" * 6 + b"\0\3\0\0\0\x08\0\0\0\x08\0\x08\0\3"]
        for format in (*IMAGE_FORMATS, "AVIF", "DDS", "SPIDER", "EPS", "ICO", "JPEG2000", "TGA", "BLP"):
            for mode in modes:
                seeds += _saved(mode, format)
        assert len(seeds) > 40
        return seeds

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if event in ("subprocess.Popen", "os.system", "os.exec", "os.fork", "os.posix_spawn", "pty.spawn"):
            self._started.append(f"{event} {arguments!r}")

    def make(self, rng: random.Random) -> Input:
        data = rng.choice(self._seeds)
        changed = data if rng.random() < 0.05 else mutated(rng, data, self._seeds)
        return rng.choice(("a.png", "a.jpg", "a.webp")), changed

    def check(self, name: str, data: bytes) -> str:
        (path := self._folder / name).write_bytes(data)
        self._started.clear()
        try:
            pixels = load_image(path, VideoConfig())
        except MediaError as error:
            assert str(error).startswith(str(path)), error
            assert len(str(error)) < 1000 + len(str(path)), error
            result = "refused"
        else:
            assert pixels.dtype == np.uint8, pixels.dtype
            assert pixels.ndim == 3, pixels.shape
            assert pixels.shape[2] == 3, pixels.shape
            result = "shown"
        assert not self._started, self._started
        return result

    def close(self) -> None:
        """Nothing was started."""


def _saved(picture: Image.Image, format: str) -> list[bytes]:
    options = {"TIFF": [{}, {"compression": "tiff_lzw"}], "WEBP": [{"lossless": True}, {}]}.get(format, [{}])
    found = []
    for each in options:
        buffer = io.BytesIO()
        try:
            picture.save(buffer, format, **each)
        except (OSError, ValueError, KeyError):
            continue  # a mode that the format does not have
        found.append(buffer.getvalue())
    return found


def _svg() -> bytes:
    return b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><image href="x"/></svg>'


def _heic() -> bytes:
    return b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0\0\0\x22meta" + b"\0" * 200
