"""Small float64 models and the oracle of packed groups: one plain run of the unchanged model per rollout."""

import functools
import importlib

import pytest
import torch
import transformers

from seedbench_r1.models.qwen_vl import load_processor, prepare_inputs
from tests.tiny_models import FAMILIES, request, tiny_checkpoint, vision_tensors

LENGTHS = (7, 1, 12, 4)
# Of gradients in float64. Routers and the decay of linear attention are float32 in transformers, whatever the model's.
ROUNDING = dict.fromkeys(FAMILIES, 1e-9) | dict.fromkeys(["qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"], 3e-7)


@functools.cache
def processor(family):
    return load_processor(str(tiny_checkpoint(family)))


@pytest.fixture
def rotary_in_float64(monkeypatch):
    """The vision towers rotate in float32 whatever their dtype; the text rotates in its own."""
    for family in FAMILIES:
        module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")

        def rotate(query, key, cos, sin, stock=module.apply_rotary_pos_emb_vision, half=module.rotate_half):
            if query.dtype != torch.float64:
                return stock(query, key, cos, sin)
            cos, sin = cos.unsqueeze(-2).double(), sin.unsqueeze(-2).double()
            return query * cos + half(query) * sin, key * cos + half(key) * sin

        monkeypatch.setattr(module, "apply_rotary_pos_emb_vision", rotate)
        if hasattr(module, "torch_chunk_gated_delta_rule"):
            for name in ("torch_chunk_gated_delta_rule", "torch_recurrent_gated_delta_rule"):
                monkeypatch.setattr(module, name, functools.partial(delta_rule, getattr(module, name)))


def delta_rule(stock, query, key, value, g, beta, initial_state=None, output_final_state=False, **options):
    """The gated delta rule (arXiv 2412.06464, equation 10) token by token in float64; transformers' is float32."""
    if query.dtype != torch.float64:
        given = {"g": g, "beta": beta, "initial_state": initial_state, "output_final_state": output_final_state}
        return stock(query, key, value, **given, **options)
    per_key = value.shape[2] // key.shape[2]
    query, key = (
        (states * torch.rsqrt(states.square().sum(-1, keepdim=True) + 1e-6)).repeat_interleave(per_key, 2)
        for states in (query, key)
    )
    if initial_state is None:
        initial_state = value.new_zeros(len(value), value.shape[2], key.shape[3], value.shape[3])
    state, out = initial_state, []
    for t in range(value.shape[1]):
        state = state * g[:, t, :, None, None].exp()
        predicted = torch.einsum("bhk,bhkv->bhv", key[:, t], state)
        written = beta[:, t, :, None] * (value[:, t] - predicted)
        state = state + torch.einsum("bhk,bhv->bhkv", key[:, t], written)
        out.append(torch.einsum("bhk,bhkv->bhv", query[:, t], state) / query.shape[-1] ** 0.5)
    return torch.stack(out, 1), state if output_final_state else None


def tiny(family="qwen2_5_vl", *, double=True):
    """A fresh model; in float64 it is so throughout, its norms too."""
    classes = transformers.AutoModelForImageTextToText
    dtype = torch.float64 if double else torch.float32
    # The product of experts that is the default knows no float64.
    options = {"attn_implementation": "sdpa"} | ({"experts_implementation": "eager"} if double else {})
    model = classes.from_pretrained(tiny_checkpoint(family), dtype=dtype, **options)
    if double:
        for module in model.modules():
            if "RMSNorm" in type(module).__name__:
                module.forward = functools.partial(double_norm, module)
    return model.train()


def double_norm(norm, hidden, gate=None):
    around_one = hasattr(norm, "eps")  # Qwen3.5's weights, but for those of its gated norms, which are as the others
    epsilon = norm.eps if around_one else norm.variance_epsilon
    weight = 1 + norm.weight if around_one else norm.weight
    normed = weight * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + epsilon)
    return normed if gate is None else normed * torch.nn.functional.silu(gate)


def group(family="qwen2_5_vl", *, video=True, lengths=LENGTHS):
    inputs = prepare_inputs(request("a", family, n_frames=4 if video else None, seconds=8.0), processor(family))
    drawn = torch.Generator().manual_seed(3)
    return inputs, [torch.randint(0, 256, (length,), generator=drawn) for length in lengths]


def plain_logprobs(model, layout, inputs, completion):
    """The definition: prompt and completion in one run of the unchanged model, all logits, one log-softmax."""
    ids = torch.cat([inputs.input_ids, completion])
    after = torch.arange(len(completion)) + inputs.positions.max() + 1
    positions = torch.cat([inputs.positions, after.expand(3, -1)], dim=1)
    output = model(input_ids=ids[None], position_ids=positions[:, None], **vision_tensors(model, layout, [inputs]))
    logprobs = output.logits[0].log_softmax(-1)
    return logprobs[len(inputs.input_ids) - 1 : -1].gather(1, completion[:, None])[:, 0]


def weighted(logprobs, mask):
    """A loss with a different weight for every token."""
    flat = logprobs[mask]
    return (flat * torch.linspace(-1, 2, len(flat), dtype=flat.dtype)).sum()


def plain_group(model, layout, inputs, completions):
    """plain_logprobs of every rollout, one after the other."""
    return torch.cat([plain_logprobs(model, layout, inputs, ids) for ids in completions])


def everywhere(flat):
    return torch.ones(len(flat), dtype=torch.bool)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_gradients_close(got, expected, tolerance):
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        error = (got[name] - gradient).norm() / gradient.norm().clamp(min=1e-12)
        assert error < tolerance, f"{name}: {error}"
