"""SmolVLM."""

from __future__ import annotations

from typing import Any

import transformers

from tests.tiny_families.recipe import QWEN, Recipe, siglip

SMOLVLM_MARKS = ("<image>", "<video>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
SMOLVLM_MARKS += tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))


def _smolvlm(vocabulary: int, ids: dict[str, int]) -> Any:
    text = QWEN | {"model_type": "llama", "vocab_size": vocabulary, "pad_token_id": ids["<|endoftext|>"]}
    return transformers.SmolVLMConfig(
        text_config=text,
        vision_config=siglip("smolvlm_vision", 56) | {"initializer_range": 0.1},
        image_token_id=ids["<image>"],
        scale_factor=2,
        pad_token_id=ids["<|endoftext|>"],
    )


def _smolvlm_processor(tokenizer: Any, template: str) -> Any:
    sizes = {"size": {"longest_edge": 112}, "max_image_size": {"longest_edge": 56}}
    return transformers.SmolVLMProcessor(
        transformers.SmolVLMImageProcessor(**sizes),
        tokenizer,
        transformers.SmolVLMVideoProcessor(**sizes),
        image_seq_len=4,
        chat_template=template,
    )


RECIPES = {
    "smolvlm": Recipe(
        image="<image>",
        video="<video>",
        marks=SMOLVLM_MARKS,
        config=_smolvlm,
        processor=_smolvlm_processor,
        named={"image_token": "<image>", "video_token": "<video>"},
    ),
}
