"""A policy of random weights at real size, without a checkpoint: for the rehearsal, and for a real GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

from seedbench_r1.backends.vision import prepare_vision_tower
from seedbench_r1.models.qwen_vl import QwenProcessor
from tests.gpu import shapes
from trainers.config import TrainConfig
from trainers.data import TrainingExample
from trainers.groups import Group, Rollout
from trainers.policy import Policy, load_policy

# Tokens of a clip of 16 frames and of an image: as many as the default pixel limits let real sides have.
MEDIA = ((8, 11, 12), (16, 16))
PROMPT = 1531  # tokens, those of the media among them: as many as trainers.estimate expects
END = 151_645  # <|im_end|> of Qwen2.5-VL's tokenizer
FORBIDDEN = (shapes.IMAGE, shapes.VIDEO, shapes.VISION_START, shapes.VISION_END)


class CharacterTokenizer:
    """Every character is a token."""

    pad_token_id = 0

    def __init__(self, eos_token_id: int | None = END) -> None:
        self.eos_token_id = eos_token_id
        self.added_tokens_decoder: dict[int, Any] = {}  # no token is left out of a text

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(character) for character in text]}

    def decode(self, ids: Sequence[int], **options: Any) -> str:
        return "".join(map(chr, ids))


def processor(*, ends: bool = True) -> QwenProcessor:
    """Of the models of shapes.SHAPES. ends: whether a token ends a completion."""
    tokenizer: Any = CharacterTokenizer(END if ends else None)
    return QwenProcessor(shapes.LAYOUT, tokenizer, None, None, "", 32_768, FORBIDDEN)


def response(length: int, letter: str) -> str:
    """A well-formed response of `length` tokens, the end token included."""
    shell = f"<think></think><answer>{letter}</answer>"
    return shell.replace("></", f">{'.' * (length - 1 - len(shell))}</", 1)


def full_groups(examples: Sequence[TrainingExample], config: TrainConfig) -> list[Group]:
    """Rollouts of full length, of which random weights write none.

    All but one of a group are right, so that bonus and reference are as busy as they ever are.
    """
    letters = "A" * (config.num_generations - 1) + "B"
    texts = [response(config.max_completion_length, letter) for letter in letters]
    rollouts = tuple(Rollout((*map(ord, text), END), text, "stop") for text in texts)
    return [Group(example, rollouts) for example in examples]


def random_policy(name: str, config: TrainConfig, device: torch.device) -> Policy:
    """load_policy with a model of random weights in place of a checkpoint's."""

    def load_model(*given: Any, **options: Any) -> tuple[Any, QwenProcessor]:
        model: Any = shapes.build(name, device)
        model.gradient_checkpointing_disable()  # load_policy turns it on, if the config says so
        prepare_vision_tower(model)
        return model, processor()

    checkpoint: Any = SimpleNamespace(folder=Path("random"), base_folder=None)
    with mock.patch("trainers.policy.load_model", load_model):
        return load_policy(config, checkpoint, device)
