"""How a stored picture is turned and mirrored to be shown, as its track's display matrix says."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, SupportsBytes, cast

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from av import VideoFrame

Matrix = tuple[int, int, int, int]


def display_matrix(frame: VideoFrame) -> Matrix:
    """(a, b, c, d) of where a player puts a pixel: right = a x + c y, down = b x + d y; (1, 0, 0, 1): as stored.

    Source: ISO/IEC 14496-12, 8.3.2 (16.16 fixed point; its signs are kept), as FFmpeg hands it on.
    """
    found = frame.side_data.get("DISPLAYMATRIX")
    if found is None:
        return 1, 0, 0, 1
    a, b, _, c, d, *_ = struct.unpack("<9i", bytes(cast(SupportsBytes, found)))
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return (-1 if a < 0 else 1), 0, 0, (-1 if d < 0 else 1)
    return 0, (-1 if b < 0 else 1), (-1 if c < 0 else 1), 0


def upright(rgb: npt.NDArray[np.uint8], matrix: Matrix) -> npt.NDArray[np.uint8]:
    """Turned by quarters and mirrored as the matrix asks."""
    a, b, c, d = matrix
    turned = rgb if a else rgb.transpose(1, 0, 2)
    to_right, down = (a, d) if a else (c, b)
    return turned[::down, ::to_right]


def is_mirrored(frame: VideoFrame) -> bool:
    """Whether its display matrix mirrors, besides turning."""
    a, b, c, d = display_matrix(frame)
    return a * d - b * c < 0
