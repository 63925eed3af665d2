"""Defaults < TOML file < environment < command line, into one frozen EvalConfig. Nothing else reads the environment.

The environment holds secrets and paths only: SBR1_DATA_ROOT, SBR1_RUNS_DIR and OPENAI_API_KEY here.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seedbench_r1.config_file import CONFIG_FILE, READERS, ConfigTable, read_config_file
from seedbench_r1.errors import ConfigError
from seedbench_r1.options import Option, Setting, check_values, refuse_needless, refuse_strangers, setting, settings_of
from seedbench_r1.prompts import DEFAULT_TEMPLATE, load_template
from seedbench_r1.protocol import protocol_id
from seedbench_r1.types import LEVELS, PIXELS, ApiVideo, SamplingConfig, Template, VideoConfig, to_json

PROTOCOLS: dict[str, dict[str, object]] = {
    "standard": {},  # GRPO-CARE's evaluation settings (its eval scripts at b0628fc), our own prompt
    "greedy": {"temperature": 0.0, "top_p": 1.0},
}

OPENAI_BASE_URL = "https://api.openai.com/v1"  # where API models are if --base-url is not given

DTYPES = ("auto", "float32", "bfloat16", "float16")
ATTENTIONS = ("auto", "sdpa", "flash")
ENGINES = ("local", "ray", "lmms-eval")
# Where lmms-eval looks for a model's name (its evaluation_tracker.py, 0.7.3)
LMMS_PATH_ARGUMENTS = ("pretrained", "model", "model_version", "model_name", "model_id", "path")
_OPENAI = ("backend openai:MODEL",)
_OWN_SUITE = ("suite seedbench-r1",)
OWN_FILES = ("suite own",)
MISSING: Any = dataclasses.MISSING

CUSTOM = "custom"  # what a protocol is called once an option departs from the named one

MODEL, DATA, RUNTIME, OUTPUT = "Model", "Data", "Runtime", "Output"
API, RAY, LMMS = "API (--backend openai:MODEL)", "Ray (--engine ray)", "lmms-eval"
GROUPS = (MODEL, DATA, PIXELS, RUNTIME, API, RAY, LMMS, OUTPUT)  # in the order of --help
_LOADED = ("backend transformers", "backend vllm")  # backends that load a checkpoint
_LMMS = ("engine lmms-eval", "suite transfer-lmms")
_HERE = ("engine local",)


@dataclass(frozen=True, slots=True)
class SuiteDefaults:
    """What a suite of questions brings along: its named protocols, the first being the default, and its wording."""

    protocols: Mapping[str, Mapping[str, object]]
    template: Template


SEEDBENCH = SuiteDefaults(PROTOCOLS, DEFAULT_TEMPLATE)


@dataclass(frozen=True, slots=True)
class EvalConfig:
    """Everything `eval` needs, resolved: defaults < TOML file < environment < command line."""

    video: VideoConfig
    sampling: SamplingConfig
    template: Template
    model: str = setting(MISSING, "Checkpoint folder, LoRA adapter folder or hub id.", MODEL)
    data_root: Path = setting(MISSING, "Folder of annotations/, videos/, images/.", DATA, env="SBR1_DATA_ROOT")
    base_model: str | None = setting(None, "Base of a LoRA adapter that does not name it.", MODEL, owners=_LOADED)
    revision: str | None = setting(None, "Branch, tag or commit of a hub id.", MODEL, owners=_LOADED)
    processor: str | None = setting(
        None, "Folder or hub id of tokenizer, chat template and processor files.", MODEL, owners=_LOADED
    )
    backend: str = setting("transformers", "transformers, vllm, openai:MODEL or fake.", MODEL)
    dtype: str = setting("auto", "Of the weights.", MODEL, choices=DTYPES, owners=(*_LOADED, *_LMMS))
    device: str = setting("auto", "auto, cuda, cuda:1, cpu.", MODEL, owners=("backend transformers", *_LMMS))
    attention: str = setting(
        "auto",
        "sdpa, or flash (package flash-attn, GPU, 16 bits); auto: flash where it can be.",
        MODEL,
        choices=ATTENTIONS,
        owners=("backend transformers",),
    )
    trust_remote_code: bool = setting(
        False, "Run programs that come with the checkpoint, for models that transformers lacks.", MODEL, owners=_LOADED
    )
    suite: str = setting("seedbench-r1", "seedbench-r1, own; general video benchmarks: transfer, transfer-lmms.", DATA)
    levels: tuple[str, ...] = setting(LEVELS, "L1,L2,L3 (default) or some of them.", DATA, owners=_OWN_SUITE)
    annotations: Path | None = setting(None, "Your own questions, same schema.", DATA, owners=_OWN_SUITE)
    transfer_files: Path | None = setting(
        None, "Folder of eval_*.json; default: Evaluation in the data root.", DATA, owners=("suite transfer",)
    )
    benchmarks: str | None = setting(
        None, "Some of vsibench,videommmu,mmvu,mvbench,... (default: all).", DATA, owners=("suite transfer",)
    )
    questions: Path | None = setting(None, "Your questions: a file or data set folder.", DATA, owners=OWN_FILES)
    map: str | None = setting(None, "Their columns: text=COLUMN,options=COLUMN,...", DATA, owners=OWN_FILES)
    splits: str | None = setting(None, "Some of their splits (default: all).", DATA, owners=OWN_FILES)
    free_media: bool = setting(False, "Their pictures may be shown: report pages carry some.", DATA, owners=OWN_FILES)
    limit: int | None = setting(None, "Ask only N, each group its share (SUBSET, unranked).", DATA, at_least=1)
    allow_missing: bool = setting(False, "Run although media files are absent (INCOMPLETE, unranked).", DATA)
    skip_bad_rows: bool = setting(False, "Leave out rows that cannot be used, counted (BAD ROWS).", DATA)
    protocol: str = setting("standard", "Named settings of this group; standard and greedy for SEED-Bench-R1.", PIXELS)
    engine: str = setting(
        "local", "How the run is carried out; lmms-eval: one of its models answers.", RUNTIME, choices=ENGINES
    )
    batch_size: int = setting(8, "Questions at once.", RUNTIME, at_least=1, owners=("backend transformers", *_LMMS))
    workers: int = setting(2, "Decoding processes.", RUNTIME, at_least=1)
    decode_timeout_s: float = setting(
        60.0, "Seconds before a stuck decoder is killed.", RUNTIME, flag="--decode-timeout", above=0
    )
    frame_cache: Path | None = setting(None, "Folder that keeps decoded frames for the next run.", RUNTIME)
    frame_cache_gb: float = setting(
        50.0, "Its limit in GB; what was used longest ago goes.", RUNTIME, above=0, needs="frame_cache"
    )
    tensor_parallel: int = setting(1, "GPUs that share one copy.", RUNTIME, at_least=1, owners=("backend vllm",))
    data_parallel: int = setting(
        1, "Processes, each with GPUs of its own; CPU: leave it at 1.", RUNTIME, at_least=1, owners=_HERE
    )
    max_in_flight: int = setting(128, "Generations at once.", RUNTIME, at_least=1, owners=("backend vllm",))
    gpu_memory_utilization: float = setting(
        0.9, "Share of each GPU's memory.", RUNTIME, above=0, at_most=1, owners=("backend vllm",)
    )
    max_model_len: int | None = setting(
        None, "Prompt and completion, tokens.", RUNTIME, at_least=1, owners=("backend vllm",)
    )
    shard: tuple[int, int] | None = setting(None, "i/n: this process answers part i of n.", RUNTIME, owners=_HERE)
    samples: int = setting(1, "Of each question, from --seed on.", RUNTIME, at_least=1, at_most=250, owners=_HERE)
    seeds: tuple[int, ...] = setting((), "0,1,2: a sample of each question with each.", RUNTIME, owners=_HERE)
    retry_errors: bool = setting(True, "Ask failed questions again.", RUNTIME, negatable=True)
    max_error_rate: float = setting(
        0.0, "Share of failed questions that still exits 0.", RUNTIME, at_least=0, at_most=1
    )
    base_url: str | None = setting(None, "Server, e.g. http://localhost:8000/v1.", API, owners=_OPENAI)
    concurrency: int = setting(16, "Requests in flight.", API, at_least=1, owners=_OPENAI)
    api_video: ApiVideo = setting(
        "images", "Frames as images, or as one video in vLLM's form (another protocol id).", API, owners=_OPENAI
    )
    api_timeout_s: float = setting(120.0, "Seconds for one try.", API, flag="--api-timeout", above=0, owners=_OPENAI)
    api_tries: int = setting(6, "Tries before a question counts as failed.", API, at_least=1, owners=_OPENAI)
    max_completion_tokens: bool = setting(
        False, "Send the token limit under this name, not as max_tokens.", API, owners=_OPENAI
    )
    price_in: float | None = setting(
        None, "Per million prompt tokens: shows the cost.", API, at_least=0, owners=_OPENAI
    )
    price_out: float | None = setting(None, "Per million generated tokens.", API, at_least=0, owners=_OPENAI)
    max_cost: float | None = setting(
        None, "Stop before this call has cost more; in the currency of the prices.", API, at_least=0, owners=_OPENAI
    )
    ray_workers: int | None = setting(
        None, "One for each GPU of the cluster, or 1 without GPUs.", RAY, owners=("engine ray",)
    )
    ray_address: str | None = setting(
        None, "Running cluster, HOST:PORT or auto; default: one of our own.", RAY, owners=("engine ray",)
    )
    lmms_model: str | None = setting(None, "lmms-eval's name of the model.", LMMS, owners=_LMMS)
    lmms_model_args: str | None = setting(None, "Its --model_args.", LMMS, owners=_LMMS)
    runs_dir: Path = setting(Path("runs"), "Where run directories go.", OUTPUT, env="SBR1_RUNS_DIR")
    run_name: str | None = setting(None, "Instead of <model>--<protocol id>.", OUTPUT)
    fresh: bool = setting(False, "Start anew; the old files move aside.", OUTPUT)

    @property
    def sampled_seeds(self) -> tuple[int, ...]:
        """The seeds of a run of several samples of each question; () for one answer to each."""
        first = self.sampling.seed
        return self.seeds or (tuple(range(first, first + self.samples)) if self.samples > 1 else ())


PROMPT_FILE = Option("Your wording, as TOML.", PIXELS)
TABLE = settings_of(EvalConfig, VideoConfig, SamplingConfig, Template) | {
    "prompt_file": Setting("prompt_file", Path, None, PROMPT_FILE)
}


EVAL_TABLE = ConfigTable("eval", TABLE, frozenset({"size_multiple", "preprocess"}), top_level=True)
_VIDEO = {f.name for f in dataclasses.fields(VideoConfig)}
_SAMPLING = {f.name for f in dataclasses.fields(SamplingConfig)} - {"n", "logprobs"}


def resolve_eval_config(
    options: Mapping[str, Any],
    *,
    config_file: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    working_dir: Path = Path(),
    defaults: SuiteDefaults = SEEDBENCH,
) -> EvalConfig:
    """Merge the four sources into an EvalConfig.

    Args:
        options: the command line's values by name; None means "not given".
        config_file: TOML with the same names at its top level or under [eval]; by default ./seedbench-r1.toml, if any.
        environ: where the variables of the table's paths are looked up.
        working_dir: where the default file is looked for.
        defaults: of the suite; suites.resolve() finds it by name.

    Raises:
        ConfigError: an unknown key, a value of the wrong type or range, an option of a backend, engine or suite that
            was not chosen, no model, no data root.
    """
    file = read_config_file(config_file, working_dir, EVAL_TABLE)
    # The command line says None for what was not typed.
    given = {
        name: READERS[name](value) if name in READERS else value for name, value in options.items() if value is not None
    }
    named = {
        name: Path(environ[row.option.env])
        for name, row in TABLE.items()
        if row.option.env is not None and environ.get(row.option.env)
    }
    protocol = given.get("protocol", file.get("protocol", next(iter(defaults.protocols))))
    if protocol not in defaults.protocols:
        raise ConfigError(f"No protocol {protocol!r}. There are: {', '.join(defaults.protocols)}.")
    preset = defaults.protocols[protocol]
    merged = {**preset, **file, **named, **given, "protocol": protocol}
    # These two read the model out of other options, before it is asked whether there is one.
    _name_api_model(merged, given)
    _name_lmms_model(merged)
    if not merged.get("model"):
        raise ConfigError("No model given. Fix: seedbench-r1 eval --model PATH_OR_HUB_ID.")
    # An unknown engine would otherwise be reported as the owner of no option.
    check_values({"engine": merged.get("engine")}, TABLE)
    _refuse_ignored(given, file, merged)
    merged["data_root"] = merged.get("data_root") or find_data_root(None, environ, working_dir)
    prompt_file = merged.pop("prompt_file", None)
    template = load_template(Path(prompt_file), defaults.template) if prompt_file else defaults.template
    template = dataclasses.replace(template, thinking=merged.pop("thinking", "auto"))
    video = VideoConfig(**{name: merged.pop(name) for name in sorted(_VIDEO & set(merged))})
    sampling = SamplingConfig(**{name: merged.pop(name) for name in sorted(_SAMPLING & set(merged))})
    named_video = VideoConfig(**{name: value for name, value in preset.items() if name in _VIDEO})  # type: ignore[arg-type]
    named_sampling = SamplingConfig(**{name: value for name, value in preset.items() if name in _SAMPLING})  # type: ignore[arg-type]
    # A protocol's name stands for its numbers: one changed, and the name is no longer true.
    # The patch grid follows from the checkpoint and is nobody's choice.
    named_video = dataclasses.replace(named_video, size_multiple=video.size_multiple)
    if protocol_id(template, video, sampling) != protocol_id(defaults.template, named_video, named_sampling):
        merged["protocol"] = CUSTOM
    config = EvalConfig(video=video, sampling=sampling, template=template, **merged)
    return validate(config)


def _refuse_ignored(given: Mapping[str, Any], file: Mapping[str, Any], merged: Mapping[str, Any]) -> None:
    """Raise ConfigError for an option that would be ignored.

    The command line's options are held against what was chosen altogether; the file's also against its own choices: a
    file written for vLLM may be tried with --backend fake.
    """
    chosen, of_file = _chosen(merged), _chosen(file)
    refuse_strangers(given, TABLE, chosen)
    refuse_strangers(file, TABLE, of_file, also=chosen)
    refuse_needless({**file, **given}, TABLE, merged)


def _chosen(settings: Mapping[str, Any]) -> dict[str, str]:
    defaults = {"backend": "transformers", "engine": "local", "suite": "seedbench-r1"}
    chosen = {kind: str(settings.get(kind, default)).partition(":")[0] for kind, default in defaults.items()}
    # This suite has no other engine, so its user need not name one.
    if chosen["suite"] == "transfer-lmms":
        chosen["engine"] = "lmms-eval"
    return chosen


def settings(config: EvalConfig) -> dict[str, Any]:
    """What makes this config, by name, without the wording: pixels and sampling, and the rest where it is no default.

    The inverse of resolve_eval_config, which refuses even the default of an option whose owner was not chosen.
    """
    flat = {name: getattr(config, name) for name in settings_of(EvalConfig)}
    flat = {name: value for name, value in flat.items() if value != TABLE[name].default}
    flat |= {name: getattr(config.video, name) for name in _VIDEO}
    flat |= {name: getattr(config.sampling, name) for name in _SAMPLING}
    if config.template.thinking != "auto":
        flat["thinking"] = config.template.thinking
    if config.protocol == CUSTOM:
        del flat["protocol"]  # what makes it so is among the settings
    if config.backend == "openai":
        flat["backend"] = f"openai:{config.model}"
    return flat


def _name_api_model(settings: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Split a backend of the form "openai:MODEL", in place. Raises ConfigError for what does not go together."""
    backend, colon, model = str(settings.get("backend", "")).partition(":")
    if backend != "openai":
        return
    if colon and model and given.get("model") not in (None, model):
        raise ConfigError(f"--backend openai:{model} names the model already. Fix: leave --model out.")
    # A checkpoint in the file is not what an --backend openai on the command line means.
    named = given.get("model") if "backend" in given else settings.get("model")
    settings["backend"], settings["model"] = "openai", model or named
    if not settings["model"]:
        raise ConfigError("--backend openai names no model. Fix: --backend openai:MODEL.")


def lmms_checkpoint(args: str) -> str | None:
    """The checkpoint that lmms-eval's --model_args name; None if they name none."""
    given = dict(pair.partition("=")[::2] for pair in args.split(",") if pair)
    return next((given[name] for name in LMMS_PATH_ARGUMENTS if given.get(name)), None)


def _name_lmms_model(settings: dict[str, Any]) -> None:
    """In place: --model may be left out where lmms-eval's arguments name the checkpoint, or there is none (an API)."""
    if settings.get("lmms_model") and not settings.get("model"):
        settings["model"] = lmms_checkpoint(settings.get("lmms_model_args") or "") or settings["lmms_model"]


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
    return read_config_file(None, working_dir, EVAL_TABLE).get("data_root")


def validate(config: EvalConfig) -> EvalConfig:
    """Check types and ranges; return the config. Raises ConfigError naming the option and its range."""
    check_values({name: getattr(config, name) for name in settings_of(EvalConfig)}, TABLE)
    check_values({name: getattr(config.sampling, name) for name in _SAMPLING}, TABLE)
    check_values({"thinking": config.template.thinking}, TABLE)
    check_video(config.video)
    if config.seeds and config.samples > 1:
        raise ConfigError("--seeds says how many samples there are. Fix: leave out --samples.")
    if config.sampled_seeds and config.sampling.temperature == 0:
        raise ConfigError("At --temperature 0 all samples are the same answer. Fix: --temperature 1 --top-p 1.")
    _check_api(config)
    return config


def check_video(video: VideoConfig) -> None:
    """Raises ConfigError naming the option whose type or range is wrong."""
    check_values(to_json(video), settings_of(VideoConfig))
    if not isinstance(video.size_multiple, int) or video.size_multiple < 1:
        raise ConfigError(f"size_multiple is {video.size_multiple!r}, expected a whole number of pixels.")
    for low, high in (
        ("min_frames", "max_frames"),
        ("min_pixels", "max_pixels"),
        ("image_min_pixels", "image_max_pixels"),
    ):
        if getattr(video, low) > getattr(video, high):
            flag, limit = f"--{low.replace('_', '-')}", f"--{high.replace('_', '-')}"
            raise ConfigError(
                f"{flag} is {getattr(video, low)}, which is out of range: at most {limit}, {getattr(video, high)}."
            )


def _check_api(config: EvalConfig) -> None:
    if config.max_cost is not None and (config.price_in is None or config.price_out is None):
        raise ConfigError("--max-cost needs prices. Fix: add --price-in and --price-out, per million tokens.")
    if config.base_url is None:
        return
    if any(mark in config.base_url for mark in "@?#"):
        raise ConfigError("--base-url must hold no key or password: it is kept with the run. Fix: use OPENAI_API_KEY.")
    if not re.fullmatch(r"https?://([\w.-]+|\[[0-9a-fA-F:]+\])(:\d+)?(/\S*)?", config.base_url):
        raise ConfigError(f"--base-url is {config.base_url!r}. Expected something like http://localhost:8000/v1.")
