"""Loading a checkpoint, or a LoRA adapter merged into its base, for inference."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from seedbench_r1.backends.adapters import merge_adapter_into
from seedbench_r1.backends.shared_placeholder import tell_media_apart
from seedbench_r1.backends.vision import prepare_vision_tower
from seedbench_r1.errors import ConfigError, ResourceError
from seedbench_r1.models.any_processor import AnyProcessor, load_any_processor
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


def load_model(
    model: str, *, base_model: str | None, revision: str | None, dtype: str, device: torch.device
) -> tuple[PreTrainedModel, AnyProcessor]:
    """The model in evaluation mode on `device`, and its processor.

    `dtype` is one of DTYPES; "auto" is the checkpoint's own. A folder with an adapter_config.json is a LoRA adapter: it
    is merged into `base_model` or the base that it names. Raises ConfigError for an unknown dtype or architecture, a
    missing base, missing peft or missing weights; ResourceError if the device's memory does not suffice.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"--dtype {dtype} is unknown; known: {', '.join(DTYPES)}")
    adapter = Path(model) / "adapter_config.json"
    if not adapter.is_file():
        return _load_full(model, revision, dtype, device)
    # The adapter's own note may be a path on the machine that trained it.
    base = base_model or parse_json(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise ConfigError(f"{adapter} names no base model. Fix: add --base-model FOLDER_OR_HUB_ID")
    try:
        loaded, processor = _load_full(base, None, dtype, device)
    except ConfigError as error:
        raise ConfigError(
            f"The base model {base} of the LoRA adapter {model} cannot be loaded. Fix: add --base-model "
            f"FOLDER_OR_HUB_ID. ({error})"
        ) from error
    merged: Any = merge_adapter_into(loaded, Path(model))
    return merged.eval(), processor


def _load_full(
    model: str, revision: str | None, dtype: str, device: torch.device
) -> tuple[PreTrainedModel, AnyProcessor]:
    import transformers

    processor = load_any_processor(model, revision=revision)
    # The class comes from config.json; what transformers does not know has been refused already.
    known_architectures: Any = transformers.AutoModelForImageTextToText
    try:
        loaded, report = known_architectures.from_pretrained(
            model,
            revision=revision,
            dtype=DTYPES[dtype],
            # Named, so that an installed flash-attn does not change the numbers.
            attn_implementation="sdpa",
            device_map={"": device},
            output_loading_info=True,
        )
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            f"{model} does not fit into the memory of {device}. "
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
