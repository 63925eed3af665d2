"""Any recipe on the miniature: the same commands with the same options, of few rows, few steps and a tiny model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from seedbench_r1 import config
from seedbench_r1.config import TABLE as EVAL_TABLE
from seedbench_r1.experiments.folder import Folder
from seedbench_r1.experiments.recipe import Launch, Miniature, Recipe, Settings, Variant
from seedbench_r1.experiments.video_r1_files import COT, RL
from seedbench_r1.types import VideoConfig
from trainers.config import TABLE as TRAIN_TABLE
from trainers.presets import PRESETS

PROMPT = Path(str(files("seedbench_r1.demo").joinpath("prompt_video_r1.toml")))
SEEDS = 2  # of the recipe's, at most
STEPS = 2
SAMPLES = 2  # of each question, at most
PROCESSES = 2  # of one training, at most
DATA = Miniature(questions=6, rows=24)
TRAINING: Settings = {  # in place of the recipe's sizes
    "device": "cpu",
    "workers": 1,
    "max_steps": STEPS,
    "save_steps": 1,
    "per_device_train_batch_size": 2,
    "rollout_batch_size": 2,
    "num_generations": 4,
    "rollout_log_steps": 1,
}
_PIXELS = {field.name for field in fields(VideoConfig)}
# Of a training what it is, and not where or how large: sizes, data, hardware and the vLLM engine are left out.
_TRAIN_WITHOUT = {*TRAINING, *_PIXELS, "processor", "dtype", "train_file", "data", "prompt_file", "skip_bad_rows"}
_TRAIN_WITHOUT |= {"rollouts", "gpu_memory_utilization", "rollout_tensor_parallel", "importance_cap", "decode_cache"}
_TRAIN_WITHOUT |= {"gradient_accumulation_steps", "num_train_epochs", "max_completion_length", "learning_rate"}
_TRAIN_WITHOUT |= {"frame_cache", "frame_cache_gb", "save_total_limit", "logging_steps", "eval_questions", "eval_every"}
_TRAIN_WITHOUT |= {"max_packed_tokens", "allow_missing", "suite"}
# Of an evaluation which questions, and how they are sampled.
_EVAL_GROUPS = (config.MODEL, config.RUNTIME, config.API, config.RAY, config.LMMS, config.OUTPUT)
_EVAL_WITHOUT = {name for name, row in EVAL_TABLE.items() if row.option.group in _EVAL_GROUPS} - {"seed", "samples"}
_EVAL_WITHOUT |= {*_PIXELS, "data_root", "annotations", "transfer_files", "questions", "map", "splits", "limit"}
_EVAL_WITHOUT |= {"allow_missing", "skip_bad_rows", "prompt_file", "max_new_tokens", "size_multiple", "preprocess"}
_EVAL_WITHOUT |= {"free_media"}
_JUDGES = ("rules", "miniature")  # those that need no other model
_PROBES = ("probes", "rollouts", "seed")


def on_miniature(recipe: Recipe, folder: Folder) -> Recipe:
    """The recipe's variants, suites, judges and probes on the miniature's data, from its tiny model, on this CPU."""
    processes = min(PROCESSES, recipe.launch.processes)
    variants = {name: _variant(recipe, variant, folder, processes) for name, variant in recipe.variants.items()}
    judges = [judge for judge in recipe.judges if judge.get("judge", "rules") in _JUDGES]
    probes = [{name: value for name, value in probe.items() if name in _PROBES} for probe in recipe.probes]
    return replace(
        recipe,
        name=f"{recipe.name}-miniature",
        title=f"{recipe.title} (rehearsed on the miniature: its numbers say nothing)",
        miniature=DATA,
        models=dict.fromkeys(recipe.models, "demo:sft"),
        variants=variants,
        seeds=recipe.seeds[:SEEDS],
        checkpoints=recipe.checkpoints if isinstance(recipe.checkpoints, str) else "all",
        train=TRAINING,
        eval={"device": "cpu"},
        suites={name: _suite({**recipe.eval, **suite}) for name, suite in recipe.suites.items()},
        judges=tuple(judges or ([{"judge": "rules"}] if recipe.judges else [])),
        probes=tuple(probes),
        launch=Launch(recipe.launch.line, processes),
        jobs=1 if processes > 1 else 2,
    )


def _variant(recipe: Recipe, variant: Variant, folder: Folder, processes: int) -> Variant:
    whole = {**recipe.train, **variant.settings}
    kept = {name: value for name, value in variant.settings.items() if name not in _TRAIN_WITHOUT}
    # What is shared goes where it can be refused by nobody: to the variants that have it.
    shared = {name: value for name, value in recipe.train.items() if name not in {*_TRAIN_WITHOUT, *kept}}
    algo = whole.get("algo", PRESETS.get(str(whole.get("preset")), {}).get("algo"))
    kept = {name: value for name, value in shared.items() if _concerns(name, str(algo))} | kept
    if processes == 1:
        kept.pop("fsdp", None)
    if whole.get("eval_every"):
        kept |= {"eval_every": 1, "eval_questions": 4}
    if whole.get("suite") == "video-r1":
        file = folder.data / (COT if algo == "sft" else RL)
        kept |= {"suite": "video-r1", "train_file": file, "prompt_file": PROMPT}
    return replace(variant, settings=kept)


def _concerns(name: str, algo: str) -> bool:
    owners = TRAIN_TABLE[name].option.owners
    return not owners or f"algo {algo}" in owners or not any(owner.startswith("algo ") for owner in owners)


def _suite(settings: Mapping[str, Any]) -> Settings:
    kept = {name: value for name, value in settings.items() if name not in _EVAL_WITHOUT}
    if "samples" in kept:
        kept["samples"] = min(SAMPLES, kept["samples"])
    if kept.get("suite") == "own":
        del kept["suite"]
    if kept.get("suite") == "transfer":
        kept |= {"prompt_file": PROMPT}
    return kept
