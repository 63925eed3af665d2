"""Gemma 3 and 4."""

from __future__ import annotations

from typing import Any

import transformers

from tests.tiny_families.recipe import QWEN, SIGLIP, Recipe, siglip


def _gemma3(vocabulary: int, ids: dict[str, int]) -> Any:
    text = QWEN | {"vocab_size": vocabulary, "head_dim": 32, "sliding_window": 48, "query_pre_attn_scalar": 32}
    text |= {"layer_types": ["sliding_attention", "full_attention"]}
    return transformers.Gemma3Config(
        text_config=text,
        vision_config=siglip("siglip_vision_model", 56, vision_use_head=False),
        mm_tokens_per_image=4,
        boi_token_index=ids["<start_of_image>"],
        eoi_token_index=ids["<end_of_image>"],
        image_token_index=ids["<image_soft_token>"],
    )


def _gemma3_processor(tokenizer: Any, template: str) -> Any:
    image = transformers.Gemma3ImageProcessor(size={"height": 56, "width": 56})
    return transformers.Gemma3Processor(image, tokenizer, chat_template=template, image_seq_length=4)


def _gemma4(vocabulary: int, ids: dict[str, int]) -> Any:
    # As in E2B: of five layers the last two read the keys of earlier ones, and tokens have inputs for each layer.
    text = QWEN | {"vocab_size": vocabulary, "vocab_size_per_layer_input": vocabulary, "num_hidden_layers": 5}
    text |= {"head_dim": 32, "global_head_dim": 64, "sliding_window": 48, "hidden_size_per_layer_input": 16}
    text |= {"layer_types": [f"{kind}_attention" for kind in ("sliding", "full", "sliding", "sliding", "full")]}
    text |= {"num_kv_shared_layers": 2, "use_double_wide_mlp": True, "pad_token_id": ids["<|endoftext|>"]}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"num_key_value_heads": 2, "head_dim": 16, "position_embedding_size": 256, "initializer_range": 0.1}
    # vLLM reads default_output_length, tokens of an image, as released configs have it
    return transformers.Gemma4Config(
        text_config=text,
        vision_config=vision | {"default_output_length": 70},
        boi_token_id=ids["<|image>"],
        eoi_token_id=ids["<image|>"],
        image_token_id=ids["<|image|>"],
        video_token_id=ids["<|video|>"],
        audio_token_id=ids["<|audio|>"],
        boa_token_id=ids["<|audio>"],
        eoa_token_index=ids["<audio|>"],
        initializer_range=0.1,
    )


def _gemma4_processor(tokenizer: Any, template: str) -> Any:
    return transformers.Gemma4Processor(
        transformers.Gemma4AudioFeatureExtractor(),
        transformers.Gemma4ImageProcessor(max_soft_tokens=70),
        tokenizer,
        transformers.Gemma4VideoProcessor(),
        chat_template=template,
    )


RECIPES = {
    "gemma3": Recipe(
        image="<start_of_image>",
        video="",
        # vLLM takes runs of line breaks for tokens of their own, which they are in Gemma's vocabulary.
        marks=("<start_of_image>", "<end_of_image>", "<image_soft_token>", *("\n" * n for n in range(1, 5))),
        config=_gemma3,
        released=SIGLIP,
        processor=_gemma3_processor,
        named={
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
    ),
    "gemma4": Recipe(
        image="<|image|>",
        video="<|video|>",
        marks=("<|image|>", "<|video|>", "<|audio|>", "<|image>", "<image|>", "<|audio>", "<audio|>"),
        config=_gemma4,
        processor=_gemma4_processor,
        named={
            "image_token": "<|image|>",
            "boi_token": "<|image>",
            "eoi_token": "<image|>",
            "audio_token": "<|audio|>",
            "boa_token": "<|audio>",
            "eoa_token": "<audio|>",
        },
    ),
}
