"""The vision tower, run once for all images and clips of a batch, its attention once for all windows of a length.

transformers calls the tower once for images and once for clips, and under sdpa attends to one window after the other,
asking the GPU for the windows' sizes in every block. Here clips travel as images, which to the tower are the same,
sizes are worked out on the host before the tower begins, and windows of equal length are one call. By tests/rehearsal
the forward pass of one prompt takes 1 synchronisation instead of 202, and 786 kernels instead of 5,206.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from seedbench_r1.models.qwen_vl import Grid, ModelInputs, VisionLayout, normalise_patches

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class _Segments:
    """Which patches attend to one another: segments, those of equal length brought together."""

    order: Tensor | None  # (N,) int64: the patch at each place; None: they lie together already
    places: Tensor | None  # (N,) int64: the inverse
    runs: tuple[tuple[int, int], ...]  # (how many segments, patches in each)


# By the tensor of boundaries that transformers hands to every block.
_SEGMENTS: Any = WeakIdKeyDictionary()


def media_arguments(
    model: PreTrainedModel,
    layout: VisionLayout,
    prompts: Sequence[ModelInputs],
    input_ids: Tensor,  # (B, L) int64 on the CPU: the prompts' tokens, in their order
) -> dict[str, Tensor]:
    """input_ids and all pixels of a batch as the model's arguments, on its device.

    Images and clips stand in the order of their tokens, clips under the image token: the embeddings of both tokens are
    replaced by what the tower makes, and positions are always given. Pixels cross to the device as uint8.
    """
    device = device_of(model)
    media: list[tuple[Tensor, Grid, tuple[float, ...], tuple[float, ...]]] = []
    for prompt in prompts:
        own = []
        if prompt.image_patches is not None and prompt.image_grid is not None:
            image = (prompt.image_patches, prompt.image_grid, layout.image_mean, layout.image_std)
            own.append((_first(prompt, layout.image_token_id), image))
        if prompt.video_patches is not None and prompt.video_grid is not None:
            clip = (prompt.video_patches, prompt.video_grid, layout.video_mean, layout.video_std)
            own.append((_first(prompt, layout.video_token_id), clip))
        media += [medium for _, medium in sorted(own, key=lambda entry: entry[0])]
    if not media:
        return {"input_ids": input_ids.to(device)}
    as_images = input_ids.masked_fill(input_ids == layout.video_token_id, layout.image_token_id)
    # A quarter of the bytes of float32 cross the bus; normalising is cheap on the device.
    pixels = [normalise_patches(patches.to(device), mean, std, model.dtype) for patches, _, mean, std in media]
    return {
        "input_ids": as_images.to(device),
        "pixel_values": torch.cat(pixels),
        "image_grid_thw": torch.tensor([grid for _, grid, _, _ in media], device=device),
    }


def device_of(model: torch.nn.Module) -> torch.device:
    """Where a model's passes run. Its parameters may lie in main memory until they are gathered; its buffers do not."""
    return next(model.buffers()).device


def _first(prompt: ModelInputs, token: int) -> int:
    return int((prompt.input_ids == token).int().argmax())


def prepare_vision_tower(model: PreTrainedModel) -> None:
    """Have a Qwen-VL model's vision tower work out its sizes on the host, in fewer and larger operations."""
    visual: Any = model.model.visual
    for block in visual.blocks:
        block.attn.forward = MethodType(_attention, block.attn)
    for module in visual.modules():
        if hasattr(module, "variance_epsilon"):  # Qwen2.5-VL's; the others have torch's LayerNorm
            module.forward = MethodType(_rms_norm, module)
    visual.register_forward_pre_hook(_sizes_from_host, with_kwargs=True)


def _sizes_from_host(
    visual: Any,  # noqa: ANN401  # of any family of Qwen-VL's kind
    arguments: tuple[Tensor, ...],
    options: dict[str, Any],
) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """Add what the tower would work out from the grids, computed by transformers' own functions on the CPU."""
    from transformers import vision_utils

    grid_thw: Tensor = options["grid_thw"]
    grids, device = torch.tensor(grid_thw.tolist()), grid_thw.device  # the tower's one synchronisation
    merge = visual.config.spatial_merge_size
    found = {"position_ids": vision_utils.get_vision_position_ids(grids, merge)}
    found["cu_seqlens"] = frames = vision_utils.get_vision_cu_seqlens(grids)
    bounds = {"cu_seqlens": frames}
    if hasattr(visual, "window_size"):  # Qwen2.5-VL
        sizes = {"window_size": visual.window_size, "patch_size": visual.patch_size}
        found["window_index"], windows = vision_utils.get_vision_window_index(grids, spatial_merge_size=merge, **sizes)
        bounds["cu_window_seqlens"] = found["cu_window_seqlens"] = windows
    if hasattr(visual, "interpolation_mode"):  # Qwen3-VL since transformers 5.22; before, on the device
        found["interp_indices"], found["interp_weights"] = vision_utils.get_vision_interpolation_indices_and_weights(
            grids,
            num_grid_per_side=visual.num_grid_per_side,
            mode=visual.interpolation_mode,
            align_corners=visual.interpolation_align_corners,
            spatial_merge_size=merge,
        )
    placed = {name: value.to(device) for name, value in found.items()}
    for name, on_host in bounds.items():
        _SEGMENTS[placed[name]] = _segments(on_host.diff().tolist(), device)
    return arguments, options | placed


def _segments(lengths: Sequence[int], device: torch.device) -> _Segments:
    by_length: dict[int, list[Tensor]] = {}
    start = 0
    for length in lengths:
        by_length.setdefault(length, []).append(torch.arange(start, start + length))
        start += length
    runs = tuple((len(found), length) for length, found in by_length.items())
    order = torch.cat([patches for found in by_length.values() for patches in found])
    if torch.equal(order, torch.arange(start)):
        return _Segments(None, None, runs)
    return _Segments(order.to(device), order.argsort().to(device), runs)


def _attention(
    module: Any,  # noqa: ANN401  # the attention of a block
    hidden_states: Tensor,  # (N, H)
    cu_seqlens: Tensor,  # (segments + 1,) int32
    position_embeddings: tuple[Tensor, Tensor],
    **options: object,
) -> Tensor:  # (N, H)
    """transformers' own, but for the loop over the segments, and with one rotation of queries and keys."""
    segments = _SEGMENTS.get(cu_seqlens)
    if segments is None:  # the tower was called in another way
        segments = _SEGMENTS[cu_seqlens] = _segments(cu_seqlens.diff().tolist(), cu_seqlens.device)
    n, heads = len(hidden_states), module.num_heads
    states = module.qkv(hidden_states).reshape(n, 3, heads, -1)
    # Queries and keys are turned together, in the angles' float32.
    cosine, sine = (angles[:, None, None].float() for angles in position_embeddings)
    turned = states[:, :2].float()
    half = turned.shape[-1] // 2
    across = torch.cat([-turned[..., half:], turned[..., :half]], dim=-1)
    turned = (turned * cosine + across * sine).to(states.dtype)
    states = torch.cat([turned, states[:, 2:]], dim=1)
    if segments.order is not None:
        states = states.index_select(0, segments.order)
    attended, start = [], 0
    for count, length in segments.runs:
        end = start + count * length
        own = states[start:end].view(count, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        found = torch.nn.functional.scaled_dot_product_attention(own[0], own[1], own[2], scale=module.scaling)
        attended.append(found.transpose(1, 2).reshape(end - start, -1))
        start = end
    joined = torch.cat(attended)
    if segments.places is not None:
        joined = joined.index_select(0, segments.places)
    output: Tensor = module.proj(joined)
    return output


def _rms_norm(module: Any, hidden_states: Tensor) -> Tensor:  # noqa: ANN401  # of Qwen2.5-VL
    """torch's, which on CUDA is one kernel in place of eight."""
    weight: Tensor = module.weight
    return torch.nn.functional.rms_norm(hidden_states, weight.shape, weight, module.variance_epsilon)
