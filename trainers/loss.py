"""The policy loss on completion tokens: on-policy or clipped, with or without a KL penalty. Pure, fp32 or fp64."""

from __future__ import annotations

import torch
from torch import Tensor


def token_kl(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Per-token estimate of KL(policy || reference): exp(d) - d - 1 with d = reference - policy; never negative.

    Schulman's k3 estimator, as in GRPO (arXiv 2402.03300, equation 4).
    """
    difference = reference_logprobs - logprobs
    return difference.exp() - difference - 1


def policy_loss(
    logprobs: Tensor,  # (R, T) of the rollouts' tokens under the policy; R rollouts
    advantages: Tensor,  # (R,)
    mask: Tensor,  # (R, T) bool or 0/1: completion tokens
    *,
    old_logprobs: Tensor | None = None,  # (R, T) at sampling time; None: on-policy, one update a rollout
    clip: float | None = None,  # of the ratio; needs old_logprobs
    beta: float = 0.0,  # weight of the KL penalty
    reference_logprobs: Tensor | None = None,  # (R, T); needed when beta > 0
    kl_rollouts: Tensor | None = None,  # (R,) bool: penalise these only (the paper's KL-EMA-HA); None: all
) -> Tensor:  # scalar
    """Mean over rollouts of the mean over their tokens of -(ratio x advantage) + beta x KL.

    On-policy the ratio is exp(logprob - logprob.detach()), which is 1 with the gradient of the log-probability: what
    the GRPO-CARE code does. With old_logprobs the ratio is clipped to 1 +- clip (PPO). A rollout without tokens adds 0.

    Raises ValueError if beta > 0 without reference_logprobs, or clip without old_logprobs.
    """
    if beta and reference_logprobs is None:
        raise ValueError("beta > 0 needs reference_logprobs")
    if clip is not None and old_logprobs is None:
        raise ValueError("clip needs old_logprobs")
    inside = mask.bool()
    sampled = logprobs.detach() if old_logprobs is None else old_logprobs
    ratio = torch.where(inside, logprobs - sampled, torch.zeros_like(logprobs)).exp()
    gain = ratio * advantages[:, None]
    if clip is not None:
        gain = torch.minimum(gain, ratio.clamp(1 - clip, 1 + clip) * advantages[:, None])
    per_token = -gain
    if beta and reference_logprobs is not None:
        kl = token_kl(logprobs, torch.where(inside, reference_logprobs, logprobs.detach()))
        penalised = inside if kl_rollouts is None else inside & kl_rollouts.bool()[:, None]
        per_token = per_token + beta * torch.where(penalised, kl, torch.zeros_like(kl))
    summed = torch.where(inside, per_token, torch.zeros_like(per_token)).sum(dim=1)
    return (summed / inside.sum(dim=1).clamp(min=1)).mean()
