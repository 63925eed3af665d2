"""Stage: decoding from a cache of fixed shape, whose step is a recorded CUDA graph, against a growing one."""

from __future__ import annotations

from typing import Any

import torch

from seedbench_r1.backends.caches import DecodeCache
from seedbench_r1.backends.decoding import Completion, Prompt, decode
from seedbench_r1.backends.vision import prepare_vision_tower
from seedbench_r1.models.qwen_vl import ModelInputs
from seedbench_r1.types import SamplingConfig
from tests.gpu import shapes
from tests.gpu.measuring import device_peaks, now
from tests.gpu.random_policy import MEDIA, PROMPT, processor
from tests.gpu.stage_process import Place

GROUP = 8


def decoding(place: Place) -> None:
    """The same tokens in float32, and the speed of both at real size."""
    same_tokens(place)
    speed(place)


def same_tokens(place: Place) -> None:
    """Two prompts of unlike lengths, float32: every token and its log-probability, greedy and drawn."""
    model = evaluated("smoke" if place.smoke else "small", place.device, torch.float32)
    prompts = [shapes.prompt(60), shapes.prompt(75, shapes.MEDIA[60])]
    for kind, temperature in (("greedy", 0.0), ("drawn", 1.0)):
        sampling = SamplingConfig(temperature=temperature, top_p=1.0, max_new_tokens=48, n=3, seed=5, logprobs=True)
        growing, fixed = (decoded(model, prompts, sampling, cache) for cache in ("dynamic", "static"))
        pairs = [(growing[key], fixed[key]) for key in growing]
        equal = sum(one.token_ids == other.token_ids for one, other in pairs)
        gap = (
            max(
                abs(a - b)
                for one, other in pairs
                if one.token_ids == other.token_ids
                for a, b in zip(one.logprobs, other.logprobs, strict=True)
            )
            if equal
            else None
        )
        place.note(**{f"{kind} in float32": {"rows": len(pairs), "equal": equal, "largest_logprob_gap": gap}})
        place.check(equal == len(pairs), f"{kind}: {len(pairs) - equal} of {len(pairs)} rows differ between the caches")
        place.check(gap is None or gap <= 1e-3, f"{kind}: log-probabilities of the caches differ by {gap}")


def speed(place: Place) -> None:
    """Milliseconds a token, by two lengths, so that the prefill and the recording fall out; and share of bandwidth."""
    name = "smoke" if place.smoke else "3b"
    short, long = (3, 6) if place.smoke else (64, 192)
    model = evaluated(name, place.device, torch.bfloat16)
    inputs = shapes.prompt(60) if place.smoke else shapes.prompt(PROMPT, MEDIA)
    peaks = device_peaks(place.device, shapes.PEAKS)
    kinds: tuple[DecodeCache, ...] = ("static", "dynamic")
    for rows in (2, 4) if place.smoke else (GROUP, 4 * GROUP):
        tokens: dict[str, list[tuple[int, ...]]] = {}
        for cache in kinds:
            took = []
            for length in (short, short, long):  # the first is a warm-up
                sampling = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=length, n=rows)
                began = now(place.device)
                done = decoded(model, [inputs], sampling, cache)
                took.append(now(place.device) - began)
            token_s = (took[2] - took[1]) / (long - short)
            tokens[cache] = [tuple(one.token_ids) for one in done.values()]
            row = {
                "ms_per_token": round(1e3 * token_s, 3),
                "tokens_per_s": round(rows / token_s, 1),
                "fixed_cost_s": round(took[1] - short * token_s, 3),  # prefill; of a static cache also the recording
            }
            if peaks:
                moved = bytes_per_token(model, rows, len(inputs.input_ids) + (short + long) / 2)
                row["share_of_bandwidth"] = round(moved / token_s / peaks[1], 3)
            place.note(**{f"{name} bfloat16, {rows} rows, {cache}": row})
        agreed = sum(
            a == b for one, other in zip(*tokens.values(), strict=True) for a, b in zip(one, other, strict=True)
        )
        # In bfloat16 random weights have near ties, after which rows go their own ways: told, not required.
        place.note(**{f"{rows} rows: share of equal greedy tokens": round(agreed / (rows * long), 4)})


def evaluated(name: str, device: torch.device, dtype: torch.dtype) -> Any:
    """A model of random weights as load_model would give it."""
    torch.manual_seed(0)
    model: Any = shapes.build(name, device, dtype)
    model.gradient_checkpointing_disable()
    prepare_vision_tower(model)
    return model.eval()


def decoded(
    model: Any, inputs: list[ModelInputs], sampling: SamplingConfig, cache: DecodeCache
) -> dict[tuple[str, int], Completion]:
    """(prompt, row) -> its completion. Nothing ends one early."""
    prompts = [Prompt(f"prompt {number}", one) for number, one in enumerate(inputs)]
    found = decode(model, processor(ends=False), prompts, sampling, cache=cache)
    return {(one.question_id, one.k): one for one in sorted(found, key=lambda one: (one.question_id, one.k))}


def bytes_per_token(model: Any, rows: int, cached: float) -> float:
    """Read for one token of all rows: decoder layers, output layer, and `cached` columns of keys and values."""
    config = model.config.get_text_config()
    weights = sum(p.numel() for p in model.model.language_model.layers.parameters()) + model.lm_head.weight.numel()
    width = config.hidden_size // config.num_attention_heads * config.num_key_value_heads
    return 2 * (weights + rows * cached * 2 * config.num_hidden_layers * width)
