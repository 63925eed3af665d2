"""The numbers of metrics.jsonl in TensorBoard, Weights & Biases and Trackio, under the same names in each.

Weights & Biases and Trackio read their own settings (WANDB_MODE, WANDB_PROJECT, TRACKIO_DIR, TRACKIO_SPACE_ID, ...)
from the environment. A training that is continued goes on in the same run: its id is kept in <out>/trackers.json.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from seedbench_r1.config import environment_value, set_environment_defaults
from seedbench_r1.errors import ConfigError
from seedbench_r1.files import write_json
from seedbench_r1.typed_json import parse_json
from seedbench_r1.types import to_json
from trainers.config import TrainConfig
from trainers.metrics import StepMetrics

TRACKERS = ("tensorboard", "wandb", "trackio")
RUN_IDS = "trackers.json"
PROJECT = "seedbench-r1"

# Keys of metrics.jsonl that have another name in the trackers; all others are "train/" and their own name.
NAMES = {
    "reward": "train/reward/total",
    "accuracy": "train/reward/accuracy",
    "format": "train/reward/format",
    "bonus": "train/reward/consistency_bonus",
    "likelihood": "train/answer_likelihood",
    "zero_std": "train/zero_std_groups",
    "length": "train/completion/length",
    "truncated": "train/completion/truncated",
    "reasoning_words": "train/completion/reasoning_words",
    "lr": "train/learning_rate",
}
HELD_OUT = "eval/heldout/"  # "eval/l1/..." are the benchmark's levels, which training never looks at


@dataclass(frozen=True, slots=True)
class Tracker:
    """Receives the numbers of each step."""

    observe: Callable[[StepMetrics], None]  # add a step, given its line of metrics.jsonl
    close: Callable[[], None]  # write what is buffered


def parse_trackers(value: str | None) -> tuple[str, ...]:
    """ "wandb,tensorboard" -> both names, each once; "none" or nothing -> (). Raises ConfigError for another name."""
    names = [name.strip() for name in (value or "none").split(",") if name.strip()]
    unknown = [name for name in names if name not in (*TRACKERS, "none")]
    if unknown:
        raise ConfigError(f"--report-to {unknown[0]!r} is unknown. There are: {', '.join(TRACKERS)}, none.")
    return tuple(dict.fromkeys(name for name in names if name != "none"))


@contextlib.contextmanager
def open_trackers(names: Sequence[str], config: TrainConfig, step: int) -> Iterator[list[Tracker]]:
    """The named trackers, closed at the end. `step` is how many steps are done already.

    Raises ConfigError if a package is not installed, or a tracker needs a login; none is open then.
    """
    # All are imported before the first is opened, which may already create a run.
    for name in names:
        _import(name)
    with contextlib.ExitStack() as stack:
        opened: list[Tracker] = []
        for name in names:
            opened.append(_open(name, config, step))
            stack.callback(opened[-1].close)
        yield opened


def tracked(metrics: StepMetrics) -> dict[str, float]:
    """The numbers of a step under the trackers' names, without the step itself."""
    found = {}
    for name, value in scalars(metrics).items():
        if name.startswith("heldout/"):
            found[HELD_OUT + name.removeprefix("heldout/")] = value
        elif name != "step":
            found[NAMES.get(name, f"train/{name}")] = value
    return found


def scalars(metrics: Mapping[str, object], prefix: str = "") -> dict[str, float]:
    """Finite numbers by name, nested ones as "seconds/io"; other values are left out."""
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            found |= scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and math.isfinite(value):
            found[prefix + name] = float(value)
    return found


def open_tensorboard(out: Path, step: int) -> Tracker:
    """Writes into <out>/tensorboard. Curves of steps after `step` are dropped when a training continues."""
    # purge_step hides curves of steps that will be taken again.
    writer = _import("tensorboard").SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)

    def observe(metrics: StepMetrics) -> None:
        for name, value in tracked(metrics).items():
            writer.add_scalar(name, value, metrics["step"])

    return Tracker(observe, writer.close)


def open_wandb(config: TrainConfig) -> Tracker:
    """A run of Weights & Biases, its files in <out>/wandb unless WANDB_DIR is set. Closing sends it unless offline."""
    wandb = _import("wandb")
    config.out.mkdir(parents=True, exist_ok=True)
    set_environment_defaults({"WANDB_PROJECT": PROJECT, "WANDB_DIR": str(config.out)})
    try:
        run = wandb.init(
            id=_run_id(config.out, "wandb"),
            resume="allow",
            name=config.out.resolve().name,
            config=to_json(config),
            settings=wandb.Settings(console="off", silent=True),  # the terminal is ours
        )
    except wandb.errors.Error as error:
        raise ConfigError(
            f"--report-to wandb: {error}. Fix: wandb login, or export WANDB_MODE=offline to keep the run here and "
            f"send it later with wandb sync."
        ) from error
    return Tracker(lambda metrics: run.log(tracked(metrics), step=metrics["step"]), run.finish)


def open_trackio(config: TrainConfig) -> Tracker:
    """A run of Trackio: a local database, or wherever TRACKIO_SPACE_ID or TRACKIO_SERVER_URL point."""
    trackio = _import("trackio")
    config.out.mkdir(parents=True, exist_ok=True)
    name = f"{config.out.resolve().name}-{_run_id(config.out, 'trackio')}"
    project = environment_value("TRACKIO_PROJECT", PROJECT)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it prints; standard output is for results
            run = trackio.init(project=project, name=name, config=to_json(config), resume="allow", embed=False)
    except ValueError as error:
        raise ConfigError(f"--report-to trackio: {error} Fix: correct the variable that it names.") from error

    def close() -> None:
        with contextlib.redirect_stdout(sys.stderr):
            trackio.finish()  # not the run's own, which would be called again when the process ends

    return Tracker(lambda metrics: run.log(tracked(metrics), step=metrics["step"]), close)


def _open(name: str, config: TrainConfig, step: int) -> Tracker:
    if name == "tensorboard":
        return open_tensorboard(config.out, step)
    return open_wandb(config) if name == "wandb" else open_trackio(config)


def _import(name: str) -> ModuleType:
    module = "torch.utils.tensorboard" if name == "tensorboard" else name
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"--report-to {name} needs the package {name}, which cannot be imported ({error}). Fix: pip install {name}"
        ) from error


def _run_id(out: Path, name: str) -> str:
    """The tracker's run id of this training: drawn once, then read from <out>/trackers.json."""
    path = out / RUN_IDS
    try:
        known = parse_json(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON. Fix: remove it; the trackers then begin a new run.") from error
    if name not in known:
        known[name] = uuid.uuid4().hex[:8]
        write_json(path, known)
    return str(known[name])
