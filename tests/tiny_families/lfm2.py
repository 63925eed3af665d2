"""LFM2-VL."""

from __future__ import annotations

from typing import Any

import transformers

from tests.tiny_families.recipe import HIDDEN, QWEN, SIGLIP, Recipe, siglip

LFM2_MARKS = ("<|image_start|>", "<|image_end|>", "<|img_thumbnail|>")
LFM2_MARKS += tuple(f"<|img_row_{row}_col_{column}|>" for row in range(1, 11) for column in range(1, 11))


def _lfm2_vl(vocabulary: int, ids: dict[str, int]) -> Any:
    text = QWEN | {"model_type": "lfm2", "vocab_size": vocabulary, "block_auto_adjust_ff_dim": False}
    text |= {"layer_types": ["conv", "full_attention"], "pad_token_id": ids["<|endoftext|>"]}
    text |= {"conv_dim": HIDDEN, "block_dim": HIDDEN}  # vLLM reads them, as released configs have them
    vision = siglip("siglip2_vision_model", 0, vision_use_head=False) | {"patch_size": 16, "num_patches": 64}
    del vision["image_size"]
    return transformers.Lfm2VlConfig(
        text_config=text, vision_config=vision, image_token_id=ids["<image>"], projector_hidden_size=64
    )


def _lfm2_vl_processor(tokenizer: Any, template: str) -> Any:
    sizes = {"min_image_tokens": 4, "max_image_tokens": 16, "tile_size": 128}
    return transformers.Lfm2VlProcessor(transformers.Lfm2VlImageProcessor(**sizes), tokenizer, chat_template=template)


RECIPES = {
    "lfm2_vl": Recipe(
        image="<image>",
        video="",
        marks=("<image>", *LFM2_MARKS),
        config=_lfm2_vl,
        released=SIGLIP,
        tied=True,
        processor=_lfm2_vl_processor,
        named={"image_token": "<image>"},
    ),
}
