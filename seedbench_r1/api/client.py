"""One question to a server that speaks OpenAI's chat completions, asked until it is answered or there is no hope.

Every try, wait and refusal is decided here; the `openai` package only carries the request, without retries of its own.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import email.utils
import importlib.util
import logging
import random
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from seedbench_r1.api.bounds import ACCEPTED_ENCODING, UnusableReply, bound_reply
from seedbench_r1.api.redaction import redact, secret_pattern
from seedbench_r1.api.replies import Reply, error_text, read_reply, shorten, wants_other_limit_name
from seedbench_r1.errors import ConfigError
from seedbench_r1.types import FailureKind

RETRIED_STATUS = frozenset({408, 409, 429, 500, 502, 503, 504})  # the server's own trouble; the same again may succeed
FOR_ALL_STATUS = frozenset({402, 404, 429, 502, 503, 504})  # no credit, no such model, no server: as for every other
UNKNOWN_FIELD_STATUS = frozenset({400, 422})  # how servers refuse a field of the request
LONGEST_WAIT_S = 60.0  # between two tries, unless the server names a longer time
LONGEST_RETRY_AFTER_S = 600.0  # a server that wants more (a daily quota) is not waited for
# Of the packages that carry a request: at the level of -v they write a server's headers, and so a key in them.
CARRIERS = ("openai", "httpx", "httpx2", "httpcore", "httpcore2")

LimitName = Literal["max_tokens", "max_completion_tokens"]


class RequestFailed(Exception):
    """This request has no reply.

    kind is "timeout" if the last try ran out of time, else "backend_error". for_all: nothing about this request is to
    blame (no connection, no such model), so that the next one may well fail in the same way. status: of the last
    refusal; None if no server refused.
    """

    def __init__(
        self, message: str, kind: FailureKind = "backend_error", *, for_all: bool = False, status: int | None = None
    ) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind
        self.for_all = for_all
        self.status = status


@dataclass(frozen=True, slots=True)
class _Trouble:
    """One try that gave no reply."""

    message: str
    kind: FailureKind = "backend_error"
    again: bool = True
    for_all: bool = False
    retry_after_s: float | None = None
    status: int | None = None  # of HTTP, if it was a refusal
    other_limit_name: bool = False  # the server wants max_completion_tokens


_BROKEN_OFF = _Trouble("broken off: the client was closed", again=False)


class ChatClient:
    """A connection to one server. `complete` may be called from many threads at once.

    Args:
        base_url: up to and including the version, e.g. "http://localhost:8000/v1".
        api_key: sent as a bearer token; appears in no message.
        timeout_s: for one try, from sending to the last byte of the reply.
        tries: at most so many for one request.
        first_wait_s: before the second try; doubled before each further one, with jitter.
        limit_name: what the server calls the limit on generated tokens. One that refuses max_tokens and asks for
            max_completion_tokens gets that from then on.

    Raises:
        ConfigError: the `openai` package is not installed.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        timeout_s: float = 120.0,
        tries: int = 6,
        first_wait_s: float = 1.0,
        limit_name: LimitName = "max_tokens",
    ) -> None:
        check_installed()
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        for name in CARRIERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        self.base_url = base_url
        self._secret = secret_pattern(api_key)
        self._timeout_s = timeout_s
        self._tries = tries
        self._first_wait_s = first_wait_s
        self._limit_name = limit_name
        # close() and new tries exclude each other: what is submitted to a loop that has stopped would never end.
        self._closed = threading.Event()
        self._guard = threading.Lock()
        self._client = AsyncOpenAI(
            base_url=base_url,
            api_key=api_key,
            max_retries=0,
            timeout=timeout_s,
            default_headers={"Accept-Encoding": ACCEPTED_ENCODING},
            http_client=DefaultAsyncHttpxClient(event_hooks={"response": [bound_reply]}),
        )
        self._create: Callable[..., Awaitable[Any]] = (
            self._client.chat.completions.with_raw_response.create
        )  # imports what no try should wait for
        # One loop in a thread of its own carries all requests: its tasks can be cancelled, blocking sockets cannot.
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chat-client", daemon=True)
        self._thread.start()

    def complete(
        self,
        messages: Sequence[Mapping[str, object]],
        *,
        model: str,
        max_tokens: int,
        temperature: float | None = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> Reply:
        """Ask for one completion and wait for it.

        Args:
            messages: in the form of OpenAI's chat completions.
            model: the server's name of it.
            max_tokens: longest reply, in tokens.
            temperature: 0 is greedy; None leaves sampling to the server: top_p is not sent either.
            top_p: nucleus sampling; 1 keeps every token.
            seed: sent if given; many servers ignore it.
            extra: further fields of the request's body, e.g. {"logprobs": True} or json_reply(schema).

        Raises:
            RequestFailed: refused, or without a usable reply after all tries.
            ConfigError: the key is refused (401, 403) or its quota is used up; no request can succeed.
        """
        body: dict[str, object] = {"model": model, "messages": list(messages)}
        # Only what was asked for is sent: some servers refuse fields that they do not know.
        if temperature is not None:
            body |= {"temperature": temperature, "top_p": top_p}
        if seed is not None:
            body["seed"] = seed
        attempt = 1
        # This request's own: several in flight may each be refused for the old name.
        limit_name = self._limit_name
        while isinstance(result := self._attempt(body | {limit_name: max_tokens}, dict(extra or {})), _Trouble):
            if result.other_limit_name and limit_name == "max_tokens":
                self._limit_name = limit_name = "max_completion_tokens"
                continue
            wait_s = wait_before_retry(attempt, result.retry_after_s, self._first_wait_s, random.random())
            if not result.again or attempt == self._tries or self._closed.wait(wait_s):
                tried = f" (tried {attempt} times)" if attempt > 1 else ""
                message = f"{result.message}{tried}"
                raise RequestFailed(message, result.kind, for_all=result.for_all, status=result.status)
            attempt += 1
        return result

    def close(self) -> None:
        """Cancel what is in flight and close the connections. Safe to call twice."""
        with self._guard:
            if self._closed.is_set():
                return
            self._closed.set()
        asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _attempt(self, body: dict[str, object], extra: dict[str, object]) -> Reply | _Trouble:
        """One try. Raises ConfigError like complete."""
        import openai

        started = time.perf_counter()
        with self._guard:  # nothing is submitted once close() has begun: it would never be finished
            if self._closed.is_set():
                return _BROKEN_OFF
            sent = asyncio.run_coroutine_threadsafe(self._send(body, extra), self._loop)
        refusal: openai.APIStatusError | None = None
        try:
            text = sent.result()
        # Ours is the limit for the complete reply; the package's own limits each read of the socket.
        except (TimeoutError, openai.APITimeoutError):
            return _Trouble(f"no reply from {self.base_url} within {self._timeout_s:g} s", "timeout")
        except openai.APIStatusError as error:
            refusal = error
        except (openai.APIConnectionError, UnusableReply) as error:  # some versions of the package wrap ours
            return self._not_read(error)
        except UnicodeError as error:  # half of a surrogate pair in the request
            return _Trouble(f"the request cannot be sent: {shorten(self.redact(str(error)))}", again=False)
        except concurrent.futures.CancelledError:
            return _BROKEN_OFF
        # Not inside the except: the package's error quotes the server, and a traceback would quote the error.
        if refusal is not None:
            return self._refused(refusal.status_code, refusal.response.headers, refusal.response.text)
        try:
            reply = read_reply(text, time.perf_counter() - started)
        except ValueError as error:
            why = self.redact(f"({error}): {text}")
            return _Trouble(f"{self.base_url} sent no usable reply {shorten(why)}")
        # A key that a server repeats must not end up in an answer's record or in a judge's reason.
        return replace(
            reply,
            text=self.redact(reply.text),
            content=self.redact(reply.content),
            finish_reason=self.redact(reply.finish_reason),
        )

    async def _send(self, body: dict[str, object], extra: dict[str, object]) -> str:
        """The body of a 200."""
        async with asyncio.timeout(self._timeout_s):
            raw = await self._create(**body, extra_body=extra)
            return str(raw.http_response.text)

    async def _shut_down(self) -> None:
        # This coroutine is a task of the loop itself and must not cancel itself.
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.close()

    def _refused(self, status: int, headers: Mapping[str, str], text: str) -> _Trouble:
        """What an HTTP error means. Raises ConfigError if it means the end for every request."""
        # Twice: what stands escaped in JSON, and what was cut out of it.
        reason = self.redact(error_text(self.redact(text)))
        if status in (401, 403):
            raise ConfigError(
                f"{self.base_url} refused the key in OPENAI_API_KEY (HTTP {status}: {reason}). Answers so far are "
                f"saved. Fix: export OPENAI_API_KEY=KEY with one that is valid there, and run the same command again."
            )
        if status == 429 and "insufficient_quota" in text:
            raise ConfigError(
                f"{self.base_url} says that the quota of this key is used up ({reason}). Answers so far are saved. "
                f"Fix: add credit or take another key, and run the same command again."
            )
        message = f"HTTP {status} from {self.base_url}: {reason}"
        after = retry_after_s(headers.get("retry-after"), datetime.now(UTC))
        if after is not None and after > LONGEST_RETRY_AFTER_S:
            return _Trouble(f"{message}; it wants to be left alone for {after:.0f} s", again=False)
        return _Trouble(
            message,
            again=status in RETRIED_STATUS,
            for_all=status in FOR_ALL_STATUS,
            retry_after_s=after,
            status=status,
            other_limit_name=status in UNKNOWN_FIELD_STATUS and wants_other_limit_name(text),
        )

    def _not_read(self, error: Exception) -> _Trouble:
        """What a reply means that did not come, or was not read to its end."""
        inner = _innermost(error)
        why = shorten(self.redact(str(inner) if isinstance(inner, UnusableReply) else _named(inner)))
        if isinstance(inner, UnusableReply):
            # What is too long once may be a proxy's mistake; an address stays.
            message = f"{self.base_url} sent no usable reply: {why}"
            return _Trouble(message, again=not inner.elsewhere, for_all=inner.elsewhere)
        return _Trouble(f"no connection to {self.base_url}, or it was cut: {why}", for_all=True)

    def redact(self, text: str) -> str:
        """Without the key, should a server have repeated it."""
        return redact(text, self._secret)


def json_reply(schema: Mapping[str, object]) -> dict[str, object]:
    """The field by which the text of a reply is JSON of this schema (strict); the server enforces it."""
    named = {"name": "reply", "schema": dict(schema), "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def check_installed() -> None:
    """Raises ConfigError, with the command to type, if the `openai` package is absent."""
    if importlib.util.find_spec("openai") is None:
        raise ConfigError("API models need the openai package. Fix, in the checkout: pip install '.[judge]'")


def wait_before_retry(attempt: int, retry_after: float | None, first_wait_s: float, draw: float) -> float:
    """Seconds to wait after the attempt-th try (1 for the first): exponential, half of it jitter.

    Args:
        attempt: counts from 1.
        first_wait_s: the longest wait after the first try, in seconds; doubled with each further try.
        retry_after: what the server asked for; never waited less than that.
        draw: uniform in [0, 1); spreads clients that were refused together.
    """
    longest = min(LONGEST_WAIT_S, first_wait_s * 2.0 ** (attempt - 1))
    own = longest * (0.5 + 0.5 * draw)
    # Jitter comes on top of the server's wish, so that clients refused together do not return together.
    if retry_after is None or retry_after < own:
        return own
    return retry_after + first_wait_s * draw


def retry_after_s(header: str | None, now: datetime) -> float | None:
    """A Retry-After header in seconds from now (RFC 9110, 10.2.3: seconds or a date); None if absent or nonsense."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        when = email.utils.parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - now).total_seconds())


def _innermost(error: BaseException) -> BaseException:
    while error.__cause__ is not None and not isinstance(error, UnusableReply):
        error = error.__cause__
    return error


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")
