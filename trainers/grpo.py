"""One step of GRPO or GRPO-CARE on this process's groups: rewards, bonus, advantages, loss, gradients.

GRPO (arXiv 2402.03300) is GRPO-CARE (arXiv 2506.16141, Algorithm 1) without the bonus.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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
from trainers.groups import Group
from trainers.loss import policy_loss, token_kl
from trainers.optimizer import Optimizer
from trainers.policy import Policy
from trainers.reference import Reference
from trainers.rewards import reward
from trainers.samplers import Sampler
from trainers.shared_prefix import Span, group_logprobs


@dataclass(frozen=True, slots=True)
class Scored:
    """A group with what needs no model. Tensors (G,) float32 on the CPU."""

    group: Group
    accuracy: Tensor
    format: Tensor
    spans: dict[int, Span]  # the accurate rollouts that have an answer, by place, with the answer's tokens
    disputed: bool  # whether the reference's likelihoods can change the bonus


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


@dataclass(frozen=True, slots=True)
class StepResult:
    """This process's part of a step."""

    groups: list[GroupResult]
    idle_passes: int  # passes made only because other processes made them; 0 without --fsdp
    seconds: Seconds


def grpo_step(
    policy: Policy,
    reference: Reference,
    optimizer: Optimizer,
    sampler: Sampler,
    items: Sequence[Item],
    config: TrainConfig,
    questions_per_step: int,
    most: Callable[[int], int],
) -> StepResult:
    """Sample, reward and differentiate this process's items; the gradients wait in the optimizer.

    The loss is the mean over all groups of the step, those of other processes included. Under --fsdp all processes make
    equally many passes of each kind: before them `most` tells the largest number of all, after them the missing ones
    are made idly. Raises ResourceError when the device's memory does not suffice for the rollouts.
    """
    began = time.perf_counter()
    groups = sampler.sample(items)
    sampled = time.perf_counter()
    idle = IdlePasses(policy, groups, config, most)
    scored = [score_group(policy, group, config) for group in groups]
    missing = idle.missing([len(s.spans) if s.disputed else 0 for s in scored])
    judged = [judge(s, likelihoods(policy, reference, s, config), config) for s in scored]
    idle.make_reference(reference, missing)
    rewarded = time.perf_counter()
    missing = idle.missing([len(j.reward) if bool(penalised(j, config).any()) else 0 for j in judged])
    expected = [reference_logprobs(policy, reference, j, config) for j in judged]
    idle.make_reference(reference, missing)
    missing = idle.missing([len(j.reward) if moves(j, config) else 0 for j in judged])
    pairs = zip(judged, expected, strict=True)
    results = [learn(policy, j, e, config, questions_per_step, optimizer) for j, e in pairs]
    idle.make_policy(missing)
    seconds = Seconds(sampled - began, rewarded - sampled, time.perf_counter() - rewarded)
    return StepResult(results, idle.made, seconds)


class IdlePasses:
    """Passes without effect, so that under --fsdp every process gathers the weights as often as the others do.

    They run on the shortest prompt and a single token, after the real ones. Attributes: made: how many so far.
    """

    def __init__(
        self, policy: Policy, groups: Sequence[Group], config: TrainConfig, most: Callable[[int], int]
    ) -> None:
        self._policy, self._config, self._most = policy, config, most
        self._inputs = min((group.item.inputs for group in groups), key=lambda inputs: len(inputs.input_ids))
        self.made = 0

    def missing(self, rollouts: Sequence[int]) -> int:
        """How many passes this process lacks, which will run so many rollouts of each group. Ask before running."""
        if self._policy.shards is None:
            return 0
        planned = sum(-(-n // (self._config.group_chunk or n)) for n in rollouts if n)
        return self._most(planned) - planned

    def make_reference(self, reference: Reference, count: int) -> None:
        """Forward passes of the reference."""
        for _ in range(count):
            with torch.no_grad(), reference.model() as model:
                self._pass(model)

    def make_policy(self, count: int) -> None:
        """Forward and backward passes of the policy, whose gradient is zero."""
        self._policy.model.train()
        for _ in range(count):
            (0.0 * self._pass(self._policy.model)).backward()

    def _pass(self, model: Any) -> Tensor:
        token = torch.tensor([self._policy.processor.tokenizer.eos_token_id])
        layout, form = self._policy.processor.layout, self._config.shared_prefix
        logprobs, _ = group_logprobs(model, layout, self._inputs, [token], shared_prefix=form)
        self.made += 1
        return logprobs.sum()


def score_group(policy: Policy, group: Group, config: TrainConfig) -> Scored:
    """Rewards of a group by the evaluation's own score, and whether the reference must be asked for the bonus.

    The consistency bonus compares the accurate rollouts that have an answer with one another, so that with fewer than
    two there is nothing to ask.
    """
    rewards = [reward(group.item.question, r.text, r.finish_reason) for r in group.rollouts]
    accuracy = torch.tensor([r.accuracy for r in rewards])
    spans = {
        row: answer_span(policy.processor.tokenizer, group.rollouts[row].token_ids)
        for row, accurate in enumerate(accurate_rollouts(accuracy[None])[0].tolist())
        if accurate
    }
    found = {row: span for row, span in spans.items() if span is not None}
    disputed = config.bonus != "none" and len(found) >= (2 if config.bonus == "care" else 1)
    return Scored(group, accuracy, torch.tensor([r.format for r in rewards]), found, disputed)


def judge(scored: Scored, likelihood: Tensor, config: TrainConfig) -> Judged:
    """Bonus, reward and advantages of a group, given (G,) the reference's likelihoods of the answers."""
    accuracy = scored.accuracy
    bonus = torch.zeros_like(accuracy)
    if config.bonus == "care":
        known = likelihood if scored.disputed else _undisputed(scored)
        bonus = consistency_bonus(
            accuracy[None],
            known[None],
            weight=config.bonus_weight,
            margin=config.bonus_margin,
            cap=config.bonus_cap,
        )[0]
    elif config.bonus == "dense":
        bonus = dense_bonus(accuracy[None], likelihood[None], weight=config.bonus_weight)[0]
    total = accuracy + config.format_weight * scored.format + bonus
    advantage = group_advantages(total[None])[0]
    passes = int(scored.disputed)
    return Judged(scored.group, accuracy, scored.format, likelihood, bonus, total, advantage, passes)


def likelihoods(policy: Policy, reference: Reference, scored: Scored, config: TrainConfig) -> Tensor:
    """(G,) answer likelihoods under the reference, NaN where there is none.

    It runs only if its word can change the bonus, on accurate rollouts with an answer, and up to the answer's end.
    """
    empty = torch.full_like(scored.accuracy, torch.nan)
    if not scored.disputed:
        return empty
    completions = [torch.tensor(scored.group.rollouts[row].token_ids) for row in scored.spans]
    with torch.no_grad(), reference.model() as model:
        model.eval()
        logprobs, mask = group_logprobs(
            model,
            policy.processor.layout,
            scored.group.item.inputs,
            completions,
            shared_prefix=config.shared_prefix,
            group_chunk=config.group_chunk,
            spans=list(scored.spans.values()),
        )
    values = answer_likelihood(logprobs[None], mask[None], mean=config.likelihood_mean)[0]
    empty[list(scored.spans)] = values.to(empty.device, empty.dtype)
    return empty


def _undisputed(scored: Scored) -> Tensor:
    """Stands for the likelihoods of a group with fewer than two candidates: a lone one is its own mean."""
    known = torch.full_like(scored.accuracy, torch.nan)
    known[list(scored.spans)] = 1.0
    return known


def penalised(judged: Judged, config: TrainConfig) -> Tensor:
    """(G,) bool: the rollouts whose divergence from the reference is penalised."""
    if config.beta > 0 and config.kl_on == "accurate":
        return accurate_rollouts(judged.accuracy[None])[0]
    return torch.full_like(judged.accuracy, config.beta > 0, dtype=torch.bool)


def moves(judged: Judged, config: TrainConfig) -> bool:
    """Whether a group has a gradient. Without a KL penalty, one whose advantages are all zero has none."""
    return bool(judged.advantage.any()) or bool(penalised(judged, config).any())


def learn(
    policy: Policy,
    judged: Judged,
    expected: Tensor | None,  # (G, T) log-probabilities under the reference; None without a penalty
    config: TrainConfig,
    questions_per_step: int,
    optimizer: Optimizer,
) -> GroupResult:
    """Add a group's gradients, group_chunk rollouts at a time. A group that cannot move the policy costs no pass."""
    if not moves(judged, config):
        return GroupResult(judged, 0.0, None, 0)
    completions = [torch.tensor(rollout.token_ids) for rollout in judged.group.rollouts]
    policy.model.train()  # gradient checkpointing asks for it; there is no dropout
    n, size, chosen = len(completions), config.group_chunk or len(completions), penalised(judged, config)
    total, penalties, known = 0.0, [], []
    for part in [slice(start, start + size) for start in range(0, n, size)]:
        logprobs, mask = group_logprobs(
            policy.model,
            policy.processor.layout,
            judged.group.item.inputs,
            completions[part],
            shared_prefix=config.shared_prefix,
            temperature=config.temperature,
        )
        there = None if expected is None else expected[part, : mask.shape[1]]
        loss = policy_loss(
            logprobs,
            judged.advantage[part].to(logprobs),
            mask,
            beta=0.0 if there is None else config.beta,
            reference_logprobs=there,
            kl_rollouts=chosen[part].to(mask.device),
        ) * (len(mask) / n)
        (loss / questions_per_step).backward()  # the loss is a sum over rollouts, so chunks are exact
        optimizer.collect()
        total += float(loss.detach())
        known += list(logprobs.detach())
        if there is not None:
            counted = mask & chosen[part].to(mask.device)[:, None]
            penalties.append(token_kl(logprobs.detach(), there)[counted])
    kl = float(torch.cat(penalties).mean()) if penalties else None
    return GroupResult(judged, total, kl, 1, mismatch(judged.group, known, config))


def mismatch(group: Group, logprobs: Sequence[Tensor], config: TrainConfig) -> Mismatch | None:
    """Compare the policy's log-probabilities, G of at least (T_g,), with the sampler's, both at temperature 1.

    None for a sampler that records none, or at another temperature. The loss does not use it.
    """
    sampled = [rollout.logprobs for rollout in group.rollouts]
    if config.temperature != 1:
        return None
    pairs = [(logprobs[row][: len(known)].cpu(), torch.tensor(known)) for row, known in enumerate(sampled) if known]
    if not pairs:
        return None
    difference = torch.cat([ours - theirs for ours, theirs in pairs])
    return Mismatch(float(difference.abs().mean()), float(difference.exp().mean()))


def reference_logprobs(policy: Policy, reference: Reference, judged: Judged, config: TrainConfig) -> Tensor | None:
    """(G, T) of all tokens, at the temperature at which the policy is compared; None if no rollout is penalised."""
    if not bool(penalised(judged, config).any()):
        return None
    with torch.no_grad(), reference.model() as model:
        model.eval()
        logprobs, _ = group_logprobs(
            model,
            policy.processor.layout,
            judged.group.item.inputs,
            [torch.tensor(rollout.token_ids) for rollout in judged.group.rollouts],
            shared_prefix=config.shared_prefix,
            group_chunk=config.group_chunk,
            temperature=config.temperature,
        )
    return logprobs
