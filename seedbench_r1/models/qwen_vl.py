"""What is particular to the families of Qwen-VL's kind: prompt tokens, patches and M-RoPE positions.

A Request goes in; out come exactly the tensors that the model classes of transformers take, with the pixels still as
uint8 (a quarter of the bytes; `normalise_patches` runs on the device) and the positions already computed.

Prompts are those of the Hugging Face processors. Positions are those of the original model code and of vLLM, which
transformers up to 5.23 departs from: there, the text after a clip starts too early when the clip's temporal extent
exceeds its spatial one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from seedbench_r1.errors import ConfigError
from seedbench_r1.media.decode import Pixels
from seedbench_r1.models.families import family_of
from seedbench_r1.models.processor import open_processor, read_config
from seedbench_r1.models.templates import check_template_ends, opened_by_template, render_template
from seedbench_r1.types import Preprocess, Request

Grid = tuple[int, int, int]  # patches in time, height and width, before spatial merging

VISION_MARKS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")


@dataclass(frozen=True, slots=True)
class VisionLayout:
    """The numbers by which a checkpoint turns pixels into tokens and tokens into positions."""

    family: str  # the model_type of the checkpoint's config.json
    patch: int  # pixels along one side of a patch: 14, or 16 for Qwen3-VL
    temporal_patch: int  # frames in one patch: 2
    merge: int  # patches along one side of a token: 2
    image_token_id: int
    video_token_id: int
    tokens_per_second: float = 1.0  # Qwen2.5-VL: temporal positions per second of clip
    image_mean: tuple[float, ...] = (0.5, 0.5, 0.5)  # of pixels scaled to 0..1
    image_std: tuple[float, ...] = (0.5, 0.5, 0.5)
    video_mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    video_std: tuple[float, ...] = (0.5, 0.5, 0.5)

    @property
    def size_multiple(self) -> int:
        """Pixels that every side of a frame or image must be a multiple of."""
        return self.patch * self.merge

    def n_tokens(self, grid: Grid) -> int:
        """Placeholder tokens that a medium of this grid occupies."""
        return grid[0] * grid[1] * grid[2] // self.merge**2


@dataclass(frozen=True, slots=True)
class QwenProcessor:
    """Tokeniser, chat template and layout of one checkpoint."""

    layout: VisionLayout
    tokenizer: Any  # a transformers tokenizer
    renderer: Any  # a transformers processor or tokenizer: what has apply_chat_template
    chat_template: str | None  # what it is given; None: it has its own
    opened: str  # what the template opens, if it decides, in the assistant's turn beyond its header, e.g. "<think>\n"
    context: int  # longest prompt plus completion, in tokens
    forbidden_ids: tuple[int, ...]  # vision tokens, which no completion may contain

    @property
    def preprocess(self) -> Preprocess:
        """Who sizes what the model sees."""
        return "ours"

    @property
    def overrides(self) -> dict[str, bool]:
        """What the settings of the checkpoint's processor give way to."""
        return {"do_resize": False}

    @property
    def placeholder_ids(self) -> tuple[int, ...]:
        """Tokens that may stand for one another: none, since image and clip have their own."""
        return ()

    def render(self, request: Request) -> str:
        """See render_prompt."""
        return render_prompt(request, self)

    def opened_for(self, request: Request) -> str:
        """What the template opens for this request."""
        if request.thinking == "auto":
            return self.opened
        return opened_by_template(self.renderer, self.chat_template, request.thinking)

    def text_ids(self, request: Request) -> list[int]:
        """The rendered prompt and the request's prefix as token ids, placeholders as they stand in it."""
        text = self.render(request) + request.prefix
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def prepare(self, request: Request) -> ModelInputs:
        """See prepare_inputs."""
        return prepare_inputs(request, self)


@dataclass(frozen=True, slots=True)
class ModelInputs:
    """One prompt, ready for the model. All tensors are on the CPU."""

    input_ids: torch.Tensor  # (L,) int64, one placeholder per vision token
    positions: torch.Tensor  # (3, L) int64: time, height, width
    delta: int  # the k-th generated token stands at L + k + delta on all three axes
    image_patches: torch.Tensor | None = None  # (n, 3 * temporal_patch * patch * patch) uint8
    image_grid: Grid | None = None
    video_patches: torch.Tensor | None = None
    video_grid: Grid | None = None
    seconds_per_grid: float | None = None  # clip seconds that one temporal patch spans


def load_processor(model: str, *, revision: str | None = None) -> QwenProcessor:
    """Read tokeniser, chat template and pixel statistics of a checkpoint folder or hub id.

    Raises:
        ConfigError: nothing can be loaded from there, the family is not a Qwen-VL one, the tokeniser is another
            model's, or there is no chat template.
    """
    config: Any = read_config(model, revision)
    family = family_of(config.model_type, model)
    parts = open_processor(model, revision)
    vision = config.vision_config
    layout = VisionLayout(
        family=family.model_type,
        patch=vision.patch_size,
        temporal_patch=vision.temporal_patch_size,
        merge=vision.spatial_merge_size,
        image_token_id=config.image_token_id,
        video_token_id=config.video_token_id,
        tokens_per_second=float(getattr(vision, "tokens_per_second", 1.0)),
        image_mean=parts.statistics.image_mean,
        image_std=parts.statistics.image_std,
        video_mean=parts.statistics.video_mean,
        video_std=parts.statistics.video_std,
    )
    known = parts.tokenizer.get_vocab()
    _check_marks(model, known, layout)
    if not parts.chat_template:
        raise ConfigError(
            f"{model} has no chat template: neither chat_template.jinja, chat_template.json nor tokenizer_config.json "
            f"holds one. Fix: copy the base model's chat_template.json there, or --processor BASE_MODEL."
        )
    if isinstance(parts.chat_template, str):
        check_template_ends(parts.chat_template)
    return QwenProcessor(
        layout=layout,
        tokenizer=parts.tokenizer,
        renderer=parts.renderer,
        chat_template=parts.chat_template,
        opened=opened_by_template(parts.renderer, parts.chat_template),
        context=config.get_text_config().max_position_embeddings,
        forbidden_ids=tuple(known[mark] for mark in VISION_MARKS if mark in known),
    )


def _check_marks(model: str, vocabulary: dict[str, int], layout: VisionLayout) -> None:
    """A tokeniser of another model, or an empty one, would tokenise all the same."""
    for mark, wanted in (("<|image_pad|>", layout.image_token_id), ("<|video_pad|>", layout.video_token_id)):
        if vocabulary.get(mark) != wanted:
            raise ConfigError(
                f"The tokenizer of {model} is not the model's: {mark} is {vocabulary.get(mark, 'no token')} there, "
                f"{wanted} in config.json. Fix: copy the base model's tokenizer* there, or --processor BASE_MODEL."
            )


def frames_to_patches(
    frames: Pixels,  # (T, H, W, 3) uint8
    *,
    patch: int,
    temporal_patch: int,
    merge: int,
) -> torch.Tensor:  # (T/temporal_patch * H/patch * W/patch, 3 * temporal_patch * patch * patch) uint8
    """Cut frames into patches, in the order of the Hugging Face processors.

    Rows run over time, then over merge x merge neighbourhoods from left to right and top to bottom, then inside the
    neighbourhood; columns run over colour, frame, row and column. A last incomplete group of frames is filled up with
    copies of the last frame, so that an image is one frame shown `temporal_patch` times.
    Raises ValueError if a side is not a multiple of patch * merge.
    """
    n_frames, height, width, channels = frames.shape
    multiple = patch * merge
    if not n_frames or height % multiple or width % multiple or not height or not width:
        raise ValueError(
            f"{n_frames} frames of {width}x{height} pixels cannot be cut into patches: each side must be a multiple of "
            f"{multiple} for this model (VideoConfig.size_multiple)"
        )
    pixels = torch.from_numpy(np.ascontiguousarray(frames))
    if missing := -n_frames % temporal_patch:
        pixels = torch.cat([pixels, pixels[-1:].expand(missing, -1, -1, -1)])
    rows, columns = height // multiple, width // multiple
    cells = pixels.reshape(-1, temporal_patch, rows, merge, patch, columns, merge, patch, channels)
    ordered = cells.permute(0, 2, 5, 3, 6, 8, 1, 4, 7)
    return ordered.reshape(-1, channels * temporal_patch * patch * patch).contiguous()


def normalise_patches(
    patches: torch.Tensor,  # (n, 3 * k) uint8, on any device
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
) -> torch.Tensor:  # (n, 3 * k) dtype
    """(pixel / 255 - mean) / std per colour, computed in float32 on the patches' device and then cast."""
    shift = torch.tensor(mean, dtype=torch.float32, device=patches.device).mul_(255.0).view(1, -1, 1)
    scale = torch.tensor(std, dtype=torch.float32, device=patches.device).mul_(255.0).view(1, -1, 1)
    coloured = patches.view(len(patches), len(mean), -1).to(torch.float32)
    return coloured.sub_(shift).div_(scale).view(len(patches), -1).to(dtype)


def rope_positions(
    input_ids: torch.Tensor,  # (L,) int64
    layout: VisionLayout,
    *,
    image_grids: Sequence[Grid] = (),
    video_grids: Sequence[Grid] = (),
    seconds_per_grid: Sequence[float] = (),  # one per video; used by Qwen2.5-VL only
) -> tuple[torch.Tensor, int]:  # (3, L) int64 and delta
    """M-RoPE position of every prompt token on the time, height and width axes.

    Text advances by one on all three axes. A medium starts where the text before it ends, spans its grid on each axis,
    and the text after it starts at its largest position + 1 (Qwen2-VL, arXiv 2409.12191, section 2.1). Temporal steps
    are 1, for Qwen2.5-VL floor(step * seconds_per_grid * tokens_per_second); Qwen3-VL has one span per temporal patch,
    each at time 0 of its own. delta = largest position + 1 - L, so that generated token k stands at L + k + delta.
    Raises ValueError if placeholders and grids do not match.
    """
    spans = {layout.image_token_id: [(grid, 1.0) for grid in image_grids]}
    spans[layout.video_token_id] = _video_spans(layout, video_grids, seconds_per_grid)
    is_vision = (input_ids == layout.image_token_id) | (input_ids == layout.video_token_id)
    vision_at = is_vision.nonzero().flatten().tolist()
    parts: list[torch.Tensor] = []
    done = start = k = 0  # tokens placed, next free position, vision tokens placed
    while k < len(vision_at):
        text = vision_at[k] - done
        parts.append(torch.arange(start, start + text).expand(3, -1))
        token = int(input_ids[vision_at[k]])
        if not spans[token]:
            raise ValueError("the prompt holds more media placeholders than there are media")
        grid, step = spans[token].pop(0)
        n = layout.n_tokens(grid)
        if k + n > len(vision_at) or not bool((input_ids[vision_at[k] : vision_at[k] + n] == token).all()):
            raise ValueError(f"a medium of grid {grid} needs {n} placeholders in a row; the prompt has fewer")
        parts.append(_grid_positions(grid, step, layout.merge) + start + text)
        done, k = vision_at[k] + n, k + n
        start = int(parts[-1].max()) + 1
    if any(spans.values()):
        raise ValueError("there are media without a placeholder in the prompt")
    parts.append(torch.arange(start, start + len(input_ids) - done).expand(3, -1))
    positions = torch.cat(parts, dim=1)
    return positions, int(positions.max()) + 1 - len(input_ids)


def _video_spans(
    layout: VisionLayout, grids: Sequence[Grid], seconds_per_grid: Sequence[float]
) -> list[tuple[Grid, float]]:
    """Contiguous runs of video tokens, and the temporal step of each."""
    clip_time = family_of(layout.family).clip_time
    if clip_time == "text":
        return [((1, h, w), 1.0) for t, h, w in grids for _ in range(t)]
    if clip_time == "index":
        return [(grid, 1.0) for grid in grids]
    if len(seconds_per_grid) != len(grids):
        raise ValueError(
            f"Qwen2.5-VL needs the seconds per grid of each video: {len(seconds_per_grid)} for {len(grids)}"
        )
    # The processors pass seconds_per_grid as float32, and vLLM multiplies in float64: so do we, or the floor
    # differs now and then.
    seconds = torch.tensor(seconds_per_grid, dtype=torch.float32).tolist()
    return [(grid, value * layout.tokens_per_second) for grid, value in zip(grids, seconds, strict=True)]


def _grid_positions(grid: Grid, step: float, merge: int) -> torch.Tensor:
    """Positions of one medium relative to its start, (3, n) int64."""
    time = (torch.arange(grid[0], dtype=torch.float64) * step).floor().long()
    axes = torch.meshgrid(time, torch.arange(grid[1] // merge), torch.arange(grid[2] // merge), indexing="ij")
    return torch.stack(axes).reshape(3, -1)


def frame_times(frame_indices: Sequence[float], native_fps: float, temporal_patch: int = 2) -> list[float]:
    """Seconds into the clip of each temporal patch, as Qwen3-VL reads them: mean of its first and last frame's time."""
    indices = list(frame_indices)
    indices += indices[-1:] * (-len(indices) % temporal_patch)
    firsts, lasts = indices[::temporal_patch], indices[temporal_patch - 1 :: temporal_patch]
    return [(first / native_fps + last / native_fps) / 2 for first, last in zip(firsts, lasts, strict=True)]


def prepare_inputs(request: Request, processor: QwenProcessor) -> ModelInputs:
    """Turn one request into model inputs. Nothing is resized, resampled or truncated.

    Raises ValueError if sides are not multiples of the model's, if clip metadata is missing, if the messages' media do
    not match the request's, or if the prompt leaves no room in the model's context; the message names the numbers.
    """
    layout = processor.layout
    image_patches, image_grid = _cut(None if request.image is None else request.image[None], layout)
    video_patches, video_grid = _cut(request.frames, layout)
    video_grids = [] if video_grid is None else [video_grid]
    seconds_per_grid = [] if request.frames is None else [_seconds_per_grid(request, layout)]
    ids = prompt_token_ids(request, processor)
    spans = _video_spans(layout, video_grids, seconds_per_grid)
    runs = {
        layout.image_token_id: [] if image_grid is None else [layout.n_tokens(image_grid)],
        layout.video_token_id: [layout.n_tokens(grid) for grid, _ in spans],
    }
    input_ids = torch.tensor(_expand(ids, runs), dtype=torch.int64)
    if len(input_ids) >= processor.context:
        raise ValueError(f"the prompt has {len(input_ids)} tokens, the model's context is {processor.context}")
    positions, delta = rope_positions(
        input_ids,
        layout,
        image_grids=[] if image_grid is None else [image_grid],
        video_grids=video_grids,
        seconds_per_grid=seconds_per_grid,
    )
    seconds = seconds_per_grid[0] if seconds_per_grid else None
    return ModelInputs(input_ids, positions, delta, image_patches, image_grid, video_patches, video_grid, seconds)


def render_prompt(request: Request, processor: QwenProcessor) -> str:
    """The chat template filled in, with one placeholder per medium and the assistant's turn opened.

    Raises ValueError if the placeholders are not those of the request's media (a question's text may hold one too),
    ConfigError if the request tells the template to think or not to, and it does not listen.
    """
    messages = [dict(message) for message in request.messages]
    text = render_template(processor.renderer, processor.chat_template, messages, request.thinking)
    expected = (int(request.image is not None), int(request.frames is not None))
    found = (text.count("<|image_pad|>"), text.count("<|video_pad|>"))
    if found != expected:
        raise ValueError(
            f"the prompt has {found[0]} image and {found[1]} video placeholders, "
            f"the request {expected[0]} images and {expected[1]} clips"
        )
    return text


def prompt_token_ids(request: Request, processor: QwenProcessor) -> list[int]:
    """The rendered prompt and the request's prefix as token ids, a placeholder per image and per run of video tokens.

    For Qwen3-VL a clip's placeholder becomes a time and a placeholder in vision marks of its own for each temporal
    patch. The template's marks stay around them all, as in transformers since 5.10 and vLLM since 0.32 (earlier ones
    dropped them). Raises ValueError like render_prompt.
    """
    layout = processor.layout
    text = render_prompt(request, processor)
    if family_of(layout.family).clip_time == "text" and request.frames is not None:
        if not request.native_fps:
            raise ValueError("Qwen3-VL needs the clip's native_fps for its timestamps")
        times = frame_times(request.clock_indices, request.native_fps, layout.temporal_patch)
        one = "<|vision_start|><|video_pad|><|vision_end|>"
        text = text.replace("<|video_pad|>", "".join(f"<{time:.1f} seconds>{one}" for time in times))
    ids: list[int] = processor.tokenizer(text + request.prefix, add_special_tokens=False)["input_ids"]
    return ids


def _cut(frames: Pixels | None, layout: VisionLayout) -> tuple[torch.Tensor | None, Grid | None]:
    if frames is None:
        return None, None
    patches = frames_to_patches(frames, patch=layout.patch, temporal_patch=layout.temporal_patch, merge=layout.merge)
    n_frames, height, width, _ = frames.shape
    return patches, (-(-n_frames // layout.temporal_patch), height // layout.patch, width // layout.patch)


def _seconds_per_grid(request: Request, layout: VisionLayout) -> float:
    """temporal_patch / sampled frames per second, where the clip lasts n_total / native_fps seconds."""
    if not request.native_fps or not request.n_total:
        raise ValueError("a clip needs native_fps and n_total: they set the model's sense of time")
    n_frames = len(request.frames) if request.frames is not None else 0
    if n_frames != len(request.frame_indices):
        raise ValueError(f"{n_frames} frames came with {len(request.frame_indices)} frame indices")
    sampled_fps = n_frames / request.n_total * request.native_fps
    return layout.temporal_patch / sampled_fps


def _expand(ids: list[int], runs: dict[int, list[int]]) -> list[int]:
    """Repeat each placeholder as often as its medium has tokens."""
    expanded: list[int] = []
    for token in ids:
        # A text that spells a placeholder, in a question or a prefix, has no medium.
        if token in runs and not runs[token]:
            raise ValueError("the prompt holds more media placeholders than there are media")
        repeats = runs[token].pop(0) if token in runs else 1
        expanded.extend([token] * repeats)
    return expanded
