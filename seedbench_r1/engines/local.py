"""The evaluation: plan what can be known before a model is loaded, then answer every pending question."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from seedbench_r1.api.client import check_installed
from seedbench_r1.backends import BACKENDS
from seedbench_r1.backends.base import Backend
from seedbench_r1.backends.openai import api_model, transport
from seedbench_r1.config import api_key, protocol_id
from seedbench_r1.errors import ConfigError, DataError
from seedbench_r1.files import make_folder, write_text
from seedbench_r1.media.cache import media_loader
from seedbench_r1.media.decode import check_reader
from seedbench_r1.media.loader import FrameLoader
from seedbench_r1.models.checkpoint import Checkpoint, inspect_model, model_name, weights_sha256
from seedbench_r1.parsing import PARSER_VERSION
from seedbench_r1.prompts import build_request
from seedbench_r1.questions import annotation_path, choose_subset, file_sha256, level_sizes, load_annotations
from seedbench_r1.runs.directory import SEEDBENCH_LINES, Lines, RunDir, run_directory, utc_now
from seedbench_r1.runs.records import to_record
from seedbench_r1.runs.training_snapshot import take_snapshot, write_snapshot
from seedbench_r1.scoring import summarise
from seedbench_r1.types import (
    EvalConfig,
    Failure,
    Generation,
    Media,
    ModelInfo,
    Question,
    Request,
    RunManifest,
    RunRecord,
    RunSummary,
)

Observe = Callable[[RunRecord], None]


@dataclass(frozen=True, slots=True)
class Suite:
    """What differs between kinds of questions. Each suite's functions take its own question and record classes."""

    lines: Lines
    to_record: Callable[..., Any]  # question, result, request or media -> record
    build_request: Callable[..., Request]  # question, media, template
    summarise: Callable[..., Any]  # records, questions, n_total -> summary
    slug: str  # before the protocol id in the run directory's name
    scorer: int | None  # version, part of the protocol id
    levels_option: str  # which leaves questions out
    where_media_go: str  # the fix for absent files


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do, known before the model is loaded."""

    config: EvalConfig
    path: Path  # run directory
    manifest: RunManifest
    questions: list[Question]  # of the levels asked for, after --limit
    missing: list[Path]  # media files that are not there
    checkpoint: Checkpoint | None  # None for the fake backend and for API models
    suite: Suite


@dataclass(frozen=True, slots=True)
class EvalResult:
    """How one call of evaluate ended."""

    summary: RunSummary  # of the whole run, all shards
    unanswered: int  # questions asked for in this call and shard without an answer
    failed: int  # of those, the ones whose last attempt failed
    stopped: bool  # a stop was asked for before the questions ran out


def plan(config: EvalConfig, *, command: str = "", model: ModelInfo | None = None) -> Plan:
    """Read annotations and checkpoint, choose the run directory, look for absent media. Loads no model.

    `model` stands for the checkpoint where another program loads it (engines/lmms.py).

    Raises:
        ConfigError: no such model, --size-multiple does not fit it, or the video reader is not installed.
        DataError: invalid annotations; absent media unless config.allow_missing (the list is in missing.txt).
    """
    files = _annotation_files(config)
    every = {level: load_annotations(path, config.data_root, level) for level, path in files.items()}
    return plan_questions(config, every, files, SEEDBENCH_R1, command=command, model=model)


def plan_questions(
    config: EvalConfig,
    every: Mapping[str, list[Any]],
    files: Mapping[str, Path],
    suite: Suite,
    *,
    command: str = "",
    model: ModelInfo | None = None,
) -> Plan:
    """As plan, for questions that are read already: level -> its questions, and the file they come from."""
    if model is None:
        check_reader(config.video.reader)
    checkpoint, info = _identify_model(config) if model is None else (None, model)
    if checkpoint is not None:
        config = _loadable(fit_size_multiple(config, checkpoint), checkpoint)
    questions = [question for group in every.values() for question in group]
    if config.limit is not None:
        questions = choose_subset(questions, config.limit, seed=config.sampling.seed)
    sent = transport(config.api_video) if config.backend == "openai" else None
    identity = protocol_id(config.template, config.video, config.sampling, sent, suite.scorer)
    manifest = RunManifest(
        schema=suite.lines.schema,
        protocol=config.protocol,
        protocol_id=identity,
        template=config.template,
        video=config.video,
        sampling=config.sampling,
        parser_version=PARSER_VERSION,
        n_total={level: level_sizes(group) for level, group in every.items()},
        dataset_hash={level: file_sha256(path) for level, path in files.items()},
        model=info,
        backend=config.backend,
        dtype=config.dtype,
        seed=config.sampling.seed,
        versions=_versions() | ({} if suite.scorer is None else {"scorer": str(suite.scorer)}),
        command=command,
        machine=hashlib.sha256(platform.node().encode()).hexdigest()[:12],
        created_utc=utc_now(),
        updated_utc=utc_now(),
        transport=sent,
    )
    path = run_directory(config.runs_dir, info.name, suite.slug + identity, config.run_name)
    missing = sorted({p for q in questions for p in (q.video, q.image) if p is not None and not p.exists()})
    if missing and not config.allow_missing:
        raise _missing_error(path, missing, questions, config, suite)
    return Plan(config, path, manifest, questions, missing, checkpoint, suite)


def evaluate(
    plan: Plan,
    open_backend: Callable[[EvalConfig], Backend],
    *,
    stop: threading.Event | None = None,
    observe: Observe | None = None,
) -> EvalResult:
    """Answer every pending question of a run. Calling it again continues the run.

    Args:
        plan: from plan().
        open_backend: loads the model; called only if a question is pending.
        stop: when set, nothing new is begun; what is in flight is finished and saved.
        observe: called with every record right after it was written.

    Raises:
        ConfigError, ResourceError: as RunDir.open, and from the backend. What was answered before is on disk.
    """
    config, stop = plan.config, stop or threading.Event()
    with RunDir.open(
        plan.path, plan.manifest, plan.questions, shard=config.shard, fresh=config.fresh, lines=plan.suite.lines
    ) as run:
        pending = run.pending(plan.questions, shard=config.shard, retry_errors=config.retry_errors)
        run.event("start", pending=len(pending), command=plan.manifest.command, shard=config.shard)
        weights = hash_weights(plan, run.manifest)
        if pending:
            load = media_loader(config.frame_cache, config.frame_cache_gb)
            with FrameLoader(
                config.video, workers=config.workers, timeout_s=config.decode_timeout_s, load=load
            ) as loader:
                answer_all(run, pending, loader, open_backend, config, stop=stop, observe=observe, suite=plan.suite)
                if config.frame_cache is not None:
                    run.event("frame_cache", **loader.cache_counts)
        return conclude(run, plan, weights, shard=config.shard, stopped=stop.is_set())


def conclude(
    run: RunDir, plan: Plan, weights: Callable[[], str | None], *, shard: tuple[int, int] | None, stopped: bool
) -> EvalResult:
    """Count the whole run, write its summary, and say what is left of this call's part of it."""
    run.refresh()
    keep_training(run, plan)
    summary = plan.suite.summarise(run.records(), run.questions.values(), run.manifest.n_total)
    run.finish(summary, None if summary.status == "incomplete" else weights())
    left = run.pending(plan.questions, shard=shard)
    records = run.records()
    failed = sum(q.question_id in records for q in left)
    run.event("stop", status=summary.status, unanswered=len(left), failed=failed, stopped=stopped)
    return EvalResult(summary, unanswered=len(left), failed=failed, stopped=stopped)


def keep_training(run: RunDir, plan: Plan) -> None:
    """Copy what is known of the checkpoint's training into the run directory: the report never needs the checkpoint."""
    if plan.checkpoint is None or plan.suite is not SEEDBENCH_R1:
        return
    try:
        snapshot = take_snapshot(plan.checkpoint.folder, run.questions.values(), run.manifest.dataset_hash)
    except DataError as error:  # the answers are what counts: the run goes on, and says what it lacks
        run.event("training_snapshot", problem=str(error))
        return
    if snapshot is not None:
        write_snapshot(run.path, snapshot)


class MediaSource(Protocol):
    """What decodes: a FrameLoader, or what stands around one."""

    def stream(
        self, questions: Iterable[Question], *, stop: threading.Event | None = None
    ) -> Iterator[tuple[Question, Media | Failure]]: ...


def answer_all(
    run: RunDir,
    pending: Iterable[Question],
    loader: MediaSource,
    open_backend: Callable[[EvalConfig], Backend],
    config: EvalConfig,
    *,
    stop: threading.Event,
    observe: Observe | None = None,
    suite: Suite | None = None,
) -> None:
    """Decode ahead, generate, and write each result as it comes. Failures are results too."""
    suite = suite or SEEDBENCH_R1
    in_flight: dict[str, Request] = {}

    def record(question: Question, result: Generation | Failure, media: Request | Media | None = None) -> None:
        entry = suite.to_record(question, result, media)
        run.append(entry)
        if observe is not None:
            observe(entry)

    def requests() -> Iterator[Request]:
        for question, media in loader.stream(pending, stop=stop):
            if isinstance(media, Failure):
                record(question, media)
                continue
            in_flight[question.question_id] = request = suite.build_request(question, media, config.template)
            yield request

    backend = open_backend(config)
    try:
        for question_id, result in backend.generate(requests(), config.sampling):
            record(run.questions[question_id], result, in_flight.pop(question_id))
    finally:
        backend.close()


SEEDBENCH_R1 = Suite(
    lines=SEEDBENCH_LINES,
    to_record=to_record,
    build_request=build_request,
    summarise=summarise,
    slug="",
    scorer=None,
    levels_option="--levels",
    where_media_go="seedbench-r1 data download --only-missing, or put the files there (layout: docs/data.md)",
)


def _identify_model(config: EvalConfig) -> tuple[Checkpoint | None, ModelInfo]:
    if config.backend == "fake":
        script = Path(config.model)
        if not script.is_file():
            raise ConfigError(f"The fake backend answers from a script file; there is none at {script}.")
        return None, ModelInfo(config.model, f"fake-{model_name(script.stem)}", file_sha256(script)[:16])
    if config.backend == "openai":
        check_installed()
        api_key(config.base_url)  # absent: said now, not after the first clip was decoded
        return None, api_model(config)
    if config.backend == "vllm":
        from seedbench_r1.backends.vllm_engine import check_vllm  # imports torch

        check_vllm()
    if config.backend not in ("transformers", "vllm"):
        raise ConfigError(f"No backend {config.backend!r}. There are: {', '.join(BACKENDS)}.")
    checkpoint = inspect_model(config.model, base_model=config.base_model, revision=config.revision)
    return checkpoint, checkpoint.info


def fit_size_multiple(config: EvalConfig, checkpoint: Checkpoint) -> EvalConfig:
    """Frame sides are multiples of the model's own patch grid: 28, or 32 for Qwen3-VL (another protocol id)."""
    if config.video.size_multiple % checkpoint.size_multiple == 0:
        return config
    return replace(config, video=replace(config.video, size_multiple=checkpoint.size_multiple))


def _loadable(config: EvalConfig, checkpoint: Checkpoint) -> EvalConfig:
    """With the folders that were inspected: what is loaded is what was fingerprinted, also for hub ids."""
    base = str(checkpoint.base_folder) if checkpoint.base_folder is not None else None
    return replace(config, model=str(checkpoint.folder), base_model=base, revision=None)


def _annotation_files(config: EvalConfig) -> dict[str, Path]:
    if config.annotations is not None:
        return {"custom": config.annotations}
    return {level: annotation_path(config.data_root, level) for level in config.levels}


def _missing_error(
    path: Path, missing: list[Path], questions: list[Question], config: EvalConfig, suite: Suite
) -> DataError:
    listing = path / "missing.txt"
    make_folder(path)
    write_text(listing, "".join(f"{file}\n" for file in missing))
    absent = set(missing)
    levels: dict[str, int] = {}
    for question in questions:
        if question.video in absent or question.image in absent:
            levels[question.split] = levels.get(question.split, 0) + 1
    where = ", ".join(f"{level}: {n}" for level, n in levels.items())
    example = missing[0]
    if example.is_relative_to(config.data_root):
        example = example.relative_to(config.data_root)
    whole = [level for level in dict.fromkeys(q.split for q in questions) if level not in levels]
    other = f" Or evaluate what is complete only: {suite.levels_option} {','.join(whole)}." if whole and levels else ""
    return DataError(
        f"{len(missing)} media files missing, for {sum(levels.values())} of {len(questions)} questions ({where}; "
        f"e.g. {example}). Nothing was run. List: {listing}. "
        f"Fix: {suite.where_media_go}.{other} To run anyway (result unranked): --allow-missing"
    )


def hash_weights(plan: Plan, manifest: RunManifest) -> Callable[[], str | None]:
    """Start hashing every byte of the weights in the background; the returned function waits for the hash."""
    if plan.checkpoint is None or manifest.weights_sha256 is not None:
        return lambda: manifest.weights_sha256
    checkpoint, found = plan.checkpoint, []
    thread = threading.Thread(target=lambda: found.append(weights_sha256(checkpoint)), name="sha256", daemon=True)
    thread.start()

    def wait() -> str | None:
        thread.join()
        return found[0] if found else None

    return wait


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("seedbench-r1", "torch", "transformers", "vllm", "decord", "av", "torchcodec", "pillow", "peft"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = _commit()
    return versions | {"commit": commit} if commit else versions


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
