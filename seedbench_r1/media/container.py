"""A video file is opened in one place: which formats, which track, and how strict the decoder is about damage."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

# FFmpeg's names of the formats that are opened. Playlists and lists of files are not among them: they open other files.
FORMATS = "mov,matroska,avi,mpegts,gif,flv,mpeg,mpegvideo,asf,ogg,h264,hevc,m4v,ivf,av1,obu,mxf,nut"
HARMLESS = re.compile(r"\bSEI\b|\bEXIF\b", re.IGNORECASE)


class MediaError(Exception):
    """One image or clip cannot be used; the message names the file. The frame loader turns it into a Failure."""


@contextmanager
def open_clip(path: Path, **options: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and the video track that a player shows: FFmpeg's best stream (default flag, frames, bit rate).

    The decoder uses one thread and hides no damage from those who look: what it conceals it says (decoder_errors), or
    marks the frame as corrupt. (`explode` would end it at faults of metadata, too, which harm no picture.)

    Args:
        path: of the clip; no other file and no network is opened for it.
        options: of the demuxer, besides.

    Raises:
        MediaError: there is no video track, or nothing can decode it.
        av.error.FFmpegError: the file cannot be read.
    """
    import av

    allowed = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    # Metadata are not always UTF-8, and none of them is used. `options` would go to the streams too: FFmpeg crashes if
    # one of those is found late, as in a damaged FLV.
    with av.open(str(path), metadata_errors="replace", container_options={**allowed, **options}) as container:
        stream = container.streams.best("video")
        if stream is None or stream not in video_tracks(container):
            raise MediaError(f"{path}: there is no video stream in it")
        context = stream.codec_context
        if context is None:
            raise MediaError(f"{path}: nothing can decode its video stream (damaged header or unknown codec)")
        context.thread_count = 1  # so that skip_frame is read packet by packet
        context.options = {"err_detect": "crccheck+bitstream+buffer"}
        yield container, stream


@contextmanager
def decoder_errors() -> Iterator[list[tuple[int, str, str]]]:
    """What FFmpeg's decoders say of errors in this thread, as (level, decoder, message), while this is open.

    A decoder goes on after some of them, with a picture that it has made up, and marks nothing.
    """
    import av

    before = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)  # else the same error of another clip is not there
    try:
        with av.logging.Capture(local=True) as errors:
            yield errors
    finally:
        # Else every odd packet that is looked at later would print a line.
        av.logging.set_level(before)


def harm_in(errors: Iterable[tuple[int, str, str]]) -> str | None:
    """The first error that concerns pictures; odd metadata (a too long SEI, a bad Exif) leave them as they are."""
    return next((message.strip() for _, _, message in errors if not HARMLESS.search(message)), None)


def video_tracks(container: InputContainer) -> list[VideoStream]:
    """Tracks that are played, so without cover pictures."""
    from av.stream import Disposition

    return [stream for stream in container.streams.video if Disposition.attached_pic not in stream.disposition]


def packets_of(container: InputContainer, *streams: VideoStream) -> Iterator[Packet]:
    """Packets of the tracks (none named: of all) in the order of the file, without the empty ones that end them.

    Raises:
        MediaError: a track begins that was not there at first, as in transport streams that were joined or damaged.
    """
    try:
        for packet in container.demux(*streams):
            if packet.size or packet.dts is not None:
                yield packet
    # PyAV's list of tracks is that of the beginning. (What the consumer raises does not come here.)
    except IndexError as error:
        raise MediaError(f"{container.name}: a track begins in the midst of it. Convert it, or get it anew") from error
