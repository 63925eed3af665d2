"""The engine on lmms-eval: it answers, and its samples files become a run directory like any other.

The questions asked are those of the run that have no answer yet, so the same command continues. Parsing and scoring are
done again here, by the same functions as for our own backends.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from seedbench_r1.config import LMMS_PATH_ARGUMENTS, TABLE, EvalConfig, lmms_checkpoint, settings
from seedbench_r1.config_file import toml_lines
from seedbench_r1.engines import lmms_process
from seedbench_r1.engines.base import Plan, Recorder, RunProtocol
from seedbench_r1.engines.lmms_process import OWN_MODEL, TASK_FOLDER, LmmsJob, LmmsModel
from seedbench_r1.errors import ConfigError, DataError
from seedbench_r1.files import utc_now, write_text
from seedbench_r1.models.checkpoint import Checkpoint, inspect_model, model_name
from seedbench_r1.parsing import assumed_opening
from seedbench_r1.prompts import DEFAULT_TEMPLATE, prompt_file_table
from seedbench_r1.runs.records import question_line
from seedbench_r1.scoring import to_record
from seedbench_r1.suites.base import Suite
from seedbench_r1.types import Failure, Generation, ModelInfo, Question, RunRecord, SamplingConfig, VideoConfig, to_json

WORK = "lmms-eval"  # in the run directory: a folder for each call, and the run of our own model
# Settings of a run that our model under lmms-eval gets in another way, or that are this side's business
_SAID_OTHERWISE = {"model", "data_root", "levels", "annotations", "batch_size", "suite", "engine", "protocol"}
_SAID_OTHERWISE |= {"lmms_model", "lmms_model_args", "data_parallel", "max_error_rate", "retry_errors"}
_SAID_OTHERWISE |= {"runs_dir", "run_name", "limit", "fresh", "allow_missing"}
_NO_SETTINGS = {*LMMS_PATH_ARGUMENTS, "device", "device_map", "batch_size", "num_concurrent", "timeout", "base_url"}


def loads_the_model(config: EvalConfig) -> bool:
    """Whether a model of lmms-eval's own answers, whose frames, pixels and weights are its business."""
    return config.engine == "lmms-eval" and config.lmms_model != OWN_MODEL


def identify_model(config: EvalConfig) -> tuple[Checkpoint | None, ModelInfo]:
    """What can be known of a checkpoint that lmms-eval loads: as of any other if it is a folder, else its name."""
    model = lmms_checkpoint(config.lmms_model_args or "") or config.model
    if Path(model).is_dir():
        checkpoint = inspect_model(model, any_architecture=True)
        return checkpoint, checkpoint.info
    # No weights to hash: the name and its arguments are all that identifies it.
    mark = hashlib.sha256(f"{config.lmms_model} {model} {config.lmms_model_args or ''}".encode()).hexdigest()[:16]
    return None, ModelInfo(path=model, name=model_name(model), fingerprint=mark)


def protocol_of(config: EvalConfig) -> RunProtocol:
    """lmms-eval's own models choose frames and pixels themselves: their runs compare with no others."""
    version = lmms_process.lmms_eval_version()
    named = RunProtocol("lmms-eval", _protocol_id(config, lmms_model(config), version), "")
    return under_lmms_eval(named, config.lmms_model or "")


def under_lmms_eval(protocol: RunProtocol, model: str = OWN_MODEL) -> RunProtocol:
    """The protocol of a run that lmms-eval carries out: our model under it keeps its own."""
    return replace(
        protocol,
        backend=f"lmms-eval:{model}",
        model_suffix=f"-lmms-{model}",
        versions={"lmms-eval": lmms_process.lmms_eval_version()},
    )


def lmms_model(config: EvalConfig) -> LmmsModel:
    """The model as lmms-eval is to be told of it; for ours, `args` are additions to what the settings say."""
    name, args = config.lmms_model or OWN_MODEL, config.lmms_model_args or ""
    if name != OWN_MODEL and lmms_checkpoint(args) is None:
        args = ",".join(filter(None, [f"pretrained={config.model}", args]))
    return LmmsModel(name, args)


def _ignored(config: EvalConfig) -> list[str]:
    """Flags of the settings that were changed and that a model of lmms-eval's own never sees."""
    names = ("dtype", "batch_size", "base_model", "revision", "workers", "decode_timeout_s", "frame_cache")
    changed = [name for name in names if getattr(config, name) != TABLE[name].default]
    standard = VideoConfig(size_multiple=config.video.size_multiple)
    changed += [name for name in to_json(standard) if getattr(config.video, name) != getattr(standard, name)]
    changed += ["thinking"] if config.template.thinking != "auto" else []
    return [TABLE[name].flag for name in changed]


def check_additions(args: str) -> None:
    """Raise ConfigError if arguments of the user's for our model would override what the run says of itself."""
    named = {pair.partition("=")[0] for pair in args.split(",")}
    for name in sorted(named & {"pretrained", *TABLE}):
        flag = "--model" if name == "pretrained" else TABLE[name].flag
        raise ConfigError(f"--lmms-model-args names {name}, which is a setting of this run. Fix: {flag} instead.")


def own_model_args(config: EvalConfig, folder: Path) -> str:
    """--model_args that make our model under lmms-eval do what `config` says, with its runs below `folder`.

    A wording of the user's is written to prompt.toml there. Raises ConfigError for values that lmms-eval cannot carry.
    """
    options: dict[str, object] = {"pretrained": config.model}
    if Path(config.model).exists():
        options["pretrained"] = Path(config.model).absolute()
    options |= {name: value for name, value in settings(config).items() if name not in _SAID_OTHERWISE}
    if config.annotations is not None:
        options["annotations"] = config.annotations.absolute()
    if prompt_file_table(config.template) != prompt_file_table(DEFAULT_TEMPLATE):
        options["prompt_file"] = (folder / "prompt.toml").absolute()
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "prompt.toml", toml_lines(prompt_file_table(config.template)))
    # What is not said here is a default; the user's file, read already, must not decide it a second time.
    said = {"config": os.devnull, "runs_dir": folder.absolute(), "allow_missing": True}
    return lmms_process.join_model_args(options | said)


class LmmsEngine(nullcontext["LmmsEngine"]):
    """Asks lmms-eval every pending question, in a process of its own, and counts what came back.

    A question that is not in the samples exactly once is a failure: the run is INCOMPLETE and the next call asks again.
    """

    stop_message = "Stopping: lmms-eval saves nothing before its end, so the answers of this call are lost."

    def __init__(self) -> None:
        super().__init__(self)

    def check(self, config: EvalConfig, suite: Suite) -> None:
        """Raise ConfigError if lmms-eval is not installed, no model of it was named, or the suite is not ours alone."""
        lmms_process.lmms_eval_version()
        if suite.name != "seedbench-r1":
            raise ConfigError(
                f"--suite {suite.name} does not run on --engine lmms-eval, whose tasks ask otherwise. "
                f"Fix: leave out --engine, or --suite transfer-lmms for lmms-eval's own tasks."
            )
        if config.lmms_model is None:
            raise ConfigError("lmms-eval needs both --engine lmms-eval and --lmms-model NAME, e.g. qwen2_5_vl.")
        if not loads_the_model(config):
            check_additions(config.lmms_model_args or "")
        if loads_the_model(config) and (ignored := _ignored(config)):
            raise ConfigError(
                f"{ignored[0]} does not reach lmms-eval's own models, which choose pixels and batches themselves. "
                f"Fix: leave it out, and say it in --lmms-model-args as {config.lmms_model} knows it."
            )

    def writers(self, plan: Plan) -> int:
        """Its answers are read when it has ended, and written by this process."""
        return 0

    def answer(self, plan: Plan, pending: Sequence[Question], recorder: Recorder, *, stop: threading.Event) -> None:
        """See engines.base.Engine. A stop ends lmms-eval at once, and this call's answers are lost.

        Raises:
            DataError: the samples files are damaged, or answer a question that was not asked.
        """
        # Kept under another name: nothing that was computed is thrown away.
        if plan.config.fresh and (plan.path / WORK).exists():
            (plan.path / WORK).rename(plan.path / f"{WORK}-until-{utc_now().replace(':', '')}")
        # lmms-eval would stop at the first file it cannot open, and lose everything before it.
        absent = set(plan.missing)
        asked = [question for question in pending if not absent & {question.video, question.image}]
        for question in pending:
            if absent & {question.video, question.image}:
                failure = Failure("media_error", "its media are absent; lmms-eval was not asked")
                recorder.write(to_record(question, failure))
        if not asked or stop.is_set():
            return
        # A folder for each call: samples of an earlier call must not be counted again.
        job = _prepare(plan, lmms_model(plan.config), asked)
        recorder.say(
            f"lmms-eval answers {len(asked):,} questions and saves nothing before its end; messages: {job.log}"
        )
        lmms_process.run_job(job, stop=stop)
        if not stop.is_set():
            for record in read_records(job, asked, plan.config.sampling):
                recorder.keep(record)


def read_records(job: LmmsJob, asked: list[Question], sampling: SamplingConfig) -> list[RunRecord]:
    """One record for each question that was asked, from the samples files.

    Raises:
        DataError: a sample without question_id and raw_text, or of a question that was not asked.
    """
    samples: dict[str, list[dict[str, Any]]] = defaultdict(list)
    known = {question.question_id for question in asked}
    for task in job.tasks:
        for sample in lmms_process.read_samples(job, task):
            if sample.get("question_id") not in known or not isinstance(sample.get("raw_text"), str):
                raise DataError(f"{job.out}: task {task} holds {sample.get('question_id')!r}, which was not asked.")
            samples[sample["question_id"]].append(sample)
    # The log's end is what tells the user why, so it goes into each failure.
    reason = lmms_process.last_words(job.log) if len(samples) < len(asked) else ""
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
    # An empty answer and a swallowed exception look alike but for the count.
    if not sample["raw_text"] and n_tokens is None:
        return Failure("backend_error", "empty text without a token count: what lmms-eval's models give after an error")
    return Generation(
        text=sample["raw_text"],
        token_ids=(),
        finish_reason="length" if (n_tokens or 0) >= sampling.max_new_tokens else "stop",
        n_prompt_tokens=counts.get("input_tokens") or 0,
        n_tokens=n_tokens or 0,
        latency_s=0.0,
        opened=assumed_opening(sample["raw_text"]),
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
    """A YAML file (written as JSON, which YAML includes) for these questions, with the settings next to it."""
    folder.mkdir(parents=True, exist_ok=True)
    settings, rows = folder / f"{name}.settings.json", folder / f"{name}.questions.jsonl"
    # The task's file lies in another folder than the paths that the user typed.
    located = [question.with_absolute_paths() for question in questions]
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


def _protocol_id(config: EvalConfig, model: LmmsModel, version: str) -> str:
    """First 8 hex digits of the hash of what we know to change numbers: wording, sampling, the model's arguments."""
    # Paths and devices change no answer.
    settings = sorted(pair for pair in model.args.split(",") if pair.partition("=")[0] not in _NO_SETTINGS)
    sampled = {name: value for name, value in to_json(config.sampling).items() if name not in ("seed", "logprobs")}
    parts = [version, model.name, settings, to_json(config.template), sampled, 1]  # 1: see config.protocol_id
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]
