"""Colours of runs and trainings: an algorithm has one, on the page and in every file; its steps are shades of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from leaderboards.board import Board
from leaderboards.trainings import Training

COLOURS = {"care": 0, "grpo": 1, "sft": 2}  # places in the palettes of svg.py and report.css; others follow
N_COLOURS = 6
LIGHTEST = 0.5  # of a colour: the shade of an algorithm's first step


@dataclass(frozen=True, slots=True)
class Look:
    """How a line or a mark is drawn."""

    colour: int | None = None  # place in the palette; None: plain
    shade: float = 1.0  # how much of the colour is left
    dashed: bool = False  # another one of the same colour is drawn solid
    reported: bool = False  # by a paper: drawn as an outline

    @property
    def css(self) -> str:
        """The colour as the page writes it."""
        if self.colour is None:
            return "var(--mark)"
        plain = f"var(--c{self.colour})"
        return plain if self.shade == 1 else f"color-mix(in srgb,{plain} {100 * self.shade:.0f}%,var(--paper))"


def run_looks(board: Board) -> dict[str, Look]:
    """By run_id. Runs without an algorithm, as base models are, are plain."""
    colours = _colours(board)
    steps: dict[str, list[int]] = {}
    for row in board.rows:
        if row.algo is not None:
            steps.setdefault(row.algo, []).append(row.step or 0)
    found = {}
    for row in board.rows:
        if row.algo is None:
            found[row.run_id] = Look()
            continue
        distinct = sorted(set(steps[row.algo]))
        place = distinct.index(row.step or 0)
        shade = 1.0 if len(distinct) == 1 else LIGHTEST + (1 - LIGHTEST) * place / (len(distinct) - 1)
        found[row.run_id] = Look(colours[row.algo], round(shade, 2))
    return found


def training_looks(board: Board, trainings: Sequence[Training]) -> list[Look]:
    """One for each training of a board."""
    algorithms = [board.rows[training.places[-1]].algo for training in trainings]
    return looks_of(algorithms, _colours(board))


def looks_of(algorithms: Sequence[str | None], colours: Mapping[str, int]) -> list[Look]:
    """One for each training: the second of an algorithm is dashed, the third and fourth are lighter, and so on."""
    found = []
    for place, name in enumerate(algorithms):
        earlier, pairs = algorithms[:place].count(name), max(1, (algorithms.count(name) - 1) // 2)
        shade = 1 - (1 - LIGHTEST) * (earlier // 2) / pairs
        found.append(Look(None if name is None else colours[name], round(shade, 2), dashed=earlier % 2 == 1))
    return found


def colours_of(algorithms: Iterable[str]) -> dict[str, int]:
    """Algorithm -> place in the palettes."""
    others = sorted(set(algorithms) - COLOURS.keys())
    free = range(len(COLOURS), N_COLOURS)
    return COLOURS | {name: free[place % len(free)] for place, name in enumerate(others)}


def _colours(board: Board) -> dict[str, int]:
    return colours_of(row.algo for row in board.rows if row.algo is not None)
