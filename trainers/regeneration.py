"""RefGen, an ablation of GRPO-CARE (arXiv 2506.16141, Table 3): the reference writes the answer from the reasoning.

A rollout is consistent as far as the reference, given its thoughts, comes to a right answer by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seedbench_r1.backends.decoding import Prompt, decode
from seedbench_r1.models.completions import completion_text
from seedbench_r1.models.qwen_vl import ModelInputs, QwenProcessor
from seedbench_r1.types import SamplingConfig
from trainers.config import TrainConfig
from trainers.consistency import first_reaching
from trainers.groups import Group, Rollout
from trainers.rewards import reward
from trainers.weights import finite_only

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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


def prefix_ids(tokenizer: Any, token_ids: Sequence[int]) -> list[int] | None:  # noqa: ANN401  # transformers'
    """A rollout's own tokens as far as they are its answer_prefix, and new ones for the rest of that.

    Its own, since the text made into tokens anew could become others, a vision token that it has only spelled among
    them. Qwen's tokenizer has one for "><": the last of its own may hold the beginning of the tag.
    """
    ids = list(token_ids)
    text: str = tokenizer.decode(ids)
    prefix = answer_prefix(text)
    if prefix is None:
        return None
    n = first_reaching(tokenizer, ids, text, text.rfind(_CLOSED) + len(_CLOSED)) + 1
    if not prefix.startswith(tokenizer.decode(ids[:n])):
        n -= 1
    rest: list[int] = tokenizer(prefix[len(tokenizer.decode(ids[:n])) :], add_special_tokens=False)["input_ids"]
    return ids[:n] + rest


def continued(inputs: ModelInputs, token_ids: Sequence[int]) -> ModelInputs:
    """A prompt and what the assistant has written already. Text moves on by one on all axes."""
    start, n = len(inputs.input_ids) + inputs.delta, len(token_ids)
    positions = torch.arange(start, start + n, dtype=inputs.positions.dtype).expand(3, n)
    return replace(
        inputs,
        input_ids=torch.cat([inputs.input_ids, torch.tensor(token_ids, dtype=inputs.input_ids.dtype)]),
        positions=torch.cat([inputs.positions, positions], dim=1),
    )


def regenerated_accuracy(group: Group, answers: Mapping[int, Rollout], config: TrainConfig) -> Tensor:  # (G,)
    """The accuracy reward of each rollout's regenerated answer; NaN where there is none."""
    accuracy = torch.full((len(group.rollouts),), torch.nan)
    for row, rollout in answers.items():
        accuracy[row] = reward(group.example.question, rollout, config.rewards).accuracy
    return accuracy


def regenerate(
    model: PreTrainedModel, processor: QwenProcessor, group: Group, config: TrainConfig
) -> dict[int, Rollout]:
    """The rollouts whose thoughts have an end, by their places, with the reference's answers in place of their own.

    Greedily; each rollout's prompt is prefilled anew, its vision included. model: from Reference.gathered.
    """
    inputs = group.example.inputs
    prefixes, prompts = dict[int, list[int]](), list[Prompt]()
    for row, rollout in enumerate(group.rollouts):
        prefix = prefix_ids(processor.tokenizer, rollout.token_ids)
        if prefix is not None and len(inputs.input_ids) + len(prefix) < processor.context:
            prefixes[row] = prefix
            prompts.append(Prompt(str(row), continued(inputs, prefix)))
    sampling = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=config.refgen_tokens)
    size, found = config.group_chunk or len(group.rollouts), dict[int, Rollout]()
    for start in range(0, len(prompts), size):
        for one in finite_only(model, decode(model, processor, prompts[start : start + size], sampling)):
            row = int(one.question_id)
            text = completion_text(processor.tokenizer, [*prefixes[row], *one.token_ids])
            found[row] = Rollout((), text, one.finish_reason, opened=group.rollouts[row].opened)
    return found
