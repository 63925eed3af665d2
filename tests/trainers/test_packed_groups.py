"""Several groups in one packed pass: the numbers and gradients of a pass for each, in every family."""

import dataclasses

import pytest
import torch

from seedbench_r1.errors import ConfigError
from seedbench_r1.models.qwen_vl import prepare_inputs
from tests.tiny_models import FAMILIES, request
from tests.trainers.launch import metrics_of
from tests.trainers.plain_runs import (
    ROUNDING,
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
from tests.trainers.test_iterations import step_on
from tests.trainers.test_steps import A, B, config_of, example_of, group_of, policy
from tests.trainers.toy import plan_and_train, toy_config
from trainers.groups import Group
from trainers.grpo import base_rewards
from trainers.policy_passes import ScoredGroup, packed_tokens, plan_passes
from trainers.shared_prefix import groups_logprobs, shared_prefix_attention

__all__ = ["policy", "rotary_in_float64"]  # fixtures


def three_groups(family):
    """Clip and image; an image alone; a clip of other length. Rollouts of different lengths."""
    first, completions = group(family)
    second, others = group(family, video=False, lengths=(1, 9))
    long = prepare_inputs(request("b", family, question="What then?", n_frames=8, seconds=8.0), processor(family))
    return [first, second, long], [completions, others, [others[1], completions[0], others[0]]]


@pytest.mark.usefixtures("rotary_in_float64")
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_groups_equal_one_run_per_rollout(family, checkpointing):
    model, layout = tiny(family), processor(family).layout
    prompts, completions = three_groups(family)
    assert len({len(prompt.input_ids) for prompt in prompts}) == 3
    plain = torch.cat([plain_group(model, layout, *pair) for pair in zip(prompts, completions, strict=True)])
    expected = gradients(model, weighted(plain, everywhere(plain)))
    vision = []
    model.model.visual.register_forward_hook(lambda *_: vision.append(1))
    with shared_prefix_attention(model):
        if checkpointing:
            model.gradient_checkpointing_enable()
        found = groups_logprobs(model, layout, prompts, completions)
        calls = len(vision)
        flat = torch.cat([logprobs[mask] for logprobs, mask in found])
        got = gradients(model, weighted(flat, everywhere(flat)))
    assert [mask.sum(1).tolist() for _, mask in found] == [[len(ids) for ids in group] for group in completions]
    assert calls == 1  # for all images and clips of all groups
    torch.testing.assert_close(flat, plain, rtol=0, atol=1e-12)
    assert_gradients_close(got, expected, ROUNDING[family])


def test_groups_do_not_see_each_other():
    """Another first group leaves the second one's numbers as they are, to the last bit."""
    model, layout = tiny(double=False).eval(), processor("qwen2_5_vl").layout
    (first, second, _), (completions, others, _) = three_groups("qwen2_5_vl")
    with shared_prefix_attention(model), torch.no_grad():
        (_, found) = groups_logprobs(model, layout, [first, second], [completions, others])
        changed = [ids.flip(0) for ids in completions]
        (_, again) = groups_logprobs(model, layout, [first, second], [changed, others])
    assert torch.equal(found[0], again[0])


def test_what_cannot_be_packed_is_refused():
    model, layout = tiny(), processor("qwen2_5_vl").layout
    prompts, completions = three_groups("qwen2_5_vl")
    with pytest.raises(ValueError, match="with shared_prefix_attention"):
        groups_logprobs(model, layout, prompts, completions)
    with shared_prefix_attention(model):
        with pytest.raises(ValueError, match="a group at least"):
            groups_logprobs(model, layout, [], [])
        with pytest.raises(ValueError, match="a group needs one of each"):
            groups_logprobs(model, layout, prompts[:1], [[]])
        with pytest.raises(ValueError, match="image or video token"):
            groups_logprobs(model, layout, prompts[:1], [[torch.tensor([layout.image_token_id])]])


def groups_of(toy, policy):
    """Four groups, of which the third has no spread."""
    texts = [[A, B], [B, B + B], [B, B], [A, A.replace("so", "so so")]]
    groups = [group_of(toy, policy, pair) for pair in texts]
    numbered = [example_of(toy, policy, number) for number in range(4)]
    return [Group(example, one.rollouts) for one, example in zip(groups, numbered, strict=True)]


def test_passes_are_filled_up_to_the_limit_by_hand(toy, policy):
    def planned(**options):
        config = config_of(toy, "grpo", preset="grpo-nokl", num_generations=2, **options)
        scored = [ScoredGroup(base_rewards(policy, one, config), None) for one in groups]
        return [[(part.group, part.rows.start) for part in parts] for parts in plan_passes(scored, config)]

    groups = [group_of(toy, policy, texts) for texts in ([A, B], [A, B], [B, B], [A, B])]
    n = packed_tokens(groups[0])
    assert n == len(groups[0].example.inputs.input_ids) + sum(len(one.token_ids) - 1 for one in groups[0].rollouts)
    assert planned() == [[(0, 0)], [(1, 0)], [(3, 0)]]
    assert planned(max_packed_tokens=3 * n) == [[(0, 0), (1, 0), (3, 0)]]
    assert planned(max_packed_tokens=3 * n - 1) == [[(0, 0), (1, 0)], [(3, 0)]]
    assert planned(max_packed_tokens=1) == planned()  # a group that is too long by itself has a pass of its own
    assert planned(group_chunk=1) == [[(0, 0)], [(0, 1)], [(1, 0)], [(1, 1)], [(3, 0)], [(3, 1)]]


@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
def test_a_step_of_packed_groups_is_the_step(toy, policy, loss_type):
    groups = groups_of(toy, policy)
    first = {name: value.clone() for name, value in policy.model.state_dict().items()}
    options = {"preset": "grpo", "num_generations": 2, "loss_type": loss_type, "num_iterations": 2}
    found, results = [], []
    for limit in (None, 2 * max(map(packed_tokens, groups)), 10**6):
        policy.model.load_state_dict(first)
        config = config_of(toy, "grpo", max_packed_tokens=limit, **options)
        result, steps, _ = step_on(policy, groups, config, rate=1e-4)
        results.append(result)
        found.append(torch.cat([gradient.flatten() for step in steps for gradient in step]))
    assert [sum(report.policy_passes for report in result.groups) for result in results] == [8, 4, 2]
    for gradient, result in zip(found[1:], results[1:], strict=True):
        assert (gradient - found[0]).norm() < 1e-4 * found[0].norm()
        for mine, other in zip(result.groups, results[0].groups, strict=True):
            assert mine.loss == pytest.approx(other.loss, abs=1e-5)
            assert mine.kl == pytest.approx(other.kl, rel=1e-3, abs=1e-6)
            assert mine.old_kl == pytest.approx(other.old_kl, rel=1e-2, abs=1e-7)


def test_it_is_no_part_of_a_runs_identity_and_needs_the_packed_form(toy, tmp_path):
    settings = {"max_steps": 2, "num_generations": 4, "gradient_accumulation_steps": 3}
    config = toy_config(toy.sft, toy.data, tmp_path / "one", "care", **settings)
    plan_and_train(config)
    packed = dataclasses.replace(config, out=tmp_path / "packed", max_packed_tokens=10**6)
    plan_and_train(packed)
    one, together = metrics_of(tmp_path / "one"), metrics_of(tmp_path / "packed")
    assert [line["reward"] for line in one] == [line["reward"] for line in together]
    assert together[0]["grad_norm"] == pytest.approx(one[0]["grad_norm"], rel=1e-4)
    assert [line["policy_passes"] for line in together] == [1 if line["policy_passes"] else 0 for line in one]
    assert max(line["policy_passes"] for line in one) > 1
    with pytest.raises(ConfigError, match="--max-packed-tokens does nothing without --shared-prefix"):
        config_of(toy, max_packed_tokens=100, shared_prefix=False)
    with pytest.raises(ConfigError, match="--group-chunk divides passes, --max-packed-tokens joins them"):
        config_of(toy, max_packed_tokens=100, group_chunk=2)
