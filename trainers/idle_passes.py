"""Passes without effect, so that under --fsdp every process gathers the weights as often as the others do."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trainers.config import TrainConfig
from trainers.groups import Group
from trainers.policy import Policy
from trainers.reference import Reference
from trainers.shared_prefix import group_logprobs


class IdlePasses:
    """Counts the passes that this process lacks and makes them, on its shortest prompt and a single token.

    They follow the real passes of a stage, while other processes still make theirs. Attributes: made: how many so far.
    """

    def __init__(
        self, policy: Policy, groups: Sequence[Group], config: TrainConfig, max_over_ranks: Callable[[int], int]
    ) -> None:
        self._policy, self._config, self._max_over_ranks = policy, config, max_over_ranks
        self._inputs = min((group.example.inputs for group in groups), key=lambda inputs: len(inputs.input_ids))
        self.made = 0

    def missing(self, own: int) -> int:
        """How many passes this process lacks, which will make `own` of a stage.

        A collective call under --fsdp: every process makes it, and before the passes themselves.
        """
        return 0 if self._policy.shards is None else self._max_over_ranks(own) - own

    def missing_of(self, rollouts: Sequence[int]) -> int:
        """The same of a process that will run so many rollouts of each group: a pass per chunk, rounded up."""
        return self.missing(sum(-(-n // (self._config.group_chunk or n)) for n in rollouts if n))

    def needed_anywhere(self, own: bool) -> bool:
        """Whether a stage that gathers weights is needed: under --fsdp by any process, and then every one takes part.

        A collective call under --fsdp.
        """
        return own if self._policy.shards is None else self._max_over_ranks(int(own)) > 0

    def run_reference(self, reference: Reference, count: int) -> None:
        """Forward passes of the reference."""
        for _ in range(count):
            with torch.no_grad(), reference.model() as model:
                self._pass(model)

    def run_policy(self, count: int) -> None:
        """Forward and backward passes of the policy, whose gradient is zero."""
        self._policy.model.train()
        for _ in range(count):
            # Zero times the output, not a detached zero: FSDP reduces in the backward hooks, which must run.
            torch.autograd.backward(0.0 * self._pass(self._policy.model))

    def _pass(self, model: torch.nn.Module) -> Tensor:
        # Any token does; the end token exists in every tokenizer and is no vision token.
        token = torch.tensor([self._policy.processor.tokenizer.eos_token_id])
        layout, shared_prefix = self._policy.processor.layout, self._config.shared_prefix
        logprobs, _ = group_logprobs(model, layout, self._inputs, [token], shared_prefix=shared_prefix)
        self.made += 1
        return logprobs.sum()
