"""Prompt tokens, patches and positions against hand-worked cases and against transformers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from seedbench_r1.errors import ConfigError
from seedbench_r1.models.qwen_vl import (
    VisionLayout,
    frame_times,
    frames_to_patches,
    load_processor,
    normalise_patches,
    prepare_inputs,
    rope_positions,
)
from tests.tiny_models import FAMILIES, make_tiny, request, tiny_checkpoint

IMAGE, VIDEO, TEXT = 91, 92, 7


def layout(family, tokens_per_second=2.0):
    return VisionLayout(family, 14, 2, 2, IMAGE, VIDEO, tokens_per_second)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def ours(family):
    return load_processor(str(tiny_checkpoint(family)))


@pytest.fixture(scope="module")
def theirs(family):
    return transformers.AutoProcessor.from_pretrained(tiny_checkpoint(family))


def test_positions_of_qwen2_5_follow_clip_time():
    ids = torch.tensor([TEXT] * 2 + [VIDEO] * 8 + [TEXT] + [IMAGE] * 4 + [TEXT])
    positions, delta = rope_positions(
        ids, layout("qwen2_5_vl"), image_grids=[(1, 4, 4)], video_grids=[(2, 4, 4)], seconds_per_grid=[1.5]
    )
    # 1.5 s x 2 positions a second = 3 between temporal patches; the clip ends at 5, so the text goes on at 6
    assert positions.tolist() == [
        [0, 1, 2, 2, 2, 2, 5, 5, 5, 5, 6, 7, 7, 7, 7, 9],
        [0, 1, 2, 2, 3, 3, 2, 2, 3, 3, 6, 7, 7, 8, 8, 9],
        [0, 1, 2, 3, 2, 3, 2, 3, 2, 3, 6, 7, 8, 7, 8, 9],
    ]
    assert delta == 9 + 1 - 16


def test_positions_of_qwen2_step_by_one():
    ids = torch.tensor([TEXT] * 2 + [VIDEO] * 8 + [TEXT] + [IMAGE] * 4 + [TEXT])
    positions, delta = rope_positions(ids, layout("qwen2_vl"), image_grids=[(1, 4, 4)], video_grids=[(2, 4, 4)])
    assert positions.tolist() == [
        [0, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 5, 5, 5, 5, 7],
        [0, 1, 2, 2, 3, 3, 2, 2, 3, 3, 4, 5, 5, 6, 6, 7],
        [0, 1, 2, 3, 2, 3, 2, 3, 2, 3, 4, 5, 6, 5, 6, 7],
    ]
    assert delta == 7 + 1 - 16


def test_positions_of_qwen3_restart_time_in_every_group():
    ids = torch.tensor([TEXT] * 2 + [VIDEO] * 6 + [TEXT] + [VIDEO] * 6 + [TEXT])
    positions, delta = rope_positions(ids, layout("qwen3_vl"), video_grids=[(2, 4, 6)])
    assert positions.tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5, 6, 6, 6, 6, 6, 6, 9],
        [0, 1, 2, 2, 2, 3, 3, 3, 5, 6, 6, 6, 7, 7, 7, 9],
        [0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 7, 8, 6, 7, 8, 9],
    ]
    assert delta == 9 + 1 - 16


def test_temporal_steps_are_floored_in_vllms_arithmetic():
    # 16 frames of 13 1/3 s: 5/3 s a patch. As float32 that is just below 5/3, so 3 x 5/3 x 2 floors to 9, not 10.
    ids = torch.tensor([VIDEO] * 8)
    positions, _ = rope_positions(
        ids, layout("qwen2_5_vl"), video_grids=[(8, 2, 2)], seconds_per_grid=[2 / (16 / 400 * 30)]
    )
    assert positions[0].tolist() == [0, 3, 6, 9, 13, 16, 19, 23]


def slow_positions(ids, grids, steps, merge):
    """One token at a time, from the definition."""
    columns, media, place = [], list(zip(grids, steps, strict=True)), 0
    while place < len(ids):
        start = max((max(column) for column in columns), default=-1) + 1
        if ids[place] == TEXT:
            columns.append((start, start, start))
            place += 1
            continue
        (t, h, w), step = media.pop(0)
        for frame in range(t):
            for row in range(h // merge):
                for column in range(w // merge):
                    columns.append((start + int(frame * step), start + row, start + column))
                    place += 1
    return [list(axis) for axis in zip(*columns, strict=True)]


media = st.tuples(
    st.integers(0, 3), st.booleans(), st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)),
    st.sampled_from([0.25, 0.5, 1.0, 1.5, 3.75]),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(media, max_size=4), st.integers(1, 3))
def test_positions_equal_the_definition(parts, tail):
    ids, grids, steps, images, videos, seconds = [], [], [], [], [], []
    for text, is_video, (t, h, w), second in parts:
        grid = (t if is_video else 1, 2 * h, 2 * w)
        # adjacent media are separated by their vision marks
        ids += [TEXT] * (text + 1) + [VIDEO if is_video else IMAGE] * (grid[0] * h * w)
        grids.append(grid)
        steps.append(2 * second if is_video else 1.0)
        (videos if is_video else images).append(grid)
        seconds += [second] * is_video
    ids += [TEXT] * tail
    positions, delta = rope_positions(
        torch.tensor(ids), layout("qwen2_5_vl"), image_grids=images, video_grids=videos, seconds_per_grid=seconds
    )
    assert positions.tolist() == slow_positions(ids, grids, steps, 2)
    assert delta == int(positions.max()) + 1 - len(ids)


@pytest.mark.parametrize(
    ("ids", "grids", "words"),
    [
        ([VIDEO] * 8 + [TEXT], [], "more media placeholders"),
        ([VIDEO] * 7 + [TEXT], [(2, 4, 4)], "needs 8 placeholders"),
        ([VIDEO] * 4 + [TEXT] + [VIDEO] * 4, [(2, 4, 4)], "needs 8 placeholders"),
        ([TEXT], [(2, 4, 4)], "without a placeholder"),
    ],
)
def test_placeholders_must_match_the_grids(ids, grids, words):
    with pytest.raises(ValueError, match=words):
        rope_positions(torch.tensor(ids), layout("qwen2_vl"), video_grids=grids)


def transformers_positions(family, inputs, processor):
    model_class = transformers.AutoModelForImageTextToText
    model = model_class.from_pretrained(tiny_checkpoint(family))
    ids = inputs.input_ids[None]
    kinds = (ids == processor.layout.image_token_id).int() + 2 * (ids == processor.layout.video_token_id).int()
    extra = {"second_per_grid_ts": torch.tensor([inputs.seconds_per_grid])} if family == "qwen2_5_vl" else {}
    positions, delta = model.model.get_rope_index(
        ids,
        mm_token_type_ids=kinds,
        image_grid_thw=torch.tensor([inputs.image_grid]),
        video_grid_thw=torch.tensor([inputs.video_grid]),
        **extra,
    )
    return positions[:, 0], int(delta)


def test_positions_equal_transformers_where_space_exceeds_time(family, ours):
    inputs = prepare_inputs(request("a", family, n_frames=4, cells=(3, 6), seconds=2.0), ours)
    positions, delta = transformers_positions(family, inputs, ours)
    assert torch.equal(inputs.positions, positions)
    assert inputs.delta == delta


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])  # every group of Qwen3-VL stands at one time
def test_text_starts_behind_a_long_clip_and_transformers_does_not(family):
    ours = load_processor(str(tiny_checkpoint(family)))
    inputs = prepare_inputs(request("a", family, n_frames=12, cells=(2, 2), seconds=24.0), ours)
    last = int((inputs.input_ids == ours.layout.video_token_id).nonzero().max())
    clip_end = int(inputs.positions[:, : last + 1].max())
    # 6 temporal patches, for Qwen2.5-VL 4 s = 8 positions apart
    start = int((inputs.input_ids == ours.layout.video_token_id).nonzero().min())
    assert clip_end == start + (5 * 8 if family == "qwen2_5_vl" else 5)
    assert inputs.positions[:, last + 1].tolist() == [clip_end + 1] * 3
    theirs, _ = transformers_positions(family, inputs, ours)
    assert int(theirs[0, last + 1]) == start + 2


def test_patches_equal_the_processors(family, ours, theirs):
    size = ours.layout.size_multiple
    frames = np.random.default_rng(0).integers(0, 256, (5, 2 * size, 3 * size, 3), dtype=np.uint8)
    cut = {"patch": ours.layout.patch, "temporal_patch": 2, "merge": 2}
    patches = frames_to_patches(frames, **cut)
    assert patches.dtype == torch.uint8
    expected = theirs.video_processor([frames], do_resize=False, do_sample_frames=False, return_tensors="pt")
    mine = normalise_patches(patches, ours.layout.video_mean, ours.layout.video_std, torch.float32)
    torch.testing.assert_close(mine, expected["pixel_values_videos"], rtol=0, atol=1e-6)
    image = frames_to_patches(frames[:1], **cut)
    expected = theirs.image_processor([frames[0]], do_resize=False, return_tensors="pt")
    mine = normalise_patches(image, ours.layout.image_mean, ours.layout.image_std, torch.float32)
    torch.testing.assert_close(mine, expected["pixel_values"], rtol=0, atol=1e-6)


def test_one_patch_by_hand():
    frames = np.arange(2 * 2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 2, 3)
    patches = frames_to_patches(frames, patch=1, temporal_patch=2, merge=2)
    # four one-pixel patches; in each: red of both frames, green of both, blue of both
    assert patches.tolist() == [
        [0, 12, 1, 13, 2, 14],
        [3, 15, 4, 16, 5, 17],
        [6, 18, 7, 19, 8, 20],
        [9, 21, 10, 22, 11, 23],
    ]


def processor_output(theirs, asked):
    text = theirs.apply_chat_template(list(asked.messages), tokenize=False, add_generation_prompt=True)
    metadata = {
        "fps": asked.native_fps,
        "total_num_frames": asked.n_total,
        "frames_indices": list(asked.frame_indices),
        "duration": asked.n_total / asked.native_fps,
    }
    return theirs(
        text=[text],
        images=[asked.image],
        videos=[asked.frames],
        video_metadata=[metadata],
        do_resize=False,
        do_sample_frames=False,
        return_tensors="pt",
    )


@pytest.mark.parametrize("n_frames", [4, 5])
def test_inputs_equal_the_processors(family, ours, theirs, n_frames):
    asked = request("L1/1", family, n_frames=n_frames, seconds=3.0)
    inputs, expected = prepare_inputs(asked, ours), processor_output(theirs, asked)
    assert inputs.input_ids.tolist() == expected["input_ids"][0].tolist()
    assert [inputs.image_grid] == [tuple(grid) for grid in expected["image_grid_thw"].tolist()]
    assert [inputs.video_grid] == [tuple(grid) for grid in expected["video_grid_thw"].tolist()]
    if family == "qwen2_5_vl":
        assert inputs.seconds_per_grid == pytest.approx(float(expected["second_per_grid_ts"][0]), rel=1e-6)


def test_timestamps_by_hand():
    # frames 0 and 30 of 30 a second: (0 + 1) / 2; the odd one is paired with itself
    assert frame_times([0, 30, 59, 89, 119], 30.0) == pytest.approx([0.5, (59 + 89) / 60, 119 / 30])


def test_timestamps_are_in_qwen3s_prompt():
    processor = load_processor(str(tiny_checkpoint("qwen3_vl")))
    asked = request("a", "qwen3_vl", n_frames=4, cells=(1, 1), seconds=3.0)
    asked = dataclasses.replace(asked, frame_indices=(0, 30, 59, 89))
    text = processor.tokenizer.decode(prepare_inputs(asked, processor).input_ids)
    one = "<|vision_start|><|video_pad|><|vision_end|>"
    clip = f"<|vision_start|><0.5 seconds>{one}<2.5 seconds>{one}<|vision_end|>"
    assert f"user\n{clip}<|vision_start|><|image_pad|><|vision_end|>What" in text


def test_seconds_per_grid_by_hand():
    processor = load_processor(str(tiny_checkpoint("qwen2_5_vl")))
    # 8 frames of a clip of 10 s: 0.8 a second; a temporal patch of two frames spans 2.5 s
    assert prepare_inputs(request("a", n_frames=8, seconds=10.0), processor).seconds_per_grid == pytest.approx(2.5)


def test_a_request_without_a_clip(ours, family):
    inputs = prepare_inputs(request("a", family, n_frames=None), ours)
    assert inputs.video_patches is None
    assert inputs.video_grid is None
    assert int((inputs.input_ids == ours.layout.image_token_id).sum()) == 6
    assert ours.layout.video_token_id not in inputs.input_ids


def test_sides_must_be_multiples(ours, family):
    asked = request("a", family)
    asked = dataclasses.replace(asked, image=asked.image[:-1])
    with pytest.raises(ValueError, match=f"multiple of {ours.layout.size_multiple}"):
        prepare_inputs(asked, ours)


def test_a_placeholder_in_the_question_is_refused(ours, family):
    with pytest.raises(ValueError, match="2 image and 1 video placeholders"):
        prepare_inputs(request("a", family, question="What is <|image_pad|>?"), ours)


def test_a_clip_needs_its_frame_rate(ours, family):
    with pytest.raises(ValueError, match="native_fps"):
        prepare_inputs(dataclasses.replace(request("a", family), native_fps=None), ours)


def test_a_prompt_longer_than_the_context_is_never_cut(tmp_path):
    processor = load_processor(str(make_tiny(tmp_path, "qwen2_5_vl", context=100)))
    asked = request("a", question="pan " * 200)
    with pytest.raises(ValueError, match=r"the prompt has \d{3} tokens, the model's context is 100"):
        prepare_inputs(asked, processor)


def test_vision_tokens_are_forbidden(ours):
    known = ours.tokenizer.get_vocab()
    assert {known["<|image_pad|>"], known["<|video_pad|>"], known["<|vision_start|>"]} <= set(ours.forbidden_ids)
    assert known["<|im_end|>"] not in ours.forbidden_ids


def test_another_architecture_is_refused(tmp_path):
    transformers.AutoConfig.for_model("llama").save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"is a 'llama' model; training takes .*qwen2_5_vl, qwen3_vl, "):
        load_processor(str(tmp_path))


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"No model at .*no config\.json"):
        load_processor(str(tmp_path))
