"""Log-probabilities of given tokens, computed from hidden states in chunks: no tensor of all logits ever exists."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# 64 rows of 152k float32 logits are 39 MB; for 2,400 rows, the output layer's weights are read 38 times.
CHUNK_ROWS = 64


def token_logprobs(
    project: Callable[[Tensor], Tensor],  # the output layer: (n, H) -> (n, V)
    hidden: Tensor,  # (N, H), the model's dtype
    tokens: Tensor,  # (N,) int64
    *,
    temperature: float = 1.0,
    chunk_rows: int = CHUNK_ROWS,
) -> Tensor:  # (N,) float32; float64 if the logits are float64
    """Natural log of softmax(project(hidden) / temperature) at each row's token.

    Logits are widened to float32 before the softmax. With gradients enabled, each chunk's logits are computed again in
    the backward pass, which costs one more product with the output layer and keeps the peak at one chunk's logits and
    their gradient. `project` may be any module, adapters and autocast included. N = 0 gives an empty result that is
    still part of the graph. Raises ValueError if temperature is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; log-probabilities need one above 0")

    def one_chunk(rows: Tensor, wanted: Tensor) -> Tensor:
        logits = project(rows)
        if logits.dtype != torch.float64:
            logits = logits.float()
        if temperature != 1:
            logits = logits / temperature
        return -torch.nn.functional.cross_entropy(logits, wanted, reduction="none")

    parts = []
    for start in range(0, max(len(hidden), 1), chunk_rows):
        rows, wanted = hidden[start : start + chunk_rows], tokens[start : start + chunk_rows]
        if torch.is_grad_enabled():
            parts.append(checkpoint(one_chunk, rows, wanted, use_reentrant=False, preserve_rng_state=False))
        else:
            parts.append(one_chunk(rows, wanted))
    return torch.cat(parts)
