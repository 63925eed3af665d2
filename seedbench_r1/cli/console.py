"""Where text goes: results to stdout, everything else to stderr. Text from outside is inert (terminal.py)."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.padding import PaddingDimensions
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from seedbench_r1.terminal import InertStream, escaped, printable
from seedbench_r1.typed_json import without_nan

# A log that is read afterwards: enough lines to see a stall, few enough to scroll.
LINE_EVERY_S = 60.0
LINE_EVERY_SHARE = 0.05
LINE_AT_MOST_S = 1.0


class _Screen(Console):
    """A console on which every text is `printable`, in tables too. Markup off: square brackets in answers are text."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401  # rich's own, handed on
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich does; here pass the texts, too, that were not made by render_str."""
        for text, style, control in super().render(renderable, options):
            # What libraries print below a live display comes here with the styles that it asked for.
            plain = style is not None and (style.link or style.conceal or style.blink)
            yield Segment(text if control else printable(text), None if plain else style, control)

    @property
    def file(self) -> IO[str]:
        """Where it writes: below a live display, the stream is wrapped twice."""
        found = super().file
        return found.inner if isinstance(found, InertStream) else found

    @file.setter
    def file(self, new: IO[str]) -> None:
        self._file = new  # as rich's own setter


def out() -> Console:
    """For results."""
    return _Screen()


def err() -> Console:
    """For progress, warnings and errors."""
    return _Screen(stderr=True)


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


def dot() -> str:
    """What stands between the parts of a line."""
    return glyph("·", "|")


def table(texts: Iterable[str], numbers: Iterable[str], *, padding: PaddingDimensions = (0, 1)) -> Table:
    """A table without lines: columns of texts, then of numbers; no cell is wrapped."""
    made = Table(box=None, padding=padding, header_style="bold")
    for name in texts:
        made.add_column(name, no_wrap=True)
    for name in numbers:
        made.add_column(name, justify="right", no_wrap=True)
    return made


class LinePace:
    """When a line of progress is due off a terminal: each minute or twentieth of the work, at most one a second."""

    def __init__(self) -> None:
        self.restart(0)

    def restart(self, done: float) -> None:
        """Count from here."""
        self._since, self._done = time.monotonic(), done

    def speed_if_due(self, done: float, total: float) -> float | None:
        """Units of work per second since the last line if one is due now, else None."""
        seconds, new = time.monotonic() - self._since, done - self._done
        # A share that is reached in no time would print twenty lines at once.
        if seconds < LINE_EVERY_S and (new < LINE_EVERY_SHARE * total or seconds < LINE_AT_MOST_S):
            return None
        self.restart(done)
        return new / seconds


def json_text(value: object, *, indent: int | None = None) -> str:
    """JSON that stays readable, and moves no terminal: control and format characters as JSON writes them."""
    return escaped(json.dumps(value, ensure_ascii=False, indent=indent), lambda char: json.dumps(char)[1:-1])


_printed: list[str] = []  # for --json, by the command that is carried out


def print_json(value: object) -> None:
    """What --json asks for, on standard output: null stands for what is no finite number."""
    text = json_text(without_nan(value))
    print(text)
    _printed.append(text)  # last: a value that is no JSON, or a full disk, leaves the error its object


def begin_json() -> None:
    """A command begins: nothing has been printed for its --json."""
    _printed.clear()


def has_printed_json() -> bool:
    """Whether --json has had its object: an error that is raised afterwards must not print another."""
    return bool(_printed)


def silence_weight_bars() -> None:
    """transformers' own progress bars would write across ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
