"""Molmo2."""

from __future__ import annotations

from typing import Any

import transformers

from tests.tiny_families.recipe import HIDDEN, QWEN, Recipe

MOLMO2_MARKS = tuple(
    f"<{word}>"
    for word in ("im_patch", "im_col", "im_start", "low_res_im_start", "frame_start", "im_end", "frame_end", "im_low")
)


def _molmo2(vocabulary: int, ids: dict[str, int]) -> Any:
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "initializer_range": 0.1}
    vision = heads | {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "image_size": [84, 84]}
    adapter = heads | {"hidden_size": 32, "intermediate_size": 64, "text_hidden_size": HIDDEN}
    return transformers.Molmo2Config(
        text_config=QWEN | {"vocab_size": vocabulary, "additional_vocab_size": 8, "head_dim": 32},
        vision_config=vision,
        adapter_config=adapter | {"vision_feature_layer": [1, 0], "initializer_range": 0.5},
        image_start_token_id=ids["<im_start>"],
        low_res_image_start_token_id=ids["<low_res_im_start>"],
        image_end_token_id=ids["<im_end>"],
        image_patch_id=ids["<im_patch>"],
        frame_start_token_id=ids["<frame_start>"],
        frame_end_token_id=ids["<frame_end>"],
        initializer_range=0.1,
    )


def _molmo2_processor(tokenizer: Any, template: str) -> Any:
    size = {"height": 84, "width": 84}
    return transformers.Molmo2Processor(
        transformers.Molmo2ImageProcessor(size=size, max_crops=2, overlap_margins=[1, 1]),
        transformers.Molmo2VideoProcessor(size=size),
        tokenizer,
        chat_template=template,
    )


RECIPES = {
    "molmo2": Recipe(
        image="<|image|>",
        video="<|video|>",
        marks=("<|image|>", "<|video|>", *MOLMO2_MARKS),
        config=_molmo2,
        processor=_molmo2_processor,
        named={"image_token": "<|image|>", "video_token": "<|video|>"},
    ),
}
