"""What `view` serves: the page of some runs, and the media of their questions; nothing else of this machine."""

from __future__ import annotations

import secrets
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from leaderboards.board import Board, build_board
from leaderboards.draw.page import render_html
from leaderboards.draw.page_pictures import frames_webp
from seedbench_r1.errors import ResourceError, SeedBenchError
from seedbench_r1.runs.samples import runs_of
from seedbench_r1.types import Question

# Neither the address nor a picture may reach another site, or be kept.
HEADERS = {"Referrer-Policy": "no-referrer", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
KEPT_FRAMES = 200  # strips of sampled frames that stay in memory: about 15 KB each


@dataclass(slots=True)
class Window:
    """The runs that were named, read again when their files have changed."""

    paths: tuple[Path, ...]
    baseline: str | None
    metric: str | None
    judge: str | None
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _state: tuple[tuple[str, int, int], ...] = ()
    _board: Board | None = None
    _text: str = ""
    _frames: dict[str, bytes] = field(default_factory=dict)

    def page(self) -> str:
        """The page as it is now. Raises what build_board raises."""
        with self._guard:
            state = self._files()
            if self._board is None or state != self._state:
                board = build_board(self.paths, baseline=self.baseline, metric=self.metric, judge=self.judge)
                digits = "".join(str(_has(question)) for question in board.bank.questions)
                self._text = render_html(board, detail="full", media=digits).text
                self._board, self._state = board, state
            return self._text

    def question(self, place: int) -> Question | None:
        """The question at a place of the page that was served last."""
        board = self._board
        return board.bank.questions[place] if board is not None and 0 <= place < len(board.bank.questions) else None

    def frames(self, question: Question) -> bytes:
        """Its sampled frames as WebP; empty where they cannot be decoded."""
        if question.question_id not in self._frames:
            if len(self._frames) >= KEPT_FRAMES:
                self._frames.clear()
            self._frames[question.question_id] = b"" if self._board is None else frames_webp(self._board, question)
        return self._frames[question.question_id]

    def _files(self) -> tuple[tuple[str, int, int], ...]:
        runs, kinds = runs_of(list(self.paths)), ("*.jsonl", "manifest.json")
        files = sorted(file for run in runs for kind in kinds for file in run.glob(kind))
        states = ((str(file), file.stat()) for file in files)
        return tuple((name, state.st_mtime_ns, state.st_size) for name, state in states)


def application(window: Window, token: str) -> Starlette:
    """Everything lies below the token; any other address is not found."""

    async def page(request: Request) -> Response:
        _check(request, token)
        try:
            return HTMLResponse(await run_in_threadpool(window.page), headers=HEADERS)
        except (SeedBenchError, OSError) as error:  # a run was moved or damaged meanwhile: the window stays open
            return PlainTextResponse(f"{error}\n", status_code=503, headers=HEADERS)

    async def media(request: Request) -> Response:
        _check(request, token)
        question = window.question(request.path_params["place"])
        kind = request.path_params["kind"]
        if question is None:
            raise HTTPException(404)
        if kind == "frames":
            content = await run_in_threadpool(window.frames, question)
            if not content:
                raise HTTPException(404)
            return Response(content, media_type="image/webp", headers=HEADERS)
        # No path comes from the address: a place of the page names the question, and that its files.
        path = {"clip": question.video, "view": question.image}.get(kind)
        if path is None or not path.is_file():
            raise HTTPException(404)
        return FileResponse(path, headers=HEADERS)

    async def icon(_: Request) -> Response:
        return Response(status_code=204)  # browsers ask for one at this address, without the token

    routes = [
        Route("/favicon.ico", icon),
        Route("/{token}/", page),
        Route("/{token}/media/{place:int}/{kind}", media),
    ]
    # Another site whose name leads to this machine must not read along.
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"], www_redirect=False)
    served = Starlette(routes=routes, middleware=[hosts])
    served.router.redirect_slashes = False
    return served


def open_socket(host: str, port: int) -> socket.socket:
    """Listening there. Raises ResourceError if another program does."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise ResourceError(f"Port {port} cannot be used: {error.strerror}. Fix: another --port, or none.") from error
    listening.listen(128)
    return listening


def _check(request: Request, token: str) -> None:
    if not secrets.compare_digest(request.path_params["token"].encode(), token.encode()):
        raise HTTPException(404)


def _has(question: Question) -> int:
    clip, view = (path is not None and path.is_file() for path in (question.video, question.image))
    return clip + 2 * view
