"""Groups of rollouts, and the samplers that draw them.

The built-in sampler is the evaluation's own decoding: many completions of each prompt, several prompts at once. The
one on vLLM is in trainers.vllm_rollouts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from seedbench_r1.backends.decoding import Prompt, decode
from seedbench_r1.errors import ResourceError
from seedbench_r1.types import FinishReason, SamplingConfig
from trainers.config import TrainConfig
from trainers.data import Item
from trainers.policy import Policy


@dataclass(frozen=True, slots=True)
class Rollout:
    """One completion, as the loss and the rewards need it."""

    token_ids: tuple[int, ...]  # with the end token, if it ended by itself; at least one
    text: str  # without special tokens
    finish_reason: FinishReason
    logprobs: tuple[float, ...] | None = None  # of each token by the sampler, before temperature; None: not recorded


@dataclass(frozen=True, slots=True)
class Group:
    """A question and its rollouts."""

    item: Item
    rollouts: tuple[Rollout, ...]


class Sampler(Protocol):
    """What draws rollouts for a policy."""

    def sample(self, items: Sequence[Item]) -> list[Group]:
        """config.num_generations rollouts of every item, in the items' order. Raises ResourceError."""

    def take_weights(self) -> None:
        """The policy has changed: rollouts from now on come from its new weights."""

    def close(self) -> None:
        """Give the memory back."""


class BuiltinSampler:
    """Samples from the policy itself, so that its weights are always the newest."""

    def __init__(self, policy: Policy, config: TrainConfig) -> None:
        self._policy, self._config = policy, config

    def sample(self, items: Sequence[Item]) -> list[Group]:
        return sample_groups(self._policy, items, self._config)

    def take_weights(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


def check_sampler(config: TrainConfig, *, world: int) -> None:
    """Raise ConfigError if config.rollouts cannot be served here. Loads no model."""
    if config.rollouts == "vllm":
        from trainers.vllm_rollouts import check_vllm_rollouts

        check_vllm_rollouts(config, world=world)


def open_sampler(policy: Policy, config: TrainConfig, *, world: int) -> Sampler:
    """The sampler that config.rollouts names. Raises ConfigError or ResourceError if it cannot start."""
    if config.rollouts == "vllm":
        from trainers.vllm_rollouts import VllmSampler

        return VllmSampler(policy, config, world=world)
    return BuiltinSampler(policy, config)


def sample_groups(policy: Policy, items: Sequence[Item], config: TrainConfig) -> list[Group]:
    """config.num_generations rollouts of every item, in the items' order.

    Each prompt is prefilled once and its cache repeated; rollout_batch_size prompts grow together. A rollout's random
    numbers depend on the seed, the epoch, the question and its place in the group alone. Vision tokens cannot be drawn.
    Raises ResourceError when the device's memory does not suffice.
    """
    import torch

    groups: list[Group] = []
    with policy.whole() as model:
        model.eval()
        for batch in _batches(items, config.rollout_batch_size):
            try:
                groups += _sample(policy, model, batch, config)
            except torch.OutOfMemoryError as error:
                raise ResourceError(
                    f"Out of memory while sampling {config.num_generations} rollouts of {len(batch)} questions at "
                    f"once. Fix: a smaller --rollout-batch-size or --max-completion-length, or {config.relief}. "
                    f"The same command continues from the last checkpoint."
                ) from error
    return groups


def _sample(policy: Policy, model: Any, batch: Sequence[Item], config: TrainConfig) -> list[Group]:
    sampling = rollout_sampling(config, batch[0].epoch)
    tokenizer = policy.processor.tokenizer
    prompts = [Prompt(item.question.question_id, item.inputs) for item in batch]
    found: dict[tuple[str, int], Rollout] = {}
    for completion in decode(model, policy.processor, prompts, sampling, cache=config.decode_cache):
        ids = completion.token_ids
        text = tokenizer.decode(ids, skip_special_tokens=True)
        ended = () if completion.end_token is None else (completion.end_token,)
        found[completion.question_id, completion.k] = Rollout((*ids, *ended), text, completion.finish_reason)
    return [
        Group(item, tuple(found[item.question.question_id, k] for k in range(config.num_generations))) for item in batch
    ]


def rollout_sampling(config: TrainConfig, epoch: int) -> SamplingConfig:
    """Every sampling option of an epoch's rollouts."""
    return SamplingConfig(
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
        repetition_penalty=1.0,
        max_new_tokens=config.max_completion_length,
        n=config.num_generations,
        seed=_epoch_seed(config.seed, epoch),
    )


def _batches(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    """At most `size` neighbours of one epoch; within an epoch no question comes twice."""
    batch: list[Item] = []
    for item in items:
        if batch and (len(batch) == size or batch[0].epoch != item.epoch):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _epoch_seed(seed: int, epoch: int) -> int:
    """Another seed for each epoch, so that a question's rollouts differ between epochs."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{epoch}".encode()).digest()[:6])
