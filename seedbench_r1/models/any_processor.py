"""The processor of a checkpoint, of whichever of the two kinds its family is."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

from seedbench_r1.errors import ConfigError
from seedbench_r1.models.checkpoint import unsupported_message
from seedbench_r1.models.families import GENERIC, GenericFamily, family_for
from seedbench_r1.models.generic import GenericInputs, GenericProcessor, load_generic
from seedbench_r1.models.processor import read_config
from seedbench_r1.models.qwen_vl import ModelInputs, QwenProcessor, load_processor

log = logging.getLogger(__name__)

AnyProcessor = QwenProcessor | GenericProcessor
AnyInputs = ModelInputs | GenericInputs


def load_any_processor(folder: str, *, trust_remote_code: bool = False) -> AnyProcessor:
    """Open tokeniser, template and processor of a checkpoint folder.

    Raises ConfigError as load_processor does, and for a family that transformers does not call image-text-to-text.
    """
    config = read_config(folder, None, trust_remote_code=trust_remote_code)
    family = family_for(config.model_type, Path(folder), trust_remote_code=trust_remote_code)
    if family is None:
        raise ConfigError(unsupported_message(folder, config.to_dict()))
    if not isinstance(family, GenericFamily):
        return load_processor(folder)
    if family not in GENERIC:
        _warn_of_untried(family.model_type)
    return load_generic(folder, family, config, trust_remote_code=trust_remote_code)


@functools.cache
def _warn_of_untried(model_type: str) -> None:
    """Once in a process, which opens a processor when it plans and when it loads."""
    log.warning(
        "Models of type %s have not been tried here: look at a few answers before you believe them. docs/models.md "
        "lists those that have.",
        model_type,
    )
