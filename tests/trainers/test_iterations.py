"""Several optimiser steps on one batch of rollouts: each gradient is the paper's, and training continues as it was."""

import threading

import pytest
import torch

from tests.trainers.launch import assert_same_checkpoint, metrics_of
from tests.trainers.test_parts import rollout
from tests.trainers.test_steps import A, B, config_of, group_of, plain_logprobs, policy, reference_of
from tests.trainers.toy import plan_and_train, toy_config
from trainers.checkpoints import TrainingState
from trainers.groups import GroupReport
from trainers.grpo import grpo_step
from trainers.metrics import grpo_metrics
from trainers.optimizer import Optimizer
from trainers.processes import Processes

__all__ = ["policy"]  # a fixture

SMALL = {"max_steps": 4, "num_generations": 4, "gradient_accumulation_steps": 2, "save_steps": 100}


class GivenRollouts:
    """A sampler that has drawn already."""

    def __init__(self, groups):
        self.groups = groups

    def sample(self, examples):
        return self.groups


def step_on(policy, groups, config, rate=1e-3):
    """grpo_step on these groups. Returns its result, each iteration's gradients, and the weights that they are of."""
    reference = reference_of(policy, config.reference)
    state = TrainingState(policy, reference, Optimizer(policy.trainable(), config))
    gradients, weights = [], []

    def update():
        gradients.append([gradient.clone() for gradient in state.optimizer.gradients()])
        weights.append({name: value.detach().clone() for name, value in policy.model.state_dict().items()})
        return state.optimizer.step(rate)

    sampler = GivenRollouts(groups)
    examples, alone = [one.example for one in groups], Processes("cpu")
    result = grpo_step(state, sampler, examples, config, len(groups), alone, update, lambda places: None)
    return result, gradients, weights


def logprobs_of_rollouts(model, group):
    return [plain_logprobs(model, group.example.inputs, one.token_ids) for one in group.rollouts]


def papers_loss(new, old, advantages, loss_type, low, high):
    """Of one group, in loops over rollouts."""
    n_tokens, terms = sum(map(len, new)), []
    for log_p, log_old, advantage in zip(new, old, advantages, strict=True):
        difference = log_p - log_old
        ratio = (difference.mean() if loss_type == "gspo" else difference).exp()
        term = torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
        scale = {"dr_grpo": 16 * len(new), "dapo": n_tokens}.get(loss_type, len(new) * term.numel())
        terms.append(term.sum() / scale)
    return -torch.stack(terms).sum()


@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo", "gspo"])
def test_every_iterations_gradient_is_the_papers(toy, policy, loss_type, chunk):
    options = {"num_generations": 4, "num_iterations": 3, "epsilon": 0.05, "epsilon_high": 0.1, "group_chunk": chunk}
    config = config_of(toy, "grpo", preset="grpo-nokl", loss_type=loss_type, **options)
    group = group_of(toy, policy, [A, B, "<think>so so so A</think><answer>C</answer>", A.replace("so", "")])
    result, gradients, weights = step_on(policy, [group], config)
    accuracy = torch.tensor([line["accuracy"] for line in result.groups[0].rollouts])
    centred = accuracy - accuracy.mean()  # all are well formed
    advantages = centred if loss_type == "dr_grpo" else centred / (accuracy.std() + 1e-4)
    assert accuracy.tolist() == [1, 0, 0, 1]
    losses, old, clipped = [], None, []
    for found, state in zip(gradients, weights, strict=True):
        policy.model.load_state_dict(state)
        policy.model.zero_grad()
        new = logprobs_of_rollouts(policy.model, group)
        old = [one.detach() for one in new] if old is None else old
        loss = papers_loss(new, old, advantages.tolist(), loss_type, 0.05, 0.1)
        loss.backward()
        expected = torch.cat([p.grad.flatten() for p in policy.trainable().values()])
        assert expected.norm() > 1e-3
        assert (torch.cat([one.flatten() for one in found]) - expected).norm() < 1e-3 * expected.norm()
        losses.append(float(loss.detach()))
        ratios = torch.cat([(a - b).detach().exp() for a, b in zip(new, old, strict=True)])
        clipped.append(float(((ratios > 1.1) | (ratios < 0.95)).float().mean()))
    (report,) = result.groups
    assert report.loss == pytest.approx(sum(losses) / 3, abs=1e-5)
    assert report.policy_passes == 3
    assert clipped[0] == 0 < clipped[2], "nothing was clipped: the bounds were not tested"
    assert 0 < report.clip_fraction <= (1 if loss_type == "gspo" else sum(clipped[1:]) / 2 + 1e-6)
    drifts = []
    for state in weights[1:]:
        policy.model.load_state_dict(state)
        with torch.no_grad():
            new = logprobs_of_rollouts(policy.model, group)
        d = torch.cat(new) - torch.cat(old)
        drifts.append(float((d.exp() - 1 - d).mean()))
    assert report.old_kl == pytest.approx(sum(drifts) / 2, rel=1e-3)


def test_one_iteration_measures_no_ratio(toy, policy):
    config = config_of(toy, "grpo", preset="grpo-nokl")
    result, gradients, _ = step_on(policy, [group_of(toy, policy, [A, B])], config)
    (report,) = result.groups
    assert (len(gradients), report.policy_passes) == (1, 1)
    assert report.clip_fraction is report.old_kl is None
    assert "clip_fraction" not in grpo_metrics(result.groups)
    norm = torch.cat([gradient.flatten() for gradient in gradients[0]]).norm()
    assert result.grad_norm == pytest.approx(float(norm), rel=1e-5)


def test_metrics_of_further_iterations_by_hand():
    reports = [
        GroupReport([rollout()], 0.5, None, 2, 0, clip_fraction=0.25, old_kl=0.01),
        GroupReport([rollout()], 0.0, None, 0, 0),  # without a gradient
        GroupReport([rollout()], 0.25, None, 2, 0, clip_fraction=0.75, old_kl=0.03),
    ]
    found = grpo_metrics(reports)
    assert found["clip_fraction"] == 0.5
    assert found["old_kl"] == pytest.approx(0.02)
    assert (found["loss"], found["policy_passes"]) == (0.25, 4)


def test_two_and_two_steps_of_two_iterations_are_four(toy, tmp_path):
    settings = SMALL | {"num_iterations": 2, "loss_type": "gspo", "epsilon": 0.01, "ema_every": 1, "beta": 0.1}
    whole = plan_and_train(toy_config(toy.sft, toy.data, tmp_path / "whole", "care", **settings))
    config = toy_config(toy.sft, toy.data, tmp_path / "parts", "care", **settings)
    stop = threading.Event()
    plan_and_train(config, stop=stop, observe=lambda line: stop.set() if line["step"] == 2 else None)
    second = plan_and_train(config)
    assert_same_checkpoint(whole.checkpoint, second.checkpoint)
    lines = metrics_of(tmp_path / "parts")
    assert lines == metrics_of(tmp_path / "whole")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]  # a step is a batch of rollouts
    assert max(line["clip_fraction"] for line in lines) > 0
    assert lines[0]["kl"] > 1e-6  # in the second iteration the policy has left the reference


def test_the_upper_bound_is_the_lower_one_unless_given(toy):
    assert config_of(toy, num_iterations=2, epsilon=0.1).ratio_bounds == (0.1, 0.1)
    assert config_of(toy, num_iterations=2, epsilon_high=0.28).ratio_bounds == (0.2, 0.28)
