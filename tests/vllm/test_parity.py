"""vLLM and the transformers backend, both real and in float32, give the same tokens and log-probabilities."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch

from seedbench_r1.types import Generation, SamplingConfig
from tests.tiny_models import FAMILIES, request, tiny_checkpoint, vision_tensors
from tests.vllm.conftest import open_vllm

TOLERANCE = 1e-4  # natural log; float32 through other kernels in another order

GREEDY = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=12, logprobs=True)
FREE = SamplingConfig(
    temperature=0.7, top_p=0.9, top_k=40, repetition_penalty=1.1, max_new_tokens=12, n=4, seed=1, logprobs=True
)


# Of linear attention vLLM's CPU build has bfloat16 kernels only: test_families.py.
@pytest.fixture(scope="module", params=[family for family in FAMILIES if not family.startswith("qwen3_5")])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def vllm(family, request):
    if family == "qwen2_5_vl":
        yield request.getfixturevalue("qwen2_5_vl")
        return
    opened = open_vllm(tiny_checkpoint(family))
    yield opened
    opened.close()


@functools.cache
def oracle(family):
    from seedbench_r1.backends.transformers import TransformersBackend

    torch.set_num_threads(1)
    return TransformersBackend(str(tiny_checkpoint(family)), dtype="float32", device="cpu", batch_size=2)


def asked(family):
    """Short and long clips, a clip whose time spans more positions than its space, odd numbers, no clip."""
    return [
        request("L1/short", family),
        request("L1/minute", family, n_frames=16, seconds=60.0),  # 16 frames, 4 s apart
        request("L1/large", family, n_frames=6, cells=(5, 8), seconds=9.3),
        request("L1/narrow", family, n_frames=10, cells=(1, 7), seconds=31.7),
        request("L1/image", family, n_frames=None, cells=(6, 4)),
        # A clip of a variable frame rate: the model is told the frames' own times.
        replace(request("L1/uneven", family, seconds=9.0), frame_times=(0.0, 0.37, 1.9, 8.8)),
        request("L1/wordy", family, question="What should be done next? " * 40),
    ]


def results(backend, requests, sampling):
    found = {}
    for question_id, generation in backend.generate(iter(requests), sampling):
        assert isinstance(generation, Generation), generation
        found.setdefault(question_id, []).append(generation)
    return found


def test_greedy_tokens_and_logprobs_agree(family, vllm):
    ours = results(oracle(family), asked(family), GREEDY)
    theirs = results(vllm, asked(family), GREEDY)
    assert ours.keys() == theirs.keys()
    for question_id, (expected,) in ours.items():
        (found,) = theirs[question_id]
        assert found.token_ids == expected.token_ids, question_id
        assert found.n_prompt_tokens == expected.n_prompt_tokens
        assert (found.text, found.finish_reason) == (expected.text, expected.finish_reason)
        assert found.logprobs == pytest.approx(expected.logprobs, abs=TOLERANCE), question_id
        assert found.n_tokens > 0


def test_sampled_logprobs_are_those_of_the_raw_logits(family, vllm):
    for question_id, generations in results(vllm, asked(family), FREE).items():
        (prompt,) = [item for item in asked(family) if item.question_id == question_id]
        assert len(generations) == 4
        for generation in generations:
            expected = teacher_forced(oracle(family), prompt, generation.token_ids)
            assert generation.logprobs == pytest.approx(expected, abs=TOLERANCE)


@torch.inference_mode()
def teacher_forced(backend, prompt, completion):
    """Log-probability of each token of a completion, by one forward pass of the transformers model."""
    from seedbench_r1.models.qwen_vl import prepare_inputs

    inputs = prepare_inputs(prompt, backend.processor)
    length = len(inputs.input_ids)
    tokens = torch.tensor(completion, dtype=torch.int64)  # none if the first token ended it
    later = torch.arange(length, length + len(tokens)) + inputs.delta
    logits = backend.model(
        input_ids=torch.cat([inputs.input_ids, tokens])[None],
        position_ids=torch.cat([inputs.positions, later.expand(3, -1)], dim=1)[:, None],
        **vision_tensors(backend.model, backend.processor.layout, [inputs]),
    ).logits[0, length - 1 : -1]
    return logits.float().log_softmax(-1).gather(1, tokens[:, None]).flatten().tolist()


def test_the_minute_has_more_time_than_space(family):
    """Otherwise the comparison above would not notice where the text after the clip starts."""
    from seedbench_r1.models.qwen_vl import prepare_inputs

    inputs = prepare_inputs(asked(family)[1], oracle(family).processor)
    video = inputs.input_ids == oracle(family).processor.layout.video_token_id
    time, height, width = (axis[video] for axis in inputs.positions)
    # Qwen3-VL and later write the time as text.
    assert (time.max() > max(height.max(), width.max())) == (not family.startswith("qwen3"))
