"""Correction of the loss for a sampler that is not quite the policy: truncated importance weights of the tokens.

Rollouts that vLLM draws come from other kernels, and in bfloat16 from visibly other probabilities, than those that the
loss differentiates.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from trainers.groups import Rollout


def importance_weights(
    logprobs: Tensor,  # (R, T) under the policy whose weights the sampler had; without gradient
    sampler_logprobs: Tensor,  # (R, T) by the sampler
    *,
    cap: float,
) -> Tensor:  # (R, T) in (0, cap]
    """min(pi_old / pi_sampler, cap) of every token.

    The expectation under the sampler of the weight times a token's term is the term's under the policy, up to the cap,
    which bounds the variance at the price of a bias: truncated importance sampling, Ionides 2008 (Journal of
    Computational and Graphical Statistics 17, 295), for policy gradients IMPALA's rho (arXiv 1802.01561, section 4.1).
    """
    return (logprobs - sampler_logprobs).exp().clamp(max=cap)


def recorded_logprobs(
    rollouts: Sequence[Rollout],
    logprobs: Tensor,  # (R, T)
) -> Tensor | None:  # (R, T)
    """The sampler's log-probabilities, padded with the policy's, whose weight is 1; None if it has recorded none."""
    if all(rollout.logprobs is None for rollout in rollouts):
        return None
    recorded = logprobs.clone()
    for row, rollout in enumerate(rollouts):
        if rollout.logprobs is not None:
            recorded[row, : len(rollout.logprobs)] = recorded.new_tensor(rollout.logprobs)
    return recorded
