"""The body of a chat completion, or of an error, read as what a server may have written there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seedbench_r1.typed_json import finite, from_json, parse_json
from seedbench_r1.types import Count

SHOWN_CHARACTERS = 400  # of a server's own error text
_UNKNOWN_FIELD = re.compile(r"unsupported|not supported|instead|unknown|unrecogni[sz]ed|not permitted", re.IGNORECASE)
_FORMAT = re.compile(r"response_format|json_schema|structured[ _]outputs?|guided[ _](?:decoding|json)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Reply:
    """What the server answered."""

    text: str  # content, behind the thoughts that came in a field of their own, in think tags
    finish_reason: str  # the server's own word, e.g. "stop", "length", "content_filter"
    n_prompt_tokens: int | None  # by the server's count, media included; None: it sent none
    n_tokens: int | None  # generated, likewise; hidden reasoning and an end-of-text token may be among them
    latency_s: float  # of the try that succeeded
    logprobs: tuple[float, ...] | None = None  # natural log, of the generated tokens, if they were asked for
    content: str = ""  # the message's content; a refusal if it has none; "" if the limit came before any

    @property
    def usage(self) -> tuple[int, int] | None:
        """Prompt tokens and generated tokens; None if the server did not count both."""
        if self.n_prompt_tokens is None or self.n_tokens is None:
            return None
        return self.n_prompt_tokens, self.n_tokens


def read_reply(body: str, latency_s: float) -> Reply:
    """The body of a chat completion. Raises ValueError, saying what is wrong with it."""
    try:
        value = parse_json(body)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error
    try:
        choice = value["choices"][0]
        # Not every server counts tokens; its answers are answers all the same.
        message, usage = choice["message"], value.get("usage") or {}
        content = message["content"]
        if content is None:  # a refusal, or the limit came while the model was still reasoning
            content = message.get("refusal") or ""
        # Servers that part thoughts from answers; vLLM calls the field `reasoning` since 0.12.
        thoughts = message.get("reasoning_content") or message.get("reasoning")
        text = content
        if isinstance(thoughts, str) and thoughts:
            cut = choice["finish_reason"] == "length" and not content
            text = f"<think>{thoughts}{'' if cut else '</think>'}{content}"
        reply = Reply(
            text=text,
            content=content,
            finish_reason=choice["finish_reason"],
            n_prompt_tokens=_count(usage.get("prompt_tokens")),
            n_tokens=_count(usage.get("completion_tokens")),
            latency_s=latency_s,
            logprobs=_logprobs(choice.get("logprobs")),
        )
    except (KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"no chat completion: {type(error).__name__}: {error}") from error
    if not all(type(item) is str for item in (reply.text, reply.finish_reason)):
        raise ValueError("no chat completion: a field has the wrong type")
    return reply


def error_text(body: str) -> str:
    """The readable part of a server's error body, on one line."""
    try:
        value = parse_json(body)
    except ValueError:
        return shorten(body)
    inner = value.get("error", value) if isinstance(value, dict) else value
    message = inner.get("message", inner) if isinstance(inner, dict) else inner
    return shorten(message if isinstance(message, str) else body)


def wants_other_limit_name(body: str) -> bool:
    """True if an error's body asks for max_completion_tokens in place of max_tokens, as OpenAI's newer models do."""
    # vLLM names both where the number is too large, which another name would not mend.
    return "max_completion_tokens" in body and _UNKNOWN_FIELD.search(body) is not None


def refuses_format(message: str) -> bool:
    """True if an error's text says that the server knows no response_format, or none with a schema."""
    return _FORMAT.search(message) is not None


def _count(value: object) -> int | None:
    """A number of tokens, as a record can hold it. Raises ValueError."""
    try:
        return None if value is None else from_json(Count, value)  # type: ignore[arg-type]  # Annotated
    except ValueError as error:
        raise ValueError(f"no chat completion: a number of tokens {error}") from error


def _logprobs(value: Mapping[str, Sequence[Mapping[str, float]] | None] | None) -> tuple[float, ...] | None:
    tokens = value.get("content") if value else None
    if tokens is None:
        return None
    found = tuple(number for token in tokens if (number := finite(token["logprob"])) is not None)
    if len(found) < len(tokens):
        raise ValueError("no chat completion: a log-probability is not finite")
    return found


def shorten(text: str) -> str:
    """On one line, and no longer than a message can be."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARACTERS else line[:SHOWN_CHARACTERS] + "..."
