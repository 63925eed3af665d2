import os
import signal
from pathlib import Path

import pytest

os.environ.pop("HF_HUB_OFFLINE", None)  # the hub of these tests is on loopback; read once, on import
# Tiny models, and two workers on two cores: a second thread of torch or NumPy only waits for the first. Read on import.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the commands that tests interrupt would ignore it, too

from tests.decoders import sharing
from tests.small_benchmark import benchmark


@pytest.fixture(scope="session")
def data_root(tmp_path_factory) -> Path:
    """A small benchmark shared by all tests; a test that damages it takes a copy."""
    return benchmark(tmp_path_factory.mktemp("benchmark"))


@pytest.fixture(scope="module")
def shared_decoders():
    """For files of many runs: their decoding workers are started once."""
    with sharing():
        yield
