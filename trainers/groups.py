"""A group of rollouts on its way through a step: sampled, rewarded, reported."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import TypedDict

import torch
from torch import Tensor

from seedbench_r1.types import FinishReason, Question, SamplingConfig
from trainers.config import TrainConfig
from trainers.data import TrainingExample
from trainers.logprobs import Span


@dataclass(frozen=True, slots=True)
class Rollout:
    """One completion, as the loss and the rewards need it."""

    token_ids: tuple[int, ...]  # with the end token, if it ended by itself; at least one
    text: str  # without special tokens
    finish_reason: FinishReason
    logprobs: tuple[float, ...] | None = None  # of each token by the sampler, before temperature; None: not recorded
    opened: str = ""  # what the prompt had opened before the text, e.g. "<think>\n"


@dataclass(frozen=True, slots=True)
class Group:
    """A question and its G rollouts."""

    example: TrainingExample
    rollouts: tuple[Rollout, ...]


@dataclass(frozen=True, slots=True)
class RewardedGroup:
    """A group with its rewards. All tensors (G,) float32 on the CPU."""

    group: Group
    accuracy: Tensor
    format: Tensor
    answer_spans: dict[int, Span]  # rollout -> its answer's tokens; of the accurate rollouts that have an answer
    needs_reference: bool  # whether the reference's likelihoods can change the bonus; then it makes one pass
    likelihood: Tensor  # of the answer under the reference; NaN: not accurate, no answer, or not needed
    bonus: Tensor
    reward: Tensor
    advantage: Tensor
    regenerated: dict[int, str] = field(default_factory=dict)  # rollout -> its text with the answer by the reference
    own: dict[str, Tensor] = field(default_factory=dict)  # --reward's values by name, unweighted
    own_sum: Tensor | None = None  # the weighted sum of these, which is a part of the reward; None: there are none
    failed: int = 0  # of these values, how many are 0 because the function gave no number


@dataclass(frozen=True, slots=True)
class SamplerMismatch:
    """How far the sampler's log-probabilities are from the policy's on the same tokens. Means over a group's tokens."""

    gap: float  # |policy - sampler|, natural log
    ratio: float  # exp(policy - sampler): 1 when they agree


@dataclass(frozen=True, slots=True)
class Importance:
    """The importance weights of a group's tokens."""

    weight: float  # mean
    truncated: float  # share of the tokens whose weight is the cap


class CompletionLine(TypedDict):
    """A completion in a log, which adds the step. Complete in itself: nothing has to be looked up to read it."""

    question_id: str
    question: str
    options: list[str]  # in the order shown; the first is A
    gold: str
    video: str | None  # paths of what was shown
    image: str | None
    text: str
    opened: str
    finish_reason: FinishReason
    tokens: int
    accuracy: float
    format: float


class RolloutLine(CompletionLine):
    """A rollout in rollouts.jsonl."""

    reward: float
    bonus: float
    likelihood: float | None
    advantage: float
    regenerated: str | None  # with --bonus refgen: its thoughts and the answer that the reference has written
    rewards: dict[str, float]  # --reward's values by name, unweighted


@dataclass(frozen=True, slots=True)
class GroupReport:
    """What is kept of a group: without tensors, so that it is small enough to be sent between processes."""

    rollouts: list[RolloutLine]
    loss: float  # mean over the iterations, as kl
    kl: float | None  # mean over the penalised tokens; None without a penalty
    policy_passes: int  # one an iteration; 0 if the group has no gradient, or shared the pass of a group before it
    reference_passes: int  # for the bonus alone: 0 or 1
    mismatch: SamplerMismatch | None = None  # None: not measured
    clip_fraction: float | None = None  # share of tokens, mean over the iterations after the first, as the next
    old_kl: float | None = None  # KL(policy of the rollouts || policy), mean over the tokens
    importance: Importance | None = None  # None: not corrected
    reward_failures: int = 0  # of --reward's functions
    replaced: bool = False  # by another question's group, for lack of spread: it is no part of the loss


def counted_rollouts(group: Group, config: TrainConfig) -> Tensor:
    """(G,) bool: the rollouts whose tokens count in the loss. All have rewards, and count in the group's advantages."""
    cut = torch.tensor([rollout.finish_reason == "length" for rollout in group.rollouts])
    return ~cut if config.mask_truncated else torch.ones_like(cut)


def counted_tokens(group: Group, config: TrainConfig) -> int:
    """How many tokens of the group count in the loss."""
    counted = counted_rollouts(group, config).tolist()
    return sum(len(rollout.token_ids) for rollout, counts in zip(group.rollouts, counted, strict=True) if counts)


def completion_line(question: Question, rollout: Rollout, *, accuracy: float, format_reward: float) -> CompletionLine:
    """What both logs say of a completion, in JSON values."""
    media = question.with_absolute_paths()  # for a window that is opened in another folder
    return {
        "question_id": question.question_id,
        "question": question.text,
        "options": list(question.options),
        "gold": question.gold,
        "video": None if media.video is None else str(media.video),
        "image": None if media.image is None else str(media.image),
        "text": rollout.text,
        "opened": rollout.opened,
        "finish_reason": rollout.finish_reason,
        "tokens": len(rollout.token_ids),
        "accuracy": accuracy,
        "format": format_reward,
    }


def rollout_lines(rewarded: RewardedGroup) -> list[RolloutLine]:
    """The group's rollouts with their rewards, in JSON values."""
    question, accuracy, formats = rewarded.group.example.question, rewarded.accuracy, rewarded.format
    return [
        {
            **completion_line(question, rollout, accuracy=float(accuracy[row]), format_reward=float(formats[row])),
            "reward": float(rewarded.reward[row]),
            "bonus": float(rewarded.bonus[row]),
            "likelihood": _finite(float(rewarded.likelihood[row])),
            "advantage": float(rewarded.advantage[row]),
            "regenerated": rewarded.regenerated.get(row),
            "rewards": {name: float(values[row]) for name, values in rewarded.own.items()},
        }
        for row, rollout in enumerate(rewarded.group.rollouts)
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


def _epoch_seed(seed: int, epoch: int) -> int:
    """Another seed for each epoch, so that a question's rollouts differ between epochs."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{epoch}".encode()).digest()[:6])


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None
