"""Processes of a command by the dozen: forked from one that has imported everything, so that a start is cheap.

They are real processes with command lines, environments, exit codes and children of their own, to be stopped and killed
at any moment. Only their imports are not tested: `eval` alone spends a second of CPU time on them, lmms-eval 5.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

MESSAGE_BYTES = 1 << 17  # more than a command line and its environment have
NUMBER_BYTES = 8  # of a process id or an exit code in the pipe
EVAL = (
    "leaderboards.stats.agreement",
    "multiprocessing.popen_spawn_posix",
    "pydantic",
    "seedbench_r1.backends.fake",
    "seedbench_r1.cli.app",
    "seedbench_r1.cli.progress",
    "seedbench_r1.cli.results",
    "seedbench_r1.cli.signals",
    "seedbench_r1.cli.transfer_results",
    "seedbench_r1.engines.local",
    "seedbench_r1.engines.plan",
    "seedbench_r1.engines.run",
    "seedbench_r1.engines.shards",
    "seedbench_r1.suites.seedbench_r1",
    "seedbench_r1.suites.transfer",
    "typer.rich_utils",
)


class Forked:
    """A process. What tests use of subprocess.Popen, text streams included."""

    def __init__(self, ended: int, stdout: TextIO | None, stderr: TextIO | None) -> None:
        self._ended = ended  # read end of a pipe: the process id, then how it ended
        self.pid = int(os.read(ended, NUMBER_BYTES))
        self.stdout, self.stderr = stdout, stderr
        self.returncode: int | None = None

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._ended], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            self.returncode = int(os.read(self._ended, NUMBER_BYTES))
            os.close(self._ended)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str | None, str | None]:
        """Standard output and error to their end, and the end of the process."""
        texts: list[str | None] = [None, None]

        def read(place: int, stream: TextIO) -> None:
            with stream:
                texts[place] = stream.read()

        streams = [(place, stream) for place, stream in enumerate((self.stdout, self.stderr)) if stream is not None]
        readers = [threading.Thread(target=read, args=one, daemon=True) for one in streams]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join(timeout)
        return texts[0], texts[1]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Server:
    """Starts processes that have imported `modules` and call `main` (MODULE:FUNCTION). Begun with the first of them.

    Args:
        name: sys.argv[0] of the processes.
        environment: what the imports see; None: this process's.
    """

    def __init__(
        self, name: str, main: str, modules: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        self._command = [sys.executable, "-c", "import sys; from tests.forked import serve; serve(*sys.argv[1:])"]
        self._told = [name, main, *modules]
        self._environment = environment
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def popen(
        self,
        words: Sequence[object],
        *,
        cwd: object = None,
        env: Mapping[str, str] | None = None,
        stdout: Any = None,
        stderr: Any = None,
    ) -> Forked:
        """Start a process. Streams as for subprocess.Popen with text=True; standard input is empty."""
        told = json.dumps([list(map(str, words)), str(cwd or os.getcwd()), dict(os.environ if env is None else env)])
        with contextlib.ExitStack() as ours:
            out, out_text = _stream(stdout, 1, ours)
            err, err_text = (out, None) if stderr == subprocess.STDOUT else _stream(stderr, 2, ours)
            nothing = ours.enter_context(open(os.devnull, "rb")).fileno()
            read, write = os.pipe()
            ours.callback(os.close, write)
            socket.send_fds(self._connection(), [told.encode()], [nothing, out, err, write])
        return Forked(read, out_text, err_text)

    def run(
        self,
        words: Sequence[object],
        *,
        cwd: object = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 300,
    ) -> subprocess.CompletedProcess[str]:
        """Run a process to its end."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            process = self.popen(words, cwd=cwd, env=env, stdout=out, stderr=err)
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode("utf-8"))
        return subprocess.CompletedProcess(list(words), code, *texts)

    def close(self) -> None:
        """End it. Its processes go on."""
        if self._socket is not None and self._process is not None:
            self._socket.close()
            self._process.wait(120)
            self._socket = None

    def _connection(self) -> socket.socket:
        if self._socket is None:
            self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MESSAGE_BYTES)
            with theirs:
                self._process = subprocess.Popen(
                    [*self._command, str(theirs.fileno()), *self._told],
                    env=None if self._environment is None else dict(self._environment),
                    cwd=Path(__file__).parents[1],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                )
        return self._socket


COMMANDS = Server("seedbench-r1", "seedbench_r1.cli.app:main", EVAL)


def _stream(wanted: Any, inherited: int, ours: contextlib.ExitStack) -> tuple[int, TextIO | None]:
    """The descriptor that a process writes to, and a pipe's other end."""
    if wanted is None:
        return inherited, None
    if wanted == subprocess.DEVNULL:
        return ours.enter_context(open(os.devnull, "wb")).fileno(), None
    if wanted == subprocess.PIPE:
        read, write = os.pipe()
        ours.callback(os.close, write)
        return write, open(read, encoding="utf-8")
    return wanted.fileno(), None


def serve(number: str, name: str, main: str, *modules: str) -> None:
    """What the server's process runs. In the processes that it forks, it returns as their main function does."""
    for module in modules:
        importlib.import_module(module)
    gc.freeze()  # what is shared with the processes stays so
    place, _, function = main.partition(":")
    with socket.socket(fileno=int(number)) as theirs:
        while True:
            told, fds, *_ = socket.recv_fds(theirs, MESSAGE_BYTES, 4)
            if not told:
                return
            if os.fork() == 0 and _keep(fds):
                break
            for descriptor in fds:
                os.close(descriptor)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
    _become(name, told, fds)
    found: Callable[[], None] = getattr(importlib.import_module(place), function)
    found()


def _keep(fds: list[int]) -> bool:
    """In a process next to the server: fork once more, and say how that one ends. True in the last one."""
    child = os.fork()
    if child == 0:
        return True
    *streams, ended = fds
    for descriptor in streams:  # their readers wait for the command alone
        os.close(descriptor)
    os.write(ended, str(child).encode().rjust(NUMBER_BYTES))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.write(ended, str(code).encode().rjust(NUMBER_BYTES))
    os._exit(0)


def _become(name: str, told: bytes, fds: list[int]) -> None:
    """Take over what the process was told: streams, folder, environment, command line."""
    for place, descriptor in enumerate(fds[:3]):
        os.dup2(descriptor, place)
    for descriptor in fds:
        os.close(descriptor)
    words, folder, environment = json.loads(told)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [name, *words]
