"""The command line for tests: run in this process as a rule, in one of its own where the process is what is tested.

An `eval` in a process of its own costs a second of CPU time for imports alone; where these are not what is tested, it
is forked from a process that has done them (tests.forked).
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from seedbench_r1.cli.app import main
from tests import forked

NAME = "seedbench-r1"
RUN = [sys.executable, "-c", f"import sys; from seedbench_r1.cli.app import main; sys.argv[0] = {NAME!r}; main()"]
# What Python does not show unless asked to (docs.python.org/3/library/warnings.html, default filter)
SILENT_WARNINGS = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)

Done = subprocess.CompletedProcess[str]


def cli(*arguments: object, cwd: Path, **environment: str) -> Done:
    """Run a command in this process as `cli_process` would, and leave the process as it was.

    Standard output and error are files, as no terminal is. What the command's own children write is there, too.
    """
    command = [NAME, *map(str, arguments)]
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, _environment(environment), clear=True))
        stack.enter_context(mock.patch.object(sys, "argv", command))
        stack.enter_context(contextlib.chdir(cwd))
        for unchanged in (_main_module, _signals, _loggers, _generators, _torch_settings, _progress_bars, _warnings):
            stack.enter_context(unchanged())
        out, err = stack.enter_context(_captured(1)), stack.enter_context(_captured(2))
        code = _exit_code()
        return subprocess.CompletedProcess(command, code, _text(out, sys.stdout), _text(err, sys.stderr))


def cli_process(*arguments: object, cwd: Path, **environment: str) -> Done:
    """Run a command in a process of its own."""
    command = [*RUN, *map(str, arguments)]
    env = _environment(environment)
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, timeout=300, check=False)


def cli_forked(*arguments: object, cwd: Path, **environment: str) -> Done:
    """Run a command in a process that has imported what `eval` needs."""
    return forked.COMMANDS.run(arguments, cwd=cwd, env=_environment(environment))


def _environment(changes: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("SBR1_")} | changes


def _exit_code() -> int:
    """Run the console script; how the interpreter would exit."""
    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    return 0


@contextlib.contextmanager
def _captured(descriptor: int) -> Iterator[io.BufferedRandom]:
    """A file in place of a standard stream, for Python, for libraries in C, and for children."""
    name = {1: "stdout", 2: "stderr"}[descriptor]
    getattr(sys, name).flush()
    saved = os.dup(descriptor)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), descriptor)
        errors, buffering = {1: ("strict", -1), 2: ("backslashreplace", 1)}[descriptor]  # as Python opens them
        stream = open(descriptor, "w", buffering, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        try:
            with mock.patch.object(sys, name, stream):
                yield file
        finally:
            stream.close()
            os.dup2(saved, descriptor)
            os.close(saved)


def _text(file: io.BufferedRandom, stream: io.TextIOBase) -> str:
    stream.flush()
    file.seek(0)
    return file.read().decode("utf-8")


@contextlib.contextmanager
def _main_module() -> Iterator[None]:
    """The module in which a console script runs: usage messages and spawned decoders look at it."""
    ours = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = ours


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Handlers as they were. One that was not set from Python is None, and cannot be set back."""
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)


@contextlib.contextmanager
def _loggers() -> Iterator[None]:
    """A root logger without handlers, as a new process has it, and afterwards all loggers as they were."""
    root = logging.getLogger()
    every = [root, *(one for one in root.manager.loggerDict.values() if isinstance(one, logging.Logger))]
    before = [(one, one.level, one.handlers[:], one.propagate, one.disabled) for one in every]
    root.handlers[:] = []
    root.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for one, level, handlers, one.propagate, one.disabled in before:
            one.handlers[:] = handlers
            if one.level != level:
                one.setLevel(level)


@contextlib.contextmanager
def _generators() -> Iterator[None]:
    """Random numbers go on as if nothing had drawn any. What is not imported yet has drawn none."""
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    numbers = random.getstate()
    arrays = numpy and numpy.random.get_state()
    tensors = torch and torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(numbers)
        if numpy:
            numpy.random.set_state(arrays)
        if torch:
            torch.set_rng_state(tensors)


@contextlib.contextmanager
def _torch_settings() -> Iterator[None]:
    """Threads, default type and gradients of torch, where it is imported already."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    threads, dtype, gradients = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(gradients)
        torch.use_deterministic_algorithms(deterministic)


@contextlib.contextmanager
def _progress_bars() -> Iterator[None]:
    """A command that loads weights switches transformers' bars off, for its whole process."""

    def shown() -> bool:
        return "transformers" not in sys.modules or sys.modules["transformers"].utils.logging.is_progress_bar_enabled()

    before = shown()
    try:
        yield
    finally:
        if before and not shown():
            sys.modules["transformers"].utils.logging.enable_progress_bar()


@contextlib.contextmanager
def _warnings() -> Iterator[None]:
    """Warnings go to standard error, as outside of pytest."""

    def show(message, category, filename, lineno, file=None, line=None) -> None:  # type: ignore[no-untyped-def]
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))

    with warnings.catch_warnings():
        warnings.resetwarnings()
        for category in SILENT_WARNINGS:
            warnings.simplefilter("ignore", category)
        warnings.showwarning = show
        yield
