"""Several trainings together: what they are called, how they are drawn, and when anything has changed."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from pathlib import Path

from leaderboards.draw.looks import colours_of, looks_of
from seedbench_r1.errors import SeedBenchError
from seedbench_r1.files import JsonObject
from seedbench_r1.runs.training_snapshot import METRICS
from seedbench_r1.window.training_log import TrainingLog


class Trainings:
    """What is known of trainings, by folder."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._logs: dict[Path, TrainingLog] = {}

    def state(self, folders: Sequence[Path]) -> tuple[str, list[JsonObject]]:
        """The overviews of these trainings, with names and looks, and a text that changes when they do.

        One whose logs are damaged says why, under "error", and the others are shown.
        """
        overviews = [self._overview(folder) for folder in folders]
        algorithms = [overview.get("algorithm") or _algorithm(overview) for overview in overviews]
        looks = looks_of(algorithms, colours_of(algorithms))
        shown = [
            overview | {"name": name, "colour": look.css, "dashed": look.dashed, "changed": _changed(folder)}
            for overview, name, look, folder in zip(overviews, names_of(folders), looks, folders, strict=True)
        ]
        return hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:16], shown

    def log(self, folder: Path) -> TrainingLog:
        """What is known of a training."""
        with self._guard:
            return self._logs.setdefault(folder, TrainingLog(folder))

    def _overview(self, folder: Path) -> JsonObject:
        try:
            return self.log(folder).overview() | {"error": ""}
        except (SeedBenchError, OSError) as error:
            return {"error": str(error), "curves": [], "questions": {}, "groups": []}


def names_of(folders: Sequence[Path]) -> list[str]:
    """Their names; of equal ones as much of the path as tells which is which."""
    parts = [folder.resolve().parts for folder in folders]

    def name(own: tuple[str, ...]) -> str:
        sizes = range(1, len(own) + 1)
        size = next((n for n in sizes if sum(other[-n:] == own[-n:] for other in parts) == 1), len(own))
        return "/".join(own[-size:])

    return [name(own) for own in parts]


def _algorithm(overview: JsonObject) -> str:
    """Before the first checkpoint: by what is measured."""
    names = {curve["name"] for curve in overview["curves"]}
    return "care" if "likelihood" in names else "sft" if "sft_loss" in names else "grpo"


def _changed(folder: Path) -> int | None:
    """When its last step was written, in seconds since 1970."""
    path = folder / METRICS
    return int(path.stat().st_mtime) if path.is_file() else None
