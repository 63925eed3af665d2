"""A cache of fixed shape gives the very tokens of one that grows: prompts of any length, rows that end early."""

import dataclasses

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicSlidingWindowLayer

from seedbench_r1.backends.caches import FixedCache, GrowingCache, open_cache
from seedbench_r1.backends.decoding import Prompt, decode, prefill, prefill_any
from seedbench_r1.backends.growing_mask import GrowingMask
from seedbench_r1.backends.loading import load_model
from seedbench_r1.errors import ConfigError
from seedbench_r1.models.qwen_vl import prepare_inputs
from seedbench_r1.types import SamplingConfig
from tests.family_table import backend
from tests.tiny_models import FAMILIES, request, tiny_checkpoint

DRAWN = SamplingConfig(temperature=1.0, top_p=1.0, max_new_tokens=24, n=3, seed=5, logprobs=True)


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request):
    model, processor = load_model(
        str(tiny_checkpoint(request.param)), base_model=None, revision=None, dtype="float32", device=torch.device("cpu")
    )
    return request.param, model, processor


def prompts_of(family, processor):
    """Three prompts of different lengths: a clip, a longer clip in which time exceeds space, an image alone."""
    asked = [
        request("a", family),
        request("b", family, n_frames=8, seconds=30.0, question="What should be done next? " * 3),
        request("c", family, n_frames=None),
    ]
    prompts = [Prompt(entry.question_id, prepare_inputs(entry, processor)) for entry in asked]
    assert len({len(prompt.inputs.input_ids) for prompt in prompts}) == 3
    return prompts


def completions(model, processor, prompts, sampling, cache):
    """(question, k) -> completion, in the order in which they ended."""
    return {(c.question_id, c.k): c for c in decode(model, processor, prompts, sampling, cache=cache)}


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_static_and_dynamic_draw_the_same_tokens(loaded, penalty, monkeypatch):
    family, model, processor = loaded
    prompts = prompts_of(family, processor)
    sampling = dataclasses.replace(DRAWN, repetition_penalty=penalty)
    free = completions(model, processor, prompts, sampling, "dynamic")
    # make tokens that come early in some rows the end, so that rows leave at different steps
    ends = [free["a", 0].token_ids[2], free["b", 1].token_ids[7], free["c", 2].token_ids[11]]
    monkeypatch.setattr(model.generation_config, "eos_token_id", ends)
    dynamic = completions(model, processor, prompts, sampling, "dynamic")
    static = completions(model, processor, prompts, sampling, "static")
    assert len({len(c.token_ids) for c in dynamic.values()}) >= 3
    assert {c.finish_reason for c in dynamic.values()} >= {"stop"}
    assert list(static) == list(dynamic)
    for key, expected in dynamic.items():
        found = static[key]
        assert (found.token_ids, found.finish_reason, found.end_token) == (
            expected.token_ids,
            expected.finish_reason,
            expected.end_token,
        )
        assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-4)


def filled(loaded, kind, *, repeats=2, room=4):
    family, model, processor = loaded
    inputs = [prompt.inputs for prompt in prompts_of(family, processor)]
    _, cache, mask = prefill(model, processor.layout, inputs, 0)
    with torch.inference_mode():
        opened = open_cache(kind, model, (cache, mask), repeats=repeats, room=room)
    after = torch.tensor([len(i.input_ids) + i.delta for i in inputs]).repeat_interleave(repeats)
    return opened, after


def memories(layer):
    """What a recorded graph reads and writes of a layer."""
    if hasattr(layer, "recurrent_states"):
        return [*layer.conv_states.values(), *layer.recurrent_states.values()]
    return [layer.keys, layer.values]


@torch.inference_mode()
def test_what_ended_rows_hold_reaches_no_other_row(loaded):
    tokens = torch.tensor([11, 12, 13, 14, 15, 16])
    growing, after = filled(loaded, "dynamic")
    fixed, _ = filled(loaded, "static")
    assert isinstance(growing, GrowingCache)
    assert isinstance(fixed, FixedCache)
    addresses = [memory.data_ptr() for layer in fixed._cache.layers for memory in memories(layer)]
    torch.testing.assert_close(fixed.step(tokens, after), growing.step(tokens, after), rtol=0, atol=1e-4)
    for step, places in enumerate(([4, 1, 2], [2, 0]), start=1):
        tokens, after = tokens[places], after[places]
        growing.keep(places)
        fixed.keep(places)
        expected = growing.step(tokens, after + step)
        assert expected.shape[0] == len(places)
        torch.testing.assert_close(fixed.step(tokens, after + step), expected, rtol=0, atol=1e-4)
    assert [memory.data_ptr() for layer in fixed._cache.layers for memory in memories(layer)] == addresses


@pytest.mark.parametrize("family", ["qwen3_5", "internvl", "gemma3", "gemma4"])
@pytest.mark.parametrize("padded", [True, False])
@torch.inference_mode()
def test_masks_that_grow_are_those_that_transformers_makes(family, padded, monkeypatch):
    """To the bit, before and after rows have left; Gemma's windows of 48 are shorter than its prompts, or longer."""
    opened = backend(family)
    clips = {"n_frames": None} if family.startswith("gemma") and not padded else {}
    asked = [request(str(n), family, question="Next? " * (1 + padded * 9 * n), **clips) for n in range(3)]
    prompts = [Prompt(one.question_id, opened.processor.prepare(one)) for one in asked]
    logits = {}
    for left_to_it in (False, True):
        with monkeypatch.context() as patched:
            if left_to_it:
                patched.setattr(GrowingMask, "grown", two_dimensional)
            _, cache, mask, after = prefill_any(opened.model, opened.processor, prompts, 0)
            assert bool(mask.all()) != padded
            growing = open_cache("dynamic", opened.model, (cache, mask), repeats=2, room=40)
            positions, rows = torch.tensor(after).repeat_interleave(2), []
            for step in range(40):
                rows.append(growing.step(11 + step + torch.arange(len(positions)), positions + step))
                if step == 20:
                    growing.keep([1, 0])
                    positions = positions[[1, 0]]
            logits[left_to_it] = torch.cat(rows)
    assert torch.equal(logits[False], logits[True])


def two_dimensional(growing):
    """What any model takes, and makes its own masks of."""
    growing._length += 1
    return growing._columns[:, : growing._length].long()


def test_auto_is_dynamic_off_cuda_and_sliding_layers_refuse_static(loaded):
    assert isinstance(filled(loaded, "auto", room=64)[0], GrowingCache)
    sliding = DynamicCache()
    sliding.layers = [DynamicSlidingWindowLayer(sliding_window=4)]
    with pytest.raises(ConfigError, match="--decode-cache dynamic"):
        open_cache("static", loaded[1], (sliding, torch.ones(1, 2)), repeats=1, room=1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="records a CUDA graph")
def test_the_recorded_graph_draws_the_same_tokens(loaded):
    family, _, processor = loaded
    model, _ = load_model(
        str(tiny_checkpoint(family)), base_model=None, revision=None, dtype="float32", device=torch.device("cuda")
    )
    sampling = dataclasses.replace(DRAWN, max_new_tokens=64)
    prompts = prompts_of(family, processor)
    dynamic = completions(model, processor, prompts, sampling, "dynamic")
    static = completions(model, processor, prompts, sampling, "static")
    assert {key: c.token_ids for key, c in static.items()} == {key: c.token_ids for key, c in dynamic.items()}
