"""K samples of a question against one: is the prompt's cost paid once? CPU time, interleaved.

python tests/benchmarks/samples.py

A random Qwen2.5-VL of 6 layers in float32 on one thread answers questions of 16 frames and an image (about 1,600 prompt
tokens) with 64 new tokens each, once with one sample and once with 8, in turn. Prints the CPU time of preparing and
prefilling (the transformers backend's `_prepare` and `prefill_any`) for both, and of the rest, which is decoding. The
aim: all of 8 samples within 1.3 x the prefill of one plus their decoding.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from seedbench_r1.backends import decoding
from seedbench_r1.backends.transformers import TransformersBackend
from seedbench_r1.demo.tiny_model import TinySize, write_tiny_checkpoint
from seedbench_r1.types import Generation, SamplingConfig
from tests.tiny_models import WORDS, request

SIZE = TinySize(hidden=256, layers=6, heads=4, key_value_heads=2, vision_hidden=128, vision_depth=2, vision_heads=2)
K, QUESTIONS, NEW_TOKENS, ROUNDS = 8, 3, 64, 5


class Timed:
    """CPU seconds spent inside some functions."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.thread_time() - began

        return timed


def main() -> None:
    torch.set_num_threads(1)
    sampling = SamplingConfig(temperature=1.0, top_p=1.0, max_new_tokens=NEW_TOKENS)
    with tempfile.TemporaryDirectory() as name:
        write_tiny_checkpoint(Path(name), vocabulary_texts=[WORDS], size=SIZE)
        backend = TransformersBackend(name, device="cpu", dtype="float32", batch_size=QUESTIONS)
        backend.model.generation_config.eos_token_id = None
        object.__setattr__(backend.processor.tokenizer, "eos_token_id", None)
        asked = [request(f"q{i}", "qwen2_5_vl", n_frames=16, cells=(12, 15)) for i in range(QUESTIONS)]
        prefill: dict[int, list[float]] = {1: [], K: []}
        rest: dict[int, list[float]] = {1: [], K: []}
        tokens = 0
        prefill_any, prepare = decoding.prefill_any, type(backend)._prepare
        for _ in range(ROUNDS + 1):
            for k in (1, K):
                timed = Timed()
                decoding.prefill_any = timed.around(prefill_any)
                type(backend)._prepare = timed.around(prepare)  # type: ignore[method-assign]
                wanted = [replace(one, seeds=tuple(range(k))) for one in asked]
                began = time.process_time()
                found = list(backend.generate(iter(wanted), sampling))
                spent = time.process_time() - began
                assert len(found) == k * QUESTIONS
                assert all(isinstance(r, Generation) and r.n_tokens == NEW_TOKENS for _, r in found), found[0]
                tokens = max(r.n_prompt_tokens or 0 for _, r in found if isinstance(r, Generation))
                prefill[k].append(timed.seconds)
                rest[k].append(spent - timed.seconds)
    one, many = (statistics.median(prefill[k][1:]) for k in (1, K))
    decoding_s = statistics.median(rest[K][1:])
    print(f"{QUESTIONS} questions of {tokens:,} prompt tokens, {NEW_TOKENS} new ones, {ROUNDS} rounds, CPU seconds")
    print(f"prefill: 1 sample {one:.2f}, {K} samples {many:.2f} ({many / one:.2f} x)")
    print(f"decoding: 1 sample {statistics.median(rest[1][1:]):.2f}, {K} samples {decoding_s:.2f}")
    limit = 1.3 * one + decoding_s
    print(f"{K} samples {many + decoding_s:.2f}; allowed 1.3 x {one:.2f} + {decoding_s:.2f} = {limit:.2f}")


if __name__ == "__main__":
    main()
