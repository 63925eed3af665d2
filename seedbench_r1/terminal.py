"""Text from outside is inert on a terminal: what would move the cursor, or hide other text, is shown as an escape.

File names, question ids, answers, what servers say and what libraries print all end in the two standard streams, so the
streams themselves do it. Only consoles of rich write past them, for their colours and bars: that of
`seedbench_r1/cli/console.py`, which is inert itself, and Typer's for help and usage errors (`seedbench_r1/cli/app.py`).
"""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

# Of the control characters these two only move the text.
_SHOWN = {"\n", "\t"}
# Control and format characters, halves of surrogate pairs (a file name that is not UTF-8), line and paragraph marks
_ESCAPED = ("Cc", "Cf", "Cs", "Zl", "Zp")
_MOVES_UP = re.compile(r"(?:\x1b\[A)+")


def printable(text: str) -> str:
    """Untrusted text for a terminal: control and format characters are shown as escapes, not obeyed."""
    return escaped(text, lambda char: f"\\x{ord(char):02x}" if char < "\x7f" else json.dumps(char)[1:-1])


def escaped(text: str, escape: Callable[[str], str]) -> str:
    """The text with `escape` of each character that a terminal might obey."""
    # Nearly every line has none, and isprintable is quick.
    if text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(
        char if char in _SHOWN or unicodedata.category(char) not in _ESCAPED else escape(char) for char in text
    )


class InertStream:
    """A text stream whose text is `printable`. What it does not have, a binary buffer above all, cannot go past it."""

    def __init__(self, inner: TextIO) -> None:
        self.inner = inner

    def write(self, text: str) -> int:
        """Write it, inert. On a terminal, bars that a library draws stay bars."""
        lead, shown = "", text
        # tqdm begins each state of a bar anew; in a file every state is a line. It goes up to a bar above in a write of
        # its own.
        if text.startswith("\r"):
            lead, shown = ("\r" if self.isatty() else "\n"), text[1:]
        if not (self.isatty() and _MOVES_UP.fullmatch(shown)):
            shown = printable(shown)
        self.inner.write(lead + shown)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each."""
        for line in lines:
            self.write(line)

    @property
    def rich_proxied_file(self) -> TextIO:
        """Where a console of rich writes, by this name: ours, which is inert itself, and Typer's for help and usage."""
        return self.inner

    def isatty(self) -> bool:
        """Whether it ends in a terminal."""
        return self.inner.isatty()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # whatever a text stream has
        # click writes to `buffer` where it thinks that it knows the encoding better.
        if name == "buffer":
            raise AttributeError(name)
        return getattr(self.inner, name)


@contextmanager
def inert_streams() -> Iterator[None]:
    """Standard output and error write through InertStream meanwhile."""
    before = sys.stdout, sys.stderr
    make_streams_inert()
    try:
        yield
    finally:
        # What was put in their place meanwhile stays: Typer does so where the reader of a pipe has gone.
        for name, stream in zip(("stdout", "stderr"), before, strict=True):
            if isinstance(getattr(sys, name), InertStream):
                setattr(sys, name, stream)


def make_streams_inert() -> None:
    """From here to the end of the process. Safe to call twice."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, InertStream):
            setattr(sys, name, cast(TextIO, InertStream(stream)))
