"""Which probes are carried out, and on which model: the settings of `probe`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seedbench_r1.config import MODEL, RUNTIME
from seedbench_r1.config import TABLE as EVAL_TABLE
from seedbench_r1.config_file import ConfigTable, read_config_file
from seedbench_r1.errors import ConfigError
from seedbench_r1.options import check_values, refuse_needless, refuse_strangers, setting, settings_of
from seedbench_r1.runs.probes import KINDS

PROBES, LIMITS = "Probes", "Limits"
BACKENDS = ("transformers", "vllm")  # those that continue a prefix
TEXT_MODELS = ("openai:MODEL", "local:PATH")
# Of eval's settings, those that say how a model is loaded and clips are decoded
_LOADING = ("base_model", "revision", "processor", "dtype", "device", "attention", "trust_remote_code")
_RUNNING = ("batch_size", "workers", "decode_timeout_s", "frame_cache", "frame_cache_gb")
_VLLM = ("tensor_parallel", "max_in_flight", "gpu_memory_utilization", "max_model_len")
_OF_EVAL = (*_LOADING, *_RUNNING, *_VLLM)


@dataclass(frozen=True, slots=True)
class ProbeConfig:
    """What `probe` needs besides the runs: defaults < [probe] of the TOML file < command line."""

    probes: str = setting(",".join(KINDS), "Which, joined by commas.", PROBES)
    under: str | None = setting(
        None, "Probe forced under this model, e.g. the base model, instead of the run's own.", PROBES
    )
    text_model: str | None = setting(
        None, f"Of text-match, instead of the run's own without its media: {' or '.join(TEXT_MODELS)}.", PROBES
    )
    text_base_url: str | None = setting(None, "OpenAI-compatible server of --text-model.", PROBES, needs="text_model")
    rollouts: int = setting(
        4,
        "Completions drawn for each question that probe swapped chooses from; 0: rewrite by rule.",
        PROBES,
        at_least=0,
    )
    model: str | None = setting(None, "Where the run's model is now, if not where it was.", MODEL)
    backend: str | None = setting(None, "Default: the run's own backend.", MODEL, choices=BACKENDS)
    limit: int | None = setting(None, "New results per run and probe.", LIMITS, at_least=1)
    seed: int = setting(0, "Of orders, rollouts and rewritten conclusions.", LIMITS)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The probes asked for, in their own order."""
        wanted = {name.strip() for name in self.probes.split(",") if name.strip()}
        return tuple(name for name in KINDS if name in wanted)


_OWN = settings_of(ProbeConfig)
TABLE = _OWN | {name: EVAL_TABLE[name] for name in _OF_EVAL}
PROBE_TABLE = ConfigTable("probe", TABLE)
GROUPS = (PROBES, MODEL, RUNTIME, LIMITS)


@dataclass(frozen=True, slots=True)
class ProbeSettings:
    """Both halves: what is probed, and eval's settings of loading and decoding that were given."""

    config: ProbeConfig
    loading: dict[str, Any]


def resolve_probe_config(options: Mapping[str, Any], *, config_file: Path | None = None) -> ProbeSettings:
    """Merge the sources. Raises ConfigError: an unknown probe or key, a value out of range, an option without use.

    Args:
        options: the command line's values by name; None means "not given".
        config_file: TOML with the same names under [probe]; by default ./seedbench-r1.toml, if any.
    """
    given = {name: value for name, value in options.items() if value is not None}
    merged = {**read_config_file(config_file, Path(), PROBE_TABLE), **given}
    config = ProbeConfig(**{name: value for name, value in merged.items() if name in _OWN})
    unknown = [name for name in map(str.strip, config.probes.split(",")) if name and name not in KINDS]
    if unknown or not config.kinds:
        raise ConfigError(f"--probes {config.probes!r}: no probe {unknown or 'named'}. There are: {', '.join(KINDS)}.")
    _refuse_useless(config, given)
    check_values(merged, TABLE)
    refuse_needless(given, TABLE, merged)
    if config.backend is not None:
        refuse_strangers(given, TABLE, {"backend": config.backend, "engine": "local"})
    return ProbeSettings(config, {name: value for name, value in merged.items() if name in _OF_EVAL})


def _refuse_useless(config: ProbeConfig, given: Mapping[str, Any]) -> None:
    for name, kind in (("under", "forced"), ("text_model", "text-match"), ("rollouts", "swapped")):
        if name in given and kind not in config.kinds:
            raise ConfigError(f"{TABLE[name].flag} belongs to probe {kind}. Fix: leave it out, or add {kind}.")
    if config.text_model is not None and config.text_model.partition(":")[0] not in ("openai", "local"):
        raise ConfigError(f"No text model {config.text_model!r}. There are: {', '.join(TEXT_MODELS)}.")
    if config.text_base_url is not None and not str(config.text_model).startswith("openai:"):
        raise ConfigError("--text-base-url belongs to --text-model openai:MODEL. Fix: leave it out.")
