"""What can be known of a checkpoint without loading it: where it is, what it is, which bytes it has."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from seedbench_r1.data.hub import named_errors
from seedbench_r1.errors import ConfigError
from seedbench_r1.files import JsonObject, read_json_object
from seedbench_r1.models.families import FAMILIES
from seedbench_r1.models.fingerprint import fingerprint, small_file_hashes
from seedbench_r1.types import ModelInfo

TRAINING = "training.json"  # what a training says of a checkpoint it wrote
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model folder on this machine and, for a LoRA adapter, the folder of its base."""

    info: ModelInfo
    folder: Path
    base_folder: Path | None  # None unless the folder is an adapter
    size_multiple: int  # pixels: both sides of every frame are multiples of it
    weight_bytes: int
    config: JsonObject  # config.json of the model, or of the adapter's base

    @property
    def weights(self) -> dict[str, Path]:
        """Every weight file by its name in manifests, the base's after the adapter's, as "base/...". Sorted."""
        found = {path.name: path for path in _weight_files(self.folder)}
        if self.base_folder is not None:
            found |= {f"base/{path.name}": path for path in _weight_files(self.base_folder)}
        return found


def inspect_model(
    model: str, *, base_model: str | None = None, revision: str | None = None, any_architecture: bool = False
) -> Checkpoint:
    """Find a checkpoint and read its small files.

    Args:
        model: a folder, or a hub id `org/name` (fetched into the hub's cache if it is not there yet).
        base_model: folder or hub id of an adapter's base; by default the adapter's own config names it.
        revision: branch, tag or commit of a hub id.
        any_architecture: another program will load it, so that it need not be of a known family.

    Raises:
        ConfigError: no such model, no weights, an unknown architecture, or an adapter without its base.
    """
    # A revision is of the model asked for, not of the base that its adapter names.
    folder = _resolve(model, revision)
    base_folder = None
    if (folder / "adapter_config.json").is_file():
        base = base_model or _read_json(folder / "adapter_config.json").get("base_model_name_or_path")
        if not base:
            raise ConfigError(f"{model} is a LoRA adapter that does not name its base. Fix: add --base-model.")
        try:
            base_folder = _resolve(base, None)
        except ConfigError as error:
            raise ConfigError(f"{model} is a LoRA adapter of {base}. {error} Fix: add --base-model.") from error
    config = _read_json((base_folder or folder) / "config.json")
    architecture = (config.get("architectures") or ["unknown"])[0]
    supported = sorted(family.architecture for family in FAMILIES)
    if architecture not in supported and not any_architecture:
        names = ", ".join(supported)
        raise ConfigError(f"{model} is a {architecture}; supported are {names}.")
    # An adapter alone is half the weights: its base is part of the fingerprint.
    weights = _weight_files(folder) + (_weight_files(base_folder) if base_folder else [])
    if not _weight_files(folder):
        raise ConfigError(f"No weight files (*.safetensors) in {folder}. Is the copy or download complete?")
    training = _read_json(folder / TRAINING) if (folder / TRAINING).is_file() else {}
    info = ModelInfo(
        # As the user typed it: the cache's own path says less and differs between machines.
        path=model if revision is None else f"{model}@{revision}",
        name=model_name(model),
        fingerprint=fingerprint(weights),
        base_model=training.get("base_model") or (str(base_model) if base_model else None),
        algorithm=training.get("algorithm"),
        step=training.get("step"),
        architecture=architecture,
        selected_from_k=training.get("selected_from_k"),
        files=small_file_hashes({"": folder} | ({"base/": base_folder} if base_folder else {})),
    )
    return Checkpoint(
        info=info,
        folder=folder,
        base_folder=base_folder,
        size_multiple=_size_multiple(config),
        weight_bytes=sum(path.stat().st_size for path in weights),
        config=config,
    )


def model_name(model: str) -> str:
    """A short name: the last part, and its parent's too if the last part alone says little."""
    parts = [part for part in re.split(r"[/\\]", model.rstrip("/\\")) if part not in ("", ".", "..")]
    # "checkpoint-300" alone would be the same for every training.
    if len(parts) > 1 and re.fullmatch(
        r"(checkpoint|ckpt|step|epoch|global_step)?[-_]?\d*|final|last|best|merged", parts[-1]
    ):
        return "/".join(parts[-2:])
    return parts[-1] if parts else "model"


def _resolve(model: str, revision: str | None) -> Path:
    folder = Path(model).expanduser()
    if (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file():
        return folder
    if folder.exists() or not _HUB_ID.fullmatch(model):
        raise ConfigError(_no_model_message(folder))
    from huggingface_hub import snapshot_download

    # The snapshot folder in the hub's cache; a commit that is there in full is not requested again.
    # No *.bin: a repository that has both forms would be fetched twice.
    patterns = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
    with named_errors(f"No folder {model}, and the hub did not give {model} at revision {revision or 'main'}"):
        return Path(snapshot_download(model, revision=revision, allow_patterns=patterns))


def _no_model_message(folder: Path) -> str:
    parent = folder.parent if folder.parent.is_dir() else None
    siblings = [p.name for p in parent.iterdir() if (p / "config.json").is_file()] if parent else []
    close = difflib.get_close_matches(folder.name, siblings, n=1, cutoff=0.6)
    inside = sorted(p.name for p in folder.iterdir() if (p / "config.json").is_file()) if folder.is_dir() else []
    hint = f" Did you mean {folder.parent / close[0]}?" if close else ""
    if inside:
        hint = f" It holds {len(inside)} checkpoints, e.g. {folder / inside[-1]}."
    return (
        f"No model at {folder} (no config.json).{hint} For a Hub id use org/name. "
        f"A LoRA adapter folder needs its adapter_config.json."
    )


def _weight_files(folder: Path) -> list[Path]:
    """Sorted weight files; optimiser state and the like do not count."""
    found = [path for path in folder.iterdir() if path.suffix in _WEIGHT_SUFFIXES]
    # A folder may hold both forms of the same weights: loaders take safetensors.
    safetensors = [path for path in found if path.suffix == ".safetensors"]
    named = safetensors or [path for path in found if path.name.startswith(("pytorch_model", "adapter_model"))]
    return sorted(named, key=lambda path: path.name)


def _size_multiple(config: JsonObject) -> int:
    """patch size x spatial merge size of the vision tower: 28, or 32 for Qwen3-VL."""
    vision = config.get("vision_config") or {}
    default_patch = next((f.patch for f in FAMILIES if f.model_type == config.get("model_type")), 14)
    return int(vision.get("patch_size", default_patch)) * int(vision.get("spatial_merge_size", 2))


def _read_json(path: Path) -> JsonObject:
    if not path.is_file():
        raise ConfigError(f"No model at {path.parent} (no {path.name}).")
    return read_json_object(path, ConfigError)
