"""The training loop: questions, rollouts, rewards, advantages, loss, step, reference, log, checkpoint."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from seedbench_r1.errors import ConfigError, ResourceError
from seedbench_r1.models.checkpoint import inspect_model
from seedbench_r1.questions import TrainingRow, file_sha256
from seedbench_r1.types import ModelInfo, to_json
from trainers.checkpoints import (
    Progress,
    check_resumable,
    check_same_run,
    checkpoints,
    load_checkpoint,
    read_progress,
    read_training,
    save_checkpoint,
)
from trainers.config import TrainConfig, identity, total_steps
from trainers.data import Item, QuestionStream, StepData, read_rows
from trainers.grpo import Seconds, grpo_step
from trainers.heldout import answer_greedily, heldout_metrics, split_rows
from trainers.metrics import GroupReport, StepLog, grpo_metrics, report, sft_metrics
from trainers.optimizer import Optimizer, learning_rate
from trainers.policy import Policy, load_policy
from trainers.processes import Processes
from trainers.reference import Reference
from trainers.samplers import Sampler, check_sampler, open_sampler
from trainers.sft import sft_step
from trainers.sharding import shard_policy
from trainers.shared_prefix import shared_prefix_attention

Observe = Callable[[dict[str, Any]], None]
Evaluate = Callable[[Path, int], None]


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """What a training will do, known before its model is loaded."""

    config: TrainConfig
    rows: list[TrainingRow]
    heldout: list[TrainingRow]  # for --eval-every
    model: ModelInfo
    questions_per_step: int
    n_steps: int
    identity: dict[str, Any]  # what a continuation must share
    resume: Path | None  # the checkpoint to continue from
    done: int  # steps taken already


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


@dataclass(frozen=True, slots=True)
class _State:
    """Everything that a step changes, except how far the training is."""

    policy: Policy
    reference: Reference
    optimizer: Optimizer
    sampler: Sampler


def plan(config: TrainConfig, *, world: int = 1) -> TrainPlan:
    """Read rows and checkpoint folder and find what to continue from. Loads no model.

    Raises:
        DataError: invalid rows, or absent media unless config.allow_missing.
        ConfigError: no such model, no such sampler, config.out holds checkpoints of another configuration, or one
            process is to shard.
    """
    check_sampler(config, world=world)
    if config.fsdp and world == 1:
        raise ConfigError(
            "--fsdp spreads the weights over processes, and there is one. Fix: torchrun --nproc-per-node GPUS "
            "--no-python seedbench-r1 train ..., or without --fsdp."
        )
    found = inspect_model(config.model)
    if config.video.size_multiple % found.size_multiple:
        config = replace(config, video=replace(config.video, size_multiple=found.size_multiple))
    rows, heldout = split_rows(read_rows(config), config)
    per_step = config.per_device_train_batch_size * config.gradient_accumulation_steps * world
    n_steps = total_steps(config, len(rows), per_step)
    same = identity(config) | {
        "questions_per_step": per_step,
        "steps": n_steps,
        "data_sha256": file_sha256(config.questions_file),
        "model_fingerprint": found.info.fingerprint,
    }
    existing = checkpoints(config.out)
    newest = existing[-1] if existing else None
    if newest is not None:
        check_same_run(newest, same)
    done = 0 if newest is None else read_training(newest)["step"]
    if newest is not None and done < n_steps:
        check_resumable(newest, sharded=config.fsdp)
    return TrainPlan(config, rows, heldout, found.info, per_step, n_steps, same, newest, done)


def train(
    config: TrainConfig,
    evaluate: Evaluate | None = None,
    *,
    stop: threading.Event | None = None,
    observe: Observe | None = None,
) -> TrainResult:
    """Train until the last step, or until `stop` is set: then the step at hand is finished and saved.

    Calling it again continues from the newest checkpoint, bit for bit. Under accelerate launch or torchrun every
    process calls it; process 0 writes. Gradients are summed over all of them, so that the result is, up to rounding,
    that of one process with as much accumulation.

    Args:
        evaluate: called in process 0 with every checkpoint folder and its step, after it was written.
        observe: called in process 0 with the metrics of every step, after they were written.

    Raises:
        ConfigError, DataError: as plan. ResourceError: memory or disk ran out; the last checkpoint is whole.
    """
    processes, stop = Processes(config.device), stop or threading.Event()
    planned = plan(config, world=processes.world)
    config = planned.config
    if planned.resume is not None and planned.done >= planned.n_steps:
        return _result(planned, read_progress(planned.resume))
    torch.manual_seed(config.seed)
    with contextlib.ExitStack() as stack:
        state = _load(planned, processes, stack)
        progress = Progress() if planned.resume is None else _resume(planned.resume, state)
        log = StepLog(config.out, progress.step) if processes.is_main else None
        if log is not None:
            stack.callback(log.close)
        data = stack.enter_context(_open_data(planned, processes, state.policy, progress))
        heldout = data.fixed(planned.heldout)
        saved = progress.step
        while progress.step < planned.n_steps and not processes.any(stop.is_set()):
            metrics, groups = _step(planned, processes, state, data, progress.step)
            progress = Progress(progress.step + 1, data.position, data.replaced)
            state.reference.update(progress.step, state.optimizer.weights)
            if config.eval_every and progress.step % config.eval_every == 0:
                metrics["heldout"] = heldout_metrics(processes.gather(answer_greedily(state.policy, heldout, config)))
            if log is not None:
                log.write(metrics, _sampled(config, progress.step, groups))
                if observe is not None:
                    observe(metrics)
            if progress.step % config.save_steps == 0 or progress.step == planned.n_steps:
                saved = _save(planned, state, progress, processes, evaluate)
        if saved < progress.step:
            _save(planned, state, progress, processes, evaluate)
    return _result(planned, progress)


def _step(
    planned: TrainPlan, processes: Processes, state: _State, data: StepData, step: int
) -> tuple[dict[str, Any], list[GroupReport]]:
    """Take the 0-based step `step`. Returns its line of metrics and all processes' groups."""
    began = time.perf_counter()
    items, replaced = data.next_step()
    loaded = time.perf_counter()
    with _memory_explained(planned.config):
        learned, groups, seconds = _learn(state, items, planned, processes)
        if state.policy.shards is None:  # shards are summed in every backward pass
            processes.sum_(state.optimizer.gradients())
        rate = learning_rate(planned.config, step, planned.n_steps)
        norm = state.optimizer.step(rate)
        state.sampler.sync_weights()
    metrics: dict[str, Any] = {"step": step + 1, "epoch": round(data.position / len(planned.rows), 6)}
    metrics |= learned | {"grad_norm": norm if math.isfinite(norm) else None, "lr": rate, "replaced": data.replaced}
    if replaced:
        metrics["unusable"] = [{"question_id": entry.question_id, "reason": entry.reason} for entry in replaced]
    metrics["seconds"] = _seconds(began, loaded, seconds)
    if torch.cuda.is_available():
        metrics["memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return metrics, groups


def _open_data(planned: TrainPlan, processes: Processes, policy: Policy, progress: Progress) -> StepData:
    return StepData(
        planned.config,
        policy.processor,
        QuestionStream(planned.rows, planned.config.seed, progress.position),
        questions_per_step=planned.questions_per_step,
        share=(processes.rank, processes.world),
        gather=processes.gather,
        replaced=progress.replaced,
    )


def _result(planned: TrainPlan, progress: Progress) -> TrainResult:
    newest = checkpoints(planned.config.out)
    return TrainResult(progress.step, planned.n_steps, newest[-1] if newest else None, progress.replaced)


def _load(planned: TrainPlan, processes: Processes, stack: contextlib.ExitStack) -> _State:
    """The base model, its optimiser and its reference, as at step 0."""
    config = planned.config
    policy = load_policy(config, processes.device)
    if config.shared_prefix:
        stack.enter_context(shared_prefix_attention(policy.model))
    if config.fsdp:
        policy = replace(policy, shards=shard_policy(policy.model, processes.device, processes.world))
    reference = Reference(config.reference, policy, decay=config.ema_decay, every=config.ema_every)
    optimizer = Optimizer(policy.trainable(), config)
    sampler = open_sampler(policy, config, world=processes.world)
    stack.callback(sampler.close)
    return _State(policy, reference, optimizer, sampler)


def _resume(folder: Path, state: _State) -> Progress:
    return load_checkpoint(folder, state.policy, state.optimizer, state.reference)


def _learn(
    state: _State, items: list[Item], planned: TrainPlan, processes: Processes
) -> tuple[dict[str, Any], list[GroupReport], Seconds]:
    """Gradients of this process's items, and the metrics of all processes'."""
    config = planned.config
    if config.algo == "sft":
        began = time.perf_counter()
        taught = sft_step(state.policy, state.optimizer, items, config, processes.gather)
        return sft_metrics(processes.gather(taught)), [], Seconds(policy=time.perf_counter() - began)
    mine = grpo_step(
        state.policy,
        state.reference,
        state.optimizer,
        state.sampler,
        items,
        config,
        planned.questions_per_step,
        processes.most,
    )
    reports = processes.gather([report(result) for result in mine.groups])
    metrics = grpo_metrics(reports)
    if config.fsdp:
        metrics["idle_passes"] = sum(processes.gather([mine.idle_passes]))
    return metrics, reports, mine.seconds


def _save(
    planned: TrainPlan, state: _State, progress: Progress, processes: Processes, evaluate: Evaluate | None
) -> int:
    """Write a checkpoint, evaluate it in process 0 if asked to, and wait for it in the others. Returns its step."""
    training = {
        "schema": "sbr1.training/1",
        "algorithm": planned.config.preset,
        "base_model": _origin(planned),
        "config": to_json(planned.config),
        "identity": planned.identity,
    }
    folder = save_checkpoint(
        planned.config.out,
        state.policy,
        state.optimizer,
        state.reference,
        progress,
        training,
        keep=planned.config.save_total_limit,
        processes=processes,
    )
    if evaluate is not None and processes.is_main:
        evaluate(folder, progress.step)
    processes.wait()
    return progress.step


def _origin(planned: TrainPlan) -> str:
    """The model at the start of the chain: what the model trained from says, else that model itself."""
    return planned.model.base_model or planned.model.path


def _sampled(config: TrainConfig, step: int, groups: list[GroupReport]) -> list[dict[str, Any]]:
    """The first group's rollouts, every rollout_log_steps steps, the first step among them."""
    if not groups or not config.rollout_log_steps or (step - 1) % config.rollout_log_steps:
        return []
    return [{"step": step, **rollout} for rollout in groups[0].rollouts]


def _seconds(began: float, loaded: float, parts: Seconds) -> dict[str, float]:
    whole = time.perf_counter() - began
    times = {"io": loaded - began, "rollouts": parts.rollouts, "reference": parts.reference, "policy": parts.policy}
    return {"step": round(whole, 4)} | {name: round(value, 4) for name, value in times.items()}


@contextlib.contextmanager
def _memory_explained(config: TrainConfig) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        chunk = max(1, (config.group_chunk or config.num_generations) // 2)
        raise ResourceError(
            f"Out of memory in the training pass. Fix: --group-chunk {chunk} (the same numbers, less memory), "
            f"{config.relief}, --freeze-vision, --lora, or a smaller --max-completion-length. The same command "
            f"continues from the last checkpoint."
        ) from error
