"""Answers by transformers' classes on one device, with our own batches and decoding loop."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from seedbench_r1.backends.base import REQUEST_ERRORS, Draw, Result, Scores, draws
from seedbench_r1.backends.batching import ready_batches
from seedbench_r1.backends.continuations import Parting, part, score_continuations, shared_inputs
from seedbench_r1.backends.decoding import Prompt, decode
from seedbench_r1.backends.loading import load_model, resolve_attention, resolve_device
from seedbench_r1.errors import ResourceError
from seedbench_r1.models.any_processor import AnyInputs, AnyProcessor
from seedbench_r1.models.completions import completion_text
from seedbench_r1.types import Failure, Generation, Request, SamplingConfig

log = logging.getLogger(__name__)


# A piece of a batch -> (question_id, place among its draws, result), each as soon as it exists.
_Work = Callable[[list["_Prepared"]], Iterator[tuple[str, int, Any]]]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A request's inputs, or why it has none. The frames themselves are released."""

    question_id: str
    n_frames: int
    pixels: int  # of a frame, or of the image if there is no clip
    opened: str  # by the template, in the assistant's turn
    inputs: AnyInputs | Failure
    draws: tuple[Draw, ...]  # of which each has a result
    parting: Parting | None = None  # with continuations to be scored: the inputs end where they part

    @property
    def length(self) -> int:
        return 0 if isinstance(self.inputs, Failure) else len(self.inputs.input_ids)


class TransformersBackend:
    """One checkpoint of a family of models/families.py, or a LoRA adapter on one, loaded once.

    Raises ConfigError if the checkpoint, its base model, the device or the dtype does not fit.
    """

    def __init__(
        self,
        model: str,
        *,
        base_model: str | None = None,
        revision: str | None = None,
        dtype: str = "auto",
        device: str = "auto",
        batch_size: int = 8,
        attention: str = "sdpa",
        trust_remote_code: bool = False,
    ) -> None:
        self.batch_size = batch_size
        self.device = resolve_device(device)
        self.model: Any
        self.processor: AnyProcessor
        self.model, self.processor = load_model(
            model,
            base_model=base_model,
            revision=revision,
            dtype=dtype,
            device=self.device,
            attention=resolve_attention(attention, self.device, dtype),
            trust_remote_code=trust_remote_code,
        )

    def opened_for(self, request: Request) -> str:
        """See backends.base.Scorer."""
        return self.processor.opened_for(request)

    def generate(self, requests: Iterable[Request], sampling: SamplingConfig) -> Iterator[Result]:
        """Answer a lazy stream of requests; see backends.base.Backend.

        Prompts are prepared in a feeder thread while the model works. Raises ResourceError when the device's memory
        does not suffice for a single request.
        """
        asked = ((request, draws(request, sampling)) for request in requests)
        yield from self._in_batches(asked, partial(self._decode, sampling=sampling))

    def score(self, requests: Iterable[Request]) -> Iterator[tuple[str, Scores | Failure]]:
        """Log-probabilities of continuations; see backends.base.Scorer. Raises as generate does."""
        asked = ((request, (Draw(request.question_id, 0, 0),)) for request in requests)
        yield from self._in_batches(asked, self._score)

    def _in_batches(self, asked: Iterable[tuple[Request, tuple[Draw, ...]]], work: _Work) -> Iterator[tuple[str, Any]]:
        """Every draw's result of `work`."""
        # Pulled and prepared in a thread: decoding and cutting patches overlap with the model's work.
        prepared = (self._prepare(request, wanted) for request, wanted in asked)
        with contextlib.closing(ready_batches(prepared, self.batch_size, lambda item: item.length)) as batches:
            for batch in batches:
                yield from self._answer(batch, work)

    def close(self) -> None:
        """Release the weights."""
        self.model = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _prepare(self, request: Request, wanted: tuple[Draw, ...]) -> _Prepared:
        opened, parting = "", None
        try:
            inputs: AnyInputs | Failure
            if request.continuations:
                parting = part(request, self.processor)
                inputs = shared_inputs(request, self.processor, parting)
            else:
                inputs = self.processor.prepare(request)
            opened = self.processor.opened_for(request)
        except REQUEST_ERRORS as error:
            inputs = Failure("backend_error", f"{type(error).__name__}: {error}")
        frames = request.frames if request.frames is not None else request.image
        # For the message when memory is short; the frames themselves are not kept.
        pixels = 0 if frames is None else frames.shape[-3] * frames.shape[-2]
        n_frames = 0 if request.frames is None else len(request.frames)
        return _Prepared(request.question_id, n_frames, pixels, opened, inputs, wanted, parting)

    def _answer(self, batch: list[_Prepared], run: _Work) -> Iterator[tuple[str, Any]]:
        """Every result of a batch once, whatever has to be retried in smaller pieces."""
        # A batch may fail after some rows have left; retries must not yield those again.
        given: set[tuple[str, int]] = set()
        for item in batch:
            if isinstance(item.inputs, Failure):
                yield from _fail(item, given, item.inputs)
        work = _pieces([item for item in batch if not isinstance(item.inputs, Failure)], self.batch_size)
        while work:
            piece = work.pop(0)
            error = yield from self._attempt(piece, run, given)
            # Everything that is left is cut again, since the smaller size holds for it too.
            if isinstance(error, torch.OutOfMemoryError):
                self._shrink(piece, error)
                work = _pieces(piece + [item for later in work for item in later], self.batch_size)
            # One bad request must not take its neighbours with it.
            elif error is not None and len(piece) > 1:
                log.warning("A batch of %d failed (%s); its requests are tried one by one", len(piece), error)
                work = [[item] for item in piece] + work
            elif error is not None:
                failure = Failure("backend_error", f"{type(error).__name__}: {error}")
                yield from _fail(piece[0], given, failure)

    def _attempt(
        self, piece: list[_Prepared], run: _Work, given: set[tuple[str, int]]
    ) -> Generator[tuple[str, Any], None, Exception | None]:
        """Yield what has not been yielded yet; return the error that stopped it, without the frames it kept alive."""
        wanted = {item.question_id: item.draws for item in piece}
        try:
            for question_id, place, result in run(piece):
                if (question_id, place) not in given:
                    given.add((question_id, place))
                    yield wanted[question_id][place].result_id, result
        except torch.AcceleratorError:
            raise  # the device is unusable from here on: not one request's fault
        except REQUEST_ERRORS as error:
            # The traceback holds the frames of the call, and with them the tensors that filled the memory.
            return error.with_traceback(None)
        return None

    def _decode(self, piece: list[_Prepared], sampling: SamplingConfig) -> Iterator[tuple[str, int, Generation]]:
        started = time.perf_counter()
        prompts = [
            Prompt(item.question_id, item.inputs, item.draws) for item in piece if not isinstance(item.inputs, Failure)
        ]
        opened = {item.question_id: item.opened for item in piece}
        for completion in decode(self.model, self.processor, prompts, sampling):
            text = completion_text(self.processor.tokenizer, completion.token_ids)
            yield (
                completion.question_id,
                completion.k,
                Generation(
                    text=text,
                    token_ids=tuple(completion.token_ids),
                    finish_reason=completion.finish_reason,
                    n_prompt_tokens=completion.n_prompt_tokens,
                    n_tokens=len(completion.token_ids),
                    latency_s=time.perf_counter() - started,
                    logprobs=tuple(completion.logprobs) if sampling.logprobs else None,
                    opened=opened[completion.question_id],
                ),
            )

    def _score(self, piece: list[_Prepared]) -> Iterator[tuple[str, int, Scores]]:
        prompts = [
            (Prompt(item.question_id, item.inputs), item.parting)
            for item in piece
            if not isinstance(item.inputs, Failure) and item.parting is not None
        ]
        for question_id, scores in score_continuations(self.model, self.processor, prompts):
            yield question_id, 0, scores

    def _shrink(self, piece: list[_Prepared], error: torch.OutOfMemoryError) -> None:
        """Halve the batch for the rest of this backend's life, or give up at one. Frames and pixels never change."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        # The longest prompt decides how much a batch needs: the others are padded to it.
        largest = max(piece, key=lambda item: item.length)
        # Named, so that the one question with a long clip can be found.
        sample = f"sample {largest.question_id}, {largest.n_frames} frames × {largest.pixels / 1000:.0f}k px"
        if len(piece) == 1:
            raise ResourceError(
                f"Still OOM at 1 ({sample}, {largest.length} prompt tokens, on {self.device}). "
                f"Try --max-pixels {largest.pixels // 2}, --backend vllm --tensor-parallel 2, or free the device's "
                "memory. Frames/pixels change the protocol id."
            ) from error
        # Half of what failed, not of the setting: the last piece of a batch can be smaller than that.
        self.batch_size = max(1, len(piece) // 2)
        log.warning(
            "Out of memory on %s at batch of %d (%s). Retrying at %d", self.device, len(piece), sample, self.batch_size
        )


def _pieces(items: list[_Prepared], count: int) -> list[list[_Prepared]]:
    return [items[start : start + count] for start in range(0, len(items), count)]


def _fail(item: _Prepared, given: set[tuple[str, int]], failure: Failure) -> Iterator[tuple[str, Failure]]:
    """The failure, once for every completion of the question that has not left yet."""
    # Every completion of the question failed together, and each must be accounted for.
    for place, draw in enumerate(item.draws):
        if (item.question_id, place) not in given:
            yield draw.result_id, failure
