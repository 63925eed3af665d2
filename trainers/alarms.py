"""Alarms: what shows, step after step, that a training learns nothing. Said within 20 steps; after 50 it is ended."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seedbench_r1.errors import ConfigError
from seedbench_r1.files import read_json_object, write_json
from seedbench_r1.runs.training_snapshot import ALARM
from trainers.config import TrainConfig
from trainers.errors import TrainingEnded
from trainers.metrics import StepMetrics

SAY_EVERY = 10  # steps in a row: eight rollouts of one step may all be malformed by chance, those of ten hardly; ours
END_AFTER = 50  # a thirtieth of the published 1,500 steps: longer than a run of bad luck, cheaper than the rest; ours

# Of the sampler gap, the mean |log p - log p'| of a token. Kernels of one model differ by rounding: below 1e-4 in
# float32 on a CPU, more in bfloat16, where it was not measured. All ours.
GAP_MEASURED = 20  # steps whose median is what is usual
GAP_FACTOR = 10.0  # times what is usual is a jump
GAP_FLOOR = 0.05  # below this a jump may be rounding: probabilities are right within 5 %
GAP_LIMIT = 1.0  # above this, from the first step on, it is another model: probabilities are off by a factor of e


@dataclass(frozen=True, slots=True)
class Alarm:
    """One thing that can go wrong for good."""

    seen: str  # what was seen in every step
    look_at: str


def alarms_of(config: TrainConfig) -> dict[str, Alarm]:
    """Name -> alarm, with what to look at in this training."""
    rollouts = f"{config.out}/rollouts.jsonl for what the model writes, the prompt, --max-completion-length"
    numbers = "loss and grad_norm in metrics.jsonl"
    known = "and whether the model knows the form at all (--algo sft teaches it)"
    return {
        "gradient": Alarm(
            "no step was taken, because the gradient was not finite,",
            f"{numbers}, --learning-rate, --dtype float32, the rows",
        ),
        "loss": Alarm("the loss was not finite", f"{numbers}, --learning-rate, --dtype float32, the rows"),
        "format": Alarm("no rollout was well formed (format 0 %)", f"{rollouts}, {known}"),
        "reasoning": Alarm("no rollout had any reasoning", f"{rollouts}, {known}"),
        "sampler gap": Alarm(
            "the sampler's probabilities were not the policy's (rollout_logprob_gap)",
            "rollout_logprob_gap in metrics.jsonl, the versions in `seedbench-r1 doctor`, --rollouts builtin",
        ),
    }


class Alarms:
    """Counts, step by step, for how long each alarm has been going on.

    Args:
        config: of the training.
        past: the lines of metrics of the steps taken before, all of them.
    """

    def __init__(self, config: TrainConfig, past: Sequence[StepMetrics] = ()) -> None:
        self._config, self._alarms = config, alarms_of(config)
        self._gaps: list[float] = []  # the first that were measured
        self._since: dict[str, int] = {}  # alarm -> the first step of those in a row
        self._steps: dict[str, int] = {}  # alarm -> how many
        self._last = 0
        for metrics in past:
            self.count(metrics)

    def count(self, metrics: StepMetrics) -> list[str]:
        """Take note of a step. Returns what is to be said after it."""
        self._last = metrics["step"]
        said = []
        for name, going_on in self._signs(metrics).items():
            if going_on:
                self._since.setdefault(name, self._last)
                self._steps[name] = self._steps.get(name, 0) + 1
                if self._steps[name] % SAY_EVERY == 0:
                    said.append(self._text(name))
            elif going_on is False:
                self._since.pop(name, None)
                self._steps.pop(name, None)
        return said

    @property
    def last_good(self) -> int | None:
        """The last step before those of the alarms that go on; None while none goes on."""
        return min(self._since.values()) - 1 if self._since else None

    def end(self, n_steps: int) -> str | None:
        """Why the training must end now, with what to do; None if it may go on."""
        if self._config.keep_going:
            return None
        lost = [name for name, steps in self._steps.items() if steps >= END_AFTER]
        # However short: a training in which no step was taken has trained nothing.
        if self._steps.get("gradient") == self._last == n_steps:
            lost.append("gradient")
        if not lost:
            return None
        return f"{self._text(lost[0])}. Look at: {self._alarms[lost[0]].look_at}."

    def _text(self, name: str) -> str:
        since = self._since[name]
        return f"{self._alarms[name].seen} in {self._steps[name]} of {self._last - since + 1} steps, since step {since}"

    def _signs(self, metrics: StepMetrics) -> dict[str, bool | None]:
        """Alarm -> whether this step shows it; None: the step says nothing of it."""
        # None: not finite.
        signs: dict[str, bool | None] = {
            "gradient": metrics.get("grad_norm", 0.0) is None,
            "loss": metrics.get("loss", 0.0) is None,
        }
        share = metrics.get("format")
        # With a weight of 0 the form is not asked for.
        signs["format"] = None if share is None or not self._config.format_weight else share == 0
        share = metrics.get("reasoning")
        signs["reasoning"] = None if share is None else share == 0
        gap = metrics.get("rollout_logprob_gap")
        signs["sampler gap"] = None if gap is None else self._is_jump(gap)
        return signs

    def _is_jump(self, gap: float) -> bool:
        if len(self._gaps) < GAP_MEASURED:
            self._gaps.append(gap)
            return gap > GAP_LIMIT
        return gap > min(GAP_LIMIT, max(GAP_FLOOR, GAP_FACTOR * statistics.median(self._gaps)))


def end_training(out: Path, step: int, why: str, kept: Path | None, *, writes: bool) -> TrainingEnded:
    """Leave alarm.json, and make the error to be raised. kept: the last checkpoint from before the alarm."""
    if writes:
        write_json(out / ALARM, {"schema": "sbr1.alarm/1", "step": step, "why": why})
    before = f"The last checkpoint from before is {kept.name}." if kept else "There is no checkpoint from before."
    return TrainingEnded(
        f"Training ended at step {step}: {why} {before} To go on regardless: --keep-going, with the same command."
    )


def refuse_ended(config: TrainConfig) -> None:
    """Raise TrainingEnded for a training that an alarm has ended: run again, it would come to the same end."""
    path = config.out / ALARM
    if config.keep_going or not path.is_file():
        return
    content = read_json_object(path, ConfigError)
    raise TrainingEnded(
        f"This training was ended at step {content.get('step')}: {content.get('why')} Nothing was trained: the same "
        f"command would come to the same end. Fix: another --out with other settings; or remove {path} if the cause is "
        f"mended, and the checkpoints that came after it began; or --keep-going."
    )
