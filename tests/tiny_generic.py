"""Tiny random checkpoints of the families of models/generic.py: real classes, small numbers."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import decoders, models, pre_tokenizers, trainers

from tests.tiny_models import WORDS

HIDDEN, HEADS, LAYERS = 64, 2, 2
CLIP = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
QWEN = {"hidden_size": HIDDEN, "intermediate_size": 128, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
QWEN |= {"num_key_value_heads": 1, "max_position_embeddings": 8192, "initializer_range": 0.1}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a family's checkpoint is made."""

    image: str  # what its chat template writes for an image, and for a clip
    video: str
    marks: tuple[str, ...]  # further special tokens of its tokenizer
    config: Callable[[int, dict[str, int]], Any]  # from the size of the vocabulary and the special tokens' ids
    processor: Callable[[Any, str], Any]  # from tokenizer and chat template
    named: dict[str, str] = field(default_factory=dict)  # attributes of the tokenizer that the processor reads
    # Weights whose names begin otherwise in released checkpoints than save_pretrained writes them, as vLLM wants them
    released: tuple[str, str] | None = None


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


def _internvl(vocabulary: int, ids: dict[str, int]) -> Any:
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": [56, 56], "patch_size": [14, 14]}
    text = QWEN | {"model_type": "qwen2", "vocab_size": vocabulary}
    return transformers.InternVLConfig(
        text_config=text, vision_config=vision, image_token_id=ids["<IMG_CONTEXT>"], image_seq_length=4
    )


def _internvl_processor(tokenizer: Any, template: str) -> Any:
    size = {"height": 56, "width": 56}
    return transformers.InternVLProcessor(
        transformers.GotOcr2ImageProcessor(size=size, crop_to_patches=True, min_patches=1, max_patches=2, **CLIP),
        tokenizer,
        transformers.InternVLVideoProcessor(size=size, **CLIP),
        image_seq_length=4,
        chat_template=template,
    )


def _glm(name: str) -> Callable[[int, dict[str, int]], Any]:
    def config(vocabulary: int, ids: dict[str, int]) -> Any:
        vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": HIDDEN}
        vision |= {"image_size": 112, "patch_size": 14, "initializer_range": 0.1}
        rope = {
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "mrope_section": [8, 4, 4],
            "partial_rotary_factor": 1.0,
        }
        text = QWEN | {"vocab_size": vocabulary, "rope_parameters": rope, "pad_token_id": ids["<|endoftext|>"]}
        if name == "glm4v_moe":
            text |= {"head_dim": 32, "moe_intermediate_size": 64, "n_routed_experts": 4, "num_experts_per_tok": 2}
            text |= {"use_qk_norm": False}  # vLLM reads it, as GLM-4.5V's config.json has it
        return transformers.AutoConfig.for_model(
            name,
            text_config=text,
            vision_config=vision,
            image_token_id=ids["<|image|>"],
            video_token_id=ids["<|video|>"],
            image_start_token_id=ids["<|begin_of_image|>"],
            image_end_token_id=ids["<|end_of_image|>"],
            video_start_token_id=ids["<|begin_of_video|>"],
            video_end_token_id=ids["<|end_of_video|>"],
        )

    return config


def _glm_processor(image: str, video: str, processor: str) -> Callable[[Any, str], Any]:
    def make(tokenizer: Any, template: str) -> Any:
        sizes = {"shortest_edge": 112 * 112, "longest_edge": 28 * 28 * 2 * 3000}
        parts = (
            getattr(transformers, image)(size=sizes, **CLIP),
            tokenizer,
            getattr(transformers, video)(size=sizes, **CLIP),
        )
        return getattr(transformers, processor)(*parts, chat_template=template)

    return make


GLM_MARKS = tuple(
    f"<|{word}|>" for word in ("image", "video", "begin_of_image", "end_of_image", "begin_of_video", "end_of_video")
)


def _siglip(name: str, size: int, **more: Any) -> dict[str, Any]:
    return {
        "model_type": name,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": size,
        "patch_size": 14,
    } | more


def _llava(vocabulary: int, ids: dict[str, int]) -> Any:
    return transformers.LlavaOnevisionConfig(
        text_config=QWEN | {"model_type": "qwen2", "vocab_size": vocabulary},
        vision_config=_siglip("siglip_vision_model", 56, vision_use_head=False),
        image_token_index=ids["<image>"],
        video_token_index=ids["<video>"],
        image_grid_pinpoints=PINPOINTS,
    )


def _llava_processor(tokenizer: Any, template: str) -> Any:
    size = {"height": 56, "width": 56}
    return transformers.LlavaOnevisionProcessor(
        transformers.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=PINPOINTS, **CLIP),
        tokenizer,
        transformers.LlavaOnevisionVideoProcessor(size=size, **CLIP),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=template,
    )


def _video_llama(vocabulary: int, ids: dict[str, int]) -> Any:
    return transformers.VideoLlama3Config(
        text_config=QWEN | {"model_type": "qwen2", "vocab_size": vocabulary},
        vision_config=_siglip("video_llama_3_vision", 0) | {"initializer_range": 0.1},
        image_token_id=ids["<image>"],
        video_token_id=ids["<video>"],
    )


def _video_llama_processor(tokenizer: Any, template: str) -> Any:
    return transformers.VideoLlama3Processor(
        transformers.VideoLlama3ImageProcessor(**CLIP),
        tokenizer,
        transformers.VideoLlama3VideoProcessor(**CLIP),
        template,
    )


def _gemma3(vocabulary: int, ids: dict[str, int]) -> Any:
    text = QWEN | {"vocab_size": vocabulary, "head_dim": 32, "sliding_window": 48, "query_pre_attn_scalar": 32}
    text |= {"layer_types": ["sliding_attention", "full_attention"]}
    return transformers.Gemma3Config(
        text_config=text,
        vision_config=_siglip("siglip_vision_model", 56, vision_use_head=False),
        mm_tokens_per_image=4,
        boi_token_index=ids["<start_of_image>"],
        eoi_token_index=ids["<end_of_image>"],
        image_token_index=ids["<image_soft_token>"],
    )


def _gemma3_processor(tokenizer: Any, template: str) -> Any:
    image = transformers.Gemma3ImageProcessor(size={"height": 56, "width": 56})
    return transformers.Gemma3Processor(image, tokenizer, chat_template=template, image_seq_length=4)


def _gemma4(vocabulary: int, ids: dict[str, int]) -> Any:
    # As in E2B: of five layers the last two read the keys of earlier ones, and tokens have inputs for each layer.
    text = QWEN | {"vocab_size": vocabulary, "vocab_size_per_layer_input": vocabulary, "num_hidden_layers": 5}
    text |= {"head_dim": 32, "global_head_dim": 64, "sliding_window": 48, "hidden_size_per_layer_input": 16}
    text |= {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"] + ["full_attention"] * 2}
    text |= {"num_kv_shared_layers": 2, "use_double_wide_mlp": True, "pad_token_id": ids["<|endoftext|>"]}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"num_key_value_heads": 2, "head_dim": 16, "position_embedding_size": 256, "initializer_range": 0.1}
    # vLLM reads default_output_length, tokens of an image, as released configs have it
    return transformers.Gemma4Config(
        text_config=text,
        vision_config=vision | {"default_output_length": 70},
        boi_token_id=ids["<|image>"],
        eoi_token_id=ids["<image|>"],
        image_token_id=ids["<|image|>"],
        video_token_id=ids["<|video|>"],
        audio_token_id=ids["<|audio|>"],
        boa_token_id=ids["<|audio>"],
        eoa_token_index=ids["<audio|>"],
        initializer_range=0.1,
    )


def _gemma4_processor(tokenizer: Any, template: str) -> Any:
    return transformers.Gemma4Processor(
        transformers.Gemma4AudioFeatureExtractor(),
        transformers.Gemma4ImageProcessor(max_soft_tokens=70),
        tokenizer,
        transformers.Gemma4VideoProcessor(),
        chat_template=template,
    )


def _molmo2(vocabulary: int, ids: dict[str, int]) -> Any:
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "initializer_range": 0.1}
    vision = heads | {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "image_size": [84, 84]}
    adapter = heads | {"hidden_size": 32, "intermediate_size": 64, "text_hidden_size": HIDDEN}
    return transformers.Molmo2Config(
        text_config=QWEN | {"vocab_size": vocabulary, "additional_vocab_size": 8, "head_dim": 32},
        vision_config=vision,
        adapter_config=adapter | {"vision_feature_layer": [1, 0], "initializer_range": 0.5},
        image_start_token_id=ids["<im_start>"],
        low_res_image_start_token_id=ids["<low_res_im_start>"],
        image_end_token_id=ids["<im_end>"],
        image_patch_id=ids["<im_patch>"],
        frame_start_token_id=ids["<frame_start>"],
        frame_end_token_id=ids["<frame_end>"],
        initializer_range=0.1,
    )


def _molmo2_processor(tokenizer: Any, template: str) -> Any:
    size = {"height": 84, "width": 84}
    return transformers.Molmo2Processor(
        transformers.Molmo2ImageProcessor(size=size, max_crops=2, overlap_margins=[1, 1]),
        transformers.Molmo2VideoProcessor(size=size),
        tokenizer,
        chat_template=template,
    )


def _kimi(vocabulary: int, ids: dict[str, int]) -> Any:
    text = QWEN | {"model_type": "deepseek_v3", "vocab_size": vocabulary, "num_key_value_heads": HEADS}
    text |= {"q_lora_rank": 32, "kv_lora_rank": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 32}
    text |= {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
    text |= {"moe_intermediate_size": 64, "first_k_dense_replace": 1, "num_mtp_layers": 0}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"pos_emb_height": 8, "pos_emb_width": 8, "initializer_range": 0.1}
    return transformers.AutoConfig.for_model(
        "kimi_k25",
        text_config=text,
        vision_config=vision,
        projection_hidden_size=32,
        image_token_id=ids["<|media_pad|>"],
        video_token_id=ids["<|kimi_k25_video_placeholder|>"],
        vision_start_token_id=ids["<|media_begin|>"],
        vision_end_token_id=ids["<|media_end|>"],
        initializer_range=0.1,
    )


def _kimi_processor(tokenizer: Any, template: str) -> Any:
    return transformers.Kimi_K25Processor(
        transformers.Kimi_K25ImageProcessor(),
        tokenizer,
        transformers.Kimi_K25VideoProcessor(),
        chat_template=template,
    )


def _minicpm(vocabulary: int, ids: dict[str, int]) -> Any:
    # Its text model is Qwen3.5's, with a layer of linear attention; 64 is the smallest head that vLLM has on a CPU.
    linear = {"linear_key_head_dim": 64, "linear_value_head_dim": 64}
    linear |= {"linear_num_key_heads": 1, "linear_num_value_heads": 2}
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [6, 5, 5], "partial_rotary_factor": 1.0}
    text = QWEN | linear | {"model_type": "qwen3_5_text", "vocab_size": vocabulary, "head_dim": 32}
    text |= {"layer_types": ["linear_attention", "full_attention"], "rope_parameters": rope}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": 112, "patch_size": 14, "initializer_range": 0.1}
    return transformers.MiniCPMV4_6Config(
        text_config=text,
        vision_config=vision,
        insert_layer_id=0,
        image_size=112,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        initializer_range=0.1,
    )


def _minicpm_processor(tokenizer: Any, template: str) -> Any:
    options = {"scale_resolution": 112, "max_slice_nums": 2}
    return transformers.MiniCPMV4_6Processor(
        transformers.MiniCPMV4_6ImageProcessor(**options),
        transformers.MiniCPMV4_6VideoProcessor(scale_resolution=112, max_slice_nums=1),
        tokenizer,
        chat_template=template,
    )


def _smolvlm(vocabulary: int, ids: dict[str, int]) -> Any:
    text = QWEN | {"model_type": "llama", "vocab_size": vocabulary, "pad_token_id": ids["<|endoftext|>"]}
    return transformers.SmolVLMConfig(
        text_config=text,
        vision_config=_siglip("smolvlm_vision", 56) | {"initializer_range": 0.1},
        image_token_id=ids["<image>"],
        scale_factor=2,
        pad_token_id=ids["<|endoftext|>"],
    )


def _smolvlm_processor(tokenizer: Any, template: str) -> Any:
    sizes = {"size": {"longest_edge": 112}, "max_image_size": {"longest_edge": 56}}
    return transformers.SmolVLMProcessor(
        transformers.SmolVLMImageProcessor(**sizes),
        tokenizer,
        transformers.SmolVLMVideoProcessor(**sizes),
        image_seq_len=4,
        chat_template=template,
    )


MOLMO2_MARKS = tuple(
    f"<{word}>"
    for word in ("im_patch", "im_col", "im_start", "low_res_im_start", "frame_start", "im_end", "frame_end", "im_low")
)
MINICPM_MARKS = {
    "image_start_token": "<image>",
    "image_end_token": "</image>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
}
SIGLIP = ("vision_tower.", "vision_tower.vision_model.")
PINPOINTS = [[56, 56], [56, 112], [112, 56], [112, 112]]
SMOLVLM_MARKS = ("<image>", "<video>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
SMOLVLM_MARKS += tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))

RECIPES = {
    "internvl": Recipe(
        image="<IMG_CONTEXT>",
        video="<video>",
        marks=("<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
        config=_internvl,
        processor=_internvl_processor,
        named={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    ),
    "glm4v": Recipe(
        image="<|begin_of_image|><|image|><|end_of_image|>",
        video="<|begin_of_video|><|video|><|end_of_video|>",
        marks=GLM_MARKS,
        config=_glm("glm4v"),
        processor=_glm_processor("Glm4vImageProcessor", "Glm4vVideoProcessor", "Glm4vProcessor"),
    ),
    "glm4v_moe": Recipe(
        image="<|begin_of_image|><|image|><|end_of_image|>",
        video="<|begin_of_video|><|video|><|end_of_video|>",
        marks=GLM_MARKS,
        config=_glm("glm4v_moe"),
        processor=_glm_processor("Glm4vImageProcessor", "Glm4vVideoProcessor", "Glm4vProcessor"),
    ),
    "glm46v": Recipe(
        image="<|begin_of_image|><|image|><|end_of_image|>",
        video="<|begin_of_video|><|video|><|end_of_video|>",
        marks=GLM_MARKS,
        config=_glm("glm46v"),
        processor=_glm_processor("Glm46VImageProcessor", "Glm46VVideoProcessor", "Glm46VProcessor"),
    ),
    "llava_onevision": Recipe(
        image="<image>",
        video="<video>",
        marks=("<image>", "<video>"),
        config=_llava,
        released=SIGLIP,
        processor=_llava_processor,
        named={"image_token": "<image>", "video_token": "<video>"},
    ),
    "video_llama_3": Recipe(
        image="<image>",
        video="<video>",
        marks=("<image>", "<video>"),
        config=_video_llama,
        processor=_video_llama_processor,
        named={"image_token": "<image>", "video_token": "<video>"},
    ),
    "gemma3": Recipe(
        image="<start_of_image>",
        video="",
        # vLLM takes runs of line breaks for tokens of their own, which they are in Gemma's vocabulary.
        marks=("<start_of_image>", "<end_of_image>", "<image_soft_token>", *("\n" * n for n in range(1, 5))),
        config=_gemma3,
        released=SIGLIP,
        processor=_gemma3_processor,
        named={
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
    ),
    "gemma4": Recipe(
        image="<|image|>",
        video="<|video|>",
        marks=("<|image|>", "<|video|>", "<|audio|>", "<|image>", "<image|>", "<|audio>", "<audio|>"),
        config=_gemma4,
        processor=_gemma4_processor,
        named={
            "image_token": "<|image|>",
            "boi_token": "<|image>",
            "eoi_token": "<image|>",
            "audio_token": "<|audio|>",
            "boa_token": "<|audio>",
            "eoa_token": "<audio|>",
        },
    ),
    "molmo2": Recipe(
        image="<|image|>",
        video="<|video|>",
        marks=("<|image|>", "<|video|>", *MOLMO2_MARKS),
        config=_molmo2,
        processor=_molmo2_processor,
        named={"image_token": "<|image|>", "video_token": "<|video|>"},
    ),
    "kimi_k25": Recipe(
        image="<|media_begin|>image<|media_content|><|media_pad|><|media_end|>",
        video="<|kimi_k25_video_placeholder|>",
        marks=(
            "<|media_begin|>",
            "<|media_content|>",
            "<|media_pad|>",
            "<|media_end|>",
            "<|kimi_k25_video_placeholder|>",
        ),
        config=_kimi,
        processor=_kimi_processor,
    ),
    "minicpmv4_6": Recipe(
        image="<|image_pad|>",
        video="<|video_pad|>",
        marks=("<|image_pad|>", "<|video_pad|>", *MINICPM_MARKS.values()),
        config=_minicpm,
        processor=_minicpm_processor,
        named={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"} | MINICPM_MARKS,
    ),
    "smolvlm": Recipe(
        image="<image>",
        video="<video>",
        marks=SMOLVLM_MARKS,
        config=_smolvlm,
        processor=_smolvlm_processor,
        named={"image_token": "<image>", "video_token": "<video>"},
    ),
}


def make_generic(folder: Path, family: str) -> Path:
    """Write the checkpoint of a family; its weights are large enough that pixels and positions change its tokens."""
    recipe = RECIPES[family]
    tokenizer = _tokenizer(recipe)
    vocabulary = tokenizer.get_vocab()
    config = recipe.config(len(tokenizer), vocabulary)
    config.tie_word_embeddings = False
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = transformers.AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
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


@functools.cache
def _holder(family: str) -> tempfile.TemporaryDirectory[str]:
    holder = tempfile.TemporaryDirectory(prefix="tiny-")  # removed when the interpreter ends
    make_generic(Path(holder.name), family)
    return holder


def generic_checkpoint(family: str) -> Path:
    """The folder of this family's checkpoint, made once per test run."""
    return Path(_holder(family).name)
