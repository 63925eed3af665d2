"""Rewards of a rollout: by the evaluation's own parser and score, so that training optimises what is measured, or by
the rules of the authors' script.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from seedbench_r1.kinds import parse, score
from seedbench_r1.parsing import first_block
from seedbench_r1.types import Question
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
    """The rewards of GRPO-CARE's `grpo.py` at b0628fc.

    Accurate: the stripped content of the first <answer>...</answer> is the gold letter. Well formed: the text begins
    with <think>, ends with </answer>, and </think> and <answer> stand next to each other somewhere in between, whatever
    else there is; space around the whole is not allowed.
    """
    inner = text[len("<think>") : -len("</answer>")]
    well_formed = text.startswith("<think>") and text.endswith("</answer>") and _BETWEEN.search(inner) is not None
    return Reward(float(first_block(text, "answer") == question.gold), float(well_formed))
