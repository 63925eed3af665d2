"""Packed groups through adapters, DDP and FSDP2: the numbers and gradients of the plain model."""

from dataclasses import replace

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh

import trainers.sharding
import trainers.shared_prefix
from tests.trainers.plain_runs import (
    assert_gradients_close,
    everywhere,
    gradients,
    group,
    plain_group,
    processor,
    rotary_in_float64,
    tiny,
    weighted,
)
from tests.trainers.toy import policy_of, toy_config
from trainers.logprobs import inner_model
from trainers.reference import Reference
from trainers.sharding import local_shard
from trainers.shared_prefix import group_logprobs, shared_prefix_attention

__all__ = ["rotary_in_float64"]  # a fixture
pytestmark = pytest.mark.usefixtures("rotary_in_float64")


def test_adapters_learn_the_same():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    model, layout = peft.get_peft_model(tiny(), config), processor("qwen2_5_vl").layout
    inputs, completions = group()
    plain = plain_group(inner_model(model), layout, inputs, completions)
    expected = gradients(model, weighted(plain, everywhere(plain)))
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable()
    with shared_prefix_attention(model):
        logprobs, mask = group_logprobs(model, layout, inputs, completions)
        got = gradients(model, weighted(logprobs, mask))
        with model.disable_adapter(), torch.no_grad():
            reference, _ = group_logprobs(model, layout, inputs, completions)
    assert expected
    assert all("lora" in name for name in expected)
    torch.testing.assert_close(logprobs[mask], plain, rtol=0, atol=1e-12)
    assert_gradients_close(got, expected, 1e-9)
    base = tiny()
    with torch.no_grad():
        expected_reference = plain_group(base, layout, inputs, completions)
    torch.testing.assert_close(reference[mask], expected_reference, rtol=0, atol=1e-12)


@pytest.fixture
def one_process(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("wrapper", ["ddp", "fsdp2"])
def test_wrapped_models_run_their_own_hooks(wrapper):
    layout = processor("qwen2_5_vl").layout
    inputs, completions = group()
    plain_model = tiny()
    plain = plain_group(plain_model, layout, inputs, completions)
    expected = gradients(plain_model, weighted(plain, everywhere(plain)))
    model = tiny()
    model.gradient_checkpointing_enable()
    reduced = []
    if wrapper == "ddp":
        wrapped = torch.nn.parallel.DistributedDataParallel(model)

        def all_reduce(_, bucket):
            reduced.append(bucket.buffer().numel())
            future = torch.futures.Future()
            future.set_result(bucket.buffer())
            return future

        wrapped.register_comm_hook(None, all_reduce)
    else:
        wrapped = shard(model)
    with shared_prefix_attention(wrapped):
        logprobs, mask = group_logprobs(wrapped, layout, inputs, completions)
        weighted(logprobs, mask).backward()
    got = {name: whole(p.grad) for name, p in model.named_parameters() if p.grad is not None}
    torch.testing.assert_close(logprobs[mask], plain, rtol=0, atol=1e-12)
    assert_gradients_close(got, expected, 1e-9)
    assert wrapper != "ddp" or sum(reduced) == sum(p.numel() for p in model.parameters())


@pytest.mark.usefixtures("one_process")
def test_a_sharded_models_masks_are_of_the_type_of_its_passes(monkeypatch):
    """Its shards are float32: masks of that type were rounded anew by every layer, and twice as large."""
    layout, packings = processor("qwen2_5_vl").layout, []
    inputs, completions = group()
    packing = trainers.shared_prefix._packing
    monkeypatch.setattr(
        trainers.shared_prefix, "_packing", lambda *given: packings.append(packing(*given)) or packings[-1]
    )

    def made_of(model):
        with shared_prefix_attention(model):
            logprobs, mask = group_logprobs(model, layout, inputs, completions)
            weighted(logprobs, mask).backward()
        (made,) = packings.pop().masks.items()
        return logprobs.detach(), made

    plain, sharded = (tiny(double=False).bfloat16() for _ in range(2))
    sharded.gradient_checkpointing_enable()
    trainers.sharding.shard(sharded, init_device_mesh("cpu", (1,)), shard_dtype=torch.float32)
    assert sharded.dtype == torch.float32
    expected, of_plain = made_of(plain)
    got, (dtype, mask) = made_of(sharded)
    assert dtype == mask.dtype == of_plain[0] == torch.bfloat16
    assert mask.stride() == (-(-mask.shape[1] // 16) * 16, 1)
    assert torch.equal(got, expected)


def shard(model):
    """Each decoder layer, then all the rest, the output layer included, whose weights are sharded after its forward."""
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (1,))
    for layer in model.model.language_model.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh, reshard_after_forward=True)


def whole(gradient):
    return gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("kind", ["ema", "frozen"])
@pytest.mark.parametrize("lora", [False, True])
def test_a_gathered_reference_is_the_reference_and_not_the_policy(toy, kind, lora):
    policy = policy_of(toy_config(toy.raw, toy.data, toy.data / "none", "care", lora=lora))
    inputs = {"input_ids": torch.arange(5, 15)[None]}

    def move(seed):
        generator = torch.Generator().manual_seed(seed)
        for parameter in policy.trainable().values():
            local = local_shard(parameter.data)
            local.add_(0.1 * torch.randn(local.shape, generator=generator))

    def logits(model):
        with torch.no_grad():
            return model(**inputs).logits

    before = logits(policy.model)
    move(0)  # a frozen reference of adapters is the base without them, an average the adapters as they are
    moved = logits(policy.model)
    expected = before if lora and kind == "frozen" else moved
    policy = replace(policy, shards=trainers.sharding.shard_policy(policy.model, torch.device("cpu"), 1))
    reference = Reference(kind, policy, decay=0.995, every=10)
    move(1)
    with policy.gathered() as model:
        trained = logits(model)
    with reference.gathered() as model:
        found = logits(model)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert float((trained - expected).abs().max()) > 1e-3
    with policy.gathered() as model:
        assert torch.equal(logits(model), trained), "the policy is as it was"
