from pathlib import Path

import pytest

from tests.small_benchmark import benchmark


@pytest.fixture(scope="session")
def data_root(tmp_path_factory) -> Path:
    """A small benchmark shared by all tests; a test that damages it takes a copy."""
    return benchmark(tmp_path_factory.mktemp("benchmark"))
