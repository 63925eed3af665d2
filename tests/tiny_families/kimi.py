"""Kimi-K2.5."""

from __future__ import annotations

from typing import Any

import transformers

from tests.tiny_families.recipe import HEADS, QWEN, Recipe


def _kimi(vocabulary: int, ids: dict[str, int]) -> Any:
    text = QWEN | {"model_type": "deepseek_v3", "vocab_size": vocabulary, "num_key_value_heads": HEADS}
    text |= {"q_lora_rank": 32, "kv_lora_rank": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 32}
    text |= {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
    text |= {"moe_intermediate_size": 64, "first_k_dense_replace": 1, "num_mtp_layers": 0}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"pos_emb_height": 8, "pos_emb_width": 8, "initializer_range": 0.1}
    return transformers.AutoConfig.for_model(
        "kimi_k25",
        text_config=text,
        vision_config=vision,
        projection_hidden_size=32,
        image_token_id=ids["<|media_pad|>"],
        video_token_id=ids["<|kimi_k25_video_placeholder|>"],
        vision_start_token_id=ids["<|media_begin|>"],
        vision_end_token_id=ids["<|media_end|>"],
        initializer_range=0.1,
    )


def _kimi_processor(tokenizer: Any, template: str) -> Any:
    return transformers.Kimi_K25Processor(
        transformers.Kimi_K25ImageProcessor(),
        tokenizer,
        transformers.Kimi_K25VideoProcessor(),
        chat_template=template,
    )


RECIPES = {
    "kimi_k25": Recipe(
        image="<|media_begin|>image<|media_content|><|media_pad|><|media_end|>",
        video="<|kimi_k25_video_placeholder|>",
        marks=(
            "<|media_begin|>",
            "<|media_content|>",
            "<|media_pad|>",
            "<|media_end|>",
            "<|kimi_k25_video_placeholder|>",
        ),
        config=_kimi,
        processor=_kimi_processor,
    ),
}
