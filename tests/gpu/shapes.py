"""Models of random weights in the shapes of Qwen2.5-VL 3B and 7B, and prompts for them. Nothing is downloaded."""

from __future__ import annotations

import torch
import transformers

from seedbench_r1.models.qwen_vl import ModelInputs, VisionLayout, rope_positions

# Depth, width, heads, inner width, and the blocks that attend to a whole frame.
_VISION = (32, 1280, 16, 3420, [7, 15, 23, 31])
# The released configurations of Qwen2.5-VL-3B-Instruct and 7B-Instruct; "small" has their heads of 128 and 80 numbers.
SHAPES = {
    "3b": {"hidden": 2048, "layers": 36, "heads": 16, "keys": 2, "inner": 11008, "vocabulary": 151_936, "tied": True},
    "7b": {"hidden": 3584, "layers": 28, "heads": 28, "keys": 4, "inner": 18944, "vocabulary": 152_064, "tied": False},
    "small": {"hidden": 512, "layers": 4, "heads": 4, "keys": 2, "inner": 1024, "vocabulary": 151_936, "tied": False},
    "smoke": {"hidden": 64, "layers": 2, "heads": 2, "keys": 1, "inner": 128, "vocabulary": 151_936, "tied": False},
}
VISION = {"3b": _VISION, "7b": _VISION, "small": (4, 320, 4, 640, [3]), "smoke": (2, 64, 2, 128, [1])}
Media = tuple[tuple[int, int, int], tuple[int, int]]
# Tokens of a clip of 16 frames (8 in time) and of an image, in rows and columns; text fills the prompt up.
MEDIA = {60: ((8, 2, 2), (2, 3)), 1350: ((8, 8, 16), (14, 14)), 4000: ((8, 16, 26), (16, 16))}
VIDEO, IMAGE, VISION_START, VISION_END = 151_656, 151_655, 151_652, 151_653  # ids of Qwen2.5-VL's tokenizer
# Dense bfloat16 FLOP/s and bytes/s of the data sheets, SXM versions.
PEAKS = {"H200": (989e12, 4.8e12), "H100": (989e12, 3.35e12), "A100": (312e12, 2.0e12), "B200": (2250e12, 8.0e12)}
LAYOUT = VisionLayout("qwen2_5_vl", 14, 2, 2, IMAGE, VIDEO, tokens_per_second=2.0)


def build(name: str, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> torch.nn.Module:
    """A model of SHAPES with gradient checkpointing, made on `device` itself."""
    shape, (depth, width, heads, inner, whole) = SHAPES[name], VISION[name]
    head = shape["hidden"] // shape["heads"]
    section = [16, 24, 24] if head == 128 else [head // 2 - 2 * (head * 3 // 16), head * 3 // 16, head * 3 // 16]
    text = {
        "vocab_size": shape["vocabulary"],
        "hidden_size": shape["hidden"],
        "intermediate_size": shape["inner"],
        "num_hidden_layers": shape["layers"],
        "num_attention_heads": shape["heads"],
        "num_key_value_heads": shape["keys"],
        "max_position_embeddings": 32_768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": section},
        "tie_word_embeddings": shape["tied"],
    }
    vision = {
        "depth": depth,
        "hidden_size": width,
        "num_heads": heads,
        "intermediate_size": inner,
        "out_hidden_size": shape["hidden"],
        "window_size": 112,
        "fullatt_block_indexes": whole,
        "tokens_per_second": 2,
    }
    marks = {"image_token_id": IMAGE, "video_token_id": VIDEO}
    marks |= {"vision_start_token_id": VISION_START, "vision_end_token_id": VISION_END}
    config = transformers.AutoConfig.for_model("qwen2_5_vl", text_config=text, vision_config=vision, **marks)
    config.tie_word_embeddings = shape["tied"]
    classes = transformers.AutoModelForImageTextToText
    with torch.device(device):
        model = classes.from_config(config, dtype=dtype, attn_implementation="sdpa")
    model.generation_config = transformers.GenerationConfig(pad_token_id=0, eos_token_id=None)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def prompt(length: int, media: Media | None = None) -> ModelInputs:
    """A prompt of exactly `length` tokens: clip, image, text. Without media, those that MEDIA has for the length."""
    (steps, rows, columns), (height, width) = media or MEDIA[length]
    video_grid, image_grid = (steps, 2 * rows, 2 * columns), (1, 2 * height, 2 * width)
    medium = [VISION_START, *[VIDEO] * (steps * rows * columns), VISION_END]
    medium += [VISION_START, *[IMAGE] * (height * width), VISION_END]
    drawn = torch.Generator().manual_seed(0)
    text = torch.randint(0, 150_000, (length - len(medium),), generator=drawn)
    ids = torch.cat([text[:3], torch.tensor(medium), text[3:]])
    positions, delta = rope_positions(
        ids, LAYOUT, image_grids=[image_grid], video_grids=[video_grid], seconds_per_grid=[2.0]
    )
    pixels = [
        torch.randint(0, 256, (t * h * w, 1176), dtype=torch.uint8, generator=drawn)
        for t, h, w in (image_grid, video_grid)
    ]
    return ModelInputs(ids, positions, delta, pixels[0], image_grid, pixels[1], video_grid, 2.0)
