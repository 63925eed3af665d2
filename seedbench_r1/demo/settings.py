"""The miniature's own protocol and training recipe, as one configuration file that eval and train take."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from seedbench_r1.config_file import toml_lines
from seedbench_r1.demo.dataset_writer import ClipOptions
from seedbench_r1.files import make_folder, write_text

CONFIG, PROMPT = "miniature.toml", "prompt.toml"

MEDIA: dict[str, Any] = {  # few frames, small pixels: 24 tokens of clip and 12 of image
    "max_frames": 12,
    "min_pixels": 4 * 28 * 28,
    "max_pixels": 4 * 28 * 28,
    "image_min_pixels": 4 * 28 * 28,
    "image_max_pixels": 12 * 28 * 28,
}
# Clips are as large as the model sees them; 6 s are 12 frames, so each of up to 3 steps fills whole pairs of frames.
CLIP: ClipOptions = {"frame_size": (112, 84), "fps": 4, "seconds": 6.0}
EVALUATION: dict[str, Any] = {
    # A model's most likely trace is a sound one, whatever it has learned besides: only draws show how it reasons.
    "temperature": 1.0,
    "top_p": 1.0,
    "max_new_tokens": 80,
    "batch_size": 64,
    "dtype": "float32",
}
TRAINING: dict[str, Any] = {  # of reinforcement learning; where it departs from the presets, because all is smaller
    "learning_rate": 1e-4,  # three times as much spoils what has no KL penalty (docs/log.md)
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "rollout_batch_size": 8,
    "max_steps": 300,
    "max_completion_length": 80,
    "max_grad_norm": 1.0,
    "ema_decay": 0.95,  # over 30 updates as far as the paper's 0.995 goes over 300
    "bonus_margin": 0.01,  # the paper's
    "gradient_checkpointing": False,
    "save_steps": 100,
    "dtype": "float32",
}


def write_settings(root: Path) -> Path:
    """Write miniature.toml and prompt.toml under a data root; return the path of miniature.toml."""
    make_folder(root)
    write_text(root / PROMPT, files("seedbench_r1.demo").joinpath(PROMPT).read_text(encoding="utf-8"))
    shared = {"prompt_file": PROMPT, "frame_cache": "frames", **MEDIA}
    sections = {"eval": {"data_root": ".", **shared, **EVALUATION}, "train": {"data": ".", **shared, **TRAINING}}
    lines = ["# For seedbench-r1 eval --config and train --config: the miniature's own protocol."]
    for name, settings in sections.items():
        lines += ["", f"[{name}]", toml_lines(settings).rstrip()]
    write_text(root / CONFIG, "\n".join(lines) + "\n")
    return root / CONFIG
