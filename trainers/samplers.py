"""The samplers that draw groups of rollouts: the Protocol, the built-in one, and the choice between them.

The built-in sampler is the evaluation's own decoding: many completions of each prompt, several prompts at once. The
one on vLLM is in trainers.vllm_sampler.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import torch

from seedbench_r1.backends.decoding import Prompt, decode
from seedbench_r1.errors import ResourceError
from seedbench_r1.models.completions import completion_text
from trainers.config import TrainConfig
from trainers.data import TrainingExample
from trainers.groups import Group, Rollout, rollout_sampling
from trainers.policy import Policy
from trainers.processes import Processes
from trainers.vllm_sampler import VllmSampler, check_vllm_sampler
from trainers.weights import finite_only

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Sampler(Protocol):
    """What draws rollouts for a policy."""

    def sample(self, examples: Sequence[TrainingExample]) -> list[Group]:
        """config.num_generations rollouts of every example, in the examples' order. Raises ResourceError."""

    def sync_weights(self) -> None:
        """The policy has changed: rollouts from now on come from its new weights."""

    def close(self) -> None:
        """Release the memory."""


def check_sampler(config: TrainConfig, *, world_size: int) -> None:
    """Raise ConfigError if config.rollouts cannot run here. Loads no model."""
    if config.rollouts == "vllm":
        check_vllm_sampler(config, world_size=world_size)


def open_sampler(policy: Policy, config: TrainConfig, processes: Processes) -> Sampler:
    """The sampler that config.rollouts names. Raises ConfigError or ResourceError if it cannot start."""
    if config.rollouts == "vllm":
        return VllmSampler(policy, config, processes)
    return BuiltinSampler(policy, config)


class BuiltinSampler:
    """Samples from the policy itself, so that its weights are always the newest.

    Each prompt is prefilled once and its cache repeated; rollout_batch_size prompts are decoded together. A rollout's
    random numbers depend on the seed, the epoch, the question and its place in the group alone. Vision tokens cannot
    be drawn.
    """

    def __init__(self, policy: Policy, config: TrainConfig) -> None:
        self._policy, self._config = policy, config

    def sample(self, examples: Sequence[TrainingExample]) -> list[Group]:
        """As Sampler.sample. Raises ResourceError when the device's memory does not suffice."""
        config, groups = self._config, list[Group]()
        with self._policy.gathered() as model:
            for batch in _batches(examples, config.rollout_batch_size):
                try:
                    groups += self._sample(model, batch)
                except torch.OutOfMemoryError as error:
                    raise ResourceError(
                        f"Out of memory while sampling {config.num_generations} rollouts of {len(batch)} questions at "
                        f"once. {config.memory_advice('a smaller --rollout-batch-size')}"
                    ) from error
        return groups

    def sync_weights(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""

    def _sample(self, model: PreTrainedModel, batch: Sequence[TrainingExample]) -> list[Group]:
        config, processor = self._config, self._policy.processor
        prompts = [Prompt(example.question.question_id, example.inputs) for example in batch]
        found: dict[tuple[str, int], Rollout] = {}
        sampling = rollout_sampling(config, batch[0].epoch)
        completions = finite_only(model, decode(model, processor, prompts, sampling, cache=config.decode_cache))
        # They arrive as they end, so they are put in order by question and index.
        for completion in completions:
            ids = completion.token_ids
            text = completion_text(processor.tokenizer, ids)
            # The loss is on the end token too: a policy learns when to stop. decode leaves it out of token_ids.
            ended = () if completion.end_token is None else (completion.end_token,)
            found[completion.question_id, completion.k] = Rollout(
                (*ids, *ended), text, completion.finish_reason, opened=processor.opened
            )
        return [
            Group(example, tuple(found[example.question.question_id, k] for k in range(config.num_generations)))
            for example in batch
        ]


def _batches(examples: Sequence[TrainingExample], size: int) -> Iterator[list[TrainingExample]]:
    """At most `size` neighbours of one epoch, so that a question id is unique in a batch and one seed serves it."""
    batch: list[TrainingExample] = []
    for example in examples:
        if batch and (len(batch) == size or batch[0].epoch != example.epoch):
            yield batch
            batch = []
        batch.append(example)
    if batch:
        yield batch
