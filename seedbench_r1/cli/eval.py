"""seedbench-r1 eval: from a checkpoint to a scored run directory."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seedbench_r1.errors import IncompleteRun, Interrupted

if TYPE_CHECKING:
    from types import FrameType

    from seedbench_r1.evaluate import EvalResult, Plan

MODEL, DATA, DECODING, RUNTIME, OUTPUT = "Model", "Data", "Decoding (changes the protocol id)", "Runtime", "Output"


def _option(flag: str, panel: str, text: str, **extra: Any) -> Any:
    return typer.Option(flag, rich_help_panel=panel, help=text, show_default=False, **extra)


def evaluate_command(
    model: Annotated[str | None, _option("--model", MODEL, "Checkpoint folder, LoRA adapter folder or hub id.")] = None,
    base_model: Annotated[str | None, _option("--base-model", MODEL, "Base of a LoRA adapter.")] = None,
    revision: Annotated[str | None, _option("--revision", MODEL, "Branch, tag or commit of a hub id.")] = None,
    backend: Annotated[str | None, _option("--backend", MODEL, "transformers (default) or fake (scripted).")] = None,
    dtype: Annotated[str | None, _option("--dtype", MODEL, "auto (default), bfloat16, float16, float32.")] = None,
    device: Annotated[str | None, _option("--device", MODEL, "auto (default), cuda, cuda:1, cpu.")] = None,
    data_root: Annotated[Path | None, _option("--data-root", DATA, "Folder of annotations/, videos/, images/.")] = None,
    levels: Annotated[str | None, _option("--levels", DATA, "L1,L2,L3 (default) or some of them.")] = None,
    annotations: Annotated[Path | None, _option("--annotations", DATA, "Your own questions, same schema.")] = None,
    limit: Annotated[
        int | None, _option("--limit", DATA, "Ask only N, stratified by level (SUBSET, unranked).")
    ] = None,
    allow_missing: Annotated[
        bool, _option("--allow-missing", DATA, "Run although media files are absent (INCOMPLETE, unranked).")
    ] = False,
    protocol: Annotated[str | None, _option("--protocol", DECODING, "standard (default) or greedy.")] = None,
    prompt_file: Annotated[Path | None, _option("--prompt-file", DECODING, "Your wording, as TOML.")] = None,
    fps: Annotated[float | None, _option("--fps", DECODING, "Frames per second of clip, 2.")] = None,
    min_frames: Annotated[int | None, _option("--min-frames", DECODING, "At least so many frames, 4.")] = None,
    max_frames: Annotated[int | None, _option("--max-frames", DECODING, "At most so many frames, 16.")] = None,
    min_pixels: Annotated[int | None, _option("--min-pixels", DECODING, "Per video frame, 100352.")] = None,
    max_pixels: Annotated[int | None, _option("--max-pixels", DECODING, "Per video frame, 105369.")] = None,
    image_min_pixels: Annotated[int | None, _option("--image-min-pixels", DECODING, "3136.")] = None,
    image_max_pixels: Annotated[int | None, _option("--image-max-pixels", DECODING, "200704.")] = None,
    reader: Annotated[str | None, _option("--reader", DECODING, "decord (default), pyav, torchcodec.")] = None,
    temperature: Annotated[float | None, _option("--temperature", DECODING, "0.1; 0 is greedy.")] = None,
    top_p: Annotated[float | None, _option("--top-p", DECODING, "0.001.")] = None,
    top_k: Annotated[int | None, _option("--top-k", DECODING, "0: off.")] = None,
    repetition_penalty: Annotated[float | None, _option("--repetition-penalty", DECODING, "1.0: off.")] = None,
    max_new_tokens: Annotated[int | None, _option("--max-new-tokens", DECODING, "1024.")] = None,
    seed: Annotated[int | None, _option("--seed", RUNTIME, "Of sampling and of --limit, 0.")] = None,
    batch_size: Annotated[int | None, _option("--batch-size", RUNTIME, "Questions at once, 8.")] = None,
    workers: Annotated[int | None, _option("--workers", RUNTIME, "Decoding processes, 2.")] = None,
    decode_timeout_s: Annotated[
        float | None, _option("--decode-timeout", RUNTIME, "Seconds before a stuck decoder is killed, 60.")
    ] = None,
    shard: Annotated[str | None, _option("--shard", RUNTIME, "i/n: this process answers part i of n.")] = None,
    retry_errors: Annotated[
        bool | None, typer.Option("--retry-errors/--no-retry-errors", rich_help_panel=RUNTIME, show_default=False)
    ] = None,
    max_error_rate: Annotated[
        float | None, _option("--max-error-rate", RUNTIME, "Share of failed questions that still exits 0, 0.")
    ] = None,
    runs_dir: Annotated[Path | None, _option("--runs-dir", OUTPUT, "Where run directories go, ./runs.")] = None,
    run_name: Annotated[str | None, _option("--run-name", OUTPUT, "Instead of <model>--<protocol id>.")] = None,
    fresh: Annotated[bool, _option("--fresh", OUTPUT, "Start anew; the old files move aside.")] = False,
    config: Annotated[Path | None, _option("--config", OUTPUT, "TOML file, by default ./seedbench-r1.toml.")] = None,
    print_config: Annotated[bool, _option("--print-config", OUTPUT, "Print the resolved settings and stop.")] = False,
    dry_run: Annotated[bool, _option("--dry-run", OUTPUT, "Check everything, load no model, and stop.")] = False,
    as_json: Annotated[bool, _option("--json", OUTPUT, "One JSON object on stdout.")] = False,
    quiet: Annotated[bool, _option("--quiet", OUTPUT, "No progress.")] = False,
) -> None:
    """Evaluate a checkpoint. The same command again continues an interrupted run.

    Exit codes: 0 done, 3 configuration, 4 data, 5 some questions have no answer, 7 resources, 130/143 interrupted.
    """
    options = dict(locals())
    for name in ("config", "print_config", "dry_run", "as_json", "quiet"):
        del options[name]
    for name in ("allow_missing", "fresh"):
        options[name] = options[name] or None
    _run(options, config, {"print_config": print_config, "dry_run": dry_run, "json": as_json, "quiet": quiet})


def _run(options: dict[str, Any], config_file: Path | None, mode: dict[str, bool]) -> None:
    from seedbench_r1.cli.results import print_config, print_dry_run, print_result, result_json
    from seedbench_r1.config import parse_levels, parse_shard, resolve_eval_config
    from seedbench_r1.evaluate import plan

    if options["levels"] is not None:
        options["levels"] = parse_levels(options["levels"])
    if options["shard"] is not None:
        options["shard"] = parse_shard(options["shard"])
    config = resolve_eval_config(options, config_file=config_file)
    if mode["print_config"]:
        print_config(config)
        return
    planned = plan(config, command=shlex.join(["seedbench-r1", *sys.argv[1:]]))
    if mode["dry_run"]:
        print_dry_run(planned, as_json=mode["json"])
        return
    result, signal_number = run_plan(planned, quiet=mode["quiet"] or mode["json"])
    code = exit_code(planned, result, signal_number)
    if mode["json"]:
        typer.echo(result_json(planned, result, code))
    else:
        print_result(planned, result)
    if result.stopped and signal_number:
        raise Interrupted(
            f"Stopped by a signal, {result.unanswered} questions left. Run it again to go on.", signal_number
        )
    if code:
        raise IncompleteRun(
            f"{result.unanswered} questions have no answer ({result.failed} failed). "
            f"Why: seedbench-r1 show {planned.path} --failed. Fix it and run the same command again."
        )


def run_plan(planned: Plan, *, quiet: bool = False) -> tuple[EvalResult, int]:
    """Evaluate with progress on standard error and signals handled. Returns the result and the signal, 0 if none."""
    from seedbench_r1.backends import open_backend
    from seedbench_r1.cli.console import silence_weight_bars
    from seedbench_r1.cli.progress import EvalProgress
    from seedbench_r1.evaluate import evaluate

    if planned.checkpoint is not None:
        silence_weight_bars()
    with draining_signals() as (stop, received), EvalProgress(planned, quiet=quiet) as progress:
        result = evaluate(planned, open_backend, stop=stop, observe=progress.observe)
    return result, received[0] if received else 0


def exit_code(planned: Plan, result: EvalResult, signal_number: int) -> int:
    """0 if everything asked has an answer, or failures stay within --max-error-rate; 5 or 128 + signal otherwise."""
    if result.stopped and signal_number and result.unanswered:
        return 128 + signal_number
    only_failures = result.unanswered == result.failed
    tolerated = result.failed <= planned.config.max_error_rate * len(planned.questions)
    return 0 if only_failures and tolerated else 5


@contextmanager
def draining_signals() -> Iterator[tuple[threading.Event, list[int]]]:
    """First SIGINT, SIGTERM or SIGUSR1 (Slurm): finish what is in flight. Second: stop now."""
    stop, received = threading.Event(), []

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        print("\nStopping: answers in flight are finished and saved. Once more stops at once.", file=sys.stderr)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stop, received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
