"""The tiny checkpoints: the same arguments give the same files, and the words given become tokens."""

from __future__ import annotations

import pytest
import torch
import transformers

from seedbench_r1.demo.tiny_model import FAMILIES, SPECIAL_TOKENS, TinySize, write_tiny_checkpoint
from seedbench_r1.errors import ConfigError


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_arguments_give_equal_files(tmp_path, family):
    options = {"family": family, "vocabulary_texts": ["wash the pan", "cut the bread"]}
    state = torch.get_rng_state()
    first = contents(write_tiny_checkpoint(tmp_path / "a", **options))
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's random numbers are touched
    torch.rand(5)
    assert contents(write_tiny_checkpoint(tmp_path / "b", **options)) == first
    other = contents(write_tiny_checkpoint(tmp_path / "c", seed=1, **options))
    assert [name for name in first if first[name] != other[name]] == ["model.safetensors"]


def test_words_become_tokens_and_any_text_survives(tmp_path):
    folder = write_tiny_checkpoint(tmp_path, vocabulary_texts=["wash the pan", "cut the bread"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer.tokenize("cut the pan") == ["cut", "Ġthe", "Ġpan"]
    text = "<think>日本 é\n</think><answer>B</answer>"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    for token in SPECIAL_TOKENS:
        assert tokenizer(token)["input_ids"] == [tokenizer.convert_tokens_to_ids(token)]


def test_sizes_are_taken(tmp_path):
    size = TinySize(hidden=128, layers=3, heads=4, key_value_heads=2, vision_hidden=96, vision_heads=3, context=512)
    folder = write_tiny_checkpoint(tmp_path, size=size)
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder)
    text = model.config.get_text_config()
    assert (text.hidden_size, text.num_hidden_layers, text.max_position_embeddings) == (128, 3, 512)
    assert model.model.language_model.layers[0].self_attn.head_dim == 32
    assert model.config.vision_config.hidden_size == 96


def test_an_unknown_family(tmp_path):
    with pytest.raises(ConfigError, match="qwen2_5_vl"):
        write_tiny_checkpoint(tmp_path, family="llava")
