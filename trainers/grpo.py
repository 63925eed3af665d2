"""One step of GRPO or GRPO-CARE on this process's groups: rewards, bonus, advantages, loss, gradients.

GRPO (arXiv 2402.03300) is GRPO-CARE (arXiv 2506.16141, Algorithm 1) without the bonus.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.advantages import group_advantages
from trainers.config import TrainConfig
from trainers.consistency import (
    accurate_rollouts,
    answer_likelihood,
    answer_span,
    consistency_bonus,
    dense_bonus,
)
from trainers.data import Item
from trainers.loss import policy_loss, token_kl
from trainers.optimizer import Optimizer
from trainers.policy import Policy
from trainers.reference import Reference
from trainers.rewards import reward
from trainers.rollouts import Group, Sampler
from trainers.shared_prefix import group_logprobs


@dataclass(frozen=True, slots=True)
class Judged:
    """A group with its rewards. All tensors (G,) float32 on the CPU."""

    group: Group
    accuracy: Tensor
    format: Tensor
    likelihood: Tensor  # of the answer under the reference; NaN: not accurate, no answer, or not needed
    bonus: Tensor
    reward: Tensor
    advantage: Tensor
    reference_passes: int  # forward passes of the reference that the bonus took: 0 or 1


@dataclass(frozen=True, slots=True)
class Mismatch:
    """How far the sampler's log-probabilities are from the policy's on the same tokens. Means over a group's tokens."""

    gap: float  # |policy - sampler|, natural log
    ratio: float  # exp(policy - sampler): 1 when they agree


@dataclass(frozen=True, slots=True)
class GroupResult:
    """A group after its part of the step."""

    judged: Judged
    loss: float
    kl: float | None  # mean over the penalised tokens; None without a penalty
    policy_passes: int  # 0 if the group could not move the policy
    mismatch: Mismatch | None = None  # None: not measured


@dataclass(frozen=True, slots=True)
class Seconds:
    """Where a step's time went."""

    rollouts: float = 0.0
    reference: float = 0.0
    policy: float = 0.0


def grpo_step(
    policy: Policy,
    reference: Reference,
    optimizer: Optimizer,
    sampler: Sampler,
    items: Sequence[Item],
    config: TrainConfig,
    questions_per_step: int,
) -> tuple[list[GroupResult], Seconds]:
    """Sample, reward and differentiate this process's items; the gradients wait in the optimizer.

    The loss is the mean over all groups of the step, those of other processes included. Raises ResourceError when the
    device's memory does not suffice for the rollouts.
    """
    began = time.perf_counter()
    groups = sampler.sample(items)
    sampled = time.perf_counter()
    judged = [judge_group(policy, reference, group, config) for group in groups]
    rewarded = time.perf_counter()
    results = [learn(policy, reference, group, config, questions_per_step, optimizer) for group in judged]
    done = time.perf_counter()
    return results, Seconds(sampled - began, rewarded - sampled, done - rewarded)


def judge_group(policy: Policy, reference: Reference, group: Group, config: TrainConfig) -> Judged:
    """Rewards, bonus and advantages of a group. The reference runs only if its word can change the bonus."""
    rewards = [reward(group.item.question, r.text, r.finish_reason) for r in group.rollouts]
    accuracy = torch.tensor([r.accuracy for r in rewards])
    well_formed = torch.tensor([r.format for r in rewards])
    likelihood, passes = likelihoods(policy, reference, group, accuracy, config)
    bonus = torch.zeros_like(accuracy)
    if config.bonus == "care":
        known = likelihood if passes else _undisputed(policy, group, accuracy)
        bonus = consistency_bonus(
            accuracy[None],
            known[None],
            weight=config.bonus_weight,
            margin=config.bonus_margin,
            cap=config.bonus_cap,
        )[0]
    elif config.bonus == "dense":
        bonus = dense_bonus(accuracy[None], likelihood[None], weight=config.bonus_weight)[0]
    total = accuracy + config.format_weight * well_formed + bonus
    advantage = group_advantages(total[None])[0]
    return Judged(group, accuracy, well_formed, likelihood, bonus, total, advantage, passes)


def likelihoods(
    policy: Policy, reference: Reference, group: Group, accuracy: Tensor, config: TrainConfig
) -> tuple[Tensor, int]:
    """(G,) answer likelihoods under the reference, NaN where there is none, and how many forward passes that took.

    Only accurate rollouts with an answer are run, and only up to the answer's end. The consistency bonus compares them
    with one another, so that with fewer than two there is nothing to compute.
    """
    empty = torch.full_like(accuracy, torch.nan)
    candidates = _candidates(policy, group, accuracy)
    if config.bonus == "none" or len(candidates) < (2 if config.bonus == "care" else 1):
        return empty, 0
    completions = [torch.tensor(group.rollouts[row].token_ids) for row in candidates]
    with torch.no_grad(), reference.model() as model:
        model.eval()
        logprobs, mask = group_logprobs(
            model,
            policy.processor.layout,
            group.item.inputs,
            completions,
            shared_prefix=config.shared_prefix,
            group_chunk=config.group_chunk,
            spans=list(candidates.values()),
        )
    values = answer_likelihood(logprobs[None], mask[None], mean=config.likelihood_mean)[0]
    empty[list(candidates)] = values.to(empty.device, empty.dtype)
    return empty, 1


def _candidates(policy: Policy, group: Group, accuracy: Tensor) -> dict[int, tuple[int, int]]:
    """The accurate rollouts that have an answer, by their place in the group, with the answer's tokens."""
    spans = {
        row: answer_span(policy.processor.tokenizer, group.rollouts[row].token_ids)
        for row, accurate in enumerate(accurate_rollouts(accuracy[None])[0].tolist())
        if accurate
    }
    return {row: span for row, span in spans.items() if span is not None}


def _undisputed(policy: Policy, group: Group, accuracy: Tensor) -> Tensor:
    """Stands for the likelihoods of a group with fewer than two candidates: a lone one is its own mean."""
    known = torch.full_like(accuracy, torch.nan)
    known[list(_candidates(policy, group, accuracy))] = 1.0
    return known


def learn(
    policy: Policy,
    reference: Reference,
    judged: Judged,
    config: TrainConfig,
    questions_per_step: int,
    optimizer: Optimizer,
) -> GroupResult:
    """Add a group's gradients. Without a KL penalty, a group whose advantages are all zero costs no pass."""
    penalised = torch.ones_like(judged.accuracy, dtype=torch.bool)
    if config.kl_on == "accurate":
        penalised = accurate_rollouts(judged.accuracy[None])[0]
    penalty = config.beta > 0 and bool(penalised.any())
    if not penalty and not bool(judged.advantage.any()):
        return GroupResult(judged, 0.0, None, 0)
    completions = [torch.tensor(rollout.token_ids) for rollout in judged.group.rollouts]
    expected = _reference_logprobs(policy, reference, judged, completions, config) if penalty else None
    policy.model.train()  # gradient checkpointing asks for it; there is no dropout
    logprobs, mask = group_logprobs(
        policy.model,
        policy.processor.layout,
        judged.group.item.inputs,
        completions,
        shared_prefix=config.shared_prefix,
        group_chunk=config.group_chunk,
        temperature=config.temperature,
    )
    loss = policy_loss(
        logprobs,
        judged.advantage.to(logprobs),
        mask,
        beta=config.beta if penalty else 0.0,
        reference_logprobs=expected,
        kl_rollouts=penalised.to(mask.device),
    )
    (loss / questions_per_step).backward()
    optimizer.collect()
    kl = None
    if expected is not None:
        counted = mask & penalised.to(mask.device)[:, None]
        kl = float(token_kl(logprobs.detach(), expected)[counted].mean())
    return GroupResult(judged, float(loss.detach()), kl, 1, mismatch(judged.group, logprobs.detach(), config))


def mismatch(group: Group, logprobs: Tensor, config: TrainConfig) -> Mismatch | None:
    """Compare the policy's (G, T) log-probabilities with the sampler's, where both are those of temperature 1.

    None for a sampler that records none, or at another temperature. The loss does not use it.
    """
    sampled = [rollout.logprobs for rollout in group.rollouts]
    if config.temperature != 1:
        return None
    pairs = [(logprobs[row, : len(known)].cpu(), torch.tensor(known)) for row, known in enumerate(sampled) if known]
    if not pairs:
        return None
    difference = torch.cat([ours - theirs for ours, theirs in pairs])
    return Mismatch(float(difference.abs().mean()), float(difference.exp().mean()))


def _reference_logprobs(
    policy: Policy, reference: Reference, judged: Judged, completions: list[Tensor], config: TrainConfig
) -> Tensor:
    """(G, T) of all tokens, at the temperature at which the policy is compared."""
    with torch.no_grad(), reference.model() as model:
        model.eval()
        logprobs, _ = group_logprobs(
            model,
            policy.processor.layout,
            judged.group.item.inputs,
            completions,
            shared_prefix=config.shared_prefix,
            group_chunk=config.group_chunk,
            temperature=config.temperature,
        )
    return logprobs
