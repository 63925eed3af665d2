"""Probing and exact decoding, against every frame of a plain sequential decode. About 4 s."""

from __future__ import annotations

import builtins
import importlib.util
import random
from pathlib import Path

import av
import decord
import numpy as np
import pytest

from seedbench_r1.errors import ConfigError
from seedbench_r1.media.container import MediaError
from seedbench_r1.media.decode import (
    KeptFrames,
    check_reader,
    decodable_times,
    decode_frames,
    decode_with_decord,
    to_rgb,
)
from seedbench_r1.media.probe import probe_clip
from tests.media import (
    CLOSED,
    OPEN,
    UNEVEN,
    copy_cut,
    decode_all,
    encode,
    make_clip,
    moving_frame,
    texture,
    truncate,
    turn,
)

FIVE_DRAWS = [sorted(random.Random(seed).sample(range(48), 8)) for seed in range(5)]
OPEN_CUT_PACKET = 9  # the second keyframe of the open-GOP clip; its three leading B-frames follow it


def wrong_frames(path: Path, reader: str, draws: list[list[int]] = FIVE_DRAWS) -> set[int]:
    """Indices at which the reader's frame is not the one of a sequential decode, over several sparse requests."""
    every = decode_all(path)
    wrong: set[int] = set()
    for indices in draws:
        kept = KeptFrames(path, None)
        if reader == "decord":  # as it is, whatever it complains of
            decode_with_decord(path, indices, kept)
        frames = kept.stacked(indices) if kept.frames else decode_frames(path, indices, reader)  # type: ignore[arg-type]
        wrong |= {
            index for index, frame in zip(indices, frames, strict=True) if not np.array_equal(frame, every[index])
        }
    return wrong


# ---------------------------------------------------------------- the readers


@pytest.mark.parametrize("reader", ["decord", "pyav"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("closed.mp4", {}),
        ("closed.mkv", {}),
        ("closed.mov", {}),
        ("fragmented.mp4", {"muxer": {"movflags": "frag_keyframe+empty_moov"}}),
        ("variable.mp4", {"ticks": UNEVEN}),
        ("variable.mkv", {"ticks": UNEVEN}),
        ("ten_bit.mp4", {"pix_fmt": "yuv420p10le"}),
        ("full_chroma_odd.mp4", {"pix_fmt": "yuv444p", "size": (47, 63)}),
        ("odd_multiple.mp4", {"size": (50, 66)}),
        ("one_keyframe.mp4", {"x264": "keyint=250:bframes=3"}),
    ],
)
def test_readers_return_the_exact_frames(tmp_path: Path, name: str, options: dict, reader: str) -> None:
    clip = make_clip(tmp_path / name, **options)
    info = probe_clip(clip)
    assert (info.n_frames, info.unclean_keyframes, info.seek_problem) == (60, None, None)
    uneven = name.startswith("variable")  # a little, at 11 places between frames
    if name == "variable.mkv":  # its header says 30, and decord believes it; 60 frames last 94 ticks and one more gap
        assert info.native_fps == pytest.approx(59 / (92 / 30), rel=1e-3)
        assert info.remarks[0] == "the container says 30 frames a second, its packets 19.24"
    else:
        assert info.native_fps == decord.VideoReader(str(clip), num_threads=1).get_avg_fps()
    assert [remark for remark in info.remarks if remark.startswith("11 gaps")] == list(info.remarks[-1:] * uneven)
    assert wrong_frames(clip, reader) == set()


@pytest.mark.parametrize("matrix", ["bt709", "smpte170m", "bt2020nc"])
@pytest.mark.parametrize("extent", ["off", "on"])
def test_colours_follow_the_clip_s_matrix_and_range(tmp_path: Path, matrix: str, extent: str) -> None:
    """PyAV's own conversion ignores the matrix; the two readers must agree to the last bit."""
    clip = make_clip(tmp_path / "a.mp4", x264=f"{CLOSED}:colormatrix={matrix}:fullrange={extent}")
    indices = [0, 20, 39, 59]
    ours = decode_frames(clip, indices, "pyav")
    assert np.array_equal(ours, decode_frames(clip, indices, "decord"))
    plain = np.stack([decode_all(clip)[index] for index in indices])
    assert (np.abs(ours.astype(int) - plain).max() > 10) == (matrix != "smpte170m")


@pytest.mark.parametrize("codec", ["libx265", "libvpx-vp9", "mpeg4"])
def test_other_codecs_are_exact_or_known_to_be_open(tmp_path: Path, codec: str) -> None:
    options = {
        "libx265": {"x265-params": "keyint=12:min-keyint=12:open-gop=1:bframes=3:log-level=none"},
        "libvpx-vp9": {"g": "12", "deadline": "realtime", "lag-in-frames": "10"},
        "mpeg4": {"g": "12", "bf": "2"},
    }[codec]
    clip = encode(tmp_path / "a.mkv", codec, **options)
    info = probe_clip(clip)
    assert bool(info.unclean_keyframes) == (codec != "libvpx-vp9")
    assert wrong_frames(clip, "pyav") == set()
    assert bool(wrong_frames(clip, "decord")) == bool(info.unclean_keyframes)


def test_decord_is_wrong_on_open_gops_and_the_probe_knows(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "open.mp4", x264=OPEN)
    info = probe_clip(clip)
    assert (info.n_frames, info.unclean_keyframes, info.seek_problem) == (60, "open GOPs", None)
    assert wrong_frames(clip, "pyav") == set()
    assert len(wrong_frames(clip, "decord")) > 5


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_a_copied_cut_of_open_gops(tmp_path: Path, ending: str) -> None:
    whole = make_clip(tmp_path / "open.mp4", x264=OPEN)
    cut = copy_cut(whole, tmp_path / f"cut.{ending}", first_packet=OPEN_CUT_PACKET)
    info = probe_clip(cut)
    assert info.unclean_keyframes == "open GOPs"
    assert info.seek_problem is not None
    every = decode_all(cut)
    assert len(decodable_times(cut)) == len(every) == 48
    assert all(np.array_equal(a, b) for a, b in zip(every, decode_all(whole)[12:], strict=True))
    assert wrong_frames(cut, "pyav") == set()
    assert len(wrong_frames(cut, "decord")) > 5


def test_a_cut_from_the_middle_of_a_gop_hides_frames(tmp_path: Path) -> None:
    cut = copy_cut(make_clip(tmp_path / "a.mp4"), tmp_path / "cut.mp4", first_packet=5)
    info = probe_clip(cut)
    assert info.hidden > 0
    assert info.seek_problem == f"{info.hidden} hidden frames (edit list)"
    assert len(decodable_times(cut)) == 48
    assert wrong_frames(cut, "pyav") == set()
    assert wrong_frames(cut, "decord")


@pytest.mark.parametrize("ending", ["avi", "ts"])
def test_decord_is_wrong_in_containers_without_an_index(tmp_path: Path, ending: str) -> None:
    clip = make_clip(tmp_path / f"a.{ending}")
    assert (probe_clip(clip).seek_problem or "").startswith("no dependable index")
    assert wrong_frames(clip, "pyav") == set()
    assert len(wrong_frames(clip, "decord")) > 5


@pytest.mark.parametrize(("turns", "rotation"), [(1, -90), (2, -180), (3, 90)])
def test_turned_clips_are_upright(tmp_path: Path, turns: int, rotation: int) -> None:
    clip = make_clip(tmp_path / "a.mp4")
    turned = turn(clip, tmp_path / "turned.mp4", quarter_turns_clockwise=turns)
    assert probe_clip(turned).rotation == rotation
    upright = np.stack([np.rot90(decode_all(clip)[index], -turns) for index in (3, 40)])
    assert np.array_equal(decode_frames(turned, [3, 40], "pyav"), upright)
    if turns == 2:
        assert np.array_equal(decode_frames(turned, [3, 40], "decord"), upright)
    else:
        with pytest.raises(MediaError, match=r"turned\.mp4: decord cannot decode it"):
            decode_frames(turned, [3, 40], "decord")


@pytest.mark.skipif(importlib.util.find_spec("torchcodec") is None, reason="torchcodec is optional")
@pytest.mark.parametrize("x264", [CLOSED, OPEN], ids=["closed", "open"])
def test_torchcodec_returns_the_exact_frames(tmp_path: Path, x264: str) -> None:
    check_reader("torchcodec")
    clip = make_clip(tmp_path / "a.mp4", x264=x264)
    assert wrong_frames(clip, "torchcodec") == set()


def test_a_frame_beyond_the_end_is_an_error_not_another_frame(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4")
    with pytest.raises(MediaError, match="only 60 frames can be decoded, so 1 of the 2 frames asked for are there"):
        decode_frames(clip, [0, 60], "pyav")
    with pytest.raises(MediaError, match="decord"):
        decode_frames(clip, [0, 60], "decord")


def test_a_change_of_size_within_a_clip_is_an_error(tmp_path: Path) -> None:
    target = tmp_path / "joined.h264"  # a raw stream: its parameter sets change with the second half
    small, large = make_clip(tmp_path / "small.h264"), make_clip(tmp_path / "large.h264", size=(64, 80))
    target.write_bytes(small.read_bytes() + large.read_bytes())
    with pytest.raises(MediaError, match=r"joined\.h264: the frame size changes within the clip"):
        decode_frames(target, [0, 100], "pyav")


# ---------------------------------------------------------------- the probe


def test_the_probe_s_numbers(tmp_path: Path) -> None:
    info = probe_clip(make_clip(tmp_path / "a.mp4", n_frames=45, fps=15, size=(48, 80)))
    assert (info.n_frames, info.native_fps, info.width, info.height) == (45, 15.0, 80, 48)
    assert (info.rotation, info.hidden, info.timestamps, info.clean_start) == (0, 0, True, True)
    variable = probe_clip(make_clip(tmp_path / "v.mp4", ticks=UNEVEN))
    assert variable.native_fps == pytest.approx(60 / (UNEVEN[-1] - UNEVEN[0] + 1) * 30, rel=0.02)


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi"])
@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
def test_a_truncated_file_is_an_error(tmp_path: Path, ending: str, share: float) -> None:
    muxer = {"movflags": "faststart"} if ending == "mp4" else {}
    whole = make_clip(tmp_path / f"a.{ending}", muxer=muxer)
    assert probe_clip(whole).n_frames == 60
    cut = truncate(whole, tmp_path / f"cut.{ending}", share)
    with pytest.raises(MediaError, match=rf"^{cut}: the file is cut off: ([1-9]\d?) of 60 frames are there"):
        probe_clip(cut)


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi"])
def test_a_file_cut_anywhere_is_never_taken_for_whole(tmp_path: Path, ending: str) -> None:
    muxer = {"movflags": "faststart"} if ending == "mp4" else {}
    whole = make_clip(tmp_path / f"a.{ending}", muxer=muxer, n_frames=20)
    n_bytes = whole.stat().st_size
    for n_kept in [*range(0, n_bytes, n_bytes // 40), n_bytes - 1]:
        (cut := tmp_path / f"cut.{ending}").write_bytes(whole.read_bytes()[:n_kept])
        with pytest.raises(MediaError, match=f"^{cut}: "):
            probe_clip(cut)


def test_decord_alone_would_shorten_a_truncated_mkv_silently(tmp_path: Path) -> None:
    cut = truncate(make_clip(tmp_path / "a.mkv"), tmp_path / "cut.mkv", 0.6)
    assert 10 < len(decord.VideoReader(str(cut), num_threads=1)) < 50


def test_an_edit_list_is_not_taken_for_truncation(tmp_path: Path) -> None:
    """Samples outside the edit list are not demuxed, though the file declares and holds them."""
    clip = make_clip(tmp_path / "a.mp4")
    data = bytearray(clip.read_bytes())
    at = data.index(b"elst")
    segment = at + 12  # type, version and flags, count: then the segment's duration in movie time units (1/1000 s)
    assert int.from_bytes(data[segment : segment + 4], "big") == 2000
    data[segment : segment + 4] = (1000).to_bytes(4, "big")
    (short := tmp_path / "short.mp4").write_bytes(data)
    info = probe_clip(short)
    assert info.n_frames < 40
    shown = len(decodable_times(short))
    assert shown == len(decode_all(short))
    # The header is at the end. Cut before it names the codec, and not at a share of the file, whose length varies with
    # what x264 finds in memory (MALLOC_PERTURB_=1).
    (cut := tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[: data.index(b"stbl") + len(b"stbl")])
    with pytest.raises(MediaError, match=f"^{cut}: nothing can decode its video stream"):
        probe_clip(cut)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.mp4", b"", r"the file is empty \(0 bytes\)"),
        ("zeros.mp4", bytes(5000), "cannot be read as a video"),
        ("text.mp4", b"<html>404 not found</html>" * 40, "cannot be read as a video"),
        ("short.mkv", b"\x1a\x45\xdf\xa3", "cannot be read as a video"),
    ],
)
def test_what_is_no_video_is_an_error(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (path := tmp_path / name).write_bytes(content)
    with pytest.raises(MediaError, match=f"^{path}: {message}"):
        probe_clip(path)


def test_absent_files_folders_and_sound_alone_are_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.mp4", tmp_path):
        with pytest.raises(MediaError, match=f"^{path}: no such file"):
            probe_clip(path)
    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(MediaError, match=f"^{sound}: there is no video stream in it"):
        probe_clip(sound)


def test_sound_and_several_streams_do_not_disturb_the_count(tmp_path: Path) -> None:
    clip = tmp_path / "both.mp4"
    base = texture(64, 80)
    with av.open(str(clip), "w") as container:
        picture = container.add_stream("libx264", rate=30, options={"x264-params": CLOSED})
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("aac", rate=8000)
        for index in range(30):
            container.mux(picture.encode(av.VideoFrame.from_ndarray(moving_frame(base, index, 48, 64), format="rgb24")))
            noise = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
            noise.sample_rate = 8000
            container.mux(sound.encode(noise))
        container.mux(picture.encode(None))
        container.mux(sound.encode(None))
    assert probe_clip(clip).n_frames == len(decode_all(clip)) == 30


# ---------------------------------------------------------------- readers that are not there


def test_known_readers_pass_and_unknown_ones_do_not() -> None:
    check_reader("decord")
    check_reader("pyav")
    with pytest.raises(ConfigError, match=r"Unknown video reader 'opencv'\. Choose one of: decord, pyav, torchcodec"):
        check_reader("opencv")


def test_an_absent_reader_is_a_config_error_with_the_command_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torchcodec" else find(name))
    with pytest.raises(ConfigError, match=r"'torchcodec' is not installed\. Fix: pip install torchcodec"):
        check_reader("torchcodec")


def test_a_torchcodec_without_ffmpeg_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def failing(name: str, *rest: object) -> object:
        if name.startswith("torchcodec"):
            raise RuntimeError("Could not load libtorchcodec. Likely causes: ...")
        return real_import(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(builtins, "__import__", failing)
    with pytest.raises(ConfigError, match="cannot load FFmpeg's shared libraries"):
        check_reader("torchcodec")


def test_to_rgb_leaves_a_plain_frame_to_pyav(tmp_path: Path) -> None:
    with av.open(str(make_clip(tmp_path / "a.mp4", n_frames=4))) as container:
        for frame in container.decode(video=0):
            assert np.array_equal(to_rgb(frame), frame.to_ndarray(format="rgb24"))
