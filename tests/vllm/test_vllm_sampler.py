"""Rollouts by a real vLLM next to the policy: the built-in sampler's, before and after the policy has learned."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from seedbench_r1.errors import ConfigError
from tests.tiny_models import request, tiny_checkpoint
from tests.trainers.toy import policy_of
from tests.vllm.conftest import MAX_IN_FLIGHT

CPU = torch.device("cpu")


def config_of(tmp_path, **changes):
    from trainers.resolve import resolve_train_config

    options = {"algo": "grpo", "preset": "grpo-nokl", "model": str(tiny_checkpoint("qwen2_5_vl")), "device": "cpu"}
    options |= {"data": tmp_path, "out": tmp_path / "out", "rollouts": "vllm", "rollout_batch_size": MAX_IN_FLIGHT // 2}
    options |= {"num_generations": 2, "max_completion_length": 12, "top_k": 1, "gradient_checkpointing": False}
    return resolve_train_config(options | changes)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return config_of(tmp_path_factory.mktemp("rollouts"))


@pytest.fixture
def policy(config):
    """A fresh one for each test."""
    return policy_of(config)


@pytest.fixture(scope="module")
def opened(config):
    from trainers.processes import Processes
    from trainers.samplers import check_sampler, open_sampler

    threads = torch.get_num_threads()
    check_sampler(config, world_size=1)
    sampler = open_sampler(policy_of(config), config, Processes("cpu"))
    torch.set_num_threads(1)
    yield sampler
    sampler.close()
    torch.set_num_threads(threads)
    assert torch.get_num_threads() == threads  # vLLM replaces set_num_threads by nothing


@pytest.fixture
def sampler(opened, policy, monkeypatch):
    """The one engine, with this test's policy."""
    monkeypatch.setattr(opened, "_policy", policy)
    opened.sync_weights()
    return opened


def example_of(asked, policy, epoch=0):
    from seedbench_r1.models.qwen_vl import prepare_inputs
    from seedbench_r1.types import Question
    from trainers.data import TrainingExample

    question = Question(asked.question_id, "train", "?", ("a", "b", "c", "d"), "A", None, None, "v", None, "")
    return TrainingExample(question, "", epoch, prepare_inputs(asked, policy.processor), asked)


def examples_of(policy):
    """More than the engine takes at once; a clip with more time than space, and an image alone."""
    asked = [
        request("train/short"),
        request("train/minute", n_frames=16, seconds=60.0),
        request("train/image", n_frames=None, cells=(6, 4)),
        request("train/wordy", question="What should be done next? " * 40),
    ]
    return [example_of(one, policy) for one in asked]


def without_logprobs(groups):
    return [[dataclasses.replace(rollout, logprobs=None) for rollout in group.rollouts] for group in groups]


def ours(policy, examples, config):
    """The built-in sampler's rollouts."""
    from trainers.samplers import BuiltinSampler

    return without_logprobs(BuiltinSampler(policy, config).sample(examples))


def theirs(sampler, examples):
    groups = sampler.sample(examples)
    assert [group.example for group in groups] == examples
    return without_logprobs(groups)


@torch.no_grad()
def moved(model, wanted):
    """Every parameter that `wanted` names moves by about half its size, like a very large step."""
    drawn = torch.Generator().manual_seed(1)
    chosen = [p for name, p in model.named_parameters() if wanted in name]
    assert chosen
    for parameter in chosen:
        noise = torch.randn(parameter.shape, generator=drawn)
        parameter.add_(0.5 * parameter.std(correction=0).clamp(min=0.05) * noise)


def test_greedy_rollouts_are_the_built_in_samplers(sampler, policy, config):
    examples = examples_of(policy)
    expected = ours(policy, examples, config)
    assert theirs(sampler, examples) == expected
    assert len({rollout for group in expected for rollout in group}) == len(examples)


def test_rollouts_follow_the_weights_once_they_are_taken(sampler, policy, config):
    examples = examples_of(policy)
    before = theirs(sampler, examples)
    state = {name: value.clone() for name, value in policy.model.state_dict().items()}
    moved(policy.model, "")
    changed = {name: value.clone() for name, value in policy.model.state_dict().items()}
    assert theirs(sampler, examples) == before  # nobody has said that they changed
    sampler.sync_weights()
    after = theirs(sampler, examples)
    assert after == ours(policy, examples, config)
    assert all(new != old for new, old in zip(after, before, strict=True))
    assert all(torch.equal(value, changed[name]) for name, value in policy.model.state_dict().items())
    policy.model.load_state_dict(state)
    sampler.sync_weights()
    assert theirs(sampler, examples) == before


def test_a_new_vision_tower_sees_the_same_clip_anew(sampler, policy, config):
    """vLLM keeps the tower's outputs, and the prompt's keys and values, under a hash of the pixels."""
    examples = examples_of(policy)
    before = theirs(sampler, examples)
    moved(policy.model.model.visual, "")
    sampler.sync_weights()
    after = theirs(sampler, examples)
    assert after == ours(policy, examples, config)
    assert sum(new != old for new, old in zip(after, before, strict=True)) >= 2


def test_adapters_are_merged_and_the_policy_stays_as_it_is(sampler, policy, config, monkeypatch):
    adapted = policy_of(dataclasses.replace(config, lora=True, lora_r=4, lora_alpha=8))
    moved(adapted.model, "lora_")
    kept = {name: value.clone() for name, value in adapted.model.state_dict().items()}
    monkeypatch.setattr(sampler, "_policy", adapted)
    examples = examples_of(adapted)
    found = theirs(sampler, examples)
    assert found == ours(adapted, examples, config)
    assert all(new != old for new, old in zip(found, ours(policy, examples, config), strict=True))
    assert all(torch.equal(value, kept[name]) for name, value in adapted.model.state_dict().items())


def test_recorded_logprobs_are_the_policys(sampler, policy, config):
    from trainers.grpo import sampler_mismatch
    from trainers.shared_prefix import group_logprobs

    free = dataclasses.replace(config, top_k=0, num_generations=4, max_completion_length=40)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sampler, "_config", free)
        (group,) = sampler.sample([example_of(request("train/minute", n_frames=16, seconds=60.0), policy)])
        (later,) = sampler.sample([example_of(request("train/minute", n_frames=16, seconds=60.0), policy, epoch=1)])
    assert len({rollout.token_ids for rollout in group.rollouts} | {r.token_ids for r in later.rollouts}) == 8
    completions = [torch.tensor(rollout.token_ids) for rollout in group.rollouts]
    with torch.no_grad():
        logprobs, _ = group_logprobs(
            policy.model, policy.processor.layout, group.example.inputs, completions, shared_prefix=False
        )
    found = sampler_mismatch(group, logprobs, free)
    assert found.gap < 1e-4
    assert found.ratio == pytest.approx(1, abs=1e-4)
    assert sampler_mismatch(group, logprobs, dataclasses.replace(free, temperature=0.7)) is None
    off = dataclasses.replace(group.rollouts[0], logprobs=tuple(v - 1 for v in group.rollouts[0].logprobs))
    shifted = sampler_mismatch(dataclasses.replace(group, rollouts=(off,)), logprobs[:1], free)
    assert shifted.gap == pytest.approx(1, abs=1e-4)


def test_rollouts_that_end_by_themselves_keep_their_end_token(sampler, policy, config):
    tokenizer = policy.processor.tokenizer
    ends = {tokenizer.convert_tokens_to_ids(mark) for mark in ("<|im_end|>", "<|endoftext|>")}
    free = dataclasses.replace(config, top_k=0, num_generations=8, max_completion_length=200)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sampler, "_config", free)
        rollouts = sampler.sample([example_of(request("train/short"), policy)])[0].rollouts
    assert {rollout.finish_reason for rollout in rollouts} == {"stop", "length"}
    for rollout in rollouts:
        *body, last = rollout.token_ids
        assert ends.isdisjoint(body)
        assert (last in ends) == (rollout.finish_reason == "stop")
        assert len(rollout.token_ids) == len(rollout.logprobs) <= 200
        assert rollout.text == tokenizer.decode(rollout.token_ids, skip_special_tokens=True)


def test_weights_that_are_not_there_are_named(sampler, policy, config, monkeypatch):
    from trainers.merging import whole_parameters

    def incomplete(model, dtype):
        return (entry for entry in whole_parameters(model, dtype) if "layers.1.mlp.down_proj" not in entry[0])

    monkeypatch.setattr("trainers.vllm_sampler.whole_parameters", incomplete)
    with pytest.raises(ConfigError, match=r"has 1 parameters .* not give.*layers\.1\.mlp\.down_proj\.weight\. Fix"):
        sampler.sample(examples_of(policy))
