"""Packed groups against one plain run per rollout: equal in float64 to the last digits, in every family."""

import dataclasses

import pytest
import torch

from seedbench_r1.backends.decoding import Prompt, decode
from seedbench_r1.errors import ConfigError
from seedbench_r1.models.qwen_vl import prepare_inputs
from seedbench_r1.types import SamplingConfig
from tests.tiny_models import FAMILIES, request, vision_tensors
from tests.trainers.plain_runs import (
    LENGTHS,
    ROUNDING,
    assert_gradients_close,
    everywhere,
    gradients,
    group,
    plain_group,
    plain_logprobs,
    processor,
    rotary_in_float64,
    tiny,
    weighted,
)
from trainers.sft_logprobs import batch_logprobs
from trainers.shared_prefix import group_logprobs, shared_prefix_attention

__all__ = ["rotary_in_float64"]  # a fixture
pytestmark = pytest.mark.usefixtures("rotary_in_float64")


@pytest.mark.parametrize("video", [True, False], ids=["video", "image"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_equals_one_run_per_rollout(family, video):
    model, layout = tiny(family), processor(family).layout
    inputs, completions = group(family, video=video)
    plain = plain_group(model, layout, inputs, completions)
    expected = gradients(model, weighted(plain, everywhere(plain)))
    with shared_prefix_attention(model):
        logprobs, mask = group_logprobs(model, layout, inputs, completions)
        got = gradients(model, weighted(logprobs, mask))
    assert logprobs.dtype == torch.float64
    assert logprobs.shape == mask.shape == (4, 12)
    assert [row.nonzero().flatten().tolist() for row in mask] == [list(range(n)) for n in LENGTHS]
    assert (logprobs[~mask] == 0).all()
    torch.testing.assert_close(logprobs[mask], plain, rtol=0, atol=1e-12)
    assert any("visual" in name for name in got)
    assert_gradients_close(got, expected, ROUNDING[family])


@pytest.mark.parametrize("family", FAMILIES)
def test_repeated_equals_one_run_per_rollout(family):
    model, layout = tiny(family), processor(family).layout
    inputs, completions = group(family)
    plain = plain_group(model, layout, inputs, completions)
    expected = gradients(model, weighted(plain, everywhere(plain)))
    logprobs, mask = group_logprobs(model, layout, inputs, completions, shared_prefix=False)
    torch.testing.assert_close(logprobs[mask], plain, rtol=0, atol=1e-12)
    assert_gradients_close(gradients(model, weighted(logprobs, mask)), expected, ROUNDING[family])


def test_the_wrong_variants_differ():
    """The same packing by a dense mask on the unchanged model, then without its mask, then with running positions."""
    model, layout = tiny(), processor("qwen2_5_vl").layout
    inputs, completions = group()
    n, total = len(inputs.input_ids), sum(LENGTHS)
    owner = torch.cat([torch.full((n,), -1), torch.arange(len(LENGTHS)).repeat_interleave(torch.tensor(LENGTHS))])
    visible = ((owner == -1) | (owner == owner[:, None])).tril()[None, None]
    steps = torch.cat([torch.arange(length) for length in LENGTHS])

    def packed(mask, after):
        positions = torch.cat([inputs.positions, (after + inputs.positions.max() + 1).expand(3, -1)], dim=1)
        ids = torch.cat([inputs.input_ids, *completions])[None]
        vision = vision_tensors(model, layout, [inputs])
        logits = model(input_ids=ids, position_ids=positions[:, None], attention_mask=mask, **vision).logits[0]
        rows = torch.where(steps == 0, n - 1, torch.arange(n - 1, n - 1 + total))
        return logits.log_softmax(-1)[rows].gather(1, torch.cat(completions)[:, None])[:, 0]

    with torch.no_grad():
        plain = plain_group(model, layout, inputs, completions)
        assert (packed(visible, steps) - plain).abs().max() < 1e-12
        assert (packed(None, steps) - plain).abs().max() > 1e-2
        assert (packed(visible, torch.arange(total)) - plain).abs().max() > 1e-2


@pytest.mark.parametrize("lengths", [(5,), (1,), (1, 1, 1), (6, 6, 6), (0, 3), (9, 1)], ids=str)
def test_groups_of_any_shape(lengths):
    model, layout = tiny(), processor("qwen2_5_vl").layout
    inputs, completions = group(lengths=lengths)
    kept = [ids for ids in completions if len(ids)]
    plain = plain_group(model, layout, inputs, kept)
    expected = gradients(model, weighted(plain, everywhere(plain)))
    with shared_prefix_attention(model):
        logprobs, mask = group_logprobs(model, layout, inputs, completions)
        got = gradients(model, weighted(logprobs, mask))
    assert mask.sum(1).tolist() == list(lengths)
    torch.testing.assert_close(logprobs[mask], plain, rtol=0, atol=1e-12)
    assert_gradients_close(got, expected, 1e-9)


def test_a_group_without_tokens_has_zero_gradients():
    model, layout = tiny(), processor("qwen2_5_vl").layout
    inputs, completions = group(lengths=(0, 0))
    with shared_prefix_attention(model):
        logprobs, mask = group_logprobs(model, layout, inputs, completions)
        got = gradients(model, logprobs.sum())
    assert logprobs.shape == mask.shape == (2, 0)
    assert all((gradient == 0).all() for gradient in got.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_stock_float32_is_within_rounding(family):
    model, layout = tiny(family, double=False), processor(family).layout
    inputs, completions = group(family)
    plain = plain_group(model, layout, inputs, completions)
    expected = gradients(model, weighted(plain, everywhere(plain)))
    with shared_prefix_attention(model):
        logprobs, mask = group_logprobs(model, layout, inputs, completions)
        got = gradients(model, weighted(logprobs, mask))
    assert logprobs.dtype == torch.float32
    torch.testing.assert_close(logprobs[mask], plain, rtol=0, atol=2e-5)
    assert_gradients_close(got, expected, 1e-3)


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_models_give_float32_near_the_exact_numbers(autocast):
    model, layout = tiny(double=False), processor("qwen2_5_vl").layout
    inputs, completions = group()
    with torch.no_grad():
        exact = plain_group(model, layout, inputs, completions)
    if not autocast:
        model.bfloat16()
    with shared_prefix_attention(model), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logprobs, mask = group_logprobs(model, layout, inputs, completions)
    assert logprobs.dtype == torch.float32
    assert (logprobs[mask] - exact).abs().mean() < 0.1  # 8 bits; a causal mask alone is off by more
    assert all(g.isfinite().all() for g in gradients(model, weighted(logprobs, mask)).values())


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_changes_nothing(family, reentrant):
    model, layout = tiny(family), processor(family).layout
    inputs, completions = group(family)
    with shared_prefix_attention(model):
        logprobs, mask = group_logprobs(model, layout, inputs, completions)
        expected = gradients(model, weighted(logprobs, mask))
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        model.enable_input_require_grads()
        calls = []
        model.model.language_model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
        again, _ = group_logprobs(model, layout, inputs, completions)
        got = gradients(model, weighted(again, mask))
    assert len(calls) == 2, "the layer is computed again in the backward pass"
    assert torch.equal(again, logprobs)
    assert_gradients_close(got, expected, 1e-12)


def test_without_gradients_the_numbers_are_the_same():
    model, layout = tiny(), processor("qwen2_5_vl").layout
    inputs, completions = group()
    with shared_prefix_attention(model):
        logprobs, _ = group_logprobs(model, layout, inputs, completions)
        with torch.no_grad():
            reference, _ = group_logprobs(model.eval(), layout, inputs, completions)
    assert logprobs.requires_grad
    assert not reference.requires_grad
    assert torch.equal(reference, logprobs)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "repeated"])
@pytest.mark.parametrize("chunk", [1, 3])
def test_chunks_of_a_group_are_exact(chunk, shared, checkpointing):
    model, layout = tiny(), processor("qwen2_5_vl").layout
    inputs, completions = group()
    with shared_prefix_attention(model):
        logprobs, mask = group_logprobs(model, layout, inputs, completions)
        expected = gradients(model, weighted(logprobs, mask))
        if checkpointing:
            model.gradient_checkpointing_enable()
        options = {"shared_prefix": shared, "group_chunk": chunk}
        chunked, same_mask = group_logprobs(model, layout, inputs, completions, **options)
        got = gradients(model, weighted(chunked, mask))
        with torch.no_grad():
            reference, _ = group_logprobs(model, layout, inputs, completions, **options)
    assert torch.equal(same_mask, mask)
    torch.testing.assert_close(chunked, logprobs, rtol=0, atol=1e-12)
    torch.testing.assert_close(reference, logprobs, rtol=0, atol=1e-12)
    assert_gradients_close(got, expected, 1e-9)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "repeated"])
def test_spans_pick_tokens_and_leave_out_what_none_depends_on(shared):
    model, layout = tiny(), processor("qwen2_5_vl").layout
    inputs, completions = group()
    spans, n_read = [(2, 5), None, (0, 1), (3, 4)], 4 + 0 + 0 + 3
    seen = []
    with shared_prefix_attention(model), torch.no_grad():
        whole, _ = group_logprobs(model, layout, inputs, completions)
        model.model.language_model.register_forward_hook(lambda _, __, out: seen.append(out[0].shape[1]))
        some, mask = group_logprobs(model, layout, inputs, completions, spans=spans, shared_prefix=shared)
    assert [row.nonzero().flatten().tolist() for row in mask] == [[2, 3, 4], [], [0], [3]]
    torch.testing.assert_close(some[mask], whole[mask], rtol=0, atol=1e-12)
    assert (some[~mask] == 0).all()
    assert not shared or seen == [len(inputs.input_ids) + n_read]


def test_temperature_divides_the_logits():
    model, layout = tiny(), processor("qwen2_5_vl").layout
    inputs, (completion, *_) = group()
    with shared_prefix_attention(model), torch.no_grad():
        logprobs, _ = group_logprobs(model, layout, inputs, [completion], temperature=0.5)
    model.lm_head.weight.data *= 2
    with torch.no_grad():
        expected = plain_logprobs(model, layout, inputs, completion)
    torch.testing.assert_close(logprobs[0], expected, rtol=0, atol=1e-12)


def test_vision_runs_once_and_the_output_layer_on_scored_rows_only():
    model, layout = tiny(), processor("qwen2_5_vl").layout
    inputs, completions = group()
    patches, rows = [], []
    model.model.visual.register_forward_hook(lambda _, args, __: patches.append(len(args[0])))
    model.lm_head.register_forward_hook(lambda _, args, out: rows.append((args[0].shape[:-1].numel(), out.shape)))
    with shared_prefix_attention(model), torch.no_grad():
        group_logprobs(model, layout, inputs, completions)
    assert patches == [len(inputs.image_patches) + len(inputs.video_patches)]
    assert rows == [(sum(LENGTHS), (sum(LENGTHS),))]


@pytest.mark.parametrize("family", FAMILIES)
def test_other_calls_are_as_before_while_it_is_on(family):
    """Sampling prefills left-padded batches and decodes from caches through the same attention."""
    model, processing = tiny(family).eval(), processor(family)
    prompts = [
        Prompt(name, prepare_inputs(request(name, family, question=text), processing))
        for name, text in (("a", "What?"), ("b", "What should be done next, and what after that?"))
    ]
    sampling = SamplingConfig(temperature=0.0, max_new_tokens=6, n=2, logprobs=True)

    def sampled():
        done = decode(model, processing, prompts, sampling)
        return sorted((one.question_id, one.k, one.token_ids, one.logprobs) for one in done)

    before = sampled()
    with shared_prefix_attention(model):
        assert sampled() == before


def test_everything_is_put_back():
    model, layout = tiny(), processor("qwen2_5_vl").layout
    inputs, completions = group()
    text = model.model.language_model.config
    with shared_prefix_attention(model):
        assert text._attn_implementation != "sdpa"
        group_logprobs(model, layout, inputs, completions)
    assert text._attn_implementation == "sdpa"
    assert "forward" not in vars(model.lm_head)
    broken = dataclasses.replace(inputs, video_patches=inputs.video_patches[:-4])
    with pytest.raises(IndexError), shared_prefix_attention(model):
        group_logprobs(model, layout, broken, completions)
    assert text._attn_implementation == "sdpa"
    assert "forward" not in vars(model.lm_head)
    model.lm_head.forward = stand_in = model.lm_head.forward
    with shared_prefix_attention(model):
        group_logprobs(model, layout, inputs, completions)
    assert vars(model.lm_head)["forward"] is stand_in


def test_what_cannot_be_scored_is_refused():
    model, layout = tiny(), processor("qwen2_5_vl").layout
    inputs, completions = group()
    with pytest.raises(ValueError, match="with shared_prefix_attention"):
        group_logprobs(model, layout, inputs, completions)
    with shared_prefix_attention(model):
        with pytest.raises(ValueError, match="a group needs one of each"):
            group_logprobs(model, layout, inputs, [])
        with pytest.raises(ValueError, match="completion 1 of 1 tokens"):
            group_logprobs(model, layout, inputs, completions, spans=[None, (0, 2), None, None])
        with pytest.raises(ValueError, match="image or video token"):
            group_logprobs(model, layout, inputs, [torch.tensor([5, layout.video_token_id])])
    with (
        pytest.raises(ConfigError, match="Linear holds no model of Qwen-VL"),
        shared_prefix_attention(torch.nn.Linear(1, 1)),
    ):
        pass
    model.model.language_model.config.layer_types = ["sliding_attention"]
    with pytest.raises(ConfigError, match="sliding_attention"), shared_prefix_attention(model):
        pass


@pytest.mark.parametrize("family", FAMILIES)
def test_a_padded_batch_of_different_prompts_equals_one_run_per_row(family):
    model, layout = tiny(family), processor(family).layout
    prompts = [group(family, video=video)[0] for video in (True, False, True)]
    completions = group(family)[1][:3]
    assert len({len(prompt.input_ids) for prompt in prompts}) == len({len(ids) for ids in completions}) - 1 == 2
    plain = [plain_logprobs(model, layout, *pair) for pair in zip(prompts, completions, strict=True)]
    expected = gradients(model, weighted(torch.cat(plain), everywhere(torch.cat(plain))))
    logprobs, mask = batch_logprobs(model, layout, prompts, completions)
    assert mask.sum(1).tolist() == [len(ids) for ids in completions]
    torch.testing.assert_close(logprobs[mask], torch.cat(plain), rtol=0, atol=1e-12)
    assert_gradients_close(gradients(model, weighted(logprobs, mask)), expected, ROUNDING[family])
    with pytest.raises(ValueError, match="one of each"):
        batch_logprobs(model, layout, prompts, completions[:2])
