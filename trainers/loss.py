"""The policy loss on completion tokens: strictly on-policy, with or without a KL penalty. Pure, fp32 or fp64."""

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
    beta: float = 0.0,  # weight of the KL penalty
    reference_logprobs: Tensor | None = None,  # (R, T); needed when beta > 0
    kl_rollouts: Tensor | None = None,  # (R,) bool: penalise these only (the paper's KL-EMA-HA); None: all
) -> Tensor:  # scalar
    """Mean over rollouts of the mean over their tokens of -(ratio x advantage) + beta x KL.

    The ratio is exp(logprob - logprob.detach()), which is 1 with the gradient of the log-probability: with one update
    per rollout, as in the GRPO-CARE code, there is nothing to clip. A rollout without tokens adds 0.

    Raises ValueError if beta > 0 without reference_logprobs.
    """
    if beta and reference_logprobs is None:
        raise ValueError("beta > 0 needs reference_logprobs")
    inside = mask.bool()
    # Padding is replaced before exp and not only after it: a NaN or -inf there would make the gradient NaN.
    ratio = torch.where(inside, logprobs - logprobs.detach(), torch.zeros_like(logprobs)).exp()
    per_token = -(ratio * advantages[:, None])
    if beta and reference_logprobs is not None:
        kl = token_kl(logprobs, torch.where(inside, reference_logprobs, logprobs.detach()))
        penalised = inside if kl_rollouts is None else inside & kl_rollouts.bool()[:, None]
        per_token = per_token + beta * torch.where(penalised, kl, torch.zeros_like(kl))
    summed = torch.where(inside, per_token, torch.zeros_like(per_token)).sum(dim=1)
    return (summed / inside.sum(dim=1).clamp(min=1)).mean()
