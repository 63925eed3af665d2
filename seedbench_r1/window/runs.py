"""The runs of a window: their page, read again when a file has changed, and what the page asks for later."""

from __future__ import annotations

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
from seedbench_r1.window.media import media_there

KEPT_FRAMES = 200  # strips of sampled frames that stay in memory: about 15 KB each


@dataclass(slots=True)
class Runs:
    """What is shown of runs, with the settings of the board."""

    baseline: str | None
    metric: str | None
    judge: str | None
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _state: tuple[tuple[str, int, int], ...] = ()
    _board: Board | None = None
    _text: str = ""
    _frames: dict[str, bytes] = field(default_factory=dict)

    def page(self, paths: Sequence[Path], *, trainings: bool) -> str:
        """The page as it is now. trainings: it links to them. Raises what build_board raises."""
        with self._guard:
            state = _files(paths)
            if self._board is None or state != self._state:
                board = build_board(paths, baseline=self.baseline, metric=self.metric, judge=self.judge)
                media = "".join(str(media_there(q.video, q.image)) for q in board.bank.questions)
                self._text = render_html(board, served=Served(media, trainings)).text
                self._board, self._state = board, state
            return self._text

    def question(self, place: int) -> Question | None:
        """The question at a place of the page that was served last."""
        board = self._board
        return board.bank.questions[place] if board is not None and 0 <= place < len(board.bank.questions) else None

    def texts(self, row: int, place: int) -> JsonObject | None:
        """What a row's run says of a question, as a layer of the page that holds it alone, and what probes made of it.

        None: it says nothing.
        """
        board, question = self._board, self.question(place)
        if board is None or question is None or not 0 <= row < len(board.rows):
            return None
        measured = board.measured[board.rows[row].run_id]
        if question.question_id not in measured.run.records:
            return None
        probed = {name: found.get(question.question_id) for name, found in measured.probes.items()}
        probes = [[name, outcome(result), result.changed] for name, result in sorted(probed.items()) if result]
        return {**detail_layer(measured, board.bank, [place]), "probes": probes}

    def frames(self, question: Question) -> bytes:
        """Its sampled frames as WebP; empty where they cannot be decoded."""
        if question.question_id not in self._frames:
            if len(self._frames) >= KEPT_FRAMES:
                self._frames.clear()
            self._frames[question.question_id] = b"" if self._board is None else frames_webp(self._board, question)
        return self._frames[question.question_id]


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
