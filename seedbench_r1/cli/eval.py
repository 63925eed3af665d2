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

    from seedbench_r1.engines.local import EvalResult, Plan

MODEL, DATA, DECODING, RUNTIME, OUTPUT = "Model", "Data", "Decoding (changes the protocol id)", "Runtime", "Output"
API = "API (--backend openai:MODEL)"
LMMS = "lmms-eval"
RAY = "Ray (--engine ray)"
DRAINING = "Stopping: answers in flight are finished and saved. Once more stops at once."


def _option(flag: str, panel: str, text: str, **extra: Any) -> Any:
    return typer.Option(flag, rich_help_panel=panel, help=text, show_default=False, **extra)


def evaluate_command(
    model: Annotated[str | None, _option("--model", MODEL, "Checkpoint folder, LoRA adapter folder or hub id.")] = None,
    base_model: Annotated[str | None, _option("--base-model", MODEL, "Base of a LoRA adapter.")] = None,
    revision: Annotated[str | None, _option("--revision", MODEL, "Branch, tag or commit of a hub id.")] = None,
    backend: Annotated[str | None, _option("--backend", MODEL, "transformers, vllm, openai:MODEL or fake.")] = None,
    dtype: Annotated[str | None, _option("--dtype", MODEL, "auto (default), bfloat16, float16, float32.")] = None,
    device: Annotated[str | None, _option("--device", MODEL, "auto (default), cuda, cuda:1, cpu.")] = None,
    data_root: Annotated[Path | None, _option("--data-root", DATA, "Folder of annotations/, videos/, images/.")] = None,
    suite: Annotated[
        str | None,
        _option("--suite", DATA, "seedbench-r1 (default); transfer, transfer-lmms: general video benchmarks."),
    ] = None,
    transfer_files: Annotated[
        Path | None, _option("--transfer-files", DATA, "transfer: folder of eval_*.json, <data root>/Evaluation.")
    ] = None,
    benchmarks: Annotated[
        str | None,
        _option("--benchmarks", DATA, "transfer: some of vsibench,videommmu,mmvu,mvbench,... (default all)."),
    ] = None,
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
    tensor_parallel: Annotated[int | None, _option("--tensor-parallel", RUNTIME, "vllm: GPUs per copy, 1.")] = None,
    data_parallel: Annotated[
        int | None, _option("--data-parallel", RUNTIME, "Processes on this machine, each with GPUs of its own, 1.")
    ] = None,
    max_in_flight: Annotated[int | None, _option("--max-in-flight", RUNTIME, "vllm: generations at once, 128.")] = None,
    gpu_memory_utilization: Annotated[
        float | None, _option("--gpu-memory-utilization", RUNTIME, "vllm: share of each GPU's memory, 0.9.")
    ] = None,
    max_model_len: Annotated[
        int | None, _option("--max-model-len", RUNTIME, "vllm: prompt and completion, tokens.")
    ] = None,
    seed: Annotated[int | None, _option("--seed", RUNTIME, "Of sampling and of --limit, 0.")] = None,
    batch_size: Annotated[int | None, _option("--batch-size", RUNTIME, "Questions at once, 8.")] = None,
    workers: Annotated[int | None, _option("--workers", RUNTIME, "Decoding processes, 2.")] = None,
    decode_timeout_s: Annotated[
        float | None, _option("--decode-timeout", RUNTIME, "Seconds before a stuck decoder is killed, 60.")
    ] = None,
    frame_cache: Annotated[
        Path | None, _option("--frame-cache", RUNTIME, "Folder that keeps decoded frames for the next run.")
    ] = None,
    frame_cache_gb: Annotated[
        float | None, _option("--frame-cache-gb", RUNTIME, "Its limit in GB, 50; what was used longest ago goes.")
    ] = None,
    shard: Annotated[str | None, _option("--shard", RUNTIME, "i/n: this process answers part i of n.")] = None,
    retry_errors: Annotated[
        bool | None, typer.Option("--retry-errors/--no-retry-errors", rich_help_panel=RUNTIME, show_default=False)
    ] = None,
    max_error_rate: Annotated[
        float | None, _option("--max-error-rate", RUNTIME, "Share of failed questions that still exits 0, 0.")
    ] = None,
    base_url: Annotated[str | None, _option("--base-url", API, "Server, e.g. http://localhost:8000/v1.")] = None,
    concurrency: Annotated[int | None, _option("--concurrency", API, "Requests in flight, 16.")] = None,
    api_video: Annotated[
        str | None, _option("--api-video", API, "images (default) or video (vLLM's form); changes the protocol id.")
    ] = None,
    api_timeout_s: Annotated[float | None, _option("--api-timeout", API, "Seconds for one try, 120.")] = None,
    api_tries: Annotated[
        int | None, _option("--api-tries", API, "Tries before a question counts as failed, 6.")
    ] = None,
    max_completion_tokens: Annotated[
        bool, _option("--max-completion-tokens", API, "Send the token limit under this name, not as max_tokens.")
    ] = False,
    price_in: Annotated[float | None, _option("--price-in", API, "Per million prompt tokens: shows the cost.")] = None,
    price_out: Annotated[float | None, _option("--price-out", API, "Per million generated tokens.")] = None,
    max_cost: Annotated[float | None, _option("--max-cost", API, "Stop before this call has cost more.")] = None,
    engine: Annotated[
        str | None, _option("--engine", RUNTIME, "ray: a pool of workers; lmms-eval: one of its models answers.")
    ] = None,
    ray_workers: Annotated[
        int | None, _option("--ray-workers", RAY, "One for each GPU of the cluster, or 1 without GPUs.")
    ] = None,
    ray_address: Annotated[
        str | None, _option("--ray-address", RAY, "Running cluster, HOST:PORT or auto; default: one of our own.")
    ] = None,
    lmms_model: Annotated[str | None, _option("--lmms-model", LMMS, "lmms-eval's name of the model.")] = None,
    lmms_model_args: Annotated[str | None, _option("--lmms-model-args", LMMS, "Its --model_args.")] = None,
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
    for name in ("allow_missing", "fresh", "max_completion_tokens"):
        options[name] = options[name] or None
    options["suite"] = None if suite == "seedbench-r1" else suite
    lmms = {name: options.pop(name) for name in ("engine", "lmms_model", "lmms_model_args", "suite")}
    transfer = {name: options.pop(name) for name in ("transfer_files", "benchmarks")}
    ray = {name: options.pop(name) for name in ("ray_workers", "ray_address")}
    mode = {"print_config": print_config, "dry_run": dry_run, "json": as_json, "quiet": quiet}
    if suite == "transfer" or any(value is not None for value in transfer.values()):
        from seedbench_r1.cli.transfer import run_transfer

        run_transfer(options, config, mode, transfer, {**lmms, **ray})
    elif lmms["engine"] == "ray" or any(value is not None for value in ray.values()):
        from seedbench_r1.cli.ray import run_with_ray

        run_with_ray(options, config, mode, ray, lmms)
    elif any(value is not None for value in lmms.values()):
        from seedbench_r1.cli.lmms import run_with_lmms_eval

        run_with_lmms_eval(options, config, mode, lmms)
    else:
        _run(options, config, mode)


def _run(options: dict[str, Any], config_file: Path | None, mode: dict[str, bool]) -> None:
    from seedbench_r1.cli.results import print_config, print_dry_run
    from seedbench_r1.config import resolve_eval_config
    from seedbench_r1.engines.local import plan

    config = resolve_eval_config(parse_options(options), config_file=config_file)
    if mode["print_config"]:
        print_config(config)
        return
    planned = plan(config, command=shlex.join(["seedbench-r1", *sys.argv[1:]]))
    if mode["dry_run"]:
        print_dry_run(planned, as_json=mode["json"])
        return
    result, signal_number = run_planned(planned, quiet=mode["quiet"] or mode["json"])
    finish(planned, result, signal_number, mode)


def run_planned(planned: Plan, *, quiet: bool) -> tuple[EvalResult, int]:
    """Evaluate here, or in the shards of --data-parallel. Returns the result and the signal, 0 if none."""
    if planned.config.data_parallel > 1:
        from seedbench_r1.cli.data_parallel import run_shards

        return run_shards(planned, quiet=quiet)
    return run_plan(planned, quiet=quiet)


def parse_options(options: dict[str, Any]) -> dict[str, Any]:
    """The command line's values with levels and shard read."""
    from seedbench_r1.config import parse_levels, parse_shard

    readers = {"levels": parse_levels, "shard": parse_shard}
    return options | {name: read(options[name]) for name, read in readers.items() if options[name] is not None}


def finish(planned: Plan, result: EvalResult, signal_number: int, mode: dict[str, bool]) -> None:
    """Print the result. Raises IncompleteRun or Interrupted if not everything has an answer."""
    from seedbench_r1.cli.results import print_result, result_json

    code = exit_code(planned, result, signal_number)
    if mode["json"]:
        typer.echo(result_json(planned, result, code))
    else:
        print_result(planned, result)
    raise_unless_done(planned, result, signal_number, code)


def raise_unless_done(planned: Plan, result: EvalResult, signal_number: int, code: int) -> None:
    """Raises IncompleteRun or Interrupted if not everything has an answer."""
    config = planned.config
    if result.stopped and signal_number:
        raise Interrupted(
            f"Stopped by a signal, {result.unanswered} questions left. Run it again to go on.", signal_number
        )
    if code and config.max_cost is not None and result.unanswered > result.failed:
        raise IncompleteRun(
            f"{result.unanswered - result.failed} questions were not asked: --max-cost {config.max_cost:g} does not "
            f"pay for them. Everything answered is saved; run the same command again to spend as much again."
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
    from seedbench_r1.engines.local import evaluate

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
def draining_signals(message: str = DRAINING) -> Iterator[tuple[threading.Event, list[int]]]:
    """First SIGINT, SIGTERM or SIGUSR1 (Slurm): finish what is in flight. Second: stop now."""
    stop, received = threading.Event(), []

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        print(f"\n{message}", file=sys.stderr)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stop, received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
