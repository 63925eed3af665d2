"""One command, n processes: data parallelism by shards of the same run, each with GPUs of its own."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from seedbench_r1.errors import ConfigError

# Exit codes, harmless first: done, some unanswered, judge, resources, data, configuration, usage, bug (errors.py)
SEVERITY = (0, 5, 6, 7, 4, 3, 2, 1)
POLL_S = 0.2  # how soon a stop is passed on, and the end of a child is noticed


@dataclass(frozen=True, slots=True)
class Shard:
    """One child process, not yet started."""

    command: list[str]
    environ: dict[str, str]


def plan_shards(command: Sequence[str], n: int, *, gpus_per_shard: int, environ: Mapping[str, str]) -> list[Shard]:
    """The command with `--shard i/n` for i = 1..n, and each child's environment.

    Shard i sees the i-th group of `gpus_per_shard` devices of CUDA_VISIBLE_DEVICES (numbers, or names such as GPU-...
    or MIG-...), or of 0, 1, 2, ... where that is not set; with gpus_per_shard = 0 it sees what this process sees.
    Raises ConfigError if n or gpus_per_shard is out of range, or if fewer devices are visible than are needed.
    """
    if n < 1 or gpus_per_shard < 0:
        raise ConfigError(f"--data-parallel {n} with {gpus_per_shard} GPUs each: at least 1, and not below 0")
    needed = n * gpus_per_shard
    devices = [str(index) for index in range(needed)]
    if "CUDA_VISIBLE_DEVICES" in environ:
        devices = [name.strip() for name in environ["CUDA_VISIBLE_DEVICES"].split(",") if name.strip()]
    if len(devices) < needed:
        raise ConfigError(
            f"--data-parallel {n} with {gpus_per_shard} GPUs each needs {needed}; CUDA_VISIBLE_DEVICES names "
            f"{len(devices)} ({','.join(devices) or 'none'}). Fix: --data-parallel {len(devices) // gpus_per_shard}"
        )
    shards = []
    for i in range(n):
        own = dict(environ)
        if gpus_per_shard:
            own["CUDA_VISIBLE_DEVICES"] = ",".join(devices[i * gpus_per_shard : (i + 1) * gpus_per_shard])
        shards.append(Shard([*command, "--shard", f"{i + 1}/{n}"], own))
    return shards


def launch_shards(
    command: Sequence[str],
    n: int,
    *,
    gpus_per_shard: int,
    environ: Mapping[str, str],
    received: Sequence[int] = (),
    stdout: int | None = None,  # of the children: None is this process's own, subprocess.DEVNULL none
) -> int:
    """Run the n processes of plan_shards side by side, wait for all of them, and return the worst exit code.

    A child that fails stops no other. Every signal number that a handler of the caller appends to `received` is sent
    to all children (they are in process groups of their own, so that Ctrl-C does not reach them twice). When an
    exception ends the wait, KeyboardInterrupt for one, the children get SIGINT and are waited for before it goes on.
    A child killed by a signal counts as 128 + its number. Raises ConfigError like plan_shards.
    """
    children: list[subprocess.Popen[bytes]] = []
    try:
        for shard in plan_shards(command, n, gpus_per_shard=gpus_per_shard, environ=environ):
            children.append(subprocess.Popen(shard.command, stdout=stdout, env=shard.environ, process_group=0))
        forwarded = 0
        while any(child.poll() is None for child in children):
            for number in received[forwarded:]:
                _send(children, number)
            forwarded = len(received)
            time.sleep(POLL_S)
    except BaseException:
        _send(children, signal.SIGINT)
        raise
    finally:
        for child in children:
            child.wait()
    return worst_exit_code(child.returncode for child in children)


def worst_exit_code(codes: Iterable[int]) -> int:
    """The code that says most about what to do next: death by a signal, then a bug, then the errors of `errors.py`.

    Negative codes are those of subprocess for a process killed by a signal. 0 if there are none.
    """
    known = [0, *(128 - code if code < 0 else code for code in codes)]
    return max(known, key=lambda code: (code >= 128, SEVERITY.index(code) if code in SEVERITY else len(SEVERITY), code))


def _send(children: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for child in children:
        if child.poll() is None:
            with suppress(ProcessLookupError):
                child.send_signal(number)
