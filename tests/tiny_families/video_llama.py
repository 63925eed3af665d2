"""VideoLLaMA3."""

from __future__ import annotations

from typing import Any

import transformers

from tests.tiny_families.recipe import CLIP, QWEN, Recipe, siglip


def _video_llama(vocabulary: int, ids: dict[str, int]) -> Any:
    return transformers.VideoLlama3Config(
        text_config=QWEN | {"model_type": "qwen2", "vocab_size": vocabulary},
        vision_config=siglip("video_llama_3_vision", 0) | {"initializer_range": 0.1},
        image_token_id=ids["<image>"],
        video_token_id=ids["<video>"],
    )


def _video_llama_processor(tokenizer: Any, template: str) -> Any:
    return transformers.VideoLlama3Processor(
        transformers.VideoLlama3ImageProcessor(**CLIP),
        tokenizer,
        transformers.VideoLlama3VideoProcessor(**CLIP),
        template,
    )


RECIPES = {
    "video_llama_3": Recipe(
        image="<image>",
        video="<video>",
        marks=("<image>", "<video>"),
        config=_video_llama,
        processor=_video_llama_processor,
        named={"image_token": "<image>", "video_token": "<video>"},
    ),
}
