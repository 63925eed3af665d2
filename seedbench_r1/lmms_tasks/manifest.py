"""The entry point `lmms_eval.models`: lmms-eval loads it on every start, so it imports next to nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest

MODEL_ID = "seedbench_r1"


def model_manifest() -> ModelManifest:
    """What lmms-eval needs to know of `--model seedbench_r1`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id=MODEL_ID, chat_class_path="seedbench_r1.lmms_tasks.adapter.SeedBenchR1")
