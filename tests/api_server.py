"""A chat-completions server on loopback that misbehaves on demand. For tests of API models and of the judge."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

ANSWER = "<think>the cup is dirty</think><answer>{}</answer>"


@dataclass(frozen=True)
class Reaction:
    """What the server does with one request."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    wait_s: float = 0.0  # before the first byte
    sent_share: float = 1.0  # of the body, before the connection is cut
    drip_s: float = 0.0  # between two bytes of the body
    vanish: bool = False  # the connection is cut without a byte
    raw: bytes = b""  # sent as it is instead of status, headers and body; then the connection is cut
    again: bytes = b""  # sent after `raw`, again and again, until the client has gone


Script = Callable[[int, dict[str, Any]], Reaction]  # number of the request from 0, and its body


def completion(
    text: str | None = ANSWER.format("A"),
    *,
    finish_reason: str | None = "stop",
    prompt_tokens: int = 100,
    tokens: int = 10,
    logprobs: list[float] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """The body of a good reply; `changes` replace its top-level fields."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish_reason}
    choice["message"] = {"role": "assistant", "content": text}
    if logprobs is not None:
        choice["logprobs"] = {"content": [{"token": "x", "logprob": value} for value in logprobs]}
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": prompt_tokens + tokens}
    return {"id": "c", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage} | changes


def ok(text: str | None = ANSWER.format("A"), *, wait_s: float = 0.0, **changes: Any) -> Reaction:
    return Reaction(body=json.dumps(completion(text, **changes)).encode(), wait_s=wait_s)


def error(status: int, message: str = "no", **headers: str) -> Reaction:
    body = json.dumps({"error": {"message": message, "type": "t", "code": None}}).encode()
    return Reaction(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


class ApiServer:
    """Listens while the `with` block lasts. `seen` holds the bodies, `headers` and `times` what came with them."""

    def __init__(self, script: Script | list[Reaction], *, port: int = 0) -> None:
        """A list is gone through once, then its last reaction is repeated."""
        self.seen: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.most_at_once = 0
        self._script = script if callable(script) else lambda number, _: script[min(number, len(script) - 1)]
        self._guard = threading.Lock()
        self._at_once = 0
        self._stopping = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def port(self) -> int:
        return self._http.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> ApiServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.die()

    def die(self) -> None:
        """Stop listening, and cut every connection that still waits."""
        if not self._stopping.is_set():
            self._stopping.set()
            self._http.shutdown()
            self._http.server_close()

    def die_soon(self) -> None:
        """From inside a script."""
        threading.Thread(target=self.die, daemon=True).start()

    def _react(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._guard:
            number = len(self.seen)
            self.seen.append(body)
            self.headers.append({name.lower(): value for name, value in handler.headers.items()})
            self.times.append(time.monotonic())
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            self._send(handler, self._script(number, body))
        except OSError:
            handler.close_connection = True  # the client has gone
        finally:
            with self._guard:
                self._at_once -= 1

    def _send(self, handler: BaseHTTPRequestHandler, reaction: Reaction) -> None:
        if self._stopping.wait(reaction.wait_s) or reaction.vanish:
            handler.close_connection = True
            return
        if reaction.raw:
            self._send_raw(handler, reaction)
            return
        handler.send_response(reaction.status)
        for name, value in ({"Content-Type": "application/json"} | reaction.headers).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(reaction.body)))
        handler.end_headers()
        if reaction.drip_s:
            for byte in reaction.body:
                handler.wfile.write(bytes([byte]))
                if self._stopping.wait(reaction.drip_s):
                    break
            handler.close_connection = True
            return
        handler.wfile.write(reaction.body[: round(reaction.sent_share * len(reaction.body))])
        handler.close_connection = reaction.sent_share < 1 or self._stopping.is_set()

    def _send_raw(self, handler: BaseHTTPRequestHandler, reaction: Reaction) -> None:
        handler.close_connection = True
        for byte in reaction.raw if reaction.drip_s else ():
            handler.wfile.write(bytes([byte]))
            if self._stopping.wait(reaction.drip_s):
                return
        if not reaction.drip_s:
            handler.wfile.write(reaction.raw)
        while reaction.again and not self._stopping.is_set():
            handler.wfile.write(reaction.again)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server._react(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler
