"""What `doctor --model` prints: what is done for the model's family, its prompt, and what a question costs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from seedbench_r1.cli.results import kv_bytes_per_token
from seedbench_r1.errors import ConfigError, one_line
from seedbench_r1.models.checkpoint import inspect_model
from seedbench_r1.models.families import FAMILIES, GENERIC, Family, GenericFamily, family_for
from seedbench_r1.models.sample import sample_request
from seedbench_r1.types import Request, SamplingConfig, VideoConfig

if TYPE_CHECKING:
    from seedbench_r1.models.any_processor import AnyProcessor

_PREPROCESS = {
    "ours": "sized here, as the protocol says",
    "processor": "sized once more by the model's processor (another protocol id)",
    "images": "as images, sized by the model's processor (another protocol id)",
}


@dataclass(frozen=True, slots=True)
class ModelReport:
    """A model's row, its prompt, and its costs. Token counts are those of the standard protocol."""

    model_type: str
    architecture: str
    tried: bool  # its family is in the table of docs/models.md
    frames: str
    frame_times: bool  # whether when a frame was taken changes the model's input
    trained: bool
    vllm: str
    prompt: str  # rendered, a placeholder for each medium
    opened: str  # what the template opens in the assistant's turn, if it decides
    thinking: bool  # whether it listens to --thinking on and off
    context: int
    prompt_tokens: tuple[int, int]  # of the fewest and of the most frames, with the current view
    weights_gb: float
    kv_cache_gb: float  # of the longest of these prompts and its answer; 0: not known


def report_model(model: str, *, base_model: str | None = None, trust_remote_code: bool = False) -> ModelReport:
    """Look at a checkpoint without loading its weights. Raises ConfigError as `eval` does."""
    from seedbench_r1.models.any_processor import load_any_processor

    checkpoint = inspect_model(model, base_model=base_model, trust_remote_code=trust_remote_code)
    folder = checkpoint.base_folder or checkpoint.folder
    family = family_for(checkpoint.config.get("model_type"), folder, trust_remote_code=trust_remote_code)
    assert family is not None  # inspect_model has refused it
    processor = load_any_processor(str(folder), trust_remote_code=trust_remote_code)
    video = VideoConfig()
    multiple = checkpoint.size_multiple if video.size_multiple % checkpoint.size_multiple else video.size_multiple
    few = sample_request(video.min_frames, video.min_pixels, video.image_min_pixels, multiple)
    many = sample_request(video.max_frames, video.max_pixels, video.image_max_pixels, multiple)
    try:
        tokens = _count(processor, few), _count(processor, many)
        rendered, times = processor.render(few), _tells_times(processor, few)
    # Templates and processors raise what they like.
    except Exception as error:
        raise ConfigError(
            f"The template or the processor of {model} cannot take a clip and an image: {one_line(error)}. "
            f"Fix: copy them from the base model."
        ) from error
    cache = kv_bytes_per_token(checkpoint.config) * (tokens[1] + SamplingConfig().max_new_tokens)
    return ModelReport(
        model_type=family.model_type,
        architecture=checkpoint.info.architecture or family.architecture,
        tried=family in (*FAMILIES, *GENERIC),
        frames=_PREPROCESS[checkpoint.preprocess],
        frame_times=times,
        trained=not isinstance(family, GenericFamily),
        vllm=_vllm(family),
        prompt=rendered,
        opened=processor.opened,
        thinking=_takes_thinking(processor, few),
        context=processor.context,
        prompt_tokens=tokens,
        weights_gb=round(checkpoint.weight_bytes / 1e9, 3),
        kv_cache_gb=round(cache / 1e9, 4),
    )


def lines(report: ModelReport) -> list[str]:
    """The report for a terminal."""
    fewest, most = report.prompt_tokens
    yes_no = {True: "yes", False: "no"}
    rows = {
        "family": f"{report.model_type} ({report.architecture})",
        "tried here": "yes" if report.tried else "no: look at a few answers before you believe them",
        "frames": report.frames,
        "frame times reach it": yes_no[report.frame_times],
        "training": yes_no[report.trained],
        "vLLM": report.vllm,
        "opened by its template": repr(report.opened) if report.opened else "nothing",
        "takes --thinking on, off": yes_no[report.thinking],
        "prompt tokens": f"{fewest} to {most} (fewest to most frames), of {report.context}",
        "weights": f"{report.weights_gb} GB",
        "cache of a question": f"{report.kv_cache_gb} GB" if report.kv_cache_gb else "not known",
    }
    width = max(map(len, rows))
    return [*(f" {name:<{width}}  {value}" for name, value in rows.items()), " prompt:", report.prompt]


def _count(processor: AnyProcessor, request: Request) -> int:
    from seedbench_r1.models.generic import GenericProcessor

    if isinstance(processor, GenericProcessor):
        return len(processor.expanded_ids(request))
    return len(processor.prepare(request).input_ids)


def _takes_thinking(processor: AnyProcessor, request: Request) -> bool:
    try:
        processor.render(replace(request, thinking="on"))
    except ConfigError:
        return False
    return True


def _tells_times(processor: AnyProcessor, request: Request) -> bool:
    import torch

    from seedbench_r1.models.qwen_vl import ModelInputs

    later = replace(
        request,
        frame_indices=tuple(10 * place for place in request.frame_indices),
        n_total=10 * (request.n_total or 0),
    )
    near, far = processor.prepare(request), processor.prepare(later)
    if not torch.equal(near.input_ids, far.input_ids):
        return True
    if isinstance(near, ModelInputs) and isinstance(far, ModelInputs):
        return not torch.equal(near.positions, far.positions)
    return False


def _vllm(family: Family | GenericFamily) -> str:
    if not isinstance(family, GenericFamily):
        return "yes"
    if family.vllm_refused:
        return f"no: {family.vllm_refused}"
    return f"with a doubt: {family.vllm_doubt}" if family.vllm_doubt else "its prompt is compared when it starts"
