"""What `view` serves: the page of some runs, trainings as they go on, and their media; nothing else of this machine."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
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
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
)
from starlette.routing import BaseRoute, Route

from seedbench_r1.errors import ResourceError, SeedBenchError
from seedbench_r1.files import JsonObject
from seedbench_r1.types import Question
from seedbench_r1.window.given import Given
from seedbench_r1.window.media import is_media
from seedbench_r1.window.page import trainings_page
from seedbench_r1.window.runs import Runs
from seedbench_r1.window.trainings import TrainingLog, Trainings

# Neither the address nor a picture may reach another site, or be kept.
HEADERS = {"Referrer-Policy": "no-referrer", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

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

    def training(self, place: int) -> TrainingLog | None:
        """The training at a place of the state."""
        folders = self.given.trainings()
        return self.logs.log(folders[place]) if 0 <= place < len(folders) else None


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
    async def runs(_: Request) -> Response:
        text = await run_in_threadpool(window.page)
        return RedirectResponse("trainings/", headers=HEADERS) if text is None else HTMLResponse(text, headers=HEADERS)

    async def run_texts(request: Request) -> Response:
        columns = window.runs.texts(request.path_params["row"], request.path_params["place"])
        return JSONResponse(_found(columns), headers=HEADERS)

    async def run_media(request: Request) -> Response:
        question: Question = _found(window.runs.question(request.path_params["place"]))
        kind = request.path_params["kind"]
        if kind == "frames":
            content = await run_in_threadpool(window.runs.frames, question)
            return Response(_found(content or None), media_type="image/webp", headers=HEADERS)
        return _file({"clip": question.video, "view": question.image}.get(kind))

    async def trainings(_: Request) -> Response:
        return HTMLResponse(trainings_page(runs=bool(window.given.runs())), headers=HEADERS)

    async def state(request: Request) -> Response:
        name, shown = await run_in_threadpool(window.trainings)
        if request.query_params.get("seen") == name:
            return Response(status_code=204, headers=HEADERS)
        return JSONResponse({"state": name, "trainings": shown}, headers=HEADERS)

    async def training_texts(request: Request) -> Response:
        log = _found(window.training(request.path_params["row"]))
        return JSONResponse(_found(await run_in_threadpool(log.texts, request.path_params["place"])), headers=HEADERS)

    async def training_media(request: Request) -> Response:
        log = _found(window.training(request.path_params["row"]))
        return _file(log.media(request.path_params["place"], request.path_params["kind"]))

    async def icon(_: Request) -> Response:
        return Response(status_code=204)  # browsers ask for one at this address, without the token

    # No path comes from an address: a place names a question, and that its files.
    answers: dict[str, Answer] = {
        "/": runs,
        "/texts/{row:int}/{place:int}": run_texts,
        "/media/{place:int}/{kind}": run_media,
        "/trainings/": trainings,
        "/trainings/state": state,
        "/trainings/{row:int}/texts/{place:int}": training_texts,
        "/trainings/{row:int}/media/{place:int}/{kind}": training_media,
    }
    below = [Route("/{token}" + address, _behind(token, answer)) for address, answer in answers.items()]
    return [Route("/favicon.ico", icon), *below]


def _behind(token: str, answer: Answer) -> Answer:
    async def checked(request: Request) -> Response:
        if not secrets.compare_digest(request.path_params["token"].encode(), token.encode()):
            raise HTTPException(404)
        return await answer(request)

    return checked


def _found(value: T | None) -> T:
    if value is None:
        raise HTTPException(404)
    return value


def _file(path: Path | None) -> Response:
    """A clip or a picture; what is neither is not served."""
    if path is None or not is_media(path) or not path.is_file():
        raise HTTPException(404)
    return FileResponse(path, headers=HEADERS)


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
