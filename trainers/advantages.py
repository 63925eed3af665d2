"""Rewards -> advantages, within the group of one question."""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-4  # TRL's GRPO and the GRPO-CARE code


def group_advantages(rewards: Tensor, *, eps: float = EPS, scale: bool = True) -> Tensor:
    """(B, G) -> (B, G): (reward - mean) / (std + eps), unbiased std of the own group (GRPO, arXiv 2402.03300).

    Without `scale` it is reward - mean, as in Dr. GRPO (arXiv 2503.20783): divided by its deviation, a question that is
    nearly always or hardly ever answered weighs more than others. G = 1 has no spread: 0. Equal rewards give exactly 0,
    so that the group can be left out of the policy pass.
    """
    if rewards.shape[1] == 1:
        return torch.zeros_like(rewards)
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    advantages = centred / (rewards.std(dim=1, keepdim=True) + eps) if scale else centred
    # The mean of equal rewards may be rounded away from them, which would leave tiny advantages.
    equal = rewards.amax(dim=1, keepdim=True) == rewards.amin(dim=1, keepdim=True)
    return torch.where(equal, torch.zeros_like(advantages), advantages)
