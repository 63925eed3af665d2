"""The reference model: an exponential moving average of the policy, its first state, or none.

The average is kept in float32 in main memory. In bfloat16 it would hardly change: at a decay of 0.995 most of its
updates are smaller than half the distance between neighbouring numbers. It is updated on the device, one tensor after
the other: on one thread of a CPU a 7B's would take seconds.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from trainers.policy import Policy
from trainers.sharding import gathered, local_shard, shard

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Reference:
    """phi of GRPO-CARE's Algorithm 1 (arXiv 2506.16141): every `every` steps phi <- decay phi + (1 - decay) theta.

    Without LoRA it is a working copy of the model, in the model's dtype, whose frozen parameters are shared. With LoRA
    there is no copy: the averaged adapters replace the trained ones during a forward pass, or, if frozen, the adapters
    are disabled. The average of A times the average of B is not that of AB; the error is second order. Under --fsdp
    copy and average are sharded as the policy is, and the copy's shards lie in main memory, too: it makes a pass or two
    a step, and sampling and learning need the device's.
    """

    def __init__(self, kind: Literal["ema", "frozen", "none"], policy: Policy, *, decay: float, every: int) -> None:
        self._kind, self._policy, self._decay, self._every = kind, policy, decay, every
        self._copy = _frozen_copy(policy) if kind != "none" and policy.adapter is None else None
        self.average: dict[str, Tensor] = {}  # fp32 on the CPU, by parameter name, this process's shards; only for ema
        if kind == "ema":
            first = policy.trainable()
            self.average = {
                name: local_shard(value).to("cpu", torch.float32, copy=True) for name, value in first.items()
            }

    @contextmanager
    def model(self) -> Iterator[PreTrainedModel]:
        """In evaluation mode, for forward passes without gradients. Raises ValueError if there is none."""
        if self._kind == "none":
            raise ValueError("there is no reference model")
        if self._copy is not None:
            yield self._copy
            return
        self._policy.model.train(False)
        if self._kind == "frozen" and self._policy.adapter is not None:
            with self._policy.adapter.disable_adapter():
                yield self._policy.model
        else:
            with self._averaged_adapters():
                yield self._policy.model

    @contextmanager
    def gathered(self) -> Iterator[PreTrainedModel]:
        """The same with all its weights on this device, for writing tokens. Under --fsdp every process must call it.

        It then takes the place of Policy.gathered and its memory.
        """
        shards = self._policy.shards
        with self.model() as model:
            if shards is None:
                yield model
                return
            with gathered(shards, model) as unsharded:
                # Adapters are switched off in the module that holds them, and this is another one.
                off = self._kind == "frozen" and self._policy.adapter is not None
                with _without_adapters(unsharded) if off else nullcontext():
                    yield unsharded

    @torch.no_grad()
    def update(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """After the 1-based step `step`, with the policy's fp32 weights by name: update the average if it is due."""
        if self._kind != "ema" or step % self._every:
            return
        copied = {} if self._copy is None else dict(self._copy.named_parameters())
        for name, value in self.average.items():
            weight = local_shard(weights[name])
            # lerp(theta, 1 - decay) is phi <- decay phi + (1 - decay) theta.
            fresh = value.to(weight.device).lerp(weight.float(), 1 - self._decay)
            value.copy_(fresh)
            if name in copied:  # rounded on the device, too
                local_shard(copied[name]).copy_(fresh)

    def load(self, average: Mapping[str, Tensor]) -> None:
        """Continue from a stored average."""
        for name, value in self.average.items():
            value.copy_(average[name])
        self.write_average_to_copy()

    @torch.no_grad()
    def write_average_to_copy(self) -> None:
        """Round the average into the working copy, after it was changed from outside. Under LoRA there is no copy."""
        if self._copy is None:
            return
        parameters = dict(self._copy.named_parameters())
        for name, value in self.average.items():
            local_shard(parameters[name]).copy_(value)

    @contextmanager
    def _averaged_adapters(self) -> Iterator[None]:
        parameters = self._policy.trainable()
        trained = {name: parameter.data for name, parameter in parameters.items()}
        # The parameters stay the same objects, so that the optimiser's references to them hold.
        try:
            for name, parameter in parameters.items():
                parameter.data = self.average[name].to(parameter.device, parameter.dtype)
            yield
        finally:
            for name, parameter in parameters.items():
                parameter.data = trained[name]


@contextmanager
def _without_adapters(model: PreTrainedModel) -> Iterator[None]:
    """What peft's disable_adapter does, for a model that it has not wrapped itself."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    try:
        for layer in layers:
            layer.enable_adapters(False)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def _frozen_copy(policy: Policy) -> PreTrainedModel:
    """A copy without gradients. What is frozen in the policy is shared with it, unless the copy is sharded too."""
    if policy.shards is None:
        frozen = {id(value): value for value in policy.model.parameters() if not value.requires_grad}
        model = copy.deepcopy(policy.model, frozen)
        model.requires_grad_(False)
    else:
        # A sharded model cannot be copied: its gathered form is, and the copy is sharded anew.
        with policy.gathered() as unsharded:
            model = copy.deepcopy(unsharded)
        shard(model, policy.shards.mesh, shard_dtype=model.dtype, in_main_memory=True)
    model.train(False)
    return model
