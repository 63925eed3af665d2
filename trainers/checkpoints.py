"""Checkpoints: a folder that `eval` takes as a model and that training continues from, bit for bit.

    out/checkpoint-100/                weights, config and processor files in the Hugging Face layout
        training.json                  algorithm, base model, step, configuration, identity
        resume/                        optimiser, average, random states, place in the question stream

A folder is written beside its place and renamed, so that it is whole or not there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from seedbench_r1.append_file import write_json
from seedbench_r1.errors import ConfigError, ResourceError
from trainers.optimizer import Optimizer
from trainers.policy import Policy
from trainers.reference import Reference

TRAINING, RESUME = "training.json", "resume"
SPARE = 1.2  # free space over need before a checkpoint is begun

_NAME = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training is. JSON values only."""

    step: int = 0  # optimiser steps taken
    position: int = 0  # questions taken from the stream
    replaced: int = 0  # of those, the ones that could not be used


def checkpoints(out: Path) -> list[Path]:
    """The checkpoint folders of a run, oldest first."""
    found = [path for path in out.glob("checkpoint-*") if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


def read_training(folder: Path) -> dict[str, Any]:
    """training.json of a checkpoint. Raises ConfigError if it is absent or unreadable."""
    try:
        value = json.loads((folder / TRAINING).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder} is no checkpoint to continue from: {error}. Fix: move it away.") from error
    if not isinstance(value, dict) or not {"step", "identity", "progress"} <= set(value):
        raise ConfigError(f"{folder / TRAINING} was not written by `train`. Fix: move the folder away.")
    return value


def read_progress(folder: Path) -> Progress:
    """How far the training was when the folder was written. Raises ConfigError as read_training."""
    return Progress(**read_training(folder)["progress"])


def check_same_run(folder: Path, identity: Mapping[str, Any]) -> None:
    """Raises ConfigError with the differing keys if the checkpoint belongs to another configuration."""
    stored = read_training(folder)["identity"]
    differing = [
        f"{key}: {stored.get(key)!r} there, {identity.get(key)!r} here"
        for key in sorted(set(stored) | set(identity))
        if stored.get(key) != identity.get(key)
    ]
    if differing:
        raise ConfigError(
            f"{folder} was trained with another configuration ({'; '.join(differing)}). Nothing was changed. "
            f"Fix: the former options to continue it, or another --out."
        )


def save_checkpoint(
    out: Path,
    policy: Policy,
    optimizer: Optimizer,
    reference: Reference,
    progress: Progress,
    training: Mapping[str, Any],
    *,
    keep: int | None,
) -> Path:
    """Write out/checkpoint-<step> and drop the oldest beyond `keep`. Returns the folder.

    Raises ResourceError if the disk is too full; checkpoints written before stay as they are.
    """
    folder = out / f"checkpoint-{progress.step}"
    beside = out / f".{folder.name}.unfinished"
    for stale in out.glob(".checkpoint-*.unfinished"):
        shutil.rmtree(stale)
    _check_space(out, folder, policy, optimizer, reference)
    try:
        beside.mkdir(parents=True)
        policy.save(beside)
        (beside / RESUME).mkdir()
        state = {"optimizer": optimizer.state(), "average": reference.average, "random": _random_states()}
        torch.save(state, beside / RESUME / "state.pt")
        content = {**training, "step": progress.step, "progress": _as_json(progress)}
        write_json(beside / TRAINING, content)
        _sync(beside)
        if folder.exists():
            shutil.rmtree(folder)
        beside.replace(folder)
        _sync_folder(out)
    except (OSError, RuntimeError, SafetensorError) as error:  # a full disk is each of them, by who writes
        shutil.rmtree(beside, ignore_errors=True)
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise _disk_error(out, folder, getattr(error, "strerror", None) or str(error).splitlines()[0]) from error
    for old in checkpoints(out)[: -keep if keep else 0]:
        shutil.rmtree(old)
    return folder


def load_checkpoint(folder: Path, policy: Policy, optimizer: Optimizer, reference: Reference) -> Progress:
    """Put everything back as it was when the folder was written. Raises ConfigError if a part is absent."""
    progress = read_progress(folder)
    path = folder / RESUME / "state.pt"
    if not path.is_file():
        raise ConfigError(f"{folder} has no {RESUME}/state.pt to continue from. Fix: move it away, or another --out.")
    policy.load(folder)
    state = torch.load(path, map_location="cpu", weights_only=True)
    optimizer.load(state["optimizer"])
    reference.load(state["average"])
    _restore_random(state["random"])
    return progress


def checkpoint_bytes(policy: Policy, optimizer: Optimizer, reference: Reference) -> int:
    """Size of a checkpoint, media and small files not counted."""
    learned = policy.trainable()
    whole = learned if policy.adapter is not None else dict(policy.model.named_parameters())
    weights = sum(_bytes(p) for p in whole.values())
    moments = sum(2 * 4 * w.numel() for w in optimizer.weights.values())
    copies = sum(_bytes(w) for name, w in optimizer.weights.items() if w is not learned[name])
    return weights + moments + copies + sum(_bytes(w) for w in reference.average.values())


def _check_space(out: Path, folder: Path, policy: Policy, optimizer: Optimizer, reference: Reference) -> None:
    out.mkdir(parents=True, exist_ok=True)
    need, free = checkpoint_bytes(policy, optimizer, reference), shutil.disk_usage(out).free
    if free < SPARE * need:
        raise _disk_error(out, folder, f"{SPARE * need / 1e9:.1f} GB needed")


def _disk_error(out: Path, folder: Path, why: str) -> ResourceError:
    kept, free = checkpoints(out), shutil.disk_usage(out).free
    last = f"last good checkpoint: {kept[-1].name}" if kept else "there is no earlier checkpoint"
    return ResourceError(
        f"{folder} cannot be written ({why}; {free / 1e9:.1f} GB free). Training stopped at step "
        f"{folder.name.split('-')[1]}; {last}. Nothing of the new one was left. "
        f"Fix: free some space or lower --save-total-limit, and run the same command again; or another --out."
    )


def _random_states() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _restore_random(states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def _as_json(progress: Progress) -> dict[str, int]:
    return {"step": progress.step, "position": progress.position, "replaced": progress.replaced}


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _sync(folder: Path) -> None:
    """Everything below the folder is on the disk when this returns."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
