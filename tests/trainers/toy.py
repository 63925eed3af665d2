"""A toy task for training tests: questions that differ in their text, one tiny image, a tiny Qwen2.5-VL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from seedbench_r1.demo.tiny_model import TinySize, write_tiny_checkpoint
from seedbench_r1.files import write_text
from seedbench_r1.models.checkpoint import inspect_model
from seedbench_r1.prompts import build_prompt
from seedbench_r1.questions import load_training_rows
from seedbench_r1.types import Template
from tests.rows import evaluation_row, write_rows
from trainers.config import TrainConfig
from trainers.loop import TrainResult, train
from trainers.plan import plan_training
from trainers.policy import Policy, load_policy
from trainers.processes import Processes
from trainers.resolve import resolve_train_config

TEMPLATE = Template(dict.fromkeys(("with_video", "without_video"), "{question} {options}"))
GOLDS = "ABCD"
RESPONSE = "<think>so {}</think><answer>{}</answer>"


def write_toy(root: Path, responses: dict[str, str], *, questions: int = 4) -> Path:
    """A data root with one image and the two training files: `questions` questions with gold A, B, C, D.

    responses: suffix of the sample id -> response template, in which {gold} is the question's gold letter. The CoT file
    has one row for each question and response, training_6k.jsonl one for each question.
    """
    rows = [
        evaluation_row(
            number,
            question=f"task {number}",
            choice_a="cup",
            choice_b="pan",
            choice_c="jar",
            choice_d="box",
            golden_choice_idx=GOLDS[number % 4],
            answer=("cup", "pan", "jar", "box")[number % 4],
            task_progress_metadata=[],
            current_observation_basename="one.png",
        )
        for number in range(questions)
    ]
    folder = root / "images" / "EpicKitchens"
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (56, 56, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "one.png")
    cot = [
        row | {"sample_id": f"{row['sample_id']}-{name}", "response": text.format(gold=row["golden_choice_idx"])}
        for name, text in responses.items()
        for row in rows
    ]
    write_rows(root / "annotations" / "training_6k.jsonl", rows)
    write_rows(root / "annotations" / "training_with_cot_6k.jsonl", cot)
    return root


def write_toy_model(folder: Path, data: Path, *, hidden: int = 32) -> Path:
    """Random weights, two heads; a tokenizer to which a response is about ten tokens."""
    rows = load_training_rows(data / "annotations" / "training_with_cot_6k.jsonl", data)
    texts = [build_prompt(row.question, TEMPLATE) for row in rows] + [row.response or "" for row in rows] * 5
    size = TinySize(hidden=hidden, layers=2, context=512, initializer_range=0.05)
    return write_tiny_checkpoint(folder, vocabulary_texts=texts, size=size)


def toy_config(model: Path, data: Path, out: Path, algo: str, **changes: Any) -> TrainConfig:
    """Fast settings for the toy task."""
    prompt = data / "prompt.toml"
    # several processes of one test write it at once
    write_text(prompt, 'with_video = "{question} {options}"\nwithout_video = "{question} {options}"\n')
    options: dict[str, Any] = {
        "algo": algo,
        "model": str(model),
        "data": data,
        "out": out,
        "device": "cpu",
        "workers": 1,
        "prompt_file": prompt,
        "image_min_pixels": 56 * 56,
        "image_max_pixels": 56 * 56,
        "gradient_checkpointing": False,
        "learning_rate": 2e-3,
        "lr_scheduler_type": "constant",
        "warmup_ratio": 0.0,
        "max_completion_length": 16,
    }
    return resolve_train_config(options | changes)


def plan_and_train(config: TrainConfig, **options: Any) -> TrainResult:
    """As the command does, in one process or in each of several."""
    processes = Processes(config.device)
    planned = plan_training(config, world_size=processes.world_size, node_size=processes.node_size)
    return train(planned, **options)


def policy_of(config: TrainConfig) -> Policy:
    """The policy that a training with this configuration starts from, on the CPU."""
    return load_policy(config, inspect_model(config.model), torch.device("cpu"))
