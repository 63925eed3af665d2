"""LoRA adapters, merged into their base: every tensor finds a place, every targeted module a tensor, or it is refused.

The mathematics (LoRA, rsLoRA, DoRA, PiSSA) is peft's. What is ours is the names: transformers has moved the modules of
Qwen-VL models (4.52: `model.layers` became `model.language_model.layers`), and trainers save what they call them. peft
warns of weights that it cannot place and goes on with the base model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from seedbench_r1.errors import ConfigError
from seedbench_r1.files import JsonObject, read_json_object
from seedbench_r1.models.weights import check_one_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")

# "lora_A.weight"; peft before 0.5 and some trainers put the adapter's name in between: "lora_A.default.weight"
_LORA = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_(?:A|B|embedding_A|embedding_B|magnitude_vector))"
    r"(?:\.(?!weight$|bias$)(?P<adapter>\w+))?(?P<kind>\.weight|\.bias)?"
)
# Settings of peft that change which weights there are in ways that are not rebuilt here
_REFUSED = (
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "megatron_config",
    "ensure_weight_tying",
    # These depend on the prompt, or on other adapters.
    "alora_invocation_tokens",
    "arrow_config",
    "use_bdlora",
)
_FIRST = ("lora_A.weight", "lora_embedding_A")  # their first size is the rank

# How LoRA may begin. "pissa" and "olora" change the base, in a way that can be computed again.
_STARTS = (None, True, False, "gaussian", "eva", "orthogonal", "mica", "pissa", "olora")
_CHANGE_THE_BASE = ("pissa", "olora")

# Beginnings of module names, as they were and are: those of transformers < 4.52, of >= 4.52, and of text models
_BEGINNINGS = (
    ("model.language_model.", "model.language_model."),
    ("model.visual.", "model.visual."),
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head", "lm_head"),
    ("language_model.", "model.language_model."),
    ("model.model.language_model.", "model.language_model."),
    ("model.model.visual.", "model.visual."),
    ("model.model.", "model.language_model."),
    ("model.", "model.language_model."),
    ("visual.", "model.visual."),
)


@dataclass(slots=True)
class _Adapter:
    """An adapter's files, in the names of the model that it is put into."""

    folder: Path
    config: JsonObject
    lora: dict[str, torch.Tensor] = field(default_factory=dict)  # module + "." + part -> tensor
    saved: dict[str, torch.Tensor] = field(default_factory=dict)  # parameter -> its whole new value


def merge_adapter_into(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Merge a LoRA adapter into its base model, in place where possible, and return the model.

    Raises:
        ConfigError: peft is not installed, the files cannot be read, a tensor finds no place in the model, a targeted
            module has no tensor, or the adapter is of a kind that is not merged here.
    """
    try:
        import peft
    except ImportError as error:
        raise ConfigError(f"{folder} is a LoRA adapter, which needs peft. Fix: pip install 'peft>=0.17'") from error
    check_one_model(folder)
    adapter = _read(folder, model)
    try:
        return _merge(adapter, model)
    except (ConfigError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # peft raises many, of settings that do not go together
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(
            f"{folder}: peft {peft.__version__} cannot apply it: {first} Fix: merge the adapter with the version of "
            f"peft that wrote it ({adapter.config.get('peft_version', 'unknown')}), and evaluate the merged model."
        ) from error


def _merge(adapter: _Adapter, model: PreTrainedModel) -> PreTrainedModel:
    import peft

    folder = adapter.folder
    modules = sorted({_LORA.fullmatch(name)["module"] for name in adapter.lora})  # type: ignore[index]
    _check_all_are_there(adapter, modules, model)
    residual = _put_saved(adapter, modules, model)
    _untie(adapter, modules, model)
    if not modules:
        return model
    known = {name: value for name, value in adapter.config.items() if name in peft.LoraConfig.__dataclass_fields__}
    settings: JsonObject = known | _exact(adapter, modules) | {"inference_mode": True}
    config = peft.LoraConfig(**settings)
    wrapped: Any = peft.get_peft_model(model, config)
    tensors = {f"base_model.model.{name}": tensor for name, tensor in (adapter.lora | residual).items()}
    try:
        result: Any = peft.set_peft_model_state_dict(wrapped, tensors)
    except RuntimeError as error:  # torch's, of sizes that do not fit
        raise ConfigError(f"{folder} is no adapter of this base model: {error}. Fix: --base-model.") from error
    left = [*result.unexpected_keys, *(name for name in result.missing_keys if "lora_" in name)]
    if left:
        # Not reached by any file that passed the checks above, unless peft has changed its names.
        raise ConfigError(f"{folder}: peft {peft.__version__} did not take {left[0]}.")
    # Merged once, so that answering costs no more than without an adapter.
    merged: PreTrainedModel = wrapped.merge_and_unload()
    return merged


def _read(folder: Path, model: PreTrainedModel) -> _Adapter:
    config = read_json_object(folder / CONFIG, ConfigError)
    _check_kind(folder, config)
    adapter = _Adapter(folder, config)
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters(remove_duplicate=False))
    names = set()
    keys: dict[str, str] = {}  # place in the model -> name in the file
    for key, tensor in _tensors(folder).items():
        stored = key.removeprefix("base_model.model.")
        if ".original_module." in stored:  # the base's own, next to what was trained in its stead
            continue
        match = _LORA.fullmatch(stored)
        if match is None:
            # A module that was trained as a whole (modules_to_save), its bias, or embeddings that peft adds.
            stored = re.sub(r"\.modules_to_save(?:\.\w+(?=\.))?\.|\.base_layer\.(?=\w+$)", ".", stored)
            place = _place(folder, key, stored, parameters)
            adapter.saved[place] = tensor
        else:
            names.add(match["adapter"])
            module = _place(folder, key, match["module"], modules)
            place = f"{module}.{match['part']}{match['kind'] or ''}"
            adapter.lora[place] = tensor
        if keys.setdefault(place, key) != key and len(names) <= 1:
            raise ConfigError(
                f"{folder} holds two tensors for {place}: {keys[place]} and {key}. Fix: save one adapter alone."
            )
    if len(names) > 1:
        raise ConfigError(
            f"{folder} holds several adapters ({', '.join(map(str, names))}). Fix: save one of them alone."
        )
    return adapter


def _check_kind(folder: Path, config: JsonObject) -> None:
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        raise ConfigError(
            f"{folder} is a {kind} adapter; LoRA, rsLoRA and DoRA are merged here. Fix: merge it with peft."
        )
    from peft import LoraConfig

    unknown = [name for name, value in config.items() if name not in LoraConfig.__dataclass_fields__ and value]
    unknown = [name for name in unknown if name not in ("peft_version", "auto_mapping")]
    used = [name for name in _REFUSED if config.get(name)]
    if unknown or used:
        raise ConfigError(
            f"{folder / CONFIG} sets {(used + unknown)[0]}, which is not merged here. Fix: merge the adapter with the "
            f"version of peft that wrote it, and evaluate the merged model."
        )
    scales = [config.get("lora_alpha", 8), *(config.get("alpha_pattern") or {}).values()]
    wrong = [scale for scale in scales if type(scale) not in (int, float)]
    if wrong:
        raise ConfigError(f"{folder / CONFIG}: lora_alpha is {wrong[0]!r}, which is no number. Fix: copy it again.")
    start = config.get("init_lora_weights", True)
    if start not in _STARTS:
        raise ConfigError(
            f"{folder / CONFIG} sets init_lora_weights {start!r}: what was taken from the base's weights cannot be "
            f"computed again exactly. Fix: convert it to plain LoRA where it was trained (save_pretrained with "
            f"path_initial_model_for_weight_conversion), or merge it with the tool that trained it."
        )


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    path = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise ConfigError(f"No {' or '.join(_WEIGHTS)} in {folder}. Is the copy complete?")
    try:
        if path.suffix == ".bin":
            found: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
            return found
        from safetensors.torch import load_file

        return load_file(path)
    except Exception as error:
        # safetensors raises an exception of its own, torch several.
        raise ConfigError(f"{path} cannot be read ({error}). Was it copied whole? Fix: copy it again.") from error


def _place(folder: Path, key: str, stored: str, names: Mapping[str, object]) -> str:
    """The model's name of a stored module or parameter."""
    for name in current_names(stored):
        if name in names:
            return name
    raise ConfigError(
        f"{folder}: the adapter's tensor {key} has no place in the base model. Nothing was loaded. Is it an adapter of "
        f"another base? Fix: --base-model with the one that it was trained on."
    )


def current_names(stored: str) -> list[str]:
    """What a module may be called today, given what it was called in any layout; the name as it is comes first."""
    return [stored] + [new + stored[len(old) :] for old, new in _BEGINNINGS if stored.startswith(old)]


def _names_of_any_time(name: str) -> list[str]:
    """All names that a module of today's model has had, for patterns that were written against one of them."""
    return [name] + [old + name[len(new) :] for old, new in _BEGINNINGS if name.startswith(new)]


def _check_all_are_there(adapter: _Adapter, modules: Iterable[str], model: PreTrainedModel) -> None:
    """Raise ConfigError unless every module that the adapter targets has its tensors, and no other has."""
    present = set(modules)
    absent = sorted(set(_targeted(adapter.config, model)) - present)
    if absent:
        raise ConfigError(
            f"{adapter.folder}: the adapter targets {absent[0]}, and its file holds no tensor for it (nor for "
            f"{len(absent) - 1} others). Nothing was loaded. Was it copied whole? Fix: copy it again."
        )
    for module in sorted(present):
        pairs = [("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B")]
        halves = [{part for part in pair if f"{module}.{part}" in adapter.lora} for pair in pairs]
        wants_magnitude = bool(adapter.config.get("use_dora"))
        has_magnitude = any(name.startswith(f"{module}.lora_magnitude_vector") for name in adapter.lora)
        if sorted(map(len, halves)) != [0, 2] or wants_magnitude != has_magnitude:
            raise ConfigError(f"{adapter.folder}: the adapter of {module} is not complete. Fix: copy it again.")


def _targeted(config: JsonObject, model: PreTrainedModel) -> list[str]:
    """The modules that an adapter's config targets, by peft's rules, whichever names it was written against."""
    layers = {name: module for name, module in model.named_modules() if _can_be_adapted(module)}
    targets, excluded = config.get("target_modules"), config.get("exclude_modules")
    if targets == "all-linear":
        chosen = [name for name, module in layers.items() if isinstance(module, torch.nn.Linear) and name != "lm_head"]
    else:
        chosen = [name for name in layers if _matches(targets, name)]
    chosen = [name for name in chosen if not _matches(excluded, name)]
    numbers = config.get("layers_to_transform")
    if numbers is not None:
        wanted = {numbers} if isinstance(numbers, int) else set(numbers)
        patterns = config.get("layers_pattern") or ["layers", "blocks", "h", "layer"]
        chosen = [name for name in chosen if _layer_number(name, patterns) in wanted]
    return [name for name in chosen if not _is_inside(config.get("modules_to_save") or [], name)]


def _can_be_adapted(module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.Linear | torch.nn.Embedding | torch.nn.Conv2d | torch.nn.Conv3d)


def _matches(targets: str | list[str] | None, name: str) -> bool:
    """peft's rule: a text is a regular expression for the whole name, a list holds names or their last parts."""
    if not targets:
        return False
    names = _names_of_any_time(name)
    if isinstance(targets, str):
        return any(re.fullmatch(targets, any_name) for any_name in names)
    return any(any_name == target or any_name.endswith(f".{target}") for any_name in names for target in targets)


def _is_inside(wanted: list[str], name: str) -> bool:
    """Whether a module, or a parameter, is one that is named, or lies in one."""
    parts = name.split(".")
    return any(_matches(wanted, ".".join(parts[:end])) for end in range(1, len(parts) + 1))


def _layer_number(name: str, patterns: str | list[str]) -> int | None:
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        match = re.search(rf"(?:^|\.){pattern}\.(\d+)\.", name)
        if match is not None:
            return int(match.group(1))
    return None


def _exact(adapter: _Adapter, modules: list[str]) -> JsonObject:
    """peft's settings with every module by its own name, rank and scale: nothing is left to patterns."""
    first = {
        module: next(adapter.lora[f"{module}.{part}"] for part in _FIRST if f"{module}.{part}" in adapter.lora)
        for module in modules
    }
    scale = _by_pattern(adapter.config.get("alpha_pattern") or {}, adapter.config.get("lora_alpha", 8))
    return {
        "target_modules": modules,
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "modules_to_save": None,
        "bias": "none",
        "rank_pattern": {re.escape(module): tensor.shape[0] for module, tensor in first.items()},
        "alpha_pattern": {re.escape(module): scale(module) for module in modules},
    }


def _by_pattern(patterns: Mapping[str, float], default: float) -> Callable[[str], float]:
    def value(module: str) -> float:
        names = _names_of_any_time(module)
        regex = {pattern: re.compile(rf"(?:.*\.)?(?:{pattern})$") for pattern in patterns}
        return next((patterns[pattern] for pattern in patterns if any(map(regex[pattern].match, names))), default)

    return value


def _put_saved(adapter: _Adapter, modules: list[str], model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Replace the parameters that were trained as a whole; returned are those that peft has to set after its own."""
    wanted = adapter.config.get("modules_to_save") or []
    biases = adapter.config.get("bias", "none") != "none"
    residual = adapter.config.get("init_lora_weights") in _CHANGE_THE_BASE
    parameters = dict(model.named_parameters(remove_duplicate=False))
    later, embeddings = {}, {}
    for name, tensor in adapter.saved.items():
        module = name.rpartition(".")[0]
        whole = any(_ends_so(name, part) for part in wanted)
        if not (whole or (biases and name.endswith(".bias")) or _is_embedding(module)):
            raise ConfigError(f"{adapter.folder}: the adapter holds {name}, which its {CONFIG} does not name.")
        if parameters[name].shape != tensor.shape:
            shapes = f"{tuple(tensor.shape)} there, {tuple(parameters[name].shape)} in the base model"
            raise ConfigError(f"{adapter.folder}: {name} has another shape ({shapes}). Fix: --base-model.")
        if whole or not _is_embedding(module):
            _replace(model, name, tensor)
        elif residual and module in modules:
            later[f"{module}.base_layer.weight"] = tensor
        else:
            # peft adds embeddings to the file when they are targeted or resized; what is tied stays tied.
            parameters[name].data.copy_(tensor)
            embeddings[name] = tensor
    for name, tensor in embeddings.items():
        if not torch.equal(parameters[name].data, tensor.to(parameters[name])):
            raise ConfigError(f"{adapter.folder} holds two values for {name}, which is tied. Fix: --base-model.")
    needed = [name for name in parameters if _is_inside(wanted, name)]
    for part in wanted:
        if not any(_ends_so(name, part) for name in adapter.saved):
            raise ConfigError(f"{adapter.folder}: modules_to_save names {part}, and the file holds no tensor for it.")
    if absent := [name for name in needed if name not in adapter.saved]:
        raise ConfigError(f"{adapter.folder}: modules_to_save has {absent[0]}, and the file holds no tensor for it.")
    return later


def _ends_so(name: str, part: str) -> bool:
    """peft's rule of modules_to_save: "norm" is every module whose name ends so, "input_layernorm" too."""
    return any(f"{part}." in old for old in _names_of_any_time(name))


def _is_embedding(module: str) -> bool:
    return module == "lm_head" or module.endswith(".embed_tokens")


def _untie(adapter: _Adapter, modules: list[str], model: PreTrainedModel) -> None:
    """Give lm_head its own weights if an adapter of it, or of the embeddings, would change both."""
    untyped: Any = model
    head, embeddings = untyped.get_output_embeddings(), untyped.get_input_embeddings()
    if head.weight is not embeddings.weight or not any(map(_is_embedding, modules)):
        return
    start = adapter.config.get("init_lora_weights")
    if start in _CHANGE_THE_BASE:
        raise ConfigError(
            f"{adapter.folder}: {start} of embeddings that are tied to lm_head changes both, and is not merged here. "
            f"Fix: merge it with the tool that trained it."
        )
    _replace(model, "lm_head.weight", head.weight.detach().clone())


def _replace(model: PreTrainedModel, name: str, tensor: torch.Tensor) -> None:
    """Set one parameter; one that was tied to another (lm_head to the embeddings) is its own from then on."""
    module, _, last = name.rpartition(".")
    owner = model.get_submodule(module)
    old = getattr(owner, last)
    setattr(owner, last, torch.nn.Parameter(tensor.to(old.device, old.dtype), requires_grad=False))
    config: Any = model.config
    if _is_embedding(module):
        for part in (config, config.get_text_config()):
            part.tie_word_embeddings = False
