"""A plan: everything that can be known before a model is loaded."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from seedbench_r1.backends import identify_model
from seedbench_r1.backends.openai import transport
from seedbench_r1.config import ENGINES, EvalConfig
from seedbench_r1.engines import lmms
from seedbench_r1.engines.base import Engine, Plan, RunProtocol
from seedbench_r1.engines.local import LocalEngine
from seedbench_r1.engines.preflight import check_prompts
from seedbench_r1.engines.shards import ShardsEngine
from seedbench_r1.errors import ConfigError, DataError
from seedbench_r1.files import make_folder, utc_now, write_text
from seedbench_r1.kinds import SCORER_VERSION
from seedbench_r1.media.decode import check_reader
from seedbench_r1.media.layout import in_another_case
from seedbench_r1.models.checkpoint import Checkpoint
from seedbench_r1.packed import Texts
from seedbench_r1.parsing import PARSER_VERSION
from seedbench_r1.protocol import protocol_id
from seedbench_r1.questions import choose_subset
from seedbench_r1.runs.directory import run_directory, slug
from seedbench_r1.runs.records import SCHEMA
from seedbench_r1.suites import find_suite
from seedbench_r1.suites.base import Questions, Suite
from seedbench_r1.types import ModelInfo, Question, RunManifest

log = logging.getLogger(__name__)


def open_engine(config: EvalConfig) -> Engine:
    """The engine of a run, not yet started. Raises ConfigError with the list for an unknown one."""
    match config.engine:
        case "local" if config.data_parallel > 1:
            return ShardsEngine()
        case "local":
            return LocalEngine()
        case "ray":
            from seedbench_r1.engines.ray import RayEngine

            return RayEngine(config)
        case "lmms-eval":
            return lmms.LmmsEngine()
        case _:
            raise ConfigError(f"No engine {config.engine!r}. There are: {', '.join(ENGINES)}.")


def plan(config: EvalConfig, *, command: str = "") -> Plan:
    """Read questions and checkpoint, choose the run directory, look for absent media. Loads no model.

    Raises:
        ConfigError: no such model, --size-multiple does not fit it, the video reader is not installed, or the engine
            cannot carry this out.
        DataError: invalid questions; absent media unless config.allow_missing (the list is in missing.txt).
    """
    suite = find_suite(config.suite)
    # The engine is asked first: it costs nothing, and what it refuses no data set can mend.
    open_engine(config).check(config, suite)
    questions = suite.load(config)
    for split, bad in questions.bad_rows.items():
        if bad.messages:
            log.warning("%d rows of %s are left out: %s", len(bad.messages), questions.files[split], bad.messages[0])
    for note in questions.notes:
        log.warning("%s", note)
    # Such a model chooses frames and pixels itself, so our video settings say nothing about its runs.
    if lmms.loads_the_model(config):
        checkpoint, info = lmms.identify_model(config)
        protocol = lmms.protocol_of(config)
    else:
        # Before the checkpoint is read, which takes seconds from a network disk.
        check_reader(config.video.reader)
        checkpoint, info = identify_model(config)
        if checkpoint is not None:
            config = _loadable(fit_to_model(config, checkpoint), checkpoint)
        protocol = _protocol(config, suite)
    # What no later question can mend is found out now, not once for each of them.
    if checkpoint is not None and not lmms.loads_the_model(config):
        check_prompts(config, checkpoint, questions.all())
    manifest = _manifest(config, suite, questions, info, protocol, command)
    # Files of one's own are many: each has run directories of its own.
    of_file = "" if config.questions is None else f"{slug(config.questions.stem)}-"
    prefix = protocol.path_prefix + of_file
    several = "--samples" if config.sampled_seeds else ""
    path = run_directory(
        config.runs_dir, info.name + protocol.model_suffix, prefix + protocol.protocol_id + several, config.run_name
    )
    asked = questions.all()
    if config.limit is not None:
        # A subset is drawn by the seed, so that every shard and every later call draws the same.
        asked = choose_subset(asked, config.limit, seed=config.sampling.seed)
    missing = _missing(asked)
    if missing and not config.allow_missing:
        raise _missing_error(path, missing, asked, config, suite)
    return Plan(config, path, manifest, asked, missing, checkpoint, suite)


def _protocol(config: EvalConfig, suite: Suite) -> RunProtocol:
    # How a server got the clip changes what the model saw, and so belongs into the protocol id.
    sent = transport(config.api_video) if config.backend == "openai" else None
    identity = protocol_id(config.template, config.video, config.sampling, sent, suite.scorer)
    protocol = RunProtocol(config.protocol, identity, config.backend, suite.path_prefix, transport=sent)
    return lmms.under_lmms_eval(protocol) if config.engine == "lmms-eval" else protocol


def _manifest(
    config: EvalConfig, suite: Suite, questions: Questions, info: ModelInfo, protocol: RunProtocol, command: str
) -> RunManifest:
    return RunManifest(
        schema=SCHEMA,
        suite=suite.name,
        protocol=protocol.name,
        protocol_id=protocol.protocol_id,
        template=config.template,
        video=config.video,
        sampling=config.sampling,
        parser_version=PARSER_VERSION,
        n_total=suite.split_sizes(questions),
        bad_rows={split: n for split, bad in questions.bad_rows.items() if (n := len(bad.messages))},
        free_media=config.free_media,
        dataset_hash=questions.hashes(),
        model=info,
        backend=protocol.backend,
        dtype=config.dtype,
        seed=config.sampling.seed,
        versions=_versions() | protocol.versions | _more_versions(config, suite),
        command=command,
        # Hashed: host names of clusters are nobody's business, but it must show which runs are of one machine.
        machine=hashlib.sha256(platform.node().encode()).hexdigest()[:12],
        created_utc=utc_now(),
        updated_utc=utc_now(),
        transport=protocol.transport,
    )


def fit_to_model(config: EvalConfig, checkpoint: Checkpoint) -> EvalConfig:
    """Frame sides are multiples of the model's own patch grid: 28, or 32 since Qwen3-VL (another protocol id).

    Where its processor has a size of its own, that stands in the protocol id instead.
    """
    video = replace(config.video, preprocess=checkpoint.preprocess)
    if video.size_multiple % checkpoint.size_multiple:
        video = replace(video, size_multiple=checkpoint.size_multiple)
    return replace(config, video=video)


def _loadable(config: EvalConfig, checkpoint: Checkpoint) -> EvalConfig:
    """With the folders that were inspected: what is loaded is what was fingerprinted, also for hub ids."""
    base = str(checkpoint.base_folder) if checkpoint.base_folder is not None else None
    return replace(config, model=str(checkpoint.folder), base_model=base, revision=None, processor=None)


def _missing(questions: Sequence[Question]) -> list[Path]:
    """The clips and images that are not there, sorted. Of many questions on one clip the disk is asked once."""
    known, missing = Texts(), list[Path]()
    for path in (p for q in questions for p in (q.video, q.image) if p is not None):
        n_known = len(known)
        if known.add(str(path)) == n_known and not path.exists():
            missing.append(path)
    return sorted(missing)


def _missing_error(
    path: Path, missing: list[Path], questions: Sequence[Question], config: EvalConfig, suite: Suite
) -> DataError:
    listing = path / "missing.txt"
    make_folder(path)
    write_text(listing, "".join(f"{file}\n" for file in missing))
    absent = set(missing)
    splits: dict[str, int] = {}
    for question in questions:
        if question.video in absent or question.image in absent:
            splits[question.split] = splits.get(question.split, 0) + 1
    where = ", ".join(f"{split}: {n}" for split, n in splits.items())
    example = missing[0]
    if example.is_relative_to(config.data_root):
        example = example.relative_to(config.data_root)
    whole = [split for split in dict.fromkeys(q.split for q in questions) if split not in splits]
    renamed = in_another_case(missing)
    alike = f" {len(renamed)} are there in another case: rename {next(iter(renamed.values()))}." if renamed else ""
    other = f" Or evaluate what is complete only: {suite.splits_option} {','.join(whole)}." if whole and splits else ""
    return DataError(
        f"{len(missing)} media files missing, for {sum(splits.values())} of {len(questions)} questions ({where}; "
        f"e.g. {example}). Nothing was run. List: {listing}.{alike} "
        f"Fix: {suite.where_media_go}.{other} To run anyway (result unranked): --allow-missing"
    )


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("seedbench-r1", "torch", "transformers", "vllm", "decord", "av", "torchcodec", "pillow", "peft"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = _commit()
    return versions | {"commit": commit} if commit else versions


def _more_versions(config: EvalConfig, suite: Suite) -> dict[str, str]:
    """What else may change an answer and is chosen where the run is carried out."""
    more = {} if suite.scorer is None else {"scorer": str(SCORER_VERSION)}
    if config.trust_remote_code:
        more["remote code"] = "allowed"
    # torch is asked about the device only where there is a choice.
    if config.backend == "transformers" and config.attention != "sdpa" and find_spec("flash_attn") is not None:
        from seedbench_r1.backends.loading import resolve_attention, resolve_device

        more["attention"] = resolve_attention(config.attention, resolve_device(config.device), config.dtype)
    elif config.backend == "transformers":
        more["attention"] = "sdpa"
    return more


def _commit() -> str | None:
    """Commit of this package's own checkout, with "+dirty" if it was edited; None for an installed copy."""
    source = Path(__file__).parents[2]
    if not (source / ".git").exists():
        return None
    command = ["git", "-C", str(source), "describe", "--always", "--abbrev=12", "--dirty=+dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
