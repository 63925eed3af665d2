"""A recipe: which trainings, which measurements, how they are launched. Read from TOML, every key checked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from seedbench_r1.config_file import ConfigTable
from seedbench_r1.demo.models import shipped_model
from seedbench_r1.errors import ConfigError
from seedbench_r1.experiments.recipe_file import COMMANDS, Place, RecipeFile, read_recipe_file

Settings = dict[str, Any]  # of a command: names of options -> values, paths as Path
Checkpoints = Literal["newest", "all"] | tuple[int, ...]

DEMO = "demo:"  # before the name of a model that comes with the package
COMMAND = "{command}"  # of a launch line: where the training's words go
KEYS = ("title", "baseline", "seeds", "checkpoints", "jobs", "data", "models", "launch", *COMMANDS)
_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*", re.ASCII)  # a part of folders' names
# What the experiment decides itself, and a recipe therefore does not.
_DECIDED: dict[str, frozenset[str]] = {
    "train": frozenset({"model", "out", "seed"}),
    "variants": frozenset({"out", "seed"}),
    "eval": frozenset({"model", "runs_dir", "run_name", "fresh", "shard", "seeds"}),
    "suites": frozenset({"model", "runs_dir", "run_name", "fresh", "shard", "seeds"}),
    "judges": frozenset(),
    "probes": frozenset({"model"}),
}


@dataclass(frozen=True, slots=True)
class Variant:
    """A way of training."""

    name: str
    model: str  # what it starts from: a name of Recipe.models, or another variant, whose newest checkpoint it is
    settings: Settings  # of train, over Recipe.train


@dataclass(frozen=True, slots=True)
class Launch:
    """How a training is started."""

    line: str = ""  # torchrun and its options, with {command} and {processes}; empty: the command itself
    processes: int = 1  # of one training: of each its GPU
    slurm: Settings | None = None  # parameters of submitit's executor; None: on this machine
    cluster: str = "slurm"  # submitit's name of the executor; local: processes on this machine, for trying


@dataclass(frozen=True, slots=True)
class Miniature:
    """Data that `demo generate` writes into the experiment's folder."""

    questions: int = 300  # of each level
    rows: int = 2400  # of training, and as many traces
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that an experiment is."""

    name: str
    title: str
    file: RecipeFile
    miniature: Miniature | None
    models: dict[str, str]  # name -> checkpoint; each is measured too
    variants: dict[str, Variant]
    seeds: tuple[int, ...]
    checkpoints: Checkpoints  # of each training, that are measured
    train: Settings
    eval: Settings
    suites: dict[str, Settings]  # name -> options of eval
    judges: tuple[Settings, ...]  # the first one's verdicts are the consistency of the tables
    probes: tuple[Settings, ...]
    baseline: str | None  # a variant or model that the others are compared with
    launch: Launch
    jobs: int  # at once

    def start_of(self, variant: Variant) -> str:
        """The model that it starts from in the end, over all variants between."""
        while variant.model in self.variants:
            variant = self.variants[variant.model]
        return self.models[variant.model]


def shipped_recipes() -> dict[str, Path]:
    """Name -> file, of the recipes in the package."""
    folder = Path(str(files("seedbench_r1").joinpath("recipes")))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find_recipe(given: Path) -> Path:
    """A file, or one of the package's recipes by its name. Raises ConfigError with the names there are."""
    known = shipped_recipes()
    if not given.is_file() and str(given) in known:
        return known[str(given)]
    if not given.is_file():
        raise ConfigError(f"No recipe {str(given)!r}. Fix: a TOML file, or one of {', '.join(known)}.")
    return given


def read_recipe(given: Path, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe. Raises ConfigError, with file and line, for what is unknown, absent or of the wrong type."""
    return _Reader(read_recipe_file(find_recipe(given), changes)).recipe()


class _Reader:
    """The tables of a file, one after the other."""

    def __init__(self, file: RecipeFile) -> None:
        self._file = file

    def recipe(self) -> Recipe:
        file = self._file
        file.only((), file.table, KEYS)
        models = {name: self._text(("models", name)) for name in self._names("models")}
        variants = {name: self._variant(name, models) for name in self._names("variants")}
        suites = {name: self._options("suites", name) for name in self._names("suites")} or {"seedbench-r1": {}}
        self._check_models(models, variants)
        baseline = self._text(("baseline",)) if "baseline" in file.table else None
        if baseline is not None and baseline not in {*models, *variants}:
            known_names = ", ".join([*models, *variants])
            raise file.error(("baseline",), f"{baseline!r} is no model and no variant: {known_names}.")
        return Recipe(
            name=file.path.stem,
            title=self._text(("title",)) if "title" in file.table else file.path.stem,
            file=file,
            miniature=self._miniature(),
            models=models,
            variants=variants,
            seeds=self._seeds(),
            checkpoints=self._checkpoints(),
            train=self._options("train"),
            eval=self._options("eval"),
            suites=suites,
            judges=tuple(self._options("judges", place) for place in range(len(self._list("judges")))),
            probes=tuple(self._options("probes", place) for place in range(len(self._list("probes")))),
            baseline=baseline,
            launch=self._launch(),
            jobs=self._number(("jobs",), 1, at_least=1),
        )

    def _variant(self, name: str, models: Mapping[str, str]) -> Variant:
        settings = self._options("variants", name)
        # Of one model nobody needs to say from which one to start.
        model = settings.pop("model", next(iter(models), None))
        if "algo" not in settings and "preset" not in settings and not {"algo", "preset"} & set(self._table("train")):
            raise self._file.error(("variants", name), f"variant {name!r} has neither algo nor preset.")
        return Variant(name, str(model), settings)

    def _check_models(self, models: Mapping[str, str], variants: Mapping[str, Variant]) -> None:
        file = self._file
        if not models:
            raise ConfigError(f'{file.path} names no model to start from. Fix: [models] with start = "PATH_OR_HUB_ID".')
        if both := sorted(set(models) & set(variants)):
            raise file.error(("variants", both[0]), f"{both[0]!r} is a model and a variant. Fix: another name.")
        for name, variant in variants.items():
            if variant.model not in {*models, *variants}:
                known = ", ".join([*models, *variants])
                raise file.error(("variants", name), f"variant {name!r} starts from {variant.model!r}. Known: {known}.")
            seen, model = {name}, variant.model
            while model in variants:
                if model in seen:
                    raise file.error(("variants", name), f"variant {name!r} starts from itself.")
                seen.add(model)
                model = variants[model].model

    def _miniature(self) -> Miniature | None:
        table = self._table("data")
        self._file.only(("data",), table, ("miniature",))
        if "miniature" not in table:
            return None
        place: Place = ("data", "miniature")
        if not isinstance(table["miniature"], dict):
            raise self._file.error(place, "expected a table: questions, rows and seed.")
        self._file.only(place, table["miniature"], ("questions", "rows", "seed"))
        least = {"questions": 1, "rows": 1, "seed": 0}
        return Miniature(**{name: self._number((*place, name), 0, at_least=least[name]) for name in table["miniature"]})

    def _launch(self) -> Launch:
        table = self._table("launch")
        self._file.only(("launch",), table, ("line", "processes", "slurm", "cluster"))
        line = self._text(("launch", "line")) if "line" in table else ""
        processes = self._number(("launch", "processes"), 1, at_least=1)
        if processes > 1 and "{processes}" not in line:
            raise self._file.error(("launch", "processes"), "no place for {processes} in launch.line.")
        slurm = table.get("slurm")
        if slurm is not None and not isinstance(slurm, dict):
            raise self._file.error(("launch", "slurm"), "expected a table of submitit's parameters.")
        cluster = self._text(("launch", "cluster")) if "cluster" in table else "slurm"
        if cluster not in ("slurm", "local"):
            raise self._file.error(("launch", "cluster"), f"{cluster!r}; expected slurm or local.")
        return Launch(line, processes, slurm, cluster)

    def _seeds(self) -> tuple[int, ...]:
        found = self._file.table.get("seeds", [42])  # train's own
        if not isinstance(found, list) or not found or not all(type(seed) is int and seed >= 0 for seed in found):
            raise self._file.error(("seeds",), f"seeds is {found!r}, expected a list of numbers such as [0, 1, 2].")
        return tuple(dict.fromkeys(found))

    def _checkpoints(self) -> Checkpoints:
        found = self._file.table.get("checkpoints", "newest")
        if found == "newest" or found == "all":
            return "newest" if found == "newest" else "all"
        if not isinstance(found, list) or not found or not all(type(step) is int and step > 0 for step in found):
            raise self._file.error(("checkpoints",), f"{found!r}; expected newest, all or a list of steps.")
        return tuple(sorted(set(found)))

    def _names(self, table: str) -> list[str]:
        names = list(self._table(table))
        for name in names:
            if not _NAME.fullmatch(name) or re.search(r"-(seed|step)\d+$", name):
                raise self._file.error(
                    (table, name),
                    f"{name!r} is no name of a folder: letters, digits, . _ + and -, and not -seed0 at its end.",
                )
        return names

    def _options(self, kind: str, name: str | int | None = None) -> Settings:
        """A table of a command's options; what a command refuses by value, `checks` asks it."""
        place: Place = (kind,) if name is None else (kind, name)
        table: Any = self._file.table.get(kind, {})
        table = table if name is None else table[name]
        if not isinstance(table, dict):
            raise self._file.error(place, "expected a table of options.")
        of: ConfigTable = COMMANDS[kind]
        self._file.only(place, table, sorted({*of.table, *of.also} - _DECIDED[kind]))
        return dict(table)

    def _table(self, name: str) -> dict[str, Any]:
        found = self._file.table.get(name, {})
        if not isinstance(found, dict):
            raise self._file.error((name,), f"{name} is {found!r}, expected a table [{name}].")
        return found

    def _list(self, name: str) -> list[Any]:
        found = self._file.table.get(name, [])
        if not isinstance(found, list):
            raise self._file.error((name,), f"expected tables [[{name}]].")
        return found

    def _text(self, place: Place) -> str:
        found = self._at(place)
        if not isinstance(found, str) or not found:
            raise self._file.error(place, f"{place[-1]} is {found!r}, expected a text.")
        return found

    def _number(self, place: Place, default: int, *, at_least: int) -> int:
        found = self._at(place, default)
        if type(found) is not int or found < at_least:
            raise self._file.error(place, f"{place[-1]} is {found!r}, expected a number of at least {at_least}.")
        return found

    def _at(self, place: Place, default: object = None) -> object:
        value: Any = self._file.table
        for key in place:
            value = value.get(key, default) if isinstance(value, dict) else default
        return value


def checkpoint_of(model: str) -> str:
    """The path or hub id of a model of a recipe. Raises ConfigError for an unknown demo:NAME."""
    return str(shipped_model(model.removeprefix(DEMO))) if model.startswith(DEMO) else model
