"""A checkpoint for lmms-eval's processes, and a process from which they are forked."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from seedbench_r1.demo.tiny_model import write_tiny_checkpoint
from seedbench_r1.engines import lmms_process
from tests.forked import Server
from tests.lmms.processes import surroundings


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Starts lmms-eval without importing it anew."""
    environment = os.environ | surroundings(tmp_path_factory.mktemp("lmms"))
    started = Server(
        "lmms_eval", "lmms_eval.cli.dispatch:main", ["lmms_eval.__main__", "lmms_eval.models"], environment
    )
    yield started
    started.close()


@pytest.fixture
def forked(server, monkeypatch):
    """What our engine starts is forked from the server."""

    def popen(command, *, stdin, stdout, stderr):
        assert command[:3] == [sys.executable, "-m", "lmms_eval"]
        assert stdin == subprocess.DEVNULL
        return server.popen(command[3:], stdout=stdout, stderr=stderr)

    names = ("DEVNULL", "STDOUT", "TimeoutExpired")
    like_subprocess = SimpleNamespace(Popen=popen, **{name: getattr(subprocess, name) for name in names})
    monkeypatch.setattr(lmms_process, "subprocess", like_subprocess)
