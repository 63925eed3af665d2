import contextlib
import fcntl
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import tests.no_clock  # noqa: F401 - its effect
from tests.decoders import sharing_in_trainings
from tests.trainers.toy import RESPONSE, plan_and_train, toy_config, write_toy, write_toy_model


@dataclass(frozen=True)
class Toy:
    data: Path
    raw: Path  # random weights

    @functools.cached_property
    def sft(self) -> Path:
        """A checkpoint that gives well-formed responses with a random letter; trained when a test first asks for it."""
        options = {"max_steps": 100, "learning_rate": 4e-3, "save_steps": 1000}
        options |= {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}  # 8 rows in one pass
        with one_at_a_time(self.raw.parent):  # who comes second finds it finished
            result = plan_and_train(toy_config(self.raw, self.data, self.raw.parent / "sft", "sft", **options))
        assert result.checkpoint is not None
        return result.checkpoint


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Tiny models: a second thread costs more than it brings."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def _shared_decoders():
    with sharing_in_trainings():
        yield


@contextlib.contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Among pytest's workers."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def toy(tmp_path_factory, _one_thread) -> Toy:
    """Made once for all of pytest's workers."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    made = Toy(folder / "toy" / "data", folder / "toy" / "raw")
    made.raw.parent.mkdir(exist_ok=True)
    with one_at_a_time(made.raw.parent):
        if not made.raw.exists():
            write_toy(made.data, {letter: RESPONSE.format(letter, letter) for letter in "ABCD"})
            write_toy_model(made.raw, made.data)
    return made
