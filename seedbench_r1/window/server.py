"""What `view` serves: the page of some runs, trainings as they go on, and their media; nothing else of this machine."""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
)
from starlette.routing import BaseRoute, Route

from seedbench_r1.errors import ResourceError, SeedBenchError
from seedbench_r1.files import JsonObject
from seedbench_r1.typed_json import without_nan
from seedbench_r1.types import Question
from seedbench_r1.window.given import Given
from seedbench_r1.window.media import media_there, media_type
from seedbench_r1.window.page import trainings_page
from seedbench_r1.window.runs import Runs, Shown
from seedbench_r1.window.training_log import TrainingLog
from seedbench_r1.window.trainings import Trainings

# Neither the address nor a picture may reach another site, or be kept.
HEADERS = {"Referrer-Policy": "no-referrer", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
# Opened by itself, a file is shown and does nothing.
MEDIA_HEADERS = HEADERS | {"Content-Security-Policy": "default-src 'none'; media-src 'self'; img-src 'self'; sandbox"}

T = TypeVar("T")
Answer = Callable[[Request], Awaitable[Response]]


@dataclass(slots=True)
class Window:
    """What is shown."""

    given: Given
    runs: Runs
    logs: Trainings = field(default_factory=Trainings)

    def page(self) -> str | None:
        """The page of the runs as it is now; None where there are none. Raises what build_board raises."""
        paths = self.given.runs()
        return self.runs.page(paths, trainings=bool(self.given.trainings())) if paths else None

    def trainings(self) -> tuple[str, list[JsonObject]]:
        """Trainings.state of the trainings that there are now."""
        return self.logs.state(self.given.trainings())

    def training(self, place: int | None) -> TrainingLog | None:
        """The training at a place of the state."""
        folders = self.given.trainings()
        return self.logs.log(folders[place]) if place is not None and place < len(folders) else None


def application(window: Window, token: str) -> Starlette:
    """Everything lies below the token; any other address is not found."""
    # Another site whose name leads to this machine must not read along.
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"], www_redirect=False)
    # What was moved or damaged meanwhile is said, and the window stays open.
    handlers = {SeedBenchError: _refused, OSError: _refused}
    served = Starlette(routes=_routes(window, token), middleware=[hosts], exception_handlers=handlers)
    served.router.redirect_slashes = False
    return served


def _routes(window: Window, token: str) -> list[BaseRoute]:
    # No path comes from an address: a page's state and a place, or a training and a question's key, name what is meant.
    answers: dict[str, Answer] = {
        "/trainings/": partial(_trainings, window),
        "/trainings/state": partial(_state, window),
        "/trainings/{row}/texts/{key}": partial(_training_texts, window),
        "/trainings/{row}/media/{key}/{kind}": partial(_training_media, window),
        "/": partial(_runs, window),
        "/{page}/texts/{row}/{place}": partial(_run_texts, window),
        "/{page}/media/{place}": partial(_run_media_there, window),
        "/{page}/media/{place}/{kind}": partial(_run_media, window),
    }
    below = [Route("/{token}" + address, _behind(token, answer)) for address, answer in answers.items()]
    return [Route("/favicon.ico", _icon), *below]


def _behind(token: str, answer: Answer) -> Answer:
    async def checked(request: Request) -> Response:
        if not secrets.compare_digest(request.path_params["token"].encode(), token.encode()):
            raise HTTPException(404)
        return await answer(request)

    return checked


async def _runs(window: Window, _: Request) -> Response:
    text = await run_in_threadpool(window.page)
    return RedirectResponse("trainings/", headers=HEADERS) if text is None else HTMLResponse(text, headers=HEADERS)


async def _run_texts(window: Window, request: Request) -> Response:
    shown = _shown(window, request)
    columns = shown.texts(_number(request, "row"), _number(request, "place"))
    return _json(_found(columns))


async def _run_media_there(window: Window, request: Request) -> Response:
    question: Question = _found(_shown(window, request).question(_number(request, "place")))
    return _json({"media": await run_in_threadpool(media_there, question.video, question.image)})


async def _run_media(window: Window, request: Request) -> Response:
    shown, kind = _shown(window, request), request.path_params["kind"]
    question: Question = _found(shown.question(_number(request, "place")))
    if kind == "frames":
        content = await run_in_threadpool(shown.frames, question)
        return Response(_found(content or None), media_type="image/webp", headers=MEDIA_HEADERS)
    return await run_in_threadpool(_file, {"clip": question.video, "view": question.image}.get(kind))


async def _trainings(window: Window, _: Request) -> Response:
    runs = await run_in_threadpool(window.given.runs)
    return HTMLResponse(trainings_page(runs=bool(runs)), headers=HEADERS)


async def _state(window: Window, request: Request) -> Response:
    name, shown = await run_in_threadpool(window.trainings)
    if request.query_params.get("seen") == name:
        return Response(status_code=204, headers=HEADERS)
    return _json({"state": name, "trainings": shown})


async def _training_texts(window: Window, request: Request) -> Response:
    log = await _training(window, request)
    return _json(_found(await run_in_threadpool(log.texts, request.path_params["key"])))


async def _training_media(window: Window, request: Request) -> Response:
    log = await _training(window, request)
    path = log.media(request.path_params["key"], request.path_params["kind"])
    return await run_in_threadpool(_file, path)


async def _training(window: Window, request: Request) -> TrainingLog:
    # Disks may be slow: nothing is looked up where all tabs would wait for it.
    return _found(await run_in_threadpool(window.training, _number(request, "row")))


async def _icon(_: Request) -> Response:
    return Response(status_code=204)  # browsers ask for one at this address, without the token


def _json(value: object) -> Response:
    # In ASCII: a text may hold half a character, which UTF-8 has no bytes for.
    return Response(json.dumps(without_nan(value), allow_nan=False), media_type="application/json", headers=HEADERS)


def _shown(window: Window, request: Request) -> Shown:
    """The runs as the page that asks shows them: a place means another question, or another run, on a later one."""
    shown = window.runs.made.get(request.path_params["page"])
    if shown is None:
        raise HTTPException(409, "The runs have changed since this page was made. Fix: reload it.")
    return shown


def _number(request: Request, name: str) -> int | None:
    """A place in an address; None for what is none."""
    text: str = request.path_params[name]
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _found(value: T | None) -> T:
    if value is None:
        raise HTTPException(404)
    return value


def _file(path: Path | None) -> Response:
    """A clip or a picture; what is neither is not served."""
    kind = None if path is None else media_type(path)
    if path is None or kind is None:
        raise HTTPException(404)
    return FileResponse(path, media_type=kind, headers=MEDIA_HEADERS)


async def _refused(_: Request, error: Exception) -> Response:
    return PlainTextResponse(f"{error}\n", status_code=503, headers=HEADERS)


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
