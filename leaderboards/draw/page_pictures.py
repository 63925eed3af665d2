"""What the models saw, on the page: a question's sampled frames as one strip, and its current view, as WebP."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from leaderboards.board import Board
from seedbench_r1.media.loader import FrameLoader
from seedbench_r1.types import Failure, Media, Question, VideoConfig

OF_FREE = 40  # questions whose pictures a page carries unless told otherwise, where they may be shown
COLUMNS = 8  # frames side by side at most
FRAME_WIDTH, VIEW_WIDTH = 112, 240  # pixels
QUALITY = 60
MOST = 1 / 3  # of the page's size: the texts come first
DECODE_S = 60.0
LICENCES = (
    "The pictures are EPIC-KITCHENS' (CC BY-NC 4.0) and Ego4D's (a licence of its own): a page that carries them is "
    "not to be published without their permission."
)

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Pictures:
    """What the page carries."""

    of: dict[int, tuple[str, str]] = field(default_factory=dict)  # place in the bank -> strip, view; base64
    n_frames: dict[int, int] = field(default_factory=dict)
    wanted: int = 0  # questions whose pictures were asked for
    note: str = ""  # on whose they are; "" where nothing is to be said

    @property
    def said(self) -> str:
        """ "pictures: 40 of 40 questions", or nothing."""
        return f"pictures: {len(self.of)} of {self.wanted} questions" if self.wanted else ""

    def layer(self) -> dict[str, list[object]]:
        """As the page's script reads it, by place."""
        return {str(place): [*pair, self.n_frames[place]] for place, pair in self.of.items()}


def take_pictures(board: Board, places: Sequence[int], count: int | None, budget: int) -> Pictures:
    """The pictures of the first `count` of these places whose media are there, as many as `budget` bytes hold.

    count: None: OF_FREE of a toy world and of data that is said to be free, none of anything else.
    """
    free = board.bank.is_toy or all(measured.run.manifest.free_media for measured in board.measured.values())
    n = (OF_FREE if free else 0) if count is None else count
    config = _shown_to_the_models(board)
    note = LICENCES if board.suite.has_levels and not board.bank.is_toy else ""
    chosen = [(place, board.bank.questions[place]) for place in places[:n]]
    there = [(place, question) for place, question in chosen if _present(question)]
    if config is None or not there:
        return Pictures(wanted=len(chosen))
    found: dict[int, tuple[str, str]] = {}
    frames: dict[int, int] = {}
    spent = 0
    place_of = {question.question_id: place for place, question in there}
    for question_id, media in _decoded([question for _, question in there], config):
        pair = _strip(media.frames), _view(media.image)
        spent += sum(map(len, pair))
        if spent > budget:
            break
        place = place_of[question_id]
        found[place], frames[place] = pair, 0 if media.frames is None else len(media.frames)
    return Pictures(dict(sorted(found.items())), frames, len(chosen), note if found else "")


def frames_webp(board: Board, question: Question) -> bytes:
    """The sampled frames of one question as a WebP picture; empty if they cannot be decoded."""
    config = _shown_to_the_models(board)
    found = [] if config is None else _decoded([question], config)
    return base64.b64decode(_strip(found[0][1].frames)) if found else b""


def _shown_to_the_models(board: Board) -> VideoConfig | None:
    """How frames are taken: as for the first run whose settings are known."""
    videos = (measured.run.manifest.video for measured in board.measured.values())
    return next((video for video in videos if video is not None), None)


def _decoded(questions: Sequence[Question], config: VideoConfig) -> list[tuple[str, Media]]:
    """Decoded in a process that can be killed; what cannot be decoded is left out. In the order of the questions."""
    with FrameLoader(config, workers=1, timeout_s=DECODE_S) as loader:
        found = {question.question_id: media for question, media in loader.stream(questions)}
    pairs = ((question.question_id, found.get(question.question_id)) for question in questions)
    return [(name, media) for name, media in pairs if media is not None and not isinstance(media, Failure)]


def _present(question: Question) -> bool:
    return all(path is None or Path(path).exists() for path in (question.video, question.image))


def _strip(frames: Pixels | None) -> str:  # (T, H, W, 3)
    """Frames from left to right in as few rows of at most COLUMNS as hold them, all of about a length."""
    if frames is None:
        return ""
    height = max(1, round(FRAME_WIDTH * frames.shape[1] / frames.shape[2]))
    rows = -(-len(frames) // COLUMNS)
    columns = -(-len(frames) // rows)
    # Transparent where the last row is shorter.
    sheet = Image.new("RGBA", (FRAME_WIDTH * columns, height * rows))
    for place, frame in enumerate(frames):
        small = Image.fromarray(frame).resize((FRAME_WIDTH, height), Image.Resampling.LANCZOS)
        sheet.paste(small, (FRAME_WIDTH * (place % columns), height * (place // columns)))
    return _webp(sheet)


def _view(image: Pixels | None) -> str:  # (H, W, 3)
    if image is None:
        return ""
    height = max(1, round(VIEW_WIDTH * image.shape[0] / image.shape[1]))
    return _webp(Image.fromarray(image).resize((VIEW_WIDTH, height), Image.Resampling.LANCZOS))


def _webp(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=QUALITY, method=4)
    return base64.b64encode(stream.getvalue()).decode("ascii")
