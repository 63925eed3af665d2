"""What of a server's reply is read: so many bytes, unpacked, as UTF-8, from the server that was asked."""

from __future__ import annotations

import sys
import zlib
from typing import Any

# An answer of 32,768 tokens with the log-probability of each is under 8 MB; one of 1,024 tokens is a few kilobytes.
# Headers need no bound of ours: the HTTP library takes 100 KB of them.
MAX_BODY_BYTES = 8 << 20
ACCEPTED_ENCODING = "gzip"  # what is asked for; a compression that nobody has offered is not unpacked
_EITHER_HEADER = 32 + zlib.MAX_WBITS  # zlib's number for "gzip or zlib, as the first bytes say"


class UnusableReply(Exception):
    """A reply that was not read to its end. elsewhere: the server sends its clients to another one."""

    def __init__(self, message: str, *, elsewhere: bool = False) -> None:
        super().__init__(message)
        self.elsewhere = elsewhere


async def bound_reply(response: Any) -> None:  # noqa: ANN401  # of httpx, or in later versions of openai of httpx2
    """An event hook of the HTTP library: reads the body here, within its bounds, before anything else does.

    Raises:
        UnusableReply: too long, packed in an unknown or broken way, or a redirection to another server.
    """
    if response.has_redirect_location:
        _check_redirect(response)
    body = bytearray()
    async for part in response.stream:
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise UnusableReply(_too_long())
    await response.stream.aclose()
    # httpx would unpack without a limit: 6 MB of gzip can be 4.5 GB.
    encoding = response.headers.pop("content-encoding", "identity").strip().lower()
    library = sys.modules[type(response).__module__.partition(".")[0]]
    response.stream = library.ByteStream(bytes(body) if encoding == "identity" else unpack(bytes(body), encoding))
    # JSON between systems is UTF-8 (RFC 8259, 8.1), and some of Python's own codecs take hours for a megabyte.
    response.encoding = "utf-8"


def unpack(body: bytes, encoding: str) -> bytes:
    """The body without its Content-Encoding. Raises UnusableReply."""
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise UnusableReply(f"it is packed as {encoding[:40]!r}, and only {ACCEPTED_ENCODING} was asked for")
    unpacker = zlib.decompressobj(_EITHER_HEADER)
    try:
        unpacked = unpacker.decompress(body, MAX_BODY_BYTES + 1)
    except zlib.error as error:
        raise UnusableReply(f"it cannot be unpacked: {error}") from error
    if len(unpacked) > MAX_BODY_BYTES:
        raise UnusableReply(_too_long())
    if not unpacker.eof:
        raise UnusableReply("it ends in the middle of what is packed")
    return unpacked


def _check_redirect(response: Any) -> None:  # noqa: ANN401
    asked, location = response.url, response.headers["location"]
    try:
        target = asked.join(location)
    # An address that is none has an error of its own in either library.
    except Exception as error:
        raise UnusableReply(f"it redirects to {location[:200]!r}, which is no address", elsewhere=True) from error
    # The key is not sent elsewhere, and the questions should not be either.
    same = (target.scheme, target.host, target.port) == (asked.scheme, asked.host, asked.port)
    if not same and (target.host, target.scheme) != (asked.host, "https"):
        raise UnusableReply(
            f"it redirects to {str(target)[:200]}, another server. Fix: give that one's address as base URL, if it is "
            f"to be trusted",
            elsewhere=True,
        )


def _too_long() -> str:
    return f"it is longer than {MAX_BODY_BYTES >> 20} MiB"
