"""One step of GRPO or GRPO-CARE on this process's groups: rewards, bonus, advantages, loss, gradients.

GRPO (arXiv 2402.03300) is GRPO-CARE (arXiv 2506.16141, Algorithm 1) without the bonus.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from seedbench_r1.models.qwen_vl import QwenProcessor
from trainers.advantages import group_advantages
from trainers.checkpoints import TrainingState
from trainers.config import TrainConfig
from trainers.consistency import (
    accurate_rollouts,
    answer_likelihood,
    answer_span,
    consistency_bonus,
    dense_bonus,
    refgen_bonus,
)
from trainers.data import TrainingExample
from trainers.groups import Group, GroupReport, RewardedGroup, SamplerMismatch, counted_tokens, rollout_lines
from trainers.idle_passes import IdlePasses
from trainers.logprobs import Span
from trainers.loss import LossForm, loss_form
from trainers.policy import Policy
from trainers.policy_passes import GroupNumbers, ScoredGroup, backward_groups, has_spread, kl_rollouts, plan_passes
from trainers.processes import Processes
from trainers.reference import Reference
from trainers.regeneration import answer_prefix, regenerate, regenerated_accuracy
from trainers.rewards import reward
from trainers.samplers import Sampler
from trainers.shared_prefix import group_logprobs
from trainers.user_rewards import RewardFailed, UserRewards, failure_in_training

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Takes the places of this process's groups without spread, and gives further questions for them, place -> example; None
# if no process has such a group. Every process calls it.
Refill = Callable[[Sequence[int]], dict[int, TrainingExample] | None]


@dataclass(frozen=True, slots=True)
class Seconds:
    """Where a step's time went."""

    rollouts: float = 0.0  # with the decoding of the questions that refill a step
    reference: float = 0.0
    policy: float = 0.0


@dataclass(frozen=True, slots=True)
class StepResult:
    """This process's part of a step."""

    groups: list[GroupReport]
    idle_passes: int  # passes made only because other processes made them; 0 without --fsdp
    seconds: Seconds
    grad_norm: float  # before clipping, mean over the iterations; not finite if one of them was not


def grpo_step(
    state: TrainingState,
    sampler: Sampler,
    examples: Sequence[TrainingExample],
    config: TrainConfig,
    questions_per_step: int,
    processes: Processes,
    update: Callable[[], float],
    refill: Refill,
) -> StepResult:
    """Sample and reward this process's examples, and take config.num_iterations optimiser steps on them.

    The loss is the mean over all groups of the step, those of other processes included. `update` takes an optimiser
    step with the gradients that have accumulated, and returns their norm; every process calls it equally often. The
    log-probabilities of the first iteration are the old ones of the others: it costs no pass of its own to know them.

    Raises ResourceError when the device's memory does not suffice for the rollouts.
    """
    policy, reference = state.policy, state.reference
    drawn = draw_groups(state, sampler, examples, config, processes, refill)
    scored, rewarded, idle = time.perf_counter(), drawn.kept, drawn.idle
    processes.stage = "reference"
    # All KL passes before the first policy pass, so that every rank makes each stage's passes in the same order.
    missing = idle.missing_of([len(r.reward) if bool(kl_rollouts(r, config).any()) else 0 for r in rewarded])
    ready = [ScoredGroup(r, reference_logprobs(policy, reference, r, config)) for r in rewarded]
    idle.run_reference(reference, missing)
    passes = plan_passes(ready, config)
    missing = idle.missing(len(passes))
    form = step_form([r.group for r in rewarded], config, questions_per_step, processes)
    found: list[dict[int, GroupNumbers]] = []
    norms = []
    for number in range(1, config.num_iterations + 1):
        processes.stage = f"policy passes, iteration {number}"
        first = found[0] if found else None
        found.append(backward_groups(policy, ready, passes, form, config, questions_per_step, state.optimizer, first))
        idle.run_policy(missing)
        norms.append(update())
    leading = {parts[0].group for parts in passes}
    reports = [
        group_report(r, [numbers[place] for numbers in found if place in numbers], config, leads=place in leading)
        for place, r in enumerate(rewarded)
    ]
    reports += [replace(group_report(r, [], config), replaced=True) for r in drawn.replaced]
    seconds = replace(drawn.seconds, policy=time.perf_counter() - scored)
    return StepResult(reports, idle.made, seconds, sum(norms) / len(norms))


@dataclass(frozen=True, slots=True)
class DrawnGroups:
    """A step's rewarded groups, and those that were given up for lack of spread."""

    kept: list[RewardedGroup]  # in the order of the examples
    replaced: list[RewardedGroup]
    idle: IdlePasses
    seconds: Seconds  # without the policy's


def draw_groups(
    state: TrainingState,
    sampler: Sampler,
    examples: Sequence[TrainingExample],
    config: TrainConfig,
    processes: Processes,
    refill: Refill,
) -> DrawnGroups:
    """Sample and reward the examples; replace groups without spread by others, in config.refill rounds at most.

    DAPO's dynamic sampling (arXiv 2503.14476, section 3.2), whose rounds have no bound. A group that has no spread in
    the last round either stays.
    """
    start, processes.stage = time.perf_counter(), "rollouts"
    groups = sampler.sample(examples)
    sampling = time.perf_counter() - start
    # Its passes are on a prompt of the first round: in a later one this process may have no group.
    idle = IdlePasses(state.policy, groups, config, processes.max_over_ranks)
    processes.stage = "rewards"
    kept, replaced = reward_groups(state, groups, config, idle), list[RewardedGroup]()
    for _ in range(config.refill):
        begun = time.perf_counter()
        wanted = refill([place for place, one in enumerate(kept) if not has_spread(one, config)])
        if wanted is None:
            break
        processes.stage = "rollouts"
        # Under --fsdp in every process, also in one that wants none.
        groups = sampler.sample(list(wanted.values()))
        sampling += time.perf_counter() - begun
        processes.stage = "rewards"
        for place, fresh in zip(wanted, reward_groups(state, groups, config, idle), strict=True):
            replaced.append(kept[place])
            kept[place] = fresh
    return DrawnGroups(kept, replaced, idle, Seconds(sampling, time.perf_counter() - start - sampling))


def reward_groups(
    state: TrainingState, groups: Sequence[Group], config: TrainConfig, idle: IdlePasses
) -> list[RewardedGroup]:
    """The groups with rewards, bonus and advantages. Every process calls it."""
    policy, reference = state.policy, state.reference
    # Under --fsdp every pass gathers weights collectively, so before each stage the ranks agree on the number of passes
    # and those with fewer make up for it with idle ones.
    base = [with_own_rewards(base_rewards(policy, group, config), state.user_rewards, config) for group in groups]
    if config.bonus == "refgen":
        # Tokens are written by gathered weights: all processes gather them once, or none does.
        if not idle.needed_anywhere(any(b.needs_reference for b in base)):
            return base
        with reference.gathered() as model:
            return [with_refgen_bonus(model, policy.processor, b, config) for b in base]
    missing = idle.missing_of([len(b.answer_spans) if b.needs_reference else 0 for b in base])
    rewarded = [with_bonus(policy, reference, b, config) for b in base]
    idle.run_reference(reference, missing)
    return rewarded


def step_form(groups: Sequence[Group], config: TrainConfig, questions_per_step: int, processes: Processes) -> LossForm:
    """The loss's form for the rollouts of this step. Every process calls it."""
    tokens = 0
    if config.loss_type == "dapo":
        tokens = processes.sum_over_ranks(sum(counted_tokens(group, config) for group in groups))
    return loss_form(
        config.loss_type,
        max_completion_length=config.max_completion_length,
        tokens_per_rollout=tokens / (questions_per_step * config.num_generations),
        epsilon=config.ratio_bounds[0],
        epsilon_high=config.ratio_bounds[1],
    )


def base_rewards(policy: Policy, group: Group, config: TrainConfig) -> RewardedGroup:
    """Accuracy and format rewards by the evaluation's own score, without a bonus; whether it needs the reference.

    The consistency bonus compares the accurate rollouts that have an answer with one another, so that with fewer than
    two there is nothing to compare.
    """
    rewards = [reward(group.example.question, r, config.rewards) for r in group.rollouts]
    accuracy = torch.tensor([r.accuracy for r in rewards])
    well_formed = torch.tensor([r.format for r in rewards])
    accurate = accurate_rollouts(accuracy[None])[0].tolist()
    spans = {
        row: answer_span(policy.processor.tokenizer, rollout.token_ids)
        for row, rollout in enumerate(group.rollouts)
        if accurate[row]
    }
    found = {row: span for row, span in spans.items() if span is not None}
    # Dense bonuses need no comparison: one answer is enough. RefGen asks for reasoning, and not for answers.
    thoughts = [answer_prefix(rollout.text) for rollout in group.rollouts if config.bonus == "refgen"]
    likely = {"care": len(found) >= 2, "dense": len(found) >= 1, "refgen": any(thoughts)}
    needs_reference = likely.get(config.bonus, False)
    unknown, zeros = torch.full_like(accuracy, torch.nan), torch.zeros_like(accuracy)
    without = RewardedGroup(group, accuracy, well_formed, found, needs_reference, unknown, zeros, zeros, zeros)
    return _summed(without, config)


def with_own_rewards(base: RewardedGroup, rewards: UserRewards | None, config: TrainConfig) -> RewardedGroup:
    """Add the values of --reward's functions. Raises ConfigError for one without, unless it is to count 0."""
    if rewards is None:
        return base
    question, failed = base.group.example.question, 0
    own = {spec.name: torch.zeros_like(base.accuracy) for spec in rewards.specs}
    for spec in rewards.specs:
        for row, rollout in enumerate(base.group.rollouts):
            try:
                own[spec.name][row] = rewards.value(spec, question, rollout.opened + rollout.text)
            except RewardFailed as error:
                if config.reward_failures == "stop":
                    raise failure_in_training(spec, question, rollout.opened + rollout.text, error) from error
                failed += 1
    weighted = torch.stack([spec.weight * own[spec.name] for spec in rewards.specs]).sum(dim=0)
    return _summed(replace(base, own=own, own_sum=weighted, failed=failed), config)


def _summed(rewarded: RewardedGroup, config: TrainConfig) -> RewardedGroup:
    """With the sum of all its rewards, and the advantages that follow from it."""
    total = rewarded.accuracy + config.format_weight * rewarded.format + rewarded.bonus
    if rewarded.own_sum is not None:
        total = total + rewarded.own_sum
    advantage = group_advantages(total[None], scale=config.loss_type != "dr_grpo")[0]
    return replace(rewarded, reward=total, advantage=advantage)


def with_bonus(policy: Policy, reference: Reference, base: RewardedGroup, config: TrainConfig) -> RewardedGroup:
    """Ask the reference how likely the answers are, if it can change the bonus, and add that to the base rewards."""
    return compute_rewards(base, answer_likelihoods(policy, reference, base, config), config)


def with_refgen_bonus(
    model: PreTrainedModel, processor: QwenProcessor, base: RewardedGroup, config: TrainConfig
) -> RewardedGroup:
    """Let the reference, from Reference.gathered, write the answers, and add RefGen's bonus to the base rewards."""
    if not base.needs_reference:
        return base
    answers = regenerate(model, processor, base.group, config)
    bonus = refgen_bonus(regenerated_accuracy(base.group, answers, config)[None], weight=config.bonus_weight)[0]
    texts = {row: rollout.text for row, rollout in answers.items()}
    return _summed(replace(base, bonus=bonus, regenerated=texts), config)


def compute_rewards(base: RewardedGroup, likelihood: Tensor, config: TrainConfig) -> RewardedGroup:
    """Add the bonus to the base rewards, given (G,) the reference's likelihoods of the answers."""
    accuracy, bonus = base.accuracy, base.bonus
    if config.bonus == "care":
        # One candidate costs no reference pass: see _likelihood_of_lone_answer.
        known = likelihood if base.needs_reference else _likelihood_of_lone_answer(base)
        bonus = consistency_bonus(
            accuracy[None],
            known[None],
            weight=config.bonus_weight,
            margin=config.bonus_margin,
            cap=config.bonus_cap,
        )[0]
    elif config.bonus == "dense":
        bonus = dense_bonus(accuracy[None], likelihood[None], weight=config.bonus_weight)[0]
    return _summed(replace(base, likelihood=likelihood, bonus=bonus), config)


def answer_likelihoods(policy: Policy, reference: Reference, base: RewardedGroup, config: TrainConfig) -> Tensor:
    """(G,) answer likelihoods under the reference, NaN where there is none.

    The reference runs only if it can change the bonus, on accurate rollouts with an answer, and up to the answer's end.
    """
    likelihood = base.likelihood.clone()
    if not base.needs_reference:
        return likelihood
    rows, spans = list(base.answer_spans), list(base.answer_spans.values())
    # At temperature 1, whatever the rollouts' own: a likelihood is a property of the reference, not of the sampling.
    logprobs, mask = _reference_pass(policy, reference, base.group, rows, config, temperature=1.0, spans=spans)
    values = answer_likelihood(logprobs[None], mask[None], mean=config.likelihood_mean)[0]
    likelihood[rows] = values.to(likelihood.device, likelihood.dtype)
    return likelihood


def reference_logprobs(
    policy: Policy, reference: Reference, rewarded: RewardedGroup, config: TrainConfig
) -> Tensor | None:  # (G, T)
    """Of all tokens, at the temperature at which the policy is compared; None if no rollout is penalised."""
    if not bool(kl_rollouts(rewarded, config).any()):
        return None
    rows = range(len(rewarded.group.rollouts))
    logprobs, _ = _reference_pass(policy, reference, rewarded.group, rows, config, temperature=config.temperature)
    return logprobs


def _reference_pass(
    policy: Policy,
    reference: Reference,
    group: Group,
    rows: Sequence[int],  # which rollouts
    config: TrainConfig,
    *,
    temperature: float,
    spans: Sequence[Span] | None = None,
) -> tuple[Tensor, Tensor]:
    with torch.no_grad(), reference.model() as model:
        return group_logprobs(
            model,
            policy.processor.layout,
            group.example.inputs,
            [torch.tensor(group.rollouts[row].token_ids) for row in rows],
            shared_prefix=config.shared_prefix,
            group_chunk=config.group_chunk,
            temperature=temperature,
            spans=spans,
        )


def _likelihood_of_lone_answer(base: RewardedGroup) -> Tensor:
    """(G,): 1 for the one candidate, if any. It is its own mean, so that any likelihood gives it the same bonus."""
    known = torch.full_like(base.accuracy, torch.nan)
    known[list(base.answer_spans)] = 1.0
    return known


def group_report(
    rewarded: RewardedGroup, numbers: Sequence[GroupNumbers], config: TrainConfig, *, leads: bool = True
) -> GroupReport:
    """What is kept of a group.

    numbers: of its policy passes, an iteration each; empty if it had none. leads: False if it shared a group's pass.
    """
    lines, reference_passes = rollout_lines(rewarded), int(rewarded.needs_reference)
    if not numbers:
        return GroupReport(lines, 0.0, None, 0, reference_passes, reward_failures=rewarded.failed)
    return GroupReport(
        lines,
        loss=sum(one.loss for one in numbers) / len(numbers),
        kl=_mean_of_known([one.kl for one in numbers]),
        policy_passes=len(numbers) if leads else 0,
        reference_passes=reference_passes,
        mismatch=sampler_mismatch(rewarded.group, numbers[0].logprobs, config),
        clip_fraction=_mean_of_known([one.clip_fraction for one in numbers]),
        old_kl=_mean_of_known([one.old_kl for one in numbers]),
        importance=numbers[0].importance,  # the same in every iteration
        reward_failures=rewarded.failed,
    )


def _mean_of_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def sampler_mismatch(group: Group, logprobs: Sequence[Tensor], config: TrainConfig) -> SamplerMismatch | None:
    """Compare the policy's log-probabilities, G of at least (T_g,), with the sampler's, both at temperature 1.

    None for a sampler that records none, or at another temperature. The loss does not use it: see trainers.importance.
    """
    # The sampler records log-probabilities before temperature, the policy pass computes them after it.
    if config.temperature != 1:
        return None
    recorded = [(row, rollout.logprobs) for row, rollout in enumerate(group.rollouts) if rollout.logprobs]
    if not recorded:
        return None
    difference = torch.cat([logprobs[row][: len(sampled)].cpu() - torch.tensor(sampled) for row, sampled in recorded])
    return SamplerMismatch(float(difference.abs().mean()), float(difference.exp().mean()))
