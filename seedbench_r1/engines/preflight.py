"""One prompt of each kind, before a clip is decoded: the processor opens, the template renders, the frames fit."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np

from seedbench_r1.config import EvalConfig
from seedbench_r1.errors import ConfigError
from seedbench_r1.models.checkpoint import Checkpoint
from seedbench_r1.prompts import build_prompt, build_request, wording_name
from seedbench_r1.types import Media, Question, VideoConfig

log = logging.getLogger(__name__)


def check_prompts(config: EvalConfig, checkpoint: Checkpoint, questions: Iterable[Question]) -> None:
    """Render the first question of each kind, with blank frames, as the backend will.

    Raises:
        ConfigError: the processor's files are absent or another model's, the template cannot render the messages, or
            the shortest prompt leaves no room in the model's context.
    """
    # Imported here: torch and transformers take seconds, and runs without a checkpoint need neither.
    from seedbench_r1.models.qwen_vl import load_processor, prompt_token_ids, render_prompt

    folder = str(checkpoint.base_folder or checkpoint.folder)
    processor = load_processor(folder)
    first: dict[tuple[str, bool, bool], Question] = {}
    for question in questions:
        kind = wording_name(question, config.template), question.video is None, question.image is None
        first.setdefault(kind, question)
    for question in first.values():
        request = build_request(question, _blank(question, config.video), config.template)
        try:
            rendered = render_prompt(request, processor)
            n_text = len(prompt_token_ids(request, processor))
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
        least, most = (n_text + n for n in _vision_tokens(question, config.video))
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


def _blank(question: Question, video: VideoConfig) -> Media:
    """The smallest media that the model takes."""
    side = video.size_multiple
    frames = None if question.video is None else np.zeros((2, side, side, 3), np.uint8)
    image = None if question.image is None else np.zeros((side, side, 3), np.uint8)
    return Media(frames, () if frames is None else (0, 1), 1.0, 2, image, None)


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
