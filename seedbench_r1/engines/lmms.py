"""`eval --engine lmms-eval`: lmms-eval answers, and its samples files become a run directory like any other.

The questions asked are those of the run that have no answer yet, so the same command continues. Parsing and scoring are
done again here, by the same functions as for our own backends.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from seedbench_r1.engines.lmms_process import (
    OWN_MODEL,
    TASK_FOLDER,
    LmmsJob,
    LmmsModel,
    join_model_args,
    last_words,
    lmms_eval_version,
    read_samples,
    run_job,
)
from seedbench_r1.engines.local import EvalResult, Plan, plan, to_record
from seedbench_r1.errors import ConfigError, DataError
from seedbench_r1.files import write_text
from seedbench_r1.models.checkpoint import fingerprint, model_name
from seedbench_r1.parsing import PARSER_VERSION
from seedbench_r1.prompts import DEFAULT_TEMPLATE
from seedbench_r1.runs.directory import RunDir, run_directory, utc_now
from seedbench_r1.runs.records import question_line
from seedbench_r1.scoring import summarise
from seedbench_r1.types import (
    EvalConfig,
    Failure,
    Generation,
    ModelInfo,
    Question,
    RunRecord,
    SamplingConfig,
    Template,
    VideoConfig,
    to_json,
)

WORK = "lmms-eval"  # in the run directory: a folder for each call, and the run of our own model
# Where lmms-eval looks for a model's name (its evaluation_tracker.py, 0.7.3)
PATH_ARGUMENTS = ("pretrained", "model", "model_version", "model_name", "model_id", "path")
# Settings of a run that our model under lmms-eval gets in another way, or that are this side's business
_SAID_OTHERWISE = {"model", "data_root", "levels", "video", "sampling", "template", "annotations", "batch_size"}
_SAID_OTHERWISE |= {"runs_dir", "run_name", "limit", "fresh", "allow_missing", "retry_errors", "max_error_rate"}
_NO_SETTINGS = {*PATH_ARGUMENTS, "device", "device_map", "batch_size", "num_concurrent", "timeout", "base_url"}


def checkpoint_of(args: str) -> str | None:
    """The checkpoint that lmms-eval's --model_args name; None if they name none."""
    given = dict(pair.partition("=")[::2] for pair in args.split(",") if pair)
    return next((given[name] for name in PATH_ARGUMENTS if given.get(name)), None)


def plan_with_lmms_eval(
    config: EvalConfig, lmms_model: str, lmms_model_args: str = "", *, command: str = ""
) -> tuple[Plan, LmmsModel]:
    """As plan(), for a model that lmms-eval loads.

    lmms-eval's own models choose frames and pixels themselves: their runs have the protocol "lmms-eval" and an id of
    their own, and compare with nothing measured otherwise. Our model under lmms-eval keeps its protocol.

    Raises:
        ConfigError: lmms-eval is not installed, --shard was given, or as plan().
        DataError: as plan().
    """
    version = lmms_eval_version()
    if config.shard is not None:
        raise ConfigError("--engine lmms-eval does not share a run between processes. Fix: leave out --shard.")
    named = checkpoint_of(lmms_model_args)
    if lmms_model == OWN_MODEL:
        planned = plan(config, command=command)
        model = LmmsModel(OWN_MODEL, lmms_model_args)
        protocol, identity, info = config.protocol, planned.manifest.protocol_id, planned.manifest.model
    else:
        info = _model_info(named or config.model, lmms_model, lmms_model_args)
        planned = plan(config, command=command, model=info)
        args = lmms_model_args if named else ",".join(filter(None, [f"pretrained={config.model}", lmms_model_args]))
        model = LmmsModel(lmms_model, args)
        protocol, identity = "lmms-eval", _protocol_id(config, model, version)
    manifest = replace(
        planned.manifest,
        protocol=protocol,
        protocol_id=identity,
        backend=f"lmms-eval:{lmms_model}",
        versions=planned.manifest.versions | {"lmms-eval": version},
    )
    path = run_directory(config.runs_dir, f"{info.name}-lmms-{lmms_model}", identity, config.run_name)
    return replace(planned, path=path, manifest=manifest), model


def own_model_args(config: EvalConfig, folder: Path) -> str:
    """--model_args that make our model under lmms-eval do what `config` says, with its runs below `folder`.

    A wording of the user's is written to prompt.toml there. Raises ConfigError for values that lmms-eval cannot carry.
    """
    options: dict[str, Any] = {"pretrained": Path(config.model).absolute() if Path(config.model).exists() else None}
    options["pretrained"] = options["pretrained"] or config.model
    given = {field.name: getattr(config, field.name) for field in fields(EvalConfig)}
    for field in fields(EvalConfig):
        if field.name not in _SAID_OTHERWISE and given[field.name] != field.default:
            options[field.name] = given[field.name]
    options |= {field.name: getattr(config.video, field.name) for field in fields(VideoConfig)}
    for name in ("temperature", "top_p", "top_k", "repetition_penalty", "max_new_tokens", "seed"):
        options[name] = getattr(config.sampling, name)
    options["annotations"] = None if config.annotations is None else config.annotations.absolute()
    if config.template != DEFAULT_TEMPLATE:
        options["prompt_file"] = (folder / "prompt.toml").absolute()
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "prompt.toml", _as_toml(config.template))
    return join_model_args(options | {"runs_dir": folder.absolute(), "allow_missing": True})


def evaluate_with_lmms_eval(
    planned: Plan,
    model: LmmsModel,
    *,
    stop: threading.Event | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> EvalResult:
    """Ask lmms-eval every pending question, and count what came back.

    A question that is not in the samples exactly once is a failure: the run is INCOMPLETE and the next call asks again.

    Args:
        stop: when set, lmms-eval is stopped; it saves nothing before its end, so this call's answers are lost.
        say: told where the messages of lmms-eval go.

    Raises:
        ConfigError, ResourceError: as RunDir.open.
        DataError: the samples files are damaged, or answer a question that was not asked.
    """
    config, stop = planned.config, stop or threading.Event()
    with RunDir.open(planned.path, planned.manifest, planned.questions, fresh=config.fresh) as run:
        if config.fresh and (planned.path / WORK).exists():
            (planned.path / WORK).rename(planned.path / f"{WORK}-until-{utc_now().replace(':', '')}")
        pending = run.pending(planned.questions, retry_errors=config.retry_errors)
        run.event("start", pending=len(pending), command=planned.manifest.command, shard=None)
        absent = set(planned.missing)
        asked = [question for question in pending if not absent & {question.video, question.image}]
        for question in pending:
            if absent & {question.video, question.image}:
                run.append(to_record(question, Failure("media_error", "its media are absent; lmms-eval was not asked")))
        if asked and not stop.is_set():
            job = _prepare(planned, model, asked)
            say(f"lmms-eval answers {len(asked):,} questions and saves nothing before its end; messages: {job.log}")
            run_job(job, stop=stop)
            if not stop.is_set():
                for record in read_records(job, asked, config.sampling):
                    run.append(record)
        run.refresh()
        summary = summarise(run.records(), run.questions.values(), run.manifest.n_total)
        run.finish(summary, None)
        left = run.pending(planned.questions)
        records = run.records()
        failed = sum(question.question_id in records for question in left)
        run.event("stop", status=summary.status, unanswered=len(left), failed=failed, stopped=stop.is_set())
        return EvalResult(summary, unanswered=len(left), failed=failed, stopped=stop.is_set())


def read_records(job: LmmsJob, asked: list[Question], sampling: SamplingConfig) -> list[RunRecord]:
    """One record for each question that was asked, from the samples files.

    Raises:
        DataError: a sample without question_id and raw_text, or of a question that was not asked.
    """
    samples: dict[str, list[dict[str, Any]]] = defaultdict(list)
    known = {question.question_id for question in asked}
    for task in job.tasks:
        for sample in read_samples(job, task):
            if sample.get("question_id") not in known or not isinstance(sample.get("raw_text"), str):
                raise DataError(f"{job.out}: task {task} holds {sample.get('question_id')!r}, which was not asked.")
            samples[sample["question_id"]].append(sample)
    reason = last_words(job.log) if len(samples) < len(asked) else ""
    records = []
    for question in asked:
        found = samples[question.question_id]
        if len(found) == 1:
            records.append(to_record(question, _generation(found[0], sampling)))
            continue
        message = f"lmms-eval gave {len(found)} answers"
        if not found:
            message = f"lmms-eval gave no answer; its log ends with: {reason}; log: {job.log}"
        records.append(to_record(question, Failure("backend_error", message)))
    return records


def _generation(sample: dict[str, Any], sampling: SamplingConfig) -> Generation | Failure:
    """A sample's text with the token counts that the model reported. What it did not report is 0, as is the time."""
    counts = (sample.get("token_counts") or [None])[0] or {}
    n_tokens = counts.get("output_tokens")
    if not sample["raw_text"] and n_tokens is None:
        return Failure("backend_error", "empty text without a token count: what lmms-eval's models give after an error")
    return Generation(
        text=sample["raw_text"],
        token_ids=(),
        finish_reason="length" if (n_tokens or 0) >= sampling.max_new_tokens else "stop",
        n_prompt_tokens=counts.get("input_tokens") or 0,
        n_tokens=n_tokens or 0,
        latency_s=0.0,
    )


def _prepare(planned: Plan, model: LmmsModel, asked: list[Question]) -> LmmsJob:
    """Write the tasks of this call: lmms-eval's form, our questions, the run's wording and sampling."""
    config, work = planned.config, planned.path / WORK
    folder = work / f"call-{sum(1 for _ in work.glob('call-*')) + 1}"
    by_level: dict[str, list[Question]] = defaultdict(list)
    for question in asked:
        by_level[question.split].append(question)
    tasks = {f"seedbench_r1_{level.lower()}": questions for level, questions in by_level.items()}
    for name, questions in tasks.items():
        write_task(folder / "tasks", name, questions, config)
    if model.is_ours:
        model = LmmsModel(model.name, ",".join(filter(None, [own_model_args(config, work), model.args])))
    return LmmsJob(
        model=model,
        tasks=tuple(tasks),
        folder=folder,
        include_path=folder / "tasks",
        batch_size=config.batch_size if model.is_ours else 1,  # lmms-eval's models differ in what they can batch
        seed=config.sampling.seed,
        device=other_device(config, model),
    )


def other_device(config: EvalConfig, model: LmmsModel) -> str | None:
    """--device for lmms-eval: ours gets it with its other options, and "auto" leaves the choice to the model."""
    return None if model.is_ours or config.device == "auto" else config.device


def write_task(folder: Path, name: str, questions: list[Question], config: EvalConfig) -> None:
    """A YAML file (written as JSON, which YAML includes) for these questions, with the settings beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    settings, rows = folder / f"{name}.settings.json", folder / f"{name}.questions.jsonl"
    located = [_absolute(question) for question in questions]
    write_text(rows, "".join(question_line(question) for question in located))
    value = {"data_root": str(config.data_root.absolute()), "template": to_json(config.template)}
    write_text(settings, json.dumps(value | {"questions": str(rows.absolute())}))
    sampling = config.sampling
    generation = {
        "until": [],
        "max_new_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "do_sample": sampling.temperature > 0,
    }
    generation |= {"top_k": sampling.top_k} if sampling.top_k else {}
    generation |= {"repetition_penalty": sampling.repetition_penalty} if sampling.repetition_penalty != 1.0 else {}
    task = {
        "include": str((TASK_FOLDER / "level_template").absolute()),
        "task": name,
        "dataset_name": questions[0].split,
        "dataset_kwargs": {"settings": str(settings.absolute())},
        "generation_kwargs": generation,
    }
    write_text(folder / f"{name}.yaml", json.dumps(task, indent=1, ensure_ascii=False) + "\n")


def _absolute(question: Question) -> Question:
    video = None if question.video is None else question.video.absolute()
    return replace(question, video=video, image=question.image.absolute())


def _model_info(model: str, lmms_model: str, args: str) -> ModelInfo:
    """What can be known of a checkpoint that lmms-eval loads: its weight files if it is a folder, else its name."""
    folder = Path(model)
    weights = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin")) if folder.is_dir() else []
    mark = fingerprint(weights) if weights else hashlib.sha256(f"{lmms_model} {model} {args}".encode()).hexdigest()[:16]
    return ModelInfo(path=model, name=model_name(model), fingerprint=mark)


def _protocol_id(config: EvalConfig, model: LmmsModel, version: str) -> str:
    """First 8 hex digits of the hash of what we know to change numbers: wording, sampling, the model's arguments."""
    settings = sorted(pair for pair in model.args.split(",") if pair.partition("=")[0] not in _NO_SETTINGS)
    sampled = {name: value for name, value in to_json(config.sampling).items() if name not in ("seed", "logprobs")}
    parts = [version, model.name, settings, to_json(config.template), sampled, PARSER_VERSION]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]


def _as_toml(template: Template) -> str:
    """A prompt file. JSON strings are TOML strings, but for the character 127."""
    values = {name: value for name, value in to_json(template).items() if value is not None}
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]
    return "\n".join(lines).replace("\x7f", "\\u007f") + "\n"
