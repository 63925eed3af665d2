"""Preset, file, environment and command line -> one validated TrainConfig; what does not go together is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from seedbench_r1.config import check_video, find_data_root
from seedbench_r1.config_file import read_config_file
from seedbench_r1.errors import ConfigError
from seedbench_r1.options import check_values, refuse_needless, refuse_strangers, settings_of
from seedbench_r1.prompts import DEFAULT_TEMPLATE, load_template
from seedbench_r1.suites import own_root
from seedbench_r1.suites.transfer import DEFAULT_TEMPLATE as EVERY_KIND_TEMPLATE
from seedbench_r1.types import VideoConfig
from trainers.config import ENVIRONMENT, IMPORTANCE_CAP, LORA_LR_FACTOR, TABLE, TRAIN_TABLE, VIDEO, TrainConfig
from trainers.presets import PRESETS


def resolve_train_config(
    options: Mapping[str, Any],
    *,
    config_file: Path | None = None,
    environ: Mapping[str, str] = ENVIRONMENT,
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
    # What may be given several times is empty where it was not given.
    given = {name: value for name, value in options.items() if value is not None and value != ()}
    if unknown := sorted(set(given) - {*TABLE, *TRAIN_TABLE.also}):
        raise ConfigError(f"Unknown training option {unknown[0]!r}.")
    file = read_config_file(config_file, working_dir, TRAIN_TABLE)
    if {"algo", "preset"} & set(given):
        file = {name: value for name, value in file.items() if name not in ("algo", "preset")}
    if "reward" in file:  # as all paths of a file, from its folder
        folder = working_dir if config_file is None else config_file.parent
        file = {**file, "reward": tuple(str(folder / text) for text in file["reward"])}
    named = given
    given = {**file, **given, "data": _data_root(given, file, environ, working_dir)}
    algo = given.pop("algo", None)
    check_values({"algo": algo}, TABLE)
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
    template = DEFAULT_TEMPLATE if given.get("suite", "seedbench-r1") == "seedbench-r1" else EVERY_KIND_TEMPLATE
    template = load_template(Path(prompt_file), template) if prompt_file else template
    video = VideoConfig(**{name: given.pop(name) for name in sorted(VIDEO & set(given))})
    merged: dict[str, Any] = {**PRESETS[preset], **given}
    if merged.get("lora") and "learning_rate" not in given:
        full = merged.get("learning_rate", TrainConfig.__dataclass_fields__["learning_rate"].default)
        merged["learning_rate"] = round(LORA_LR_FACTOR * full, 15)  # 1e-05, not 9.999999999999999e-06
    config = validate(_with_importance_cap(TrainConfig(preset=preset, video=video, template=template, **merged)))
    _refuse_ignored(named, config)
    return config


def _data_root(
    given: Mapping[str, Any], file: Mapping[str, Any], environ: Mapping[str, str], working_dir: Path
) -> Path:
    """--data, SBR1_DATA_ROOT, the file's data and so on; for questions of one's own as in evaluation."""
    if (given.get("suite") or file.get("suite")) == "own":
        return own_root(given, file, root="data", questions="train_file", flag="--train-file")
    root = given.get("data")
    if root is None and not environ.get("SBR1_DATA_ROOT"):
        root = file.get("data")
    return find_data_root(root, environ, working_dir)


def _refuse_ignored(named: Mapping[str, Any], config: TrainConfig) -> None:
    """Raise ConfigError for a given option that would do nothing."""
    resolved = {name: getattr(config, name) for name in settings_of(TrainConfig)}
    chosen = {name: str(resolved[name]) for name in ("algo", "bonus", "reference", "rollouts")}
    chosen |= {"kl-on": config.kl_on, "suite": config.suite}
    chosen["num-iterations"] = "2 or more" if config.num_iterations > 1 else "1"
    refuse_strangers(named, TABLE, chosen)
    refuse_needless(named, TABLE, resolved)


def _with_importance_cap(config: TrainConfig) -> TrainConfig:
    """The cap that is meant where none was given: a number, so that it is a part of the run's identity."""
    if config.importance_cap is not None:
        return config
    corrected = config.rollouts == "vllm" and config.draws_from_the_policy
    return replace(config, importance_cap=IMPORTANCE_CAP if corrected else 0.0)


def validate(config: TrainConfig) -> TrainConfig:
    """Check types, ranges and what goes together; return the config. Raises ConfigError naming the option."""
    check_values({name: getattr(config, name) for name in settings_of(TrainConfig)}, TABLE)
    check_video(config.video)
    for name in TABLE:
        value = getattr(config.video if name in VIDEO else config, name, None)
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{TABLE[name].flag} is {value}, which is out of range: a finite number.")
    if config.max_steps == 0:
        raise ConfigError("--max-steps is 0, which is out of range: at least 1, or -1 for epochs.")
    _check_combinations(config)
    return config


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
    if config.suite == "video-r1" and config.train_file is None:
        raise ConfigError("--suite video-r1 has no file of a fixed name. Fix: --train-file Video-R1-260k.json")
    if config.kl_on != "all" and not config.penalises:
        weights = "--beta-think and --beta-answer, or --beta for both" if config.kl_on == "separate" else "--beta"
        raise ConfigError(f"--kl-on {config.kl_on} does nothing without a KL penalty. Fix: add {weights}.")
    if config.reference == "none" and (config.bonus != "none" or config.penalises):
        penalty = "--beta above 0" if config.beta > 0 else "--kl-on separate"
        needs = penalty if config.penalises else f"--bonus {config.bonus}"
        raise ConfigError(f"{needs} needs a reference model. Fix: --reference ema or --reference frozen.")
    if config.importance_cap and not config.draws_from_the_policy:
        raise ConfigError(
            f"--importance-cap {config.importance_cap:g} compares probabilities that vLLM records before temperature, "
            f"top-p and top-k. Fix: --importance-cap 0, or --temperature 1 --top-p 1 --top-k 0."
        )
    if config.group_chunk and config.max_packed_tokens:
        raise ConfigError("--group-chunk divides passes, --max-packed-tokens joins them. Fix: one of them alone.")
