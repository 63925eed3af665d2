"""The table of docs/training.md that says what a training takes, by trainers.estimate. Written by tests.docs_tables."""

from __future__ import annotations

import json
import struct
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from tests.gpu import shapes
from trainers.config import TrainConfig
from trainers.estimate import estimate
from trainers.presets import PRESETS

DOCUMENT = Path(__file__).parents[2] / "docs" / "training.md"
MARK = "<!-- hardware: python -m tests.docs_tables -->\n"

# Model, preset, options, processes.
ROWS: tuple[tuple[str, str, dict[str, Any], int], ...] = (
    ("3b", "care", {}, 1),
    ("3b", "care", {"optimizer_device": "cpu"}, 1),
    ("3b", "care", {"lora": True}, 1),
    ("3b", "care", {"fsdp": True}, 2),
    ("3b", "care", {"fsdp": True}, 4),
    ("3b", "care", {"fsdp": True, "optimizer_device": "cpu"}, 2),
    ("3b", "sft", {"optimizer_device": "cpu"}, 1),
    ("3b", "sft", {"fsdp": True}, 2),
    ("7b", "care", {}, 1),
    ("7b", "care", {"optimizer_device": "cpu"}, 1),
    ("7b", "care", {"lora": True}, 1),
    ("7b", "care", {"fsdp": True}, 2),
    ("7b", "care", {"fsdp": True}, 4),
    ("7b", "care", {"fsdp": True}, 8),
    ("7b", "care", {"fsdp": True, "optimizer_device": "cpu"}, 2),
    ("7b", "care", {"fsdp": True, "optimizer_device": "cpu"}, 4),
    ("7b", "care", {"fsdp": True, "rollouts": "vllm", "rollout_tensor_parallel": 4}, 4),
    ("7b", "care", {"fsdp": True, "rollouts": "vllm", "rollout_tensor_parallel": 4}, 8),
    ("7b", "care", {"lora": True, "rollouts": "vllm"}, 1),
    ("7b", "care", {"fsdp": True, "lora": True}, 2),
    ("7b", "grpo-nokl", {"fsdp": True}, 4),
    ("7b", "sft", {"fsdp": True}, 4),
    ("7b", "sft", {"fsdp": True, "optimizer_device": "cpu"}, 4),
    ("7b", "grpo-nokl", {"optimizer_device": "cpu"}, 1),
    ("7b", "sft", {"optimizer_device": "cpu"}, 1),
)


def document() -> str:
    """docs/training.md as it should be."""
    before, mark, after = DOCUMENT.read_text(encoding="utf-8").partition(MARK)
    return before + mark + table() + "\n" + after.partition("\n\n")[2]


def table() -> str:
    """Markdown. GPU and main memory are each process's, the checkpoint is that of all processes."""
    columns = ("model", "what", "GPU, GB", "main memory, GB", "checkpoint, GB", "a step, s")
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    with tempfile.TemporaryDirectory() as folder:
        models = {name: headers_of(name, Path(folder) / name) for name in ("3b", "7b")}
        for name, preset, options, processes in ROWS:
            nowhere = Path("nowhere")
            settings = PRESETS[preset] | options
            config = TrainConfig(model=name, data=nowhere, out=nowhere, preset=preset, **settings)
            questions = config.per_device_train_batch_size * config.gradient_accumulation_steps
            guess = estimate(config, models[name], questions, processes)
            flags = [
                f"--{option.replace('_', '-')}" + ("" if on is True else f" {on}") for option, on in options.items()
            ]
            what = f"`{' '.join([preset, *flags])}`" + (f", {processes} processes" if processes > 1 else "")
            sizes = (guess.device_bytes(config), guess.main_memory_bytes(config), guess.checkpoint)
            numbers = [*(f"{size / 1e9:.0f}" for size in sizes), f"{guess.step_s:.0f}"]
            lines.append(f"| {name.upper()} | {what} | {' | '.join(numbers)} |")
    return "\n".join(lines) + "\n"


def headers_of(name: str, folder: Path) -> Any:
    """What an estimate reads of a checkpoint in the shapes of a released model: configuration and weights' header."""
    model: Any = shapes.build(name, torch.device("meta"))
    left_out = "lm_head.weight" if model.config.tie_word_embeddings else None
    weights = {key: {"shape": list(value.shape)} for key, value in model.named_parameters() if key != left_out}
    header = json.dumps(weights).encode()
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return SimpleNamespace(folder=folder, base_folder=None, config=model.config.to_dict())
