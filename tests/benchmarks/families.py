"""Batched answers of every family, ours against transformers' generate(): CPU time and peak memory.

    python -m tests.benchmarks.families [--rounds 5] [--only internvl,gemma3] [--new-tokens 256]

Eight prompts, each a clip of eight frames (several processors batch no clips of different lengths) and an image, on the
same tiny random checkpoint; generate() gets one left-padded batch from the family's processor, and ours is one batch.
Rounds are interleaved; the ratio is of medians, above 1 where ours is faster. Memory is the most that a process of its
own holds above what it holds before, sampled every millisecond.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import psutil
import torch
import transformers

from seedbench_r1.backends.base import draws
from seedbench_r1.backends.transformers import TransformersBackend
from seedbench_r1.models.generic import clip_metadata
from seedbench_r1.types import Generation, Request, SamplingConfig
from tests.family_table import TABLE, checkpoint
from tests.tiny_models import request

COUNT = 8


def main() -> None:
    """Print a line for each family."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(TABLE))
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--memory-of", choices=("ours", "generate"), help="one side once, and its peak; used by itself")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for family in options.only.split(","):
        sides = {"ours": ours, "generate": generate}
        prepared = prepare(family, options.new_tokens)
        if options.memory_of:
            print(peak_above(partial(sides[options.memory_of], *prepared)))
            return
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        tokens = {name: side(*prepared) for name, side in sides.items()}
        for _ in range(options.rounds):
            for name, side in sides.items():
                began = time.process_time()
                side(*prepared)
                seconds[name].append(time.process_time() - began)
        took = {name: statistics.median(values) for name, values in seconds.items()}
        peak = {name: peak_of(family, name, options.new_tokens) for name in sides}
        same = sum(one == other for one, other in zip(tokens["ours"], tokens["generate"], strict=True))
        print(
            f"{family:16} ours {took['ours'] * 1e3:6.0f} ms, generate() {took['generate'] * 1e3:6.0f} ms: "
            f"{took['generate'] / took['ours']:.2f} x; memory {peak['ours'] / max(1, peak['generate']):.2f} x "
            f"({peak['ours'] / 1024:.0f} and {peak['generate'] / 1024:.0f} MB); {same} of {COUNT} answers equal",
            flush=True,
        )


def prepare(family: str, new_tokens: int) -> tuple[Any, list[Request], SamplingConfig]:
    backend = TransformersBackend(str(checkpoint(family)), dtype="float32", device="cpu", batch_size=COUNT)
    asked = [
        request(f"b/{place}", family, n_frames=8, cells=(4, 4), question="What next? " * (1 + place))
        for place in range(COUNT)
    ]
    return backend, asked, SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=new_tokens)


def ours(backend: Any, asked: list[Request], sampling: SamplingConfig) -> list[list[int]]:
    # All at once: generate() of the backend would begin with those that are ready first.
    prepared = [backend._prepare(one, draws(one, sampling)) for one in asked]
    found = dict(backend._answer(prepared, partial(backend._decode, sampling=sampling)))
    answers = [found[one.question_id] for one in asked]
    assert all(isinstance(answer, Generation) for answer in answers), answers
    return [list(answer.token_ids) for answer in answers]


@torch.inference_mode()
def generate(backend: Any, asked: list[Request], sampling: SamplingConfig) -> list[list[int]]:
    processors: Any = transformers.AutoProcessor
    processor = getattr(backend.processor, "processor", None)
    if processor is None:
        processor = backend.full_processor = getattr(backend, "full_processor", None) or processors.from_pretrained(
            checkpoint(backend.processor.layout.family)
        )
    processor.tokenizer.padding_side = "left"
    shared = {"input_data_format": "channels_last"}
    as_images = backend.processor.preprocess == "images"
    images = [[*(one.frames if as_images else ()), one.image] for one in asked]  # type: ignore[misc]
    videos = {} if as_images else {"videos": [one.frames for one in asked]}
    metadata = {"video_metadata": [clip_metadata(one) for one in asked], "do_sample_frames": False}
    overrides = backend.processor.overrides
    clips = {"do_resize": False} if backend.processor.preprocess == "ours" else {}
    batch = processor(
        text=[backend.processor.render(one) for one in asked],
        images=images
        if as_images
        else [one[0] for one in images]
        if backend.processor.preprocess == "ours"
        else images,
        **videos,
        return_tensors="pt",
        text_kwargs={"padding": True, "add_special_tokens": False},
        images_kwargs=shared | overrides,
        **({} if as_images else {"videos_kwargs": shared | metadata | clips}),
    )
    batch.pop("video_metadata", None)
    tokenizer = backend.processor.tokenizer
    ends = (
        [*backend.model.generation_config.eos_token_id]
        if isinstance(backend.model.generation_config.eos_token_id, list)
        else [backend.model.generation_config.eos_token_id]
    )
    drawn = backend.model.generate(
        **batch,
        do_sample=False,
        max_new_tokens=sampling.max_new_tokens,
        eos_token_id=[*ends, tokenizer.eos_token_id],
        suppress_tokens=list(backend.processor.forbidden_ids),
        repetition_penalty=1.0,
        temperature=None,
        top_k=None,
        top_p=None,
    )
    rows = drawn[:, batch["input_ids"].shape[1] :].tolist()
    stop = {*ends, tokenizer.eos_token_id}
    return [row[: next((k for k, token in enumerate(row) if token in stop), len(row))] for row in rows]


def peak_above(work: Callable[[], object]) -> int:
    """Kilobytes of resident memory, at most, above those before; after a first run that fills caches and pools."""
    work()
    gc.collect()
    process, ended = psutil.Process(), threading.Event()
    before = most = process.memory_info().rss

    def watch() -> None:
        nonlocal most
        while not ended.wait(0.001):
            most = max(most, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    ended.set()
    watcher.join()
    return (most - before) // 1024


def peak_of(family: str, side: str, new_tokens: int) -> int:
    """Kilobytes."""
    command = [sys.executable, "-m", "tests.benchmarks.families", "--only", family, "--memory-of", side]
    # Memory that is freed goes back to the system at once, or the second run would find all of the first one's there.
    environ = os.environ | {"MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": "65536"}
    command += ["--new-tokens", str(new_tokens)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environ)
    return int(done.stdout.split()[-1])


if __name__ == "__main__":
    main()
