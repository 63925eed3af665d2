"""seedbench-r1 train: from a checkpoint and training rows to checkpoints that `eval` takes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from seedbench_r1.errors import Interrupted

if TYPE_CHECKING:
    from trainers.loop import TrainResult
    from trainers.metrics import StepMetrics
    from trainers.plan import TrainPlan

MODEL, DATA, GROUP, LOSS, OPTIMISER = "Model", "Data", "Rollouts and rewards", "Loss and reference", "Optimiser"
RUNTIME, OUTPUT = "Runtime", "Output"
_Mean = Literal["reward", "accuracy", "bonus", "zero_std", "length", "truncated", "kl", "rollout_logprob_gap", "loss"]
DRAINING = "Stopping: this step is finished and saved. Once more stops at once."


def _option(flag: str, panel: str, text: str, **extra: Any) -> Any:
    return typer.Option(flag, rich_help_panel=panel, help=text, show_default=False, **extra)


def train_command(
    config_file: Annotated[
        Path | None, typer.Option("--config", help="TOML with these options under [train].", show_default=False)
    ] = None,
    algo: Annotated[str | None, _option("--algo", MODEL, "care, grpo or sft.")] = None,
    preset: Annotated[
        str | None, _option("--preset", MODEL, "care, care-paper, grpo, grpo-nokl, sft; by default --algo's own.")
    ] = None,
    model: Annotated[str | None, _option("--model", MODEL, "Checkpoint folder or hub id to start from.")] = None,
    lora: Annotated[
        bool | None, _option("--lora/--no-lora", MODEL, "Train adapters on the language model's linear layers.")
    ] = None,
    lora_r: Annotated[int | None, _option("--lora-r", MODEL, "Rank, 64.")] = None,
    lora_alpha: Annotated[int | None, _option("--lora-alpha", MODEL, "Scale, 64.")] = None,
    freeze_vision: Annotated[
        bool | None, _option("--freeze-vision/--no-freeze-vision", MODEL, "Leave the vision tower as it is.")
    ] = None,
    dtype: Annotated[str | None, _option("--dtype", MODEL, "auto (bfloat16 on CUDA), bfloat16, float32.")] = None,
    device: Annotated[str | None, _option("--device", MODEL, "auto (default), cuda, cuda:1, cpu.")] = None,
    data: Annotated[Path | None, _option("--data", DATA, "Folder of annotations/, videos/, images/.")] = None,
    train_file: Annotated[
        Path | None, _option("--train-file", DATA, "Rows; training_6k.jsonl, for SFT training_with_cot_6k.jsonl.")
    ] = None,
    allow_missing: Annotated[
        bool | None,
        _option("--allow-missing/--no-allow-missing", DATA, "Replace rows whose media are absent by the next one."),
    ] = None,
    prompt_file: Annotated[Path | None, _option("--prompt-file", DATA, "Your wording, as for eval.")] = None,
    fps: Annotated[float | None, _option("--fps", DATA, "Frames per second of clip, 2.")] = None,
    min_frames: Annotated[int | None, _option("--min-frames", DATA, "At least so many frames, 4.")] = None,
    max_frames: Annotated[int | None, _option("--max-frames", DATA, "At most so many frames, 16.")] = None,
    min_pixels: Annotated[int | None, _option("--min-pixels", DATA, "Per video frame, 100352.")] = None,
    max_pixels: Annotated[int | None, _option("--max-pixels", DATA, "Per video frame, 105369.")] = None,
    image_min_pixels: Annotated[int | None, _option("--image-min-pixels", DATA, "3136.")] = None,
    image_max_pixels: Annotated[int | None, _option("--image-max-pixels", DATA, "200704.")] = None,
    reader: Annotated[str | None, _option("--reader", DATA, "decord (default), pyav, torchcodec.")] = None,
    num_generations: Annotated[int | None, _option("--num-generations", GROUP, "Rollouts per question, 8.")] = None,
    max_completion_length: Annotated[
        int | None, _option("--max-completion-length", GROUP, "New tokens of a rollout, 768; longest SFT response.")
    ] = None,
    temperature: Annotated[float | None, _option("--temperature", GROUP, "1.")] = None,
    top_p: Annotated[float | None, _option("--top-p", GROUP, "1: off.")] = None,
    top_k: Annotated[int | None, _option("--top-k", GROUP, "0: off.")] = None,
    format_weight: Annotated[float | None, _option("--format-weight", GROUP, "Of the format reward, 1.")] = None,
    bonus: Annotated[str | None, _option("--bonus", GROUP, "care, dense (ablation) or none.")] = None,
    bonus_weight: Annotated[float | None, _option("--bonus-weight", GROUP, "0.5.")] = None,
    bonus_margin: Annotated[float | None, _option("--bonus-margin", GROUP, "0.")] = None,
    bonus_cap: Annotated[float | None, _option("--bonus-cap", GROUP, "0.95.")] = None,
    likelihood_mean: Annotated[str | None, _option("--likelihood-mean", GROUP, "geometric or arithmetic.")] = None,
    beta: Annotated[float | None, _option("--beta", LOSS, "Weight of the KL penalty.")] = None,
    kl_on: Annotated[str | None, _option("--kl-on", LOSS, "all rollouts (default) or accurate ones.")] = None,
    reference: Annotated[str | None, _option("--reference", LOSS, "ema, frozen or none.")] = None,
    ema_decay: Annotated[float | None, _option("--ema-decay", LOSS, "0.995.")] = None,
    ema_every: Annotated[int | None, _option("--ema-every", LOSS, "Steps between its updates, 10.")] = None,
    learning_rate: Annotated[float | None, _option("--learning-rate", OPTIMISER, "See --print-config.")] = None,
    lr_scheduler_type: Annotated[
        str | None, _option("--lr-scheduler-type", OPTIMISER, "cosine (default), linear, constant.")
    ] = None,
    warmup_ratio: Annotated[float | None, _option("--warmup-ratio", OPTIMISER, "Share of all steps.")] = None,
    weight_decay: Annotated[float | None, _option("--weight-decay", OPTIMISER, "0.01.")] = None,
    max_grad_norm: Annotated[float | None, _option("--max-grad-norm", OPTIMISER, "5.")] = None,
    optimizer_device: Annotated[
        str | None, _option("--optimizer-device", OPTIMISER, "auto, or cpu: fp32 weights and moments in main memory.")
    ] = None,
    fsdp: Annotated[
        bool | None,
        _option("--fsdp/--no-fsdp", OPTIMISER, "Spread weights, gradients and moments over the processes (FSDP2)."),
    ] = None,
    per_device_train_batch_size: Annotated[
        int | None, _option("--per-device-train-batch-size", OPTIMISER, "Questions per process, 1.")
    ] = None,
    gradient_accumulation_steps: Annotated[
        int | None, _option("--gradient-accumulation-steps", OPTIMISER, "Times as many questions a step.")
    ] = None,
    num_train_epochs: Annotated[float | None, _option("--num-train-epochs", OPTIMISER, "1.")] = None,
    max_steps: Annotated[int | None, _option("--max-steps", OPTIMISER, "Instead of epochs.")] = None,
    rollout_batch_size: Annotated[
        int | None, _option("--rollout-batch-size", RUNTIME, "Questions whose rollouts grow together, 4.")
    ] = None,
    rollouts: Annotated[
        str | None, _option("--rollouts", RUNTIME, "The sampler: builtin (default), or vllm beside the policy.")
    ] = None,
    gpu_memory_utilization: Annotated[
        float | None,
        _option("--gpu-memory-utilization", RUNTIME, "vllm: share of each GPU while it samples, 0.3."),
    ] = None,
    decode_cache: Annotated[
        str | None, _option("--decode-cache", RUNTIME, "auto (static on CUDA), dynamic, static: of the rollouts.")
    ] = None,
    group_chunk: Annotated[
        int | None, _option("--group-chunk", RUNTIME, "Rollouts per pass when memory is short; the same numbers.")
    ] = None,
    shared_prefix: Annotated[
        bool | None, typer.Option("--shared-prefix/--no-shared-prefix", rich_help_panel=RUNTIME, show_default=False)
    ] = None,
    gradient_checkpointing: Annotated[
        bool | None,
        typer.Option(
            "--gradient-checkpointing/--no-gradient-checkpointing", rich_help_panel=RUNTIME, show_default=False
        ),
    ] = None,
    seed: Annotated[int | None, _option("--seed", RUNTIME, "Of order, options, rollouts and adapters, 42.")] = None,
    workers: Annotated[int | None, _option("--workers", RUNTIME, "Decoding processes, 2.")] = None,
    decode_timeout_s: Annotated[
        float | None, _option("--decode-timeout", RUNTIME, "Seconds before a stuck decoder is killed, 60.")
    ] = None,
    frame_cache: Annotated[
        Path | None, _option("--frame-cache", RUNTIME, "Folder that keeps decoded frames for later epochs and runs.")
    ] = None,
    frame_cache_gb: Annotated[float | None, _option("--frame-cache-gb", RUNTIME, "Its limit in GB, 50.")] = None,
    out: Annotated[Path | None, _option("--out", OUTPUT, "Where checkpoints and metrics go.")] = None,
    save_steps: Annotated[int | None, _option("--save-steps", OUTPUT, "Steps between checkpoints, 100.")] = None,
    save_total_limit: Annotated[int | None, _option("--save-total-limit", OUTPUT, "Newest kept, 3.")] = None,
    logging_steps: Annotated[int | None, _option("--logging-steps", OUTPUT, "Steps between lines shown, 10.")] = None,
    eval_every: Annotated[
        int | None, _option("--eval-every", OUTPUT, "Steps between evaluations on questions held out of the rows.")
    ] = None,
    eval_questions: Annotated[int | None, _option("--eval-questions", OUTPUT, "How many are held out, 64.")] = None,
    report_to: Annotated[
        str | None, _option("--report-to", OUTPUT, "tensorboard, wandb, trackio, joined by commas; none (default).")
    ] = None,
    rollout_log_steps: Annotated[
        int | None, _option("--rollout-log-steps", OUTPUT, "Steps between samples in rollouts.jsonl, 10; 0: none.")
    ] = None,
    print_config: Annotated[bool, _option("--print-config", OUTPUT, "Print the resolved settings and stop.")] = False,
    dry_run: Annotated[bool, _option("--dry-run", OUTPUT, "Check everything, load no model, and stop.")] = False,
    as_json: Annotated[bool, _option("--json", OUTPUT, "One JSON object on stdout.")] = False,
    quiet: Annotated[bool, _option("--quiet", OUTPUT, "No progress.")] = False,
) -> None:
    """Train a checkpoint by SFT, GRPO or GRPO-CARE. The same command again continues an interrupted training.

    Exit codes: 0 done, 3 configuration, 4 data, 7 memory or disk, 130/143 interrupted after a checkpoint.
    """
    options = dict(locals())
    for name in ("config_file", "print_config", "dry_run", "as_json", "quiet", "report_to"):
        del options[name]
    mode = {"print_config": print_config, "dry_run": dry_run, "json": as_json, "quiet": quiet}
    _run(options, config_file, mode, report_to)


def _run(options: dict[str, Any], config_file: Path | None, mode: dict[str, bool], report_to: str | None) -> None:
    from seedbench_r1.cli import console
    from seedbench_r1.cli.eval import draining_signals
    from seedbench_r1.types import to_json
    from trainers.config import resolve_train_config
    from trainers.trackers import open_trackers, parse_trackers

    trackers = parse_trackers(report_to)
    config = resolve_train_config(options, config_file=config_file)
    if mode["print_config"]:
        console.out().print(json.dumps(to_json(config), indent=1, ensure_ascii=False), soft_wrap=True)
        return
    from trainers.loop import train
    from trainers.plan import plan_training
    from trainers.processes import Processes

    processes = Processes(config.device)
    planned = plan_training(config, world_size=processes.world_size)
    if mode["dry_run"]:
        if processes.is_main:
            _print_dry_run(planned, as_json=mode["json"])
        return
    console.silence_weight_bars()
    quiet = mode["quiet"] or mode["json"] or not processes.is_main
    progress = TrainProgress(planned, quiet=quiet)
    progress.begin()
    with open_trackers(trackers if processes.is_main else (), config, planned.done) as opened:

        def observe(metrics: StepMetrics) -> None:
            progress.observe(metrics)
            for tracker in opened:
                tracker.observe(metrics)

        with draining_signals(DRAINING) as (stop, received):
            result = train(planned, stop=stop, observe=observe)
    if processes.is_main:
        _print_result(result, as_json=mode["json"])
    if not result.finished:
        raise Interrupted(
            f"Stopped by a signal after step {result.step} of {result.n_steps}. Run it again to go on.",
            received[0] if received else 15,
        )


class TrainProgress:
    """What is going to happen, and then a few lines every logging_steps steps, on standard error."""

    def __init__(self, planned: TrainPlan, *, quiet: bool) -> None:
        from seedbench_r1.cli import console

        self._plan, self._quiet, self._screen = planned, quiet, console.err()
        self._since: list[StepMetrics] = []
        self._history: list[StepMetrics] = []
        self._seconds: list[float] = []
        self._reward: float | None = None

    def begin(self) -> None:
        """Say what will be done."""
        if not self._quiet:
            for line in header(self._plan):
                self._screen.print(line, soft_wrap=True)

    def observe(self, metrics: StepMetrics) -> None:
        """Take note of a step."""
        from trainers.metrics import WINDOW, collapse_warnings

        self._since.append(metrics)
        self._history = [*self._history, metrics][-WINDOW:]
        self._seconds = [*self._seconds, metrics["seconds"]["step"]][-WINDOW:]
        if "heldout" in metrics and not self._quiet:
            held = metrics["heldout"]
            share = "none usable" if held["accuracy"] is None else f"{100 * held['accuracy']:.1f} %"
            self._screen.print(f" step {metrics['step']}: accuracy on {held['n']} held-out questions {share}")
        last = metrics["step"] == self._plan.n_steps
        if self._quiet or not (last or metrics["step"] % self._plan.config.logging_steps == 0):
            return
        for line in self._lines(metrics):
            self._screen.print(line, soft_wrap=True)
        for warning in collapse_warnings(self._history):
            self._screen.print(f" warn: {warning}", soft_wrap=True)
        self._since = []

    def _lines(self, metrics: StepMetrics) -> list[str]:
        """The numbers are means over the steps since the last lines."""
        per_step = sum(self._seconds) / len(self._seconds)
        left = time.strftime("%H:%M:%S", time.gmtime(per_step * (self._plan.n_steps - metrics["step"])))
        dot = _dot()
        first = (
            f"train {self._plan.config.preset} {dot} step {metrics['step']}/{self._plan.n_steps} {dot} "
            f"{per_step:.2f} s/step {dot} ETA {left}"
        )
        if metrics["replaced"]:
            first += f" {dot} replaced {metrics['replaced']}"
        rate = f"lr {metrics['lr']:.2g}"
        if "reward" not in metrics:
            return [first, f" loss {self._mean('loss'):.4f} {dot} len {self._mean('length'):.0f} tok {dot} {rate}"]
        reward = self._mean("reward")
        change = "" if self._reward is None else f" ({reward - self._reward:+.2f})"
        self._reward = reward
        kl = "off" if metrics["kl"] is None else f"{self._mean('kl'):.2g}"
        parts = [
            f"reward {reward:.2f}{change}",
            f"acc {self._mean('accuracy'):.2f}",
            f"consist-bonus {self._mean('bonus'):.2f}",
            f"zero-std groups {100 * self._mean('zero_std'):.0f} %",
            f"len {self._mean('length'):.0f} tok (clip {100 * self._mean('truncated'):.0f} %)",
            f"kl {kl}",
            rate,
        ]
        if metrics["rollout_logprob_gap"] is not None:
            parts.append(f"sampler gap {self._mean('rollout_logprob_gap'):.2g}")
        return [first, " " + f" {dot} ".join(parts), " " + self._time_shares(metrics)]

    def _time_shares(self, metrics: StepMetrics) -> str:
        whole = max(1e-9, sum(step["seconds"]["step"] for step in self._since))
        share = {n: 100 * sum(s["seconds"][n] for s in self._since) / whole for n in metrics["seconds"]}
        memory = f"GPU mem peak {metrics['memory_gb']:.1f} GB {_dot()} " if "memory_gb" in metrics else ""
        return (
            f"{memory}gen {share['rollouts']:.0f} % / reference {share['reference']:.0f} % / "
            f"fwd-bwd {share['policy']:.0f} % / io {share['io']:.0f} %"
        )

    def _mean(self, name: _Mean) -> float:
        values = [value for step in self._since if (value := step[name]) is not None]
        return sum(values) / len(values) if values else float("nan")


def header(planned: TrainPlan) -> list[str]:
    """What is going to happen, in three or four lines."""
    import shutil

    from trainers.data import contradicting_rows
    from trainers.estimate import estimate

    config, dot = planned.config, _dot()
    guess = estimate(config, planned.checkpoint, planned.questions_per_process, planned.world_size)
    rollouts = ""
    if config.algo != "sft":
        total = planned.questions_per_step * config.num_generations
        rollouts = f" x {config.num_generations} rollouts = {total} a step"
    where = next(folder for folder in (config.out, *config.out.absolute().parents) if folder.exists())
    keep = "all" if config.save_total_limit is None else config.save_total_limit
    lines = [
        f"seedbench-r1 train {dot} {config.preset} {dot} {planned.checkpoint.info.name} {dot} "
        f"{len(planned.rows):,} rows {dot} {planned.n_steps:,} steps of "
        f"{planned.questions_per_step} questions{rollouts}",
        f" ckpt every {config.save_steps} (keep {keep}, {guess.checkpoint / 1e9:.1f} GB each, "
        f"{shutil.disk_usage(where).free / 1e9:.0f} GB free) {dot} about {guess.device_bytes(config) / 1e9:.1f} GB of "
        f"device memory a process, by arithmetic",
    ]
    if odd := contradicting_rows(planned.rows):
        lines.append(f" warning: {len(odd)} responses do not give their row's gold answer, e.g. {odd[0]}")
    if planned.resume is not None:
        lines.append(f" continuing {planned.resume.folder}: {planned.done:,} of {planned.n_steps:,} steps done")
    return lines


def _print_dry_run(planned: TrainPlan, *, as_json: bool) -> None:
    from seedbench_r1.cli import console
    from seedbench_r1.types import to_json
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
        "gradients of a pass": guess.gradients,
        "gathered for a pass": guess.gathered,
        "reference": guess.reference,
        "average (main memory)": guess.average,
        "weights for sampling": guess.sampler,
        "rollout cache": guess.cache,
        "activations": guess.activations,
        "device, at most": guess.device_bytes(config),
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
    from seedbench_r1.cli import console

    if as_json:
        content: dict[str, Any] = {"schema": "sbr1.train/1", "status": "complete" if result.finished else "interrupted"}
        content |= {"step": result.step, "steps": result.n_steps, "replaced": result.replaced}
        typer.echo(json.dumps(content | {"checkpoint": str(result.checkpoint) if result.checkpoint else None}))
        return
    screen = console.out()
    screen.print(f" step {result.step} of {result.n_steps} {_dot()} {result.replaced} questions replaced")
    screen.print(f" saved {result.checkpoint}", soft_wrap=True)
    screen.print(f" next: seedbench-r1 eval --model {result.checkpoint}", soft_wrap=True)


def _dot() -> str:
    from seedbench_r1.cli import console

    return console.glyph("·", "|")
