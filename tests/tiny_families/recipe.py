"""What the recipes of tiny checkpoints have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

HIDDEN, HEADS, LAYERS = 64, 2, 2
CLIP = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
QWEN = {"hidden_size": HIDDEN, "intermediate_size": 128, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
QWEN |= {"num_key_value_heads": 1, "max_position_embeddings": 8192, "initializer_range": 0.1}
# Where a vision tower of SigLIP's has its weights in released checkpoints
SIGLIP = ("vision_tower.", "vision_tower.vision_model.")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a family's checkpoint is made."""

    image: str  # what its chat template writes for an image, and for a clip
    video: str
    marks: tuple[str, ...]  # further special tokens of its tokenizer
    config: Callable[[int, dict[str, int]], Any]  # from the size of the vocabulary and the special tokens' ids
    processor: Callable[[Any, str], Any]  # from tokenizer and chat template
    named: dict[str, str] = field(default_factory=dict)  # attributes of the tokenizer that the processor reads
    # Weights whose names begin otherwise in released checkpoints than save_pretrained writes them, as vLLM wants them
    released: tuple[str, str] | None = None
    tied: bool = False  # the output layer is the embedding, which vLLM takes for granted
    needs: str | None = None  # a package that transformers wants for it


def siglip(name: str, size: int, **more: Any) -> dict[str, Any]:
    """A small vision tower of SigLIP's kind."""
    return {
        "model_type": name,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": size,
        "patch_size": 14,
    } | more
