"""What one sees of a training: a line of numbers per step, samples of rollouts, and warnings of known collapses."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seedbench_r1.files import AppendFile, make_folder, write_text
from seedbench_r1.parsing import parse_response
from seedbench_r1.runs.training_snapshot import METRICS, read_lines
from trainers.grpo import GroupResult, Mismatch
from trainers.sft import Taught

ROLLOUTS = "rollouts.jsonl"

WINDOW = 20  # steps that a warning looks back
ZERO_STD = 0.3  # share of groups without spread above which there is little left to learn from
TRUNCATED = 0.1  # share of rollouts cut at the limit; ours
SHORT_WORDS = 3.0  # median words of reasoning: a letter and little else; ours


class StepLog:
    """metrics.jsonl and rollouts.jsonl of a run, locked for this process. Lines after `step` are dropped on opening.

    Raises ConfigError if another process writes them.
    """

    def __init__(self, folder: Path, step: int) -> None:
        make_folder(folder)
        self._metrics = AppendFile(folder, METRICS, alone=True)
        self._rollouts = AppendFile(folder, ROLLOUTS)
        self.close()
        for name in (METRICS, ROLLOUTS):
            _keep_until(folder / name, step)
        self._metrics = AppendFile(folder, METRICS, alone=True)
        self._rollouts = AppendFile(folder, ROLLOUTS)

    def write(self, metrics: Mapping[str, Any], rollouts: Sequence[Mapping[str, Any]] = ()) -> None:
        """Append a step. In the files when this returns. Raises ResourceError."""
        for rollout in rollouts:
            self._rollouts.append(_line(rollout))
        self._metrics.append(_line(metrics))

    def close(self) -> None:
        """Sync and give the files free. Safe to call twice."""
        self._metrics.close()
        self._rollouts.close()


def _keep_until(path: Path, step: int) -> None:
    lines = read_lines(path)
    kept = [line for line in lines if line["step"] <= step]
    if len(kept) < len(lines):
        write_text(path, "".join(map(_line, kept)))


def _line(values: Mapping[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False) + "\n"


@dataclass(frozen=True, slots=True)
class GroupReport:
    """What is kept of a group: small, and without tensors, so that it can travel between processes."""

    rollouts: list[dict[str, Any]]  # question_id, gold, text, finish_reason, tokens, rewards, likelihood, advantage
    loss: float
    kl: float | None
    policy_passes: int
    reference_passes: int
    mismatch: Mismatch | None = None


def report(result: GroupResult) -> GroupReport:
    """The numbers of a group that has been learned from."""
    judged = result.judged
    question = judged.group.item.question
    rollouts = [
        {
            "question_id": question.question_id,
            "gold": question.gold,
            "text": rollout.text,
            "finish_reason": rollout.finish_reason,
            "tokens": len(rollout.token_ids),
            "reward": float(judged.reward[row]),
            "accuracy": float(judged.accuracy[row]),
            "format": float(judged.format[row]),
            "bonus": float(judged.bonus[row]),
            "likelihood": _number(float(judged.likelihood[row])),
            "advantage": float(judged.advantage[row]),
        }
        for row, rollout in enumerate(judged.group.rollouts)
    ]
    return GroupReport(rollouts, result.loss, result.kl, result.policy_passes, judged.reference_passes, result.mismatch)


def grpo_metrics(reports: Sequence[GroupReport]) -> dict[str, Any]:
    """Means over the rollouts or groups of a step (those of all processes). None where nothing was measured."""
    rollouts = [rollout for group in reports for rollout in group.rollouts]
    words = [_reasoning_words(rollout["text"]) for rollout in rollouts]
    mismatches = [group.mismatch for group in reports if group.mismatch is not None]
    return {
        **{name: _mean([rollout[name] for rollout in rollouts]) for name in ("reward", "accuracy", "format", "bonus")},
        "likelihood": _mean([r["likelihood"] for r in rollouts if r["likelihood"] is not None]),
        "zero_std": _mean([float(not any(r["advantage"] for r in group.rollouts)) for group in reports]),
        "length": _mean([float(rollout["tokens"]) for rollout in rollouts]),
        "truncated": _mean([float(rollout["finish_reason"] == "length") for rollout in rollouts]),
        "reasoning_words": statistics.median(words),
        "kl": _mean([group.kl for group in reports if group.kl is not None]),
        "rollout_logprob_gap": _mean([m.gap for m in mismatches]),
        "rollout_ratio": _mean([m.ratio for m in mismatches]),
        "loss": _mean([group.loss for group in reports]),
        "policy_passes": sum(group.policy_passes for group in reports),
        "reference_passes": sum(group.reference_passes for group in reports),
    }


def sft_metrics(results: Sequence[Taught]) -> dict[str, Any]:
    """Means over the tokens of a step (those of all processes)."""
    tokens = sum(result.tokens for result in results)
    return {
        "loss": sum(result.nll for result in results) / tokens,
        "confident": sum(result.right for result in results) / tokens,
        "length": tokens / len(results),
    }


def collapse_warnings(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """What has gone wrong before, if the last 20 steps show it. Empty before the 20th step and for SFT."""
    recent = history[-WINDOW:]
    if len(recent) < WINDOW or any("zero_std" not in step for step in recent):
        return []
    found = []
    zero = statistics.fmean(step["zero_std"] for step in recent)
    cut = statistics.fmean(step["truncated"] for step in recent)
    words = statistics.median(step["reasoning_words"] for step in recent)
    if zero > ZERO_STD:
        found.append(f"groups without spread {100 * zero:.0f} %, over {100 * ZERO_STD:.0f} % for {WINDOW} steps")
    if cut > TRUNCATED:
        found.append(f"rollouts cut at the limit {100 * cut:.0f} %: raise --max-completion-length")
    if words <= SHORT_WORDS:
        found.append(f"reasoning has shrunk to {words:g} words")
    return found


def _reasoning_words(text: str) -> int:
    return len((parse_response(text).reasoning or "").split())


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None
