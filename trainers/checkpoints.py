"""Checkpoints: a folder that `eval` takes as a model and that training continues from, bit for bit.

    out/checkpoint-100/                weights, config and processor files in the Hugging Face layout
        training.json                  algorithm, base model, step, configuration, identity, hashes of the weights
        curves.json                    what was measured up to here, for charts
        resume/                        in the newest one: optimiser, average, random states: state.pt, or under --fsdp
                                       sharded/, with each process's shards, and random.pt

A folder is written under a temporary name and renamed, so that it is complete or not there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from seedbench_r1.errors import ConfigError, ResourceError
from seedbench_r1.files import make_folder, write_json
from seedbench_r1.models.checkpoint import TRAINING, list_checkpoints, step_of
from seedbench_r1.runs.training_snapshot import Points, write_curves
from seedbench_r1.typed_json import parse_json
from trainers.errors import TrainingEnded
from trainers.identity import FORMER
from trainers.optimizer import Optimizer
from trainers.policy import Policy
from trainers.processes import Processes
from trainers.reference import Reference
from trainers.sharding import as_sharded, load_shards, save_shards
from trainers.user_rewards import UserRewards
from trainers.weights import RANDOM, RESUME, SHARDED, STATE, check_hashes, check_state, first_not_finite, weight_hashes

SPACE_FACTOR = 1.2  # free space over need before a checkpoint is begun; ours


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training is. JSON values only."""

    step: int = 0  # optimiser steps taken
    position: int = 0  # questions read from the stream
    replaced: int = 0  # of those, the ones that could not be used


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Everything that a step changes and a checkpoint keeps, except how far the training is; and what it asks."""

    policy: Policy
    reference: Reference
    optimizer: Optimizer
    user_rewards: UserRewards | None = None


@dataclass(frozen=True, slots=True)
class SavedTraining:
    """What a checkpoint folder says of its training."""

    folder: Path
    step: int
    progress: Progress
    identity: dict[str, object]  # what a continuation must share
    weights: dict[str, dict[str, int | str]]  # file -> size and sha256; empty: written before they were kept


def read_training(folder: Path) -> SavedTraining:
    """What training.json of a checkpoint says. Raises ConfigError if it is absent or unreadable."""
    try:
        value = parse_json((folder / TRAINING).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder} is no checkpoint to continue from: {error}. Fix: move it away.") from error
    if not isinstance(value, dict) or not {"step", "identity", "progress"} <= set(value):
        raise ConfigError(f"{folder / TRAINING} was not written by `train`. Fix: move the folder away.")
    if folder.name != f"checkpoint-{value['step']}":
        raise ConfigError(f"{folder / TRAINING} is of step {value['step']}, its folder is not. Fix: move it away.")
    progress = Progress(**value["progress"])
    return SavedTraining(folder, value["step"], progress, value["identity"], value.get("weights") or {})


def check_same_run(saved: SavedTraining, identity: Mapping[str, object]) -> None:
    """Raises ConfigError with the differing keys if the checkpoint belongs to another configuration."""
    former = {**FORMER, "model_files": identity.get("model_files")}  # not compared where they were not kept
    stored = {**{name: value for name, value in former.items() if name in identity}, **saved.identity}
    differing = [
        f"{key}: {stored.get(key)!r} there, {identity.get(key)!r} here"
        for key in sorted(set(stored) | set(identity))
        if stored.get(key) != identity.get(key)
    ]
    if differing:
        raise ConfigError(
            f"{saved.folder} was trained with another configuration ({'; '.join(differing)}). Nothing was changed. "
            f"Fix: the former options to continue it, or another --out."
        )


def check_resumable(saved: SavedTraining, *, sharded: bool) -> None:
    """Raises ConfigError, naming the file, for a checkpoint from which a training cannot be continued as it was.

    Its resume/ is absent, of the other kind (written with or without --fsdp) or of another step, or its weights are not
    the bytes that were saved. Reads every byte of the weights, and loads nothing.
    """
    folder = saved.folder
    wanted, other = (SHARDED, STATE) if sharded else (STATE, SHARDED)
    if (folder / RESUME / wanted).exists():
        check_state(folder, saved.step, sharded=sharded)
        # With --fsdp the weights, too, are read from resume/.
        if not sharded:
            check_hashes(folder, saved.weights)
        return
    if (folder / RESUME / other).exists():
        raise ConfigError(
            f"{folder} was written {'without' if sharded else 'with'} --fsdp. Fix: continue it as it began, or train "
            f"from it with --model {folder} and another --out."
        )
    raise ConfigError(
        f"{folder} has no {RESUME}/{wanted} to continue from: only the newest checkpoint of a training keeps it, and "
        f"none with --save-optimizer never. "
        f"Fix: train from it with --model {folder} and another --out."
    )


@dataclass(frozen=True, slots=True)
class Keep:
    """Which checkpoints stay, and with what."""

    newest: int | None = None  # so many; None: all
    last_good: int | None = None  # the newest of this step or before stays as it is
    resumable: bool = True  # the new one has a resume/


def save_checkpoint(
    out: Path,
    state: TrainingState,
    progress: Progress,
    description: Mapping[str, object],  # of the training, for training.json
    drawn: Mapping[str, Points],  # its curves
    *,
    keep: Keep,
    processes: Processes,
) -> Path:
    """Write out/checkpoint-<step>, delete the oldest beyond `keep`, and resume/ of those between. Returns the folder.

    Every process calls it. Raises, in all processes, ResourceError if the disk is too full and TrainingEnded if weights
    are not finite; what was written before stays.
    """
    # Every process looks at its own shards, and all must leave alike.
    broken = processes.gather([name for name in [first_not_finite(state.policy.trainable().items())] if name])
    if broken:
        raise TrainingEnded(
            f"checkpoint-{progress.step} was not written: {broken[0]} holds NaN or infinity. {_last_good(out)}. Fix: a "
            f"lower --learning-rate and another --out."
        )
    folder, main = out / f"checkpoint-{progress.step}", processes.is_main
    temporary = out / f".{folder.name}.unfinished"
    content = {**description, "step": progress.step, "progress": asdict(progress)}

    def check_folder_is_shared() -> None:
        if not temporary.is_dir():
            raise ResourceError(f"{out} is not the same folder in all processes. Fix: --out on a shared file system.")

    def write_tensors() -> None:
        if keep.resumable and state.policy.trains_shards:
            save_shards(temporary / RESUME / SHARDED, _sharded_tensors(state), progress.step)
        state.policy.save(temporary, writes=main)

    # Each stage is collective: a disk error in one process must stop all of them before the next. The others than
    # process 0 write their shards, and take part in gathering what process 0 writes.
    stages: tuple[tuple[Callable[[], None], bool], ...] = (
        (partial(_prepare, out, folder, temporary, checkpoint_bytes(state, resumable=keep.resumable)), main),
        (check_folder_is_shared, True),
        (write_tensors, True),
        (partial(_publish, folder, temporary, state if keep.resumable else None, content, drawn), main),
    )
    try:
        for stage, mine in stages:
            processes.on_all_ranks(partial(_with_disk_errors, stage, out, folder) if mine else lambda: None)
    except ResourceError:
        if main:
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    # Only after the new one is complete.
    if main:
        good = None if keep.last_good is None else newest_until(out, keep.last_good)
        _make_room(out, folder, keep.newest, good)
    return folder


def _make_room(out: Path, newest: Path, keep: int | None, good: Path | None) -> None:
    """Delete checkpoints beyond `keep`, and what the others hold for continuing: most of their bytes, used by none.

    A training goes on from the newest one, or from the last good one if what followed was broken.
    """
    there = list_checkpoints(out)
    surplus = there[:-keep] if keep else []
    for old in there:
        if old in (newest, good):
            continue
        if old in surplus:
            shutil.rmtree(old)
        elif (old / RESUME).exists():
            shutil.rmtree(old / RESUME)


def newest_until(out: Path, step: int) -> Path | None:
    """The newest checkpoint of this step or an earlier one."""
    return next((path for path in reversed(list_checkpoints(out)) if step_of(path) <= step), None)


def _prepare(out: Path, folder: Path, temporary: Path, need: int) -> None:
    # What a kill in the middle of an earlier checkpoint has left.
    for stale in out.glob(".checkpoint-*.unfinished"):
        shutil.rmtree(stale)
    make_folder(out)
    free = shutil.disk_usage(out).free
    if free < SPACE_FACTOR * need:
        raise _disk_error(out, folder, f"{SPACE_FACTOR * need / 1e9:.1f} GB needed")
    (temporary / RESUME).mkdir(parents=True)


def _publish(
    folder: Path,
    temporary: Path,
    state: TrainingState | None,
    content: Mapping[str, object],
    drawn: Mapping[str, Points],
) -> None:
    """Write what process 0 alone writes, and give the folder its name. state: None if none is kept."""
    step = content["step"]
    random = {**_random_states(), "step": step}
    if state is None:
        (temporary / RESUME).rmdir()
    elif state.policy.trains_shards:
        torch.save(random, temporary / RESUME / RANDOM)
    else:
        kept = {"optimizer": state.optimizer.state(), "average": state.reference.average, "random": random}
        torch.save(kept | {"step": step}, temporary / RESUME / STATE)
    write_json(temporary / TRAINING, {**content, "weights": weight_hashes(temporary)})
    write_curves(temporary, drawn)
    # Before the rename: after a power failure, a folder that has its name must have its content too.
    _sync(temporary)
    if folder.exists():
        shutil.rmtree(folder)
    temporary.replace(folder)
    _sync_folder(folder.parent)


def load_checkpoint(folder: Path, state: TrainingState) -> None:
    """Restore everything as it was when the folder, which has been checked, was written."""
    if state.policy.trains_shards:
        load_shards(folder / RESUME / SHARDED, _sharded_tensors(state))
        state.optimizer.write_back()
        state.reference.write_average_to_copy()
        _restore_random(torch.load(folder / RESUME / RANDOM, weights_only=True))
        return
    state.policy.load(folder)
    kept = torch.load(folder / RESUME / STATE, map_location="cpu", weights_only=True)
    state.optimizer.load(kept["optimizer"])
    state.reference.load(kept["average"])
    _restore_random(kept["random"])


def checkpoint_bytes(state: TrainingState, *, resumable: bool = True) -> int:
    """Size of a checkpoint, small files not counted."""
    policy, optimizer, reference = state.policy, state.optimizer, state.reference
    trainable = policy.trainable()
    if policy.trains_shards:
        # A sharded tensor's numel is that of the full tensor. 12 bytes: fp32 weight and two moments.
        n, n_trainable = (sum(p.numel() for p in ps) for ps in (policy.model.parameters(), trainable.values()))
        kept = (12 + (4 if reference.average else 0)) * n_trainable
        return n * policy.dtype.itemsize + kept * resumable
    saved = trainable if policy.adapter is not None else dict(policy.model.named_parameters())
    weights = sum(p.nbytes for p in saved.values())
    moments = sum(2 * 4 * w.numel() for w in optimizer.weights.values())
    copies = sum(w.nbytes for name, w in optimizer.weights.items() if w is not trainable[name])
    return weights + (moments + copies + sum(w.nbytes for w in reference.average.values())) * resumable


def _with_disk_errors(stage: Callable[[], None], out: Path, folder: Path) -> None:
    """Run a stage; what the disk refuses becomes a ResourceError."""
    try:
        stage()
    except (torch.OutOfMemoryError, torch.distributed.DistError):
        raise
    # A full disk is an OSError from Python, and another class from each of torch, safetensors and torch.distributed.
    except (OSError, RuntimeError, SafetensorError, CheckpointException) as error:
        raise _disk_error(out, folder, _reason(error)) from error


def _disk_error(out: Path, folder: Path, why: str) -> ResourceError:
    free, last = shutil.disk_usage(out).free, _last_good(out)
    return ResourceError(
        f"{folder} cannot be written ({why}; {free / 1e9:.1f} GB free). Training stopped at step "
        f"{folder.name.split('-')[1]}; {last}. Nothing of the new one was left. "
        f"Fix: free some space or lower --save-total-limit, and run the same command again; or another --out."
    )


def _last_good(out: Path) -> str:
    kept = list_checkpoints(out)
    return f"last good checkpoint: {kept[-1].name}" if kept else "there is no earlier checkpoint"


def _reason(error: BaseException) -> str:
    """Why writing failed; the first reason if several processes failed."""
    if isinstance(error, CheckpointException):
        return next((str(failure) for failure, _ in error.failures.values()), str(error))
    return getattr(error, "strerror", None) or str(error).splitlines()[0]


def _sharded_tensors(state: TrainingState) -> dict[str, object]:
    """All sharded tensors of a training, sharing memory with it, so that reading a checkpoint into them restores it."""
    layout, average = state.policy.trainable(), state.reference.average
    weights = {name: weight.detach() for name, weight in state.optimizer.weights.items()}
    moments = state.optimizer.moments()
    adamw: dict[str, dict[str, Tensor]] = {name: {"step": own["step"]} for name, own in moments.items()}
    for kind in ("exp_avg", "exp_avg_sq"):
        for name, moment in as_sharded({name: own[kind] for name, own in moments.items()}, layout).items():
            adamw[name][kind] = moment
    tensors: dict[str, object] = {"weights": as_sharded(weights, layout), "adamw": adamw}
    return tensors | ({"average": as_sharded(average, layout)} if average else {})


def _random_states() -> dict[str, Tensor]:
    # Rollouts draw from generators of their own, and nothing else draws today; what would must resume exactly too.
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _restore_random(states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def _sync(folder: Path) -> None:
    """Everything below the folder is on the disk when this returns."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    # A rename is durable only when the folder that holds the name is synced.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
