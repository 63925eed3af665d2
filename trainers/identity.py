"""The identity of a training: what a continuation must share with the run that it continues."""

from __future__ import annotations

from seedbench_r1.types import to_json
from trainers.config import TrainConfig

# Settings that may differ between a run and its continuation: none of them changes a parameter's value. The two batch
# sizes and the number of processes may differ while their product stays (questions_per_step in training.json).
RESUME_MUTABLE = {
    "out",
    "data",
    "allow_missing",
    "rollout_batch_size",
    "gpu_memory_utilization",
    "rollout_tensor_parallel",
    "decode_cache",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "shared_prefix",
    "group_chunk",
    "max_packed_tokens",
    "gradient_checkpointing",
    "optimizer_device",
    "fsdp",
    "device",
    "workers",
    "decode_timeout_s",
    "frame_cache",
    "frame_cache_gb",
    "reward_failures",  # until the first one both are the same
    "save_steps",
    "save_total_limit",
    "save_optimizer",
    "hang_timeout_s",
    "logging_steps",
    "keep_going",
    "rollout_log_steps",
    "model",  # its bytes are compared instead
    "processor",  # likewise
    "train_file",  # likewise
    "map",  # the columns that were read are compared instead
    "reward",  # names, weights and the files' bytes are compared instead
}

# Settings that are younger than the first checkpoints: what those that do not name them were trained with.
FORMER: dict[str, object] = {
    "rewards": "evaluation",
    "loss_type": "grpo",
    "num_iterations": 1,
    "epsilon": 0.2,  # of no effect with one iteration, as the next
    "epsilon_high": None,
    "importance_cap": 0.0,
    "mask_truncated": False,
    "refill": 0,
    "suite": "seedbench-r1",
    "skip_bad_rows": False,
    "splits": None,
    "read_as": "",
    "reward_functions": [],
    "refgen_tokens": 64,  # of no effect without --bonus refgen
    "beta_think": None,  # of no effect without --kl-on separate, as the next
    "beta_answer": None,
}


def resume_identity(config: TrainConfig) -> dict[str, object]:
    """The settings that a continuation must share, as flat JSON values ("video.max_frames": 16)."""
    flat: dict[str, object] = {}
    for name, value in to_json(config).items():
        if name in RESUME_MUTABLE:
            continue
        parts = {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
        flat |= parts
    return flat
