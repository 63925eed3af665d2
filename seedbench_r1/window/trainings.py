"""Trainings as their logs tell of them: curves, samples of rollouts and held-out answers, read on as they grow."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from leaderboards.draw.looks import COLOURS, N_COLOURS, Look
from leaderboards.trainings import TITLES
from seedbench_r1.errors import DataError
from seedbench_r1.files import JsonObject, read_json_object
from seedbench_r1.models.checkpoint import TRAINING, list_checkpoints
from seedbench_r1.runs.training_snapshot import ALARM, CURVES, HELDOUT, METRICS, ROLLOUTS, curves
from seedbench_r1.typed_json import finite
from seedbench_r1.window.growing_file import GrowingFile
from seedbench_r1.window.media import media_there

# Curves that only this window shows: what one looks at while a training goes on.
LIVE = {
    "likelihood": "Answer likelihood under the reference",
    "zero_std": "Groups without spread, share",
    "truncated": "Truncated rollouts, share",
    "confident": "Confident tokens, share",
    "lr": "Learning rate",
    "seconds.step": "Seconds a step",
    "memory_gb": "GPU memory, GB",
}
NAMES = CURVES | {name: (name,) for name in LIVE}


@dataclass(slots=True)
class Asked:
    """A question of the logs, and where its completions are: step -> places in the file."""

    video: Path | None
    image: Path | None
    rollouts: dict[int, list[int]] = field(default_factory=dict)
    heldout: dict[int, list[int]] = field(default_factory=dict)


@dataclass(slots=True)
class Known:
    """What is kept of the logs: numbers and places; the texts stay in the files."""

    lines: list[JsonObject] = field(default_factory=list)  # of metrics.jsonl
    asked: dict[str, Asked] = field(default_factory=dict)
    groups: dict[tuple[str, int], list[tuple[float, float]]] = field(default_factory=dict)  # rewards and accuracies
    answers: dict[tuple[str, int], tuple[float, bool | None]] = field(default_factory=dict)  # accuracy, consistent

    def question(self, line: JsonObject) -> tuple[str, int]:
        """The id and the step of a line of a log of completions."""
        name = str(line.get("question_id"))
        if name not in self.asked:
            video, image = (Path(str(line[key])) if line.get(key) else None for key in ("video", "image"))
            self.asked[name] = Asked(video, image)
        return name, int(_number(line, "step"))


class TrainingLog:
    """One training's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._guard = threading.Lock()
        self._files = {name: GrowingFile(folder / name) for name in (METRICS, ROLLOUTS, HELDOUT)}
        self._known = Known()
        self._overview: JsonObject = {}

    def overview(self) -> JsonObject:
        """All but the texts, in JSON values; the same object until something changes. Raises DataError for bad logs."""
        with self._guard:
            about = self._about()
            if self._read_on() or not self._overview or any(self._overview[name] != about[name] for name in about):
                self._overview = about | _numbers(self._known)
            return self._overview

    def texts(self, place: int) -> JsonObject | None:
        """Every completion of a question: {"rollouts": {step: lines}, "heldout": {step: lines}}; None: no such one.

        Raises DataError or OSError if the logs have changed meanwhile.
        """
        with self._guard:
            asked = self._question(place)
            if asked is None:
                return None
            logs = {"rollouts": (ROLLOUTS, asked.rollouts), "heldout": (HELDOUT, asked.heldout)}
            return {name: self._lines(file, steps) for name, (file, steps) in logs.items()}

    def media(self, place: int, kind: str) -> Path | None:
        """The file of a question's clip or view; None: there is none, or no such question."""
        asked = self._question(place)
        return None if asked is None else {"clip": asked.video, "view": asked.image}.get(kind)

    def _question(self, place: int) -> Asked | None:
        questions = list(self._known.asked.values())
        return questions[place] if 0 <= place < len(questions) else None

    def _lines(self, file: str, steps: Mapping[int, Sequence[int]]) -> JsonObject:
        read = self._files[file].line
        return {str(step): [_without_paths(read(place)) for place in places] for step, places in steps.items()}

    def _read_on(self) -> bool:
        """Take in what is new; whether anything is."""
        found = {name: file.more() for name, file in self._files.items()}
        if any(gone for gone, _ in found.values()):
            # A training that goes back to a checkpoint cuts all three.
            self._known = Known()
            for file in self._files.values():
                file.forget()
            found = {name: (True, file.more()[1]) for name, file in self._files.items()}
        known = self._known
        known.lines += [line for _, line in found[METRICS][1] if finite(line.get("step")) is not None]
        for at, line in found[ROLLOUTS][1]:
            name, step = known.question(line)
            known.asked[name].rollouts.setdefault(step, []).append(at)
            known.groups.setdefault((name, step), []).append((_number(line, "reward"), _number(line, "accuracy")))
        for at, line in found[HELDOUT][1]:
            name, step = known.question(line)
            known.asked[name].heldout.setdefault(step, []).append(at)
            known.answers[name, step] = _number(line, "accuracy"), line.get("consistent")
        return any(gone or lines for gone, lines in found.values())

    def _about(self) -> JsonObject:
        """What stands elsewhere than in the logs."""
        newest = list_checkpoints(self.folder)[-1:]
        training = {}
        if newest and (newest[0] / TRAINING).is_file():
            training = read_json_object(newest[0] / TRAINING, DataError)
        model = str((training.get("config") or {}).get("model") or "")
        return {
            "algorithm": str(training.get("algorithm") or ""),
            "model": model.rstrip("/").rpartition("/")[2],
            "checkpoint": newest[0].name if newest else "",
            "ended": (self.folder / ALARM).is_file(),
        }


class Trainings:
    """Several trainings together."""

    def __init__(self) -> None:
        self._logs: dict[Path, TrainingLog] = {}

    def state(self, folders: Sequence[Path]) -> tuple[str, list[JsonObject]]:
        """The overviews of these trainings, with names and looks, and a text that changes when they do.

        Raises DataError if a log is damaged.
        """
        overviews, names = [self.log(folder).overview() for folder in folders], _names(folders)
        looks = _looks([overview["algorithm"] or _algorithm(overview) for overview in overviews])
        shown = [
            overview | {"name": name, "colour": look.css, "dashed": look.dashed, "changed": _changed(folder)}
            for overview, name, look, folder in zip(overviews, names, looks, folders, strict=True)
        ]
        return hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:16], shown

    def log(self, folder: Path) -> TrainingLog:
        """What is known of a training."""
        return self._logs.setdefault(folder, TrainingLog(folder))


def _numbers(known: Known) -> JsonObject:
    last = known.lines[-1] if known.lines else {}
    places = {name: place for place, name in enumerate(known.asked)}
    return {
        "step": last.get("step", 0),
        "epoch": last.get("epoch"),
        "seconds": _seconds(known.lines),
        "alarms": last.get("alarms") or [],
        "curves": _curves(known.lines),
        "questions": list(known.asked),
        "media": "".join(str(media_there(asked.video, asked.image)) for asked in known.asked.values()),
        # By step: (question, step, mean reward, accuracies).
        "groups": [
            [places[name], step, round(fmean(reward for reward, _ in each), 4), [accuracy for _, accuracy in each]]
            for (name, step), each in sorted(known.groups.items(), key=lambda item: item[0][1])
        ],
        "heldout": [[places[name], step, *said] for (name, step), said in known.answers.items()],
    }


def _curves(lines: Sequence[JsonObject]) -> list[JsonObject]:
    own = sorted(lines[-1].get("rewards") or {}) if lines else []
    found = curves(lines, NAMES | {f"rewards.{name}": (f"rewards.{name}",) for name in own})
    titles = TITLES | LIVE | {f"rewards.{name}": f"Reward {name}" for name in own}
    return [{"name": name, "title": title, "points": found[name]} for name, title in titles.items() if name in found]


def _names(folders: Sequence[Path]) -> list[str]:
    """Of the folders; with the folder around them where two are equal."""
    full = [folder.resolve() for folder in folders]
    last = [path.name for path in full]
    return [path.name if last.count(path.name) == 1 else f"{path.parent.name}/{path.name}" for path in full]


def _algorithm(overview: JsonObject) -> str:
    """Before the first checkpoint: by what is measured."""
    names = {curve["name"] for curve in overview["curves"]}
    return "care" if "likelihood" in names else "sft" if "sft_loss" in names else "grpo"


def _looks(algorithms: Sequence[str]) -> list[Look]:
    """One for each training: an algorithm has its colour, the second of it is dashed."""
    others = [name for name in dict.fromkeys(algorithms) if name not in COLOURS]
    free = range(len(COLOURS), N_COLOURS)
    colours = COLOURS | {name: free[place % len(free)] for place, name in enumerate(others)}
    return [Look(colours[name], dashed=name in algorithms[:place]) for place, name in enumerate(algorithms)]


def _seconds(lines: Sequence[JsonObject]) -> float | None:
    """Of a step: the mean of the last ten."""
    known = [seconds["step"] for line in lines[-10:] if "step" in (seconds := line.get("seconds") or {})]
    return round(fmean(known), 2) if known else None


def _changed(folder: Path) -> int | None:
    """When its last step was written, in seconds since 1970."""
    path = folder / METRICS
    return int(path.stat().st_mtime) if path.is_file() else None


def _number(line: Mapping[str, Any], key: str) -> float:
    return finite(line.get(key)) or 0.0


def _without_paths(line: JsonObject) -> JsonObject:
    return {name: value for name, value in line.items() if name not in ("video", "image")}
