"""The numbers of metrics.jsonl as TensorBoard curves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seedbench_r1.errors import ConfigError


class TensorBoard:
    """Writes into <out>/tensorboard. Curves of steps after `step` are dropped when a training continues.

    Raises ConfigError if tensorboard is not installed.
    """

    def __init__(self, out: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                "--report-to tensorboard needs the package. Fix: pip install 'seedbench-r1[train]'"
            ) from error
        self._writer = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)

    def observe(self, metrics: Mapping[str, Any]) -> None:
        """Add a step; numbers inside objects get the object's name in front."""
        for name, value in scalars(metrics).items():
            self._writer.add_scalar(name, value, metrics["step"])

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


def scalars(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Numbers by name, those inside objects as "seconds/io"; what is no number is left out."""
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            found |= scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            found[prefix + name] = float(value)
    return found
