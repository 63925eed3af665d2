"""The one contract that every backend fulfils (tests/contract)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

from seedbench_r1.types import Failure, Generation, Request, SamplingConfig

Result = tuple[str, Generation | Failure]  # with the question's id

# What one bad request can raise from inside a model or its processor; anything else is a bug or concerns every request.
REQUEST_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, KeyError, ArithmeticError)


NAN_TEXT = 32  # signs: so many "!" and nothing else are no answer


def nan_failure(text: str) -> Failure | None:
    """The failure that a text of nothing but "!" stands for; None for any other.

    An engine that does not look at its logits takes token 0 where all are NaN: "!" in the vocabularies of the Qwen
    models, up to the length limit.
    """
    if len(text) < NAN_TEXT or text.strip("!"):
        return None
    return Failure("backend_error", f'the answer is {len(text)} times "!": the model\'s logits are not finite (NaN)')


class Draw(NamedTuple):
    """One completion that a request asks for."""

    result_id: str  # under which its result leaves
    seed: int
    k: int  # which of those with this seed


def sample_id(question_id: str, seed: int) -> str:
    """The key of the completion of a request with seeds."""
    return f"{question_id}@{seed}"


def draws(request: Request, sampling: SamplingConfig) -> tuple[Draw, ...]:
    """Every completion that a request asks for."""
    if request.seeds:
        return tuple(Draw(sample_id(request.question_id, seed), seed, 0) for seed in request.seeds)
    return tuple(Draw(request.question_id, sampling.seed, k) for k in range(sampling.n))


class Backend(Protocol):
    """Turns a lazy stream of requests into a stream of results.

    * Requests are pulled while earlier ones are being answered; a bounded number is in flight.
    * A result leaves as soon as it exists, in any order, keyed by question_id. With sampling.n = k, a question_id
      leaves k times. With Request.seeds each completion has a key of its own (sample_id), and is what a request without
      them would get at that sampling.seed; the prompt is computed once for all of them.
    * What goes wrong with one request is a Failure for that request; only errors that concern all of them are raised
      (ResourceError, ConfigError).
    * A request's result depends on the request, the sampling options and the seed, not on its neighbours or its place
      in the stream.
    * When the stream ends, everything in flight is finished and yielded before the iterator stops.
    * Request.prefix is text that the assistant has written already: the completion goes on from it and does not repeat
      it. A backend that cannot do so is no Scorer, and is never given one.
    """

    def generate(self, requests: Iterable[Request], sampling: SamplingConfig) -> Iterator[Result]: ...

    def close(self) -> None:
        """Release memory and child processes. Safe to call twice."""
        ...


Scores = tuple[float, ...]  # natural log-probability of each continuation, up to a constant of the request


@runtime_checkable
class Scorer(Backend, Protocol):
    """A backend that also continues a prefix, and says how likely given continuations of it are."""

    def opened_for(self, request: Request) -> str:
        """What the model's chat template opens in the assistant's turn; a prefix begins after it."""
        ...

    def score(self, requests: Iterable[Request]) -> Iterator[tuple[str, Scores | Failure]]:
        """log P(continuation | prompt, prefix) of each of Request.continuations, less what all of them share.

        The stream is pulled and results leave as in generate. Two continuations that are equal, or of which one begins
        the other, are a Failure.
        """
        ...
