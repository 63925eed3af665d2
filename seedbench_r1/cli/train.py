"""seedbench-r1 train: from a checkpoint and training rows to checkpoints that `eval` takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from seedbench_r1.cli import console
from seedbench_r1.cli.options import AsJson, DryRun, Given, PrintConfig, Quiet, output_option, with_settings
from seedbench_r1.cli.signals import draining_signals
from seedbench_r1.errors import Interrupted
from seedbench_r1.options import in_groups
from seedbench_r1.types import to_json
from trainers.config import GROUPS, TABLE, resolve_train_config

if TYPE_CHECKING:
    from trainers.loop import TrainResult
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
    planned = plan_training(config, world_size=processes.world_size, node_size=processes.node_size)
    if dry_run:
        if processes.is_main:
            _print_dry_run(planned, as_json=as_json)
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
        _print_result(result, as_json=as_json)
    if not result.finished:
        raise Interrupted(
            f"Stopped by a signal after step {result.step} of {result.n_steps}. Run it again to go on.",
            received[0] if received else 15,
        )


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
            self._screen.print(f" step {metrics['step']}: accuracy on {held['n']} held-out questions {share}")
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
                f"no spread {100 * self._mean('zero_std'):.0f} %",
                f"len {self._mean('length'):.0f} (cut {100 * self._mean('truncated'):.0f} %)",
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


def header(planned: TrainPlan) -> list[str]:
    """What is going to happen, in four or five lines."""
    import shutil

    from seedbench_r1.backends.loading import device_name, resolve_device
    from trainers.data import contradicting_rows
    from trainers.estimate import estimate

    config, dot = planned.config, console.dot()
    guess = estimate(config, planned.checkpoint, planned.questions_per_process, planned.world_size)
    rollouts = ""
    if config.algo != "sft":
        total = planned.questions_per_step * config.num_generations
        rollouts = f" x {config.num_generations} rollouts = {total} a step"
    # The folder may not exist yet: its first existing parent tells the disk.
    where = next(folder for folder in (config.out, *config.out.absolute().parents) if folder.exists())
    keep = "all" if config.save_total_limit is None else config.save_total_limit
    lines = [
        f"seedbench-r1 train {dot} {config.preset} {dot} {planned.checkpoint.info.name} {dot} "
        f"{len(planned.rows):,} rows {dot} {planned.n_steps:,} steps of "
        f"{planned.questions_per_step} questions{rollouts}",
        f" ckpt every {config.save_steps} (keep {keep}, {guess.checkpoint / 1e9:.1f} GB each, "
        f"{shutil.disk_usage(where).free / 1e9:.0f} GB free) {dot} about {guess.device_bytes(config) / 1e9:.1f} GB of "
        f"device memory a process, by arithmetic",
        f" on {planned.world_size} x {device_name(resolve_device(config.device))}",
    ]
    if config.rollouts == "vllm" and not config.importance_cap:
        lines.append(" the loss is not corrected for what vLLM's probabilities differ from the policy's")
    # Trained on silently, such rows teach the wrong answer; whether they are meant is for the user to say.
    if odd := contradicting_rows(planned.rows):
        lines.append(f" warning: {len(odd)} responses do not give their row's gold answer, e.g. {odd[0]}")
    if planned.resume is not None:
        lines.append(f" continuing {planned.resume.folder}: {planned.done:,} of {planned.n_steps:,} steps done")
    return lines


def _print_dry_run(planned: TrainPlan, *, as_json: bool) -> None:
    from trainers.estimate import estimate

    config = planned.config
    guess = estimate(config, planned.checkpoint, planned.questions_per_process, planned.world_size)
    if as_json:
        content: dict[str, Any] = {"schema": "sbr1.train-plan/1", "steps": planned.n_steps, "done": planned.done}
        typer.echo(json.dumps(content | {"estimate": to_json(guess), "device_bytes": guess.device_bytes(config)}))
        return
    screen = console.out()
    for line in header(planned):
        screen.print(line, soft_wrap=True)
    rows = {
        "weights": guess.weights,
        "optimiser (fp32)": guess.optimizer,
        "reference": guess.reference,
        "then: sampling": guess.sampling,
        "  or: training pass": guess.policy_pass,
        "  or: update": guess.update,
        "loading, in all": guess.loading,
        "device, at most": guess.device_bytes(config),
        "main memory": guess.main_memory_bytes(config),
    }
    screen.print(f" estimated memory per process, in GB, prompts of up to {guess.prompt_tokens:,} tokens:")
    for name, value in rows.items():
        screen.print(f"  {name:<24}{value / 1e9:>8.2f}")
    if config.rollouts == "vllm":
        share = f"{100 * config.gpu_memory_utilization:.0f} %"
        screen.print(f" vLLM needs its weights and cache to fit into {share} of the GPU, and these {share} to be free.")
    hours = guess.step_s * (planned.n_steps - planned.done) / 3600
    screen.print(
        f" estimated time on H100s, one per process: {guess.step_s:.1f} s a step, {hours:.1f} h. By arithmetic, not "
        f"measured. No model was loaded.",
        soft_wrap=True,
    )


def _print_result(result: TrainResult, *, as_json: bool) -> None:
    if as_json:
        content: dict[str, Any] = {"schema": "sbr1.train/1", "status": "complete" if result.finished else "interrupted"}
        content |= {"step": result.step, "steps": result.n_steps, "replaced": result.replaced}
        typer.echo(json.dumps(content | {"checkpoint": str(result.checkpoint) if result.checkpoint else None}))
        return
    screen = console.out()
    screen.print(f" step {result.step} of {result.n_steps} {console.dot()} {result.replaced} questions replaced")
    screen.print(f" saved {result.checkpoint}", soft_wrap=True)
    screen.print(f" next: seedbench-r1 eval --model {result.checkpoint}", soft_wrap=True)
