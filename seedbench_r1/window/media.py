"""Clips and views next to a page: which are there, and which may be served."""

from __future__ import annotations

from pathlib import Path

# What a browser may be able to show, by the file's own name: a log that names it may have been written by anybody. No
# SVG, which can hold a script. Not mimetypes, which knows more or less of these by machine.
TYPES = {
    **dict.fromkeys((".mp4", ".m4v"), "video/mp4"),
    ".webm": "video/webm",
    ".mov": "video/quicktime",
    ".mkv": "video/x-matroska",
    ".avi": "video/x-msvideo",
    ".ogv": "video/ogg",
    ".png": "image/png",
    **dict.fromkeys((".jpg", ".jpeg"), "image/jpeg"),
    ".webp": "image/webp",
    ".avif": "image/avif",
    ".gif": "image/gif",
    ".bmp": "image/bmp",
}


# How such files begin (the first after four bytes): the Hub's cache keeps them without an ending, and links to them.
BEGINNINGS = (b"ftyp", b"\x1aE\xdf\xa3", b"RIFF", b"OggS", b"\x89PNG", b"\xff\xd8\xff", b"GIF8")


def media_type(path: Path) -> str | None:
    """Its type, if it is there and can be shown. Of a link, what it leads to counts."""
    try:
        known = TYPES.get(path.suffix.lower()) if path.is_file() else None
        target = path.resolve()
        if known is None or target.suffix.lower() in TYPES:
            return known and TYPES[target.suffix.lower()]
        with target.open("rb") as file:
            head = file.read(16)
    except OSError:  # somebody else's folder: as if it were not there
        return None
    begins = head.startswith(BEGINNINGS) or head[4:].startswith(BEGINNINGS[0])
    return known if begins and not target.suffix else None


def media_there(clip: Path | None, view: Path | None) -> int:
    """1 if the clip can be shown, 2 if the view can, 3 for both, 0 for neither."""
    clip_type, view_type = (None if path is None else media_type(path) for path in (clip, view))
    return (clip_type is not None) + 2 * (view_type is not None)
