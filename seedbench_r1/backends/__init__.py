"""Backends: the same stream of requests, answered by different engines."""

from __future__ import annotations

from pathlib import Path

from seedbench_r1.backends.base import Backend
from seedbench_r1.errors import ConfigError
from seedbench_r1.types import EvalConfig

BACKENDS = ("transformers", "fake")


def open_backend(config: EvalConfig) -> Backend:
    """Load the model of a run. Raises ConfigError for an unknown backend or one whose packages are absent."""
    match config.backend:
        case "transformers":
            from seedbench_r1.backends.transformers import TransformersBackend

            return TransformersBackend(
                config.model,
                base_model=config.base_model,
                revision=config.revision,
                dtype=config.dtype,
                device=config.device,
                batch_size=config.batch_size,
            )
        case "fake":
            from seedbench_r1.backends.fake import FakeBackend

            return FakeBackend.from_file(Path(config.model))
        case _:
            raise ConfigError(f"No backend {config.backend!r}. There are: {', '.join(BACKENDS)}.")
