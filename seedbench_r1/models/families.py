"""The model families that our own backends load, as data.

FAMILIES are of Qwen-VL's kind: their tokens, patches and positions are made here (qwen_vl.py), and they can be trained.
GENERIC are evaluated with the inputs that their own processors make of our frames (generic.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from seedbench_r1.errors import ConfigError
from seedbench_r1.files import read_json_object
from seedbench_r1.types import Preprocess


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture of Qwen-VL's kind."""

    model_type: str  # of config.json
    architecture: str  # of config.json, architectures[0]
    # How a temporal patch knows its time: by its number, by seconds in the position ids, or by text in the prompt
    clip_time: Literal["index", "seconds", "text"]
    patch: int = 14  # pixels, where config.json does not say
    vllm_rollouts: bool = True  # whether weights under training can be handed to a vLLM engine as they are


@dataclass(frozen=True, slots=True)
class GenericFamily:
    """One architecture that its own processor feeds."""

    model_type: str
    architecture: str
    # ours: our resize, which the model's grid allows; processor: its processor resizes what we resized; images: that,
    # and a clip is handed over as images with their times in between, since the processor takes no clips.
    preprocess: Preprocess
    # Why vLLM is refused for it, or may answer otherwise than transformers (0.32, its CPU build)
    vllm_refused: str | None = None
    vllm_doubt: str | None = None
    # Further arguments of its processor
    options: Mapping[str, bool] = field(default_factory=dict)
    # Images and clips are written with the same token (backends/shared_placeholder.py)
    shared_placeholder: bool = False


FAMILIES = (
    Family("qwen2_vl", "Qwen2VLForConditionalGeneration", clip_time="index"),
    Family("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", clip_time="seconds"),
    Family("qwen3_vl", "Qwen3VLForConditionalGeneration", clip_time="text", patch=16),
    Family("qwen3_vl_moe", "Qwen3VLMoeForConditionalGeneration", clip_time="text", patch=16, vllm_rollouts=False),
    # Also what is released as Qwen3.6 and 3.8
    Family("qwen3_5", "Qwen3_5ForConditionalGeneration", clip_time="text", patch=16, vllm_rollouts=False),
    Family("qwen3_5_moe", "Qwen3_5MoeForConditionalGeneration", clip_time="text", patch=16, vllm_rollouts=False),
)

GENERIC = (
    GenericFamily(
        "gemma3",
        "Gemma3ForConditionalGeneration",
        "images",
        vllm_doubt="an image's tokens attend to each other in both directions, which not all of its kernels do",
    ),
    # transformers 5.19 fails at its clips, 5.23 does not: the processor left out how many frames each has.
    GenericFamily("gemma4", "Gemma4ForConditionalGeneration", "processor"),
    GenericFamily("internvl", "InternVLForConditionalGeneration", "processor"),
    GenericFamily("glm4v", "Glm4vForConditionalGeneration", "ours", shared_placeholder=True),
    GenericFamily("glm4v_moe", "Glm4vMoeForConditionalGeneration", "ours", shared_placeholder=True),
    GenericFamily("glm46v", "Glm46VForConditionalGeneration", "ours", shared_placeholder=True),
    # transformers 5.23 fails at clips: it expects 4 times the features that its vision tower makes of 4 frames.
    GenericFamily(
        "kimi_k25",
        "Kimi_K25ForConditionalGeneration",
        "images",
        vllm_refused="its engine does not start: weights and media have other names there",
    ),
    GenericFamily(
        "lfm2_vl",
        "Lfm2VlForConditionalGeneration",
        "images",
        vllm_doubt="its CPU build rotates queries wrongly (0.32)",
    ),
    GenericFamily(
        "llava_onevision",
        "LlavaOnevisionForConditionalGeneration",
        "processor",
        vllm_refused="its engine dies as soon as clips of different lengths meet in a batch",
    ),
    GenericFamily("minicpmv4_6", "MiniCPMV4_6ForConditionalGeneration", "processor"),
    # Its model takes images or a clip, never both. Frames of our sizes make two crops each, about 550 tokens.
    GenericFamily("molmo2", "Molmo2ForConditionalGeneration", "images"),
    GenericFamily(
        "perception_lm",
        "PerceptionLMForConditionalGeneration",
        "processor",
        vllm_refused="it is not in its registry",
    ),
    # Its processor loses the image where there is a clip; split into tiles, 16 frames would take 17 times the tokens.
    GenericFamily("smolvlm", "SmolVLMForConditionalGeneration", "images", options={"do_image_splitting": False}),
    GenericFamily(
        "video_llama_3",
        "VideoLlama3ForConditionalGeneration",
        "ours",
        vllm_refused="its processor tells the model other times than the frames'",
    ),
)


def family_of(model_type: str, model: str = "the model") -> Family:
    """The family of Qwen-VL's kind of a config's model_type. Raises ConfigError with the list for another one.

    Positions, patches and packed groups are made for these only, so that these only can be trained.
    """
    for family in FAMILIES:
        if family.model_type == model_type:
            return family
    known = ", ".join(family.model_type for family in FAMILIES)
    raise ConfigError(f"{model} is a {model_type!r} model; training takes {known} (docs/models.md).")


def family_for(model_type: object, folder: Path, *, trust_remote_code: bool = False) -> Family | GenericFamily | None:
    """The row of either table, or one made up for another model that transformers calls image-text-to-text; else None.

    Args:
        model_type: of config.json.
        folder: of the checkpoint, whose files say whether its processor takes clips.
        trust_remote_code: the checkpoint's own program may say what transformers does not know.
    """
    for family in (*FAMILIES, *GENERIC):
        if family.model_type == model_type:
            return family
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as known

    if not isinstance(model_type, str) or (model_type not in known and not trust_remote_code):
        return None
    name = known.get(model_type, "of the checkpoint")
    return GenericFamily(model_type, name, "processor" if _takes_clips(folder) else "images")


def _takes_clips(folder: Path) -> bool:
    both = folder / "processor_config.json"
    if (folder / "video_preprocessor_config.json").is_file():
        return True
    return both.is_file() and "video_processor" in read_json_object(both, ConfigError)
