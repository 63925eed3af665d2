"""The training loop: questions, rollouts, rewards, advantages, loss, step, reference, log, checkpoint."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch

from seedbench_r1.errors import ConfigError, ResourceError
from seedbench_r1.files import JsonObject
from seedbench_r1.models.checkpoint import list_checkpoints
from seedbench_r1.runs.training_snapshot import ALARM, curves
from seedbench_r1.typed_json import without_nan
from seedbench_r1.types import to_json
from trainers.alarms import Alarms, end_training
from trainers.checkpoints import (
    Keep,
    Progress,
    TrainingState,
    load_checkpoint,
    newest_until,
    save_checkpoint,
)
from trainers.config import TrainConfig
from trainers.data import QuestionStream, StepData, TrainingExample
from trainers.groups import GroupReport, RolloutLine
from trainers.grpo import Refill, Seconds, grpo_step
from trainers.heldout import HeldoutLine, answer_greedily, heldout_metrics
from trainers.metrics import StepLog, StepMetrics, grpo_metrics, sft_metrics
from trainers.optimizer import Optimizer, learning_rate
from trainers.plan import TrainPlan
from trainers.policy import Policy, load_policy
from trainers.processes import Processes
from trainers.reference import Reference
from trainers.samplers import Sampler, open_sampler
from trainers.sft import sft_step
from trainers.sharding import shard_policy
from trainers.shared_prefix import shared_prefix_attention
from trainers.user_rewards import UserRewards, parse_rewards
from trainers.watch import Watch
from trainers.weights import check_finite

Observe = Callable[[StepMetrics], None]


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How one call of train ended."""

    step: int
    n_steps: int
    checkpoint: Path | None  # the newest
    replaced: int  # questions that could not be used

    @property
    def finished(self) -> bool:
        return self.step >= self.n_steps


def train(plan: TrainPlan, *, stop: threading.Event | None = None, observe: Observe | None = None) -> TrainResult:
    """Train until the last step, or until `stop` is set: then the current step is finished and saved.

    Continues from plan.resume, bit for bit. Under accelerate launch or torchrun every process calls it; process 0
    writes. Gradients are summed over all of them, so that the result is, up to rounding, that of one process with as
    much accumulation.

    Args:
        plan: by plan_training, in every process alike.
        stop: set it from a signal handler or another thread.
        observe: called in process 0 with the metrics of every step, after they were written.

    Raises:
        ConfigError: as load_policy, the plan is out of date, or another process trains into the same folder.
        DataError: no question can be used. ResourceError: memory or disk ran out. TrainingEnded: nothing is learned any
            more (trainers.alarms). The last checkpoint is complete.
    """
    config, stop = plan.config, stop or threading.Event()
    processes = Processes(config.device)
    _check_up_to_date(plan, processes)
    if plan.resume is not None and plan.done >= plan.n_steps:
        return _result(plan, plan.resume.progress)
    # The same in every process: ranks differ by the questions that they take, not by their seed.
    torch.manual_seed(config.seed)
    with Watch(processes, config.hang_timeout_s) as watch, contextlib.ExitStack() as stack:
        watch.enter("loading the model")
        state, sampler = _load(plan, processes, stack)
        progress = Progress()
        if plan.resume is not None:
            load_checkpoint(plan.resume.folder, state)
            check_finite(state.policy.model, str(plan.resume.folder), plan.resume.folder.glob("*.safetensors"))
            progress = plan.resume.progress
        log, alarms = _open_log(plan, processes, progress.step, stack)
        data = stack.enter_context(_open_data(plan, processes, state.policy, progress))
        heldout = data.heldout_examples(plan.heldout)
        saved = progress.step
        # A signal may reach some processes later than others, and all must leave the loop after the same step.
        while progress.step < plan.n_steps and not processes.any_rank(stop.is_set()):
            watch.enter(f"step {progress.step + 1}")
            metrics, groups = _step(plan, processes, state, sampler, data, progress.step)
            answers = list[HeldoutLine]()
            progress = Progress(progress.step + 1, data.position, data.replaced)
            processes.stage = "average"
            state.reference.update(progress.step, state.optimizer.weights)
            if config.eval_every and progress.step % config.eval_every == 0:
                watch.enter(f"the held-out questions after step {progress.step}")
                answers = processes.gather(answer_greedily(state.policy, heldout, config))
                metrics["heldout"] = heldout_metrics(answers)
            processes.stage = "log"
            _report(plan, log, alarms, metrics, groups, answers, observe)
            if progress.step % config.save_steps == 0 or progress.step == plan.n_steps:
                watch.enter(f"saving checkpoint-{progress.step}")
                saved = _save(plan, state, progress, processes, alarms.last_good, log)
        if saved < progress.step:
            watch.enter(f"saving checkpoint-{progress.step}")
            _save(plan, state, progress, processes, alarms.last_good, log)
        # Before the sampler is closed: vLLM's engine takes the processes' group with it.
        watch.finish()
    return _result(plan, progress)


def _open_log(
    plan: TrainPlan, processes: Processes, step: int, stack: contextlib.ExitStack
) -> tuple[StepLog | None, Alarms]:
    """Process 0's log, and in every process the alarms as they stood after `step`."""
    config, log, past = plan.config, None, list[StepMetrics]()
    if processes.is_main:
        log = StepLog(config.out, step)
        stack.callback(log.close)
        past = list(log.lines)
        if config.keep_going:
            (config.out / ALARM).unlink(missing_ok=True)
    # From process 0: --out need not be the same folder everywhere before a checkpoint is written.
    return log, Alarms(config, processes.gather(past))


def _report(
    plan: TrainPlan,
    log: StepLog | None,
    alarms: Alarms,
    metrics: StepMetrics,
    groups: list[GroupReport],
    answers: list[HeldoutLine],
    observe: Observe | None,
) -> None:
    """Write and show a step. Raises TrainingEnded if alarms have gone on for too long."""
    if said := alarms.count(metrics):
        metrics["alarms"] = said
    if log is not None:
        log.write(metrics, _sampled_rollouts(plan.config, metrics["step"], groups), answers)
        if observe is not None:
            observe(metrics)
    # The same numbers in every process, so that all leave here or none.
    if (why := alarms.end(plan.n_steps)) is not None:
        kept = newest_until(plan.config.out, alarms.last_good or 0)
        raise end_training(plan.config.out, metrics["step"], why, kept, writes=log is not None)


def _check_up_to_date(plan: TrainPlan, processes: Processes) -> None:
    """A plan made before a checkpoint was written would begin at an earlier step and overwrite it."""
    if plan.world_size != processes.world_size:
        raise ValueError(f"planned for {plan.world_size} processes, but there are {processes.world_size}")
    newest = list_checkpoints(plan.config.out)[-1:]
    if newest != ([] if plan.resume is None else [plan.resume.folder]):
        raise ConfigError(
            f"{plan.config.out} has other checkpoints than when this training was planned. Fix: run it again; in "
            f"Python, call plan_training again."
        )


def _step(
    plan: TrainPlan, processes: Processes, state: TrainingState, sampler: Sampler, data: StepData, step: int
) -> tuple[StepMetrics, list[GroupReport]]:
    """Take the 0-based step `step`. Returns its line of metrics and all processes' groups."""
    start, processes.stage = time.perf_counter(), "questions"
    examples, skipped = data.next_step()
    loaded = time.perf_counter()
    rate = learning_rate(plan.config, step, plan.n_steps)

    def update() -> float:
        processes.stage = "optimizer"
        # With shards, every backward pass has summed the gradients over the processes already.
        if not state.policy.trains_shards:
            processes.all_reduce_(state.optimizer.gradients())
        return state.optimizer.step(rate)

    def refill(places: Sequence[int]) -> dict[int, TrainingExample] | None:
        found = data.replace(places)
        if found is None:
            return None
        skipped.extend(found[1])
        return found[0]

    with _memory_explained(plan.config):
        numbers, groups, seconds = _learn(plan, processes, state, sampler, examples, update, refill)
        sampler.sync_weights()
    # The order of the keys is that of the lines in metrics.jsonl.
    metrics: StepMetrics = {"step": step + 1, "epoch": round(data.position / len(plan.rows), 6)}
    metrics.update(numbers)
    metrics["lr"], metrics["replaced"] = rate, data.replaced
    if skipped:
        metrics["unusable"] = [{"question_id": entry.question_id, "reason": entry.reason} for entry in skipped]
    metrics["seconds"] = _rounded_seconds(start, loaded, seconds)
    if torch.cuda.is_available():
        metrics["memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return without_nan(metrics), groups


def _open_data(plan: TrainPlan, processes: Processes, policy: Policy, progress: Progress) -> StepData:
    return StepData(
        plan.config,
        policy.processor,
        QuestionStream(plan.rows, plan.config.seed, progress.position),
        questions_per_step=plan.questions_per_step,
        share=(processes.rank, processes.world_size),
        gather=processes.gather,
        replaced=progress.replaced,
    )


def _result(plan: TrainPlan, progress: Progress) -> TrainResult:
    newest = list_checkpoints(plan.config.out)
    return TrainResult(progress.step, plan.n_steps, newest[-1] if newest else None, progress.replaced)


def _load(plan: TrainPlan, processes: Processes, stack: contextlib.ExitStack) -> tuple[TrainingState, Sampler]:
    """The base model, its optimiser, reference and sampler, as at step 0."""
    config = plan.config
    policy = load_policy(config, plan.checkpoint, processes.device)
    check_finite(policy.model, plan.checkpoint.info.path, plan.checkpoint.weights.values())
    # On for the whole training: gradient checkpointing computes the layers again in the backward pass.
    if config.shared_prefix:
        stack.enter_context(shared_prefix_attention(policy.model))
    if config.fsdp:
        policy = replace(policy, shards=shard_policy(policy.model, processes.device, processes.world_size))
    # The reference copies the policy, so it is made before anything is restored: phi starts at the base model.
    reference = Reference(config.reference, policy, decay=config.ema_decay, every=config.ema_every)
    optimizer = Optimizer(policy.trainable(), config)
    sampler = open_sampler(policy, config, processes)
    stack.callback(sampler.close)
    specs = parse_rewards(config.reward)
    rewards = stack.enter_context(UserRewards(specs)) if specs else None
    return TrainingState(policy, reference, optimizer, rewards), sampler


def _learn(
    plan: TrainPlan,
    processes: Processes,
    state: TrainingState,
    sampler: Sampler,
    examples: list[TrainingExample],
    update: Callable[[], float],
    refill: Refill,
) -> tuple[StepMetrics, list[GroupReport], Seconds]:
    """Train on this process's examples. Returns the metrics of all processes'. update, refill: as in grpo_step."""
    config = plan.config
    if config.algo == "sft":
        start, processes.stage = time.perf_counter(), "policy passes"
        losses = sft_step(state.policy, state.optimizer, examples, config, processes.gather)
        norm = update()
        metrics = sft_metrics(processes.gather(losses))
        return metrics | {"grad_norm": norm}, [], Seconds(policy=time.perf_counter() - start)
    mine = grpo_step(state, sampler, examples, config, plan.questions_per_step, processes, update, refill)
    processes.stage = "metrics"
    reports = processes.gather(mine.groups)
    metrics = grpo_metrics(reports)
    if config.fsdp:
        metrics["idle_passes"] = sum(processes.gather([mine.idle_passes]))
    if config.refill:
        metrics["refilled"] = sum(report.replaced for report in reports)
    metrics["grad_norm"] = mine.grad_norm
    return metrics, reports, mine.seconds


def _save(
    plan: TrainPlan,
    state: TrainingState,
    progress: Progress,
    processes: Processes,
    last_good: int | None,
    log: StepLog | None,
) -> int:
    """Write a checkpoint. Returns its step."""
    description = {
        "schema": "sbr1.training/1",
        "algorithm": plan.config.preset,
        # The start of the chain: what the model trained from says of its own base, else that model itself.
        "base_model": plan.checkpoint.info.base_model or plan.checkpoint.info.path,
        "config": to_json(plan.config),
        "identity": plan.identity,
    }
    save_checkpoint(
        plan.config.out,
        state,
        progress,
        description,
        {} if log is None else curves(cast(list[JsonObject], log.lines)),
        keep=Keep(plan.config.save_total_limit, last_good, resumable=plan.config.save_optimizer != "never"),
        processes=processes,
    )
    return progress.step


def _sampled_rollouts(config: TrainConfig, step: int, groups: list[GroupReport]) -> list[RolloutLine]:
    """The first group's rollouts, every rollout_log_steps steps, the first step among them."""
    if not groups or not config.rollout_log_steps or (step - 1) % config.rollout_log_steps:
        return []
    return groups[0].rollouts


def _rounded_seconds(start: float, loaded: float, parts: Seconds) -> dict[str, float]:
    total = time.perf_counter() - start
    times = {"io": loaded - start, "rollouts": parts.rollouts, "reference": parts.reference, "policy": parts.policy}
    return {"step": round(total, 4)} | {name: round(value, 4) for name, value in times.items()}


@contextlib.contextmanager
def _memory_explained(config: TrainConfig) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        smaller = list[str]()
        if config.max_packed_tokens is not None:
            smaller.append("a lower --max-packed-tokens or none")
        elif config.algo != "sft" and not config.fsdp:
            # Half of what did not fit.
            smaller.append(f"--group-chunk {max(1, (config.group_chunk or config.num_generations) // 2)}")
        raise ResourceError(f"Out of memory in the training pass. {config.memory_advice(*smaller)}") from error
