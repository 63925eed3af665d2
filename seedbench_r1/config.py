"""Defaults < TOML file < environment < command line, into one frozen EvalConfig. Nothing else reads the environment.

The environment holds secrets and paths only: SBR1_DATA_ROOT, SBR1_RUNS_DIR and OPENAI_API_KEY here.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seedbench_r1.errors import ConfigError
from seedbench_r1.parsing import PARSER_VERSION
from seedbench_r1.prompts import DEFAULT_TEMPLATE, load_template
from seedbench_r1.types import LEVELS, EvalConfig, SamplingConfig, Template, VideoConfig, to_json

CONFIG_FILE = "seedbench-r1.toml"

PROTOCOLS: dict[str, dict[str, Any]] = {
    "standard": {},  # GRPO-CARE's evaluation settings (its eval scripts at b0628fc), our own prompt
    "greedy": {"temperature": 0.0, "top_p": 1.0},
}

OPENAI_BASE_URL = "https://api.openai.com/v1"  # where API models are if --base-url is not given

CUSTOM = "custom"  # what a protocol is called once an option departs from the named one


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a suite of questions brings along: its named protocols, the first being the default, and its wording."""

    protocols: Mapping[str, Mapping[str, Any]]
    template: Any  # Template; the transfer suite's has another class
    load_template: Callable[[Path], Any]  # reads --prompt-file


SEEDBENCH = Defaults(PROTOCOLS, DEFAULT_TEMPLATE, load_template)


@dataclass(frozen=True, slots=True)
class Section:
    """A command's table in the config file."""

    name: str
    keys: frozenset[str]
    paths: frozenset[str]  # those of the keys whose relative values are taken from the file's folder
    top_level: bool = False  # keys above all tables are its own too


_VIDEO = {f.name for f in dataclasses.fields(VideoConfig)}
_SAMPLING = {f.name for f in dataclasses.fields(SamplingConfig)} - {"n", "logprobs"}
_PATHS = {"data_root", "annotations", "runs_dir", "prompt_file", "frame_cache"}
_EVAL = {f.name for f in dataclasses.fields(EvalConfig)} - {"video", "sampling", "template"} | {"prompt_file"}
EVAL_SECTION = Section("eval", frozenset(_EVAL | _VIDEO | _SAMPLING), frozenset(_PATHS), top_level=True)
_ENVIRONMENT = {"data_root": "SBR1_DATA_ROOT", "runs_dir": "SBR1_RUNS_DIR"}


def protocol_id(
    template: Template,
    video: VideoConfig,
    sampling: SamplingConfig,
    transport: Mapping[str, Any] | None = None,
    scorer: int | None = None,
) -> str:
    """First 8 hex digits of the hash of all that can change a number, but for the model, the data and the seed.

    transport: how pixels travel to an API model; None where they do not travel.
    scorer: version of the transfer suite's scores; None for SEED-Bench-R1, whose parser says it all.
    """
    sampled = to_json(sampling)
    for name in ("seed", "logprobs"):
        del sampled[name]
    parts = {"template": to_json(template), "video": to_json(video), "sampling": sampled, "parser": PARSER_VERSION}
    if transport is not None:
        parts["transport"] = dict(transport)
    if scorer is not None:
        parts["scorer"] = scorer
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]


def resolve_eval_config(
    options: Mapping[str, Any],
    *,
    config_file: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    working_dir: Path = Path(),
    defaults: Defaults = SEEDBENCH,
) -> EvalConfig:
    """Merge the four sources into an EvalConfig.

    Args:
        options: the command line's values by name; None means "not given".
        config_file: TOML with the same names at its top level or under [eval]; by default ./seedbench-r1.toml, if any.

    Raises:
        ConfigError: an unknown key, a value of the wrong type or range, no model, no data root.
    """
    file = read_config_file(config_file, working_dir)
    given = {name: value for name, value in options.items() if value is not None}
    named = {key: Path(environ[variable]) for key, variable in _ENVIRONMENT.items() if environ.get(variable)}
    protocol = given.get("protocol", file.get("protocol", next(iter(defaults.protocols))))
    if protocol not in defaults.protocols:
        raise ConfigError(f"No protocol {protocol!r}. There are: {', '.join(defaults.protocols)}.")
    preset = defaults.protocols[protocol]
    merged = {**preset, **file, **named, **given, "protocol": protocol}
    merged["data_root"] = merged.get("data_root") or find_data_root(None, environ, working_dir)
    _name_api_model(merged, given)
    if not merged.get("model"):
        raise ConfigError("No model given. Fix: seedbench-r1 eval --model PATH_OR_HUB_ID.")
    prompt_file = merged.pop("prompt_file", None)
    template = defaults.load_template(Path(prompt_file)) if prompt_file else defaults.template
    video = VideoConfig(**{name: merged.pop(name) for name in sorted(_VIDEO & set(merged))})
    sampling = SamplingConfig(**{name: merged.pop(name) for name in sorted(_SAMPLING & set(merged))})
    named_video = VideoConfig(**{name: value for name, value in preset.items() if name in _VIDEO})
    named_sampling = SamplingConfig(**{name: value for name, value in preset.items() if name in _SAMPLING})
    if protocol_id(template, video, sampling) != protocol_id(defaults.template, named_video, named_sampling):
        merged["protocol"] = CUSTOM
    config = EvalConfig(video=video, sampling=sampling, template=template, **merged)
    return validate(config)


def _name_api_model(settings: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Split a backend of the form "openai:MODEL", in place. Raises ConfigError for what does not go together."""
    backend, colon, model = str(settings.get("backend", "")).partition(":")
    if backend != "openai":
        if given.get("base_url"):
            raise ConfigError("--base-url is for API models. Fix: add --backend openai:MODEL.")
        return
    if colon and model and given.get("model") not in (None, model):
        raise ConfigError(f"--backend openai:{model} names the model already. Fix: leave --model out.")
    settings["backend"], settings["model"] = "openai", model or given.get("model")
    if not settings["model"]:
        raise ConfigError("--backend openai names no model. Fix: --backend openai:MODEL.")


def set_environment_defaults(defaults: Mapping[str, str]) -> None:
    """For libraries that read their settings from the environment only; what the user has set stays."""
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def child_environment(changes: Mapping[str, str], environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of a process of ours: this one's, with changes."""
    return {**environ, **changes}


def environment_value(name: str, default: str) -> str:
    """A variable of another tool that its library leaves to its callers to read."""
    return os.environ.get(name) or default


def api_key(base_url: str | None, environ: Mapping[str, str] = os.environ) -> str:
    """OPENAI_API_KEY. Raises ConfigError with the line to type if it is not set."""
    key = environ.get("OPENAI_API_KEY", "").strip()
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError("OPENAI_API_KEY holds a space or a character that no key has. Fix: export it again.")
    if key:
        return key
    if base_url is None:
        raise ConfigError("API models need a key. Fix: export OPENAI_API_KEY=YOUR_KEY")
    raise ConfigError(
        f"API models need a key, and OPENAI_API_KEY is not set. Fix: export OPENAI_API_KEY=none  if the server at "
        f"{base_url} asks for no key, else  export OPENAI_API_KEY=YOUR_KEY"
    )


def find_data_root(given: Path | None, environ: Mapping[str, str] = os.environ, working_dir: Path = Path()) -> Path:
    """--data-root, SBR1_DATA_ROOT, the config file, ./data: the first there is. Raises ConfigError if none is."""
    found = given or configured_data_root(environ, working_dir)
    if found is not None:
        return found
    if (working_dir / "data" / "annotations").is_dir():
        return working_dir / "data"
    raise ConfigError(
        f"Data root not set. Looked at --data-root, SBR1_DATA_ROOT, {CONFIG_FILE}, ./data. "
        f"Fix: seedbench-r1 data download --to /big/disk  or  --data-root DIR  or  export SBR1_DATA_ROOT=DIR, where "
        f"DIR holds annotations/, videos/ and images/."
    )


def configured_data_root(environ: Mapping[str, str] = os.environ, working_dir: Path = Path()) -> Path | None:
    """SBR1_DATA_ROOT, else data_root of the config file, else None. The folder need not exist."""
    if environ.get("SBR1_DATA_ROOT"):
        return Path(environ["SBR1_DATA_ROOT"])
    return read_config_file(None, working_dir).get("data_root")


def read_config_file(path: Path | None, working_dir: Path, section: Section = EVAL_SECTION) -> dict[str, Any]:
    """The section's settings, with relative paths taken from the file's folder. {} if there is no file.

    Raises ConfigError: not readable, not TOML, an unknown key, or a named file without the section's settings.
    """
    chosen = path or working_dir / CONFIG_FILE
    if path is None and not chosen.is_file():
        return {}
    try:
        table = tomllib.loads(chosen.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Config file {chosen} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"Config file {chosen} is not valid TOML: {error}.") from error
    above = {name: value for name, value in table.items() if not isinstance(value, dict)}
    own = table.get(section.name, {})
    if not isinstance(own, dict) or (path and not section.top_level and section.name not in table):
        raise ConfigError(f"{chosen} has no table [{section.name}]. Fix: put the settings under [{section.name}].")
    settings: dict[str, Any] = {}
    for key, value in ({**above, **own} if section.top_level else own).items():
        name = _known_key(key, chosen, section)
        if name in section.paths and not isinstance(value, str):
            raise ConfigError(f"{chosen}: {key} is {value!r}, expected a path as text.")
        settings[name] = chosen.parent / value if name in section.paths else value
    if "levels" in settings:
        settings["levels"] = parse_levels(settings["levels"])
    return settings


def _known_key(key: str, file: Path, section: Section) -> str:
    """The key as an option's name. Raises ConfigError naming the nearest one."""
    name = key.replace("-", "_")
    if name in section.keys:
        return name
    nearest = difflib.get_close_matches(name, section.keys, n=1)
    meant = f" Did you mean {nearest[0]!r}?" if nearest else ""
    known = ", ".join(sorted(section.keys))
    raise ConfigError(f"{file}: unknown key {key!r} of [{section.name}].{meant} Known: {known}.")


def parse_levels(value: str | list[str] | tuple[str, ...]) -> tuple[str, ...]:
    """ "L1,L3" or ["L1", "L3"] in the order of the benchmark. Raises ConfigError for anything else."""
    names = value.split(",") if isinstance(value, str) else list(value)
    wanted = {name.strip().upper() for name in names if name.strip()}
    unknown = sorted(wanted - set(LEVELS))
    if unknown or not wanted:
        raise ConfigError(f"--levels {value!r} is not understood. Give one or more of {','.join(LEVELS)}.")
    return tuple(level for level in LEVELS if level in wanted)


def parse_shard(value: str) -> tuple[int, int]:
    """ "2/8" -> (2, 8). Raises ConfigError unless 1 <= i <= n."""
    first, _, second = value.partition("/")
    if first.isdigit() and second.isdigit() and 1 <= int(first) <= int(second):
        return int(first), int(second)
    raise ConfigError(f"--shard {value!r} is not understood. Give i/n with 1 <= i <= n, e.g. 2/8.")


def validate(config: EvalConfig) -> EvalConfig:
    """Check types and ranges; return the config. Raises ConfigError naming the option."""
    check_types(config)
    check_types(config.sampling)
    check_video(config.video)
    sampling = config.sampling
    bounds = {
        "temperature": sampling.temperature >= 0,
        "top_p": 0 < sampling.top_p <= 1,
        "top_k": sampling.top_k >= 0,
        "repetition_penalty": sampling.repetition_penalty > 0,
        "max_new_tokens": sampling.max_new_tokens >= 1,
        "batch_size": config.batch_size >= 1,
        "workers": config.workers >= 1,
        "decode_timeout_s": config.decode_timeout_s > 0,
        "frame_cache_gb": config.frame_cache_gb > 0,
        "tensor_parallel": config.tensor_parallel >= 1,
        "data_parallel": config.data_parallel >= 1,
        "max_in_flight": config.max_in_flight >= 1,
        "gpu_memory_utilization": 0 < config.gpu_memory_utilization <= 1,
        "max_model_len": config.max_model_len is None or config.max_model_len >= 1,
        "limit": config.limit is None or config.limit >= 1,
        "max_error_rate": 0 <= config.max_error_rate <= 1,
        "dtype": config.dtype in ("auto", "float32", "bfloat16", "float16"),
        "concurrency": config.concurrency >= 1,
        "api_video": config.api_video in ("images", "video"),
        "api_timeout_s": config.api_timeout_s > 0,
        "api_tries": config.api_tries >= 1,
        "price_in": config.price_in is None or config.price_in >= 0,
        "price_out": config.price_out is None or config.price_out >= 0,
        "max_cost": config.max_cost is None or config.max_cost >= 0,
    }
    check_bounds(bounds, config, sampling)
    _check_api(config)
    return config


def check_video(video: VideoConfig) -> None:
    """Raises ConfigError naming the option whose type or range is wrong."""
    check_types(video)
    bounds = {
        "fps": video.fps > 0,
        "max_frames": video.max_frames >= 2,
        "min_frames": 2 <= video.min_frames <= video.max_frames,
        "min_pixels": 0 < video.min_pixels <= video.max_pixels,
        "image_min_pixels": 0 < video.image_min_pixels <= video.image_max_pixels,
        "size_multiple": video.size_multiple >= 1,
        "reader": video.reader in ("decord", "pyav", "torchcodec"),
    }
    check_bounds(bounds, video)


def check_bounds(bounds: Mapping[str, bool], *parts: Any) -> None:
    """Raises ConfigError for the first name that does not hold, with its value in the part that has it."""
    for name, holds in bounds.items():
        if not holds:
            value = next(getattr(part, name) for part in parts if hasattr(part, name))
            raise ConfigError(f"--{name.replace('_', '-')} is {value!r}, which is out of range.")


def _check_api(config: EvalConfig) -> None:
    if config.max_cost is not None and (config.price_in is None or config.price_out is None):
        raise ConfigError("--max-cost needs prices. Fix: add --price-in and --price-out, per million tokens.")
    if config.base_url is None:
        return
    if any(mark in config.base_url for mark in "@?#"):
        raise ConfigError("--base-url must hold no key or password: it is kept with the run. Fix: use OPENAI_API_KEY.")
    if not re.fullmatch(r"https?://([\w.-]+|\[[0-9a-fA-F:]+\])(:\d+)?(/\S*)?", config.base_url):
        raise ConfigError(f"--base-url is {config.base_url!r}. Expected something like http://localhost:8000/v1.")


def check_types(part: Any) -> None:
    """Numbers, flags and texts of a config dataclass. Raises ConfigError naming the field."""
    for field in dataclasses.fields(part):
        _check_type(field.name, getattr(part, field.name), str(field.type))


def _check_type(name: str, value: object, declared: str) -> None:
    kinds: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}
    expected = kinds.get(declared.removesuffix(" | None"))
    if expected is None or (value is None and declared.endswith("None")):
        return
    if not isinstance(value, expected) or (isinstance(value, bool) and declared != "bool"):
        raise ConfigError(f"{name} is {value!r}, expected {declared}.")
