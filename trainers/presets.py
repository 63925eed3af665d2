"""The presets of a training, what each changes against TrainConfig's defaults, and where its numbers come from.

"Script" is the authors' GRPO-CARE training script, "SEED-Bench-R1" arXiv 2503.24376 with its scripts.
"""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "care": {"algo": "care"},
    # script; 50 is the library's default of its time
    "care-paper": {"algo": "care", "top_p": 0.95, "top_k": 50, "rewards": "script"},
    "grpo": {  # SEED-Bench-R1's KL weight on a frozen reference; all else as care, so that the algorithm alone differs
        "algo": "grpo",
        "bonus": "none",
        "reference": "frozen",
        "beta": 0.1,
    },
    "grpo-nokl": {"algo": "grpo", "bonus": "none", "reference": "none"},
    "sft": {  # SEED-Bench-R1's SFT settings
        "algo": "sft",
        "bonus": "none",
        "reference": "none",
        "learning_rate": 2e-5,
        "warmup_ratio": 0.1,
        "gradient_accumulation_steps": 16,
        "max_completion_length": 4096,  # new tokens of a response; theirs is 8192 for prompt and response together
    },
}
