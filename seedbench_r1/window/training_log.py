"""One training as its logs tell of it: numbers are kept, texts stay in the files until they are looked at."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from leaderboards.trainings import TITLES
from seedbench_r1.errors import DataError
from seedbench_r1.files import JsonObject, read_json_object
from seedbench_r1.models.checkpoint import TRAINING, list_checkpoints
from seedbench_r1.runs.training_snapshot import ALARM, CURVES, HELDOUT, METRICS, ROLLOUTS, curves
from seedbench_r1.typed_json import finite
from seedbench_r1.window.growing_file import GrowingFile, WasCut
from seedbench_r1.window.media import media_there

# Curves that only the window shows: what one looks at while a training goes on.
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
LOGS = (METRICS, ROLLOUTS, HELDOUT)
MOST_QUESTIONS, MOST_STEPS = 100, 24  # of the held-out answers that are sent: a table of more is no use to anybody


@dataclass(slots=True)
class Asked:
    """A question of the logs, and what was answered, by step."""

    name: str
    video: Path | None
    image: Path | None
    rollouts: dict[int, list[tuple[int, float, float]]] = field(default_factory=dict)  # (place, reward, accuracy)
    heldout: dict[int, tuple[int, float, bool | None]] = field(default_factory=dict)  # (place, accuracy, consistent)


@dataclass(slots=True)
class Known:
    """What is kept of the logs."""

    lines: list[JsonObject] = field(default_factory=list)  # of metrics.jsonl
    asked: dict[str, Asked] = field(default_factory=dict)  # by the key of the question

    def question(self, line: JsonObject) -> Asked:
        """The question of a line of a log of completions."""
        name = str(line.get("question_id"))
        key = question_key(name)
        video, image = (Path(str(line[kind])) if line.get(kind) else None for kind in ("video", "image"))
        asked = self.asked.setdefault(key, Asked(name, video, image))
        # The last line counts: a training that was moved, or is continued by a later version, names its media anew.
        asked.video, asked.image = video, image
        return asked


def question_key(name: str) -> str:
    """What a question is called in addresses: the same however often a log is read again."""
    return hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:16]


class TrainingLog:
    """One training's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._guard = threading.Lock()
        self._files = {name: GrowingFile(folder / name) for name in LOGS}
        self._known, self._about, self._overview, self._begun = Known(), JsonObject(), JsonObject(), 0

    def overview(self) -> JsonObject:
        """All but the texts, in JSON values; the same object until something changes. Raises DataError for bad logs."""
        with self._guard:
            about = _about(self.folder)
            if self._read_on() or about != self._about:
                self._about = about
                # How often it was read from the start: after a cut, equal places and steps are not the same answers.
                self._overview = about | _numbers(self._known) | {"begun": self._begun}
            return self._overview

    def texts(self, key: str) -> JsonObject | None:
        """Every completion of a question: {"rollouts": {step: lines}, "heldout": {step: lines}}; None: no such one.

        Raises DataError or OSError if the logs have changed meanwhile.
        """
        with self._guard:
            asked = self._known.asked.get(key)
            if asked is None:
                return None
            rollouts = {step: [place for place, *_ in each] for step, each in asked.rollouts.items()}
            heldout = {step: [place] for step, (place, *_) in asked.heldout.items()}
            return {
                "rollouts": self._lines(ROLLOUTS, asked.name, rollouts),
                "heldout": self._lines(HELDOUT, asked.name, heldout),
            }

    def media(self, key: str, kind: str) -> Path | None:
        """The file of a question's clip or view; None: there is none, or no such question."""
        asked = self._known.asked.get(key)
        return None if asked is None else {"clip": asked.video, "view": asked.image}.get(kind)

    def _lines(self, log: str, name: str, places: Mapping[int, Sequence[int]]) -> JsonObject:
        found = {step: [self._files[log].line(place) for place in each] for step, each in places.items()}
        for step, lines in found.items():
            if any((str(line.get("question_id")), _step(line)) != (name, step) for line in lines):
                raise DataError(f"{self.folder / log} was cut meanwhile. The page will show it anew.")
        hidden = ("video", "image")
        return {
            str(step): [{key: value for key, value in line.items() if key not in hidden} for line in lines]
            for step, lines in found.items()
        }

    def _read_on(self) -> bool:
        """Take in what is new; whether anything is."""
        before = [file.read for file in self._files.values()], self._begun
        try:
            self._take_in()
        except WasCut:
            # A training that goes back to a checkpoint cuts all three; while it does, they are left for the next time.
            self._forget()
            with contextlib.suppress(WasCut):
                self._take_in()
        except (DataError, OSError):
            # What was taken in stays, and is shown as soon as the rest can be read.
            self._overview = {}
            raise
        return not self._overview or before != ([file.read for file in self._files.values()], self._begun)

    def _take_in(self) -> None:
        known = self._known
        for _, line in self._files[METRICS].more():
            if finite(line.get("step")) is not None:
                known.lines.append(line)
        for place, line in self._files[ROLLOUTS].more():
            rollouts = known.question(line).rollouts.setdefault(_step(line), [])
            rollouts.append((place, _number(line, "reward"), _number(line, "accuracy")))
        for place, line in self._files[HELDOUT].more():
            consistent = line.get("consistent")
            answer = place, _number(line, "accuracy"), consistent if isinstance(consistent, bool) else None
            known.question(line).heldout[_step(line)] = answer

    def _forget(self) -> None:
        self._known, self._overview, self._begun = Known(), JsonObject(), self._begun + 1
        for file in self._files.values():
            file.forget()


def _about(folder: Path) -> JsonObject:
    """What stands elsewhere than in the logs."""
    newest = list_checkpoints(folder)[-1:]
    training = {}
    if newest and (newest[0] / TRAINING).is_file():
        # Only what it is called: curves need no checkpoint, and one may be being copied.
        with contextlib.suppress(DataError):
            training = read_json_object(newest[0] / TRAINING, DataError)
    config = training.get("config")
    model = str(config.get("model") or "") if isinstance(config, dict) else ""
    return {
        "algorithm": str(training.get("algorithm") or ""),
        "model": model.rstrip("/").rpartition("/")[2],
        "checkpoint": newest[0].name if newest else "",
        "ended": _why(folder / ALARM),
    }


def _why(alarm: Path) -> str:
    """Why a training was ended; "" if it was not."""
    if not alarm.is_file():
        return ""
    with contextlib.suppress(DataError):
        return str(read_json_object(alarm, DataError).get("why") or alarm.name)
    return alarm.name


def _numbers(known: Known) -> JsonObject:
    last = known.lines[-1] if known.lines else {}
    groups = [
        (step, key, round(fmean(reward for _, reward, _ in each), 4), [accuracy for *_, accuracy in each])
        for key, asked in known.asked.items()
        for step, each in asked.rollouts.items()
    ]
    return {
        "step": int(_number(last, "step")),
        "epoch": finite(last.get("epoch")),
        "seconds": _seconds(known.lines),
        "alarms": _alarms(known.lines),
        "curves": _curves(known.lines),
        # What is shown of a question before its texts are asked for: its id, and which of its media can be.
        "questions": {key: [asked.name, media_there(asked.video, asked.image)] for key, asked in known.asked.items()},
        "groups": sorted(groups, key=lambda group: group[0]),
        "heldout": _heldout(known),
    }


def _heldout(known: Known) -> JsonObject:
    """The first questions at evenly chosen steps; rows: [key, of each step (accuracy, consistent) or None]."""
    asked = {key: question.heldout for key, question in known.asked.items() if question.heldout}
    steps = sorted({step for answers in asked.values() for step in answers})
    shown = evenly(steps, MOST_STEPS)
    rows = [
        [key, [list(answers[step][1:]) if step in answers else None for step in shown]]
        for key, answers in list(asked.items())[:MOST_QUESTIONS]
    ]
    return {"questions": len(asked), "all_steps": len(steps), "steps": shown, "rows": rows}


def evenly(steps: Sequence[int], most: int) -> list[int]:
    """At most so many of them, the first and the last among them, at equal distances."""
    n = len(steps)
    return list(steps) if n <= most else [steps[round(i * (n - 1) / (most - 1))] for i in range(most)]


def _curves(lines: Sequence[JsonObject]) -> list[JsonObject]:
    rewards = lines[-1].get("rewards") if lines else None
    own = sorted(rewards) if isinstance(rewards, dict) else []
    found = curves(lines, NAMES | {f"rewards.{name}": (f"rewards.{name}",) for name in own})
    titles = TITLES | LIVE | {f"rewards.{name}": f"Reward {name}" for name in own}
    return [{"name": name, "title": title, "points": found[name]} for name, title in titles.items() if name in found]


def _seconds(lines: Sequence[JsonObject]) -> float | None:
    """Of a step: the mean of the last ten."""
    parts = [line.get("seconds") for line in lines[-10:]]
    known = [value for part in parts if isinstance(part, dict) and (value := finite(part.get("step"))) is not None]
    return round(fmean(known), 2) if known else None


def _alarms(lines: Sequence[JsonObject]) -> list[str]:
    """The last that was said, in the last ten steps: an alarm that goes on is said again every ten."""
    for line in reversed(lines[-10:]):
        if isinstance(alarms := line.get("alarms"), list) and alarms:
            return [f"step {_step(line)}: {text}" for text in alarms]
    return []


def _step(line: JsonObject) -> int:
    return int(_number(line, "step"))


def _number(line: Mapping[str, Any], key: str) -> float:
    return finite(line.get(key)) or 0.0
