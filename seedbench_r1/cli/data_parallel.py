"""eval with --data-parallel n: n processes on this machine, each with a shard of the run and GPUs of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from seedbench_r1.errors import ConfigError

if TYPE_CHECKING:
    from seedbench_r1.cli.progress import EvalProgress
    from seedbench_r1.engines.local import EvalResult, Plan
    from seedbench_r1.types import EvalConfig

ENTRY = "from seedbench_r1.cli.app import main; main()"
LOOK_EVERY_S = 2.0  # at what the children have written


def run_shards(planned: Plan, *, quiet: bool) -> tuple[EvalResult, int]:
    """Start the shards, wait for them, and count the whole run. Returns the result and the signal, 0 if none.

    Raises:
        ConfigError: --shard was given too, or there are fewer GPUs than needed.
    """
    from seedbench_r1.cli.eval import draining_signals
    from seedbench_r1.cli.progress import EvalProgress
    from seedbench_r1.engines.local import conclude, hash_weights
    from seedbench_r1.engines.shards import launch_shards
    from seedbench_r1.runs.directory import RunDir

    config = planned.config
    if config.shard is not None:
        raise ConfigError("--data-parallel makes the shards itself. Fix: leave out --shard.")
    lines = planned.suite.lines
    with RunDir.open(planned.path, planned.manifest, planned.questions, fresh=config.fresh, lines=lines) as run:
        weights = hash_weights(planned, run.manifest)  # and the directory is checked before any child starts
    command = [sys.executable, "-c", ENTRY, *child_arguments(sys.argv[1:])]
    with draining_signals() as (stop, received), EvalProgress(planned, quiet=quiet) as progress:
        ended = threading.Event()
        watcher = threading.Thread(target=_watch, args=(planned, progress, ended), daemon=True)
        watcher.start()
        launch_shards(
            command,
            config.data_parallel,
            gpus_per_shard=gpus_per_shard(config),
            environ=os.environ,
            received=received,
            stdout=subprocess.DEVNULL,  # the whole run is counted below
        )
        ended.set()
        watcher.join()
    with RunDir.open(planned.path, planned.manifest, planned.questions, lines=lines) as run:
        result = conclude(run, planned, weights, shard=None, stopped=stop.is_set())
    return result, received[0] if received else 0


def child_arguments(arguments: Sequence[str]) -> list[str]:
    """The command line for a shard: no --data-parallel of its own, no --fresh, no --json, quiet."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        name = argument.partition("=")[0]
        if skip:
            skip = False
        elif name == "--data-parallel":
            skip = "=" not in argument
        elif name not in ("--fresh", "--json", "--quiet"):
            kept.append(argument)
    return [*kept, "--data-parallel", "1", "--quiet"]


def gpus_per_shard(config: EvalConfig) -> int:
    """GPUs for each process: --tensor-parallel where there are GPUs and the backend uses them, else 0."""
    has_gpu = Path("/dev/nvidiactl").exists() and config.device != "cpu"
    return config.tensor_parallel if has_gpu and config.backend in ("vllm", "transformers") else 0


def _watch(planned: Plan, progress: EvalProgress, ended: threading.Event) -> None:
    """Show what the children write."""
    from seedbench_r1.runs.directory import merged_records

    while True:
        last = ended.wait(LOOK_EVERY_S)
        for record in merged_records(planned.path, lines=planned.suite.lines).values():
            if not progress.knows(record):
                progress.observe(record)
        if last:
            return
