"""The evaluation: plan what can be known before a model is loaded, then answer every pending question."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seedbench_r1.backends.base import Backend
from seedbench_r1.config import protocol_id
from seedbench_r1.errors import ConfigError, DataError
from seedbench_r1.frame_loader import FrameLoader
from seedbench_r1.models import Checkpoint, inspect_model, model_name, weights_sha256
from seedbench_r1.parsing import PARSER_VERSION, parse_response
from seedbench_r1.prompts import build_messages
from seedbench_r1.questions import annotation_path, choose_subset, file_sha256, load_annotations
from seedbench_r1.records import SCHEMA
from seedbench_r1.runs import RunDir, run_directory, utc_now, write_text
from seedbench_r1.scoring import score, summarise
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
    Template,
)

Observe = Callable[[RunRecord], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do, known before the model is loaded."""

    config: EvalConfig
    path: Path  # run directory
    manifest: RunManifest
    questions: list[Question]  # of the levels asked for, after --limit
    missing: list[Path]  # media files that are not there
    checkpoint: Checkpoint | None  # None for the fake backend


@dataclass(frozen=True, slots=True)
class EvalResult:
    """How one call of evaluate ended."""

    summary: RunSummary  # of the whole run, all shards
    unanswered: int  # questions asked for in this call and shard without an answer
    failed: int  # of those, the ones whose last attempt failed
    stopped: bool  # a stop was asked for before the questions ran out


def plan(config: EvalConfig, *, command: str = "") -> Plan:
    """Read annotations and checkpoint, choose the run directory, look for absent media. Loads no model.

    Raises:
        ConfigError: no such model, or --size-multiple does not fit it.
        DataError: invalid annotations; absent media unless config.allow_missing (the list is in missing.txt).
    """
    checkpoint, info = _identify_model(config)
    if checkpoint is not None:
        config = _loadable(_fit_size_multiple(config, checkpoint), checkpoint)
    files = _annotation_files(config)
    every = {level: load_annotations(path, config.data_root, level) for level, path in files.items()}
    questions = [question for group in every.values() for question in group]
    if config.limit is not None:
        questions = choose_subset(questions, config.limit, seed=config.sampling.seed)
    identity = protocol_id(config.template, config.video, config.sampling)
    manifest = RunManifest(
        schema=SCHEMA,
        protocol=config.protocol,
        protocol_id=identity,
        template=config.template,
        video=config.video,
        sampling=config.sampling,
        parser_version=PARSER_VERSION,
        n_total={level: _sizes(group) for level, group in every.items()},
        dataset_hash={level: file_sha256(path) for level, path in files.items()},
        model=info,
        backend=config.backend,
        dtype=config.dtype,
        seed=config.sampling.seed,
        versions=_versions(),
        command=command,
        machine=hashlib.sha256(platform.node().encode()).hexdigest()[:12],
        created_utc=utc_now(),
        updated_utc=utc_now(),
    )
    path = run_directory(config.runs_dir, info.name, identity, config.run_name)
    missing = sorted({p for q in questions for p in (q.video, q.image) if p is not None and not p.exists()})
    if missing and not config.allow_missing:
        raise _missing_error(path, missing, questions, config)
    return Plan(config, path, manifest, questions, missing, checkpoint)


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
    with RunDir.open(plan.path, plan.manifest, plan.questions, shard=config.shard, fresh=config.fresh) as run:
        pending = run.pending(plan.questions, shard=config.shard, retry_errors=config.retry_errors)
        run.event("start", pending=len(pending), command=plan.manifest.command, shard=config.shard)
        weights = _hash_weights(plan, run.manifest)
        if pending:
            with FrameLoader(config.video, workers=config.workers, timeout_s=config.decode_timeout_s) as loader:
                answer_all(run, pending, loader, open_backend, config, stop=stop, observe=observe)
        run.refresh()
        summary = summarise(run.records(), run.questions.values(), run.manifest.n_total)
        run.finish(summary, None if summary.status == "incomplete" else weights())
        left = run.pending(plan.questions, shard=config.shard)
        records = run.records()
        failed = sum(q.question_id in records for q in left)
        run.event("stop", status=summary.status, unanswered=len(left), failed=failed, stopped=stop.is_set())
        return EvalResult(summary, unanswered=len(left), failed=failed, stopped=stop.is_set())


def answer_all(
    run: RunDir,
    pending: list[Question],
    loader: FrameLoader,
    open_backend: Callable[[EvalConfig], Backend],
    config: EvalConfig,
    *,
    stop: threading.Event,
    observe: Observe | None = None,
) -> None:
    """Decode ahead, generate, and write each result as it comes. Failures are results too."""
    in_flight: dict[str, Request] = {}

    def record(question: Question, result: Generation | Failure, media: Request | Media | None = None) -> None:
        entry = to_record(question, result, media)
        run.append(entry)
        if observe is not None:
            observe(entry)

    def requests() -> Iterator[Request]:
        for question, media in loader.stream(pending):
            if stop.is_set():
                return
            if isinstance(media, Failure):
                record(question, media)
                continue
            in_flight[question.question_id] = request = build_request(question, media, config.template)
            yield request

    backend = open_backend(config)
    try:
        for question_id, result in backend.generate(requests(), config.sampling):
            record(run.questions[question_id], result, in_flight.pop(question_id))
    finally:
        backend.close()


def build_request(question: Question, media: Media, template: Template) -> Request:
    """A question and its pixels as a backend wants them."""
    return Request(
        question_id=question.question_id,
        messages=build_messages(question, template),
        frames=media.frames,
        frame_indices=media.frame_indices,
        native_fps=media.native_fps,
        n_total=media.n_total,
        image=media.image,
        reader=media.reader,
        reader_note=media.reader_note,
    )


def to_record(question: Question, result: Generation | Failure, media: Request | Media | None = None) -> RunRecord:
    """Parse and score a result."""
    common: dict[str, Any] = {
        "question_id": question.question_id,
        "level": question.level,
        "domain": question.domain,
        "video_id": question.video_id,
        "reader": media.reader if media else None,
        "reader_note": media.reader_note if media else None,
    }
    if isinstance(result, Failure):
        return RunRecord(failure=result, **common)
    parsed = parse_response(result.text, question.options)
    return RunRecord(generation=result, parsed=parsed, score=score(question, parsed, result.finish_reason), **common)


def _identify_model(config: EvalConfig) -> tuple[Checkpoint | None, ModelInfo]:
    if config.backend == "fake":
        script = Path(config.model)
        if not script.is_file():
            raise ConfigError(f"The fake backend answers from a script file; there is none at {script}.")
        return None, ModelInfo(config.model, f"fake-{model_name(script.stem)}", file_sha256(script)[:16])
    checkpoint = inspect_model(config.model, base_model=config.base_model, revision=config.revision)
    return checkpoint, checkpoint.info


def _fit_size_multiple(config: EvalConfig, checkpoint: Checkpoint) -> EvalConfig:
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


def _sizes(questions: list[Question]) -> dict[str, int]:
    sizes = {"all": len(questions)}
    for question in questions:
        if question.domain is not None:
            sizes[question.domain] = sizes.get(question.domain, 0) + 1
    return sizes


def _missing_error(path: Path, missing: list[Path], questions: list[Question], config: EvalConfig) -> DataError:
    listing = path / "missing.txt"
    path.mkdir(parents=True, exist_ok=True)
    write_text(listing, "".join(f"{file}\n" for file in missing))
    absent = set(missing)
    levels: dict[str, int] = {}
    for question in questions:
        if question.video in absent or question.image in absent:
            levels[question.level] = levels.get(question.level, 0) + 1
    where = ", ".join(f"{level}: {n}" for level, n in levels.items())
    example = missing[0]
    if example.is_relative_to(config.data_root):
        example = example.relative_to(config.data_root)
    whole = [level for level in config.levels if level not in levels]
    other = f" Or evaluate complete levels only: --levels {','.join(whole)}." if whole and levels else ""
    return DataError(
        f"{len(missing)} media files missing, for {sum(levels.values())} of {len(questions)} questions ({where}; "
        f"e.g. {example}). Nothing was run. List: {listing}. Fix: put the files there "
        f"(layout: docs/data.md).{other} To run anyway (result unranked): --allow-missing"
    )


def _hash_weights(plan: Plan, manifest: RunManifest) -> Callable[[], str | None]:
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
    source = Path(__file__).parents[1]
    if not (source / ".git").exists():
        return None
    command = ["git", "-C", str(source), "describe", "--always", "--abbrev=12", "--dirty=+dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
