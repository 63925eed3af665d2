"""The loss types by hand, against the papers' sums written as loops in float64, and where they are today's loss."""

import math
from itertools import pairwise

import pytest
import torch

from trainers.advantages import group_advantages
from trainers.loss import LossForm, clipped_tokens, loss_form, policy_loss, policy_ratio

LIMIT = 4  # of the hand-worked rollouts
TYPES = ("grpo", "dr_grpo", "dapo", "gspo")


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


def form_of(loss_type, tokens_per_rollout=2.0, **bounds):
    return loss_form(loss_type, max_completion_length=LIMIT, tokens_per_rollout=tokens_per_rollout, **bounds)


@pytest.mark.parametrize(
    ("loss_type", "loss", "gradients"),
    [
        # Rollouts of 1 and 3 tokens with advantages 2 and -1. grpo: (-2 + 1) / 2; a token -2 / (2 x 1), 1 / (2 x 3)
        ("grpo", -0.5, (-1.0, 1 / 6)),
        ("gspo", -0.5, (-1.0, 1 / 6)),  # with one ratio that is 1 the same
        ("dr_grpo", 0.125, (-0.25, 0.125)),  # (-2 + 3) / (2 x 4)
        ("dapo", 0.25, (-0.5, 0.25)),  # (-2 + 3) / 4 tokens
    ],
)
def test_what_a_token_counts_by_hand(loss_type, loss, gradients):
    logprobs = torch.tensor([[-1.0, 0.0, 0.0], [-0.5, -0.5, -0.5]], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1, 0, 0], [1, 1, 1]])
    found = policy_loss(logprobs, doubles(2.0, -1.0), mask, form=form_of(loss_type))
    assert found.item() == pytest.approx(loss, abs=1e-15)
    found.backward()
    expected = torch.tensor([[gradients[0], 0, 0], [gradients[1]] * 3], dtype=torch.float64)
    torch.testing.assert_close(logprobs.grad, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "clipped"),
    [
        (1.5, 1.0, -1.28, 0.0, True),  # above 1 + epsilon_high
        (1.25, 1.0, -1.25, -1.25, False),
        (0.5, 1.0, -0.5, -0.5, False),  # a good token that has become unlikely may still be made likelier
        (0.5, -1.0, 0.8, 0.0, True),  # below 1 - epsilon
        (1.5, -1.0, 1.5, 1.5, False),
        (1.0, -1.0, 1.0, 1.0, False),
    ],
)
def test_the_ratio_is_clipped_by_hand(ratio, advantage, loss, gradient, clipped):
    logprobs = torch.tensor([[math.log(0.4)]], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([[math.log(0.4 / ratio)]], dtype=torch.float64)
    mask, form = torch.ones(1, 1, dtype=torch.bool), LossForm(epsilon=0.2, epsilon_high=0.28)
    found = policy_loss(logprobs, doubles(advantage), mask, old_logprobs=old, form=form)
    assert found.item() == pytest.approx(loss)
    found.backward()
    assert logprobs.grad.item() == pytest.approx(gradient)
    assert clipped_tokens(logprobs.detach(), old, doubles(advantage), mask, form).item() == clipped


def test_a_rollout_has_one_ratio_in_gspo_by_hand():
    # log-ratios ln 4 and 0: a ratio of 2; ln 1.21 and 0: of 1.1
    logprobs = torch.tensor([[-1.0, -2.0], [-1.0, -2.0]], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([[-1.0 - math.log(4), -2.0], [-1.0 - math.log(1.21), -2.0]], dtype=torch.float64)
    mask = torch.ones(2, 2, dtype=torch.bool)
    form = form_of("gspo")
    ratio = policy_ratio(logprobs.detach(), old, mask, sequence=True)
    torch.testing.assert_close(ratio, torch.tensor([[2.0, 2.0], [1.1, 1.1]], dtype=torch.float64))
    assert clipped_tokens(logprobs.detach(), old, doubles(1, 1), mask, form).tolist() == [[True] * 2, [False] * 2]
    # Token by token the first one alone of each would be clipped.
    tokens = clipped_tokens(logprobs.detach(), old, doubles(1, 1), mask, form_of("grpo"))
    assert tokens.tolist() == [[True, False], [True, False]]
    loss = policy_loss(logprobs, doubles(1, 1), mask, old_logprobs=old, form=form)
    assert loss.item() == pytest.approx(-(1.2 + 1.1) / 2)
    loss.backward()
    expected = torch.tensor([[0.0, 0.0], [-1.1 / 4, -1.1 / 4]], dtype=torch.float64)  # s / |o|, over 2 rollouts
    torch.testing.assert_close(logprobs.grad, expected, rtol=0, atol=1e-12)


def papers_loss(loss_type, groups, low, high):
    """The equations as they stand: groups of (log p, log p_old, advantage) a rollout, summed in loops."""
    rollouts = [rollout for group in groups for rollout in group]
    all_tokens = sum(len(new) for new, _, _ in rollouts)
    total = 0.0
    for group in groups:
        for new, old, advantage in group:
            ratios = [math.exp(a - b) for a, b in zip(new, old, strict=True)]
            if loss_type == "gspo":
                ratio = math.prod(ratios) ** (1 / len(ratios))
                term = min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)
                total += term / len(group) / len(groups)
                continue
            terms = [min(r * advantage, min(max(r, 1 - low), 1 + high) * advantage) for r in ratios]
            total += {
                "grpo": sum(terms) / len(new) / len(group) / len(groups),
                "dr_grpo": sum(terms) / LIMIT / len(group) / len(groups),
                "dapo": sum(terms) / all_tokens,
            }[loss_type]
    return -total


@pytest.mark.parametrize("loss_type", TYPES)
@pytest.mark.parametrize("cuts", [(0, 3), (0, 1, 3), (0, 2, 3)], ids=str)
def test_the_losses_of_a_step_add_up_to_the_papers_sum(loss_type, cuts):
    """Whatever the parts into which a group is cut."""
    drawn = torch.Generator().manual_seed(5)
    lengths = [(3, 1, 4), (2, 2, 4), (1, 1, 1)]
    n_tokens = sum(map(sum, lengths))
    form = form_of(loss_type, n_tokens / 9, epsilon=0.2, epsilon_high=0.28)
    groups, total = [], 0.0
    for row in lengths:
        mask = torch.arange(max(row)) < torch.tensor(row)[:, None]
        old = torch.rand(mask.shape, generator=drawn, dtype=torch.float64).log()
        new = old + 0.5 * torch.randn(mask.shape, generator=drawn, dtype=torch.float64)
        advantages = torch.randn(3, generator=drawn, dtype=torch.float64)
        for part in (slice(*pair) for pair in pairwise(cuts)):
            loss = policy_loss(new[part], advantages[part], mask[part], old_logprobs=old[part], form=form)
            total += float(loss) * len(mask[part]) / 3 / len(lengths)
        groups.append([(new[i, :n].tolist(), old[i, :n].tolist(), float(advantages[i])) for i, n in enumerate(row)])
    assert total == pytest.approx(papers_loss(loss_type, groups, 0.2, 0.28), rel=1e-12)


def test_without_an_option_it_is_the_strictly_on_policy_loss_to_the_last_bit():
    """The loss as it was before there were loss types and further updates."""
    drawn = torch.Generator().manual_seed(1)
    mask = torch.arange(9) < torch.tensor([9, 4, 1, 7])[:, None]
    logprobs = torch.where(mask, torch.rand(4, 9, generator=drawn).log(), 0.0).requires_grad_(True)
    advantages = group_advantages(torch.tensor([[1.0, 0.0, 2.5, 2.0]]))[0]
    ratio = torch.where(mask, logprobs - logprobs.detach(), torch.zeros_like(logprobs)).exp()
    summed = torch.where(mask, -(ratio * advantages[:, None]), torch.zeros_like(logprobs)).sum(dim=1)
    before = (summed / mask.sum(dim=1).clamp(min=1)).mean()
    found = policy_loss(logprobs, advantages, mask)
    assert torch.equal(found, before)
    (expected,), (gradient,) = torch.autograd.grad(before, logprobs), torch.autograd.grad(found, logprobs)
    assert torch.equal(gradient, expected)
    # Old log-probabilities that are the policy's own: a ratio of 1 is not clipped.
    again = policy_loss(logprobs, advantages, mask, old_logprobs=logprobs.detach())
    assert torch.equal(again, before)
    assert torch.equal(torch.autograd.grad(again, logprobs)[0], expected)


def test_padding_reaches_neither_loss_nor_gradient():
    logprobs = torch.tensor([[-1.0, -math.inf, math.nan]], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([[-1.0, math.nan, -math.inf]], dtype=torch.float64)
    mask = torch.tensor([[True, False, False]])
    for loss_type in TYPES:
        loss = policy_loss(logprobs, doubles(1.0), mask, old_logprobs=old, form=form_of(loss_type, 1.0))
        (gradient,) = torch.autograd.grad(loss, logprobs)
        assert gradient.isfinite().all()
        assert gradient[0, 0] == loss.detach() < 0


def test_advantages_without_their_deviation_by_hand():
    rewards = torch.tensor([[1.0, 2.0, 6.0], [0.1, 0.1, 0.1]], dtype=torch.float64)
    assert group_advantages(rewards, scale=False).tolist() == [[-2.0, -1.0, 3.0], [0.0, 0.0, 0.0]]
