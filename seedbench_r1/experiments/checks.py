"""Everything that can be refused before anything starts, and the arithmetic of what would: hours, memory, disk."""

from __future__ import annotations

import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seedbench_r1.demo.settings import write_settings as write_miniature_settings
from seedbench_r1.errors import ConfigError, DataError, ResourceError
from seedbench_r1.experiments.folder import Folder, write_settings
from seedbench_r1.experiments.jobs import Job, evaluation, jobs_of, training_settings
from seedbench_r1.experiments.recipe import COMMAND, Recipe, checkpoint_of
from seedbench_r1.experiments.recipe_file import COMMANDS, Place
from seedbench_r1.files import existing_folder
from seedbench_r1.judges.config import resolve_judge_config
from seedbench_r1.judges.probe_config import resolve_probe_config
from seedbench_r1.suites import resolve
from trainers.resolve import resolve_train_config

if TYPE_CHECKING:
    from trainers.plan import TrainPlan


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Of one training, by trainers.estimate: not measured."""

    job: Job
    processes: int
    steps: int  # in all
    left: int  # of them
    step_s: float
    device: int  # bytes of each process's GPU, at most
    main_memory: int  # bytes, of all processes
    most: int  # bytes of checkpoints, at most at once
    kept: int  # of them when it has ended

    @property
    def gpu_hours(self) -> float:
        """Of the steps that are left."""
        return self.left * self.step_s * self.processes / 3600


def check_settings(recipe: Recipe) -> None:
    """Every option of every command. Needs no data. Raises ConfigError with the line in the recipe."""
    with tempfile.TemporaryDirectory() as name:
        folder = Folder(Path(name))
        if recipe.miniature is not None:
            write_miniature_settings(folder.data)
        write_settings(recipe, folder.settings, folder.data)
        for job in jobs_of(recipe, seeds=recipe.seeds[:1]):
            if job.variant is not None:
                with _blamed(recipe, ("variants", job.variant.name)):
                    resolve_train_config(training_settings(recipe, folder, job), config_file=folder.settings)
        for suite in recipe.suites:
            with _blamed(recipe, ("suites", suite)):
                for model in recipe.models.values():
                    resolve(evaluation(recipe, folder, suite, checkpoint_of(model)), config_file=folder.settings)
        for place, judge in enumerate(recipe.judges):
            with _blamed(recipe, ("judges", place)):
                resolve_judge_config(judge, config_file=folder.settings)
        for place, probe in enumerate(recipe.probes):
            with _blamed(recipe, ("probes", place)):
                resolve_probe_config(probe, config_file=folder.settings)


def check_models(recipe: Recipe, folder: Folder) -> None:
    """Plan the evaluations of every model, as `eval --dry-run` does: questions, media, checkpoint, prompts.

    Raises as it does, with the line of the suite.
    """
    from seedbench_r1.engines.plan import plan

    for suite in recipe.suites:
        with _blamed(recipe, ("suites", suite)):
            for model in recipe.models.values():
                options = evaluation(recipe, folder, suite, checkpoint_of(model))
                plan(resolve(options | {"runs_dir": folder.runs / suite}, config_file=folder.settings), command="")


def check_trainings(recipe: Recipe, folder: Folder, jobs: Sequence[Job], *, here: bool) -> list[Arithmetic]:
    """Plan every training, as `train --dry-run` does, and count what it will take. Loads no model.

    Args:
        recipe: of the experiment, whose settings file is written.
        folder: of the experiment.
        jobs: those that are to be done.
        here: trainings run on this machine, so that its GPUs are looked at.

    Raises:
        ConfigError, DataError, ResourceError: as it does, with the line of the variant; or a checkpoint is to be
            measured that will not be there.
    """
    from seedbench_r1.backends.loading import resolve_device
    from trainers.plan import plan_training

    processes, found = recipe.launch.processes, []
    for job in jobs:
        if job.variant is None:
            continue
        with _blamed(recipe, ("variants", job.variant.name)):
            config = resolve_train_config(training_settings(recipe, folder, job), config_file=folder.settings)
            planned = plan_training(config, world_size=processes, disk=False)
            if here:
                resolve_device(planned.config.device)
            _check_checkpoints(recipe, planned.n_steps, config.save_steps, config.save_total_limit)
            found.append(_arithmetic(job, planned))
    return found


def _arithmetic(job: Job, planned: TrainPlan) -> Arithmetic:
    from trainers.estimate import estimate

    config, steps, processes = planned.config, planned.n_steps, planned.world_size
    guess = estimate(config, planned.checkpoint, planned.questions_per_process, processes)
    saved = -(-steps // config.save_steps)
    return Arithmetic(
        job=job,
        processes=processes,
        steps=steps,
        left=steps - planned.done,
        step_s=guess.step_s,
        device=guess.device_bytes(config),
        main_memory=guess.main_memory_bytes(config) * processes,
        most=guess.disk_bytes(config, steps),
        kept=guess.checkpoint + guess.weights_file * (min(config.save_total_limit or saved, saved) - 1),
    )


def check_launch(recipe: Recipe) -> None:
    """Raise ConfigError if what the launch line begins with cannot be found here."""
    program = shlex.split(recipe.launch.line)[:1]
    if recipe.launch.slurm is None and program and program[0] != COMMAND and shutil.which(program[0]) is None:
        raise recipe.file.error(
            ("launch", "line"), f"there is no program {program[0]!r} here. Fix: activate the environment that has it."
        )


def _check_checkpoints(recipe: Recipe, n_steps: int, every: int, keep: int | None) -> None:
    """Raise ConfigError for a checkpoint to be measured that a training will not have at its end."""
    if recipe.checkpoints == "newest":
        return
    written = sorted({*range(every, n_steps + 1, every), n_steps})
    there = written[-keep:] if keep else written
    wanted = written if recipe.checkpoints == "all" else list(recipe.checkpoints)
    if lacking := [step for step in wanted if step not in there]:
        raise ConfigError(
            f"checkpoint {lacking[0]} is to be measured, and at the end there are {', '.join(map(str, there))}. Fix: "
            f"save_steps and save_total_limit, of which {len(written)} keeps them all; or checkpoints."
        )


def disk_need(found: Sequence[Arithmetic], jobs: int) -> int:
    """Bytes of all checkpoints at once: what each training leaves, and of those under way the most."""
    more = sorted((one.most - one.kept for one in found), reverse=True)
    return sum(one.kept for one in found) + sum(max(0, extra) for extra in more[:jobs])


def check_disk(folder: Folder, found: Sequence[Arithmetic], jobs: int) -> None:
    """Raise ResourceError unless all trainings have room together; each alone was looked at when it was planned."""
    need = disk_need(found, jobs)
    held = sum(
        path.stat().st_size for one in found for path in (folder.trainings / one.job.name).rglob("*") if path.is_file()
    )
    free = shutil.disk_usage(existing_folder(folder.root)).free
    if need > free + held:
        raise ResourceError(
            f"{folder.root} will hold {need / 1e9:.1f} GB of checkpoints; {free / 1e9:.1f} GB are free. Nothing was "
            f"started. Fix: --out on another disk, a lower save_total_limit, or --only some variants at a time."
        )


@contextmanager
def _blamed(recipe: Recipe, place: Place) -> Iterator[None]:
    """What is refused inside, with the place in the recipe that asks for it."""
    try:
        yield
    except ConfigError as error:
        raise recipe.file.error(_option(recipe, place, str(error)), f"{_named(place)}: {error}") from error
    except (DataError, ResourceError) as error:
        raise type(error)(f"{recipe.file.error(place, _named(place))}: {error}") from error


def _option(recipe: Recipe, place: Place, message: str) -> Place:
    """Where the first option that a message names stands: in the table itself, else in the one that all share."""
    kind = str(place[0])
    shared: Place = ({"variants": "train", "suites": "eval"}.get(kind, kind),)
    for table_place in (place, shared) if shared != (kind,) else (place,):
        table = recipe.file.at(table_place)
        for name, row in COMMANDS[kind].table.items():
            if name in table and re.search(rf"(?<![\w-])({row.flag}|{name} is)(?![\w-])", message):
                return (*table_place, name)
    return place


def _named(place: Place) -> str:
    kind, name = place
    return f"{str(kind).removesuffix('s')} {name}" if isinstance(name, str) else f"[[{kind}]]"
