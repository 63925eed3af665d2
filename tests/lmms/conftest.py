"""A checkpoint for lmms-eval's processes."""

import pytest

from seedbench_r1.demo.tiny_model import write_tiny_checkpoint


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")
