"""The folders that a window was given: runs, trainings, and experiments, which hold both and more as they go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from seedbench_r1.runs.samples import FILE as SAMPLES
from seedbench_r1.runs.training_snapshot import METRICS

EXPERIMENT = "experiment.json"
BEGUN = ("manifest.json", SAMPLES)  # what a run, and a folder of samples, begins with


@dataclass(slots=True)
class Given:
    """Looked at anew each time: an experiment's runs and trainings begin one after the other."""

    paths: Sequence[Path]
    _trainings: list[Path] = field(default_factory=list)

    def runs(self) -> list[Path]:
        """Run directories; every path that is neither a training nor an experiment is taken for one."""
        found = list[Path]()
        for path in self.paths:
            if is_experiment(path):
                found += sorted({file.parent for name in BEGUN for file in path.glob(f"runs/*/*/{name}")})
            elif not is_training(path):
                found.append(path)
        return found

    def trainings(self) -> list[Path]:
        """Folders of trainings. One that was there keeps its place."""
        for path in self.paths:
            found = sorted(log.parent for log in path.glob(f"trainings/*/{METRICS}")) if is_experiment(path) else [path]
            self._trainings += [item for item in found if item not in self._trainings and is_training(item)]
        return list(self._trainings)


def is_experiment(path: Path) -> bool:
    """True for the folder of `experiment run`."""
    return (path / EXPERIMENT).is_file()


def is_training(path: Path) -> bool:
    """True for a folder that `train` writes to."""
    return (path / METRICS).is_file()
