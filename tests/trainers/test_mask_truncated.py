"""--mask-truncated: rollouts cut at the limit add nothing to the loss, and what it is divided by."""

import pytest
import torch

from tests.trainers.test_iterations import step_on
from tests.trainers.test_steps import A, B, config_of, group_of, plain_logprobs, policy
from trainers.groups import counted_rollouts, counted_tokens
from trainers.loss import policy_loss

__all__ = ["policy"]  # a fixture

CUT = "<think>so A so A so A"


def test_a_rollout_without_counted_tokens_adds_nothing_and_stays_in_the_mean_by_hand():
    logprobs = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    loss = policy_loss(logprobs, torch.tensor([3.0, -2.0], dtype=torch.float64), torch.tensor([[1, 1], [0, 0]]))
    assert loss.item() == -1.5  # -3 over 2 rollouts
    loss.backward()
    assert logprobs.grad.tolist() == [[-0.75, -0.75], [0.0, 0.0]]


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo", "gspo"])
def test_the_gradient_is_that_of_the_finished_rollouts(toy, policy, loss_type):
    options = {"preset": "grpo-nokl", "num_generations": 3, "loss_type": loss_type}
    config = config_of(toy, "grpo", mask_truncated=True, **options)
    group = group_of(toy, policy, [A, B, CUT], cut=(2,))
    assert counted_rollouts(group, config).tolist() == [True, True, False]
    n_tokens = [len(one.token_ids) for one in group.rollouts]
    assert counted_tokens(group, config) == n_tokens[0] + n_tokens[1]
    assert counted_tokens(group, config_of(toy, "grpo", **options)) == sum(n_tokens)
    first = {name: value.clone() for name, value in policy.model.state_dict().items()}
    result, (found,), _ = step_on(policy, [group], config)
    lines = result.groups[0].rollouts
    assert len({line["reward"] for line in lines}) == 3  # the one that was cut has its reward, and its advantage
    assert lines[2]["advantage"] != 0
    policy.model.load_state_dict(first)
    policy.model.zero_grad()
    terms = []
    for one, line in zip(group.rollouts[:2], lines[:2], strict=True):
        new = plain_logprobs(policy.model, group.example.inputs, one.token_ids)
        divisor = {"dr_grpo": 3 * 16, "dapo": n_tokens[0] + n_tokens[1]}.get(loss_type, 3 * len(new))
        terms.append(line["advantage"] * new.sum() / divisor)
    (-torch.stack(terms).sum()).backward()
    expected = torch.cat([p.grad.flatten() for p in policy.trainable().values()])
    assert (torch.cat([one.flatten() for one in found]) - expected).norm() < 1e-3 * expected.norm()


def test_a_group_of_which_only_cut_rollouts_differ_costs_no_pass(toy, policy):
    options = {"preset": "grpo-nokl", "num_generations": 2}
    group = group_of(toy, policy, [CUT, CUT + " so"], cut=(0, 1))
    masked = config_of(toy, "grpo", mask_truncated=True, **options)
    result, gradients, _ = step_on(policy, [group], masked)
    assert result.groups[0].policy_passes == 0
    # All rollouts cut: DAPO's count of tokens is 0, and nothing is divided by it.
    result, gradients, _ = step_on(
        policy, [group], config_of(toy, "grpo", mask_truncated=True, **options, loss_type="dapo")
    )
    assert not any(bool(gradient.any()) for gradient in gradients[0])
    # The penalty, too, is on rollouts that count.
    kl = {"num_generations": 2, "beta": 0.1, "mask_truncated": True}
    assert step_on(policy, [group], config_of(toy, "grpo", **kl))[0].groups[0].policy_passes == 0
    finished = group_of(toy, policy, [A, CUT], cut=(1,))
    assert step_on(policy, [finished], config_of(toy, "grpo", **kl))[0].groups[0].policy_passes == 1


def test_without_a_cut_rollout_it_changes_no_bit(toy, policy):
    group = group_of(toy, policy, [A, B, B])
    first = {name: value.clone() for name, value in policy.model.state_dict().items()}
    found = []
    for masked in (False, True):
        policy.model.load_state_dict(first)
        config = config_of(toy, "grpo", preset="grpo-nokl", num_generations=3, mask_truncated=masked)
        found.append(step_on(policy, [group], config)[1][0])
    assert all(map(torch.equal, *found))
