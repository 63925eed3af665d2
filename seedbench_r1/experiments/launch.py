"""Starting a command: here, with its share of cores and GPUs, or through submitit (Slurm)."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from seedbench_r1.config import child_environment
from seedbench_r1.engines.shards import ENTRY
from seedbench_r1.errors import ConfigError
from seedbench_r1.experiments.recipe import Launch
from seedbench_r1.files import make_folder, writing
from seedbench_r1.media.loader import PR_SET_PDEATHSIG

PROGRAM = (sys.executable, "-c", ENTRY)  # the same interpreter and the same copy of the package
_GPUS = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True)
class Share:
    """What one of the jobs that run at once may use."""

    cores: int
    devices: tuple[str, ...]  # numbers or names for CUDA_VISIBLE_DEVICES; empty: there are no GPUs

    def environment(self, processes: int) -> dict[str, str]:
        """Of a command that starts so many processes, each with its part of the cores."""
        changes = {"OMP_NUM_THREADS": str(max(1, self.cores // processes))}
        return changes | ({_GPUS: ",".join(self.devices)} if self.devices else {})


NO_SHARE = Share(1, ())  # of commands that another scheduler gives cores and GPUs


@dataclass(frozen=True, slots=True)
class Start:
    """A command to be started."""

    words: tuple[str, ...]
    log: Path  # its output is added to it
    lock: Path  # of its job, held while it runs
    environment: Mapping[str, str]  # changes to this process's own


class Running(Protocol):
    """A command that was started."""

    @property
    def submitted(self) -> str | None:
        """By which another driver finds it; None: it ends with this one."""
        ...

    def poll(self) -> int | None:
        """Its exit code, 128 + the number of a signal that ended it; None: it runs."""
        ...

    def stop(self, number: signal.Signals) -> None:
        """Hand a signal on."""
        ...


class Launcher(Protocol):
    """A way of starting commands."""

    def start(self, start: Start, lock: int) -> Running:
        """lock: a descriptor that holds the job's lock, which the caller closes behind this."""
        ...

    def find(self, submitted: str) -> Running | None:
        """What an earlier driver has submitted, if it has not ended."""
        ...


def shares(
    jobs: int, processes: int, environ: Mapping[str, str] | None = None, *, one_core: bool = False
) -> list[Share]:
    """The cores and GPUs of this process, in equal parts. Raises ConfigError for fewer GPUs than trainings need.

    one_core: for models so small that threads only wait for each other.
    """
    environ = child_environment({}) if environ is None else environ
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Counted as the system numbers them: asking torch would hold a device from here on.
    numbers = sorted(int(path.name.removeprefix("nvidia")) for path in Path("/dev").glob("nvidia[0-9]*"))
    devices = [str(number) for number in numbers]
    if _GPUS in environ:
        devices = [name.strip() for name in environ[_GPUS].split(",") if name.strip()]
    if devices and len(devices) < jobs * processes:
        raise ConfigError(
            f"{jobs} jobs at once with trainings of {processes} processes need {jobs * processes} GPUs, and "
            f"{len(devices)} can be seen. Fix: --jobs {max(1, len(devices) // processes)}, or launch.processes."
        )
    each = len(devices) // jobs
    return [
        Share(1 if one_core else max(1, cores // jobs), tuple(devices[i * each : (i + 1) * each])) for i in range(jobs)
    ]


def as_typed(words: tuple[str, ...]) -> str:
    """A command as a user types it."""
    return shlex.join(words).replace(shlex.join(PROGRAM), "seedbench-r1")


class LocalLauncher:
    """Processes of this machine. They end with the driver: SIGTERM, at which training and evaluation save."""

    def start(self, start: Start, lock: int) -> Running:
        """See Launcher."""
        return _LocalProcess(_popen(start, lock))

    def find(self, submitted: str) -> Running | None:
        """See Launcher: there is nothing but locks to be waited for."""
        return None


def _popen(start: Start, lock: int) -> subprocess.Popen[bytes]:
    make_folder(start.log.parent)
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def end_with_the_driver() -> None:
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    with writing(start.log), start.log.open("ab") as stream:
        stream.write(f"$ {as_typed(start.words)}\n".encode())
    with start.log.open("ab") as stream:
        try:
            # A process group of its own: Ctrl-C reaches the driver alone, which passes it on in order.
            return subprocess.Popen(
                start.words,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=child_environment(start.environment),
                process_group=0,
                pass_fds=(lock,),
                preexec_fn=end_with_the_driver,
            )
        except OSError as error:
            raise ConfigError(f"{start.words[0]} cannot be started: {error.strerror}.") from error


def _exit_code(returned: int) -> int:
    """As shells have it: 128 + the number of a signal."""
    return 128 - returned if returned < 0 else returned


class _LocalProcess:
    submitted = None

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def poll(self) -> int | None:
        code = self._process.poll()
        return None if code is None else _exit_code(code)

    def stop(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(number)


class SubmititLauncher:
    """Jobs of Slurm, or of submitit's local executor. They outlive the driver; the next one waits for them."""

    def __init__(self, folder: Path, launch: Launch) -> None:
        try:
            import submitit
        except ImportError as error:
            raise ConfigError("launch.slurm needs submitit. Fix: pip install '.[slurm]'") from error
        self._submitit, self._folder, self._cluster = submitit, folder, launch.cluster
        make_folder(folder)
        try:
            self._executor = submitit.AutoExecutor(folder=folder, cluster=launch.cluster)
            self._executor.update_parameters(**(launch.slurm or {}))
        # submitit checks types by assert.
        except (RuntimeError, NameError, TypeError, ValueError, AssertionError) as error:
            raise ConfigError(f"launch.slurm: submitit says {error}") from error

    def start(self, start: Start, lock: int) -> Running:
        """See Launcher. The job itself takes the lock, on its own machine."""
        return _SubmittedJob(self._executor.submit(Command(start)))

    def find(self, submitted: str) -> Running | None:
        """See Launcher."""
        if self._cluster != "slurm":
            return None  # its processes hold their locks
        job = _SubmittedJob(self._submitit.SlurmJob(self._folder, submitted))
        return job if job.poll() is None else None


class Command:
    """What a submitted job does. Slurm's warning before the time limit stops the command, which saves; then again."""

    def __init__(self, start: Start) -> None:
        self.start = start

    def __call__(self) -> int:
        """Run the command; its exit code."""
        lock = os.open(self.start.lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._process = _popen(self.start, lock)
            code = self._process.wait()
        finally:
            os.close(lock)
        return _exit_code(code)

    def checkpoint(self) -> object:
        """submitit asks for it when the time is nearly over."""
        from submitit.helpers import DelayedSubmission

        self._process.send_signal(signal.SIGTERM)
        # This runs inside __call__, whose wait() holds the lock that another wait() would want.
        with suppress(ChildProcessError):
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(Command(self.start))


class _SubmittedJob:
    def __init__(self, job: Any) -> None:  # noqa: ANN401  # submitit's Job
        self._job = job

    @property
    def submitted(self) -> str | None:
        return str(self._job.job_id)

    def poll(self) -> int | None:
        if not self._job.done():
            return None
        if self._job.exception() is not None:
            return 1  # cancelled, or killed: what it said is in submitit's own logs
        return int(self._job.result())

    def stop(self, number: signal.Signals) -> None:
        """It goes on: whoever stops the driver keeps a place in the queue."""


def open_launcher(launch: Launch, folder: Path) -> Launcher:
    """How the recipe says. Raises ConfigError if submitit is not there, or refuses a parameter."""
    return LocalLauncher() if launch.slurm is None else SubmititLauncher(folder, launch)
