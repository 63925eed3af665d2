"""Clips and views next to a page: which are there, and which may be served."""

from __future__ import annotations

import mimetypes
from pathlib import Path


def media_there(clip: Path | None, view: Path | None) -> int:
    """1 if the clip is there, 2 if the view is, 3 for both, 0 for neither."""
    return (clip is not None and clip.is_file()) + 2 * (view is not None and view.is_file())


def is_media(path: Path) -> bool:
    """Whether a file is a clip or a picture, by its name. Who wrote the log that names it may have been anybody."""
    kind, _ = mimetypes.guess_type(path)
    return kind is not None and kind.startswith(("video/", "image/"))
