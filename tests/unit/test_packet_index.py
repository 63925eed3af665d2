"""Leaving packets out must not change a pixel: every kind of clip against a decode of all its frames. About 5 s."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from seedbench_r1.media.decode import KeptFrames, _decode_needed, decode_frames, to_rgb
from seedbench_r1.media.packet_index import PacketIndex, _restarts, index_packets, packets_to_decode
from tests.media import CLOSED, OPEN, UNEVEN, copy_cut, encode, make_clip

FLAT = "keyint=6:min-keyint=6:scenecut=0:bframes=0"


def x264(ending: str = "mp4", **options: object) -> Callable[[Path], Path]:
    return lambda folder: make_clip(folder / f"a.{ending}", **options)  # type: ignore[arg-type]


def x265(gop: str, ending: str) -> Callable[[Path], Path]:
    options = f"keyint=12:min-keyint=12:open-gop={gop}:bframes=3:log-level=none"
    return lambda folder: encode(folder / f"a.{ending}", "libx265", **{"x265-params": options})


def cut(settings: str, ending: str, first: int) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        whole = make_clip(folder / "whole.mp4", x264=settings)
        return copy_cut(whole, folder / f"cut.{ending}", first_packet=first)

    return make


def trimmed(folder: Path) -> Path:
    """An edit list that hides the first five frames; all packets are still there (ISO/IEC 14496-12, 8.6.6)."""
    clip = make_clip(folder / "a.mp4")
    data = bytearray(clip.read_bytes())
    at = data.index(b"elst") + 16  # type, version and flags, count, duration: then the media time, 512 units a frame
    start = int.from_bytes(data[at : at + 4], "big")
    data[at : at + 4] = (start + 5 * 512).to_bytes(4, "big")
    clip.write_bytes(data)
    return clip


# what the packets tell: "jumps" (whole groups of pictures may be left out), "skips" (only frames that no other needs),
# "whole" (nothing may be left out)
CLIPS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "closed mp4": (x264(), "jumps"),
    "closed mkv": (x264("mkv"), "jumps"),
    "closed mov": (x264("mov"), "jumps"),
    "fragmented": (x264(muxer={"movflags": "frag_keyframe+empty_moov"}), "jumps"),
    "variable rate mp4": (x264(ticks=UNEVEN), "jumps"),
    "variable rate mkv": (x264("mkv", ticks=UNEVEN), "jumps"),
    "ten bit": (x264(pix_fmt="yuv420p10le"), "jumps"),
    "full chroma, odd size": (x264(pix_fmt="yuv444p", size=(47, 63)), "jumps"),
    "no B-frames": (x264(x264=FLAT), "jumps"),
    "parameters in every keyframe": (x264(x264=CLOSED + ":repeat-headers=1"), "jumps"),
    "interlaced": (x264(x264=CLOSED + ":interlaced=1"), "jumps"),
    "sixteen references": (x264(x264="keyint=30:ref=16:bframes=8:b-adapt=0"), "jumps"),
    "one keyframe": (x264(x264="keyint=250:bframes=3:scenecut=0"), "skips"),
    "B-frames never referred to": (x264(x264="keyint=250:bframes=3:b-pyramid=none:scenecut=0"), "skips"),
    "open": (x264(x264=OPEN), "skips"),
    "open, parameters in every keyframe": (x264(x264=OPEN + ":repeat-headers=1"), "skips"),
    "intra refresh": (x264(x264="keyint=12:intra-refresh=1:bframes=3"), "skips"),
    "H.265": (x265("0", "mp4"), "skips"),
    "H.265, open": (x265("1", "mkv"), "skips"),
    "VP9": (lambda folder: encode(folder / "a.mkv", "libvpx-vp9", g="12", deadline="realtime"), "whole"),
    "MPEG-4 part 2": (lambda folder: encode(folder / "a.mkv", "mpeg4", g="12", bf="2"), "whole"),
    "avi": (x264("avi"), "whole"),
    "MPEG-TS": (x264("ts"), "whole"),
    "open, cut mp4": (cut(OPEN, "mp4", 9), "whole"),
    "open, cut mkv": (cut(OPEN, "mkv", 9), "whole"),
    "cut within a group": (cut(CLOSED, "mp4", 5), "whole"),
    "trimmed by an edit list": (trimmed, "whole"),
}


@pytest.mark.parametrize("name", CLIPS)
def test_the_frames_are_those_of_a_whole_decode(tmp_path: Path, name: str) -> None:
    make, leaves_out = CLIPS[name]
    clip = make(tmp_path)
    with av.open(str(clip)) as container:
        every = [to_rgb(frame) for frame in container.decode(video=0)]
    n = len(every)
    draws = [random.Random(seed).sample(range(n), size) for seed, size in enumerate([1, 1, 1, 2, 2, 3, 4, 8, 16])]
    for indices in ([0], [n - 1], [0, n - 1], [n // 2], list(range(n)), *map(sorted, draws)):
        for index, frame in zip(indices, decode_frames(clip, indices, "pyav"), strict=True):
            assert np.array_equal(frame, every[index]), (indices, index)
    found = index_packets(clip)
    if leaves_out == "whole":
        assert found is None
    else:
        assert found is not None
        assert (len(found.restarts) > 1) == (leaves_out == "jumps")
        assert _decode_needed(clip, {0, n - 1}, KeptFrames(clip, None))  # no detour through the whole clip


def test_packets_by_hand() -> None:
    """Two groups in the order of the file, I P b b | I P b b, shown as I b b P | I b b P."""
    index = PacketIndex(pts=(0, 3, 1, 2, 4, 7, 5, 6), restarts=(0, 4))
    assert packets_to_decode(index, [0]) == {0: 0}
    assert packets_to_decode(index, [1]) == {0: None, 1: None, 2: 1}
    assert packets_to_decode(index, [2, 3]) == {0: None, 1: 3, 2: None, 3: 2}
    assert packets_to_decode(index, [7]) == {4: None, 5: 7}
    assert packets_to_decode(index, [0, 4]) == {0: 0, 4: 4}
    one_group = PacketIndex(index.pts, restarts=(0,))
    assert packets_to_decode(one_group, [4]) == {0: None, 1: None, 2: None, 3: None, 4: 4}
    with pytest.raises(IndexError):
        packets_to_decode(index, [8])


def test_frames_far_apart_in_short_groups_need_few_packets(tmp_path: Path) -> None:
    index = index_packets(make_clip(tmp_path / "a.mp4"))  # keyframes at 0, 12, 24, 36, 48
    assert index is not None
    assert index.restarts == (0, 12, 24, 36, 48)
    assert list(packets_to_decode(index, [0, 36])) == [0, 36]
    assert max(packets_to_decode(index, [13, 59])) < 60
    assert not set(range(24, 48)) & set(packets_to_decode(index, [13, 59]))


KEY, OTHER, BARE = (True, {5}), (False, {1}), (True, {1})
WITH_BOTH, WITH_ONE, LATE = (True, {5, 7, 8}), (True, {5, 8}), (False, {1, 8})


@pytest.mark.parametrize(
    ("pts", "contents", "expected"),
    [
        ((0, 1, 2, 3), (KEY, OTHER, KEY, OTHER), [0, 2]),
        ((0, 1, 2, 3), (KEY, OTHER, BARE, OTHER), [0]),  # a keyframe that is no IDR picture
        ((0, 1, 3, 2), (KEY, OTHER, KEY, OTHER), [0]),  # something after it is shown before it
        ((0, 3, 2, 4), (KEY, OTHER, KEY, OTHER), [0]),  # something before it is shown after it
        ((0, 1, 2, 3), (WITH_BOTH, OTHER, WITH_BOTH, OTHER), [0, 2]),
        ((0, 1, 2, 3), (WITH_BOTH, OTHER, KEY, OTHER), [0]),  # the second sequence needs what the first one brought
        ((0, 1, 2, 3), (WITH_ONE, OTHER, WITH_ONE, OTHER), [0]),
        ((0, 1, 2, 3), (KEY, LATE, KEY, OTHER), [0]),  # parameters within a sequence may serve a later one
    ],
)
def test_where_decoding_may_begin_afresh(pts: tuple[int, ...], contents: tuple, expected: list[int]) -> None:
    assert list(_restarts(list(pts), list(contents))) == expected


def test_parameters_that_change_on_the_way_forbid_jumps(tmp_path: Path) -> None:
    """A second sample description (here: bytes that look like one) brings new parameters outside the pictures."""
    clip = make_clip(tmp_path / "a.mp4")
    found = index_packets(clip)
    assert found is not None
    assert len(found.restarts) == 5
    with clip.open("ab") as file:
        file.write((24).to_bytes(4, "big") + b"free" + b"stsd" + bytes(4) + (2).to_bytes(4, "big") + bytes(4))
    again = index_packets(clip)
    assert again is not None
    assert (again.pts, again.restarts) == (found.pts, (0,))


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_damage_is_left_to_a_whole_decode_or_does_not_matter(tmp_path: Path, ending: str) -> None:
    """Bytes overwritten in many places. What FFmpeg makes of damage depends on the frames that it has seen before."""
    sound = make_clip(tmp_path / f"a.{ending}")
    data, indices = sound.read_bytes(), [0, 20, 39, 59]
    right = decode_frames(sound, indices, "pyav")
    given_up = 0
    for share in range(10, 90, 4):
        damaged = bytearray(data)
        at = len(data) * share // 100
        damaged[at : at + 8] = bytes(8)
        (clip := tmp_path / f"damaged.{ending}").write_bytes(damaged)
        kept = KeptFrames(clip, None)
        sound_so_far, frames = _decode_needed(clip, set(indices), kept), kept.frames
        given_up += not sound_so_far
        if not sound_so_far or np.array_equal(np.stack([frames[index] for index in indices]), right):
            continue
        with contextlib.suppress(av.error.FFmpegError), av.open(str(clip)) as container:  # damage within the pictures
            every = [to_rgb(frame) for frame in container.decode(video=0)]
            assert all(np.array_equal(frames[index], every[index]) for index in indices), share
    assert 0 < given_up < 20
