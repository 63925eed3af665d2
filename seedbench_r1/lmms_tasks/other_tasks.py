"""Requests of other benchmarks' tasks, answered by our decoders and backends: one clip, one image and text at most.

The task decides on prompt, media and sampling; frames and pixels are those of `eval`. Every answer is on disk as soon
as it exists, in <runs_dir>/<model>--lmms-eval/answers.jsonl; a second run with the same settings asks only the rest.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from PIL import Image

from seedbench_r1.backends import open_backend
from seedbench_r1.config import EvalConfig, resolve_eval_config
from seedbench_r1.engines.plan import fit_to_model
from seedbench_r1.errors import ConfigError, IncompleteRun
from seedbench_r1.files import JsonObject
from seedbench_r1.lmms_tasks.functions import Document, given_sampling
from seedbench_r1.media.loader import FrameLoader
from seedbench_r1.models.checkpoint import inspect_model
from seedbench_r1.questions import file_sha256
from seedbench_r1.runs.directory import run_directory
from seedbench_r1.typed_json import parse_json
from seedbench_r1.types import Failure, Generation, Question, Request, SamplingConfig, Thinking, to_json


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """One request of another benchmark: messages without media, and at most one clip and one image."""

    name: str  # task and document number
    messages: tuple[JsonObject, ...]
    video: Path | None
    image: Path | None
    sampling: SamplingConfig
    key: str = ""  # hash of everything that can change the answer


def answer_other_tasks(
    requests: list[Instance], documents: list[Document], options: JsonObject, config_file: Path | None = None
) -> list[GenerationResult]:
    """Answer the requests, in their order.

    Raises:
        ConfigError: a request shows more than one clip or one image, or part of a clip.
        IncompleteRun: some have no answer; the others are saved, and the same command continues.
    """
    # One folder for each model; keys keep its benchmarks and settings separate.
    config, fingerprint = _configure(options, config_file)
    folder = run_directory(config.runs_dir, Path(config.model).name, "lmms-eval", None)
    folder.mkdir(parents=True, exist_ok=True)
    saved = folder / "answers.jsonl"
    # Images without a file exist only while they are decoded.
    with tempfile.TemporaryDirectory() as scratch:
        wanted = []
        for number, (request, doc) in enumerate(zip(requests, documents, strict=True)):
            read = read_request(request, doc, Path(scratch) / f"{number}.png")
            wanted.append(replace(read, key=_key(read, config, fingerprint)))
        answers = _read_answers(saved)
        # By key: a request that is repeated is answered once.
        pending = {request.key: request for request in wanted if request.key not in answers}
        failures = _ask(list(pending.values()), config, saved)
    if failures:
        name, failure = failures[0]
        raise IncompleteRun(
            f"{len(failures)} of {len(wanted)} requests have no answer, e.g. {name} ({failure.kind}): "
            f"{failure.message}. The others are saved in {saved}; the same command continues."
        )
    answers = _read_answers(saved)
    return [_result(answers[request.key]) for request in wanted]


def read_request(request: Instance, doc: Document, scratch: Path) -> TaskRequest:
    """Split an lmms-eval request into messages and media. An image that has no file is written to `scratch`.

    Raises:
        ConfigError: more than one clip or image, part of a clip, or another kind of medium.
    """
    _, doc_to_messages, generation_kwargs, doc_id, task, _ = request.args
    name = f"{task}/{doc_id}"
    messages, media = [], {"video": [], "image": []}  # type: ignore[var-annotated]
    for message in doc_to_messages(doc):
        parts = []
        for part in message["content"]:
            # Media leave the messages, which keep their order: backends put the pixels in.
            if part["type"] in media:
                media[part["type"]].append(_file_of(part, name, scratch))
                parts.append({"type": part["type"]})
            elif part["type"] == "text":
                parts.append({"type": "text", "text": part["text"]})
            else:
                raise ConfigError(f"{name} shows {part['type']!r}; --model seedbench_r1 takes video, image and text.")
        messages.append({"role": message["role"], "content": parts})
    for kind, files in media.items():
        if len(files) > 1:
            raise ConfigError(f"{name} shows {len(files)} media of kind {kind!r}; --model seedbench_r1 takes one.")
    return TaskRequest(
        name=name,
        messages=tuple(messages),
        video=media["video"][0] if media["video"] else None,
        image=media["image"][0] if media["image"] else None,
        sampling=_sampling(generation_kwargs),
    )


def _file_of(part: JsonObject, name: str, scratch: Path) -> Path:
    medium = part["url"]
    if isinstance(medium, Image.Image):
        medium.convert("RGB").save(scratch)
        return scratch
    # Cutting clips by time is the benchmark's own decoding, and would differ from ours.
    if isinstance(medium, str) and part.get("start_time") is None and part.get("end_time") is None:
        return Path(medium.removeprefix("file://"))
    raise ConfigError(f"{name} shows part of a clip or a medium in memory; --model seedbench_r1 takes whole files.")


def _sampling(generation_kwargs: JsonObject) -> SamplingConfig:
    """The task's own settings. Stop strings are ignored, as lmms-eval's chat models do."""
    given = given_sampling(generation_kwargs)
    # As in lmms-eval's models: sampling must be asked for.
    greedy = not generation_kwargs.get("do_sample", given.get("temperature", 0) > 0)
    return replace(SamplingConfig(), **{"top_p": 1.0, **given, **({"temperature": 0.0} if greedy else {})})


def _configure(options: JsonObject, config_file: Path | None) -> tuple[EvalConfig, str]:
    """The resolved options, with pixels fitted to the model, and the model's fingerprint."""
    config = resolve_eval_config({**options, "data_root": Path()}, config_file=config_file)
    # Each kind of model has its own sign of what it is.
    if config.backend == "fake":
        return config, file_sha256(Path(config.model))
    if config.backend == "openai":
        return config, f"{config.model} {config.base_url}"
    checkpoint = inspect_model(config.model, base_model=config.base_model, revision=config.revision)
    return fit_to_model(config, checkpoint), checkpoint.info.fingerprint


def _key(request: TaskRequest, config: EvalConfig, fingerprint: str) -> str:
    # A clip by size and time, as hashing gigabytes would take longer than answering; an image by content, since it may
    # be a new file each time.
    files: list[object] = [None if request.video is None else _identity(request.video)]
    files.append(None if request.image is None else file_sha256(request.image))
    settings = [config.backend, config.dtype, config.sampling.seed, to_json(config.video), to_json(request.sampling)]
    settings += [] if config.template.thinking == "auto" else [config.template.thinking]
    # Everything that can change the answer; a change of any asks again.
    value = [request.name, request.messages, files, settings, fingerprint]
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]


def _identity(path: Path) -> list[object]:
    """Path, size and time of change; an absent file is found by the decoder."""
    if not path.is_file():
        return [str(path)]
    status = path.stat()
    return [str(path), status.st_size, status.st_mtime_ns]


def _ask(pending: list[TaskRequest], config: EvalConfig, saved: Path) -> list[tuple[str, Failure]]:
    """Answer what is pending, one kind of sampling after another; write answers as they come, return the failures."""
    if not pending:
        return []
    failures: list[tuple[str, Failure]] = []
    by_key = {request.key: request for request in pending}
    backend = open_backend(config)
    try:
        with (
            FrameLoader(config.video, workers=config.workers, timeout_s=config.decode_timeout_s) as loader,
            saved.open("a", encoding="utf-8") as stream,
        ):
            # A backend takes one kind of sampling at a time.
            for sampling in dict.fromkeys(request.sampling for request in pending):
                same = [request for request in pending if request.sampling == sampling]
                requests = _decode(same, loader, failures, config.template.thinking)
                sampled = replace(sampling, seed=config.sampling.seed)
                for key, result in backend.generate(requests, sampled):
                    if isinstance(result, Failure):
                        failures.append((by_key[key].name, result))
                        continue
                    stream.write(_answer_line(key, by_key[key].name, result))
                    # After each answer: a kill loses only what is in flight.
                    stream.flush()
    finally:
        backend.close()
    return failures


def _decode(
    requests: list[TaskRequest], loader: FrameLoader, failures: list[tuple[str, Failure]], thinking: Thinking
) -> Iterator[Request]:
    """Pixels ahead of the model."""
    # The loader gives media back in the order in which they are ready.
    by_key = {request.key: request for request in requests}
    # For the decoder, which reads the id and the two paths only.
    questions = (Question(r.key, "custom", "", (), "", video=r.video, image=r.image, cluster=r.key) for r in requests)
    for question, media in loader.stream(questions):
        request = by_key[question.question_id]
        if isinstance(media, Failure):
            failures.append((request.name, media))
            continue
        yield replace(Request.of(request.key, request.messages, media), thinking=thinking)


def _answer_line(key: str, name: str, generation: Generation) -> str:
    counts = {"n_prompt_tokens": generation.n_prompt_tokens, "n_tokens": generation.n_tokens}
    return json.dumps({"key": key, "name": name, "text": generation.text, **counts}, ensure_ascii=False) + "\n"


def _read_answers(path: Path) -> dict[str, JsonObject]:
    """Saved answers by key; a last line torn by a kill is dropped."""
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return {answer["key"]: answer for answer in map(parse_json, filter(None, lines))}


def _result(answer: JsonObject) -> GenerationResult:
    counts = TokenCounts(input_tokens=answer["n_prompt_tokens"], output_tokens=answer["n_tokens"])
    return GenerationResult(text=answer["text"], token_counts=counts)
