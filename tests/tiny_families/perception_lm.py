"""PerceptionLM."""

from __future__ import annotations

from typing import Any

import transformers

from tests.tiny_families.recipe import QWEN, Recipe


def _perception_lm(vocabulary: int, ids: dict[str, int]) -> Any:
    # timm's class with rotary positions and without a class token, as released
    arguments = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": [56, 56], "patch_size": 14}
    arguments |= {"ref_feat_shape": [4, 4], "global_pool": "", "use_post_transformer_norm": False, "init_values": 0.1}
    vision = {"model_type": "timm_wrapper", "architecture": "vit_pe_core_tiny_patch16_384", "model_args": arguments}
    return transformers.PerceptionLMConfig(
        text_config=QWEN | {"model_type": "llama", "vocab_size": vocabulary},
        vision_config=vision | {"initializer_range": 0.1},
        vision_use_cls_token=True,
        projector_pooling_ratio=2,
        image_token_id=ids["<|image|>"],
        video_token_id=ids["<|video|>"],
    )


def _perception_lm_processor(tokenizer: Any, template: str) -> Any:
    return transformers.PerceptionLMProcessor(
        transformers.PerceptionLMVideoProcessor(size={"height": 56, "width": 56}),
        transformers.PerceptionLMImageProcessor(tile_size=56, max_num_tiles=4, vision_input_type="thumb+tile"),
        tokenizer,
        patch_size=14,
        pooling_ratio=2,
        chat_template=template,
    )


RECIPES = {
    "perception_lm": Recipe(
        image="<|image|>",
        video="<|video|>",
        marks=("<|image|>", "<|video|>"),
        config=_perception_lm,
        processor=_perception_lm_processor,
        needs="timm",
        named={"image_token": "<|image|>", "video_token": "<|video|>"},
    ),
}
