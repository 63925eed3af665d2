"""Requests about noise, to see what a processor makes of media of a given size before any clip is decoded."""

from __future__ import annotations

from typing import Any

import numpy as np

from seedbench_r1.types import Media, Request

_FPS, _SECONDS = 30.0, 2.0
_MESSAGES: tuple[dict[str, Any], ...] = (
    {"role": "user", "content": [{"type": "video"}, {"type": "image"}, {"type": "text", "text": "What next?"}]},
)


def sample_media(n_frames: int | None, pixels: int, image_pixels: int | None, multiple: int) -> Media:
    """Square frames and image of about so many pixels each, their sides multiples of `multiple`; None: no such medium.

    Noise, of which no processor drops anything because nothing changes. Equal arguments give equal pixels.
    """
    noise = np.random.default_rng(0)

    def square(area: int) -> int:
        return max(multiple, int(area**0.5) // multiple * multiple)

    side, image_side = square(pixels), square(image_pixels or 1)
    image = None if image_pixels is None else noise.integers(0, 256, (image_side, image_side, 3), np.uint8)
    if n_frames is None:
        return Media(None, (), None, None, image, None)
    n_total = max(n_frames, round(_FPS * _SECONDS))
    places = tuple(int(place) for place in np.linspace(0, n_total - 1, n_frames).round())
    frames = noise.integers(0, 256, (n_frames, side, side, 3), np.uint8)
    return Media(frames, places, _FPS, n_total, image, "decord")


def sample_request(n_frames: int, pixels: int, image_pixels: int, multiple: int) -> Request:
    """A clip, an image and a short question; see sample_media."""
    return Request.of("sample", _MESSAGES, sample_media(n_frames, pixels, image_pixels, multiple))
