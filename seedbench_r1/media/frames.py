"""Media become pixels: which frames, at which size, and one question's clip and image as uint8 arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from seedbench_r1.media.container import MediaError
from seedbench_r1.media.decode import (
    DamageError,
    KeptFrames,
    Pixels,
    decodable_times,
    decode_frames,
    decode_in_sequence,
    decode_with_decord,
)
from seedbench_r1.media.probe import ClipInfo, probe_clip, uneven_times
from seedbench_r1.types import Media, Reader, VideoConfig

FRAME_FACTOR = 2  # Qwen2-VL and later merge two frames in time (qwen-vl-utils 0.0.14, FRAME_FACTOR)
# Up to this frame size 16 frames of decord's take less than 1.5 GB; 16 of 8000 x 8000 pixels take it
# 3.8 GB, and PyAV 0.8
DECORD_PIXELS = 9_000_000
# Pillow knows some forty formats, and starts Ghostscript for one of them: only these are opened. WebP and TIFF are
# known to it only once their modules are imported.
IMAGE_FORMATS = ("JPEG", "PNG", str(WebPImageFile.format), "BMP", "GIF", str(TiffImageFile.format), "PPM")
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
        raise MediaError(
            f"the clip has {n_total} frame(s); at least {FRAME_FACTOR} are needed. A picture belongs to images/"
        )
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

    The clip is decoded by config.reader, except where that reader is known to be wrong, or fails: PyAV then decodes it,
    and Media.reader and reader_note say so. The note also says where frames are chosen by time, and where the file
    contradicts itself.

    Raises:
        MediaError: absent, truncated, damaged or undecodable; the message names the file.
    """
    # The image first: it is quick, and a bad one saves decoding the clip.
    picture = None if image is None else load_image(image, config)
    if video is None:
        return Media(None, (), None, None, picture, reader=None)
    try:
        # Errors below may name no file: some come from functions that know none.
        clip = probe_clip(video)
        chosen = chosen_frames(video, clip, config)
        fallback = why_in_sequence(clip, config.reader)
        frames, reader, failed = _decode(video, chosen.indices, "pyav" if fallback else config.reader, config)
    except MediaError as error:
        raise _naming(video, error) from error
    by_time = None if chosen.times is None else "variable frame rate: frames are chosen by time"
    notes = [note for note in (fallback or failed, by_time, *clip.remarks) if note]
    return Media(
        frames=frames,
        frame_indices=chosen.indices,
        native_fps=chosen.native_fps,
        n_total=chosen.n_total,
        image=picture,
        reader=reader,
        reader_note="; ".join(notes) or None,
        frame_times=chosen.times,
    )


def _decode(
    video: Path, indices: Sequence[int], reader: Reader, config: VideoConfig
) -> tuple[Pixels, Reader, str | None]:
    """Frames at their target size, what decoded them, and why that is not the reader asked for."""

    def resize(frame: Pixels) -> Pixels:
        limits = {"min_pixels": config.min_pixels, "max_pixels": config.max_pixels}
        size = target_size(*frame.shape[:2], **limits, multiple=config.size_multiple)
        return np.asarray(resize_frames(frame[None], size)[0])

    try:
        return decode_frames(video, indices, reader, resize), reader, None
    except MediaError as error:
        if reader == "pyav":
            raise
        # Of damage, PyAV says where it is; and it knows more codecs. What decord says of a failure holds addresses.
        known = isinstance(error, DamageError)
        note = str(error).removeprefix(f"{video}: ") if known else f"{reader} cannot decode it"
        return decode_frames(video, indices, "pyav", resize), "pyav", note


def why_in_sequence(clip: ClipInfo, reader: Reader) -> str | None:
    """Why PyAV decodes this clip in sequence although another reader was asked for; None: that reader is right."""
    if reader == "pyav":
        return None
    if clip.seek_problem:
        # Readers seek by packet; PyAV in sequence counts what is really shown.
        return f"{clip.seek_problem}: {reader} miscounts frames"
    if clip.n_tracks > 1:
        return f"{clip.n_tracks} video tracks: {reader} may show another one"
    if reader == "decord" and clip.width * clip.height > DECORD_PIXELS:
        return f"{clip.width}x{clip.height} pixels: decord holds some 60 bytes for each"
    if reader == "decord" and clip.codec == "av1":
        return "decord 0.6 has no decoder for AV1"
    if reader == "decord" and clip.unclean_keyframes:
        return f"{clip.unclean_keyframes}: decord miscounts frames after a seek"
    if clip.mirrored:
        return f"to be mirrored: {reader} does not"
    if reader == "decord" and clip.rotation % 180:
        return "to be turned by 90 degrees: decord 0.6 cannot return such frames"
    return None


@dataclass(frozen=True, slots=True)
class ChosenFrames:
    """What is shown of a clip."""

    indices: tuple[int, ...]
    n_total: int  # frames in the clip
    native_fps: float  # n_total / native_fps is the length in seconds
    times: tuple[float, ...] | None  # seconds after the first frame of those at the indices; None: index / native_fps


def chosen_frames(video: Path, clip: ClipInfo, config: VideoConfig) -> ChosenFrames:
    """Which frames to show: spread evenly by number, or by time where the frame rate varies.

    Frames whose references were cut away don't count: none shows them. That needs a decoding pass of its own, but only
    for the rare clips whose packets are not all frames.

    Raises:
        MediaError: fewer than 2 frames; or the decoding pass fails.
    """
    n_total, times = clip.n_frames, clip.times
    if clip.seek_problem:
        decodable = decodable_times(video)
        n_total = len(decodable)
        if not n_total:
            raise MediaError(
                f"{video}: {clip.seek_problem}, and no keyframe follows, so no frame can be shown. Cut it anew, from a "
                "keyframe on or with encoding"
            )
        if decodable == sorted(decodable):
            times = uneven_times(decodable)
        elif times is not None and len(times) != n_total:
            times = None
    if times is None:
        # The container's rate holds also where some frames cannot be shown.
        return ChosenFrames(tuple(choose_frames(n_total, clip.native_fps, config)), n_total, clip.native_fps, None)
    indices = choose_frames_by_time(times, config)
    return ChosenFrames(tuple(indices), n_total, (n_total - 1) / times[-1], tuple(times[index] for index in indices))


def choose_frames_by_time(times: Sequence[float], config: VideoConfig) -> list[int]:
    """Indices of the frames nearest to moments spread evenly from the first to the last frame.

    As many as choose_frames gives for the clip's length and mean rate; for even times, the same frames. A frame that
    stands still for long is chosen more than once.

    Args:
        times: seconds of all frames after the first, ascending; at least 2.
        config: as in choose_frames.

    Raises:
        MediaError: fewer than 2 frames.
    """
    n_frames = len(choose_frames(len(times), (len(times) - 1) / times[-1], config))
    at = np.asarray(times)
    moments = np.linspace(0.0, at[-1], n_frames)
    after = np.searchsorted(at, moments).clip(1, len(at) - 1)
    before_is_nearer = moments - at[after - 1] <= at[after] - moments
    return [int(index) for index in after - before_is_nearer]


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
    """An image as RGB at its target size, as the reference shows it: RGBA on white, EXIF orientation ignored.

    Grey levels of 16 bits lose their lower 8; the reference clips them, so that most such pictures turn white.

    Raises:
        MediaError: absent, truncated, or none of IMAGE_FORMATS; the message names the file.
    """
    if not path.is_file():
        raise MediaError(f"{path}: no such file")
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as file:
            picture = _as_rgb(file)
    except UnidentifiedImageError as error:
        raise MediaError(
            f"{path}: cannot be read as an image (none of {', '.join(IMAGE_FORMATS)}, or damaged). Download it again, "
            "or convert it"
        ) from error
    # Decoders of damaged pictures raise about anything: SyntaxError for PNG, struct.error for TIFF.
    except Exception as error:
        raise MediaError(f"{path}: cannot be read as an image ({error or type(error).__name__})") from error
    try:
        limits = {"min_pixels": config.image_min_pixels, "max_pixels": config.image_max_pixels}
        height, width = target_size(picture.height, picture.width, **limits, multiple=config.size_multiple)
    except MediaError as error:
        raise _naming(path, error) from error
    # A copy: np.asarray of a picture is read-only.
    return np.array(picture.resize((width, height), Image.Resampling.BICUBIC))


def _as_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGBA":
        on_white = Image.new("RGB", picture.size, (255, 255, 255))
        on_white.paste(picture, mask=picture.getchannel("A"))
        return on_white
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise ValueError("grey levels of 32 bits have no agreed range; save it with 8 or 16 bits")
    return picture.convert("RGB")


def exact_frames_differ(path: Path, config: VideoConfig) -> list[int]:
    """Indices among the chosen frames at which decord's pixels differ from PyAV's, decoded in sequence.

    An empty list means that decord shows exactly the frames that were asked for.

    Raises:
        MediaError: one of the two cannot decode the clip.
    """
    try:
        indices = chosen_frames(path, probe_clip(path), config).indices
    except MediaError as error:
        raise _naming(path, error) from error
    # Compared at the stored size: resizing would blur small differences.
    kept = KeptFrames(path, None)
    decode_with_decord(path, sorted(set(indices)), kept)
    exact_frames = decode_in_sequence(path, indices)
    return [
        index
        for index, exact in zip(indices, exact_frames, strict=True)
        if not np.array_equal(kept.frames[index], exact)
    ]
