"""One step of supervised fine-tuning: the responses' tokens, the prompt given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.config import TrainConfig
from trainers.data import Item
from trainers.optimizer import Optimizer
from trainers.policy import Policy
from trainers.sft_logprobs import batch_logprobs


@dataclass(frozen=True, slots=True)
class Taught:
    """What a response cost."""

    nll: float  # sum over its tokens of -log p, natural
    tokens: int  # end token included
    right: int  # tokens that had more than half of the probability; for the display


def response_tokens(policy: Policy, item: Item) -> Tensor:
    """(T,) int64: the response and the end of the turn."""
    tokenizer = policy.processor.tokenizer
    ids = tokenizer(item.response, add_special_tokens=False)["input_ids"]
    return torch.tensor([*ids, tokenizer.eos_token_id], dtype=torch.int64)


def sft_step(
    policy: Policy,
    optimizer: Optimizer,
    items: Sequence[Item],
    config: TrainConfig,
    gather: Callable[[list[int]], list[int]],
) -> list[Taught]:
    """Differentiate the mean over all response tokens of the step, other processes' included, of -log p.

    per_device_train_batch_size items share a pass. The gradients wait in the optimizer. Tokens count alike, as in the
    Hugging Face trainer, not responses.
    """
    responses = [response_tokens(policy, item) for item in items]
    n_tokens = sum(gather([len(response) for response in responses]))
    policy.model.train()  # gradient checkpointing asks for it; there is no dropout
    results = []
    size = config.per_device_train_batch_size
    for start in range(0, len(items), size):
        batch, taught = items[start : start + size], responses[start : start + size]
        logprobs, mask = batch_logprobs(policy.model, policy.processor.layout, [item.inputs for item in batch], taught)
        (-logprobs.sum() / n_tokens).backward()
        optimizer.collect()
        nll, right = -logprobs.detach().sum(dim=1), ((logprobs.detach().exp() > 0.5) & mask).sum(dim=1)
        results += [Taught(*row) for row in zip(nll.tolist(), map(len, taught), right.tolist(), strict=True)]
    return results
