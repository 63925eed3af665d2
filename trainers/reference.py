"""The reference model: an exponential moving average of the policy, its first state, or none.

The average is kept in float32 on the CPU. In bfloat16 it would hardly move: at a decay of 0.995 most of its updates are
smaller than half the distance between neighbouring numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from trainers.policy import Policy
from trainers.sharding import local, shard


class Reference:
    """phi of GRPO-CARE's Algorithm 1 (arXiv 2506.16141): every `every` steps phi <- decay phi + (1 - decay) theta.

    Without LoRA it is a working copy of the model, in the model's dtype, whose frozen parameters are shared. With LoRA
    there is no copy: the averaged adapters take the trained ones' place during a forward pass, or, if frozen, the
    adapters are switched off. The average of A times the average of B is not that of AB; the error is second order.
    Under --fsdp copy and average are spread as the policy is: each process holds and moves its part of them.
    """

    def __init__(self, kind: Literal["ema", "frozen", "none"], policy: Policy, *, decay: float, every: int) -> None:
        self._kind, self._policy, self._decay, self._every = kind, policy, decay, every
        self._copy = _copy_of(policy) if kind != "none" and policy.adapter is None else None
        self.average: dict[str, Tensor] = {}  # fp32 on the CPU, by parameter name, this process's part; only for "ema"
        if kind == "ema":
            first = policy.trainable()
            self.average = {name: local(value).to("cpu", torch.float32).clone() for name, value in first.items()}

    @contextmanager
    def model(self) -> Iterator[Any]:
        """For forward passes without gradients. Raises ValueError if there is none."""
        if self._kind == "none":
            raise ValueError("there is no reference model")
        if self._copy is not None:
            yield self._copy
        elif self._kind == "frozen":
            with self._policy.adapter.disable_adapter():
                yield self._policy.model
        else:
            with self._averaged_adapters():
                yield self._policy.model

    @torch.no_grad()
    def update(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """After the 1-based step `step`, with the policy's fp32 weights by name: move the average if it is due."""
        if self._kind != "ema" or step % self._every:
            return
        for name, value in self.average.items():
            value.lerp_(local(weights[name]).to("cpu", torch.float32), 1 - self._decay)
        self.show_average()

    def load(self, average: Mapping[str, Tensor]) -> None:
        """Continue from a stored average."""
        for name, value in self.average.items():
            value.copy_(average[name])
        self.show_average()

    @torch.no_grad()
    def show_average(self) -> None:
        """Write the average into the working copy, after it was changed from outside."""
        if self._copy is None:
            return
        shown = dict(self._copy.named_parameters())
        for name, value in self.average.items():
            local(shown[name]).copy_(value)

    @contextmanager
    def _averaged_adapters(self) -> Iterator[None]:
        parameters = self._policy.trainable()
        trained = {name: parameter.data for name, parameter in parameters.items()}
        try:
            for name, parameter in parameters.items():
                parameter.data = self.average[name].to(parameter.device, parameter.dtype)
            yield
        finally:
            for name, parameter in parameters.items():
                parameter.data = trained[name]


def _copy_of(policy: Policy) -> Any:
    """A copy that cannot learn. What is frozen in the policy is shared with it, unless the copy is sharded too."""
    if policy.shards is None:
        shared = {id(value): value for value in policy.model.parameters() if not value.requires_grad}
        model = copy.deepcopy(policy.model, shared).requires_grad_(False)
    else:
        with policy.whole() as gathered:
            model = copy.deepcopy(gathered)
        shard(model, policy.shards.mesh, stored=model.dtype)
    return model.eval()
