"""Rewards of a rollout: the evaluation's own parser and score decide, so that training optimises what is measured."""

from __future__ import annotations

from dataclasses import dataclass

from seedbench_r1.parsing import parse_response
from seedbench_r1.scoring import score
from seedbench_r1.types import FinishReason, Question


@dataclass(frozen=True, slots=True)
class Reward:
    """The two rewards of GRPO-CARE's base reward, R_base = r_acc + r_fmt (arXiv 2506.16141, Algorithm 1)."""

    accuracy: float  # 1.0 or 0.0
    format: float  # 1.0 if the text is one think block, one answer block and nothing else


def reward(question: Question, text: str, finish_reason: FinishReason = "stop") -> Reward:
    """Accuracy and format reward of one completion."""
    parsed = parse_response(text, question.options)
    return Reward(float(score(question, parsed, finish_reason).correct), float(parsed.format_ok))
