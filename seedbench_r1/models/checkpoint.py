"""What can be known of a checkpoint without loading it: where it is, what it is, which bytes it has."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from seedbench_r1.errors import ConfigError
from seedbench_r1.files import JsonObject, read_json_object
from seedbench_r1.models.families import FAMILIES, GENERIC, Family, GenericFamily, family_for
from seedbench_r1.models.fingerprint import fingerprint, small_file_hashes, weight_samples
from seedbench_r1.models.locate import find_folder, with_processor
from seedbench_r1.models.weights import check_weights, quantisation, weight_files
from seedbench_r1.typed_json import shown
from seedbench_r1.types import ModelInfo, Preprocess

_LARGEST_PATCH, _LARGEST_MERGE = 256, 16  # pixels, patches; what is larger is damage, and fills the memory
TRAINING = "training.json"  # what a training says of a checkpoint it wrote
_OF_STEP = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model folder on this machine and, for a LoRA adapter, the folder of its base."""

    info: ModelInfo
    folder: Path
    base_folder: Path | None  # None unless the folder is an adapter
    size_multiple: int  # pixels: both sides of every frame are multiples of it
    preprocess: Preprocess  # VideoConfig.preprocess
    weight_bytes: int
    config: JsonObject  # config.json of the model, or of the adapter's base

    @property
    def weights(self) -> dict[str, Path]:
        """Every weight file by its name in manifests, the base's after the adapter's, as "base/...". Sorted."""
        return _named_weights(self.folder, self.base_folder)


def inspect_model(
    model: str,
    *,
    base_model: str | None = None,
    revision: str | None = None,
    processor: str | None = None,
    views: Path | None = None,
    any_architecture: bool = False,
    trust_remote_code: bool = False,
) -> Checkpoint:
    """Find a checkpoint and read its small files.

    Args:
        model: a folder, or a hub id `org/name` or `org/name/folder/inside`, which is fetched into the hub's cache.
        base_model: folder or hub id of an adapter's base; by default the adapter's own config names it.
        revision: branch, tag or commit of a hub id.
        processor: folder or hub id whose tokeniser, template and processor files are used instead of the model's own.
        views: where a folder with these is made (locate.with_processor).
        any_architecture: another program will load it, so that it need not be of a known family.
        trust_remote_code: programs of the checkpoint may be run, for a family that transformers does not know.

    Raises:
        ConfigError: no such model, an incomplete or ambiguous folder, an unknown family, or an adapter without base.
    """
    # A revision is of the model asked for, not of the base that its adapter names.
    folder = find_folder(model, revision)
    base_model, base_folder = _find_base(model, folder, base_model)
    if processor is not None and views is not None:
        # An adapter's processor is its base's.
        view = with_processor(base_folder or folder, processor, views)
        folder, base_folder = (view, None) if base_folder is None else (folder, view)
    config = _read_json((base_folder or folder) / "config.json")
    family = family_for(config.get("model_type"), base_folder or folder, trust_remote_code=trust_remote_code)
    if family is None and not any_architecture:
        raise ConfigError(unsupported_message(model, config))
    preprocess = family.preprocess if isinstance(family, GenericFamily) else "ours"
    _check_templates(base_folder or folder)
    # An adapter alone is half the weights: its base is part of the fingerprint.
    weights = check_weights(folder) + (check_weights(base_folder) if base_folder else [])
    info = _info(model, revision, (folder, base_folder), base_model, _architecture(config, family), weights)
    return Checkpoint(
        info=replace(info, quantisation=quantisation(config)),
        folder=folder,
        base_folder=base_folder,
        size_multiple=1 if preprocess != "ours" else _size_multiple(config),
        preprocess=preprocess,
        weight_bytes=sum(path.stat().st_size for path in weights),
        config=config,
    )


def _info(
    model: str,
    revision: str | None,
    folders: tuple[Path, Path | None],  # the model's, and of an adapter its base's
    base_model: str | None,
    architecture: str,
    weights: list[Path],
) -> ModelInfo:
    folder, base_folder = folders
    training = _read_json(folder / TRAINING) if (folder / TRAINING).is_file() else {}
    return ModelInfo(
        # As the user typed it: the cache's own path says less and differs between machines.
        path=model if revision is None else f"{model}@{revision}",
        name=model_name(model),
        fingerprint=fingerprint(weights),
        base_model=_text(training.get("base_model")) or base_model,
        algorithm=_text(training.get("algorithm")),
        step=_number(training.get("step")),
        architecture=architecture,
        selected_from_k=_number(training.get("selected_from_k")),
        files=small_file_hashes({"": folder} | ({"base/": base_folder} if base_folder else {}))
        | weight_samples(_named_weights(folder, base_folder)),
    )


def _named_weights(folder: Path, base_folder: Path | None) -> dict[str, Path]:
    found = {path.name: path for path in weight_files(folder)}
    if base_folder is not None:
        found |= {f"base/{path.name}": path for path in weight_files(base_folder)}
    return found


def _find_base(model: str, folder: Path, base_model: str | None) -> tuple[str | None, Path | None]:
    """The name and the folder of an adapter's base; the name as given and None for what is no adapter."""
    if not (folder / "adapter_config.json").is_file():
        return base_model, None
    base = base_model or _text(_read_json(folder / "adapter_config.json").get("base_model_name_or_path"))
    if not base:
        raise ConfigError(f"{model} is a LoRA adapter that does not name its base. Fix: add --base-model.")
    try:
        return base, find_folder(base, None)
    except ConfigError as error:
        raise ConfigError(f"{model} is a LoRA adapter of {base}. {error} Fix: add --base-model.") from error


def _check_templates(folder: Path) -> None:
    """Raise ConfigError if a folder's two template files differ: which one is taken depends on the program."""
    new, old = folder / "chat_template.jinja", folder / "chat_template.json"
    if not (new.is_file() and old.is_file()):
        return
    template = read_json_object(old, ConfigError).get("chat_template")
    if template is None or str(template).strip() != new.read_text(encoding="utf-8", errors="replace").strip():
        raise ConfigError(
            f"{folder}: {old.name} and {new.name} differ, and programs differ in which they take. Fix: move away the "
            f"one that the model was not trained with, or --processor BASE_MODEL."
        )


def _architecture(config: JsonObject, family: Family | GenericFamily | None) -> str:
    """The class that config.json names; a trainer's wrapper, or nothing, stands for the family's own."""
    named = config.get("architectures")
    if isinstance(named, list) and named and isinstance(named[0], str):
        return named[0]
    return family.architecture if family is not None else "unknown"


def unsupported_message(model: str, config: JsonObject) -> str:
    """What is wrong with a config.json of a family that family_for does not know, and what to do."""
    names = ", ".join(family.model_type for family in (*FAMILIES, *GENERIC))
    if config.get("auto_map"):
        return (
            f"{model} is a {shown(config.get('model_type'))} model, which transformers does not know: it comes with "
            f"programs of its own, which loading it would run. Fix: --trust-remote-code, if you trust who wrote them, "
            f"or serve it and --backend openai:{model} --base-url http://localhost:8000/v1."
        )
    return (
        f"{model} is a {shown(config.get('model_type'))} model ({_architecture(config, None)[:60]}); our backends load "
        f"{names}, and what transformers calls image-text-to-text. "
        f"Fix: --engine lmms-eval --lmms-model NAME if lmms-eval has it (which then chooses the frames), or serve it "
        f"(vllm serve {model}) and --backend openai:{model} --base-url http://localhost:8000/v1."
    )


def _text(value: object) -> str | None:
    """A field of a file that another tool may have written under the same name."""
    return value if isinstance(value, str) else None


def _number(value: object) -> int | None:
    return value if type(value) is int else None


def list_checkpoints(out: Path) -> list[Path]:
    """The checkpoint folders of a training, oldest first."""
    found = [path for path in out.glob("checkpoint-*") if _OF_STEP.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step in a checkpoint folder's name."""
    return int(checkpoint.name.split("-")[1])


def model_name(model: str) -> str:
    """A short name: the last part, and its parent's too if the last part alone says little."""
    parts = [part for part in re.split(r"[/\\]", model.rstrip("/\\")) if part not in ("", ".", "..")]
    # "checkpoint-300" alone would be the same for every training.
    if len(parts) > 1 and re.fullmatch(
        r"(checkpoint|ckpt|step|epoch|global_step)?[-_]?\d*|final|last|best|merged", parts[-1]
    ):
        return "/".join(parts[-2:])
    return parts[-1] if parts else "model"


def _size_multiple(config: JsonObject) -> int:
    """patch size x spatial merge size of the vision tower: 28, or 32 for Qwen3-VL."""
    vision = config.get("vision_config") or {}
    if not isinstance(vision, dict):
        raise ConfigError(f"config.json: vision_config is {shown(vision)}, expected an object. Fix: copy it again.")
    default_patch = next((f.patch for f in FAMILIES if f.model_type == config.get("model_type")), 14)
    patch, merge = vision.get("patch_size", default_patch), vision.get("spatial_merge_size", 2)
    temporal = vision.get("temporal_patch_size", 2)
    limits = (
        ("patch_size", patch, _LARGEST_PATCH),
        ("spatial_merge_size", merge, _LARGEST_MERGE),
        ("temporal_patch_size", temporal, _LARGEST_MERGE),
    )
    for name, value, most in limits:
        if type(value) is not int or not 0 < value <= most:
            raise ConfigError(f"config.json: {name} of vision_config is {shown(value)}. Fix: copy the file again.")
    return int(patch * merge)


def _read_json(path: Path) -> JsonObject:
    if not path.is_file():
        raise ConfigError(f"No model at {path.parent} (no {path.name}).")
    return read_json_object(path, ConfigError)
