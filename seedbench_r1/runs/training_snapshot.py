"""What a run keeps of its checkpoint's training, so that no report needs the checkpoint: curves, and what it had seen.

training_snapshot.json of a run directory. Curves come from the curves.json that our trainer writes into a checkpoint,
from the metrics.jsonl next to older ones, or from the trainer_state.json that a Hugging Face trainer leaves in them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seedbench_r1.errors import DataError
from seedbench_r1.files import JsonObject, read_json_object, write_json, write_text
from seedbench_r1.models.checkpoint import TRAINING
from seedbench_r1.row_files import content_sha256
from seedbench_r1.rows import BadRows, read_rows
from seedbench_r1.typed_json import finite, from_json, parse_json, shown
from seedbench_r1.types import Question, to_json

FILE = "training_snapshot.json"
SCHEMA = "sbr1.training-snapshot/1"
# In the folder that holds a training's checkpoints: a line a step; samples of rollouts; held-out answers; why it ended.
METRICS, ROLLOUTS, HELDOUT, ALARM = "metrics.jsonl", "rollouts.jsonl", "heldout.jsonl", "alarm.json"
CURVES_FILE = "curves.json"  # in a checkpoint: it may be copied or uploaded without what lies around it
CURVES_SCHEMA = "sbr1.curves/1"
STATE = "trainer_state.json"  # of a Hugging Face trainer's checkpoint
MAX_POINTS = 300  # of one curve

# Curve -> the names it has in metrics.jsonl and in trainer_state.json (TRL's, and those of GRPO-CARE's own trainer).
CURVES: dict[str, tuple[str, ...]] = {
    "reward": ("reward",),
    "accuracy": ("accuracy", "rewards/accuracy_reward/mean", "rewards/accuracy_reward"),
    "bonus": ("bonus", "rewards/bonus_rewards"),
    "kl": ("kl",),
    "length": ("length", "completions/mean_length", "completion_length"),
    "reasoning_words": ("reasoning_words",),
    "grad_norm": ("grad_norm",),
    "loss": ("loss",),
    "heldout_accuracy": ("heldout.accuracy",),
    "heldout_consistency": ("heldout.consistency",),
}

Points = tuple[tuple[float, float], ...]
Key = tuple[str, str, str]  # names of clip and image, and the goal or the question
# A training file of one's own, and the training's settings -> the questions that it was trained on; may raise DataError
ReadOwn = Callable[[Path, JsonObject], Iterable[Question]]


@dataclass(frozen=True, slots=True)
class Overlap:
    """Evaluated questions that the training has seen: the same clip, current view and goal, or the same file."""

    shared: int
    checked: int  # questions of the run
    files: int  # training files that were read and compared: those of the checkpoint and of what it was trained from
    unknown: int  # training files that were not there any more, or had changed


@dataclass(frozen=True, slots=True)
class TrainingSnapshot:
    """Of one checkpoint's training, up to that checkpoint."""

    training_id: str  # 16 hex digits; checkpoints of one training share it
    step: int | None
    curves: dict[str, Points] = field(default_factory=dict)  # (step, value), steps rising, at most MAX_POINTS
    overlap: Overlap | None = None  # None: nothing is known of what it was trained on


def take_snapshot(
    checkpoint: Path, questions: Collection[Question], dataset_hash: Mapping[str, str], read_own: ReadOwn
) -> TrainingSnapshot | None:
    """What can be known of a checkpoint's training; None for a model that says nothing of any.

    Args:
        checkpoint: the model's folder.
        questions: those of the run.
        dataset_hash: level -> sha256 of its annotation file.
        read_own: reads training files of one's own (suites.own.trained_on).

    Raises:
        DataError: a file of the training is damaged; the message names it.
    """
    try:
        return _take(checkpoint, questions, dataset_hash, read_own)
    # Files of other tools bear these names too, with anything in them.
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise DataError(f"{checkpoint}: what it says of its training cannot be read ({error}).") from error


def _take(
    checkpoint: Path, questions: Collection[Question], dataset_hash: Mapping[str, str], read_own: ReadOwn
) -> TrainingSnapshot | None:
    if (checkpoint / TRAINING).is_file():
        training = _read_training(checkpoint / TRAINING)
        step = training.get("step")
        drawn, first = _drawn(checkpoint, step)
        overlap = find_overlap(checkpoint, questions, dataset_hash, read_own)
        return TrainingSnapshot(_hash(training.get("identity") or first), step, drawn, overlap)
    if (checkpoint / STATE).is_file():
        state = read_json_object(checkpoint / STATE, DataError)
        step = state.get("global_step")
        lines = [line for line in state.get("log_history") or [] if isinstance(line, dict) and _until(line, step)]
        return TrainingSnapshot(_hash(lines[:1]), step, curves(lines))
    return None


def _drawn(checkpoint: Path, step: int | None) -> tuple[dict[str, Points], list[JsonObject]]:
    """The curves up to a checkpoint of ours, and the first line of the metrics next to it if they come from there."""
    own = checkpoint / CURVES_FILE
    if own.is_file():
        value = read_json_object(own, DataError)
        if value.get("schema") != CURVES_SCHEMA:
            raise DataError(f"{own} has schema {shown(value.get('schema'))}, expected {CURVES_SCHEMA!r}. Fix: upgrade.")
        return from_json(dict[str, Points], value.get("curves")), []
    # Lines after this checkpoint belong to later ones of the same training.
    lines = [line for line in read_lines(checkpoint.parent / METRICS) if _until(line, step)]
    return curves(lines), lines[:1]


def write_curves(checkpoint: Path, drawn: Mapping[str, Points]) -> None:
    """Write curves.json of a checkpoint: the curves up to it. Raises ResourceError."""
    content = {"schema": CURVES_SCHEMA, "curves": drawn}
    write_text(checkpoint / CURVES_FILE, json.dumps(content, separators=(",", ":")) + "\n")  # half as large as indented


def curves(lines: Sequence[JsonObject], names: Mapping[str, Sequence[str]] = CURVES) -> dict[str, Points]:
    """The curves of lines of metrics, each thinned to MAX_POINTS. What is not a finite number is left out.

    names: curve -> what it may be called there.

    The loss of supervised training, which has no reward, is "sft_loss".
    """
    found = {}
    for name, keys in names.items():
        values: dict[float, float] = {}
        for line in lines:
            value = next((v for v in (_look_up(line, key) for key in keys) if v is not None), None)
            if value is not None:
                values[float(line["step"])] = value  # a step written twice: the later line counts
        if values:
            found[name] = thin(sorted(values.items()))
    if "reward" not in found and "loss" in found:  # supervised: another loss, and the length of given responses
        found["sft_loss"] = found.pop("loss")
        found.pop("length", None)
    return found


def thin(points: Sequence[tuple[float, float]], limit: int = MAX_POINTS) -> Points:
    """At most `limit` points: means of neighbours, each at the mean of their steps; the last point stays itself."""
    size = math.ceil(len(points) / limit)
    if size <= 1:
        return tuple(points)
    blocks = [points[start : start + size] for start in range(0, len(points), size)]
    means = [tuple(sum(part) / len(block) for part in zip(*block, strict=True)) for block in blocks]
    # A curve ends where the checkpoint is.
    means[-1] = points[-1]
    return tuple((_rounded(step), _rounded(value)) for step, value in means)


def find_overlap(
    checkpoint: Path, questions: Collection[Question], dataset_hash: Mapping[str, str], read_own: ReadOwn
) -> Overlap | None:
    """Compare the run's questions with the training files of a checkpoint and of the checkpoints before it."""
    seen: set[str] = set()
    files = unknown = 0
    for training in _lineage(checkpoint):
        digest, config = (training.get("identity") or {}).get("data_sha256"), training.get("config") or {}
        if digest is None:
            unknown += 1
            continue
        own = config.get("suite") == "own"
        # Trained on the very file: no need to compare rows. Of one of one's own it may have been some splits.
        same = {level for level, known in dataset_hash.items() if known == digest and not own}
        if same:
            files += 1
            seen |= {question.question_id for question in questions if question.split in same}
            continue
        path = _training_file(config, digest)
        if path is None:
            unknown += 1
            continue
        files += 1
        key_of = _key_with_text if own else _key
        rows = {key_of(question) for question in read_own(path, config)} if own else _row_keys(path)
        seen |= {question.question_id for question in questions if key_of(question) in rows}
    return Overlap(len(seen), len(questions), files, unknown) if files or unknown else None


def write_snapshot(run_path: Path, snapshot: TrainingSnapshot) -> None:
    """Write training_snapshot.json. Raises ResourceError."""
    write_json(run_path / FILE, {"schema": SCHEMA} | to_json(snapshot))


def load_snapshot(run_path: Path) -> TrainingSnapshot | None:
    """The snapshot of a run directory; None if it has none. Raises DataError if it is damaged or of a newer version."""
    path = run_path / FILE
    if not path.is_file():
        return None
    value = read_json_object(path, DataError)
    if value.get("schema") != SCHEMA:
        raise DataError(f"{path} has schema {shown(value.get('schema'))}, expected {SCHEMA!r}. Fix: upgrade.")
    try:
        return from_json(TrainingSnapshot, value)
    except ValueError as error:
        raise DataError(f"{path} is not a training snapshot ({error}).") from error


def _read_training(path: Path) -> JsonObject:
    """training.json of our own `train`; another tool's file of this name is a DataError."""
    training = read_json_object(path, DataError)
    objects = all(isinstance(training.get(name), dict | None) for name in ("identity", "config"))
    if not objects or not isinstance(training.get("step"), int | None):
        raise DataError(f"{path} was not written by `seedbench-r1 train`.")
    return training


def _lineage(checkpoint: Path) -> Iterator[JsonObject]:
    """training.json of a checkpoint, then of the one it was trained from, as far as they are on this machine."""
    visited: set[Path] = set()
    while (checkpoint / TRAINING).is_file() and checkpoint.resolve() not in visited:
        # A training.json that was copied may name its own folder.
        visited.add(checkpoint.resolve())
        training = _read_training(checkpoint / TRAINING)
        yield training
        checkpoint = Path(str((training.get("config") or {}).get("model", "")))


def _training_file(config: JsonObject, digest: str) -> Path | None:
    """The file a training read, if it is still there with the same content."""
    if config.get("train_file"):
        path = Path(config["train_file"])
        candidates = [path] if path.is_file() or (config.get("suite") == "own" and path.is_dir()) else []
    else:
        found = (Path(str(config.get("data", ""))) / "annotations").glob("*.jsonl")
        candidates = sorted(path for path in found if path.is_file())
    return next((path for path in candidates if content_sha256(path) == digest), None)


def _row_keys(path: Path) -> set[Key]:
    # What the training has left out of the file, if it was told to, is left out here.
    return {_row_key(row) for _, row in read_rows(path, BadRows(skip=True))}


def _row_key(row: JsonObject) -> Key:
    if "problem" in row:  # Video-R1's form, which knows no goals
        name = str(row.get("path")).rpartition("/")[2]
        media = (name, "") if row.get("data_type") == "video" else ("", name)
        return *media, str(row["problem"])
    return row.get("video_basename") or "", row.get("current_observation_basename") or "", row.get("task_goal") or ""


def _key(question: Question) -> Key:
    by_text = question.source is not None and question.source.suite in ("transfer", "own")
    *media, text = _key_with_text(question)
    return media[0], media[1], question.task_goal or (text if by_text else "")


def _key_with_text(question: Question) -> Key:
    video, image = ("" if path is None else path.name for path in (question.video, question.image))
    return video, image, question.text


def _until(line: JsonObject, step: int | None) -> bool:
    """True for a line of a step that the checkpoint has made."""
    at = line.get("step")
    return isinstance(at, int | float) and (step is None or at <= step)


def _look_up(line: JsonObject, key: str) -> float | None:
    value: Any = line
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return finite(value)


def read_lines(path: Path) -> list[JsonObject]:
    """The JSON objects of a file, one a line; [] if there is no file. A torn last line is left out.

    Raises DataError for other junk.
    """
    return list(each_line(path))


def each_line(path: Path) -> Iterator[JsonObject]:
    """read_lines, one after the other: held-out answers of a long training are many."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield dict(parse_json(line))
            except (ValueError, TypeError) as error:
                raise DataError(f"{path}:{number}: not valid JSON. Fix: remove that line.") from error


def _rounded(value: float) -> float:
    """Six significant digits: more than a chart can show."""
    return float(f"{value:.6g}")


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
