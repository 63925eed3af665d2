"""Stage: the evaluation's backend at real size: prompts of clip and image through a 3B of random weights."""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch

from seedbench_r1.backends.transformers import TransformersBackend
from seedbench_r1.models.qwen_vl import load_processor
from seedbench_r1.types import Generation, SamplingConfig
from tests.gpu.decoding import evaluated
from tests.gpu.measuring import GB, seconds
from tests.gpu.stage_process import Place
from tests.tiny_models import make_tiny, request


def evaluation(place: Place) -> None:
    """Answers of exactly so many tokens to a batch of questions, greedily, after a warm-up of two."""
    folder = place.folder / "model"
    make_tiny(folder, "qwen2_5_vl")
    model = evaluated("smoke" if place.smoke else "3b", place.device, torch.bfloat16)
    processor = load_processor(str(folder))
    # The prompts are of the tiny tokenizer.
    model.config.image_token_id, model.config.video_token_id = (
        processor.layout.image_token_id,
        processor.layout.video_token_id,
    )
    with mock.patch("seedbench_r1.backends.transformers.load_model", return_value=(model, processor)):
        backend = TransformersBackend("random", device=str(place.device), batch_size=8)
    frames, cells, count = (4, (2, 3), 3) if place.smoke else (16, (11, 12), 16)
    asked = [request(f"L1/{number}", n_frames=frames, cells=cells, seconds=20.0) for number in range(count)]
    sampling = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=8 if place.smoke else 128)
    results: list[Any] = []
    list(backend.generate(iter(asked[:2]), sampling))
    took = seconds(place.device, lambda: results.extend(backend.generate(iter(asked), sampling)))
    if place.device.type == "cuda":
        place.note(peak_gb=round(torch.cuda.max_memory_allocated(place.device) / GB, 2))
    answers = [answer for _, answer in results]
    failed = [str(answer) for answer in answers if not isinstance(answer, Generation)]
    place.check(len(answers) == count and not failed, f"{len(failed)} of {len(answers)} failed: {failed[:1]}")
    tokens = sum(answer.n_tokens for answer in answers if isinstance(answer, Generation))
    place.note(questions=count, seconds=round(took, 2), tokens=tokens, tokens_per_s=round(tokens / took, 1))
