"""InternVL."""

from __future__ import annotations

from typing import Any

import transformers

from tests.tiny_families.recipe import CLIP, QWEN, Recipe


def _internvl(vocabulary: int, ids: dict[str, int]) -> Any:
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": [56, 56], "patch_size": [14, 14]}
    text = QWEN | {"model_type": "qwen2", "vocab_size": vocabulary}
    return transformers.InternVLConfig(
        text_config=text, vision_config=vision, image_token_id=ids["<IMG_CONTEXT>"], image_seq_length=4
    )


def _internvl_processor(tokenizer: Any, template: str) -> Any:
    size = {"height": 56, "width": 56}
    return transformers.InternVLProcessor(
        transformers.GotOcr2ImageProcessor(size=size, crop_to_patches=True, min_patches=1, max_patches=2, **CLIP),
        tokenizer,
        transformers.InternVLVideoProcessor(size=size, **CLIP),
        image_seq_length=4,
        chat_template=template,
    )


RECIPES = {
    "internvl": Recipe(
        image="<IMG_CONTEXT>",
        video="<video>",
        marks=("<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
        config=_internvl,
        processor=_internvl_processor,
        named={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    ),
}
