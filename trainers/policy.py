"""The model that is trained: loaded by the evaluation's own loader, with LoRA and frozen parts if asked for."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from seedbench_r1.backends.loading import load_model
from seedbench_r1.backends.saving import save_model
from seedbench_r1.errors import ConfigError
from seedbench_r1.files import write_json
from seedbench_r1.models.checkpoint import Checkpoint
from seedbench_r1.models.qwen_vl import QwenProcessor
from trainers.config import TrainConfig
from trainers.sharding import Shards, gathered

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

# Every linear layer of the language model, and none of the vision tower. Experts are no linear layers to transformers,
# but one tensor, and keep their weights.
LORA_LAYERS = (
    r".*language_model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"
    r"|in_proj_qkv|in_proj_z|in_proj_b|in_proj_a|out_proj)"
)

# Files of a model folder that save_pretrained does not write: tokeniser, chat template and pixel statistics.
_PROCESSOR_SUFFIXES = (".json", ".jinja", ".txt", ".model")
_NOT_PROCESSOR = ("config.json", "generation_config.json", "training.json", "adapter_config.json")


@dataclass(frozen=True, slots=True)
class Policy:
    """A model under training.

    Attributes:
        model: the Qwen-VL model of transformers; under LoRA its linear layers hold the adapters.
        adapter: the peft model around it, None without LoRA.
        folder: where the base checkpoint's files are.
        shards: how the model is sharded over the processes; None without --fsdp.
    """

    model: PreTrainedModel
    processor: QwenProcessor
    adapter: PeftModel | None
    folder: Path
    shards: Shards | None = None

    @property
    def dtype(self) -> torch.dtype:
        """That passes run in."""
        return self.model.dtype if self.shards is None else self.shards.unsharded_shell.dtype

    @property
    def trains_shards(self) -> bool:
        """Whether what is trained is sharded: under --fsdp, but for adapters, which every process holds whole."""
        return self.shards is not None and self.adapter is None

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """The parameters that are trained, by name."""
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    @contextmanager
    def gathered(self) -> Iterator[PreTrainedModel]:
        """The model with all its weights, in evaluation mode, for sampling and saving.

        Under --fsdp every process must call it; it takes 2 bytes per weight in bfloat16. A training pass sets its own
        mode.
        """
        if self.shards is None:
            self.model.train(False)
            yield self.model
        else:
            with gathered(self.shards, self.model) as model:
                yield model

    def save(self, folder: Path, *, writes: bool = True) -> None:
        """Write weights, configuration and processor files in the Hugging Face layout; an adapter alone under LoRA.

        Under --fsdp every process must call it, and all but one with writes=False.
        """
        if self.adapter is not None:
            if writes:
                # Embeddings are never adapted; to find that out, peft would ask the hub about a base that has an id
                # there.
                self.adapter.save_pretrained(str(folder), save_embedding_layers=False)
                (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card
                self._name_base_class(folder / "adapter_config.json")
            return
        with self.gathered() as model:
            if writes:
                self._write(folder, model)

    def _name_base_class(self, path: Path) -> None:
        """Say of which class the base is; under --fsdp peft writes that of its wrapper, which nobody can load."""
        known = next(one for one in type(self.model).__mro__ if one.__module__.startswith("transformers."))
        described = json.loads(path.read_text(encoding="utf-8"))
        described["auto_mapping"] = {"base_model_class": known.__name__, "parent_library": known.__module__}
        write_json(path, described)

    def _write(self, folder: Path, model: PreTrainedModel) -> None:
        save_model(model, folder)
        for path in sorted(self.folder.iterdir()):
            kept = path.suffix in _PROCESSOR_SUFFIXES and not path.name.endswith(".index.json")
            if kept and path.name not in _NOT_PROCESSOR and path.is_file():
                shutil.copyfile(path, folder / path.name)

    def load(self, folder: Path) -> None:
        """Read the weights of a checkpoint that `save` wrote into this model, in place. Raises ConfigError."""
        if self.adapter is not None:
            from peft import load_peft_weights, set_peft_model_state_dict

            set_peft_model_state_dict(self.adapter, load_peft_weights(str(folder), device="cpu"))
            return
        dtype = {torch.float32: "float32", torch.bfloat16: "bfloat16"}[self.model.dtype]
        stored, _ = load_model(str(folder), base_model=None, revision=None, dtype=dtype, device=torch.device("cpu"))
        self.model.load_state_dict(stored.state_dict())


def load_policy(config: TrainConfig, checkpoint: Checkpoint, device: torch.device) -> Policy:
    """The model of `checkpoint`, which is config.model's, on `device`.

    Its dtype is config.dtype; under "auto", bfloat16 on CUDA and float32 on the CPU.

    Raises ConfigError for a model that cannot be loaded, LoRA on a folder that is an adapter already, or missing peft.
    """
    if config.lora and checkpoint.base_folder is not None:
        raise ConfigError(
            f"{config.model} is a LoRA adapter already, and an adapter on an adapter is not supported. Fix: train from "
            f"its base, or without --lora (the adapter is merged into the weights that are trained)."
        )
    dtype = config.dtype if config.dtype != "auto" else "bfloat16" if device.type == "cuda" else "float32"
    base = str(checkpoint.base_folder) if checkpoint.base_folder is not None else None
    model, processor = load_model(str(checkpoint.folder), base_model=base, revision=None, dtype=dtype, device=device)
    assert isinstance(processor, QwenProcessor)  # the plan has refused other families
    if config.gradient_checkpointing:
        # Non-reentrant: the reentrant form needs inputs with gradients, which frozen embeddings do not give.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # renamed in transformers 5.23; the old name works in all
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[no-untyped-call]
    if config.freeze_vision:
        for parameter in model.model.visual.parameters():
            parameter.requires_grad_(False)
    adapter = _add_adapter(model, config) if config.lora else None
    return Policy(model, processor, adapter, checkpoint.base_folder or checkpoint.folder)


def _add_adapter(model: PreTrainedModel, config: TrainConfig) -> PeftModel:
    try:
        import peft
    except ImportError as error:
        raise ConfigError("--lora needs peft. Fix, in the checkout: pip install '.[train]'") from error
    torch.manual_seed(config.seed)  # of the adapters' initial values, which must be the same in all processes
    base = str(Path(config.model).resolve()) if Path(config.model).is_dir() else config.model
    options = peft.LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=0.0,  # dropout would make two passes over the same tokens differ
        target_modules=LORA_LAYERS,
    )
    wrapped = peft.get_peft_model(model, options)
    # For reentrant checkpointing peft lets gradients into the embeddings, and so into the frozen vision tower.
    model.disable_input_require_grads()  # type: ignore[no-untyped-call]
    # Only now: get_peft_model writes into the same object the name under which transformers loaded the model, which may
    # be relative to this folder.
    wrapped.peft_config["default"].base_model_name_or_path = base
    return wrapped
