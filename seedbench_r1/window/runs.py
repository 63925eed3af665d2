"""The runs of a window: their page, read again when a file has changed, and what the page asks for later."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from leaderboards.board import Board, build_board
from leaderboards.draw.page import Served, render_html
from leaderboards.draw.page_payload import detail_layer
from leaderboards.draw.page_pictures import frames_webp
from seedbench_r1.files import JsonObject
from seedbench_r1.runs.probes import ProbeResult
from seedbench_r1.runs.samples import runs_of
from seedbench_r1.types import Question

KEPT_PAGES = 3
KEPT_FRAMES = 200  # strips of sampled frames that stay in memory: about 15 KB each


@dataclass(frozen=True, slots=True)
class Shown:
    """The runs as one page shows them."""

    name: str  # in the addresses that the page asks at
    made_from: tuple[bool, tuple[tuple[str, int, int], ...]]  # trainings were there; files, times, sizes
    board: Board
    text: str
    _frames: dict[str, bytes] = field(default_factory=dict)

    def question(self, place: int | None) -> Question | None:
        """The question at a place of the page."""
        questions = self.board.bank.questions
        return questions[place] if place is not None and place < len(questions) else None

    def texts(self, row: int | None, place: int | None) -> JsonObject | None:
        """What a row's run says of a question, as a layer of the page that holds it alone, and what probes made of it.

        None: it says nothing.
        """
        question = self.question(place)
        if question is None or place is None or row is None or row >= len(self.board.rows):
            return None
        measured = self.board.measured[self.board.rows[row].run_id]
        if question.question_id not in measured.run.records:
            return None
        probed = {name: found.get(question.question_id) for name, found in measured.probes.items()}
        probes = [[name, outcome(result), result.changed] for name, result in sorted(probed.items()) if result]
        return {**detail_layer(measured, self.board.bank, [place]), "probes": probes}

    def frames(self, question: Question) -> bytes:
        """Its sampled frames as WebP; empty where they cannot be decoded."""
        found = self._frames.get(question.question_id) or frames_webp(self.board, question)
        if len(self._frames) >= KEPT_FRAMES:
            self._frames.clear()
        self._frames[question.question_id] = found
        return found


@dataclass(slots=True)
class Runs:
    """Runs with the settings of their board, read again when a file has changed."""

    baseline: str | None
    metric: str | None
    judge: str | None
    made: dict[str, Shown] = field(default_factory=dict)  # by name, the last pages: other tabs may still ask for theirs
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def page(self, paths: Sequence[Path], *, trainings: bool) -> str:
        """The page as it is now. trainings: it links to them. Raises what build_board raises."""
        with self._guard:
            now = trainings, _files(paths)
            shown = next(reversed(self.made.values()), None)
            if shown is None or now != shown.made_from:
                board = build_board(paths, baseline=self.baseline, metric=self.metric, judge=self.judge)
                name = secrets.token_urlsafe(6)
                text = render_html(board, served=Served(name, trainings)).text
                shown = Shown(name, now, board, text)
                if len(self.made) >= KEPT_PAGES:
                    del self.made[next(iter(self.made))]
                self.made[name] = shown
            return shown.text


def outcome(result: ProbeResult) -> str:
    """ "B instead of A (0.71, A 0.20); the changed reasoning concludes B"."""
    if result.after is None:
        return result.note or "no answer"
    stays = result.after == result.before
    said = f"{result.after}, as before" if stays else f"{result.after} instead of {result.before}"
    if result.p_after is not None:
        own = "" if stays or result.p_before is None else f", {result.before} {result.p_before:.2f}"
        said += f" ({result.p_after:.2f}{own})"
    return said if result.target is None else f"{said}; the changed reasoning concludes {result.target}"


def _files(paths: Sequence[Path]) -> tuple[tuple[str, int, int], ...]:
    kinds = ("*.jsonl", "manifest.json")
    files = sorted(file for run in runs_of(list(paths)) for kind in kinds for file in run.glob(kind))
    states = ((str(file), file.stat()) for file in files)
    return tuple((name, state.st_mtime_ns, state.st_size) for name, state in states)
