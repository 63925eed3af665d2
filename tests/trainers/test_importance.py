"""The correction of the sampler's gap: weights by hand, an unbiased expectation, and nothing where it is off."""

import dataclasses
import math

import pytest
import torch

from seedbench_r1.cli.train import header
from seedbench_r1.errors import ConfigError
from tests.trainers.test_iterations import step_on
from tests.trainers.test_parts import resolved, rollout
from tests.trainers.test_steps import A, B, config_of, group_of, plain_logprobs, policy
from trainers.checkpoints import Progress, SavedTraining, check_same_run
from trainers.groups import GroupReport, Importance, Rollout
from trainers.identity import resume_identity
from trainers.importance import importance_weights, recorded_logprobs
from trainers.loss import policy_loss
from trainers.metrics import grpo_metrics
from trainers.plan import plan_training

__all__ = ["policy"]  # a fixture


def test_weights_by_hand():
    policy = torch.tensor([[0.5, 0.3, 0.8]], dtype=torch.float64).log()
    sampler = torch.tensor([[0.4, 0.6, 0.1]], dtype=torch.float64).log()
    found = importance_weights(policy, sampler, cap=2.0)
    assert found[0].tolist() == pytest.approx([1.25, 0.5, 2.0])  # 8 is truncated
    mask = torch.ones(1, 3)
    loss = policy_loss(policy, found * torch.tensor([[4.0]]), mask)
    assert loss.item() == pytest.approx(-(1.25 + 0.5 + 2.0) * 4 / 3)


def test_weighted_terms_have_the_policys_expectation():
    """Over all tokens of a vocabulary of five, drawn by another distribution than the policy's."""
    drawn = torch.Generator().manual_seed(2)
    logits = torch.randn(5, generator=drawn, dtype=torch.float64, requires_grad=True)
    sampler = torch.randn(5, generator=drawn, dtype=torch.float64).log_softmax(0)
    advantages = torch.randn(5, generator=drawn, dtype=torch.float64)

    def gradient(weights_of_rollouts, importance):
        logprobs = logits.log_softmax(0)[:, None]  # a rollout of one token each
        terms = [
            share * policy_loss(logprobs[[i]], advantages[[i]] * importance[i], torch.ones(1, 1))
            for i, share in enumerate(weights_of_rollouts.tolist())
        ]
        return torch.autograd.grad(torch.stack(terms).sum(), logits)[0]

    old = logits.detach().log_softmax(0)
    expected = gradient(old.exp(), torch.ones(5))
    weights = importance_weights(old[None], sampler[None], cap=math.inf)[0]
    torch.testing.assert_close(gradient(sampler.exp(), weights), expected, rtol=0, atol=1e-14)
    assert (gradient(sampler.exp(), torch.ones(5)) - expected).abs().max() > 1e-2
    capped = importance_weights(old[None], sampler[None], cap=1.0)[0]
    assert capped.max() == 1.0
    assert (gradient(sampler.exp(), capped) - expected).abs().max() > 1e-3


def test_tokens_without_a_record_weigh_one():
    logprobs = torch.tensor([[-1.0, -2.0], [-3.0, 0.0]])
    rollouts = [Rollout((1, 2), "", "stop"), Rollout((1,), "", "stop", (-3.5,))]
    assert recorded_logprobs(rollouts, logprobs).tolist() == [[-1.0, -2.0], [-3.5, 0.0]]
    assert recorded_logprobs(rollouts[:1], logprobs) is None


def recorded(group, shift):
    """The group as vLLM would have drawn it: with the log-probability of every token, here `shift` a token."""
    rollouts = tuple(dataclasses.replace(one, logprobs=tuple(shift(one))) for one in group.rollouts)
    return dataclasses.replace(group, rollouts=rollouts)


@pytest.mark.parametrize("iterations", [1, 2])
def test_the_gradient_is_that_of_the_weighted_tokens(toy, policy, iterations):
    plain = group_of(toy, policy, [A, B, B])
    with torch.no_grad():
        old = [plain_logprobs(policy.model, plain.example.inputs, one.token_ids) for one in plain.rollouts]
    own = dict(zip([one.token_ids for one in plain.rollouts], old, strict=True))
    # The sampler's log p is the policy's less (-1, 0, 0.5, -1, 0, 0.5, ...): weights e^-1, 1, e^0.5, all below the cap.
    shifts = {ids: torch.tensor([(-1.0, 0.0, 0.5)[i % 3] for i in range(len(ids))]) for ids in own}
    group = recorded(plain, lambda one: (own[one.token_ids] - shifts[one.token_ids]).tolist())
    config = config_of(toy, "grpo", preset="grpo-nokl", num_generations=3, num_iterations=iterations)
    config = dataclasses.replace(config, rollouts="vllm", importance_cap=2.0)
    result, gradients, weights = step_on(policy, [group], config, rate=1e-4)
    advantages = torch.tensor([line["advantage"] for line in result.groups[0].rollouts])
    for found, state in zip(gradients, weights, strict=True):
        policy.model.load_state_dict(state)
        policy.model.zero_grad()
        terms = []
        for one, advantage in zip(plain.rollouts, advantages, strict=True):
            new = plain_logprobs(policy.model, plain.example.inputs, one.token_ids)
            ratio = (new - own[one.token_ids]).exp()
            assert 0.8 < float(ratio.detach().min()) <= float(ratio.detach().max()) < 1.2  # nothing is clipped
            terms.append((shifts[one.token_ids].exp() * ratio * advantage).mean())
        (-torch.stack(terms).mean()).backward()
        expected = torch.cat([p.grad.flatten() for p in policy.trainable().values()])
        assert (torch.cat([one.flatten() for one in found]) - expected).norm() < 1e-3 * expected.norm()
    every = torch.cat([shifts[one.token_ids] for one in plain.rollouts]).exp()
    assert result.groups[0].importance.weight == pytest.approx(float(every.mean()), rel=1e-3)
    assert result.groups[0].importance.truncated == 0


def test_what_is_off_or_agrees_changes_no_bit(toy, policy):
    plain = group_of(toy, policy, [A, B, B])
    config = config_of(toy, "grpo", preset="grpo-nokl", num_generations=3)
    first = {name: value.clone() for name, value in policy.model.state_dict().items()}
    far = recorded(plain, lambda one: [-9.0] * len(one.token_ids))
    found, reports = [], []
    for group, cap in ((plain, 0.0), (far, 0.0), (plain, 2.0), (far, 2.0)):
        policy.model.load_state_dict(first)
        result, gradients, _ = step_on(policy, [group], dataclasses.replace(config, importance_cap=cap))
        found.append(gradients[0])
        reports += result.groups
    for other in found[1:3]:  # off; or a sampler that records nothing
        assert all(map(torch.equal, other, found[0]))
    assert [report.importance for report in reports[:3]] == [None] * 3
    assert reports[3].importance == Importance(2.0, 1.0)  # all truncated: twice the gradient
    assert all(torch.allclose(other, 2 * one) for one, other in zip(found[0], found[3], strict=True))


def test_it_is_on_with_vllm_where_probabilities_can_be_compared(tmp_path):
    assert resolved(tmp_path, algo="care").importance_cap == 0
    assert resolved(tmp_path, algo="care", rollouts="vllm").importance_cap == 2
    assert resolved(tmp_path, algo="care", rollouts="vllm", importance_cap=0.0).importance_cap == 0
    assert resolved(tmp_path, algo="care", rollouts="vllm", importance_cap=5.0).importance_cap == 5
    assert resolved(tmp_path, preset="care-paper", rollouts="vllm").importance_cap == 0  # top-p and top-k
    assert resolved(tmp_path, algo="care", rollouts="vllm", temperature=0.9).importance_cap == 0
    with pytest.raises(ConfigError, match=r"--importance-cap 2 compares .*: --importance-cap 0, or --temperature 1"):
        resolved(tmp_path, preset="care-paper", rollouts="vllm", importance_cap=2.0)
    with pytest.raises(ConfigError, match="--importance-cap belongs to --rollouts vllm"):
        resolved(tmp_path, algo="care", importance_cap=2.0)
    assert resume_identity(resolved(tmp_path, algo="care", rollouts="vllm"))["importance_cap"] == 2


def test_the_header_says_when_vllms_gap_is_not_corrected(toy):
    planned = plan_training(config_of(toy))
    for cap, said in ((0.0, True), (2.0, False)):
        config = dataclasses.replace(planned.config, rollouts="vllm", importance_cap=cap)
        lines = header(dataclasses.replace(planned, config=config))
        assert any("the loss is not corrected" in line for line in lines) == said


def test_metrics_of_the_correction_by_hand():
    weighted = [Importance(1.2, 0.0), Importance(0.8, 0.5), None]
    found = grpo_metrics([GroupReport([rollout()], 0.0, None, 1, 0, importance=value) for value in weighted])
    assert found["importance_weight"] == pytest.approx(1.0)
    assert found["importance_truncated"] == pytest.approx(0.25)
    assert "importance_weight" not in grpo_metrics([GroupReport([rollout()], 0.0, None, 1, 0)])


def test_a_vllm_training_of_before_goes_on_without_it_and_not_silently_with(tmp_path):
    options = {"algo": "care", "rollouts": "vllm"}
    identity = resume_identity(resolved(tmp_path, **options))
    former = {name: value for name, value in identity.items() if name != "importance_cap"}
    saved = SavedTraining(tmp_path, 1, Progress(), former, {})
    check_same_run(saved, resume_identity(resolved(tmp_path, **options, importance_cap=0.0)))
    with pytest.raises(ConfigError, match=r"importance_cap: 0\.0 there, 2\.0 here"):
        check_same_run(saved, identity)
