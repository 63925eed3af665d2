"""seedbench-r1 train: from a checkpoint and training rows to checkpoints that `eval` takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from seedbench_r1.cli import console
from seedbench_r1.cli.options import AsJson, DryRun, Given, PrintConfig, Quiet, output_option, with_settings
from seedbench_r1.cli.outcome import refusals_said_once
from seedbench_r1.cli.signals import draining_signals
from seedbench_r1.cli.train_results import header, print_dry_run, print_result
from seedbench_r1.errors import Interrupted
from seedbench_r1.options import in_groups
from seedbench_r1.types import to_json
from trainers.config import GROUPS, TABLE
from trainers.resolve import resolve_train_config

if TYPE_CHECKING:
    from trainers.metrics import StepMetrics
    from trainers.plan import TrainPlan

_Mean = Literal[
    "reward", "accuracy", "format", "bonus", "zero_std", "length", "truncated", "kl", "rollout_logprob_gap", "loss"
]
DRAINING = "Stopping once this step is finished and saved. Once more stops at once."

ReportTo = Annotated[
    str | None, output_option("--report-to", help="tensorboard, wandb, trackio, joined by commas; by default none.")
]
# The backslash keeps the brackets: Rich takes [train] for a style.
_CONFIG_HELP = "TOML with these options under \\[train]."
ConfigFile = Annotated[Path | None, output_option("--config", help=_CONFIG_HELP)]


@with_settings(in_groups(TABLE, GROUPS))
def train_command(
    given: Given,
    *,
    config_file: ConfigFile = None,
    report_to: ReportTo = None,
    print_config: PrintConfig = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a checkpoint by SFT, GRPO or GRPO-CARE. The same command again continues an interrupted training.

    Exit codes: 0 done, 3 configuration, 4 data, 7 memory, disk, or nothing is learned, 130/143 interrupted after a
    checkpoint.
    """
    from trainers.trackers import open_trackers, parse_trackers

    # Refused before the model is read: a wrong name here would cost an hour there.
    with refusals_said_once():
        trackers = parse_trackers(report_to)
        config = resolve_train_config(given, config_file=config_file)
    if print_config:
        console.out().print(json.dumps(to_json(config), indent=1, ensure_ascii=False), soft_wrap=True)
        return
    from trainers.loop import train
    from trainers.plan import plan_training
    from trainers.processes import Processes

    # Joins the other processes of torchrun, if there are any.
    processes = Processes(config.device)
    with refusals_said_once():
        planned = plan_training(config, world_size=processes.world_size, node_size=processes.node_size)
    if dry_run:
        if processes.is_main:
            print_dry_run(planned, as_json=as_json)
        return
    console.silence_weight_bars()
    # Only the main process speaks; the others would repeat it line by line.
    progress = TrainProgress(planned, quiet=quiet or as_json or not processes.is_main)
    progress.begin()
    # The trackers learn how many steps are done, so that their curves go on where they ended.
    with open_trackers(trackers if processes.is_main else (), config, planned.done) as opened:

        def observe(metrics: StepMetrics) -> None:
            progress.observe(metrics)
            for tracker in opened:
                tracker.observe(metrics)

        with draining_signals(DRAINING) as (stop, received):
            result = train(planned, stop=stop, observe=observe)
    if processes.is_main:
        print_result(planned, result, given, config_file, as_json=as_json)
    if not result.finished:
        stopped = Interrupted(
            f"Stopped by a signal after step {result.step} of {result.n_steps}.", received[0] if received else 15
        )
        if not processes.is_main:
            raise typer.Exit(stopped.exit_code)
        raise stopped


class TrainProgress:
    """What is going to happen, then the first step's line and one every logging_steps steps, on standard error."""

    def __init__(self, planned: TrainPlan, *, quiet: bool) -> None:
        self._plan, self._quiet, self._screen = planned, quiet, console.err()
        self._since: list[StepMetrics] = []
        self._history: list[StepMetrics] = []
        self._reward: float | None = None
        self._begun = False

    def begin(self) -> None:
        """Say what will be done."""
        if not self._quiet:
            for line in header(self._plan):
                self._screen.print(line, soft_wrap=True)

    def observe(self, metrics: StepMetrics) -> None:
        """Take note of a step."""
        from trainers.metrics import WINDOW, collapse_warnings

        if self._quiet:
            return
        self._since.append(metrics)
        # Collapse shows over a window, not in one step.
        self._history = [*self._history, metrics][-WINDOW:]
        if "heldout" in metrics:
            held = metrics["heldout"]
            share = "none usable" if held["accuracy"] is None else f"{100 * held['accuracy']:.1f} %"
            known = held.get("consistency")
            reasons = "" if known is None else f", consistency by rules {100 * known:.1f} %"
            self._screen.print(f" step {metrics['step']}: accuracy on {held['n']} held-out questions {share}{reasons}")
        for alarm in metrics.get("alarms", ()):
            self._screen.print(f" warn: {alarm}", soft_wrap=True)
        # The first one at once: it says whether anything works, and how long the rest will take.
        due = not self._begun or metrics["step"] % self._plan.config.logging_steps == 0
        if not due and metrics["step"] != self._plan.n_steps:
            return
        self._screen.print(self._line(metrics), soft_wrap=True)
        for warning in collapse_warnings(self._history):
            self._screen.print(f" warn: {warning}", soft_wrap=True)
        self._since, self._begun = [], True

    def _line(self, metrics: StepMetrics) -> str:
        """The numbers are means over the steps since the last line; the time left, over the last 20 steps."""
        # The first step of a process is slower than the others: kernels are chosen, workers start.
        steps = self._history[1:] if len(self._history) > 1 else self._history
        per_step = sum(step["seconds"]["step"] for step in steps) / len(steps)
        left = int(per_step * (self._plan.n_steps - metrics["step"]))
        parts = [
            f"step {metrics['step']}/{self._plan.n_steps}",
            f"{per_step:.2f} s/step",
            f"left {left // 3600}:{left // 60 % 60:02}:{left % 60:02}",  # days as hours
        ]
        # SFT has no rewards.
        if "reward" in metrics:
            reward = self._mean("reward")
            change = "" if self._reward is None else f" ({reward - self._reward:+.2f})"
            self._reward = reward
            parts += [
                f"reward {reward:.2f}{change}",
                f"acc {self._mean('accuracy'):.2f}",
                f"format {self._mean('format'):.2f}",
                f"bonus {self._mean('bonus'):.2f}",
                f"zero_std {100 * self._mean('zero_std'):.0f} %",
                f"len {self._mean('length'):.0f} (truncated {100 * self._mean('truncated'):.0f} %)",
            ]
        else:
            parts += [f"loss {self._mean('loss'):.4f}", f"len {self._mean('length'):.0f}"]
        if metrics.get("kl") is not None:
            parts.append(f"kl {self._mean('kl'):.2g}")
        if metrics.get("rollout_logprob_gap") is not None:
            parts.append(f"sampler gap {self._mean('rollout_logprob_gap'):.2g}")
        parts.append(f"lr {metrics['lr']:.2g}")
        if metrics["replaced"]:
            parts.append(f"replaced {metrics['replaced']}")
        if "memory_gb" in metrics:
            parts.append(f"GPU peak {metrics['memory_gb']:.1f} GB")
        return f" {console.dot()} ".join([*parts, self._time_shares(metrics)])

    def _time_shares(self, metrics: StepMetrics) -> str:
        """Where the wall time since the last line went, what there was of it; together less than 100 %."""
        whole = max(1e-9, sum(step["seconds"]["step"] for step in self._since))
        share = {n: 100 * sum(s["seconds"][n] for s in self._since) / whole for n in metrics["seconds"]}
        words = {"rollouts": "rollouts", "reference": "reference", "policy": "policy", "io": "media"}
        return " ".join(f"{word} {share[name]:.0f} %" for name, word in words.items() if share[name])

    def _mean(self, name: _Mean) -> float:
        values = [value for step in self._since if (value := step[name]) is not None]
        return sum(values) / len(values) if values else float("nan")
