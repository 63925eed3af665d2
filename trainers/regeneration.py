"""RefGen, an ablation of GRPO-CARE (arXiv 2506.16141, Table 3): the reference writes the answer from the reasoning.

A rollout is consistent as far as the reference, given its thoughts, comes to a right answer by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from seedbench_r1.backends.decoding import Prompt, decode
from seedbench_r1.models.completions import completion_text
from seedbench_r1.models.qwen_vl import ModelInputs
from seedbench_r1.types import SamplingConfig
from trainers.config import TrainConfig
from trainers.groups import Group, Rollout
from trainers.policy import Policy
from trainers.reference import Reference
from trainers.rewards import reward
from trainers.weights import finite_only

_CLOSED, _TAG = "</think>", "<answer"  # without its ">": tokenizers have tokens like ">A", which a model then prefers


def answer_prefix(text: str) -> str | None:
    """A completion up to its last </think>, space that follows and "<answer"; None if its thoughts have no end.

    What else stands between thoughts and answer is left out, since it may tell the answer.
    """
    end = text.rfind(_CLOSED)
    if end < 0:
        return None
    end += len(_CLOSED)
    behind = text[end:]
    space = behind[: len(behind) - len(behind.lstrip())] if behind.lstrip().startswith(_TAG) else ""
    return text[:end] + space + _TAG


def continued(inputs: ModelInputs, token_ids: Sequence[int]) -> ModelInputs:
    """A prompt and what the assistant has written already. Text moves on by one on all axes."""
    start, n = len(inputs.input_ids) + inputs.delta, len(token_ids)
    positions = torch.arange(start, start + n, dtype=inputs.positions.dtype).expand(3, n)
    return replace(
        inputs,
        input_ids=torch.cat([inputs.input_ids, torch.tensor(token_ids, dtype=inputs.input_ids.dtype)]),
        positions=torch.cat([inputs.positions, positions], dim=1),
    )


def regenerated_accuracy(policy: Policy, reference: Reference, group: Group, config: TrainConfig) -> Tensor:  # (G,)
    """The accuracy reward of the answer that the reference writes, greedily, after each rollout's thoughts.

    NaN where a rollout's thoughts have no end. Each rollout's prompt is prefilled anew, its vision included.
    """
    accuracy = torch.full((len(group.rollouts),), torch.nan)
    for row, rollout in regenerated(policy, reference, group, config):
        accuracy[row] = reward(group.example.question, rollout, config.rewards).accuracy
    return accuracy


def regenerated(
    policy: Policy, reference: Reference, group: Group, config: TrainConfig
) -> Iterator[tuple[int, Rollout]]:
    """The rollouts whose thoughts have an end, by their places, with the reference's answers in place of their own."""
    processor, inputs = policy.processor, group.example.inputs
    prefixes, prompts = dict[int, str](), list[Prompt]()
    for row, rollout in enumerate(group.rollouts):
        if (prefix := answer_prefix(rollout.text)) is None:
            continue
        after = continued(inputs, processor.tokenizer(prefix, add_special_tokens=False)["input_ids"])
        if len(after.input_ids) < processor.context:
            prefixes[row] = prefix
            prompts.append(Prompt(str(row), after))
    sampling = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=config.refgen_tokens)
    size = config.group_chunk or len(group.rollouts)
    with reference.model() as model:
        for start in range(0, len(prompts), size):
            for one in finite_only(model, decode(model, processor, prompts[start : start + size], sampling)):
                row = int(one.question_id)
                text = prefixes[row] + completion_text(processor.tokenizer, one.token_ids)
                yield row, Rollout((), text, one.finish_reason, opened=group.rollouts[row].opened)
