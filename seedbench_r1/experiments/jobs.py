"""Jobs: a model to be run, or a training and the measurements of its checkpoints. Each is commands in order."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seedbench_r1.config import TABLE as EVAL_TABLE
from seedbench_r1.errors import ConfigError
from seedbench_r1.experiments.folder import Folder, JobRecord, Kind, Words
from seedbench_r1.experiments.recipe import COMMAND, Recipe, Settings, Variant, checkpoint_of
from seedbench_r1.judges.config import TABLE as JUDGE_TABLE
from seedbench_r1.judges.probe_config import TABLE as PROBE_TABLE
from seedbench_r1.models.checkpoint import TRAINING
from seedbench_r1.options import Setting
from seedbench_r1.runs.probes import FILE as PROBES
from seedbench_r1.runs.samples import FILE as SAMPLES
from seedbench_r1.runs.verdicts import FILE as VERDICTS
from trainers.config import TABLE as TRAIN_TABLE


@dataclass(frozen=True, slots=True)
class Job:
    """One model of an experiment."""

    name: str  # of its log, its training and its runs
    variant: Variant | None  # None: a model that is there already
    seed: int | None
    after: str | None = None  # the job whose newest checkpoint it starts from


@dataclass(frozen=True, slots=True)
class Step:
    """A command of ours."""

    kind: Kind
    words: Words  # behind seedbench-r1
    made: Path  # is there once it has ended; without it, it is done again


@dataclass(frozen=True, slots=True)
class Run:
    """A checkpoint on a suite."""

    path: Path
    suite: str
    step: int | None  # of the training; None: a model that was there, or the newest alone


def jobs_of(recipe: Recipe, only: Iterable[str] | None = None, seeds: Iterable[int] | None = None) -> list[Job]:
    """The models first, then seed by seed the variants. Raises ConfigError for a name that the recipe lacks.

    only: variants; models are measured in any case, and so are variants that these start from.
    """
    wanted = set(recipe.variants) if only is None else set(only)
    if unknown := sorted(wanted - set(recipe.variants)):
        raise ConfigError(f"No variant {unknown[0]!r}. There are: {', '.join(recipe.variants)}.")
    for name in list(wanted):
        while (model := recipe.variants[name].model) in recipe.variants:
            wanted.add(model)
            name = model
    jobs = [Job(name, None, None) for name in recipe.models]
    for seed in recipe.seeds if seeds is None else dict.fromkeys(seeds):
        for variant in recipe.variants.values():
            if variant.name in wanted:
                after = f"{variant.model}-seed{seed}" if variant.model in recipe.variants else None
                jobs.append(Job(f"{variant.name}-seed{seed}", variant, seed, after))
    return jobs


def next_step(recipe: Recipe, folder: Folder, job: Job, record: JobRecord) -> Step | None:
    """The first command of a job that has not ended well; None: the job is done."""
    if job.variant is not None:
        training = training_step(recipe, folder, job)
        if not _is_done(training, record):
            return training
    return next((step for step in measuring_steps(recipe, folder, job) if not _is_done(step, record)), None)


def _is_done(step: Step, record: JobRecord) -> bool:
    return step.words in record.done and step.made.exists()


def training_step(recipe: Recipe, folder: Folder, job: Job) -> Step:
    """The training of a variant's job."""
    assert job.variant is not None
    out = folder.trainings / job.name
    settings = training_settings(recipe, folder, job)
    made = max(folder.checkpoints(job.name).items(), default=(0, out / "checkpoint"))[1] / TRAINING
    return Step("train", ("train", "--config", str(folder.settings), *words_of(settings, TRAIN_TABLE)), made)


def training_settings(recipe: Recipe, folder: Folder, job: Job) -> Settings:
    """What the command line of a job's training says, by name; the rest is in the settings file."""
    assert job.variant is not None
    model = checkpoint_of(recipe.start_of(job.variant))
    if job.after is not None and (there := folder.checkpoints(job.after)):
        model = str(there[max(there)])
    settings: Settings = {"model": model, "out": folder.trainings / job.name, **job.variant.settings, "seed": job.seed}
    # On the command line, where SBR1_DATA_ROOT does not take its place.
    data = {**recipe.train, **job.variant.settings}.get("data", folder.data if recipe.miniature else None)
    return settings | ({} if data is None else {"data": data})


def runs_of(recipe: Recipe, folder: Folder, job: Job) -> list[Run]:
    """What is measured of a job, once its training has ended."""
    steps: list[int | None] = [None]
    if job.variant is not None and recipe.checkpoints != "newest":
        there = folder.checkpoints(job.name)
        steps = list(there if recipe.checkpoints == "all" else recipe.checkpoints)
    names = [(step, job.name if step is None else f"{job.name}-step{step}") for step in steps]
    return [Run(folder.runs / suite / name, suite, step) for step, name in names for suite in recipe.suites]


def measuring_steps(recipe: Recipe, folder: Folder, job: Job) -> list[Step]:
    """Evaluations, verdicts and probes of a job, run by run."""
    steps: list[Step] = []
    there = folder.checkpoints(job.name)
    for run in runs_of(recipe, folder, job):
        if job.variant is None:
            model = checkpoint_of(recipe.models[job.name])
        else:
            step = max(there) if run.step is None else run.step
            if step not in there:
                raise ConfigError(f"{folder.trainings / job.name} has no checkpoint-{step} to be measured.")
            model = str(there[step])
        options = evaluation(recipe, folder, run.suite, model)
        where = {"runs_dir": run.path.parent, "run_name": run.path.name}
        # Samples have these files each, in folders of their seeds.
        several = {**recipe.eval, **options}.get("samples", 1) > 1
        answers, verdicts, probed = (SAMPLES,) * 3 if several else ("manifest.json", VERDICTS, PROBES)
        words: Words = ("eval", "--config", str(folder.settings), *words_of(options | where, EVAL_TABLE))
        steps.append(Step("eval", words, run.path / answers))
        if is_judged(recipe, run.suite):
            for judge in recipe.judges:
                words = ("judge", str(run.path), "--config", str(folder.settings), *words_of(judge, JUDGE_TABLE))
                steps.append(Step("judge", words, run.path / verdicts))
        if suite_of(recipe, run.suite) == "seedbench-r1":
            for probe in recipe.probes:
                words = ("probe", str(run.path), "--config", str(folder.settings), *words_of(probe, PROBE_TABLE))
                steps.append(Step("probe", words, run.path / probed))
    return steps


def evaluation(recipe: Recipe, folder: Folder, suite: str, model: str) -> Settings:
    """The options of a model's evaluation that are not in the settings file."""
    settings = recipe.suites[suite]
    root = {**recipe.eval, **settings}.get("data_root", folder.data if recipe.miniature else None)
    found: Settings = {"model": model, **settings}
    return found if root is None else found | {"data_root": root}


def suite_of(recipe: Recipe, name: str) -> str:
    """Whose questions a suite of the recipe asks."""
    found: str = {**recipe.eval, **recipe.suites[name]}.get("suite", "seedbench-r1")
    return found


def is_judged(recipe: Recipe, suite: str) -> bool:
    """Whether judges know the suite's answers; the miniature's exact judge knows its own world alone."""
    return recipe.miniature is None or suite_of(recipe, suite) == "seedbench-r1"


def words_of(settings: Mapping[str, Any], table: Mapping[str, Setting]) -> Words:
    """Settings as a command line takes them. What is off and has no --no-OPTION is left out."""
    words: list[str] = []
    for name, value in settings.items():
        row = table[name]
        if row.type is bool:
            words += [row.flag] if value else [f"--no-{row.flag[2:]}"] if row.option.negatable else []
        elif row.option.several:
            words += [word for item in value for word in (row.flag, str(item))]
        elif name == "shard":
            words += [row.flag, "/".join(map(str, value))]
        elif isinstance(value, tuple | list):
            words += [row.flag, ",".join(map(str, value))]
        else:
            words += [row.flag, str(value)]
    return tuple(words)


def launch_words(recipe: Recipe, step: Step, program: Words) -> Words:
    """What is started for a step: `program` is what runs seedbench-r1; trainings go behind the launch line."""
    command = (*program, *step.words)
    if step.kind != "train" or not recipe.launch.line:
        return command
    words: list[str] = []
    line = shlex.split(recipe.launch.line)
    for word in line:
        words += command if word == COMMAND else [word.replace("{processes}", str(recipe.launch.processes))]
    return tuple(words if COMMAND in line else [*words, *command])
