"""LLaVA-OneVision."""

from __future__ import annotations

from typing import Any

import transformers

from tests.tiny_families.recipe import CLIP, QWEN, SIGLIP, Recipe, siglip

PINPOINTS = [[56, 56], [56, 112], [112, 56], [112, 112]]


def _llava(vocabulary: int, ids: dict[str, int]) -> Any:
    return transformers.LlavaOnevisionConfig(
        text_config=QWEN | {"model_type": "qwen2", "vocab_size": vocabulary},
        vision_config=siglip("siglip_vision_model", 56, vision_use_head=False),
        image_token_index=ids["<image>"],
        video_token_index=ids["<video>"],
        image_grid_pinpoints=PINPOINTS,
    )


def _llava_processor(tokenizer: Any, template: str) -> Any:
    size = {"height": 56, "width": 56}
    return transformers.LlavaOnevisionProcessor(
        transformers.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=PINPOINTS, **CLIP),
        tokenizer,
        transformers.LlavaOnevisionVideoProcessor(size=size, **CLIP),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=template,
    )


RECIPES = {
    "llava_onevision": Recipe(
        image="<image>",
        video="<video>",
        marks=("<image>", "<video>"),
        config=_llava,
        released=SIGLIP,
        processor=_llava_processor,
        named={"image_token": "<image>", "video_token": "<video>"},
    ),
}
