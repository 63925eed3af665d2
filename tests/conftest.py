import os
from pathlib import Path

import pytest

os.environ.pop("HF_HUB_OFFLINE", None)  # the hub of these tests is on loopback; read once, on import

from tests.small_benchmark import benchmark


@pytest.fixture(scope="session")
def data_root(tmp_path_factory) -> Path:
    """A small benchmark shared by all tests; a test that damages it takes a copy."""
    return benchmark(tmp_path_factory.mktemp("benchmark"))
