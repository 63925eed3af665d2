"""Rewards of a rollout: by the evaluation's own parser and score, so that training optimises what is measured, or by
the rules of the authors' script.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from typing import Any, Literal

from seedbench_r1.errors import ConfigError
from seedbench_r1.kinds import credit, parse, reference_credit, score
from seedbench_r1.parsing import first_block
from seedbench_r1.types import Kind, Question
from trainers.config import TrainConfig
from trainers.groups import Rollout

_BETWEEN = re.compile(r"</think>\s*<answer>")


@dataclass(frozen=True, slots=True)
class Reward:
    """The two rewards of GRPO-CARE's base reward, R_base = r_acc + r_fmt (arXiv 2506.16141, Algorithm 1)."""

    accuracy: float  # 0 to 1; a choice's and a number's are one of the two
    format: float  # 1.0 if the text is one think block, one answer block and nothing else


def reward(question: Question, rollout: Rollout, rules: Literal["evaluation", "script"] = "evaluation") -> Reward:
    """Accuracy and format reward of one completion."""
    if rules == "script":
        return script_reward(question, rollout.opened + rollout.text)
    parsed = parse(rollout.text, question, rollout.opened)
    return Reward(score(question, parsed, rollout.finish_reason).credit, float(parsed.format_ok))


def script_reward(question: Question, text: str) -> Reward:
    """The rewards of GRPO-CARE's `grpo.py` at 03c3a7c, which are Video-R1's.

    Accurate: by script_accuracy, of the stripped content of the first <answer>...</answer>. Well formed: the text
    begins with <think>, ends with </answer>, and </think> and <answer> stand next to each other somewhere in between,
    whatever else there is; space around the whole is not allowed.
    """
    inner = text[len("<think>") : -len("</answer>")]
    well_formed = text.startswith("<think>") and text.endswith("</answer>") and _BETWEEN.search(inner) is not None
    answer = first_block(text, "answer") or ""
    return Reward(script_accuracy(question.kind, answer, question.gold), float(well_formed))


def script_accuracy(kind: Kind, answer: str, gold: str) -> float:
    """The script's accuracy reward of an answer, 0 to 1.

    A choice must be the gold letter, a number the gold to two decimals, with a point or comma like it: both as in the
    authors' evaluation. Texts that are to be read: 1 - word error rate. Free answers: the mean of the F-measures of
    ROUGE-1, ROUGE-2 and ROUGE-L, stemmed, by the package rouge-score. Regression: 1 - relative error.

    Raises ConfigError for a free answer without that package.
    """
    if kind == "ocr":
        return credit(kind, answer, gold)
    if kind == "free-form":
        return min(1.0, max(0.0, stemmed_rouge_mean(gold, answer)))
    if kind == "regression":
        return 1.0 - relative_error(answer, gold)
    return reference_credit(kind, answer, gold)


def relative_error(answer: str, gold: str) -> float:
    """(|answer - gold| + 1e-9) / (|gold| + 1e-9), at most 1; 1 for what is no finite number, commas left out."""
    try:
        value, wanted = float(answer.replace(",", "")), float(gold.replace(",", ""))
    except ValueError:
        return 1.0
    if not math.isfinite(value):
        return 1.0
    return min(1.0, (abs(value - wanted) + 1e-9) / (abs(wanted) + 1e-9))


def stemmed_rouge_mean(reference: str, answer: str) -> float:
    """Mean of the F-measures of ROUGE-1, ROUGE-2 and ROUGE-L by the package rouge-score, with its Porter stemmer."""
    scores = _rouge_scorer().score(reference, answer)
    return sum(float(score.fmeasure) for score in scores.values()) / len(scores)


@functools.cache
def _rouge_scorer() -> Any:  # noqa: ANN401  # of a package that has no types
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise ConfigError(
            f"--rewards script scores free answers by the package rouge-score, which cannot be imported ({error}). "
            f"Fix: pip install rouge-score; or --rewards evaluation, whose own score does not stem."
        ) from error
    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)


def check_rewards(config: TrainConfig) -> None:
    """Raise ConfigError if the rewards that config names cannot be computed here. Reads no rows."""
    # The benchmark's own rows are all choices.
    if config.rewards == "script" and config.suite != "seedbench-r1":
        _rouge_scorer()
