"""Tiny random checkpoints of the families of models/generic.py: real classes, small numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import decoders, models, pre_tokenizers, trainers

from tests.tiny_families import (
    gemma,
    glm,
    internvl,
    kimi,
    lfm2,
    llava,
    minicpm,
    molmo,
    perception_lm,
    smolvlm,
    video_llama,
)
from tests.tiny_families.recipe import Recipe
from tests.tiny_models import WORDS, made_once

RECIPES: dict[str, Recipe] = {
    **gemma.RECIPES,
    **glm.RECIPES,
    **internvl.RECIPES,
    **kimi.RECIPES,
    **lfm2.RECIPES,
    **llava.RECIPES,
    **minicpm.RECIPES,
    **molmo.RECIPES,
    **perception_lm.RECIPES,
    **smolvlm.RECIPES,
    **video_llama.RECIPES,
}


def _template(recipe: Recipe) -> str:
    """One form for all: the words of a turn between marks, a medium where the messages have it."""
    return (
        "{%- for turn in messages -%}{{ '<|im_start|>' + turn.role + '\n' }}"
        "{%- if turn.content is string -%}{{ turn.content }}{%- else -%}{%- for part in turn.content -%}"
        "{%- if part.type == 'video' -%}{{ '" + recipe.video + "' }}"
        "{%- elif part.type == 'image' -%}{{ '" + recipe.image + "' }}"
        "{%- else -%}{{ part.text }}{%- endif -%}{%- endfor -%}{%- endif -%}{{ '<|im_end|>\n' }}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
    )


def _tokenizer(recipe: Recipe) -> Any:
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *recipe.marks]
    model = tokenizers.Tokenizer(models.BPE())
    model.pre_tokenizer, model.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    model.train_from_iterator(
        [WORDS],
        trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=marks, show_progress=False),
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=model,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=marks,
        extra_special_tokens=recipe.named,
        model_max_length=8192,
    )


def make_generic(folder: Path, family: str) -> Path:
    """Write the checkpoint of a family."""
    return write_checkpoint(folder, RECIPES[family])


def write_checkpoint(folder: Path, recipe: Recipe) -> Path:
    """Random weights that are large enough for pixels and positions to change the tokens."""
    tokenizer = _tokenizer(recipe)
    vocabulary = tokenizer.get_vocab()
    config = recipe.config(len(tokenizer), vocabulary)
    config.tie_word_embeddings = recipe.tied
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = transformers.AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
        # Gemma 3's class begins with a projector of zeros, through which no pixel would reach the text.
        for matrix in (weight for weight in model.parameters() if weight.dim() > 1 and not weight.any()):
            torch.nn.init.normal_(matrix, std=0.1)
    model.generation_config = transformers.GenerationConfig(
        eos_token_id=vocabulary["<|im_end|>"], pad_token_id=vocabulary["<|endoftext|>"], do_sample=False
    )
    recipe.processor(tokenizer, _template(recipe)).save_pretrained(folder)
    model.save_pretrained(folder)
    if recipe.released is not None:
        weights = folder / "model.safetensors"
        renamed = {name.replace(*recipe.released): value for name, value in load_file(weights).items()}
        save_file(renamed, weights, metadata={"format": "pt"})
    return folder


def generic_checkpoint(family: str) -> Path:
    """The folder of this family's checkpoint, made once per test run."""
    return made_once(make_generic, family)
