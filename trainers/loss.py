"""The policy loss on completion tokens, with or without a KL penalty. Pure, fp32 or fp64.

- GRPO, arXiv 2402.03300, equation 3: every rollout counts alike, whatever its length.
- Dr. GRPO, arXiv 2503.20783: every token counts alike, by a constant; advantages are not divided by a deviation.
- DAPO, arXiv 2503.14476, equation 8: every token of the step counts alike; the ratio has two bounds.
- GSPO, arXiv 2507.18071, equations 5 and 7: one ratio for all tokens of a rollout.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.config import LossType


@dataclass(frozen=True, slots=True)
class LossForm:
    """How per-token terms become the loss of a rollout. The default is GRPO's."""

    length: float | None = None  # what a rollout's sum over its tokens is divided by; None: the number of its tokens
    sequence_ratio: bool = False  # one ratio for all tokens of a rollout, the geometric mean of theirs
    epsilon: float = 0.2  # the ratio counts from 1 - epsilon; GRPO and PPO (arXiv 1707.06347)
    epsilon_high: float = 0.2  # up to 1 + epsilon_high; DAPO's is 0.28


ON_POLICY_GRPO = LossForm()


def loss_form(
    loss_type: LossType,
    *,
    max_completion_length: int,
    tokens_per_rollout: float,  # mean over all rollouts of the step, of all processes
    epsilon: float = 0.2,
    epsilon_high: float = 0.2,
) -> LossForm:
    """The form of a loss type.

    With R rollouts in the step, of |o_i| tokens each, a token of rollout i counts 1 / (R |o_i|) in grpo and gspo,
    1 / (R max_completion_length) in dr_grpo, and 1 / (R tokens_per_rollout) in dapo, which is 1 / (sum of all |o_i|).
    """
    lengths = {"dr_grpo": float(max_completion_length), "dapo": tokens_per_rollout}
    return LossForm(lengths.get(loss_type), loss_type == "gspo", epsilon, epsilon_high)


def token_kl(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Per-token estimate of KL(policy || reference): exp(d) - d - 1 with d = reference - policy; never negative.

    Schulman's k3 estimator, as in GRPO (arXiv 2402.03300, equation 4). The tokens must be the first model's samples.
    """
    difference = reference_logprobs - logprobs
    return difference.exp() - difference - 1


def separate_kl_weights(
    mask: Tensor,  # (R, T) bool: completion tokens
    answer: Tensor,  # (R, T) bool: those of the answer; all others are the reasoning's
    *,
    beta_think: float,
    beta_answer: float,
    form: LossForm = ON_POLICY_GRPO,
) -> Tensor:  # (R, T) float32, 0 outside the mask; policy_loss's beta
    """Weights by which a rollout's penalty is beta_think x mean KL of its reasoning + beta_answer x its answer's.

    The SepKL-EMA-HA ablation of GRPO-CARE (arXiv 2506.16141, Table 3), of which the paper gives no formula: with one
    mean over both, the few tokens of an answer would hardly count. Each weight is multiplied by what policy_loss
    divides a rollout's sum by, so that the penalty is the same in every form.
    """
    parts = ((mask & ~answer, beta_think), (mask & answer, beta_answer))
    length = mask.sum(dim=1, keepdim=True).clamp(min=1).float() if form.length is None else form.length
    weights = torch.zeros(mask.shape, device=mask.device)
    for tokens, beta in parts:
        weights = weights + tokens * (beta * length / tokens.sum(dim=1, keepdim=True).clamp(min=1))
    return weights


def policy_ratio(
    logprobs: Tensor,  # (R, T) under the policy
    old_logprobs: Tensor,  # (R, T) under the policy that the rollouts are from; without gradient
    mask: Tensor,  # (R, T) bool
    *,
    sequence: bool = False,
) -> Tensor:  # (R, T); 1 outside the mask
    """pi / pi_old of each token; with `sequence` GSPO's s_i, exp of the mean log-ratio of a rollout, at all its tokens.

    GSPO, arXiv 2507.18071, equation 7.
    """
    # Padding is replaced before exp and not only after it: a NaN or -inf there would make the gradient NaN.
    difference = torch.where(mask, logprobs - old_logprobs, torch.zeros_like(logprobs))
    if sequence:
        mean = difference.sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)
        difference = torch.where(mask, mean, torch.zeros_like(difference))
    return difference.exp()


def policy_loss(
    logprobs: Tensor,  # (R, T) of the rollouts' tokens under the policy; R rollouts
    advantages: Tensor,  # (R,); or (R, T), each token's times its importance weight
    mask: Tensor,  # (R, T) bool or 0/1: completion tokens
    *,
    beta: float | Tensor = 0.0,  # weight of the KL penalty; or (R, T), each token's
    reference_logprobs: Tensor | None = None,  # (R, T); needed when beta is not 0
    kl_rollouts: Tensor | None = None,  # (R,) bool: penalise these only (the paper's KL-EMA-HA); None: all
    old_logprobs: Tensor | None = None,  # (R, T) before the first update on these rollouts; None: this is the first
    form: LossForm = ON_POLICY_GRPO,
) -> Tensor:  # scalar
    """Mean over rollouts of the sum over their tokens, divided by the form's length, of

        -min(ratio x A, clip(ratio, 1 - epsilon, 1 + epsilon_high) x A) + beta x KL

    (GRPO, arXiv 2402.03300, equation 3; the two bounds are DAPO's, arXiv 2503.14476). In the first update the ratio is
    exp(logprob - logprob.detach()), which is 1 with the gradient of the log-probability: there is nothing to clip. A
    rollout without tokens adds 0, and counts in the mean.

    Raises ValueError if beta is not 0 without reference_logprobs.
    """
    penalty = isinstance(beta, Tensor) or beta != 0
    if penalty and reference_logprobs is None:
        raise ValueError("beta > 0 needs reference_logprobs")
    inside = mask.bool()
    per_rollout = advantages if advantages.ndim == 2 else advantages[:, None]
    old = logprobs.detach() if old_logprobs is None else old_logprobs
    ratio = policy_ratio(logprobs, old, inside, sequence=form.sequence_ratio)
    per_token = -(ratio * per_rollout)
    if old_logprobs is not None:
        clipped = ratio.clamp(1 - form.epsilon, 1 + form.epsilon_high)
        per_token = torch.maximum(per_token, -(clipped * per_rollout))
    if penalty and reference_logprobs is not None:
        kl = token_kl(logprobs, torch.where(inside, reference_logprobs, logprobs.detach()))
        penalised = inside if kl_rollouts is None else inside & kl_rollouts.bool()[:, None]
        per_token = per_token + beta * torch.where(penalised, kl, torch.zeros_like(kl))
    summed = torch.where(inside, per_token, torch.zeros_like(per_token)).sum(dim=1)
    return (summed / (inside.sum(dim=1).clamp(min=1) if form.length is None else form.length)).mean()


def clipped_tokens(
    logprobs: Tensor,  # (R, T)
    old_logprobs: Tensor,  # (R, T)
    advantages: Tensor,  # (R,) or (R, T)
    mask: Tensor,  # (R, T) bool
    form: LossForm,
) -> Tensor:  # (R, T) bool
    """The tokens whose gradient clipping has taken: the ratio has left the bounds on the side of its advantage."""
    ratio = policy_ratio(logprobs, old_logprobs, mask, sequence=form.sequence_ratio)
    sign = advantages if advantages.ndim == 2 else advantages[:, None]
    above, below = (ratio > 1 + form.epsilon_high) & (sign > 0), (ratio < 1 - form.epsilon) & (sign < 0)
    return mask & (above | below)
