"""One prompt of each kind, before a clip is decoded: the processor opens, the template renders, the frames fit."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from seedbench_r1.config import EvalConfig
from seedbench_r1.errors import ConfigError, one_line
from seedbench_r1.models.checkpoint import Checkpoint
from seedbench_r1.models.sample import sample_media
from seedbench_r1.prompts import build_prompt, build_request, wording_name
from seedbench_r1.types import Media, Question, VideoConfig

if TYPE_CHECKING:
    from seedbench_r1.models.any_processor import AnyProcessor

log = logging.getLogger(__name__)


def check_prompts(config: EvalConfig, checkpoint: Checkpoint, questions: Iterable[Question]) -> None:
    """Render the first question of each kind, with blank frames, as the backend will.

    Raises:
        ConfigError: the processor's files are absent or another model's, the template cannot render the messages, or
            the shortest prompt leaves no room in the model's context.
    """
    # Imported here: torch and transformers take seconds, and runs without a checkpoint need neither.
    from seedbench_r1.models.any_processor import load_any_processor

    folder = str(checkpoint.base_folder or checkpoint.folder)
    processor = load_any_processor(folder, trust_remote_code=config.trust_remote_code)
    first: dict[tuple[str, bool, bool], Question] = {}
    for question in questions:
        kind = wording_name(question, config.template), question.video is None, question.image is None
        first.setdefault(kind, question)
    for question in first.values():
        try:
            rendered, least, most = _tokens(question, config, processor)
        except ConfigError:
            raise
        # Templates are programs, and raise what they like.
        except Exception as error:
            raise ConfigError(
                f"The chat template of {config.model} cannot render {question.question_id}: {error}. Nothing was "
                f"decoded. Fix: --processor BASE_MODEL, or mend the template."
            ) from error
        asked = build_prompt(question, config.template)
        if "".join(asked.split()) not in "".join(rendered.split()):
            raise ConfigError(
                f"The chat template of {config.model} leaves out what {question.question_id} asks: its text is not in "
                f"the prompt. Fix: --processor BASE_MODEL, or mend the template."
            )
        if least >= processor.context:
            raise ConfigError(
                f"A prompt such as {question.question_id}'s takes at least {least} tokens ({config.video.min_frames} "
                f"frames of {config.video.min_pixels} pixels); {config.model} holds {processor.context}. Nothing was "
                f"decoded. Fix: smaller --min-frames and --min-pixels (another protocol id)."
            )
        if most >= processor.context:
            log.warning(
                "A prompt of %d frames takes up to %d tokens, and %s holds %d: questions on long clips may fail",
                *(config.video.max_frames, most, config.model, processor.context),
            )


def _tokens(question: Question, config: EvalConfig, processor: AnyProcessor) -> tuple[str, int, int]:
    """A rendered prompt, and its tokens with the fewest and smallest, and with the most and largest frames."""
    from seedbench_r1.models.qwen_vl import QwenProcessor, prompt_token_ids

    if isinstance(processor, QwenProcessor):
        request = build_request(question, _sample(question, config.video, 2, 0, 0), config.template)
        n_text = len(prompt_token_ids(request, processor))
        least, most = (n_text + n for n in _vision_tokens(question, config.video))
        return processor.render(request), least, most
    video = config.video
    # Two frames fewer than the most: a processor that takes no more than a number of its own shows itself.
    most_frames = max(video.max_frames, video.min_frames + 2)
    bounds = (
        (video.min_frames, video.min_pixels, video.image_min_pixels),
        (most_frames - 2, video.max_pixels, video.image_max_pixels),
        (most_frames, video.max_pixels, video.image_max_pixels),
    )
    few, fewer, many = (build_request(question, _sample(question, video, *bound), config.template) for bound in bounds)
    rendered = processor.render(few)
    try:
        least, nearly, most = (len(processor.expanded_ids(request)) for request in (few, fewer, many))
    # Processors raise what they like.
    except Exception as error:
        raise ConfigError(
            f"The processor of {config.model} cannot take what {question.question_id} shows: {one_line(error)}. "
            f"Nothing was decoded. Fix: --processor BASE_MODEL, or mend its files."
        ) from error
    if question.video is not None and nearly >= most:
        raise ConfigError(
            f"The processor of {config.model} makes {nearly} tokens of {most_frames - 2} frames and {most} of "
            f"{most_frames}: it drops frames, or takes a number of its own, and cannot be given ours. Nothing was "
            f"decoded. Fix: --processor BASE_MODEL, or a server and --backend openai:MODEL."
        )
    return rendered, least, most


def _sample(question: Question, video: VideoConfig, n_frames: int, pixels: int, image_pixels: int) -> Media:
    """Media of a question's kind."""
    return sample_media(
        None if question.video is None else n_frames,
        pixels,
        None if question.image is None else image_pixels,
        video.size_multiple,
    )


def _vision_tokens(question: Question, video: VideoConfig) -> tuple[int, int]:
    """Of frames and image, at least and at most: two frames make a temporal patch, size_multiple^2 pixels a token."""
    cell = video.size_multiple**2
    bounds = (
        (video.min_frames, video.min_pixels, video.image_min_pixels),
        (video.max_frames, video.max_pixels, video.image_max_pixels),
    )
    least, most = (
        (question.video is not None) * -(-n // 2) * (pixels // cell) + (question.image is not None) * (image // cell)
        for n, pixels, image in bounds
    )
    return least, most
