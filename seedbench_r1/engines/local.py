"""The engine in this process: decode ahead, generate, write each result as it comes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from types import MappingProxyType
from typing import Protocol

from seedbench_r1.backends import open_backend
from seedbench_r1.backends.base import Backend, draws
from seedbench_r1.config import EvalConfig
from seedbench_r1.engines.base import DRAINING, Plan, Recorder
from seedbench_r1.media.cache import media_loader
from seedbench_r1.media.loader import FrameLoader
from seedbench_r1.prompts import build_request
from seedbench_r1.scoring import to_record
from seedbench_r1.suites.base import Suite
from seedbench_r1.types import Failure, Generation, Media, Question, Request, RunRecord


class LocalEngine(nullcontext["LocalEngine"]):
    """Answers in this process, with decoding workers next to it.

    Args:
        open_backend: loads the model; called only if a question is pending.
    """

    stop_message = DRAINING

    def __init__(self, open_backend: Callable[[EvalConfig], Backend] = open_backend) -> None:
        super().__init__(self)
        self._open_backend = open_backend

    def check(self, config: EvalConfig, suite: Suite) -> None:
        """Every suite runs here."""

    def writers(self, plan: Plan) -> int:
        """Records are written by this process."""
        return 0

    def answer(self, plan: Plan, pending: Sequence[Question], recorder: Recorder, *, stop: threading.Event) -> None:
        """See engines.base.Engine. What was recorded before an exception is on disk."""
        # Opened in this thread, which outlives the run: decoders die with the thread that started them.
        with open_loader(plan.config) as loader:
            answer_all(
                pending,
                loader,
                self._open_backend,
                plan.config,
                write=recorder.write,
                stop=stop,
                seeds=recorder.pending,
            )
            if plan.config.frame_cache is not None:
                recorder.run.event("frame_cache", **loader.cache_counts)


def open_loader(config: EvalConfig) -> AbstractContextManager[FrameLoader]:
    """Decoding workers as the settings want them."""
    load = media_loader(config.frame_cache, config.frame_cache_gb)
    return FrameLoader(config.video, workers=config.workers, timeout_s=config.decode_timeout_s, load=load)


class MediaSource(Protocol):
    """What decodes: a FrameLoader, or what wraps one."""

    def stream(
        self, questions: Iterable[Question], *, stop: threading.Event | None = None
    ) -> Iterator[tuple[Question, Media | Failure]]: ...


def answer_all(
    pending: Iterable[Question],
    loader: MediaSource,
    open_backend: Callable[[EvalConfig], Backend],
    config: EvalConfig,
    *,
    write: Callable[[RunRecord, int | None], None],
    stop: threading.Event,
    seeds: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
) -> None:
    """Decode ahead, generate, and write each result as it comes, with its seed. Failures are results too.

    seeds: question_id -> of a run of several samples, those that are wanted.
    """
    # Results come in any order; what was asked is needed again for scoring.
    in_flight: dict[str, tuple[Question, Request, int | None]] = {}

    # Pulled by the backend, maybe in a thread of its own: media failures are written from there at once.
    def requests() -> Iterator[Request]:
        for question, media in loader.stream(pending, stop=stop):
            if isinstance(media, Failure):
                for seed in seeds.get(question.question_id) or (None,):
                    write(to_record(question, media), seed)
                continue
            request = build_request(question, media, config.template)
            if question.question_id in seeds:
                request = replace(request, seeds=seeds[question.question_id])
                for draw in draws(request, config.sampling):
                    in_flight[draw.result_id] = question, request, draw.seed
            else:
                in_flight[question.question_id] = question, request, None
            yield request

    backend = open_backend(config)
    try:
        result: Generation | Failure
        for name, result in backend.generate(requests(), config.sampling):
            question, request, seed = in_flight.pop(name)
            write(to_record(question, result, request), seed)
    finally:
        backend.close()
