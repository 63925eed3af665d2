"""What train prints before a training and after it: the plan, the dry run, and which command comes next."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seedbench_r1.cli import console
from seedbench_r1.files import existing_folder
from seedbench_r1.types import VideoConfig, to_json
from trainers.config import TABLE

if TYPE_CHECKING:
    from trainers.loop import TrainResult
    from trainers.plan import TrainPlan

# Options of train that change the protocol of eval, too: what was trained is evaluated as it was trained.
SHARED = ("prompt_file", *(field.name for field in dataclasses.fields(VideoConfig)))


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
    free = shutil.disk_usage(existing_folder(config.out)).free
    keep = "all" if config.save_total_limit is None else config.save_total_limit
    lines = [
        f"seedbench-r1 train {dot} {config.preset} {dot} {planned.checkpoint.info.name} {dot} "
        f"{len(planned.rows):,} rows {dot} {planned.n_steps:,} steps of "
        f"{planned.questions_per_step} questions{rollouts}",
        f" ckpt every {config.save_steps} (keep {keep}, {size(guess.checkpoint)} each, "
        f"{free / 1e9:.0f} GB free) {dot} about {size(guess.device_bytes(config))} of device "
        f"memory a process, by arithmetic",
        f" on {planned.world_size} x {device_name(resolve_device(config.device))}",
    ]
    if config.rollouts == "vllm" and not config.importance_cap:
        lines.append(" the loss is not corrected for what vLLM's probabilities differ from the policy's")
    lines += [f" {note}" for note in planned.data.notes]
    # Trained on silently, such rows teach the wrong answer; whether they are meant is for the user to say.
    if config.algo == "sft" and (odd := contradicting_rows(planned.rows)):
        lines.append(f" warning: {len(odd)} responses do not give their row's gold answer, e.g. {odd[0]}")
    if planned.bad_rows:
        lines.append(f" {len(planned.bad_rows)} rows left out that cannot be used, e.g. {planned.bad_rows[0]}")
    if planned.resume is not None:
        lines.append(f" continuing {planned.resume.folder}: {planned.done:,} of {planned.n_steps:,} steps done")
    return lines


def print_dry_run(planned: TrainPlan, *, as_json: bool) -> None:
    """The header, the memory and time that the training will take, and what --reward's functions said."""
    from trainers.estimate import estimate
    from trainers.user_rewards import parse_rewards

    config = planned.config
    guess = estimate(config, planned.checkpoint, planned.questions_per_process, planned.world_size)
    if as_json:
        content: dict[str, Any] = {"schema": "sbr1.train-plan/1", "steps": planned.n_steps, "done": planned.done}
        content |= {"rewards": planned.reward_trials} if planned.reward_trials else {}
        console.print_json(content | {"estimate": to_json(guess), "device_bytes": guess.device_bytes(config)})
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
    screen.print(f" estimated memory per process, prompts of up to {guess.prompt_tokens:,} tokens:")
    for name, value in rows.items():
        screen.print(f"  {name:<24}{size(value):>10}")
    if config.rollouts == "vllm":
        share = f"{100 * config.gpu_memory_utilization:.0f} %"
        screen.print(f" vLLM needs its weights and cache to fit into {share} of the GPU, and these {share} to be free.")
    for spec in parse_rewards(config.reward):
        values = ", ".join(f"{label} {value:g}" for label, value in planned.reward_trials[spec.name].items())
        screen.print(f" reward {spec.name}, weight {spec.weight:g}, on trial completions: {values}", soft_wrap=True)
    left = duration(guess.step_s * (planned.n_steps - planned.done))
    screen.print(
        f" estimated time on H100s, one per process: {duration(guess.step_s)} a step, {left} in all. By arithmetic, "
        f"not measured. No model was loaded.",
        soft_wrap=True,
    )


def size(n_bytes: float) -> str:
    """Bytes as text, in MB below 0.1 GB."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    """Seconds as text, in the unit that leaves a number."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds:.1f} s" if seconds >= 0.1 else f"{1000 * seconds:.2g} ms"


def print_result(
    planned: TrainPlan, result: TrainResult, given: Mapping[str, object], config_file: Path | None, *, as_json: bool
) -> None:
    """The step reached, the newest checkpoint, and the command that comes next.

    given, config_file: the options of the command line, and what --config named.
    """
    if as_json:
        content: dict[str, Any] = {"schema": "sbr1.train/1", "status": "complete" if result.finished else "interrupted"}
        content |= {"step": result.step, "steps": result.n_steps, "replaced": result.replaced}
        console.print_json(content | {"checkpoint": str(result.checkpoint) if result.checkpoint else None})
        return
    screen = console.out()
    screen.print(f" step {result.step} of {result.n_steps} {console.dot()} {result.replaced} questions replaced")
    screen.print(f" saved {result.checkpoint}", soft_wrap=True)
    after = eval_command(planned, result, given, config_file) if result.finished else continuation(planned)
    screen.print(f" next: {after}", soft_wrap=True)


def eval_command(planned: TrainPlan, result: TrainResult, given: Mapping[str, object], config_file: Path | None) -> str:
    """The line that evaluates what was trained, with the settings file, data, prompt and pixels of the training."""
    words = ["seedbench-r1", "eval", "--model", str(result.checkpoint)]
    if planned.config.suite == "video-r1":
        words += ["--suite", "transfer"]
    if planned.config.suite == "own":
        words += ["--suite", "own", "--questions", str(planned.config.questions_file)]
        words += ["--map", planned.config.map] if planned.config.map else []
        # What was trained on says little of what was learned.
        words += ["--splits", ",".join(planned.data.left_out)] if planned.data.left_out else []
    if config_file is not None:
        words += ["--config", str(config_file)]
    words += ["--data-root", str(planned.config.data)]
    for name in SHARED:
        if name in given:
            words += [TABLE[name].flag, str(given[name])]
    return shlex.join(words)


def continuation(planned: TrainPlan) -> str:
    """What to type after a training that was stopped: the command that was typed."""
    if planned.config.save_optimizer == "never":
        return "the same command with another --out, from step 1: --save-optimizer never leaves no state to continue"
    command = shlex.join(["seedbench-r1", *sys.argv[1:]])
    # The launcher's own words are not known here.
    return command if planned.world_size == 1 else f"behind the same launcher and its options: {command}"
