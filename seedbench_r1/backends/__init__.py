"""Backends: the same stream of requests, answered by different engines."""

from __future__ import annotations

from pathlib import Path

from seedbench_r1.backends.base import Backend
from seedbench_r1.config import EvalConfig, api_key
from seedbench_r1.errors import ConfigError

BACKENDS = ("transformers", "vllm", "openai:MODEL", "fake")


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
        case "vllm":
            from seedbench_r1.backends.vllm import VllmBackend
            from seedbench_r1.backends.vllm_engine import EngineOptions

            engine = EngineOptions(
                tensor_parallel=config.tensor_parallel,
                max_in_flight=config.max_in_flight,
                gpu_memory_utilization=config.gpu_memory_utilization,
                max_model_len=config.max_model_len,
            )
            return VllmBackend(
                config.model,
                base_model=config.base_model,
                revision=config.revision,
                dtype=config.dtype,
                options=engine,
            )
        case "fake":
            from seedbench_r1.backends.fake import FakeBackend

            return FakeBackend.from_file(Path(config.model))
        case "openai":
            from seedbench_r1.backends.openai import OpenAIBackend

            return OpenAIBackend.from_config(config, api_key(config.base_url))
        case _:
            raise ConfigError(f"No backend {config.backend!r}. There are: {', '.join(BACKENDS)}.")
