"""Weight files, weights and logits that are not what they should be: cut off, of another step, changed, not finite."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor

from seedbench_r1.backends.sampling import NonFiniteLogits
from seedbench_r1.errors import ConfigError
from seedbench_r1.models.checkpoint import Checkpoint
from seedbench_r1.questions import file_sha256
from trainers.errors import TrainingEnded
from trainers.sharding import local_shard, saved_steps

if TYPE_CHECKING:
    from transformers import PreTrainedModel

T = TypeVar("T")

RESUME = "resume"  # of a checkpoint folder: what evaluation does not need
STATE, SHARDED, RANDOM = "state.pt", "sharded", "random.pt"  # in RESUME
_TOKENIZERS = ("tokenizer.json", "vocab.json", "tokenizer.model")


def check_tokenizer(checkpoint: Checkpoint) -> None:
    """Raise ConfigError for a folder that was half copied: without its tokeniser transformers makes an empty one."""
    folder = checkpoint.base_folder or checkpoint.folder
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise ConfigError(f"{folder} has no tokenizer ({', '.join(_TOKENIZERS)}). Fix: copy or download it again.")


def first_not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """The name of the first tensor with a NaN or an infinity in this process's part of it."""
    return next((name for name, tensor in tensors if not bool(local_shard(tensor).isfinite().all())), None)


def check_finite(model: torch.nn.Module, name: str, files: Iterable[Path]) -> None:
    """Raise ConfigError, naming file and tensor, for a model that was loaded with weights that are not finite.

    name and files: of what was loaded, for the message.
    """
    parameter = first_not_finite(model.named_parameters())
    if parameter is None:
        return
    # Only now: files are read again, and may call the tensor by another name.
    where = next((place for path in files if (place := _not_finite_in(path))), parameter)
    raise ConfigError(
        f"The weights of {name} are not finite: {where} holds NaN or infinity. Nothing was trained. "
        f"Every answer of such a model is noise. Fix: another checkpoint; a broken merge, or float16 where values "
        f"exceed 65,504, leaves such files."
    )


def _not_finite_in(path: Path) -> str | None:
    if path.suffix != ".safetensors":
        return None
    with safe_open(path, framework="pt") as file:
        found = first_not_finite((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118 - no mapping
    return found and f"{found} in {path}"


def finite_only(model: PreTrainedModel, completions: Iterable[T]) -> Iterator[T]:
    """Completions while they are drawn, as they are. Raises TrainingEnded if the model's logits are not finite."""
    try:
        yield from completions
    except NonFiniteLogits as error:
        raise logits_not_finite(model) from error


def logits_not_finite(model: torch.nn.Module) -> TrainingEnded:
    """The error for a policy whose logits hold NaN or infinity."""
    name = first_not_finite(model.named_parameters())
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    why = f"{name} holds NaN or infinity" if name else f"every weight is finite, so values overflow in {dtype}"
    return TrainingEnded(
        f"The model's logits are not finite while rollouts are sampled: {why}. Training stopped; the last checkpoint "
        f"is complete. Fix: a lower --learning-rate and another --out, another --model, or --dtype float32."
    )


def weight_hashes(folder: Path) -> dict[str, dict[str, int | str]]:
    """Name -> size and sha256 of every weight file of a checkpoint, for training.json."""
    return {
        path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(folder.glob("*.safetensors"))
    }


def check_hashes(folder: Path, stored: Mapping[str, Mapping[str, int | str]]) -> None:
    """Raise ConfigError, naming the file, if weights are not the bytes that were saved. Reads every byte."""
    for name, known in stored.items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        # Sizes first: hashing takes seconds, in which a missing file need not wait.
        why = f"it has {size or 0:,} bytes, {known.get('bytes')} were saved" if size != known.get("bytes") else ""
        if not why and file_sha256(path) != known.get("sha256"):
            why = "its sha256 is another than when it was saved"
        if why:
            raise _refused(path, why, folder)


def check_state(folder: Path, step: int, *, sharded: bool) -> None:
    """Raise ConfigError, naming the file, if a checkpoint's resume/ cannot be read or belongs to another step.

    Checkpoints that were written before their step was kept are let through.
    """
    resume = folder / RESUME
    path = resume / (RANDOM if sharded else STATE)
    try:
        # Mapped, not read: moments and average of a 7B model are 100 GB.
        found = {path: torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("step")}
    except (OSError, RuntimeError, EOFError, AttributeError, pickle.UnpicklingError) as error:
        raise _refused(path, f"it cannot be read: {str(error).splitlines()[0]}", folder) from error
    if sharded:
        try:
            found |= saved_steps(resume / SHARDED)
        except ValueError as error:
            raise _refused(resume / SHARDED, str(error), folder) from error
    for path, other in found.items():
        if other is not None and other != step:
            raise _refused(path, f"it is of step {other}", folder)


def _refused(path: Path, why: str, folder: Path) -> ConfigError:
    return ConfigError(
        f"{path} does not belong to {folder.name}: {why}. Nothing was changed. Fix: copy the checkpoint again from "
        f"where it was written, or move {folder} away to continue from the one before."
    )
