"""The stages' own code on the rehearsal's pretended GPU, which refuses an operation on tensors of two devices."""

from __future__ import annotations

import itertools
import multiprocessing
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from seedbench_r1.types import SamplingConfig
from tests.gpu import decoding, kernels, reference_style, shapes, steps
from tests.gpu.stage_process import Place
from tests.rehearsal.accelerator import DEVICE, Accelerator
from tests.rehearsal.processes import pretended_processes

GREEDY = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=4, n=2, logprobs=True)


def ours(place: Place) -> None:
    with steps.opened(place, "3b", "care", lora=True) as training, taking_no_step(training):
        steps.step(training, decoded=4)


def supervised(place: Place) -> None:
    with steps.opened(place, "3b", "sft", lora=True) as training, taking_no_step(training):
        steps.step(training, decoded=4)


def in_reference_style(place: Place) -> None:
    for lora in (True, False):
        with steps.opened(place, "3b", "care", lora=lora) as training, taking_no_step(training):
            plain = reference_style.plain_tower(training.state.policy)
            with reference_style.on_plain_tower(training.state.policy, plain):
                reference_style.step(training, decoded=4, completion=40)


def decoded(place: Place) -> None:
    model = decoding.evaluated("smoke", place.device, torch.bfloat16)
    for cache in ("dynamic", "static"):
        decoding.decoded(model, [shapes.prompt(60), shapes.prompt(75, shapes.MEDIA[60])], GREEDY, cache)
        kernels.one_token(model, shapes.prompt(60), cache)()


def taking_no_step(training: steps.Training) -> Any:
    """Numbers that are read here are zeros: a step without gradients."""
    return mock.patch.object(training.state.optimizer, "step", return_value=1.0)


def on_pretended_gpu(folder: Path) -> None:
    warnings.simplefilter("ignore", FutureWarning)
    accelerator = Accelerator()
    accelerator.answers = itertools.repeat(5)  # the tokens that are drawn
    with (
        pretended_processes(1),
        accelerator.running(),
        accelerator.counting("all"),
    ):
        for work in (ours, supervised, in_reference_style, decoded):
            work(Place(DEVICE, True, folder, folder / "result.json"))


def test_no_operation_mixes_devices(tmp_path):
    # In a process of its own: torch and transformers keep what they have seen on the pretended device.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as apart:
        apart.submit(on_pretended_gpu, tmp_path).result()
