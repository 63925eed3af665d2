"""Questions held out of the training rows, answered every few steps: the validation levels are never looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from seedbench_r1.backends.decoding import Prompt, decode
from seedbench_r1.models.completions import completion_text
from seedbench_r1.questions import TrainingRow, choose_subset
from seedbench_r1.types import SamplingConfig
from trainers.config import TrainConfig
from trainers.data import TrainingExample
from trainers.groups import Rollout
from trainers.policy import Policy
from trainers.rewards import Reward, reward
from trainers.weights import finite_only


class HeldoutMetrics(TypedDict):
    """Over the held-out questions that could be decoded. None if there were none."""

    n: int
    accuracy: float | None
    format: float | None


def split_rows(rows: Sequence[TrainingRow], config: TrainConfig) -> tuple[list[TrainingRow], list[TrainingRow]]:
    """Rows to train on, and config.eval_questions held out by seed and id; none without config.eval_every."""
    # At least one row is left to train on.
    n = min(config.eval_questions, len(rows) - 1) if config.eval_every else 0
    chosen = {q.question_id for q in choose_subset([row.question for row in rows], n, seed=config.seed)} if n else set()
    held = [row for row in rows if row.question.question_id in chosen]
    return [row for row in rows if row.question.question_id not in chosen], held


def answer_greedily(policy: Policy, examples: Sequence[TrainingExample], config: TrainConfig) -> list[Reward]:
    """One greedy completion per example, scored as the evaluation scores it: the rewards."""
    sampling = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=config.max_completion_length)
    results = []
    # As many rows at once as rollouts are sampled with, so that the cache needs no more memory.
    size = config.rollout_batch_size * config.num_generations
    with policy.gathered() as model:
        for start in range(0, len(examples), size):
            batch = {example.question.question_id: example for example in examples[start : start + size]}
            prompts = [Prompt(question_id, example.inputs) for question_id, example in batch.items()]
            for completion in finite_only(model, decode(model, policy.processor, prompts, sampling)):
                text = completion_text(policy.processor.tokenizer, completion.token_ids)
                rollout = Rollout((), text, completion.finish_reason, opened=policy.processor.opened)
                found = reward(batch[completion.question_id].question, rollout)
                results.append(found)
    return results


def heldout_metrics(answers: Sequence[Reward]) -> HeldoutMetrics:
    """Shares over the answers of all processes."""
    n = len(answers)
    accuracy = sum(answer.accuracy for answer in answers) / n if n else None
    return {"n": n, "accuracy": accuracy, "format": sum(answer.format for answer in answers) / n if n else None}
