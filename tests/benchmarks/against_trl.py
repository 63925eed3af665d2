"""A GRPO step, ours against TRL's: CPU time and peak memory, on TRL's own ground (one image, no video, no KL).

pip install --no-deps --target /tmp/trl trl==1.16.0 && PYTHONPATH=/tmp/trl python tests/benchmarks/against_trl.py

Both train the same random Qwen2.5-VL in float32 on one thread, with AdamW and gradient checkpointing, on a prompt of an
image and text, eight rollouts of exactly C tokens, and rewards that differ in every group. Each side is a process of
its own, which takes a step that is not counted and then STEPS; the sides alternate. Prints CPU-seconds a step and the
process's peak memory, medians over the rounds, and the ratios.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch

from seedbench_r1.demo.tiny_model import TinySize, write_tiny_checkpoint
from tests.tiny_models import WORDS

SIZE = TinySize(hidden=256, layers=6, heads=4, key_value_heads=2, vision_hidden=128, vision_depth=2, vision_heads=2)
# Sides of the image in tokens, and C; the text adds about 30 tokens.
CASES = {"P 1,100, C 64": (33, 33, 64), "P 340, C 256": (18, 18, 256)}
GROUP, STEPS, ROUNDS = 8, 2, 3
QUESTION = "What should be done next? wash the pan, cut the bread, open the fridge."


class Clock:
    """CPU time of each step but the first."""

    def __init__(self) -> None:
        self.began, self.seconds = 0.0, list[float]()

    def begin(self) -> None:
        self.began = time.process_time()

    def end(self) -> None:
        self.seconds.append(time.process_time() - self.began)

    def report(self) -> str:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return json.dumps({"cpu_s": statistics.median(self.seconds[1:]), "mb": peak})


def picture(rows: int, columns: int) -> Any:
    from PIL import Image

    return Image.effect_noise((columns * 28, rows * 28), 60).convert("RGB")


def ours(folder: Path, rows: int, columns: int, length: int) -> str:
    import trainers.grpo
    from seedbench_r1.models.checkpoint import inspect_model
    from seedbench_r1.models.qwen_vl import prepare_inputs
    from seedbench_r1.types import Question, Request
    from trainers.checkpoints import TrainingState
    from trainers.data import TrainingExample
    from trainers.grpo import grpo_step
    from trainers.optimizer import Optimizer
    from trainers.policy import load_policy
    from trainers.processes import Processes
    from trainers.reference import Reference
    from trainers.resolve import resolve_train_config
    from trainers.rewards import Reward
    from trainers.samplers import open_sampler
    from trainers.shared_prefix import shared_prefix_attention

    options = {"algo": "grpo", "preset": "grpo-nokl", "model": str(folder), "data": folder, "out": folder / "out"}
    config = resolve_train_config(options | {"max_completion_length": length, "device": "cpu"})
    policy = load_policy(config, inspect_model(str(folder)), torch.device("cpu"))
    policy.model.generation_config.eos_token_id = None
    object.__setattr__(policy.processor.tokenizer, "eos_token_id", None)
    image = np.asarray(picture(rows, columns))
    messages = ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]},)
    request = Request("q", messages, None, (), None, None, image)
    question = Question("q", "train", QUESTION, ("a", "b", "c", "d"), "A", None, None, None, None, "")
    example = TrainingExample(question, "", 0, prepare_inputs(request, policy.processor))
    numbers = iter(range(10**9))
    trainers.grpo.reward = lambda *_: Reward(float(next(numbers) % 2), 0.0)
    optimizer = Optimizer(policy.trainable(), config)
    state = TrainingState(policy, Reference("none", policy, decay=0.9, every=1), optimizer)
    clock, processes = Clock(), Processes("cpu")
    sampler = open_sampler(policy, config, processes)
    with shared_prefix_attention(policy.model):
        for _ in range(STEPS + 1):
            clock.begin()
            grpo_step(state, sampler, [example], config, 1, processes, lambda: optimizer.step(1e-6), lambda _: None)
            clock.end()
    return clock.report()


def theirs(folder: Path, rows: int, columns: int, length: int) -> str:
    from datasets import Dataset
    from transformers import AutoProcessor, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    clock, numbers = Clock(), iter(range(10**9))

    class Timed(TrainerCallback):
        def on_step_begin(self, *_: object, **__: object) -> None:
            clock.begin()

        def on_step_end(self, *_: object, **__: object) -> None:
            clock.end()

    rows_of_data = [{"prompt": [{"role": "user", "content": QUESTION}], "image": picture(rows, columns)}] * 4
    arguments = GRPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=GROUP,
        num_generations=GROUP,
        max_completion_length=length,
        generation_kwargs={"min_new_tokens": length},
        max_steps=STEPS + 1,
        beta=0.0,
        learning_rate=1e-6,
        gradient_checkpointing=True,
        bf16=False,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        logging_strategy="no",
    )
    processor = AutoProcessor.from_pretrained(folder, padding_side="left")
    processor.image_processor.size["longest_edge"] = 10**8  # the image as it is, as ours takes it
    trainer = GRPOTrainer(
        model=str(folder),
        reward_funcs=lambda completions, **_: [float(next(numbers) % 2) for _ in completions],
        args=arguments,
        train_dataset=Dataset.from_list(rows_of_data),
        processing_class=processor,
        callbacks=[Timed()],
    )
    trainer.train()
    return clock.report()


def main() -> None:
    if len(sys.argv) > 1:
        side, folder, *sizes = sys.argv[1:]
        torch.set_num_threads(1)
        print({"ours": ours, "trl": theirs}[side](Path(folder), *map(int, sizes)))
        return
    with tempfile.TemporaryDirectory() as name:
        write_tiny_checkpoint(Path(name), vocabulary_texts=[WORDS], size=SIZE)
        for case, sizes in CASES.items():
            found: dict[str, list[SimpleNamespace]] = {"ours": [], "trl": []}
            for _ in range(ROUNDS):
                for side, measured in found.items():
                    words = [sys.executable, __file__, side, name, *map(str, sizes)]
                    single = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
                    done = subprocess.run(words, env=single, capture_output=True, text=True, check=False)
                    if done.returncode:
                        raise SystemExit(done.stderr)
                    measured.append(SimpleNamespace(**json.loads(done.stdout.splitlines()[-1])))
            cpu, mb = (
                {side: statistics.median(getattr(one, key) for one in measured) for side, measured in found.items()}
                for key in ("cpu_s", "mb")
            )
            print(
                f"{case}: {cpu['ours']:.2f} against {cpu['trl']:.2f} CPU-s a step ({cpu['trl'] / cpu['ours']:.1f} x), "
                f"{mb['ours']:,.0f} against {mb['trl']:,.0f} MB ({mb['ours'] / mb['trl']:.2f} x)"
            )


if __name__ == "__main__":
    main()
