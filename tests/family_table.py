"""What each model family can do here: a check for every cell of the table in docs/models.md.

A cell of WHY_NOT is a ✗, with its reason; its check must fail. Every other cell's check must pass. The tests are
tests/unit/test_families.py and tests/vllm/test_families.py.
"""

from __future__ import annotations

import dataclasses
import functools
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seedbench_r1.backends.decoding import Completion, Prompt, decode
from seedbench_r1.backends.transformers import TransformersBackend
from seedbench_r1.models.any_processor import load_any_processor
from seedbench_r1.models.families import FAMILIES, GENERIC
from seedbench_r1.models.templates import opened_by_template
from seedbench_r1.types import Generation, Request, SamplingConfig, Thinking
from tests import tiny_generic, tiny_models

GREEDY = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=6, logprobs=True)

QWEN = tuple(family.model_type for family in FAMILIES)
TABLE = (*QWEN, *(family.model_type for family in GENERIC if family.model_type in tiny_generic.RECIPES))
NAMES = {
    "qwen2_vl": "Qwen2-VL",
    "qwen2_5_vl": "Qwen2.5-VL",
    "qwen3_vl": "Qwen3-VL",
    "qwen3_vl_moe": "Qwen3-VL-MoE",
    "qwen3_5": "Qwen3.5, 3.6, 3.8",
    "qwen3_5_moe": "Qwen3.5-MoE",
    "gemma3": "Gemma 3",
    "gemma4": "Gemma 4",
    "internvl": "InternVL3, 3.5 (-hf)",
    "glm4v": "GLM-4.1V",
    "glm4v_moe": "GLM-4.5V",
    "glm46v": "GLM-4.6V",
    "kimi_k25": "Kimi-K2.5",
    "lfm2_vl": "LFM2-VL",
    "llava_onevision": "LLaVA-OneVision",
    "minicpmv4_6": "MiniCPM-V 4.6",
    "molmo2": "Molmo2",
    "perception_lm": "PerceptionLM",
    "smolvlm": "SmolVLM2",
    "video_llama_3": "VideoLLaMA3",
}

_NOT_TRAINED = "trained are models whose positions and patches are made here"
WHY_NOT: dict[tuple[str, str], str] = {
    ("internvl", "times"): "its processor numbers the frames",
    ("llava_onevision", "times"): "its processor writes no times",
    ("qwen2_vl", "times"): "a patch knows its number only",
    ("minicpmv4_6", "times"): "its processor writes no times",
    ("perception_lm", "times"): "its processor writes no times",
    ("gemma3", "fixed"): "sliding windows",
    ("gemma4", "fixed"): "sliding windows",
    ("gemma4", "vllm"): "vLLM 0.32 comes with transformers 5.19, whose class fails at clips; 7e-6 apart from 5.23's",
    ("kimi_k25", "vllm"): "vLLM's engine does not start on the class of transformers; refused",
    ("lfm2_vl", "vllm"): "vLLM's CPU build rotates queries wrongly (1e-6 apart without its kernel); warned of",
    ("molmo2", "vllm"): "vLLM 0.32 comes with transformers 5.19, which lacks it",
    ("perception_lm", "vllm"): "not in vLLM's registry; refused",
    ("gemma3", "vllm"): "0.004 apart on vLLM's CPU build, where an image's tokens attend backwards only; warned of",
    ("llava_onevision", "vllm"): "vLLM's engine dies as soon as clips of different lengths meet; refused",
    ("video_llama_3", "vllm"): "vLLM's processor tells other times; refused",
} | {(name, column): _NOT_TRAINED for name in TABLE if name not in QWEN for column in ("sft", "rl", "rl_lora")}
# Where vLLM's CPU build has no float32 kernels
BFLOAT16 = {"qwen3_5", "qwen3_5_moe", "minicpmv4_6"}


def checkpoint(family: str) -> Path:
    return tiny_models.tiny_checkpoint(family) if family in QWEN else tiny_generic.generic_checkpoint(family)


@functools.cache
def backend(family: str) -> TransformersBackend:
    torch.set_num_threads(1)
    return TransformersBackend(str(checkpoint(family)), dtype="float32", device="cpu", batch_size=4)


def asked(family: str) -> list[Request]:
    """Prompts of four lengths, one without a clip."""
    shapes: list[dict[str, Any]] = [
        {},
        {"n_frames": 8, "seconds": 30.0},
        {"n_frames": 6, "cells": (3, 2)},
        {"n_frames": None},
    ]
    return [
        tiny_models.request(f"f/{place}", family, question="What next? " * (place + 1), **shape)
        for place, shape in enumerate(shapes)
    ]


def answers(opened: Any, requests: list[Request]) -> dict[str, Generation]:
    found = {}
    for name, result in opened.generate(iter(requests), GREEDY):
        assert isinstance(result, Generation), result
        found[name] = result
    return found


def first_logprobs(family: str, request: Request) -> torch.Tensor:
    """Of every token, after the prompt."""
    from seedbench_r1.backends.decoding import prefill_any

    opened = backend(family)
    prompt = Prompt("f", opened.processor.prepare(request))
    logits = prefill_any(opened.model, opened.processor, [prompt], 0)[0]
    return logits[0].log_softmax(-1)


def check_load(family: str) -> None:
    """A checkpoint of the real class is answered by, without a word of transformers about what will be removed."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        # Loaded here, and not taken from what another test has opened.
        (found,) = answers(backend.__wrapped__(family), asked(family)[:1]).values()
    assert found.n_tokens is not None
    assert 0 < found.n_tokens <= 6


def check_frames(family: str) -> None:
    """Each of our frames changes what comes next, and so does the current view; more frames are more tokens."""
    request = asked(family)[0]
    before = first_logprobs(family, request)
    assert request.frames is not None
    assert request.image is not None
    for place in range(len(request.frames)):
        frames = request.frames.copy()
        frames[place] = 255 - frames[place]
        assert (first_logprobs(family, dataclasses.replace(request, frames=frames)) - before).abs().max() > 1e-5, place
    turned = dataclasses.replace(request, image=255 - request.image)
    assert (first_logprobs(family, turned) - before).abs().max() > 1e-5
    few, many = (
        len(backend(family).processor.prepare(tiny_models.request("f", family, n_frames=n)).input_ids) for n in (4, 8)
    )
    assert few < many


def check_times(family: str) -> None:
    """The same frames at other times are another prompt, or stand at other positions."""
    near, far = (
        backend(family).processor.prepare(
            dataclasses.replace(asked(family)[0], frame_indices=places, n_total=places[-1] + 1)
        )
        for places in ((0, 20, 40, 60), (0, 200, 400, 600))
    )
    other_text = not torch.equal(near.input_ids, far.input_ids)
    positions = [getattr(inputs, "positions", torch.zeros(1)) for inputs in (near, far)]
    assert other_text or not torch.equal(*positions)


def check_batch(family: str) -> None:
    """Neighbours change nothing: tokens, and log-probabilities but for rounding."""
    together, alone = answers(backend(family), asked(family)), {}
    for request in asked(family):
        alone |= answers(backend(family), [request])
    for name, one in alone.items():
        assert together[name].token_ids == one.token_ids
        gap = np.subtract(together[name].logprobs, one.logprobs)
        assert np.abs(gap).max() < 1e-4


def check_fixed(family: str) -> None:
    """A cache of fixed shapes, as CUDA graphs take it, draws the same tokens."""
    opened = backend(family)
    prompts = [Prompt(request.question_id, opened.processor.prepare(request)) for request in asked(family)]

    def drawn(kind: Any) -> dict[str, list[int]]:
        found: list[Completion] = list(decode(opened.model, opened.processor, prompts, GREEDY, cache=kind))
        return {completion.question_id: completion.token_ids for completion in found}

    assert drawn("static") == drawn("dynamic")


def check_thinking(family: str) -> None:
    """What a template opens in the assistant's turn is found, and one that listens is told to think or not to."""
    processor: Any = load_any_processor(str(checkpoint(family)))
    renderer = getattr(processor, "renderer", None) or processor.processor
    template = getattr(processor, "chat_template", None) or renderer.chat_template
    assert opened_by_template(renderer, template) == ""
    thinking = template + "{%- if add_generation_prompt -%}{{ '<think>\\n' }}{%- endif -%}"
    assert opened_by_template(renderer, thinking) == "<think>\n"
    told = template + (
        "{%- if add_generation_prompt and enable_thinking is defined -%}"
        "{{ '<think>\\n' if enable_thinking else '<think>\\n\\n</think>\\n\\n' }}{%- endif -%}"
    )
    ways: tuple[Thinking, ...] = ("auto", "on", "off")
    assert [opened_by_template(renderer, told, way) for way in ways] == ["", "<think>\n", ""]


def check_lora(family: str) -> None:
    """An adapter of peft on the language model, merged by us, gives the logits of peft."""
    import peft
    import transformers

    folder = checkpoint(family)
    base = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(0)
    # Not the vision tower's, which in Gemma 4 are wrapped in what peft does not take.
    targets = r"(?!.*(vision|visual)).*\.(q_proj|v_proj|o_proj|att_proj)"
    options = peft.LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
    wrapped = peft.get_peft_model(base, options).eval()
    request = asked(family)[0]
    with tempfile.TemporaryDirectory() as name:
        adapter, copy = Path(name) / "adapter", Path(name) / "merged"
        wrapped.save_pretrained(adapter)
        opened = TransformersBackend(str(adapter), base_model=str(folder), dtype="float32", device="cpu")
        found = answers(opened, [request])[request.question_id]
        shutil.copytree(folder, copy)
        wrapped.merge_and_unload().save_pretrained(copy)
        opened = TransformersBackend(str(copy), dtype="float32", device="cpu")
        expected = answers(opened, [request])[request.question_id]
    assert found.token_ids == expected.token_ids
    assert found.logprobs is not None
    assert expected.logprobs is not None
    assert np.abs(np.subtract(found.logprobs, expected.logprobs)).max() < 1e-4
    plain = answers(backend(family), [request])[request.question_id]
    assert plain.logprobs != found.logprobs


def check_sft(family: str) -> None:
    """A step of supervised fine-tuning."""
    _train(family, "sft", max_completion_length=64)


def check_rl(family: str) -> None:
    """A step of CARE, the group's prompt computed once; tests/trainers/test_shared_prefix.py compares its numbers."""
    _train(family, "care", num_generations=2, max_completion_length=8)


def check_rl_lora(family: str) -> None:
    """The same with adapters on the language model."""
    _train(family, "care", num_generations=2, max_completion_length=8, lora=True)


def _train(family: str, algo: str, **options: Any) -> None:
    from tests.trainers.toy import plan_and_train, toy_config, write_toy

    with tempfile.TemporaryDirectory() as name:
        data = write_toy(Path(name) / "data", {"A": "<think>so A</think><answer>A</answer>"})
        changes = {"max_steps": 1, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1} | options
        multiple = tiny_models.size_multiple(family)
        changes |= {"image_min_pixels": multiple**2, "image_max_pixels": 4 * multiple**2}
        result = plan_and_train(toy_config(checkpoint(family), data, Path(name) / "out", algo, **changes))
        assert result.checkpoint is not None
        base = {"base_model": str(checkpoint(family))} if options.get("lora") else {}
        trained = TransformersBackend(str(result.checkpoint), dtype="float32", device="cpu", **base)
        assert answers(trained, asked(family)[:1])


COLUMNS: dict[str, tuple[str, Callable[[str], None] | None]] = {
    "load": ("loads, answers", check_load),
    "frames": ("our frames, each", check_frames),
    "times": ("times reach the model", check_times),
    "batch": ("batch = single", check_batch),
    "fixed": ("fixed cache (CUDA graphs)", check_fixed),
    "vllm": ("vLLM: same tokens and log-probabilities", None),
    "thinking": ("thinking template", check_thinking),
    "lora": ("LoRA, merged", check_lora),
    "sft": ("SFT", check_sft),
    "rl": ("GRPO, CARE, shared prefix", check_rl),
    "rl_lora": ("the same with LoRA", check_rl_lora),
}


DOCUMENT = Path(__file__).parents[1] / "docs" / "models.md"
MARK = "<!-- families: python -m tests.docs_tables -->\n"


def document() -> str:
    """docs/models.md, as it should be."""
    return DOCUMENT.read_text(encoding="utf-8").partition(MARK)[0] + MARK + "\n" + markdown()


def markdown() -> str:
    """The table, and what its ✗ mean."""
    heads = [head for head, _ in COLUMNS.values()]
    lines = ["| family | `model_type` | frames sized by | " + " | ".join(heads) + " |", "|---" * (3 + len(heads)) + "|"]
    reasons: list[str] = []
    sized = dict.fromkeys(QWEN, "ours") | {family.model_type: family.preprocess for family in GENERIC}
    words = {"ours": "us", "processor": "its processor", "images": "its processor, as images"}
    for family in TABLE:
        cells = []
        for column in COLUMNS:
            why = WHY_NOT.get((family, column))
            if why is not None and why not in reasons:
                reasons.append(why)
            mark = "✓ (bfloat16)" if column == "vllm" and family in BFLOAT16 else "✓"
            cells.append(mark if why is None else f"✗ {reasons.index(why) + 1}")
        lines.append(f"| {NAMES[family]} | `{family}` | {words[sized[family]]} | " + " | ".join(cells) + " |")
    lines += ["", *(f"{place}. {why}" for place, why in enumerate(reasons, start=1))]
    return "\n".join(lines) + "\n"
