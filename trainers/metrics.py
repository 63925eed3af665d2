"""What a training reports: a line of numbers per step, samples of rollouts, and warnings of known collapses."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict, cast

from seedbench_r1.files import AppendFile, make_folder, write_text
from seedbench_r1.parsing import parse_response
from seedbench_r1.runs.training_snapshot import HELDOUT, METRICS, ROLLOUTS, each_line, read_lines
from seedbench_r1.typed_json import without_nan
from trainers.groups import GroupReport, RolloutLine
from trainers.heldout import HeldoutLine, HeldoutMetrics
from trainers.sft import ResponseLoss

WINDOW = 20  # steps that a warning looks back
ZERO_STD = 0.3  # share of groups without spread above which there is little left to learn from
TRUNCATED = 0.1  # share of rollouts cut at the limit; ours
SHORT_WORDS = 3.0  # median words of reasoning: a letter and little else; ours


class UnusableQuestion(TypedDict):
    """A question that was replaced in this step."""

    question_id: str
    reason: str


class StepMetrics(TypedDict, total=False):
    """A line of metrics.jsonl. Means are over all processes' rollouts or groups; None where nothing was measured."""

    step: int  # from 1
    epoch: float

    # GRPO and CARE.
    reward: float | None
    accuracy: float | None
    format: float | None
    bonus: float | None
    rewards: dict[str, float]  # with --reward only, as the next: means by name, unweighted
    reward_failures: int  # values that are 0 because a function gave no number
    likelihood: float | None  # of the answers that the reference scored
    zero_std: float | None  # share of groups whose advantages are all 0
    truncated: float | None  # share of rollouts
    reasoning: float | None  # share of rollouts that have any
    reasoning_words: float  # median
    kl: float | None
    rollout_logprob_gap: float | None
    rollout_ratio: float | None
    refilled: int  # with --refill only: groups that were replaced; all other numbers but the loss are of these, too
    importance_weight: float  # where the sampler's gap is corrected only, as the next: mean of the tokens' weights
    importance_truncated: float  # share of the tokens whose weight is the cap
    clip_fraction: float  # with --num-iterations only, as the next: share of tokens, after the first iteration
    old_kl: float  # of the policy that drew the rollouts from the one that is trained on them
    policy_passes: int  # of all processes, as the next two
    reference_passes: int
    idle_passes: int  # with --fsdp only

    # SFT, whose means are over response tokens.
    confident: float  # share of tokens that had more than half of the probability

    loss: float | None
    length: float | None  # tokens of a completion, or of SFT's response
    grad_norm: float | None  # before clipping; None: not finite, and the step was not taken
    lr: float
    replaced: int  # since the start of the training
    unusable: list[UnusableQuestion]
    seconds: dict[str, float]
    memory_gb: float  # peak of process 0's GPU
    heldout: HeldoutMetrics
    alarms: list[str]  # what was said after this step; absent: nothing


class StepLog:
    """metrics.jsonl, rollouts.jsonl and heldout.jsonl of a run, locked for this process.

    Lines after `step` are dropped on opening. Raises ConfigError if another process writes them.
    """

    def __init__(self, folder: Path, step: int) -> None:
        make_folder(folder)
        # Opened twice: the first time takes the lock and cuts torn lines, so that no other process writes meanwhile.
        self._open(folder)
        self.close()
        for name in (METRICS, ROLLOUTS, HELDOUT):
            _drop_lines_after(folder / name, step)
        self._open(folder)
        self.lines = [cast(StepMetrics, line) for line in read_lines(folder / METRICS)]  # every step's so far

    def write(
        self, metrics: StepMetrics, rollouts: Sequence[RolloutLine] = (), heldout: Sequence[HeldoutLine] = ()
    ) -> None:
        """Append a step, with samples of its rollouts and the answers given after it. In the files when this returns.

        Raises ResourceError.
        """
        for file, lines in ((self._rollouts, rollouts), (self._heldout, heldout)):
            for line in lines:
                file.append(_json_line({"step": metrics["step"], **line}))
        self._metrics.append(_json_line(metrics))
        self.lines.append(metrics)

    def close(self) -> None:
        """Sync and release the files. Safe to call twice."""
        self._metrics.close()
        self._rollouts.close()
        self._heldout.close()

    def _open(self, folder: Path) -> None:
        self._metrics = AppendFile(folder, METRICS, alone=True)
        self._rollouts = AppendFile(folder, ROLLOUTS)
        self._heldout = AppendFile(folder, HELDOUT)


def _drop_lines_after(path: Path, step: int) -> None:
    if any(line["step"] > step for line in each_line(path)):
        write_text(path, "".join(_json_line(line) for line in each_line(path) if line["step"] <= step))


def _json_line(values: Mapping[str, object]) -> str:
    return json.dumps(without_nan(values), ensure_ascii=False, allow_nan=False) + "\n"


def grpo_metrics(reports: Sequence[GroupReport]) -> StepMetrics:
    """GRPO's part of a line, of the groups of all processes."""
    rollouts = [rollout for group in reports for rollout in group.rollouts]
    reasonings = [parse_response(r["text"], opened=r["opened"]).reasoning for r in rollouts]
    mismatches = [group.mismatch for group in reports if group.mismatch is not None]
    found: StepMetrics = {
        "reward": _mean([rollout["reward"] for rollout in rollouts]),
        "accuracy": _mean([rollout["accuracy"] for rollout in rollouts]),
        "format": _mean([rollout["format"] for rollout in rollouts]),
        "bonus": _mean([rollout["bonus"] for rollout in rollouts]),
        "likelihood": _mean([r["likelihood"] for r in rollouts if r["likelihood"] is not None]),
        "zero_std": _mean([float(not any(r["advantage"] for r in group.rollouts)) for group in reports]),
        "length": _mean([float(rollout["tokens"]) for rollout in rollouts]),
        "truncated": _mean([float(rollout["finish_reason"] == "length") for rollout in rollouts]),
        "reasoning": _mean([float(bool((reasoning or "").strip())) for reasoning in reasonings]),
        "reasoning_words": statistics.median(len((reasoning or "").split()) for reasoning in reasonings),
        "kl": _mean([group.kl for group in reports if group.kl is not None]),
        "rollout_logprob_gap": _mean([m.gap for m in mismatches]),
        "rollout_ratio": _mean([m.ratio for m in mismatches]),
        "loss": _mean([group.loss for group in reports if not group.replaced]),
        "policy_passes": sum(group.policy_passes for group in reports),
        "reference_passes": sum(group.reference_passes for group in reports),
    }
    if own := [rollout["rewards"] for rollout in rollouts if rollout["rewards"]]:
        found["rewards"] = {name: statistics.fmean(values[name] for values in own) for name in own[0]}
        found["reward_failures"] = sum(group.reward_failures for group in reports)
    if again := [group for group in reports if group.clip_fraction is not None]:
        found["clip_fraction"] = statistics.fmean(group.clip_fraction or 0.0 for group in again)
        found["old_kl"] = statistics.fmean(group.old_kl or 0.0 for group in again)
    if weighted := [group.importance for group in reports if group.importance is not None]:
        found["importance_weight"] = statistics.fmean(importance.weight for importance in weighted)
        found["importance_truncated"] = statistics.fmean(importance.truncated for importance in weighted)
    return found


def sft_metrics(results: Sequence[ResponseLoss]) -> StepMetrics:
    """SFT's part of a line, of the responses of all processes."""
    tokens = sum(result.tokens for result in results)
    return {
        "loss": sum(result.nll for result in results) / tokens,
        "confident": sum(result.confident for result in results) / tokens,
        "length": tokens / len(results),
    }


def collapse_warnings(history: Sequence[StepMetrics]) -> list[str]:
    """What has gone wrong before, if the last 20 steps show it. Empty before the 20th step and for SFT."""
    recent = history[-WINDOW:]
    if len(recent) < WINDOW or any("zero_std" not in step for step in recent):
        return []
    found = []
    zero = statistics.fmean(step["zero_std"] or 0.0 for step in recent)
    cut = statistics.fmean(step["truncated"] or 0.0 for step in recent)
    words = statistics.median(step["reasoning_words"] for step in recent)
    if zero > ZERO_STD:
        found.append(f"zero_std {100 * zero:.0f} %, groups without spread: over {100 * ZERO_STD:.0f} %, {WINDOW} steps")
    if cut > TRUNCATED:
        found.append(f"truncated {100 * cut:.0f} %, rollouts cut at the limit: raise --max-completion-length")
    if words <= SHORT_WORDS:
        found.append(f"reasoning has shrunk to {words:g} words")
    return found


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None
