"""The engine of n processes on this machine: data parallelism by shards of the same run, each with GPUs of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from seedbench_r1.config import EvalConfig, child_environment, settings
from seedbench_r1.config_file import toml_lines
from seedbench_r1.engines.base import DRAINING, Plan, Recorder
from seedbench_r1.errors import ConfigError, DataError, IncompleteRun, ResourceError
from seedbench_r1.files import write_text
from seedbench_r1.prompts import prompt_file_table
from seedbench_r1.runs.answers import recorded
from seedbench_r1.suites.base import Suite
from seedbench_r1.types import Question

# Exit codes, harmless first: done, some unanswered, judge, resources, data, configuration, usage, bug (errors.py)
SEVERITY = (0, 5, 6, 7, 4, 3, 2, 1)
FAULTS = {3: ConfigError, 4: DataError, 7: ResourceError}  # of a child, that concern the whole run
POLL_S = 0.2  # how soon a stop is passed on, and the end of a child is noticed


ENTRY = "from seedbench_r1.cli.app import main; main()"
LOOK_EVERY_S = 2.0  # at what the children have written


class ShardsEngine(nullcontext["ShardsEngine"]):
    """Every child is this package's own `eval` with a shard, told all settings by a file in the run directory."""

    stop_message = DRAINING

    def __init__(self) -> None:
        super().__init__(self)

    def check(self, config: EvalConfig, suite: Suite) -> None:
        """Raise ConfigError for --shard, for --max-cost, or if CUDA_VISIBLE_DEVICES names too few GPUs."""
        if config.shard is not None:
            raise ConfigError("--data-parallel makes the shards itself. Fix: leave out --shard.")
        if config.max_cost is not None and config.data_parallel > 1:
            raise ConfigError(
                "--max-cost holds for one process, and --data-parallel would spend it in each. "
                "Fix: one process with a higher --concurrency."
            )
        each, environ = gpus_per_shard(config), child_environment({})
        plan_shards([], config.data_parallel, gpus_per_shard=each, environ=environ)
        # Without the variable the devices are numbered, and a number that is not there would leave a shard to the CPU.
        present = len(list(Path("/dev").glob("nvidia[0-9]*")))
        if each and "CUDA_VISIBLE_DEVICES" not in environ and config.data_parallel * each > present:
            raise ConfigError(
                f"--data-parallel {config.data_parallel} with {each} GPUs each needs {config.data_parallel * each}; "
                f"this machine has {present}. Fix: --data-parallel {max(1, present // each)}"
            )

    def writers(self, plan: Plan) -> int:
        """One for each shard."""
        return plan.config.data_parallel

    def answer(self, plan: Plan, pending: Sequence[Question], recorder: Recorder, *, stop: threading.Event) -> None:
        """See engines.base.Engine. A stop is passed on to the children, which finish what they have in flight."""
        config = plan.config
        file = _write_settings(plan, plan.path / ".shards")
        command = [sys.executable, "-c", ENTRY, "eval", "--config", str(file), "--quiet"]
        # What earlier calls wrote is not shown again.
        known = {(seed, i): r.answered for seed, run in recorder.runs.items() for i, r in run.records().items()}
        ended = threading.Event()
        watcher = threading.Thread(target=_watch, args=(known, recorder, ended), daemon=True)
        watcher.start()
        try:
            code = launch_shards(
                command,
                config.data_parallel,
                gpus_per_shard=gpus_per_shard(config),
                environ=child_environment(_PATHS_IN_FILE),
                stop=stop,
                stdout=subprocess.DEVNULL,  # the whole run is counted by run_plan
            )
        finally:
            ended.set()
            watcher.join()
        if code in FAULTS and not stop.is_set():
            raise FAULTS[code](
                f"A shard ended with exit code {code}; its message stands above. Answers so far are saved."
            )
        if code not in (0, IncompleteRun.exit_code) and not stop.is_set():
            # A crash, or a kill for want of memory: nothing in the run says why its questions have no answer.
            recorder.say(f"A shard ended with exit code {code}; what it said last stands above.")


# Paths are in the settings file, which the environment would override
_PATHS_IN_FILE: dict[str, str] = {"SBR1_DATA_ROOT": "", "SBR1_RUNS_DIR": ""}


def _write_settings(plan: Plan, folder: Path) -> Path:
    """The run's settings as a TOML file for its children; a wording of the user's stands next to it."""
    config = plan.config
    # Each child is a plain run of one process; fresh was done by the parent, once.
    alone = replace(config, data_parallel=1, fresh=False, runs_dir=plan.path.parent, run_name=plan.path.name)
    found = settings(alone).items()
    values = {name: value.absolute() if isinstance(value, Path) else value for name, value in found}
    folder.mkdir(exist_ok=True)
    write_text(folder / "prompt.toml", toml_lines(prompt_file_table(config.template)))
    write_text(folder / "eval.toml", toml_lines(values | {"prompt_file": "prompt.toml"}))
    return folder / "eval.toml"


def gpus_per_shard(config: EvalConfig) -> int:
    """GPUs for each process: --tensor-parallel where there are GPUs and the backend uses them, else 0."""
    # Asked of the system, not of torch, which would hold the device from here on.
    has_gpu = Path("/dev/nvidiactl").exists() and config.device != "cpu"
    return config.tensor_parallel if has_gpu and config.backend in ("vllm", "transformers") else 0


def _watch(known: dict[tuple[int | None, str], bool], recorder: Recorder, ended: threading.Event) -> None:
    """Show what the children write."""
    while True:
        last = ended.wait(LOOK_EVERY_S)
        for seed, run in recorder.runs.items():
            for question_id, record in recorded(run.path).items():
                if known.get((seed, question_id)) != record.answered:
                    known[seed, question_id] = record.answered
                    recorder.written_by_worker(record, seed)
        if last:
            return


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
            f"{len(devices)} ({','.join(devices) or 'none'}). "
            f"Fix: --data-parallel {len(devices) // gpus_per_shard or '1 --device cpu'}"
        )
    shards = []
    for i in range(n):
        # Devices are given by the environment, before any library of the child looks at them.
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
    stop: threading.Event | None = None,
    stdout: int | None = None,  # of the children: None is this process's own, subprocess.DEVNULL none
) -> int:
    """Run the n processes of plan_shards side by side, wait for all of them, and return the worst exit code.

    A child that fails stops no other. When `stop` is set, all children get SIGTERM
    once (they are in process groups of their own, so that Ctrl-C does not reach them as well). When an
    exception ends the wait, KeyboardInterrupt for one, the children get SIGINT and are waited for before it goes on.
    A child killed by a signal counts as 128 + its number. Raises ConfigError like plan_shards.
    """
    children: list[subprocess.Popen[bytes]] = []
    try:
        # A child that was started and is not yet in the list would be told of no interrupt, and outlive this process.
        with _interrupt_after():
            for shard in plan_shards(command, n, gpus_per_shard=gpus_per_shard, environ=environ):
                # Process groups of their own: Ctrl-C reaches this process alone, which passes it on in order.
                children.append(subprocess.Popen(shard.command, stdout=stdout, env=shard.environ, process_group=0))
        passed_on = False
        while any(child.poll() is None for child in children):
            if stop is not None and stop.is_set() and not passed_on:
                passed_on = True
                _send(children, signal.SIGTERM)
            time.sleep(POLL_S)
    except BaseException:
        _send(children, signal.SIGINT)
        raise
    finally:
        for child in children:
            child.wait()
    return worst_exit_code(child.returncode for child in children)


@contextmanager
def _interrupt_after() -> Iterator[None]:
    """A SIGINT that comes inside is delivered at the end. In other threads than the main one none is delivered."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        if received:
            signal.raise_signal(signal.SIGINT)


def worst_exit_code(codes: Iterable[int]) -> int:
    """The code that says most about what to do next: death by a signal, then a bug, then the errors of `errors.py`.

    Negative codes are those of subprocess for a process killed by a signal. 0 if there are none.
    """
    # As a shell counts them: 128 and the signal's number.
    known = [0, *(128 - code if code < 0 else code for code in codes)]
    return max(known, key=lambda code: (code >= 128, SEVERITY.index(code) if code in SEVERITY else len(SEVERITY), code))


def _send(children: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for child in children:
        if child.poll() is None:
            with suppress(ProcessLookupError):
                child.send_signal(number)
