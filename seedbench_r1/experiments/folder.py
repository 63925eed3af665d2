"""An experiment's folder: where everything lies, whose it is, and what is done so far."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from seedbench_r1.config import EVAL_TABLE
from seedbench_r1.config_file import read_config_file, toml_lines
from seedbench_r1.demo.settings import CONFIG
from seedbench_r1.errors import ConfigError, DataError
from seedbench_r1.experiments.recipe import Recipe, Settings
from seedbench_r1.files import JsonObject, claim, make_folder, read_json_object, write_json, write_text, writing
from seedbench_r1.models.checkpoint import list_checkpoints, step_of
from seedbench_r1.typed_json import from_json
from seedbench_r1.types import to_json
from trainers.config import TRAIN_TABLE

SCHEMA = "sbr1.experiment/1"
PARTS = ("data", "models", "variants", "suites")  # of experiment.json
Kind = Literal["train", "eval", "judge", "probe"]
Words = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What is known of a job: jobs/NAME.json, replaced as a whole."""

    done: tuple[Words, ...] = ()  # commands that have ended well
    doing: Words = ()  # the one that was started last
    failed: str = ""  # why the last one did not end well; empty: it did, or it is running
    steps: int | None = None  # of its training, in all
    submitted: str | None = None  # submitit's id of what was started last


@dataclass(frozen=True, slots=True)
class Folder:
    """The paths below --out."""

    root: Path
    scratch: Path | None = None  # where settings and the miniature's data are instead, for a dry run

    @property
    def runs(self) -> Path:
        """Run directories, in a folder for each suite."""
        return self.root / "runs"

    @property
    def trainings(self) -> Path:
        """A folder of checkpoints for each training."""
        return self.root / "trainings"

    @property
    def logs(self) -> Path:
        """A file for each job."""
        return self.root / "logs"

    @property
    def jobs(self) -> Path:
        """A record and a lock for each job."""
        return self.root / "jobs"

    @property
    def data(self) -> Path:
        """The data root of the miniature."""
        return (self.scratch or self.root) / "data"

    @property
    def settings(self) -> Path:
        """What every train and eval is given as --config."""
        return (self.scratch or self.root) / "settings.toml"

    def log(self, job: str) -> Path:
        """Where the commands of a job write."""
        return self.logs / f"{job}.log"

    def lock(self, job: str) -> Path:
        """The file that a job's command holds while it runs."""
        return self.jobs / f".{job}.lock"

    def record(self, job: str) -> JobRecord:
        """What is known of a job. Raises DataError for a file that was edited."""
        path = self.jobs / f"{job}.json"
        if not path.exists():
            return JobRecord()
        try:
            return from_json(JobRecord, read_json_object(path, DataError))
        except ValueError as error:
            raise DataError(
                f"{path} is no job's record ({error}). Fix: remove it; finished work is found again."
            ) from error

    def write_record(self, job: str, record: JobRecord) -> None:
        """Replace what is known of a job. Raises ResourceError."""
        make_folder(self.jobs)
        write_json(self.jobs / f"{job}.json", to_json(record))

    def claim_job(self, job: str) -> int | None:
        """A descriptor that holds the job's lock until all who have it close it; None while another process has it.

        A started command inherits it: one that outlives its driver keeps the next driver from starting it twice.
        """
        make_folder(self.jobs)
        with writing(self.lock(job)):
            descriptor = os.open(self.lock(job), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def is_running(self, job: str) -> bool:
        """Whether a command of the job is running now. Takes nothing, and makes nothing."""
        with suppress(FileNotFoundError):
            descriptor = os.open(self.lock(job), os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            finally:
                os.close(descriptor)
        return False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other drivers out. Raises ConfigError, with its process id, if there is one."""
        make_folder(self.root)
        descriptor = claim(self.root / ".experiment.lock", self.root, fcntl.LOCK_EX)
        try:
            yield
        finally:
            os.close(descriptor)

    def checkpoints(self, job: str) -> dict[int, Path]:
        """Step -> folder, of a training's checkpoints, oldest first."""
        return {step_of(path): path for path in list_checkpoints(self.trainings / job)}

    def open(self, recipe: Recipe, *, keep: Sequence[str] = PARTS) -> None:
        """Make it this recipe's, or find that it is. Raises ConfigError where what is measured would differ.

        keep: what of the recipe is kept in the folder from now on. Before all is checked that is the data alone, so
        that a recipe which is refused can be mended.
        """
        path = self.root / "experiment.json"
        wanted = _identity(recipe)
        known: JsonObject = {"schema": SCHEMA} | {part: {} for part in PARTS}
        if path.exists():
            known = read_json_object(path, ConfigError)
            _refuse_differences(self.root, known, wanted)
        elif self.root.exists() and any(entry.name != ".experiment.lock" for entry in self.root.iterdir()):
            raise ConfigError(f"{self.root} holds something else than an experiment. Fix: another --out.")
        if keep:
            make_folder(self.root)
            write_json(path, known | {part: {**known[part], **wanted[part]} for part in keep})


def _identity(recipe: Recipe) -> dict[str, dict[str, object]]:
    """What may be added to, and not be changed: name by name."""
    variants = {
        name: {"model": variant.model, **recipe.train, **variant.settings} for name, variant in recipe.variants.items()
    }
    found: dict[str, dict[str, Any]] = {
        "data": {"miniature": recipe.miniature},
        "models": recipe.models,
        "variants": variants,
        "suites": {name: {**recipe.eval, **settings} for name, settings in recipe.suites.items()},
    }
    return {part: {name: to_json(value) for name, value in values.items()} for part, values in found.items()}


def _refuse_differences(root: Path, known: JsonObject, wanted: dict[str, dict[str, object]]) -> None:
    if known.get("schema") != SCHEMA or not all(isinstance(known.get(part), dict) for part in wanted):
        raise ConfigError(f"{root / 'experiment.json'} was not written by this version. Fix: another --out.")
    for part, values in wanted.items():
        there = known[part]
        for name, value in values.items():
            if name in there and there[name] != value:
                raise ConfigError(
                    f"{root} was made by another recipe: {part}.{name} was {there[name]}, and is {value} here. Nothing "
                    f"was changed. Fix: another --out, or the former settings; new ones under another name."
                )


def write_settings(recipe: Recipe, file: Path, data: Path) -> None:
    """The settings of all commands as one file for --config: the miniature's, and over them the recipe's.

    data: where the miniature's own file is, if the recipe is on it.
    """
    train: Settings = {}
    evaluation: Settings = {}
    if recipe.miniature is not None:
        train = read_config_file(data / CONFIG, Path(), TRAIN_TABLE)
        evaluation = read_config_file(data / CONFIG, Path(), EVAL_TABLE)
    lines = ["# The settings of this experiment's commands, for --config. Written anew by each `experiment run`."]
    # Judges and probes share nothing, but are not to read a file of the working directory either.
    tables: dict[str, Settings] = {
        "train": train | recipe.train,
        "eval": evaluation | recipe.eval,
        "judge": {},
        "probe": {},
    }
    for name, settings in tables.items():
        whole = {key: value.absolute() if isinstance(value, Path) else value for key, value in settings.items()}
        lines += ["", f"[{name}]", toml_lines(whole).rstrip()]
    write_text(file, "\n".join(lines).rstrip() + "\n")
