"""Qwen-VL checkpoints of about a hundred thousand random parameters, in the layout that every loader expects.

They are real transformers classes with real processors, small enough for a CPU: the demo trains one, the tests use one
of each family.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from safetensors import SafetensorError
from tokenizers import decoders, models, pre_tokenizers, trainers

from seedbench_r1.backends.saving import save_model
from seedbench_r1.demo.traces import vocabulary_texts
from seedbench_r1.demo.world import actions
from seedbench_r1.errors import ConfigError, ResourceError
from seedbench_r1.files import make_folder, write_error, writing
from seedbench_r1.models import families
from seedbench_r1.models.qwen_vl import VISION_MARKS

FAMILIES = tuple(family.model_type for family in families.FAMILIES)

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *VISION_MARKS)

# The turn format of the Qwen-VL models: role, line break, content, end mark; a medium stands between its vision marks.
CHAT_TEMPLATE = """\
{%- macro medium(pad) -%}<|vision_start|>{{ pad }}<|vision_end|>{%- endmacro -%}
{%- if messages[0].role != 'system' -%}
{{ '<|im_start|>system\\nYou answer questions about videos and images.<|im_end|>\\n' }}
{%- endif -%}
{%- for turn in messages -%}
{{ '<|im_start|>' + turn.role + '\\n' }}
{%- if turn.content is string -%}
{{ turn.content }}
{%- else -%}
{%- for part in turn.content -%}
{%- if part.type == 'video' -%}{{ medium('<|video_pad|>') }}
{%- elif part.type == 'image' -%}{{ medium('<|image_pad|>') }}
{%- elif part.type == 'text' -%}{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""

# What the released Qwen2.5-VL and Qwen3-VL checkpoints say (their preprocessor_config.json).
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True, slots=True)
class TinySize:
    """Dimensions of a tiny checkpoint. hidden / heads is the head size: keep it 32 or 64, which CPU vLLM supports."""

    hidden: int = 64
    layers: int = 2
    heads: int = 2
    key_value_heads: int = 1
    vision_hidden: int = 64
    vision_depth: int = 2
    vision_heads: int = 2
    max_merges: int = 512  # of the byte-pair tokenizer; enough merges make one token of every word
    context: int = 4096  # longest prompt plus completion, in tokens
    initializer_range: float = 0.02  # standard deviation of the random weights


MINIATURE = TinySize(
    hidden=128,
    layers=4,
    heads=4,
    key_value_heads=4,
    vision_hidden=96,
    vision_heads=3,
    max_merges=1500,
    context=1024,
    initializer_range=0.05,
)


def write_tiny_checkpoint(
    folder: Path | str,
    *,
    family: str = "qwen2_5_vl",
    vocabulary_texts: Iterable[str] = (),
    seed: int = 0,
    size: TinySize | None = None,
) -> Path:
    """Write a random float32 checkpoint with tokenizer, chat template and processors into `folder`; return the folder.

    `vocabulary_texts` teach the byte-level BPE tokenizer its merges; any text can be encoded whatever they are. The
    same arguments give the same files. Raises ConfigError for a family that is not in FAMILIES, and ResourceError
    for what the disk refuses.
    """
    if family not in FAMILIES:
        raise ConfigError(f"Unknown model family {family!r}; known: {', '.join(FAMILIES)}")
    folder, size = Path(folder), size or TinySize()
    tokenizer = _train_tokenizer(vocabulary_texts, size)
    ids = {token: tokenizer.get_vocab()[token] for token in SPECIAL_TOKENS}
    config = _config(family, size, len(tokenizer), ids)
    hugging_face: Any = transformers  # whose factories have no types
    # The caller's random numbers go on as if nothing had been drawn here.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = hugging_face.AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    model.generation_config = hugging_face.GenerationConfig(
        eos_token_id=[ids["<|im_end|>"], ids["<|endoftext|>"]], pad_token_id=ids["<|endoftext|>"], do_sample=False
    )
    make_folder(folder)
    try:
        with writing(folder):
            # Weights last: a folder with weights is complete.
            _write_processor(folder, family, tokenizer)
            save_model(model, folder)
    except (ResourceError, SafetensorError) as error:
        (folder / "config.json").unlink(missing_ok=True)  # half a model must not pass for one
        if isinstance(error, ResourceError):
            raise
        raise write_error(folder, OSError(errno.EIO, str(error))) from error
    return folder


def write_miniature_model(folder: Path | str, *, seed: int = 0) -> Path:
    """Random weights for the miniature world: one token for each of its words, a million parameters."""
    texts = [letter + ". " + text for letter in "ABCD" for text in vocabulary_texts()]
    answers = [f"<think>So I should {action}.</think><answer>{action}</answer>" for action in actions()]
    return write_tiny_checkpoint(folder, vocabulary_texts=texts + answers, seed=seed, size=MINIATURE)


def _train_tokenizer(texts: Iterable[str], size: TinySize) -> transformers.PreTrainedTokenizerBase:
    """A Qwen2 tokenizer whose merges come from `texts`."""
    frame: Any = transformers.Qwen2Tokenizer().backend_tokenizer  # its normaliser and pre-tokeniser are Qwen's
    # Trained here rather than cut from Qwen's: embeddings of 150,000 tokens would outweigh all else.
    draft = tokenizers.Tokenizer(models.BPE())
    draft.normalizer, draft.pre_tokenizer, draft.decoder = frame.normalizer, frame.pre_tokenizer, decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + size.max_merges, min_frequency=1, initial_alphabet=alphabet, show_progress=False
    )
    draft.train_from_iterator(list(texts), trainer)
    learned = json.loads(draft.to_str())["model"]
    merges: Any = [tuple(pair) for pair in learned["merges"]]
    return transformers.Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=merges,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS),
        model_max_length=size.context,
    )


def _config(family: str, size: TinySize, vocabulary: int, ids: dict[str, int]) -> transformers.PreTrainedConfig:
    head = size.hidden // size.heads
    # Of head/2 rotary frequencies, Qwen gives 16 of 64 to time and 24 each to height and width; Qwen3 24, 20, 20.
    newer = family.startswith("qwen3")
    spatial = head * 5 // 32 if newer else head * 3 // 16
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 10_000.0}
    rope["mrope_section"] = [head // 2 - 2 * spatial, spatial, spatial]
    text: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": size.hidden,
        "intermediate_size": 2 * size.hidden,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.key_value_heads,
        "max_position_embeddings": size.context,
        "initializer_range": size.initializer_range,
        "rope_parameters": rope,
        "pad_token_id": ids["<|endoftext|>"],
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
    }
    marks = {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }
    vision = {
        "depth": size.vision_depth,
        "num_heads": size.vision_heads,
        "initializer_range": size.initializer_range,
        **_vision_options(family, size),
    }
    if newer:
        text |= {"head_dim": head}
        rope["mrope_interleaved"] = True
    if family.startswith("qwen3_5"):
        text |= _linear_attention(size)
        rope["partial_rotary_factor"] = 1.0
    if family.endswith("_moe"):
        text |= _EXPERTS | {"moe_intermediate_size": 2 * size.hidden}
    if family == "qwen3_5_moe":
        text |= {"shared_expert_intermediate_size": size.hidden}
    config = transformers.AutoConfig.for_model(family, text_config=text, vision_config=vision, **marks)
    # Untied, as in the 7B models, so that loaders see an lm_head of its own.
    config.tie_word_embeddings = False
    config.initializer_range = size.initializer_range
    return config


# norm_topk_prob: vLLM reads it from the file, where the released ones have it; to transformers it is always true.
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": True}


def _linear_attention(size: TinySize) -> dict[str, object]:
    """Qwen3.5's: three layers of linear attention before each of full attention; here one, with more value heads."""
    kinds = ["full_attention" if layer % 2 else "linear_attention" for layer in range(size.layers)]
    heads, head = size.key_value_heads, 64  # the smallest that vLLM has on a CPU
    return {
        "layer_types": kinds,
        "linear_key_head_dim": head,
        "linear_value_head_dim": head,
        "linear_num_key_heads": heads,
        "linear_num_value_heads": 2 * heads,
    }


def _vision_options(family: str, size: TinySize) -> dict[str, object]:
    """The vision tower's widths, which each family names differently."""
    if family == "qwen2_vl":
        return {"patch_size": 14, "embed_dim": size.vision_hidden, "hidden_size": size.hidden, "mlp_ratio": 2}
    widths: dict[str, object] = {
        "hidden_size": size.vision_hidden,
        "intermediate_size": 2 * size.vision_hidden,
        "out_hidden_size": size.hidden,
    }
    last = size.vision_depth - 1
    if family == "qwen2_5_vl":
        # tokens_per_second 2 as in the released 7B; its default window, and full attention in the last block
        return widths | {"patch_size": 14, "tokens_per_second": 2, "window_size": 112, "fullatt_block_indexes": [last]}
    widths |= {"patch_size": 16, "num_position_embeddings": 256}
    return widths if family.startswith("qwen3_5") else widths | {"deepstack_visual_indexes": [0]}


def _write_processor(folder: Path, family: str, tokenizer: transformers.PreTrainedTokenizerBase) -> None:
    """Processor files, both as one processor_config.json and as the separate files that older readers look for."""
    newer = family.startswith("qwen3")
    patch, mean, std = (16, HALF, HALF) if newer else (14, CLIP_MEAN, CLIP_STD)
    shape = {"patch_size": patch, "merge_size": 2, "temporal_patch_size": 2}
    options: dict[str, Any] = shape | {"image_mean": list(mean), "image_std": list(std)}
    edges = {"shortest_edge": 4 * (2 * patch) ** 2, "longest_edge": 256 * (2 * patch) ** 2}
    image = transformers.Qwen2VLImageProcessor(size=edges, **options)
    classes: dict[str, tuple[Any, Any]] = {  # of the video processor, and of the processor
        "qwen2_vl": (transformers.Qwen2VLVideoProcessor, transformers.Qwen2VLProcessor),
        "qwen2_5_vl": (transformers.Qwen2VLVideoProcessor, transformers.Qwen2_5_VLProcessor),
    }
    newest = transformers.Qwen3VLVideoProcessor, transformers.Qwen3VLProcessor
    video_class, processor_class = classes.get(family, newest)
    # Since Qwen3-VL the pixels of a whole clip are counted, before those of one frame
    frames = 16 if newer else 1
    video = video_class(size={name: frames * pixels for name, pixels in edges.items()}, **options)
    processor_class(image, tokenizer, video, chat_template=CHAT_TEMPLATE).save_pretrained(folder)
    # vLLM and older transformers look for these files.
    image.save_pretrained(folder)
    video.save_pretrained(folder)
