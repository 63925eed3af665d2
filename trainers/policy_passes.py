"""The policy's passes over a step's groups: which rollouts share one, and their loss, gradients and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.config import TrainConfig
from trainers.consistency import accurate_rollouts
from trainers.groups import Group, Importance, RewardedGroup, Rollout, counted_rollouts
from trainers.importance import importance_weights, recorded_logprobs
from trainers.loss import LossForm, clipped_tokens, policy_loss, separate_kl_weights, token_kl
from trainers.optimizer import Optimizer
from trainers.policy import Policy
from trainers.shared_prefix import group_logprobs, groups_logprobs


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A rewarded group with everything that its loss needs."""

    rewarded: RewardedGroup
    reference_logprobs: Tensor | None  # (G, T) at the rollouts' temperature; None without a penalty


@dataclass(frozen=True, slots=True)
class Part:
    """Neighbouring rollouts of one group, which share a pass."""

    group: int  # its place in the step
    rows: slice


@dataclass(frozen=True, slots=True)
class GroupNumbers:
    """What the passes over a group gave. Without gradients."""

    loss: float
    logprobs: list[Tensor]  # G of at least (T_g,)
    kl: float | None  # mean over the penalised tokens; None without a penalty
    clip_fraction: float | None  # share of the tokens; None in the first iteration, as the next
    old_kl: float | None  # KL(policy of the rollouts || policy), mean over the tokens
    importance: Importance | None  # None: not corrected


@dataclass(frozen=True, slots=True)
class _PartNumbers:
    loss: Tensor  # scalar, with its graph until backward has run
    logprobs: Tensor  # (R, T)
    kl: Tensor | None  # (penalised tokens,)
    clipped: Tensor | None  # (tokens,) bool
    old_kl: Tensor | None  # (tokens,)
    weights: Tensor | None  # (tokens,) importance weights; None: not corrected


def kl_rollouts(rewarded: RewardedGroup, config: TrainConfig) -> Tensor:
    """(G,) bool: the rollouts whose divergence from the reference is penalised."""
    counted = counted_rollouts(rewarded.group, config)
    if config.penalises and config.kl_on != "all":
        return counted & accurate_rollouts(rewarded.accuracy[None])[0]
    return counted & config.penalises


def answer_tokens(rewarded: RewardedGroup, rows: slice, like: Tensor) -> Tensor:
    """(R, T) bool, as `like`: the answers' tokens of these rollouts; those that are not accurate have none."""
    found = torch.zeros_like(like, dtype=torch.bool)
    for place, row in enumerate(range(len(rewarded.group.rollouts))[rows]):
        start, end = rewarded.answer_spans.get(row, (0, 0))
        found[place, start:end] = True
    return found


def has_spread(rewarded: RewardedGroup, config: TrainConfig) -> bool:
    """Whether a rollout that counts in the loss has an advantage other than zero."""
    return bool(rewarded.advantage[counted_rollouts(rewarded.group, config)].any())


def has_gradient(rewarded: RewardedGroup, config: TrainConfig) -> bool:
    """Without a KL penalty, a group whose advantages are all zero has none."""
    return has_spread(rewarded, config) or bool(kl_rollouts(rewarded, config).any())


def plan_passes(groups: Sequence[ScoredGroup], config: TrainConfig) -> list[list[Part]]:
    """The passes of the groups that have a gradient: group_chunk rollouts at a time, or max_packed_tokens together."""
    passes: list[list[Part]] = []
    room = 0
    for place, scored in enumerate(groups):
        if not has_gradient(scored.rewarded, config):
            continue
        n, tokens = len(scored.rewarded.group.rollouts), packed_tokens(scored.rewarded.group)
        size = config.group_chunk or n
        parts = [Part(place, slice(start, start + size)) for start in range(0, n, size)]
        if tokens <= room:
            passes[-1] += parts
            room -= tokens
        else:
            passes += [[part] for part in parts]
            room = (config.max_packed_tokens or 0) - tokens
    return passes


def packed_tokens(group: Group) -> int:
    """Rows of the group in a packed pass: its prompt's tokens, and of each rollout all but the last."""
    return len(group.example.inputs.input_ids) + sum(len(rollout.token_ids) - 1 for rollout in group.rollouts)


def backward_groups(
    policy: Policy,
    groups: Sequence[ScoredGroup],
    passes: Sequence[Sequence[Part]],
    form: LossForm,
    config: TrainConfig,
    questions_per_step: int,
    optimizer: Optimizer,
    first: Mapping[int, GroupNumbers] | None = None,
) -> dict[int, GroupNumbers]:
    """Make the passes and add their gradients to the optimizer's. Returns the numbers by the groups' places.

    The loss is the mean over all questions of the step, those of other processes included. `first`: what this has
    returned in the first iteration on these groups, of the policy that their rollouts are from; None: this is it.
    """
    # transformers recomputes activations (gradient checkpointing) in train mode only; the models have no dropout.
    policy.model.train()
    found: dict[int, list[_PartNumbers]] = {}
    for parts in passes:
        numbers = [
            _numbers_of_part(part, groups[part.group], *computed, form, config, first)
            for part, computed in zip(parts, _pass(policy, groups, parts, config), strict=True)
        ]
        # The loss is a sum over rollouts, so that parts give the gradients of the whole group.
        torch.autograd.backward(torch.stack([one.loss for one in numbers]).sum() / questions_per_step)
        optimizer.accumulate()
        for part, one in zip(parts, numbers, strict=True):
            found.setdefault(part.group, []).append(one)
    return _joined(found, config)


def _pass(
    policy: Policy, groups: Sequence[ScoredGroup], parts: Sequence[Part], config: TrainConfig
) -> list[tuple[Tensor, Tensor]]:  # of each part (R, T) and (R, T) bool
    prompts = [groups[part.group].rewarded.group.example.inputs for part in parts]
    completions = [
        [torch.tensor(rollout.token_ids) for rollout in groups[part.group].rewarded.group.rollouts[part.rows]]
        for part in parts
    ]
    model, layout, temperature = policy.model, policy.processor.layout, config.temperature
    if config.shared_prefix:
        return groups_logprobs(model, layout, prompts, completions, temperature=temperature)
    return [
        group_logprobs(model, layout, prompt, ids, shared_prefix=False, temperature=temperature)
        for prompt, ids in zip(prompts, completions, strict=True)
    ]


def _numbers_of_part(
    part: Part,
    scored: ScoredGroup,
    logprobs: Tensor,  # (R, T)
    mask: Tensor,  # (R, T) bool
    form: LossForm,
    config: TrainConfig,
    first: Mapping[int, GroupNumbers] | None,
) -> _PartNumbers:
    rewarded, reference = scored.rewarded, scored.reference_logprobs
    rollouts = rewarded.group.rollouts
    # A rollout that does not count has no tokens: it adds 0, and stays one of the G over which the mean is taken.
    mask = mask & counted_rollouts(rewarded.group, config)[part.rows, None].to(mask.device)
    # The reference's T is that of the whole group, a part's may be shorter.
    expected = None if reference is None else reference[part.rows, : mask.shape[1]]
    penalised = kl_rollouts(rewarded, config)[part.rows].to(mask.device)
    advantages = rewarded.advantage[part.rows].to(logprobs)
    # A part is the same in every iteration, so that its rows have the same T.
    old = None if first is None else torch.stack(first[part.group].logprobs[part.rows])
    weights = _importance_of_part(rollouts[part.rows], logprobs.detach() if old is None else old, config)
    loss = policy_loss(
        logprobs,
        advantages if weights is None else weights * advantages[:, None],
        mask,
        beta=0.0 if expected is None else _kl_weight(rewarded, part.rows, mask, form, config),
        reference_logprobs=expected,
        kl_rollouts=penalised,
        old_logprobs=old,
        form=form,
    ) * (len(mask) / len(rollouts))
    found = logprobs.detach()
    return _PartNumbers(
        loss,
        found,
        kl=None if expected is None else token_kl(found, expected)[mask & penalised[:, None]],
        clipped=None if old is None else clipped_tokens(found, old, advantages, mask, form)[mask],
        old_kl=None if old is None else token_kl(old, found)[mask],
        weights=None if weights is None else weights[mask],
    )


def _kl_weight(
    rewarded: RewardedGroup, rows: slice, mask: Tensor, form: LossForm, config: TrainConfig
) -> float | Tensor:
    if config.kl_on != "separate":
        return config.beta
    think, answer = config.separate_betas
    found = answer_tokens(rewarded, rows, mask)
    return separate_kl_weights(mask, found, beta_think=think, beta_answer=answer, form=form)


def _importance_of_part(rollouts: Sequence[Rollout], logprobs: Tensor, config: TrainConfig) -> Tensor | None:
    recorded = recorded_logprobs(rollouts, logprobs) if config.importance_cap else None
    return None if recorded is None else importance_weights(logprobs, recorded, cap=config.importance_cap or 0.0)


def _joined(found: Mapping[int, Sequence[_PartNumbers]], config: TrainConfig) -> dict[int, GroupNumbers]:
    joined = {}
    for place, parts in found.items():
        weights = [part.weights for part in parts if part.weights is not None]
        joined[place] = GroupNumbers(
            loss=sum(float(part.loss.detach()) for part in parts),
            logprobs=[row for part in parts for row in part.logprobs],
            kl=_mean_of_tokens([part.kl for part in parts]),
            clip_fraction=_mean_of_tokens([part.clipped for part in parts]),
            old_kl=_mean_of_tokens([part.old_kl for part in parts]),
            importance=_importance(torch.cat(weights), config.importance_cap) if weights else None,
        )
    return joined


def _mean_of_tokens(parts: Sequence[Tensor | None]) -> float | None:
    measured = [part for part in parts if part is not None]
    if not measured:
        return None
    tokens = torch.cat(measured)
    return float((tokens.float() if tokens.dtype == torch.bool else tokens).mean())


def _importance(weights: Tensor, cap: float | None) -> Importance:
    return Importance(float(weights.mean()), float(weights.eq(cap or 0.0).float().mean()))
