"""Writing a model as its released checkpoint is laid out, so that every reader of that one reads this one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_EXPERTS = (".mlp.experts.gate_up_proj", ".mlp.experts.down_proj")


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """Write weights and configuration into `folder`.

    save_pretrained writes the experts of Qwen3-VL-MoE the other way round than the released checkpoints have them (seen
    in 5.19 and 5.23). transformers reads both, vLLM the released form only. Raises OSError as save_pretrained does.
    """
    if model.config.model_type != "qwen3_vl_moe":
        model.save_pretrained(folder)
        return
    weights = {
        name: value.transpose(1, 2).contiguous() if name.endswith(_EXPERTS) else value
        for name, value in model.state_dict().items()
    }
    model.save_pretrained(folder, state_dict=weights, save_original_format=False)
