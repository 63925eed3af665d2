"""Loading a checkpoint, or a LoRA adapter merged into its base, for inference."""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from seedbench_r1.backends.adapters import merge_adapter_into
from seedbench_r1.backends.shared_placeholder import tell_media_apart
from seedbench_r1.backends.vision import prepare_vision_tower
from seedbench_r1.errors import ConfigError, ResourceError
from seedbench_r1.models.any_processor import AnyProcessor, load_any_processor
from seedbench_r1.models.locate import find_folder
from seedbench_r1.models.processor import read_config
from seedbench_r1.models.qwen_vl import QwenProcessor
from seedbench_r1.typed_json import parse_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

# What --dtype takes; transformers understands the word "auto" itself.
DTYPES = {"auto": "auto", "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(device: str) -> torch.device:
    """The torch device of a --device value; "auto" is the first GPU, or the CPU.

    On a GPU, cuDNN's attention is left out from now on in this process: it makes a plan for each new shape (tens of
    milliseconds up to half a second in public reports), and here every prompt and every group has shapes of its own.

    Raises ConfigError for an unknown device, or for a GPU that is not there.
    """
    resolved = _device(device)
    if resolved.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)
    return resolved


def device_name(device: torch.device) -> str:
    """For people: "NVIDIA H100 80GB HBM3", "CPU, 16 threads"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def why_no_gpu() -> str:
    """What torch says of a GPU that it does not use: a driver too old for its build is no error until it is asked."""
    if torch.version.cuda is None:
        return "this build of torch is for CPUs"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0]
    return "no GPU is visible"


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"--device {device} is not a device: {error}") from error
    # torch itself would fail only later, while it loads.
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"--device {device} was asked for, but torch sees no GPU: {why_no_gpu()}. "
            f"Fix: --device cpu, or see `doctor`"
        )
    return resolved


def resolve_attention(attention: str, device: torch.device, dtype: str) -> str:
    """What --attention comes to: "sdpa" or "flash".

    auto is flash where the package flash-attn is installed and the weights are 16 bits on a GPU. Raises ConfigError for
    flash where it cannot be.
    """
    installed = importlib.util.find_spec("flash_attn") is not None
    fits = device.type == "cuda" and dtype != "float32"
    if attention == "flash" and not (installed and fits):
        why = "it needs 16-bit weights on a GPU" if installed else "the package flash-attn is not installed"
        raise ConfigError(f"--attention flash cannot be: {why}. Fix: --attention sdpa")
    return "flash" if installed and fits and attention != "sdpa" else "sdpa"


def load_model(
    model: str,
    *,
    base_model: str | None,
    revision: str | None,
    dtype: str,
    device: torch.device,
    attention: str = "sdpa",
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, AnyProcessor]:
    """The model in evaluation mode on `device`, and its processor.

    `model` is a folder or a hub id, which is fetched; `dtype` one of DTYPES, "auto" the checkpoint's own. A folder with
    an adapter_config.json is a LoRA adapter: it is merged into `base_model` or the base that it names. `attention` is
    sdpa or flash; under flash the vision tower of Qwen-VL's kind keeps sdpa. Raises ConfigError for an unknown dtype or
    architecture, a missing base, missing peft or missing weights; ResourceError if the memory does not suffice.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"--dtype {dtype} is unknown; known: {', '.join(DTYPES)}")
    load = _Load(DTYPES[dtype], device, "flash_attention_2" if attention == "flash" else "sdpa", trust_remote_code)
    folder = find_folder(model, revision)
    adapter = folder / "adapter_config.json"
    if not adapter.is_file():
        return _load_full(str(folder), load)
    # The adapter's own note may be a path on the machine that trained it.
    base = base_model or parse_json(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise ConfigError(f"{adapter} names no base model. Fix: add --base-model FOLDER_OR_HUB_ID")
    try:
        loaded, processor = _load_full(str(find_folder(base, None)), load)
    except ConfigError as error:
        raise ConfigError(
            f"The base model {base} of the LoRA adapter {model} cannot be loaded. Fix: add --base-model "
            f"FOLDER_OR_HUB_ID. ({error})"
        ) from error
    merged: Any = merge_adapter_into(loaded, folder)
    return merged.eval(), processor


# By which of them a checkpoint's own program lets itself be loaded
_FACTORIES = ("AutoModelForImageTextToText", "AutoModelForCausalLM", "AutoModel")


@dataclass(frozen=True, slots=True)
class _Load:
    """How weights are read."""

    dtype: object  # one of DTYPES' values
    device: torch.device
    attention: str  # transformers' name
    trust_remote_code: bool


def _load_full(model: str, load: _Load) -> tuple[PreTrainedModel, AnyProcessor]:
    import transformers

    processor = load_any_processor(model, trust_remote_code=load.trust_remote_code)
    # The class comes from config.json; what transformers does not know has been refused already.
    factory: Any = transformers.AutoModelForImageTextToText
    if load.trust_remote_code:
        own = read_config(model, None, trust_remote_code=True)
        named = getattr(own, "auto_map", None) or {}
        factory = getattr(transformers, next((name for name in _FACTORIES if name in named), _FACTORIES[0]))
    try:
        loaded, report = factory.from_pretrained(
            model,
            dtype=load.dtype,
            # Named, so that an installed flash-attn does not change the numbers.
            attn_implementation=load.attention,
            device_map={"": load.device},
            output_loading_info=True,
            trust_remote_code=load.trust_remote_code,
        )
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            f"{model} does not fit into the memory of {load.device}. "
            "Fix: free the GPU, or --backend vllm --tensor-parallel 2"
        ) from error
    # ImportError: of what a quantised checkpoint needs. RuntimeError: of sizes that are not config.json's.
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise ConfigError(f"Cannot load the weights of {model}: {error}") from error
    absent, left = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if absent:  # transformers would go on with random weights in their place
        raise ConfigError(f"The checkpoint {model} lacks {len(absent)} weights of its architecture, first {absent[0]}")
    if unmerged := [name for name in left if "lora_" in name]:
        raise ConfigError(
            f"The checkpoint {model} holds an adapter that was not merged, first {unmerged[0]}. Fix: save it merged "
            f"(merge_and_unload), or as an adapter folder."
        )
    if left:
        log.warning("%d tensors of %s have no place in the model, first %s", len(left), model, left[0])
    if isinstance(processor, QwenProcessor):
        prepare_vision_tower(loaded)
    elif processor.family.shared_placeholder:
        tell_media_apart(loaded)
    return loaded.eval(), processor
