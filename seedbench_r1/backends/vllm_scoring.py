"""Log-probabilities of continuations from a vLLM engine: a walk down the tree of their tokens, one request a node.

vLLM scores the tokens of a prompt only by computing logits for all of it, without its prefix cache. So a node is asked
for one new token and the log-probabilities of its children: the first node computes the prompt, and the others find it
in the prefix cache. Where every continuation ends in a single token there is one node.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from seedbench_r1.api.prefetch import Prefetch
from seedbench_r1.backends.base import Scores
from seedbench_r1.types import Failure

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.outputs import RequestOutput
    from vllm.v1.engine.llm_engine import LLMEngine

Node = tuple[int, ...]  # the tokens of an ending before the one that is scored


@dataclass(slots=True)
class Walk:
    """One request's tree, its nodes answered one after the other."""

    question_id: str
    rendered: dict[str, Any]  # vLLM's form of the shared part
    endings: tuple[Node, ...]
    children: dict[Node, list[int]] = field(init=False)
    logprobs: dict[Node, float] = field(default_factory=dict)  # of the last token of a path

    def __post_init__(self) -> None:
        self.children = {}
        for ending in self.endings:
            for length in range(len(ending)):
                known = self.children.setdefault(ending[:length], [])
                if ending[length] not in known:
                    known.append(ending[length])

    @property
    def inner_nodes(self) -> list[Node]:
        """All nodes but the first."""
        return [node for node in self.children if node]

    def prompt(self, node: Node) -> dict[str, Any]:
        """What the engine is asked for a node: media and their places stay as they are."""
        return {**self.rendered, "prompt_token_ids": [*self.rendered["prompt_token_ids"], *node]}

    def params(self, node: Node) -> SamplingParams:
        """One new token, and the log-probabilities of the node's children."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=0.0,
            max_tokens=1,
            logprob_token_ids=self.children[node],
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def take(self, node: Node, output: RequestOutput) -> None:
        """Note a node's answer. Raises ValueError if the engine did not give every child's log-probability."""
        found: Any = (output.outputs[0].logprobs or [{}])[0]
        for token in self.children[node]:
            # NaN too is no answer.
            value = found[token].logprob if token in found else math.nan
            if math.isnan(value):
                raise ValueError("vLLM gave no log-probability for a token that was asked for: NaN weights?")
            self.logprobs[(*node, token)] = value

    @property
    def scores(self) -> Scores | None:
        """Of each ending; None while a node is not answered."""
        if len(self.logprobs) < sum(len(tokens) for tokens in self.children.values()):
            return None
        return tuple(
            sum(self.logprobs[ending[:length]] for length in range(1, len(ending) + 1)) for ending in self.endings
        )


class Walks:
    """All walks that an engine has in hand.

    Args:
        engine: a running LLMEngine.
        ids: names for its requests.
        refused: what it raises for a request that it does not take, besides ValueError.
        limit: nodes in flight beyond which no walk is begun.
    """

    def __init__(self, engine: LLMEngine, ids: Iterator[int], refused: type[Exception], limit: int) -> None:
        self._engine = engine
        self._ids = ids
        self._refused = (ValueError, refused)
        self._limit = limit
        self._in_flight: dict[str, tuple[Walk, Node]] = {}

    def answer(self, ahead: Prefetch[Walk | tuple[str, Failure]]) -> Iterator[tuple[str, Scores | Failure]]:
        """The scores of every walk, or its failure, as soon as its last node is answered."""
        while self._in_flight or not ahead.ended:
            while not self._in_flight or len(self._in_flight) < self._limit:
                items = ahead.take(wait=not self._in_flight)
                if not items:
                    break
                for item in items:
                    yield from self._ask(item, [()]) if isinstance(item, Walk) else [item]
            for output in self._engine.step() if self._in_flight else ():
                if output.finished and output.request_id in self._in_flight:
                    yield from self._advance(*self._in_flight.pop(output.request_id), output)

    def abort(self) -> None:
        """Nobody waits for what is in flight."""
        if self._in_flight:
            self._engine.abort_request(list(self._in_flight))

    def _ask(self, walk: Walk, nodes: list[Node]) -> Iterator[tuple[str, Failure]]:
        """Ask for nodes; yield the failure of a walk whose requests the engine does not take."""
        for node in nodes:
            name = str(next(self._ids))
            try:
                self._engine.add_request(name, walk.prompt(node), walk.params(node))  # type: ignore[arg-type]
            except self._refused as error:
                yield self._given_up(walk, error)
                return
            self._in_flight[name] = walk, node

    def _advance(self, walk: Walk, node: Node, output: RequestOutput) -> Iterator[tuple[str, Scores | Failure]]:
        """Note a node's answer, and ask for the others once the prompt is in the cache."""
        try:
            walk.take(node, output)
        except ValueError as error:
            yield self._given_up(walk, error)
            return
        if walk.scores is not None:
            yield walk.question_id, walk.scores
        elif not node:
            yield from self._ask(walk, walk.inner_nodes)

    def _given_up(self, walk: Walk, error: Exception) -> tuple[str, Failure]:
        """Its failure; its other nodes are left."""
        others = [name for name, (owner, _) in self._in_flight.items() if owner is walk]
        for name in others:
            del self._in_flight[name]
        self._engine.abort_request(others)
        return walk.question_id, Failure("backend_error", f"{type(error).__name__}: {error}")
