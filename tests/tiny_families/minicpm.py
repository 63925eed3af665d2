"""MiniCPM-V 4.6."""

from __future__ import annotations

from typing import Any

import transformers

from tests.tiny_families.recipe import QWEN, Recipe

MINICPM_MARKS = {
    "image_start_token": "<image>",
    "image_end_token": "</image>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
}


def _minicpm(vocabulary: int, ids: dict[str, int]) -> Any:
    # Its text model is Qwen3.5's, with a layer of linear attention; 64 is the smallest head that vLLM has on a CPU.
    linear = {"linear_key_head_dim": 64, "linear_value_head_dim": 64}
    linear |= {"linear_num_key_heads": 1, "linear_num_value_heads": 2}
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [6, 5, 5], "partial_rotary_factor": 1.0}
    text = QWEN | linear | {"model_type": "qwen3_5_text", "vocab_size": vocabulary, "head_dim": 32}
    text |= {"layer_types": ["linear_attention", "full_attention"], "rope_parameters": rope}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": 112, "patch_size": 14, "initializer_range": 0.1}
    return transformers.MiniCPMV4_6Config(
        text_config=text,
        vision_config=vision,
        insert_layer_id=0,
        image_size=112,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        initializer_range=0.1,
    )


def _minicpm_processor(tokenizer: Any, template: str) -> Any:
    options = {"scale_resolution": 112, "max_slice_nums": 2}
    return transformers.MiniCPMV4_6Processor(
        transformers.MiniCPMV4_6ImageProcessor(**options),
        transformers.MiniCPMV4_6VideoProcessor(scale_resolution=112, max_slice_nums=1),
        tokenizer,
        chat_template=template,
    )


RECIPES = {
    "minicpmv4_6": Recipe(
        image="<|image_pad|>",
        video="<|video_pad|>",
        marks=("<|image_pad|>", "<|video_pad|>", *MINICPM_MARKS.values()),
        config=_minicpm,
        processor=_minicpm_processor,
        named={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"} | MINICPM_MARKS,
    ),
}
