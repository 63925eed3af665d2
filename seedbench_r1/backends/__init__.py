"""Backends: the same stream of requests, answered by different engines."""

from __future__ import annotations

from pathlib import Path

from seedbench_r1.api.client import check_installed
from seedbench_r1.backends.base import Backend
from seedbench_r1.config import EvalConfig, api_key
from seedbench_r1.errors import ConfigError
from seedbench_r1.models.checkpoint import Checkpoint, inspect_model
from seedbench_r1.models.weights import check_quantisation
from seedbench_r1.types import ModelInfo

VIEWS = ".models"  # of the runs' folder: checkpoints with another's processor, as folders of links
BACKENDS = ("transformers", "vllm", "openai:MODEL", "fake")


def identify_model(config: EvalConfig) -> tuple[Checkpoint | None, ModelInfo]:
    """What is known of a run's model without loading it; no checkpoint where a server or a script answers.

    Raises ConfigError: an unknown backend, one whose packages or key are absent, or no such model.
    """
    match config.backend:
        case "fake":
            from seedbench_r1.backends.fake import script_info

            return None, script_info(Path(config.model))
        case "openai":
            from seedbench_r1.backends.openai import api_model

            check_installed()
            api_key(config.base_url)  # absent: said now, not after the first clip was decoded
            return None, api_model(config)
        case "vllm":
            from seedbench_r1.backends.vllm_engine import check_vllm  # imports torch

            check_vllm()
        case name if name not in BACKENDS:
            raise ConfigError(f"No backend {name!r}. There are: {', '.join(BACKENDS)}.")
    checkpoint = inspect_model(
        config.model,
        base_model=config.base_model,
        revision=config.revision,
        processor=config.processor,
        views=config.runs_dir / VIEWS,
        trust_remote_code=config.trust_remote_code,
    )
    if config.backend == "transformers":
        check_quantisation(config.model, checkpoint.config)
    else:
        from seedbench_r1.backends.vllm_engine import check_family

        check_family(checkpoint)
    return checkpoint, checkpoint.info


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
                attention=config.attention,
                trust_remote_code=config.trust_remote_code,
            )
        case "vllm":
            from seedbench_r1.backends.vllm import VllmBackend
            from seedbench_r1.backends.vllm_engine import EngineOptions

            engine = EngineOptions(
                tensor_parallel=config.tensor_parallel,
                max_in_flight=config.max_in_flight,
                gpu_memory_utilization=config.gpu_memory_utilization,
                max_model_len=config.max_model_len,
                trust_remote_code=config.trust_remote_code,
                frames_as_images=config.video.max_frames if config.video.preprocess == "images" else 0,
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
