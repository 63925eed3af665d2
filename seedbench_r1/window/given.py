"""The folders that a window was given: runs, trainings, and experiments, which hold both and more as they go on."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from seedbench_r1.runs.samples import BEGINNINGS, has_begun
from seedbench_r1.runs.training_snapshot import METRICS

EXPERIMENT = "experiment.json"


@dataclass(slots=True)
class Given:
    """Looked at anew each time: an experiment's runs and trainings begin one after the other."""

    paths: Sequence[Path]
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _trainings: list[Path] = field(default_factory=list)

    def runs(self) -> list[Path]:
        """Run directories; every path that is neither a training nor an experiment is taken for one."""
        found = list[Path]()
        for path in self.paths:
            if is_experiment(path):
                found += sorted({file.parent for name in BEGINNINGS for file in path.glob(f"runs/*/*/{name}")})
            elif has_begun(path) or not is_training(path):
                found.append(path)
        return found

    def trainings(self) -> list[Path]:
        """Folders of trainings, each once. One that was there keeps its place."""
        with self._guard:
            for path in self.paths:
                within = sorted(log.parent for log in path.glob(f"trainings/*/{METRICS}"))
                found = within if is_experiment(path) else [path]
                known = {item.resolve() for item in self._trainings}
                self._trainings += [item for item in found if is_training(item) and item.resolve() not in known]
            return list(self._trainings)


def is_experiment(path: Path) -> bool:
    """True for the folder of `experiment run`."""
    return (path / EXPERIMENT).is_file()


def is_training(path: Path) -> bool:
    """True for a folder that `train` writes to."""
    return (path / METRICS).is_file()
