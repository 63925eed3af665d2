"""The model families of Qwen-VL's kind, as data: what differs between them outside of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from seedbench_r1.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture that our own backends load."""

    model_type: str  # of config.json
    architecture: str  # of config.json, architectures[0]
    # How a temporal patch knows its time: by its number, by seconds in the position ids, or by text in the prompt
    clip_time: Literal["index", "seconds", "text"]
    patch: int = 14  # pixels, where config.json does not say


FAMILIES = (
    Family("qwen2_vl", "Qwen2VLForConditionalGeneration", clip_time="index"),
    Family("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", clip_time="seconds"),
    Family("qwen3_vl", "Qwen3VLForConditionalGeneration", clip_time="text", patch=16),
    Family("qwen3_vl_moe", "Qwen3VLMoeForConditionalGeneration", clip_time="text", patch=16),
    # Also what is released as Qwen3.6 and 3.8
    Family("qwen3_5", "Qwen3_5ForConditionalGeneration", clip_time="text", patch=16),
    Family("qwen3_5_moe", "Qwen3_5MoeForConditionalGeneration", clip_time="text", patch=16),
)


def family_of(model_type: str, model: str = "the model") -> Family:
    """The family of a config's model_type. Raises ConfigError with the list for another one."""
    for family in FAMILIES:
        if family.model_type == model_type:
            return family
    known = ", ".join(family.model_type for family in FAMILIES)
    raise ConfigError(f"{model} is a {model_type!r} model; supported is model_type {known}.")
