"""The real vLLM on a CPU: skipped where it is not installed, in .venv-vllm run by `make test-vllm`."""

from __future__ import annotations

import importlib.util
import os

import pytest

from tests.family_table import BFLOAT16, backend, checkpoint
from tests.tiny_models import tiny_checkpoint

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GB; vLLM would take 4
os.environ.setdefault("HF_HUB_OFFLINE", "1")

MAX_IN_FLIGHT = 4


def pytest_collection_modifyitems(items):
    absent = importlib.util.find_spec("vllm") is None
    for item in items:
        if "tests/vllm/" in item.path.as_posix():
            item.add_marker(pytest.mark.vllm)
            if absent:
                item.add_marker(pytest.mark.skip(reason="vLLM is not installed: make test-vllm"))


def open_vllm(model, frames_as_images=0, **extra):
    """An engine without compilation: 20 s to start instead of 40. The tiny checkpoints are float32."""
    from seedbench_r1.backends.vllm import VllmBackend
    from seedbench_r1.backends.vllm_engine import EngineOptions

    options = EngineOptions(max_in_flight=MAX_IN_FLIGHT, eager=True, frames_as_images=frames_as_images)
    return VllmBackend(str(model), options=options, **extra)


def open_family(family):
    """The engine of a family's tiny checkpoint, in the type for which vLLM has kernels."""
    as_images = 16 if backend(family).processor.preprocess == "images" else 0
    dtype = "bfloat16" if family in BFLOAT16 else "float32"
    return open_vllm(checkpoint(family), frames_as_images=as_images, dtype=dtype)


@pytest.fixture(scope="session")
def qwen2_5_vl():
    """The engine that most tests share."""
    opened = open_vllm(tiny_checkpoint("qwen2_5_vl"))
    yield opened
    opened.close()
