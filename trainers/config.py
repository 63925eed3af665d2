"""The settings of a training: one frozen config, and presets whose every number names its source.

"Script" below is the authors' GRPO-CARE training script, "paper" is arXiv 2506.16141, "SEED-Bench-R1" is arXiv
2503.24376 with its scripts. Where nothing published exists, the comment says "ours".
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from seedbench_r1.config import Section, check_bounds, check_types, check_video, find_data_root, read_config_file
from seedbench_r1.errors import ConfigError
from seedbench_r1.prompts import DEFAULT_TEMPLATE, load_template
from seedbench_r1.types import Template, VideoConfig, to_json

Algo = Literal["care", "grpo", "sft"]

TRAINING_FILE = "training_6k.jsonl"
COT_FILE = "training_with_cot_6k.jsonl"
LORA_LR_FACTOR = 10.0  # x the full fine-tuning rate, unless --learning-rate is given: common practice; ours


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Everything `train` needs. Defaults are those of preset care; see PRESETS."""

    model: str  # checkpoint folder or hub id
    data: Path  # data root
    out: Path
    algo: Algo
    preset: str
    video: VideoConfig = field(default_factory=VideoConfig)
    template: Template = DEFAULT_TEMPLATE
    train_file: Path | None = None  # None: annotations/training_6k.jsonl; for SFT training_with_cot_6k.jsonl
    allow_missing: bool = False  # rows whose media are absent are replaced by the next one and counted

    # Rollouts.
    num_generations: int = 8  # rollouts per question; script
    max_completion_length: int = 768  # new tokens; script
    temperature: float = 1.0  # script
    top_p: float = 1.0  # off, so that rollouts are drawn from the distribution that the loss differentiates; ours
    top_k: int = 0  # off, for the same reason; ours
    rollout_batch_size: int = 4  # questions decoded together; changes memory and speed only; ours
    rollouts: Literal["builtin", "vllm"] = "builtin"  # the sampler; vllm: an engine in the same process
    gpu_memory_utilization: float = 0.3  # share of each GPU that it takes while it samples; ours
    decode_cache: Literal["auto", "dynamic", "static"] = "auto"  # static: fixed shapes, on CUDA one recorded graph

    # Rewards.
    format_weight: float = 1.0  # paper, Algorithm 1
    bonus: Literal["care", "dense", "none"] = "care"
    bonus_weight: float = 0.5  # lambda of Algorithm 1; script
    bonus_margin: float = 0.0  # paper 0.01; the SEED-Bench-R1 script leaves it unset, which is 0
    bonus_cap: float = 0.95  # gamma_p of Algorithm 1; script
    likelihood_mean: Literal["geometric", "arithmetic"] = "geometric"  # script; the paper's equation is arithmetic

    # Reference model.
    reference: Literal["ema", "frozen", "none"] = "ema"
    ema_decay: float = 0.995  # alpha of Algorithm 1; script
    ema_every: int = 10  # steps; k of Algorithm 1; script

    # Loss.
    beta: float = 0.0  # weight of the KL penalty; script
    kl_on: Literal["all", "accurate"] = "all"  # accurate: the paper's KL-EMA-HA ablation

    # Optimiser.
    learning_rate: float = 1e-6  # script
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = "cosine"  # script
    warmup_ratio: float = 0.0  # share of all steps; script
    weight_decay: float = 0.01  # script; not on biases and norms, as in the Hugging Face trainer that it runs on
    max_grad_norm: float = 5.0  # script
    optimizer_device: Literal["auto", "cpu"] = "auto"  # cpu: fp32 weights and moments in main memory
    fsdp: bool = False  # weights, gradients and moments sharded over the processes by FSDP2

    # Amount.
    per_device_train_batch_size: int = 1  # questions per process and pass; script
    gradient_accumulation_steps: int = 1  # script
    num_train_epochs: float = 1.0  # script
    max_steps: int = -1  # overrides epochs when positive

    # Model.
    lora: bool = False
    lora_r: int = 64  # ours
    lora_alpha: int = 64  # ours
    freeze_vision: bool = False  # script trains the vision tower
    gradient_checkpointing: bool = True  # script
    shared_prefix: bool = True  # False: every rollout carries the prompt again; the same numbers, slower
    group_chunk: int | None = None  # rollouts per backward pass when memory is short
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 on CUDA, else float32
    device: str = "auto"

    # Running.
    seed: int = 42  # the Hugging Face trainer's default, which the script keeps
    workers: int = 2  # decoding processes per training process
    decode_timeout_s: float = 60.0
    frame_cache: Path | None = None
    frame_cache_gb: float = 50.0
    save_steps: int = 100  # script
    save_total_limit: int | None = 3  # ours; None keeps all
    logging_steps: int = 10  # of the display; metrics.jsonl has every step
    eval_every: int = 0  # steps between evaluations on held-out training questions; 0: none, and none are held out
    eval_questions: int = 64  # held out if eval_every is set; ours
    rollout_log_steps: int = 10  # steps between samples in rollouts.jsonl; 0: none

    @property
    def memory_hints(self) -> str:
        """Further ways to save memory on a GPU, for error messages."""
        return "more processes" if self.fsdp else "--optimizer-device cpu, --fsdp in several processes"

    @property
    def questions_file(self) -> Path:
        """The training rows' file."""
        return self.train_file or self.data / "annotations" / (COT_FILE if self.algo == "sft" else TRAINING_FILE)


# What a preset changes against TrainConfig's defaults.
PRESETS: dict[str, dict[str, Any]] = {
    "care": {"algo": "care"},
    "care-paper": {"algo": "care", "top_p": 0.95, "top_k": 50},  # script; 50 is the library's default of its time
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

# Settings that may differ between a run and its continuation: none of them changes a parameter's value. The two batch
# sizes and the number of processes may differ while their product stays (questions_per_step in training.json).
RESUME_MUTABLE = {
    "out",
    "data",
    "allow_missing",
    "rollout_batch_size",
    "gpu_memory_utilization",
    "decode_cache",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "shared_prefix",
    "group_chunk",
    "gradient_checkpointing",
    "optimizer_device",
    "fsdp",
    "device",
    "workers",
    "decode_timeout_s",
    "frame_cache",
    "frame_cache_gb",
    "save_steps",
    "save_total_limit",
    "logging_steps",
    "rollout_log_steps",
    "model",  # its bytes are compared instead
    "train_file",  # likewise
}

_VIDEO = {f.name for f in dataclasses.fields(VideoConfig)}
_OPTIONS = {f.name for f in dataclasses.fields(TrainConfig)} - {"video", "template"}
_PATHS = {"data", "train_file", "prompt_file", "frame_cache", "out"}
TRAIN_SECTION = Section("train", frozenset(_OPTIONS | _VIDEO | {"prompt_file"}), frozenset(_PATHS))


def resolve_train_config(
    options: Mapping[str, Any],
    *,
    config_file: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    working_dir: Path = Path(),
) -> TrainConfig:
    """Preset < [train] of the TOML file < SBR1_DATA_ROOT < options, into a validated config.

    Args:
        options: the command line's values by name, None for "not given". algo or preset, model and out are needed from
            here or from the file; the fields of VideoConfig and prompt_file may be among them. One of algo and preset
            here sets aside both of the file.
        config_file: TOML with the same names under [train]; by default ./seedbench-r1.toml, if any.
        environ: environment variables.
        working_dir: where the default config file is looked for.

    Raises:
        ConfigError: something needed is absent, a key is unknown, or a value is out of range, of the wrong type or
            does not go with another.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if unknown := sorted(set(given) - TRAIN_SECTION.keys):
        raise ConfigError(f"Unknown training option {unknown[0]!r}.")
    file = read_config_file(config_file, working_dir, TRAIN_SECTION)
    if {"algo", "preset"} & set(given):
        file = {name: value for name, value in file.items() if name not in ("algo", "preset")}
    root = given.get("data")
    if root is None and not environ.get("SBR1_DATA_ROOT"):
        root = file.get("data")
    given = {**file, **given, "data": find_data_root(root, environ, working_dir)}
    algo = given.pop("algo", None)
    preset = given.pop("preset", algo)
    if preset is None:
        raise ConfigError("No algorithm given. Fix: --algo care, --algo grpo or --algo sft.")
    if preset not in PRESETS:
        raise ConfigError(f"No preset {preset!r}. There are: {', '.join(PRESETS)}.")
    if algo not in (None, PRESETS[preset]["algo"]):
        raise ConfigError(f"--preset {preset} is for --algo {PRESETS[preset]['algo']}, not {algo}.")
    for name, flag in (("model", "--model PATH_OR_HUB_ID"), ("out", "--out DIR")):
        if not given.get(name):
            raise ConfigError(f"No {name} given. Fix: seedbench-r1 train {flag}.")
    prompt_file = given.pop("prompt_file", None)
    template = load_template(Path(prompt_file)) if prompt_file else DEFAULT_TEMPLATE
    video = VideoConfig(**{name: given.pop(name) for name in sorted(_VIDEO & set(given))})
    merged: dict[str, Any] = {**PRESETS[preset], **given}
    if merged.get("lora") and "learning_rate" not in given:
        full = merged.get("learning_rate", TrainConfig.__dataclass_fields__["learning_rate"].default)
        merged["learning_rate"] = round(LORA_LR_FACTOR * full, 15)  # 1e-05, not 9.999999999999999e-06
    return validate(TrainConfig(preset=preset, video=video, template=template, **merged))


def validate(config: TrainConfig) -> TrainConfig:
    """Check types, ranges and what goes together; return the config. Raises ConfigError naming the option."""
    check_types(config)
    check_video(config.video)
    check_bounds(_bounds(config), config)
    _check_combinations(config)
    return config


def _bounds(config: TrainConfig) -> dict[str, bool]:
    """Setting -> whether its value is in range."""
    return {
        "num_generations": config.num_generations >= 1,
        "max_completion_length": config.max_completion_length >= 1,
        "temperature": config.temperature > 0,
        "top_p": 0 < config.top_p <= 1,
        "top_k": config.top_k >= 0,
        "rollout_batch_size": config.rollout_batch_size >= 1,
        "rollouts": config.rollouts in ("builtin", "vllm"),
        "gpu_memory_utilization": 0 < config.gpu_memory_utilization <= 1,
        "decode_cache": config.decode_cache in ("auto", "dynamic", "static"),
        "bonus": config.bonus in ("care", "dense", "none"),
        "bonus_cap": 0 < config.bonus_cap <= 1,
        "bonus_margin": config.bonus_margin >= 0,
        "likelihood_mean": config.likelihood_mean in ("geometric", "arithmetic"),
        "reference": config.reference in ("ema", "frozen", "none"),
        "ema_decay": 0 <= config.ema_decay <= 1,
        "ema_every": config.ema_every >= 1,
        "beta": config.beta >= 0,
        "kl_on": config.kl_on in ("all", "accurate"),
        "learning_rate": config.learning_rate > 0,
        "lr_scheduler_type": config.lr_scheduler_type in ("cosine", "linear", "constant"),
        "warmup_ratio": 0 <= config.warmup_ratio < 1,
        "weight_decay": config.weight_decay >= 0,
        "max_grad_norm": config.max_grad_norm > 0,
        "optimizer_device": config.optimizer_device in ("auto", "cpu"),
        "per_device_train_batch_size": config.per_device_train_batch_size >= 1,
        "gradient_accumulation_steps": config.gradient_accumulation_steps >= 1,
        "num_train_epochs": config.num_train_epochs > 0,
        "max_steps": config.max_steps >= 1 or config.max_steps == -1,
        "lora_r": config.lora_r >= 1,
        "lora_alpha": config.lora_alpha >= 1,
        "group_chunk": config.group_chunk is None or config.group_chunk >= 1,
        "dtype": config.dtype in ("auto", "float32", "bfloat16"),
        "workers": config.workers >= 1,
        "save_steps": config.save_steps >= 1,
        "save_total_limit": config.save_total_limit is None or config.save_total_limit >= 1,
        "logging_steps": config.logging_steps >= 1,
        "eval_every": config.eval_every >= 0,
        "eval_questions": config.eval_questions >= 1,
        "rollout_log_steps": config.rollout_log_steps >= 0,
    }


def _check_combinations(config: TrainConfig) -> None:
    """Raise ConfigError for settings that exclude each other."""
    if config.algo != "care" and config.bonus != "none":
        raise ConfigError(f"--algo {config.algo} has no consistency bonus. Fix: --algo care, or --bonus none.")
    if config.algo != "sft" and config.num_generations < 2:
        raise ConfigError(
            f"--num-generations {config.num_generations} leaves nothing to learn from: an advantage compares a rollout "
            f"with the others of its group. Fix: --num-generations 2 or more; published runs use 8."
        )
    if config.algo == "sft" and config.rollouts == "vllm":
        raise ConfigError("--algo sft draws no rollouts. Fix: leave --rollouts out.")
    if config.reference == "none" and (config.bonus != "none" or config.beta > 0):
        needs = "--beta above 0" if config.beta > 0 else f"--bonus {config.bonus}"
        raise ConfigError(f"{needs} needs a reference model. Fix: --reference ema or --reference frozen.")
    if config.fsdp and config.lora:
        raise ConfigError(
            "--fsdp and --lora do not go together. Fix: --lora alone, which fits without and runs in any number of "
            "processes, or --fsdp alone for full fine-tuning."
        )
    if config.fsdp and config.optimizer_device == "cpu":
        raise ConfigError("--fsdp keeps its shards on the GPUs. Fix: without --optimizer-device cpu.")
    if config.fsdp and config.rollouts == "vllm":
        raise ConfigError("--fsdp does not hand its weights to vLLM. Fix: --rollouts builtin, or without --fsdp.")


def total_steps(config: TrainConfig, n_rows: int, questions_per_step: int) -> int:
    """Optimiser steps of the whole run; a last incomplete step of the epochs is left out. At least 1."""
    if config.max_steps > 0:
        return config.max_steps
    return max(1, int(config.num_train_epochs * n_rows) // questions_per_step)


def resume_identity(config: TrainConfig) -> dict[str, object]:
    """The settings that a continuation must share, as flat JSON values ("video.max_frames": 16)."""
    flat: dict[str, object] = {}
    for name, value in to_json(config).items():
        if name in RESUME_MUTABLE:
            continue
        parts = {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
        flat |= parts
    return flat
