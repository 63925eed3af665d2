"""The vision tower run once for images and clips, equal windows together: transformers' own numbers, in fewer calls."""

from __future__ import annotations

import copy
from types import MethodType

import pytest
import torch
import transformers

from seedbench_r1.backends.vision import media_arguments, prepare_vision_tower
from seedbench_r1.models.qwen_vl import load_processor, prepare_inputs
from tests.tiny_models import FAMILIES, request, tiny_checkpoint, vision_tensors

# Windows of Qwen2.5-VL are four tokens wide: whole ones, and rests of one, two and three.
SHAPES = [(5, 6), (4, 4), (7, 9), (1, 2)]


def pair(family):
    """A float64 model as transformers has it, and ours."""
    plain = transformers.AutoModelForImageTextToText.from_pretrained(
        tiny_checkpoint(family), dtype=torch.float64, attn_implementation="sdpa", experts_implementation="eager"
    )
    ours = copy.deepcopy(plain)
    prepare_vision_tower(ours)
    for module in plain.model.visual.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = MethodType(rms_norm, module)  # transformers' is in float32
    return plain, ours


def rms_norm(module, states):
    return module.weight * states * (states.pow(2).mean(-1, keepdim=True) + module.variance_epsilon).rsqrt()


def prompts_of(family, shapes=SHAPES):
    processor = load_processor(str(tiny_checkpoint(family)))
    asked = [request(f"v/{n}", family, n_frames=6, cells=cells) for n, cells in enumerate(shapes)]
    asked.append(request("v/image", family, n_frames=None, cells=(3, 5)))
    return processor.layout, [prepare_inputs(one, processor) for one in asked]


def gradients(model):
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_logits_and_gradients_are_those_of_transformers(family, checkpointing):
    layout, prompts = prompts_of(family)
    plain, ours = pair(family)
    for model in (plain, ours):
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()
    for prompt in prompts:
        ids, positions = prompt.input_ids[None], prompt.positions[:, None]
        expected = plain(input_ids=ids, position_ids=positions, **vision_tensors(plain, layout, [prompt])).logits
        found = ours(position_ids=positions, **media_arguments(ours, layout, [prompt], ids)).logits
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
        for logits in (expected, found):
            logits.sin().sum().backward()
    left, right = gradients(plain), gradients(ours)
    assert left.keys() == right.keys()
    assert any("visual" in name for name in left)
    for name, value in left.items():
        torch.testing.assert_close(right[name], value, rtol=1e-6, atol=1e-9, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_clips_and_images_is_one_call_of_the_tower(family, monkeypatch):
    layout, prompts = prompts_of(family)
    plain, ours = pair(family)
    width = max(len(prompt.input_ids) for prompt in prompts)
    ids, mask = torch.zeros(len(prompts), width, dtype=torch.int64), torch.zeros(len(prompts), width)
    positions = torch.zeros(3, len(prompts), width, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        length = len(prompt.input_ids)
        ids[row, :length], mask[row, :length], positions[:, row, :length] = prompt.input_ids, 1, prompt.positions
    batch = {"attention_mask": mask, "position_ids": positions}
    expected = plain(input_ids=ids, **batch, **vision_tensors(plain, layout, prompts))
    calls = {"tower": 0, "attention": 0}
    ours.model.visual.register_forward_hook(lambda *_: calls.update(tower=calls["tower"] + 1))
    attend = torch.nn.functional.scaled_dot_product_attention

    def counted(*arguments, **options):
        calls["attention"] += 1
        return attend(*arguments, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    found = ours(**batch, **media_arguments(ours, layout, prompts, ids))
    torch.testing.assert_close(found.logits[mask.bool()], expected.logits[mask.bool()], rtol=0, atol=1e-11)
    assert calls["tower"] == 1
    frames = {rows * columns for rows, columns in SHAPES} | {15}
    # A call for every length of window or frame; Qwen2.5-VL's toy has one block of each kind.
    windows = {h * w for rows, columns in [*SHAPES, (3, 5)] for h in parts(rows) for w in parts(columns)}
    blocks = len(ours.model.visual.blocks)
    whole = len(getattr(ours.model.visual, "fullatt_block_indexes", range(blocks)))
    text = ours.config.get_text_config()
    kinds = getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers
    layers = kinds.count("full_attention")
    assert calls["attention"] == layers + whole * len(frames) + (blocks - whole) * len(windows)


def parts(side, window=4):
    """The sides of windows along a side, in tokens."""
    return ({window} if side >= window else set()) | ({side % window} - {0})


def test_a_tower_called_as_transformers_calls_it_answers_as_before():
    """Clips and images apart, and the grids alone."""
    layout, prompts = prompts_of("qwen2_5_vl")
    plain, ours = pair("qwen2_5_vl")
    for model in (plain, ours):
        model.train(False)
    tensors = vision_tensors(plain, layout, prompts)
    with torch.no_grad():
        for kind in ("video", "image"):
            pixels = tensors["pixel_values_videos" if kind == "video" else "pixel_values"]
            grids = tensors[f"{kind}_grid_thw"]
            expected, found = (model.model.visual(pixels, grid_thw=grids).pooler_output for model in (plain, ours))
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
