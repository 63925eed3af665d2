"""Media become pixels: which frames, at which size, and one question's clip and image as uint8 arrays."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from seedbench_r1.media.decode import (
    ClipInfo,
    MediaError,
    Pixels,
    count_decodable,
    decode_frames,
    decode_in_sequence,
    probe_clip,
)
from seedbench_r1.types import Media, Reader, VideoConfig

FRAME_FACTOR = 2  # Qwen2-VL and later merge two frames in time (qwen-vl-utils 0.0.14, FRAME_FACTOR)
MAX_RATIO = 200  # longest to shortest side (qwen-vl-utils 0.0.14, MAX_RATIO)


def choose_frames(n_total: int, native_fps: float, config: VideoConfig) -> list[int]:
    """Indices of the frames that the model sees, spread evenly from the first to the last.

    n = clip seconds x config.fps, clamped to min_frames..max_frames, not above n_total, floored to even;
    indices = torch.linspace(0, n_total - 1, n).round() in float32, half to even.

    This is `smart_nframes` of qwen-vl-utils 0.0.14 whenever min_frames is even: the order is the same (minimum,
    maximum, n_total, floor). The reference also raises an odd minimum to the next even number; here the number is
    floored like any other (min_frames 5 allows 4).

    Args:
        n_total: frames in the clip.
        native_fps: average frames per second, so that n_total / native_fps is the length in seconds.
        config: fps, min_frames and max_frames.

    Raises:
        MediaError: fewer than 2 frames.
    """
    # Clip seconds times the rate: the rate is of clip time, not of the file's frames.
    n = n_total / native_fps * config.fps
    n = min(min(max(n, config.min_frames), config.max_frames), n_total)
    n_frames = math.floor(n / FRAME_FACTOR) * FRAME_FACTOR
    if n_frames < FRAME_FACTOR:
        raise MediaError(f"the clip has {n_total} frame(s); at least {FRAME_FACTOR} are needed")
    return _spread(n_total - 1, n_frames)


def _spread(last: int, n: int) -> list[int]:
    """round(torch.linspace(0, last, n)) in torch's float32 arithmetic: from each end towards the middle.

    Equal to torch on any machine for the protocols' 16 frames of clips of up to 200,000 frames. Beyond that, torch's
    own result depends on the machine (its AVX code rounds some numbers otherwise than its scalar code); this is the
    scalar one, everywhere.
    """
    # float32 throughout: in float64 some halves would round the other way.
    step = np.float32(last) / np.float32(n - 1)
    index = np.arange(n, dtype=np.int64)
    from_start = step * index.astype(np.float32)
    from_end = np.float32(last) - step * (n - 1 - index).astype(np.float32)
    return [int(value) for value in np.rint(np.where(index < n // 2, from_start, from_end))]


def target_size(height: int, width: int, *, min_pixels: int, max_pixels: int, multiple: int) -> tuple[int, int]:
    """(height, width) in pixels after resizing: multiples of `multiple`, the aspect kept as well as they allow.

    Each side is rounded to the nearest multiple (half to even); if the area is then above max_pixels, scaled down and
    floored; if it is below min_pixels, scaled up and ceiled. Never below one multiple. Source: `smart_resize` of
    qwen-vl-utils 0.0.14, which can floor a side of a very long picture to 0.

    Raises:
        MediaError: one side is more than 200 times the other.
    """
    if max(height, width) > MAX_RATIO * min(height, width):
        raise MediaError(f"{width}x{height} pixels: one side is more than {MAX_RATIO} times the other")
    # Python rounds halves to even, as the reference does.
    new_height = max(multiple, round(height / multiple) * multiple)
    new_width = max(multiple, round(width / multiple) * multiple)
    if new_height * new_width > max_pixels:
        scale = math.sqrt((height * width) / max_pixels)
        new_height = max(multiple, math.floor(height / scale / multiple) * multiple)
        new_width = max(multiple, math.floor(width / scale / multiple) * multiple)
    elif new_height * new_width < min_pixels:
        scale = math.sqrt(min_pixels / (height * width))
        new_height = math.ceil(height * scale / multiple) * multiple
        new_width = math.ceil(width * scale / multiple) * multiple
    return new_height, new_width


def load_media(video: Path | None, image: Path | None, config: VideoConfig) -> Media:
    """Decode and resize what one question shows. Runs inside a decoding worker; imports no torch.

    The clip is decoded by config.reader, except where that reader is known to be wrong: PyAV then decodes it in
    sequence, and Media.reader and reader_note say so.

    Raises:
        MediaError: absent, truncated or undecodable; the message names the file.
    """
    # The image first: it is quick, and a bad one saves decoding the clip.
    picture = None if image is None else load_image(image, config)
    if video is None:
        return Media(None, (), None, None, picture, reader=None)
    info = probe_clip(video)
    note = why_in_sequence(info, config.reader)
    reader: Reader = "pyav" if note else config.reader
    try:
        # Errors below name no file: they come from functions that know none.
        n_total, indices = _chosen_frames(video, info, config)
        frames = decode_frames(video, indices, reader)
        limits = {"min_pixels": config.min_pixels, "max_pixels": config.max_pixels}
        size = target_size(*frames.shape[1:3], **limits, multiple=config.size_multiple)
    except MediaError as error:
        raise _naming(video, error) from error
    return Media(
        frames=resize_frames(frames, size),
        frame_indices=tuple(indices),
        native_fps=info.native_fps,
        n_total=n_total,
        image=picture,
        reader=reader,
        reader_note=note,
    )


def why_in_sequence(info: ClipInfo, reader: Reader) -> str | None:
    """Why PyAV decodes this clip in sequence although another reader was asked for; None: that reader is right."""
    if reader == "pyav":
        return None
    if info.seek_problem:
        # Readers seek by packet; PyAV in sequence counts what is really shown.
        return f"{info.seek_problem}: {reader} miscounts frames"
    if reader == "decord" and info.open_gop:
        return "open GOPs: decord miscounts frames after a seek"
    if reader == "decord" and info.rotation % 180:
        return "to be turned by 90 degrees: decord 0.6 cannot return such frames"
    return None


def _chosen_frames(video: Path, info: ClipInfo, config: VideoConfig) -> tuple[int, list[int]]:
    """Frames in the clip, and the indices to show. Frames whose references were cut away don't count: none shows them.

    That needs a decoding pass of its own, but only for the rare clips whose packets are not all frames.
    """
    n_total = count_decodable(video) if info.seek_problem else info.n_frames
    # The container's rate holds also where some frames cannot be shown.
    return n_total, choose_frames(n_total, info.native_fps, config)


def _naming(path: Path, error: MediaError) -> MediaError:
    message = str(error)
    return MediaError(message if message.startswith(str(path)) else f"{path}: {message}")


def resize_frames(frames: Pixels, size: tuple[int, int]) -> Pixels:
    """(T, H, W, 3) uint8 -> (T, height, width, 3) uint8, bicubic with antialias, on 8-bit values.

    Pillow's result is within one grey level of torch's uint8 bicubic with antialias when shrinking, and within two
    when enlarging, where one value in 10,000 at most is two off (tests/unit/test_frames.py).
    """
    height, width = size
    # Bicubic at the same size is the identity.
    if frames.shape[1:3] == size:
        return frames
    resized = np.empty((len(frames), height, width, 3), dtype=np.uint8)
    for index, frame in enumerate(frames):
        resized[index] = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))
    return resized


def load_image(path: Path, config: VideoConfig) -> Pixels:  # (H, W, 3) uint8
    """An image as RGB at its target size. As in the reference, EXIF orientation is ignored and alpha is dropped.

    Raises:
        MediaError: absent, truncated or not an image; the message names the file.
    """
    if not path.is_file():
        raise MediaError(f"{path}: no such file")
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
    # Pillow raises SyntaxError for broken PNG chunks.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "no image format that Pillow knows" if isinstance(error, UnidentifiedImageError) else error
        raise MediaError(f"{path}: cannot be read as an image ({reason})") from error
    try:
        limits = {"min_pixels": config.image_min_pixels, "max_pixels": config.image_max_pixels}
        height, width = target_size(picture.height, picture.width, **limits, multiple=config.size_multiple)
    except MediaError as error:
        raise _naming(path, error) from error
    # A copy: np.asarray of a picture is read-only.
    return np.array(picture.resize((width, height), Image.Resampling.BICUBIC))


def exact_frames_differ(path: Path, config: VideoConfig) -> list[int]:
    """Indices among the chosen frames at which decord's pixels differ from PyAV's, decoded in sequence.

    An empty list means that decord shows exactly the frames that were asked for.

    Raises:
        MediaError: one of the two cannot decode the clip.
    """
    try:
        _, indices = _chosen_frames(path, probe_clip(path), config)
    except MediaError as error:
        raise _naming(path, error) from error
    # Compared at the stored size: resizing would blur small differences.
    decord_frames = decode_frames(path, indices, "decord")
    exact_frames = decode_in_sequence(path, indices)
    return [
        index
        for index, ours, exact in zip(indices, decord_frames, exact_frames, strict=True)
        if not np.array_equal(ours, exact)
    ]
