"""What a training will do: rows, checkpoint folder and what to continue from, read once, before a model is loaded."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from seedbench_r1.backends.loading import resolve_device, why_no_gpu
from seedbench_r1.errors import ConfigError, DataError, ResourceError
from seedbench_r1.files import existing_folder
from seedbench_r1.models.checkpoint import Checkpoint, inspect_model, list_checkpoints
from seedbench_r1.models.families import family_of
from seedbench_r1.questions import TrainingData, TrainingRow
from seedbench_r1.row_files import content_sha256
from seedbench_r1.rows import BadRows
from trainers.alarms import refuse_ended
from trainers.checkpoints import SavedTraining, check_resumable, check_same_run, read_training
from trainers.config import TrainConfig, total_steps
from trainers.data import read_data
from trainers.estimate import count_parameters, estimate
from trainers.heldout import split_rows
from trainers.identity import resume_identity
from trainers.rewards import check_rewards
from trainers.samplers import check_sampler
from trainers.user_rewards import parse_rewards, reward_identity, try_rewards
from trainers.vllm_sampler import tensor_parallel_size
from trainers.weights import check_tokenizer

MOST_ON_CPU = 500_000_000  # parameters that --device auto trains without a GPU


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """Everything that is known of a training before its model is loaded. `train` carries it out."""

    config: TrainConfig
    rows: Sequence[TrainingRow]  # to train on
    heldout: Sequence[TrainingRow]  # for --eval-every
    data: TrainingData  # the rows before any were held out, and how they were read
    data_sha256: str  # of the rows' file
    checkpoint: Checkpoint  # of config.model
    world_size: int  # processes
    questions_per_step: int  # of all processes
    n_steps: int
    identity: dict[str, object]  # what a continuation must share
    resume: SavedTraining | None  # the newest checkpoint of config.out, from which to continue
    reward_trials: dict[str, dict[str, float]]  # --reward's functions on trial completions: user_rewards.try_rewards
    bad_rows: tuple[str, ...] = ()  # what was left out under --skip-bad-rows, and why

    @property
    def done(self) -> int:
        """Steps taken already."""
        return 0 if self.resume is None else self.resume.step

    @property
    def questions_per_process(self) -> int:
        """Of one step."""
        return self.questions_per_step // self.world_size


def plan_training(
    config: TrainConfig, *, world_size: int = 1, node_size: int | None = None, disk: bool = True
) -> TrainPlan:
    """Read rows and checkpoint folder and find what to continue from. Loads no model.

    world_size: how many training processes there are; node_size: on this node, by default all of them. disk: whether
    to look for room; an experiment looks for all its trainings together.

    Raises:
        DataError: invalid rows, or absent media unless config.allow_missing.
        ConfigError: no such model, or one that was cut off; no such sampler; config.out holds checkpoints of another
            configuration, or whose files are not those that were saved; or one process is to shard.
        ResourceError: the disk has no room for the checkpoints.
        TrainingEnded: an alarm has ended the training in config.out, and it is not to keep going.
    """
    check_sampler(config, world_size=world_size)
    check_rewards(config)
    if config.fsdp and world_size == 1:
        raise ConfigError(
            "--fsdp spreads the weights over processes, and there is one. Fix: torchrun --nproc-per-node GPUS "
            "--no-python seedbench-r1 train ..., or without --fsdp."
        )
    checkpoint = inspect_model(config.model, processor=config.processor, views=config.out / ".models")
    _check_family(config, checkpoint)
    check_tokenizer(checkpoint)
    _check_device(config, checkpoint)
    config = _for_this_model(config, checkpoint, world_size=world_size, node_size=node_size or world_size)
    bad = BadRows(skip=config.skip_bad_rows)
    specs = parse_rewards(config.reward)
    data = read_data(config, bad)
    rows, heldout = split_rows(data.rows, config)
    _check_media(config, rows)
    per_step = config.per_device_train_batch_size * config.gradient_accumulation_steps * world_size
    n_steps, data_sha256 = total_steps(config, len(rows), per_step), content_sha256(config.questions_file)
    of_data = {"steps": n_steps, "data_sha256": data_sha256, "read_as": data.read_as}
    of_model = {"model_fingerprint": checkpoint.info.fingerprint, "model_files": checkpoint.info.files}
    more = {"questions_per_step": per_step, "reward_functions": reward_identity(specs)}
    identity = {**resume_identity(config), **of_data, **of_model, **more}
    resume = _what_to_continue(config, identity, n_steps)
    planned = TrainPlan(
        config=config,
        rows=rows,
        heldout=heldout,
        data=data,
        data_sha256=data_sha256,
        checkpoint=checkpoint,
        world_size=world_size,
        questions_per_step=per_step,
        n_steps=n_steps,
        identity=identity,
        resume=resume,
        reward_trials=try_rewards(specs, rows[0].question),
        bad_rows=tuple(bad.messages),
    )
    if disk:
        _check_disk(planned)
    return planned


def _what_to_continue(config: TrainConfig, identity: dict[str, object], n_steps: int) -> SavedTraining | None:
    """The newest checkpoint of config.out, None without one.

    Raises ConfigError if it is another training's, or cannot be continued; TrainingEnded if an alarm has ended it.
    """
    resume = newest_checkpoint(config.out)
    if resume is not None:
        check_same_run(resume, identity)
        # A finished training may have lost its resume/ folder: nothing will be continued from it.
        if resume.step < n_steps:
            check_resumable(resume, sharded=config.trains_shards)
    if resume is None or resume.step < n_steps:
        refuse_ended(config)
    return resume


def _check_family(config: TrainConfig, checkpoint: Checkpoint) -> None:
    """Raise ConfigError for a family that is not trained here, or not with this sampler."""
    family = family_of(str(checkpoint.config.get("model_type")), config.model)
    if config.rollouts == "vllm" and not family.vllm_rollouts:
        raise ConfigError(
            f"--rollouts vllm is not available for {family.model_type} models: their weights have other names or "
            f"another layout in vLLM than in transformers. Fix: --rollouts builtin"
        )


def _for_this_model(config: TrainConfig, checkpoint: Checkpoint, *, world_size: int, node_size: int) -> TrainConfig:
    """The settings that depend on the model. Raises ConfigError for an engine that cannot be spread as asked."""
    # Qwen3-VL's patches are larger than the other families'; frames must come in whole ones.
    if config.video.size_multiple % checkpoint.size_multiple:
        config = replace(config, video=replace(config.video, size_multiple=checkpoint.size_multiple))
    if config.rollouts == "vllm":
        size = tensor_parallel_size(config, checkpoint.config, world_size=world_size, node_size=node_size)
        config = replace(config, rollout_tensor_parallel=size)
    return config


def _check_media(config: TrainConfig, rows: Sequence[TrainingRow]) -> None:
    """Raise DataError for a question without image and clip under --fsdp: every pass must gather the vision tower."""
    if not config.fsdp:
        return
    bare = next((r.question for r in rows if r.question.image is None and r.question.video is None), None)
    if bare is not None:
        raise DataError(
            f"{bare.question_id} has neither image nor clip. Under --fsdp every question needs one, so that all "
            f"processes gather the vision tower equally often. Fix: leave such rows out, or train without --fsdp."
        )


def _check_device(config: TrainConfig, checkpoint: Checkpoint) -> None:
    """A large model is trained on a CPU only by who says so: a driver too old for torch looks like no GPU."""
    if config.device != "auto" or resolve_device("auto").type != "cpu":
        return
    n = count_parameters(checkpoint.base_folder or checkpoint.folder)
    if n > MOST_ON_CPU:
        raise ConfigError(
            f"torch sees no GPU ({why_no_gpu()}), and a step of {n / 1e9:.1f} billion parameters takes hours on a CPU. "
            f"Fix: see `seedbench-r1 doctor`; or --device cpu, if that is meant."
        )


def _check_disk(planned: TrainPlan) -> None:
    """Raises ResourceError unless all checkpoints that will be there at once have room: not after a hundred steps."""
    config, left = planned.config, planned.n_steps - planned.done
    if left <= 0:
        return
    guess = estimate(config, planned.checkpoint, planned.questions_per_process, planned.world_size)
    need = guess.disk_bytes(config, left)
    # What is there will be replaced.
    held = sum(
        file.stat().st_size for path in list_checkpoints(config.out) for file in path.rglob("*") if file.is_file()
    )
    free = shutil.disk_usage(existing_folder(config.out)).free
    if need > free + held:
        raise ResourceError(
            f"{config.out} will hold {need / 1e9:.1f} GB of checkpoints at once (one of {guess.checkpoint / 1e9:.1f} "
            f"GB, the next while it is written, and the weights of those before); {free / 1e9:.1f} GB are free. "
            f"Nothing was trained. Fix: --out on another disk, or a lower --save-total-limit."
        )


def newest_checkpoint(out: Path) -> SavedTraining | None:
    """What the newest checkpoint of a run says, None without one. Raises ConfigError if it is damaged."""
    existing = list_checkpoints(out)
    return read_training(existing[-1]) if existing else None
