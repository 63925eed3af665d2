"""Where text goes: results to stdout, everything else to stderr. Model output is never interpreted."""

from __future__ import annotations

import sys
import unicodedata

from rich.console import Console

_SHOWN = {"\n", "\t"}


def out() -> Console:
    """For results."""
    return Console(highlight=False, markup=False, emoji=False)


def err() -> Console:
    """For progress, warnings and errors."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def is_live(console: Console) -> bool:
    """True if the console can be redrawn: a terminal, not dumb, not CI."""
    return console.is_terminal and not console.is_dumb_terminal


def glyph(fancy: str, plain: str) -> str:
    """`fancy` if standard error can show it, else `plain`."""
    try:
        fancy.encode(getattr(sys.__stderr__, "encoding", None) or "ascii")  # sys.stderr is replaced while bars are live
    except UnicodeEncodeError:
        return plain
    return fancy


def printable(text: str) -> str:
    """Untrusted text for a terminal: control and format characters are shown as escapes, not obeyed."""
    return "".join(
        char if char in _SHOWN or unicodedata.category(char) not in ("Cc", "Cf", "Cs") else f"\\x{ord(char):02x}"
        for char in text
    )


def silence_weight_bars() -> None:
    """transformers' own progress bars would write across ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
