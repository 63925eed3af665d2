"""Questions held out of the training rows, answered every few steps: the validation levels are never looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from seedbench_r1.backends.decoding import Prompt, decode
from seedbench_r1.conclusions import settled_option
from seedbench_r1.kinds import parse
from seedbench_r1.models.completions import completion_text
from seedbench_r1.questions import TrainingRow, choose_subset
from seedbench_r1.types import Question, SamplingConfig
from trainers.config import TrainConfig
from trainers.data import TrainingExample
from trainers.groups import CompletionLine, Rollout, completion_line
from trainers.policy import Policy
from trainers.rewards import reward
from trainers.weights import finite_only


class HeldoutMetrics(TypedDict):
    """Over the held-out questions that could be decoded. None if there were none."""

    n: int
    accuracy: float | None
    format: float | None
    consistency: float | None  # of those that the rules decide (conclusions.py): the reasoning settles on the answer
    undecided: int  # the rules find no option that the reasoning settles on, or there are none


class HeldoutLine(CompletionLine):
    """An answer in heldout.jsonl."""

    consistent: bool | None  # None: undecided; without reasoning or a readable answer False, as judges have it


def split_rows(rows: Sequence[TrainingRow], config: TrainConfig) -> tuple[Sequence[TrainingRow], Sequence[TrainingRow]]:
    """Rows to train on, and config.eval_questions held out by seed and id; none without config.eval_every."""
    # At least one row is left to train on.
    n = min(config.eval_questions, len(rows) - 1) if config.eval_every else 0
    if not n:
        return rows, []
    chosen = {q.question_id for q in choose_subset([row.question for row in rows], n, seed=config.seed)}
    held = [row for row in rows if row.question.question_id in chosen]
    return [row for row in rows if row.question.question_id not in chosen], held


def answer_greedily(policy: Policy, examples: Sequence[TrainingExample], config: TrainConfig) -> list[HeldoutLine]:
    """One greedy completion per example, scored as the evaluation scores it and judged by the rules judge."""
    sampling = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=config.max_completion_length)
    lines: list[HeldoutLine] = []
    # As many rows at once as rollouts are sampled with, so that the cache needs no more memory.
    size = config.rollout_batch_size * config.num_generations
    with policy.gathered() as model:
        for start in range(0, len(examples), size):
            batch = {example.question.question_id: example for example in examples[start : start + size]}
            prompts = [Prompt(question_id, example.inputs) for question_id, example in batch.items()]
            for completion in finite_only(model, decode(model, policy.processor, prompts, sampling)):
                text = completion_text(policy.processor.tokenizer, completion.token_ids)
                ids, opened = tuple(completion.token_ids), policy.processor.opened
                rollout = Rollout(ids, text, completion.finish_reason, opened=opened)
                question = batch[completion.question_id].question
                got = reward(question, rollout)
                said = completion_line(question, rollout, accuracy=got.accuracy, format_reward=got.format)
                lines.append({**said, "consistent": consistent_by_rules(question, rollout)})
    return lines


def consistent_by_rules(question: Question, rollout: Rollout) -> bool | None:
    """Whether the reasoning settles on the answer given; None: on nothing, or the question is no choice.

    Of a choice without reasoning or a readable answer False.
    """
    if question.kind != "choice":
        return None
    parsed = parse(rollout.text, question, rollout.opened)
    if not parsed.reasoning or parsed.answer is None:
        return False
    settled = settled_option(parsed.reasoning, question.options)
    return None if settled is None else settled == parsed.answer


def heldout_metrics(answers: Sequence[HeldoutLine]) -> HeldoutMetrics:
    """Shares over the answers of all processes."""
    n, decided = len(answers), [answer["consistent"] for answer in answers if answer["consistent"] is not None]
    return {
        "n": n,
        "accuracy": sum(answer["accuracy"] for answer in answers) / n if n else None,
        "format": sum(answer["format"] for answer in answers) / n if n else None,
        "consistency": sum(decided) / len(decided) if decided else None,
        "undecided": n - len(decided),
    }
