"""GLM-4.1V, 4.5V and 4.6V."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers

from tests.tiny_families.recipe import CLIP, HIDDEN, QWEN, Recipe

GLM_MARKS = tuple(
    f"<|{word}|>" for word in ("image", "video", "begin_of_image", "end_of_image", "begin_of_video", "end_of_video")
)


def _glm(name: str) -> Callable[[int, dict[str, int]], Any]:
    def config(vocabulary: int, ids: dict[str, int]) -> Any:
        vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": HIDDEN}
        vision |= {"image_size": 112, "patch_size": 14, "initializer_range": 0.1}
        rope = {
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "mrope_section": [8, 4, 4],
            "partial_rotary_factor": 1.0,
        }
        text = QWEN | {"vocab_size": vocabulary, "rope_parameters": rope, "pad_token_id": ids["<|endoftext|>"]}
        if name == "glm4v_moe":
            text |= {"head_dim": 32, "moe_intermediate_size": 64, "n_routed_experts": 4, "num_experts_per_tok": 2}
            text |= {"use_qk_norm": False}  # vLLM reads it, as GLM-4.5V's config.json has it
        return transformers.AutoConfig.for_model(
            name,
            text_config=text,
            vision_config=vision,
            image_token_id=ids["<|image|>"],
            video_token_id=ids["<|video|>"],
            image_start_token_id=ids["<|begin_of_image|>"],
            image_end_token_id=ids["<|end_of_image|>"],
            video_start_token_id=ids["<|begin_of_video|>"],
            video_end_token_id=ids["<|end_of_video|>"],
        )

    return config


def _glm_processor(image: str, video: str, processor: str) -> Callable[[Any, str], Any]:
    def make(tokenizer: Any, template: str) -> Any:
        sizes = {"shortest_edge": 112 * 112, "longest_edge": 28 * 28 * 2 * 3000}
        parts = (
            getattr(transformers, image)(size=sizes, **CLIP),
            tokenizer,
            getattr(transformers, video)(size=sizes, **CLIP),
        )
        return getattr(transformers, processor)(*parts, chat_template=template)

    return make


RECIPES = {
    "glm4v": Recipe(
        image="<|begin_of_image|><|image|><|end_of_image|>",
        video="<|begin_of_video|><|video|><|end_of_video|>",
        marks=GLM_MARKS,
        config=_glm("glm4v"),
        processor=_glm_processor("Glm4vImageProcessor", "Glm4vVideoProcessor", "Glm4vProcessor"),
    ),
    "glm4v_moe": Recipe(
        image="<|begin_of_image|><|image|><|end_of_image|>",
        video="<|begin_of_video|><|video|><|end_of_video|>",
        marks=GLM_MARKS,
        config=_glm("glm4v_moe"),
        processor=_glm_processor("Glm4vImageProcessor", "Glm4vVideoProcessor", "Glm4vProcessor"),
    ),
    "glm46v": Recipe(
        image="<|begin_of_image|><|image|><|end_of_image|>",
        video="<|begin_of_video|><|video|><|end_of_video|>",
        marks=GLM_MARKS,
        config=_glm("glm46v"),
        processor=_glm_processor("Glm46VImageProcessor", "Glm46VVideoProcessor", "Glm46VProcessor"),
    ),
}
