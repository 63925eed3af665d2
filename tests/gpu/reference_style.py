"""A GRPO-CARE step as the authors' code takes it: one full sequence per rollout.

Every rollout with its own prompt and pixels, transformers' vision tower and generate, all logits and their log-softmax
in bfloat16. As in ours: bfloat16, gradient checkpointing, sdpa, adapters merged while sampling, AdamW on fp32 weights.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import Tensor

from tests.benchmarks.training_step import reference_logprobs
from tests.gpu import shapes
from tests.gpu.random_policy import FORBIDDEN
from tests.tiny_models import vision_tensors
from trainers.policy import Policy

if TYPE_CHECKING:
    from tests.gpu.steps import Training


def plain_tower(policy: Policy) -> torch.nn.Module:
    """A vision tower as transformers runs it, of random weights, where and in what the policy computes."""
    inner: Any = policy.model.model
    with policy.model.device:
        tower: Any = type(inner.visual)(inner.visual.config)
    tower.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    made: torch.nn.Module = tower.to(policy.dtype)
    return made


@contextlib.contextmanager
def on_plain_tower(policy: Policy, tower: torch.nn.Module) -> Iterator[None]:
    """The policy looks through this tower."""
    inner: Any = policy.model.model
    former, inner.visual = inner.visual, tower
    # As trained or frozen as the former.
    tower.requires_grad_(any(parameter.requires_grad for parameter in former.parameters()))
    try:
        yield
    finally:
        inner.visual = former


def step(training: Training, *, decoded: int, completion: int) -> None:
    """Rollouts, reference forward, policy forward and backward, update; `decoded` tokens a rollout are drawn."""
    state, config, meter = training.state, training.config, training.meter
    group = config.num_generations
    drawn = torch.Generator().manual_seed(1)
    completions = list(torch.randint(0, 150_000, (group, completion), generator=drawn))
    with meter.stage("rollouts"), state.policy.gathered() as model:
        sample(model, training, decoded)
    with torch.no_grad(), state.reference.model() as model:  # a stage of its own
        logprobs(model, training, completions)
    with meter.stage("policy"):
        state.policy.model.train()
        found = logprobs(state.policy.model, training, completions)
        weights = torch.linspace(-1, 1, group, device=found.device)[:, None]
        (found.float() * weights).mean().backward()
        del found
        state.optimizer.accumulate()
    with meter.stage("update"):
        state.optimizer.step(config.learning_rate)
    state.policy.model.zero_grad(set_to_none=True)


def sample(model: Any, training: Training, length: int) -> None:
    """transformers' generate: every rollout with its own prompt and pixels."""
    inputs, group = training.example.inputs, training.config.num_generations
    ids = inputs.input_ids.expand(group, -1).to(model.device)
    options = transformers.GenerationConfig(
        do_sample=True, temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=length, eos_token_id=None, pad_token_id=0
    )
    options.suppress_tokens = list(FORBIDDEN)
    with torch.inference_mode():
        pixels = vision_tensors(model, shapes.LAYOUT, [inputs] * group)
        model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=options, **pixels)


def logprobs(model: Any, training: Training, completions: list[Tensor]) -> Tensor:
    """(G, C) of the completions."""
    inputs = training.example.inputs
    moved = {name: getattr(inputs, name).to(model.device) for name in ("input_ids", "positions")}
    on_device = [ids.to(model.device) for ids in completions]
    found: Tensor = reference_logprobs(model, shapes.LAYOUT, dataclasses.replace(inputs, **moved), on_device)
    return found
