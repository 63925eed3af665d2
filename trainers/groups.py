"""Rollouts and groups: what a sampler draws for a question, and the sampling options it draws them with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from seedbench_r1.types import FinishReason, SamplingConfig
from trainers.config import TrainConfig
from trainers.data import Item


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


def _epoch_seed(seed: int, epoch: int) -> int:
    """Another seed for each epoch, so that a question's rollouts differ between epochs."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{epoch}".encode()).digest()[:6])
