"""Which frames and which sizes, against torch and qwen-vl-utils; and one question's media. About 10 s."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from seedbench_r1.media.container import MediaError
from seedbench_r1.media.frames import (
    choose_frames,
    exact_frames_differ,
    load_image,
    load_media,
    resize_frames,
    target_size,
    why_in_sequence,
)
from seedbench_r1.media.probe import ClipInfo, probe_clip
from seedbench_r1.types import VideoConfig
from tests.media import OPEN, copy_cut, decode_all, make_clip, make_image, texture, truncate, turn

CONFIG = VideoConfig()
DENSE = VideoConfig(min_frames=16)  # 16 frames of any clip that has them


def n_wanted(n: int) -> VideoConfig:
    return VideoConfig(min_frames=n, max_frames=n)


# ---------------------------------------------------------------- which frames


@pytest.mark.parametrize(
    ("n_total", "fps", "expected"),
    [
        (900, 30.0, [0, 60, 120, 180, 240, 300, 360, 420, 479, 539, 599, 659, 719, 779, 839, 899]),  # 60 -> 16
        (105, 30.0, [0, 21, 42, 62, 83, 104]),  # 3.5 s x 2 = 7 -> 6; 104 / 5 = 20.8 apart
        (30, 30.0, [0, 10, 19, 29]),  # 1 s x 2 = 2 -> minimum 4; 29 / 3 apart: 9.67, 19.33
        (3, 30.0, [0, 2]),  # not above the 3 frames there are, floored to 2
        (2, 60.0, [0, 1]),
        (4, 0.1, [0, 1, 2, 3]),  # 40 s x 2 = 80, but 4 frames
    ],
)
def test_chosen_frames_by_hand(n_total: int, fps: float, expected: list[int]) -> None:
    assert choose_frames(n_total, fps, CONFIG) == expected


@pytest.mark.parametrize("n", range(2, 17, 2))
def test_indices_are_torch_s_for_every_length_up_to_5000(n: int) -> None:
    config = n_wanted(n)
    for n_total in range(max(n, 2), 5001):
        expected = torch.linspace(0, n_total - 1, n).round().long().tolist()
        assert choose_frames(n_total, 30.0, config) == expected, n_total


def test_indices_are_torch_s_for_long_clips() -> None:
    for n_total in np.random.default_rng(0).integers(5_000, 200_000, 2000).tolist():
        for n in range(2, 17, 2):
            expected = torch.linspace(0, n_total - 1, n).round().long().tolist()
            assert choose_frames(n_total, 30.0, n_wanted(n)) == expected, (n_total, n)


def test_more_frames_and_longer_clips_follow_torch_s_scalar_arithmetic() -> None:
    # torch's vectorised code differs between machines there; its scalar code, chosen by the variable, does not
    sizes = "for t in [*range(700, 9000, 83), 2000003, 2**24] for n in range(6, 700, 58)"
    program = f"import torch; print([torch.linspace(0, t - 1, n).round().long().tolist() {sizes}])"
    environment = os.environ | {"ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    lengths = [*range(700, 9000, 83), 2_000_003, 2**24]
    assert str([choose_frames(t, 30.0, n_wanted(n)) for t in lengths for n in range(6, 700, 58)]) == done.stdout.strip()


@given(
    n_total=st.integers(2, 20_000),
    fps=st.floats(0.5, 240.0),
    minimum=st.integers(1, 20).map(lambda half: 2 * half),
    spare=st.integers(0, 40),
    wanted=st.sampled_from([0.5, 1.0, 2.0, 4.0]),
)
def test_the_number_of_frames_is_the_reference_s(
    n_total: int, fps: float, minimum: int, spare: int, wanted: float
) -> None:
    reference = pytest.importorskip("qwen_vl_utils.vision_process").smart_nframes
    config = VideoConfig(fps=wanted, min_frames=minimum, max_frames=minimum + spare)
    element = {"fps": wanted, "min_frames": minimum, "max_frames": minimum + spare}
    chosen = choose_frames(n_total, fps, config)
    assert len(chosen) == reference(element, n_total, fps)
    assert chosen[0] == 0
    assert chosen[-1] == n_total - 1
    assert chosen == sorted(set(chosen))


def test_an_odd_minimum_is_floored_where_the_reference_would_raise_it() -> None:
    reference = pytest.importorskip("qwen_vl_utils.vision_process").smart_nframes
    assert reference({"fps": 2.0, "min_frames": 5, "max_frames": 16}, 30, 30.0) == 6
    assert len(choose_frames(30, 30.0, VideoConfig(min_frames=5))) == 4


@pytest.mark.parametrize("n_total", [0, 1])
def test_fewer_than_two_frames_are_refused(n_total: int) -> None:
    with pytest.raises(MediaError, match=rf"the clip has {n_total} frame\(s\); at least 2 are needed"):
        choose_frames(n_total, 30.0, CONFIG)


# ---------------------------------------------------------------- which size


def test_sizes_by_hand() -> None:
    limits = {"min_pixels": 128 * 28 * 28, "max_pixels": 105_369, "multiple": 28}
    # 456x256: nearest 448x252 = 112,896 is above the maximum; / sqrt(116,736 / 105,369) = 433.2x243.2, floored
    assert target_size(256, 456, **limits) == (224, 420)
    # 64x48: nearest 56x56 is below the minimum; x sqrt(100,352 / 3,072) = 365.8x274.3, ceiled
    assert target_size(48, 64, **limits) == (280, 392)
    # 14 and 42 are halves: 0.5 -> 0 -> one multiple, 1.5 -> 2
    assert target_size(14, 42, min_pixels=1, max_pixels=10**6, multiple=28) == (28, 56)


@pytest.mark.parametrize("multiple", [28, 32])
def test_sizes_are_the_reference_s(multiple: int) -> None:
    smart_resize = pytest.importorskip("qwen_vl_utils.vision_process").smart_resize
    sides = [1, 2, 13, 14, 27, 28, 29, 42, 48, 56, 70, 100, 224, 240, 256, 333, 456, 480, 720, 1080, 1440, 1920, 3840]
    compared = 0
    for low, high in [(CONFIG.min_pixels, CONFIG.max_pixels), (CONFIG.image_min_pixels, CONFIG.image_max_pixels)]:
        for height in sides:
            for width in sides:
                if max(height, width) > 200 * min(height, width):
                    continue
                expected = smart_resize(height, width, multiple, low, high)
                found = target_size(height, width, min_pixels=low, max_pixels=high, multiple=multiple)
                assert found == tuple(max(multiple, side) for side in expected), (height, width)
                compared += 1
    assert compared > 800


def test_a_strip_is_refused() -> None:
    assert target_size(2, 400, min_pixels=1, max_pixels=10**9, multiple=28) == (28, 392)
    with pytest.raises(MediaError, match="401x2 pixels: one side is more than 200 times the other"):
        target_size(2, 401, min_pixels=1, max_pixels=10**9, multiple=28)


@pytest.mark.parametrize("size", [(224, 420), (280, 392), (28, 28), (600, 1000)])
@pytest.mark.parametrize("source", [(256, 456), (48, 64), (101, 333)])
def test_resizing_is_torch_s_uint8_bicubic_but_for_rounding(source: tuple[int, int], size: tuple[int, int]) -> None:
    frames = np.stack([texture(*source, seed=seed) for seed in range(2)])
    frames[0, ::2, ::3] = 255 - frames[0, ::2, ::3]  # hard edges, so that overshoot is clipped
    expected = functional.resize(
        torch.from_numpy(frames).permute(0, 3, 1, 2), list(size), InterpolationMode.BICUBIC, antialias=True
    )
    assert expected.dtype == torch.uint8
    difference = np.abs(resize_frames(frames, size).astype(int) - expected.permute(0, 2, 3, 1).numpy())
    shrinks = size[0] <= source[0] and size[1] <= source[1]
    assert difference.max() <= (1 if shrinks else 2)
    assert (difference > 1).mean() < 1e-4


# ---------------------------------------------------------------- one question's media


def expected_pixels(path: Path, indices: tuple[int, ...], size: tuple[int, int]) -> np.ndarray:
    every = decode_all(path)
    return resize_frames(np.stack([every[index] for index in indices]), size)


def test_media_of_a_plain_clip_are_the_exact_frames(tmp_path: Path) -> None:
    clip, image = make_clip(tmp_path / "a.mp4"), make_image(tmp_path / "i.png")
    media = load_media(clip, image, CONFIG)
    assert (media.reader, media.reader_note) == ("decord", None)
    assert (media.n_total, media.native_fps) == (60, 30.0)
    assert media.frame_indices == (0, 20, 39, 59)  # 2 s x 2
    assert media.frames is not None
    assert (media.frames.shape, media.frames.dtype) == ((4, 280, 392, 3), np.uint8)
    assert np.array_equal(media.frames, expected_pixels(clip, media.frame_indices, (280, 392)))
    assert np.array_equal(media.image, np.asarray(Image.open(image).convert("RGB").resize((112, 84))))


def test_a_question_without_a_clip_has_an_image_only(tmp_path: Path) -> None:
    media = load_media(None, make_image(tmp_path / "i.png"), CONFIG)
    assert (media.frames, media.frame_indices, media.native_fps, media.n_total) == (None, (), None, None)
    assert (media.reader, media.image.shape) == (None, (84, 112, 3))


def test_an_open_gop_clip_is_decoded_in_sequence_and_says_so(tmp_path: Path) -> None:
    clip, image = make_clip(tmp_path / "open.mp4", x264=OPEN), make_image(tmp_path / "i.png")
    media = load_media(clip, image, DENSE)
    assert media.reader == "pyav"
    assert media.reader_note == "open GOPs: decord miscounts frames after a seek"
    assert np.array_equal(media.frames, expected_pixels(clip, media.frame_indices, (280, 392)))


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_a_copied_cut_counts_the_frames_that_can_be_decoded(tmp_path: Path, ending: str) -> None:
    whole, image = make_clip(tmp_path / "open.mp4", x264=OPEN), make_image(tmp_path / "i.png")
    cut = copy_cut(whole, tmp_path / f"cut.{ending}", first_packet=9)  # 51 packets; 3 lost their references
    media = load_media(cut, image, DENSE)
    assert media.n_total == len(decode_all(cut)) == 48
    assert media.reader == "pyav"
    assert media.reader_note in (
        "3 hidden frames (edit list): decord miscounts frames",
        "begins with frames whose references were cut away: decord miscounts frames",
    )
    assert np.array_equal(media.frames, expected_pixels(cut, media.frame_indices, (280, 392)))


def test_a_clip_to_be_turned_is_shown_upright(tmp_path: Path) -> None:
    clip, image = make_clip(tmp_path / "a.mp4"), make_image(tmp_path / "i.png")
    turned = turn(clip, tmp_path / "turned.mp4", quarter_turns_clockwise=1)
    media = load_media(turned, image, CONFIG)
    assert (media.reader, media.reader_note) == (
        "pyav",
        "to be turned by 90 degrees: decord 0.6 cannot return such frames",
    )
    upright = np.stack([np.rot90(decode_all(clip)[index], -1) for index in (0, 20, 39, 59)])
    assert np.array_equal(media.frames, resize_frames(np.ascontiguousarray(upright), (392, 280)))


@pytest.mark.parametrize(
    ("change", "reader", "note"),
    [
        ({}, "decord", None),
        ({"unclean_keyframes": "open GOPs"}, "decord", "open GOPs"),
        ({"unclean_keyframes": "open GOPs"}, "torchcodec", None),
        ({"unclean_keyframes": "open GOPs"}, "pyav", None),
        ({"container": "avi"}, "torchcodec", r"no dependable index \(avi\)"),
        ({"container": "matroska,webm"}, "decord", None),
        ({"timestamps": False}, "decord", "packets without time stamps"),
        ({"hidden": 2}, "torchcodec", "2 hidden frames"),
        ({"clean_start": False}, "decord", "begins with frames whose references were cut away"),
        ({"rotation": -90}, "decord", "to be turned by 90 degrees"),
        ({"rotation": 180}, "decord", None),
        ({"rotation": 90}, "torchcodec", None),
    ],
)
def test_when_another_reader_than_the_one_asked_for_decodes(
    change: dict[str, object], reader: str, note: str | None
) -> None:
    plain = ClipInfo(60, 30.0, 64, 48, "mov,mp4")
    found = why_in_sequence(dataclasses.replace(plain, **change), reader)  # type: ignore[arg-type]
    assert found is None if note is None else found is not None and re.match(note, found)


def test_frames_that_differ_are_listed(tmp_path: Path) -> None:
    closed = make_clip(tmp_path / "closed.mp4")
    opened = make_clip(tmp_path / "open.mp4", x264=OPEN)
    assert exact_frames_differ(closed, DENSE) == []
    chosen = choose_frames(60, 30.0, n_wanted(4))
    assert exact_frames_differ(opened, n_wanted(4)) == [
        index for index in chosen if index in decord_is_wrong_at(opened)
    ]
    with pytest.raises(MediaError, match=r"one\.mp4: the clip has 1 frame"):
        exact_frames_differ(make_clip(tmp_path / "one.mp4", n_frames=1), DENSE)


def decord_is_wrong_at(path: Path) -> set[int]:
    import decord

    clip, every = decord.VideoReader(str(path), num_threads=1), decode_all(path)
    indices = choose_frames(len(every), 30.0, n_wanted(4))
    frames = clip.get_batch(indices).asnumpy()
    return {index for index, frame in zip(indices, frames, strict=True) if not np.array_equal(frame, every[index])}


def test_a_broken_clip_or_image_is_a_media_error_with_its_path(tmp_path: Path) -> None:
    clip, image = make_clip(tmp_path / "a.mp4"), make_image(tmp_path / "i.jpg", size=(300, 400))
    cut_image = truncate(image, tmp_path / "cut.jpg", 0.5)
    (text := tmp_path / "text.png").write_text("no picture")
    (empty := tmp_path / "empty.png").write_bytes(b"")
    for bad, message in [
        (cut_image, "cannot be read as an image .*truncated"),
        (text, "cannot be read as an image"),
        (empty, "cannot be read as an image"),
        (tmp_path / "absent.png", "no such file"),
    ]:
        with pytest.raises(MediaError, match=f"^{bad}: {message}"):
            load_media(clip, bad, CONFIG)
    one = make_clip(tmp_path / "one.mp4", n_frames=1)
    with pytest.raises(MediaError, match=rf"^{one}: the clip has 1 frame\(s\)"):
        load_media(one, image, CONFIG)


def test_an_image_is_read_as_the_reference_reads_it(tmp_path: Path) -> None:
    """qwen-vl-utils: RGBA on white; else Pillow's convert("RGB"): orientation ignored, palettes and grey expanded."""
    to_rgb = pytest.importorskip("qwen_vl_utils.vision_process").to_rgb
    picture = Image.fromarray(texture(90, 120))
    orientation = Image.Exif()
    orientation[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=orientation)
    picture.convert("L").save(tmp_path / "grey.png")
    picture.convert("P").save(tmp_path / "palette.png")
    with_alpha = picture.convert("RGBA")
    with_alpha.putalpha(128)
    with_alpha.save(tmp_path / "alpha.png")
    for name in ("turned.jpg", "grey.png", "palette.png", "alpha.png"):
        path = tmp_path / name
        expected = np.asarray(to_rgb(Image.open(path)).resize((112, 84)))
        assert np.array_equal(load_image(path, CONFIG), expected), name


def test_the_probe_and_the_plan_agree(tmp_path: Path) -> None:
    """What `eval --dry-run` computes from the probe is what loading returns."""
    clip = make_clip(tmp_path / "a.mp4", n_frames=75, size=(50, 66))
    info = probe_clip(clip)
    media = load_media(clip, make_image(tmp_path / "i.png"), CONFIG)
    assert media.frames is not None
    assert tuple(choose_frames(info.n_frames, info.native_fps, CONFIG)) == media.frame_indices
    size = target_size(info.height, info.width, min_pixels=CONFIG.min_pixels, max_pixels=CONFIG.max_pixels, multiple=28)
    assert media.frames.shape[1:3] == size
    assert math.isclose(info.n_frames / info.native_fps, 2.5)
