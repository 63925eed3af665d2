"""Text from outside is inert on a terminal: what would move the cursor, or hide other text, is shown as an escape.

File names, question ids, answers, what servers say and what libraries print all end in the two standard streams, so the
streams themselves do it. Only `seedbench_r1/cli/console.py` writes past them, its own colours and bars.
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
_MOVE_UP = re.compile(r"(?:\x1b\[A)+")  # what tqdm writes on its own, to go back to a bar above
_STYLE = re.compile(r"\x1b\[[0-9;]*m")  # colour and weight; moves nothing


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
        """Write it, inert. Libraries' own bars and colours stay where there is a terminal to show them."""
        lead, n_given = "", len(text)
        # A bar of tqdm begins each line anew; in a file every state is a line.
        if text.startswith("\r"):
            lead, text = ("\r" if self.isatty() else "\n"), text[1:]
        if "\x1b" in text and self.isatty() and _MOVE_UP.fullmatch(text):
            pass
        elif "\x1b" in text and self.isatty():
            styles = [*_STYLE.findall(text), ""]
            text = "".join(printable(part) + style for part, style in zip(_STYLE.split(text), styles, strict=True))
        else:
            text = printable(text)
        self.inner.write(lead + text)
        return n_given

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each."""
        for line in lines:
            self.write(line)

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
        sys.stdout, sys.stderr = before


def make_streams_inert() -> None:
    """From here to the end of the process. Safe to call twice."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, InertStream):
            setattr(sys, name, cast(TextIO, InertStream(stream)))


def behind(stream: Any) -> Any:  # noqa: ANN401  # a text stream, ours or any other
    """What an InertStream writes to; any other stream as it is."""
    return stream.inner if isinstance(stream, InertStream) else stream
