"""Tiny random checkpoints of the families of Qwen-VL's kind, and requests that fit them."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from seedbench_r1.demo.tiny_model import FAMILIES, TinySize, write_tiny_checkpoint
from seedbench_r1.models.qwen_vl import ModelInputs, VisionLayout, normalise_patches
from seedbench_r1.types import Request

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["FAMILIES", "make_tiny", "request", "size_multiple", "tiny_checkpoint", "vision_tensors"]

WORDS = "What should be done next? wash the pan, cut the bread, open the fridge. The answer is here."


def make_tiny(folder: Path, family: str, *, context: int = 4096) -> Path:
    """A checkpoint whose weights are large enough that pixels and positions change its tokens.

    Its generation_config.json holds the sampling values that Qwen2.5-VL ships: whoever leaves an option open gets them.
    """
    size = TinySize(context=context, initializer_range=0.1)
    # Seeds whose greedy answers do not end soon
    seed = {"qwen3_5": 3, "qwen3_5_moe": 20}.get(family, 1)
    write_tiny_checkpoint(folder, family=family, vocabulary_texts=[WORDS], seed=seed, size=size)
    shipped = json.loads((folder / "generation_config.json").read_text())
    shipped |= {"do_sample": True, "temperature": 1e-6, "top_k": 1, "top_p": 0.95, "repetition_penalty": 1.05}
    (folder / "generation_config.json").write_text(json.dumps(shipped))
    return folder


@functools.cache
def _holder(make: Callable[[Path, str], Path], family: str) -> tempfile.TemporaryDirectory[str]:
    holder = tempfile.TemporaryDirectory(prefix="tiny-")  # removed when the interpreter ends
    make(Path(holder.name), family)
    return holder


def made_once(make: Callable[[Path, str], Path], family: str) -> Path:
    """The folder that `make` has filled for a family, once per test run."""
    return Path(_holder(make, family).name)


def tiny_checkpoint(family: str) -> Path:
    """The folder of this family's checkpoint, made once per test run."""
    return made_once(make_tiny, family)


def size_multiple(family: str) -> int:
    return 32 if family.startswith("qwen3") else 28


def request(
    name: str,
    family: str = "qwen2_5_vl",
    *,
    n_frames: int | None = 4,
    cells: tuple[int, int] = (2, 3),
    seconds: float = 2.0,
    question: str = "What should be done next?",
) -> Request:
    """A question about noise; `cells` is (height, width) in vision tokens. Equal names have equal pixels."""
    noise = np.random.default_rng(list(name.encode()))
    height, width = (side * size_multiple(family) for side in cells)
    image = noise.integers(0, 256, (height, width, 3), dtype=np.uint8)
    parts = [{"type": "image"}, {"type": "text", "text": question}]
    if n_frames is None:
        return Request(name, ({"role": "user", "content": parts},), None, (), None, None, image)
    frames = noise.integers(0, 256, (n_frames, height, width, 3), dtype=np.uint8)
    n_total = round(30 * seconds)
    indices = tuple(int(place) for place in np.linspace(0, n_total - 1, n_frames).round())
    messages = ({"role": "user", "content": [{"type": "video"}, *parts]},)
    return Request(name, messages, frames, indices, 30.0, n_total, image)


def vision_tensors(
    model: PreTrainedModel, layout: VisionLayout, prompts: Sequence[ModelInputs]
) -> dict[str, torch.Tensor]:
    """All images and clips of a batch as transformers takes them: apart, each kind a call of the vision tower."""
    tensors: dict[str, torch.Tensor] = {}
    images = [(prompt.image_patches, prompt.image_grid) for prompt in prompts if prompt.image_patches is not None]
    videos = [(prompt.video_patches, prompt.video_grid) for prompt in prompts if prompt.video_patches is not None]
    if images:
        patches = torch.cat([patches for patches, _ in images]).to(model.device)
        tensors["pixel_values"] = normalise_patches(patches, layout.image_mean, layout.image_std, model.dtype)
        tensors["image_grid_thw"] = torch.tensor([grid for _, grid in images], device=model.device)
    if videos:
        patches = torch.cat([patches for patches, _ in videos]).to(model.device)
        tensors["pixel_values_videos"] = normalise_patches(patches, layout.video_mean, layout.video_std, model.dtype)
        tensors["video_grid_thw"] = torch.tensor([grid for _, grid in videos], device=model.device)
    return tensors
