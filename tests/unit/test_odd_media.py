"""Files as people have them, damaged, odd or hostile: right frames, or one failure that says what to do. About 6 s."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import random
import re
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from seedbench_r1.data.status import verify
from seedbench_r1.media.byte_layout import edit_rates
from seedbench_r1.media.container import MediaError
from seedbench_r1.media.frames import choose_frames, choose_frames_by_time, load_image, load_media
from seedbench_r1.media.layout import MediaFolder
from seedbench_r1.media.probe import probe_clip, uneven_times
from seedbench_r1.models.qwen_vl import frame_times
from seedbench_r1.types import Question, Request, VideoConfig
from tests.media import decode_all, make_clip, make_image, texture, truncate
from tests.media_matrix import PLAIN, encode

CONFIG = VideoConfig()
SCREEN = [*range(30), *(30 * (second + 1) for second in range(30))]  # a second of motion, then a frame a second


def exact(clip: Path, **changes: object) -> None:
    """The frames shown are those of a sequential decode."""
    media = load_media(clip, None, VideoConfig(min_pixels=1, max_pixels=10**8, size_multiple=1, **changes))  # type: ignore[arg-type]
    every = decode_all(clip)
    assert media.frames is not None
    assert all(np.array_equal(every[i], frame) for i, frame in zip(media.frame_indices, media.frames, strict=True))


# ---------------------------------------------------------------- clips


def test_metadata_that_are_not_utf_8(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4")
    data = clip.read_bytes()
    assert b"VideoHandler" in data
    clip.write_bytes(data.replace(b"VideoHandler", b"Vid\xe9oHandler"))
    assert load_media(clip, None, CONFIG).reader_note is None
    exact(clip)
    exact(clip, reader="pyav")


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_a_variable_rate_is_sampled_by_time_and_the_model_is_told_the_true_times(tmp_path: Path, ending: str) -> None:
    clip = make_clip(tmp_path / f"screen.{ending}", ticks=SCREEN)
    media = load_media(clip, None, CONFIG)
    assert media.frame_times is not None
    assert len(media.frame_indices) == 16  # of 30 s; taken for 2 s, it were 4
    true = [SCREEN[index] / 30 for index in media.frame_indices]
    assert np.allclose(true, np.linspace(0, 30, 16), atol=0.6)
    assert np.allclose(media.frame_times, true, atol=0.01)
    request = Request.of("L1/1", (), media)
    assert request.native_fps is not None
    told = frame_times(request.clock_indices, request.native_fps)
    assert np.allclose(told, [(a + b) / 2 for a, b in zip(true[::2], true[1::2], strict=True)], atol=0.01)
    assert media.native_fps == pytest.approx(59 / 30, rel=1e-3)
    assert "frames are chosen by time" in (media.reader_note or "")


def test_times_by_hand() -> None:
    even = [index / 30 for index in range(900)]
    assert uneven_times(even) is None
    jitter = [time + 0.03 * (index % 2) for index, time in enumerate(even)]
    assert uneven_times(jitter) is None  # within two frames of its place
    assert uneven_times([*even[:450], *(time + 1.0 for time in even[450:])]) is not None
    config = VideoConfig(fps=1.0, min_frames=4, max_frames=4)
    assert choose_frames_by_time(even, config) == choose_frames(900, 30.0, config)
    assert choose_frames_by_time([0.0, 0.1, 0.2, 9.0], config) == [0, 2, 3, 3]  # moments 0, 3, 6, 9


def test_dropped_frames_of_an_avi_are_no_truncation(tmp_path: Path) -> None:
    ticks = [tick for tick in range(40) if tick not in (20, 21, 30)]
    clip = encode(tmp_path / "camera.avi", "MJPEG", ticks=ticks)
    info = probe_clip(clip)
    assert (info.n_frames, info.remarks[0]) == (37, "the container has places for 40 frames, 37 are there")
    assert info.n_frames / info.native_fps == pytest.approx(4.0, rel=0.03)
    exact(clip)
    with pytest.raises(MediaError, match="cut off"):
        probe_clip(truncate(clip, tmp_path / "cut.avi", 0.8))


@pytest.mark.parametrize("codec", ["H.264 closed", "HEVC open", "MPEG-4"])
def test_a_clip_without_a_sync_table(tmp_path: Path, codec: str) -> None:
    """Every packet then counts as a keyframe, and a reader that seeks shows what it finds there."""
    clip = encode(tmp_path / "a.mp4", codec, ticks=range(40))
    data = clip.read_bytes()
    assert b"stss" in data
    clip.write_bytes(data.replace(b"stss", b"free"))
    media = load_media(clip, None, PLAIN)
    assert (media.reader, media.n_total) == ("pyav", 40)
    assert re.search("no sync table|open GOPs|decord's decoder complains|may hold no frame", media.reader_note or "")
    exact(clip)


def test_one_damaged_byte_or_sector_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", size=(120, 160), x264="keyint=24:bframes=2", muxer={"movflags": "faststart"})
    data = clip.read_bytes()
    start, rng = data.find(b"mdat") + 8, random.Random(4)
    for reader in ("decord", "pyav"):
        config = VideoConfig(reader=reader)  # type: ignore[arg-type]
        sound = load_media(clip, None, config).frames
        refused = unnoticed = 0
        for index in range(24):
            damaged = bytearray(data)
            at = rng.randrange(start, len(data) - 600)
            if index % 2:
                damaged[at : at + 512] = bytes(512)
            else:
                damaged[at] ^= 1 << rng.randrange(8)
            (target := tmp_path / "x.mp4").write_bytes(damaged)
            try:
                frames = load_media(target, None, config).frames
            except MediaError:
                refused += 1
            else:
                unnoticed += not np.array_equal(frames, sound)
        assert refused >= 16
        assert unnoticed <= 4


@pytest.mark.parametrize("ending", ["mkv", "mp4", "avi", "flv", "ts", "mpg"])
def test_a_clip_that_keeps_the_times_of_the_film_it_was_cut_from(tmp_path: Path, ending: str) -> None:
    """The declared duration is then where the film stood, which is no sign of a file that ends early."""
    film_time = 900  # ten times the clip's own length
    late = make_clip(tmp_path / f"late.{ending}", ticks=range(film_time, film_time + 90), n_frames=90)
    assert load_media(late, None, PLAIN).n_total == 90
    exact(late)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.mkv", "ends early: .* seconds are there. Download it again"),
        ("a.ts", r"nothing can be read after (byte \d+|a part of the file)|ends early"),
        ("a.flv", r"nothing can be read after (byte \d+|a part of the file)|ends early"),
    ],
)
def test_a_file_whose_second_half_is_empty(tmp_path: Path, name: str, message: str) -> None:
    clip = make_clip(tmp_path / name, n_frames=120)
    data = clip.read_bytes()
    assert probe_clip(clip).n_frames == 120
    clip.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    with pytest.raises(MediaError, match=message):
        probe_clip(clip)


@pytest.mark.parametrize(
    "content",
    ["ffconcat version 1.0\nfile 'secret.mp4'\n", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.mp4\n"],
    ids=["list", "playlist"],
)
def test_a_file_that_names_other_files_is_no_clip(tmp_path: Path, content: str) -> None:
    make_clip(tmp_path / "secret.mp4")
    (bad := tmp_path / "a.mp4").write_text(content)
    with pytest.raises(MediaError, match="cannot be read as a video"):
        load_media(bad, None, CONFIG)


def test_a_cover_is_no_track(tmp_path: Path) -> None:
    clip, cover = make_clip(tmp_path / "a.mp4"), io.BytesIO()
    Image.fromarray(texture(48, 64)).save(cover, "PNG")
    with av.open(str(clip)) as reading, av.open(str(tmp_path / "covered.mp4"), "w") as writing:
        track = reading.streams.video[0]
        stream = writing.add_stream_from_template(track)
        picture = writing.add_stream("png", rate=1)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "rgb24"
        picture.disposition = av.stream.Disposition.attached_pic.value
        for packet in list(reading.demux(track)):
            if packet.size:
                packet.stream = stream
                writing.mux(packet)
        writing.mux(picture.encode(av.VideoFrame.from_ndarray(texture(48, 64), format="rgb24")))
        writing.mux(picture.encode(None))
    info = probe_clip(tmp_path / "covered.mp4")
    assert (info.n_tracks, info.n_frames) == (1, 60)


def test_fragments_that_begin_inside_a_group_of_pictures(tmp_path: Path) -> None:
    """decord seeks to the beginning of a fragment, whatever it begins with."""
    muxer = {"movflags": "dash", "frag_duration": "700000"}
    clip = make_clip(tmp_path / "dash.mp4", fps=10, muxer=muxer)
    media = load_media(clip, None, PLAIN)
    assert media.reader_note == "fragments that begin inside a group of pictures: decord miscounts frames after a seek"
    exact(clip, fps=4.0)
    whole = make_clip(tmp_path / "whole.mp4", muxer={"movflags": "frag_keyframe+empty_moov"})
    assert load_media(whole, None, PLAIN).reader_note is None
    exact(whole)


MIRRORED = {  # of a tkhd: a, b, c, d, and what a player makes of the stored picture
    (-1, 0, 0, 1): lambda frame: frame[:, ::-1],
    (1, 0, 0, -1): lambda frame: frame[::-1],
    (0, 1, 1, 0): lambda frame: frame.transpose(1, 0, 2),
    (0, -1, -1, 0): lambda frame: np.rot90(frame, 2).transpose(1, 0, 2),
}


@pytest.mark.parametrize("matrix", MIRRORED)
@pytest.mark.parametrize("reader", ["decord", "pyav"])
def test_mirrored_clips_are_shown_as_a_player_shows_them(tmp_path: Path, matrix: tuple, reader: str) -> None:
    clip = make_clip(tmp_path / "a.mp4")
    data, (a, b, c, d) = bytearray(clip.read_bytes()), matrix
    start = data.index(b"tkhd") + 44
    fields = (a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    data[start : start + 36] = struct.pack(">9i", *fields)
    (mirrored := tmp_path / "m.mp4").write_bytes(data)
    media = load_media(mirrored, None, dataclasses.replace(PLAIN, reader=reader))  # type: ignore[arg-type]
    assert media.reader == "pyav"
    every = decode_all(clip)
    assert media.frames is not None
    for index, frame in zip(media.frame_indices, media.frames, strict=True):
        assert np.array_equal(frame, MIRRORED[matrix](every[index]))


def without_packets(source: Path, target: Path, lost: set[int]) -> Path:
    """As a recorder keeps what a network lost."""
    with av.open(str(source)) as reading, av.open(str(target), "w") as writing:
        track = reading.streams.video[0]
        stream = writing.add_stream_from_template(track)
        for index, packet in enumerate([packet for packet in reading.demux(track) if packet.size]):
            if index not in lost:
                packet.stream = stream
                writing.mux(packet)
    return target


def said_of(clip: Path, reader: str) -> str:
    """The note or the error."""
    try:
        return load_media(clip, None, dataclasses.replace(PLAIN, reader=reader)).reader_note or ""  # type: ignore[arg-type]
    except MediaError as error:
        return str(error)


def test_lost_packets_are_said(tmp_path: Path) -> None:
    """What refers to them is made up; the decoder does not always say so, the times do."""
    whole = make_clip(tmp_path / "a.mp4", fps=10, x264="keyint=60:bframes=0:ref=3")
    clip = without_packets(whole, tmp_path / "lost.mp4", {16, 17, 30})
    for reader in ("decord", "pyav"):
        assert re.search("gaps between frames|damaged", said_of(clip, reader))
    vp9 = without_packets(encode(tmp_path / "v.mkv", "VP9", ticks=range(40)), tmp_path / "lost.mkv", {12, 13, 30})
    assert "2 gaps between frames: some were dropped, or lost" in said_of(vp9, "decord")


def test_not_coded_frames_are_not_counted(tmp_path: Path) -> None:
    """MPEG-4 says "as before" with a packet that gives no frame."""
    clip = encode(tmp_path / "a.mkv", "MPEG-4", ticks=range(40))
    media = load_media(clip, None, PLAIN)
    assert (media.reader, media.n_total) == ("pyav", len(decode_all(clip)))
    assert "packets that may hold no frame (mpeg4)" in (media.reader_note or "")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("gif", lambda data: data + b"\r\n"),
        ("ts", lambda data: data + b"recorded by a tuner" * 5),
        ("ts", lambda data: data[77:]),
    ],
    ids=["GIF with a tail", "TS with a tail", "TS from within a packet"],
)
def test_sound_files_with_something_before_or_behind(tmp_path: Path, name: str, change: Callable) -> None:
    codec = "GIF" if name == "gif" else "H.264 closed"
    clip = encode(tmp_path / f"a.{name}", codec, ticks=range(40))
    clip.write_bytes(change(clip.read_bytes()))
    assert load_media(clip, None, PLAIN).n_total == len(decode_all(clip))


@pytest.mark.parametrize("start", [2**33 - 270_000, 900_000, 5_000_000])
def test_a_transport_stream_may_begin_at_any_time(tmp_path: Path, start: int) -> None:
    """Its clock of 33 bits may wrap inside a recording."""
    whole = make_clip(tmp_path / "a.mp4", fps=10, x264="keyint=12:bframes=0")
    with av.open(str(whole)) as reading, av.open(str(tmp_path / "a.ts"), "w", options={"copyts": "1"}) as writing:
        track = reading.streams.video[0]
        stream = writing.add_stream_from_template(track)
        for packet in [packet for packet in reading.demux(track) if packet.size]:
            packet.pts = packet.dts = int(packet.pts * packet.time_base * 90_000) + start
            packet.time_base = Fraction(1, 90_000)
            packet.stream = stream
            writing.mux(packet)
    media = load_media(tmp_path / "a.ts", None, PLAIN)
    assert media.n_total == 60


def test_odd_metadata_between_the_pictures_are_no_damage(tmp_path: Path) -> None:
    """Encoders write comments (SEI) whose length is wrong; FFmpeg says so, and no picture is harmed."""
    clip = make_clip(tmp_path / "a.mp4")
    data = bytearray(clip.read_bytes())
    at = data.index(b"x264 - core") - 16  # behind the identifier of a comment: type 5, then its length
    assert data[at - 2] != 0
    sizes = [place for place in range(at - 6, at) if data[place : place + 1] == b"\xff"]
    data[sizes[-1] + 1] = 0xFE  # longer than the unit
    clip.write_bytes(data)
    for reader in ("decord", "pyav"):
        media = load_media(clip, None, dataclasses.replace(PLAIN, reader=reader))  # type: ignore[arg-type]
        assert media.n_total == 60


def test_a_link_to_itself_is_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "videos" / "EpicKitchens").mkdir(parents=True)
    loop = tmp_path / "videos" / "EpicKitchens" / "1.mp4"
    loop.symlink_to("1.mp4")
    (tmp_path / "videos" / "again").symlink_to("again")
    assert MediaFolder(tmp_path).locate("videos", "EpicKitchens", "1.mp4") == loop


def test_looking_at_odd_clips_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = make_clip(tmp_path / "a.mp4", fps=10)
    with contextlib.suppress(MediaError):
        load_media(without_packets(whole, tmp_path / "lost.mp4", {0, 1, 7, 30}), None, PLAIN)
    assert capfd.readouterr() == ("", "")


# ---------------------------------------------------------------- images


def test_grey_levels_of_sixteen_bits_keep_their_upper_half(tmp_path: Path) -> None:
    levels = np.linspace(0, 65535, 56 * 56).reshape(56, 56).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / "a.png")
    assert np.array_equal(load_image(tmp_path / "a.png", CONFIG)[..., 0], (levels >> 8).astype(np.uint8))
    Image.fromarray((levels / 65535).astype(np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(MediaError, match="32 bits have no agreed range; save it with 8 or 16 bits"):
        load_image(tmp_path / "a.tif", CONFIG)


@pytest.mark.parametrize("name", ["AVIF", "DDS", "BLP", "SPIDER", "JPEG2000", "ICO", "TGA"])
def test_other_formats_are_not_opened_whatever_their_names(tmp_path: Path, name: str) -> None:
    picture = Image.fromarray(texture(64, 64)).convert({"BLP": "P", "SPIDER": "F"}.get(name, "RGB"))
    picture.save(stream := io.BytesIO(), format=name)  # into a file, SPIDER would take its ending for its own
    (tmp_path / "a.png").write_bytes(stream.getvalue())
    with pytest.raises(MediaError, match=r"a\.png: cannot be read as an image \(none of JPEG, PNG"):
        load_image(tmp_path / "a.png", CONFIG)


def test_no_program_is_started_for_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands PostScript to Ghostscript, which outlives the worker that is killed for it."""
    (tmp_path / "bin").mkdir()
    for program in ("gs", "gswin32c", "gswin64c"):
        (tmp_path / "bin" / program).write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
        (tmp_path / "bin" / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (bad := tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n{} loop\nshowpage\n")
    with pytest.raises(MediaError, match="cannot be read as an image"):
        load_image(bad, CONFIG)
    assert not (tmp_path / "started").exists()


# ---------------------------------------------------------------- one of each kind in `data verify`


def test_each_file_has_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    sound = make_clip(tmp_path / "sound.mp4")
    made: dict[str, tuple[Callable[[Path], object], str, bool]] = {
        "absent.mp4": (lambda path: None, "missing", False),
        "empty.mp4": (lambda path: path.write_bytes(b""), "the file is empty", False),
        "text.mp4": (lambda path: path.write_text("<html>403</html>"), "cannot be read as a video", False),
        "cut.mkv": (lambda path: truncate(make_clip(tmp_path / "w.mkv"), path, 0.6), "is cut off", False),
        "one.mp4": (lambda path: make_clip(path, n_frames=1), "the clip has 1 frame", False),
        "av1.mp4": (lambda path: encode(path, "AV1", ticks=range(40)), "decord 0.6 has no decoder for AV1", True),
        "open.mp4": (lambda path: encode(path, "H.264 open", ticks=range(40)), "open GOPs", True),
        "rate.mp4": (lambda path: make_clip(path, ticks=SCREEN), "variable frame rate", True),
        "bad.png": (lambda path: path.write_text("no picture"), "cannot be read as an image", False),
        "cut.jpg": (lambda path: truncate(make_image(tmp_path / "w.jpg"), path, 0.5), "truncated", False),
    }
    questions = [_asks(1, sound), _asks(2, make_image(tmp_path / "sound.png"))]
    for number, (name, (make, _, _)) in enumerate(made.items(), start=3):
        make(tmp_path / name)
        questions.append(_asks(number, tmp_path / name))
    found = {finding.path.name: finding for finding in verify(questions, CONFIG)}
    assert set(found) == set(made)
    for name, (_, message, usable) in made.items():
        finding = found[name]
        assert message in finding.message
        assert (finding.usable, finding.message.count("\n")) == (usable, 0)
        if not usable and name not in ("absent.mp4", "one.mp4"):
            assert "ownload it again" in finding.message or "truncated" in finding.message or "empty" in finding.message


def _asks(number: int, path: Path) -> Question:
    is_image = path.suffix in (".png", ".jpg")
    files = {"video": None, "image": path} if is_image else {"video": path, "image": None}
    return Question(f"L1/{number}", "L1", "q", ("a", "b"), "A", cluster="v", **files)


@pytest.mark.parametrize(("rate", "said"), [(0x0002_0000, "2"), (0x0000_8000, "0.5"), (0, "0")])
def test_an_edit_that_plays_at_another_speed_is_refused(tmp_path: Path, rate: int, said: str) -> None:
    clip = make_clip(tmp_path / "a.mp4", n_frames=30)
    data = bytearray(clip.read_bytes())
    assert edit_rates(clip) == {1.0}
    probe_clip(clip)  # as it is, it is sound
    at = data.index(b"elst") + 4 + 8 + 8  # version, flags and number of entries; duration and media time of the first
    data[at : at + 4] = rate.to_bytes(4, "big")
    clip.write_bytes(data)
    with pytest.raises(MediaError, match=rf"at another speed \({said}\).*Encode it anew"):
        probe_clip(clip)
