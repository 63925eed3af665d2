"""What requests to a paid server cost, and how not to begin one that there is no money for."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from seedbench_r1.errors import ConfigError

log = logging.getLogger(__name__)

Item = TypeVar("Item")


def token_cost(n_prompt_tokens: int, n_tokens: int, price_in: float, price_out: float) -> float:
    """In the currency of the prices, which are per million tokens. Discounts for cached prompts are not known."""
    return (n_prompt_tokens * price_in + n_tokens * price_out) / 1e6


class CostLimit:
    """Keeps what completions cost within a limit. Its methods may be called from many threads.

    A request starts only if it and all in flight could not exceed the limit together, each assumed to have the largest
    prompt seen so far and to use all its new tokens. Until a first reply shows a prompt's size, one is in flight at a
    time. So the limit is exceeded only if the first prompt, or one that is larger than all before it, costs more than
    what is left. Tries without a reply are not counted: no server says what they cost.
    """

    def __init__(self, limit: float, price_in: float, price_out: float) -> None:
        self.spent = 0.0  # in the currency of the prices
        self._limit = limit
        self._prices = (price_in, price_out)
        self._changed = threading.Condition()
        self._largest_prompt: int | None = None  # tokens; None: no reply yet
        self._in_flight = 0  # completions
        self._completions = 1  # of one request
        self._max_tokens = 0  # of one completion
        self._closed = False

    def affordable(
        self, requests: Iterable[Item], *, completions: Callable[[Item], int], max_tokens: int
    ) -> Iterator[Item]:
        """The requests, each pulled once it can be paid for; ends, with a warning, where the money does.

        Args:
            requests: pulled one at a time.
            completions: how many a request asks for; every one of them must be settled. Before a request is pulled, it
                is supposed to ask for as many as the one before.
            max_tokens: that one completion may generate.
        """
        with self._changed:
            self._in_flight, self._completions, self._max_tokens, self._closed = 0, 1, max_tokens, False
        return self._pull(iter(requests), completions)

    def counted(self, usage: tuple[int, int] | None, base_url: str) -> tuple[int, int]:
        """A reply's prompt tokens and generated tokens. Raises ConfigError, and starts no more, if it has none."""
        if usage is None:
            self.close()
            raise ConfigError(
                f"{base_url} does not say how many tokens an answer took (usage), so --max-cost cannot be kept. "
                f"Answers so far are saved. Fix: leave out --max-cost, or set the limit at the server."
            )
        return usage

    def settle(self, usage: tuple[int, int] | None) -> None:
        """A completion has ended. usage: its prompt tokens and generated tokens; None if there was no reply."""
        with self._changed:
            self._in_flight -= 1
            if usage is not None:
                self.spent += token_cost(*usage, *self._prices)
                self._largest_prompt = max(self._largest_prompt or 0, usage[0])
            self._changed.notify_all()

    def close(self) -> None:
        """The consumer has stopped: no thread waits for money any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _pull(self, requests: Iterator[Item], completions: Callable[[Item], int]) -> Iterator[Item]:
        while self._wait_until_affordable():
            try:
                request = next(requests)
            except StopIteration:
                return
            with self._changed:
                self._completions = completions(request)
                self._in_flight += self._completions
            yield request

    def _wait_until_affordable(self) -> bool:
        with self._changed:
            # With nothing in flight no more can be learned by waiting, so the answer is final either way.
            self._changed.wait_for(lambda: self._closed or self._in_flight == 0 or self._fits())
            if self._closed:
                return False
            if not self._fits():
                log.warning(
                    "Stopped before --max-cost %g: %.4g spent, and one more answer could exceed it",
                    self._limit,
                    self.spent,
                )
                return False
            return True

    def _fits(self) -> bool:
        # Nothing is known of sizes yet: one request finds out.
        if self._largest_prompt is None and self._in_flight:
            return False
        dearest = token_cost(self._largest_prompt or 0, self._max_tokens, *self._prices)
        return self.spent + (self._in_flight + self._completions) * dearest <= self._limit
