"""tests.command: a command in this process looks like one in its own, and leaves nothing behind."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import warnings

import pytest
import torch

from tests import command
from tests.command import cli, cli_process


@pytest.mark.parametrize(
    "words",
    [
        ["--version"],
        ["eval", "--help"],
        ["eval", "--no-such-option"],
        ["-v", "eval", "--model", "x", "--json"],
        ["show", "nowhere"],
        ["import", "grpo-care", "nowhere"],
        ["train", "--algo", "ppo", "--model", "x", "--data", ".", "--out", "out"],
        ["data", "status"],
        ["demo", "model", "--trained", "dapo", "--out", "out"],
        ["export", "every-eval-ever", "nowhere", "--out", "out"],
        ["leaderboard", "diff", "nowhere", "elsewhere"],
        ["judge", "agreement", "none.csv", "nowhere"],
        ["lmms-path"],
    ],
    ids=" ".join,
)
def test_it_prints_and_ends_as_a_process_does(tmp_path, words):
    here, there = (run(*words, cwd=tmp_path, COLUMNS="100") for run in (cli, cli_process))
    assert (here.returncode, here.stdout, here.stderr) == (there.returncode, there.stdout, there.stderr)


def test_all_that_is_written_is_caught_and_everything_is_as_before(tmp_path, monkeypatch):
    def state():
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
        root = logging.getLogger()
        drawn = (random.getstate(), torch.get_rng_state().tolist())
        threads = (torch.get_num_threads(), torch.is_grad_enabled())
        streams = (sys.stdout, sys.stderr, sys.argv, os.fstat(1).st_ino, os.fstat(2).st_ino)
        return os.getcwd(), dict(os.environ), handlers, root.level, root.handlers[:], drawn, threads, streams

    def main():
        assert sys.argv == ["seedbench-r1", "a", "1"]
        assert "SBR1_DATA_ROOT" not in os.environ
        assert os.getcwd() == str(tmp_path)
        assert [stream.isatty() for stream in (sys.stdout, sys.stderr)] == [False, False]
        print(os.environ["LEFT"])
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
        logging.getLogger("any").info("logged")
        warnings.warn("warned", UserWarning, stacklevel=1)
        sys.stdout.flush()
        os.write(1, b"by its number\n")
        subprocess.run([sys.executable, "-c", "import sys; print('child'); print('\\r', file=sys.stderr)"], check=True)
        os.environ["LEFT"] = "changed"
        os.chdir("/")
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGUSR1, lambda *_: None)
        torch.set_num_threads(7)
        torch.set_grad_enabled(False)
        torch.manual_seed(5)
        random.seed(5)
        sys.exit("the last words")

    monkeypatch.setenv("SBR1_DATA_ROOT", "/somewhere")
    monkeypatch.setattr(command, "main", main)
    before = state()
    done = cli("a", 1, cwd=tmp_path, LEFT="given")
    assert state() == before
    assert (done.returncode, done.stdout) == (1, "given\nby its number\nchild\n")
    logged, warned, *_, last = done.stderr.split("\n")[:-1]
    assert (logged, last) == ("logged", "the last words")
    assert warned.endswith("UserWarning: warned")
    assert "\r" in done.stderr
