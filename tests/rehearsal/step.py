"""A training step at real size: the trainer's own model loading, sharding, sampling, step and optimiser."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from seedbench_r1.types import Question
from tests.gpu import shapes
from tests.gpu.random_policy import END, MEDIA, PROMPT, full_groups, random_policy, response
from tests.rehearsal.accelerator import DEVICE, Accelerator, Stage
from tests.rehearsal.processes import pretended_processes
from trainers.checkpoints import TrainingState
from trainers.config import TrainConfig
from trainers.data import TrainingExample
from trainers.groups import Group
from trainers.grpo import grpo_step
from trainers.optimizer import Optimizer
from trainers.policy import Policy
from trainers.presets import PRESETS
from trainers.reference import Reference
from trainers.samplers import BuiltinSampler
from trainers.sft import sft_step
from trainers.sharding import shard_policy
from trainers.shared_prefix import shared_prefix_attention

DECODED = 3  # tokens that are really decoded: the first of the prefill, and steps that are all alike
# In their order. "vision": the vision tower's forward passes in the stage, which does not count them itself.
STAGES = (
    *("load", "first update", "rollouts", "rollouts vision", "reference", "reference vision"),
    *("policy", "policy vision", "update"),
)


@dataclass(frozen=True)
class Case:
    """What is rehearsed: the first of `processes` processes takes one step."""

    model: str  # of shapes.SHAPES
    preset: str  # of trainers.config.PRESETS
    processes: int = 1  # with --fsdp above 1
    lora: bool = False
    prompt: int = PROMPT  # tokens, those of the media among them
    media: shapes.Media = MEDIA
    completion: int | None = None  # tokens of every rollout, or of the response; None: the preset's most
    group: int = 8
    questions: int = 1  # of this process
    group_chunk: int | None = None
    gradient_checkpointing: bool = True
    optimizer_device: Literal["auto", "cpu"] = "auto"  # cpu: its memory is real, 16 bytes a weight

    @property
    def name(self) -> str:
        """Without what has its default."""
        options = ["lora"] * self.lora + [f"P {self.prompt}"] * (self.prompt != Case.prompt)
        options += [f"C {self.completion}"] * (self.completion is not None) + [f"G {self.group}"] * (
            self.group != Case.group
        )
        options += [f"{self.questions} questions"] * (self.questions > 1)
        options += [f"chunk {self.group_chunk}"] * (self.group_chunk is not None)
        options += ["without checkpointing"] * (not self.gradient_checkpointing)
        options += ["optimizer on the CPU"] * (self.optimizer_device == "cpu")
        return " ".join([self.model, self.preset, f"x{self.processes}", *options])

    @property
    def config(self) -> TrainConfig:
        """The settings of the training."""
        preset = PRESETS[self.preset]
        sizes = {
            "fsdp": self.processes > 1,
            "lora": self.lora,
            "gradient_accumulation_steps": self.questions,
            "num_generations": self.group,
            "group_chunk": self.group_chunk,
            "gradient_checkpointing": self.gradient_checkpointing,
            "optimizer_device": self.optimizer_device,
            "dtype": "bfloat16",
            "decode_cache": "static",  # what "auto" is on CUDA
        }
        if self.completion is not None:
            sizes["max_completion_length"] = self.completion
        folder = Path("rehearsal")
        return TrainConfig(model="rehearsal", data=folder, out=folder, preset=self.preset, **preset | sizes)


class Sampler:
    """Samples a few tokens as the built-in sampler does, and hands out rollouts of full length."""

    def __init__(self, accelerator: Accelerator, policy: Policy, config: TrainConfig) -> None:
        self._accelerator, self._config = accelerator, config
        self._builtin = BuiltinSampler(policy, config)

    def sample(self, examples: Sequence[TrainingExample]) -> list[Group]:
        """See trainers.samplers.Sampler."""
        # Every look at the device is for the tokens that were drawn; the cache has room for all.
        self._accelerator.answers = itertools.cycle([0] * (DECODED - 1) + [END])
        with self._accelerator.counting("rollouts"):
            self._builtin.sample(examples)
        self._accelerator.answers = iter(())
        return full_groups(examples, self._config)


class CountedReference(Reference):
    """A reference whose passes are a stage of their own."""

    def __init__(self, accelerator: Accelerator, config: TrainConfig, policy: Policy) -> None:
        self._accelerator = accelerator
        # The device holds the same for a frozen reference as for an average of all weights, which lies in main memory.
        frozen = config.reference == "ema" and not config.lora
        kind = "frozen" if frozen else config.reference
        super().__init__(kind, policy, decay=config.ema_decay, every=config.ema_every)

    @contextlib.contextmanager
    def model(self) -> Iterator[Any]:
        """See Reference.model."""
        with self._accelerator.counting("reference"), super().model() as model:
            yield model


def rehearse(case: Case, *, traced: bool = False) -> dict[str, Stage]:
    """The second step of a training, by stage (STAGES). Raises DeviceMixing.

    At most once in a process: torch and transformers keep what they have seen.
    """
    accelerator, config = Accelerator(traced=traced), case.config
    with pretended_processes(case.processes), accelerator.running(), contextlib.ExitStack() as stack:
        with accelerator.counting("load"):
            policy = loaded(case, config)
            if config.shared_prefix:
                stack.enter_context(shared_prefix_attention(policy.model))
            if config.fsdp:
                # The mesh names no device that torch knows; see pretended_processes.
                shards = shard_policy(policy.model, torch.device("cpu"), case.processes)
                policy = replace(policy, shards=shards)
            reference = CountedReference(accelerator, config, policy)
            optimizer = Optimizer(policy.trainable(), config)
        with accelerator.counting("first update"):
            # Of gradients that are zero: AdamW makes its moments in it.
            optimizer.step(config.learning_rate)
        stack.enter_context(vision_counted(accelerator))
        text = response(config.max_completion_length, "A")
        question = Question("rehearsal", "train", "?", ("a", "b", "c", "d"), "A", None, None, "rehearsal")
        inputs = shapes.prompt(case.prompt, case.media)
        examples = [TrainingExample(question, text, 0, inputs)] * case.questions
        with accelerator.counting("policy"):
            if config.algo == "sft":
                sft_step(policy, optimizer, examples, config, lambda lengths: lengths * case.processes)
            else:
                state = TrainingState(policy, reference, optimizer)
                sampler = Sampler(accelerator, policy, config)
                alone: Any = SimpleNamespace(max_over_ranks=lambda count: count, sum_over_ranks=lambda count: count)
                everyone = case.questions * case.processes
                grpo_step(state, sampler, examples, config, everyone, alone, lambda: 0.0, lambda places: None)
        with accelerator.counting("update"):
            optimizer.step(config.learning_rate)
    return {name: accelerator.stages[name] for name in STAGES if name in accelerator.stages}


def loaded(case: Case, config: TrainConfig) -> Policy:
    """A policy of random weights on the pretended GPU."""
    return random_policy(case.model, config, DEVICE)


@contextlib.contextmanager
def vision_counted(accelerator: Accelerator) -> Iterator[None]:
    """Forward passes of the vision tower are stages of their own, named after those around them."""
    running: list[contextlib.AbstractContextManager[None]] = []

    def begin(module: torch.nn.Module, given: Any) -> None:
        if isinstance(module, Qwen2_5_VisionTransformerPretrainedModel):
            running.append(accelerator.counting(f"{accelerator.stage} vision"))
            running[-1].__enter__()

    def end(module: torch.nn.Module, given: Any, result: Any) -> None:
        if isinstance(module, Qwen2_5_VisionTransformerPretrainedModel):
            running.pop().__exit__(None, None, None)

    hooks = torch.nn.modules.module
    handles = [hooks.register_module_forward_pre_hook(begin), hooks.register_module_forward_hook(end)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
