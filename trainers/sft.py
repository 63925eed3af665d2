"""One step of supervised fine-tuning: the loss is on the responses' tokens only, not on the prompts'."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.config import TrainConfig
from trainers.data import TrainingExample
from trainers.optimizer import Optimizer
from trainers.policy import Policy
from trainers.sft_logprobs import batch_logprobs


@dataclass(frozen=True, slots=True)
class ResponseLoss:
    """One response's part of the loss."""

    nll: float  # sum over its tokens of -log p, natural
    tokens: int  # end token included
    confident: int  # tokens that had more than half of the probability; for the display


def response_tokens(policy: Policy, example: TrainingExample) -> Tensor:
    """(T,) int64: the response and the end of the turn."""
    tokenizer = policy.processor.tokenizer
    ids = tokenizer(example.response, add_special_tokens=False)["input_ids"]
    return torch.tensor([*ids, tokenizer.eos_token_id], dtype=torch.int64)


def sft_step(
    policy: Policy,
    optimizer: Optimizer,
    examples: Sequence[TrainingExample],
    config: TrainConfig,
    gather: Callable[[list[int]], list[int]],
) -> list[ResponseLoss]:
    """Differentiate the mean over all response tokens of the step, other processes' included, of -log p.

    per_device_train_batch_size examples share a pass. The gradients accumulate in the optimizer. Every token counts the
    same, as in the Hugging Face trainer, not every response.
    """
    responses = [response_tokens(policy, example) for example in examples]
    n_tokens = sum(gather([len(response) for response in responses]))
    # transformers recomputes activations (gradient checkpointing) in train mode only; the models have no dropout.
    policy.model.train()
    results = []
    size = config.per_device_train_batch_size
    for start in range(0, len(examples), size):
        prompts, targets = [e.inputs for e in examples[start : start + size]], responses[start : start + size]
        logprobs, mask = batch_logprobs(policy.model, policy.processor.layout, prompts, targets)
        torch.autograd.backward(-logprobs.sum() / n_tokens)
        optimizer.accumulate()
        nll, confident = -logprobs.detach().sum(dim=1), ((logprobs.detach().exp() > 0.5) & mask).sum(dim=1)
        lengths = map(len, targets)
        results += [ResponseLoss(*row) for row in zip(nll.tolist(), lengths, confident.tolist(), strict=True)]
    return results
