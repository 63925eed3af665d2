"""The processor of a checkpoint, of whichever of the two kinds its family is."""

from __future__ import annotations

from pathlib import Path

from seedbench_r1.models.families import GenericFamily, family_for
from seedbench_r1.models.generic import GenericInputs, GenericProcessor, load_generic
from seedbench_r1.models.processor import read_config
from seedbench_r1.models.qwen_vl import ModelInputs, QwenProcessor, load_processor

AnyProcessor = QwenProcessor | GenericProcessor
AnyInputs = ModelInputs | GenericInputs


def load_any_processor(model: str, *, revision: str | None = None) -> AnyProcessor:
    """Open tokeniser, template and processor of a folder or hub id. Raises ConfigError as load_processor does."""
    config = read_config(model, revision)
    family = family_for(config.model_type, Path(model))
    if isinstance(family, GenericFamily):
        return load_generic(model, family, config, revision=revision)
    return load_processor(model, revision=revision)
