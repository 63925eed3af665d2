"""Answers by vLLM: one engine, fed continuously, with our own frames, prompt tokens and sampling options.

vllm itself is imported when a backend is opened, never before.
"""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seedbench_r1.api.prefetch import Prefetch
from seedbench_r1.backends.base import REQUEST_ERRORS, Draw, Result, Scores, draws, nan_failure
from seedbench_r1.backends.continuations import part, shared_inputs
from seedbench_r1.backends.loading import DTYPES
from seedbench_r1.backends.vllm_engine import (
    EngineOptions,
    check_family,
    check_vllm,
    checkpoint_dtype,
    close_engine,
    engine_death_explained,
    merge_adapter,
    render,
    sampling_params,
    start_engine,
)
from seedbench_r1.backends.vllm_scoring import Walk, Walks
from seedbench_r1.errors import ConfigError
from seedbench_r1.models.any_processor import AnyProcessor, load_any_processor
from seedbench_r1.models.checkpoint import Checkpoint, inspect_model
from seedbench_r1.models.completions import completion_text
from seedbench_r1.models.fingerprint import small_file_hashes
from seedbench_r1.models.sample import sample_request
from seedbench_r1.types import Failure, FinishReason, Generation, Request, SamplingConfig

if TYPE_CHECKING:
    from vllm.outputs import RequestOutput

_NOT_THE_MODEL = ("_name_or_path", "transformers_version")  # of config.json: who wrote it, and from what
AHEAD = 8  # prepared requests that wait for room in the engine: about 20 MB of pixels each


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A request as the engine takes it, or why it cannot."""

    question_id: str
    draws: tuple[Draw, ...]
    prompt: object  # vLLM's own form of prompt and pixels; None with a failure
    opened: str = ""  # by the template, in the assistant's turn
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class _InFlight:
    """One generation that the engine is working on."""

    result_id: str
    opened: str
    started: float  # time.perf_counter


class VllmBackend:
    """One checkpoint in a vLLM engine, which runs in child processes.

    A LoRA adapter is merged into its base first, in a temporary folder of the base's size: vLLM's own adapters leave
    the vision tower out. dtype is one of loading.DTYPES; "auto" is the checkpoint's own.

    Raises ConfigError if vLLM is absent or refuses the checkpoint or the options, and ResourceError if its engine does
    not start (its own log, on standard error, says why).
    """

    def __init__(
        self,
        model: str,
        *,
        base_model: str | None = None,
        revision: str | None = None,
        dtype: str = "auto",
        options: EngineOptions | None = None,
    ) -> None:
        self.options = options or EngineOptions()
        self._engine: Any = None  # vLLM's LLMEngine; None once closed
        self._merged: tempfile.TemporaryDirectory[str] | None = None
        # Engine ids are our own counter: a question may be in flight n times.
        self._ids = itertools.count()
        check_vllm()
        from vllm.exceptions import VLLMClientError

        self._refused = VLLMClientError  # an error that one request has caused
        if dtype not in DTYPES:
            raise ConfigError(f"--dtype {dtype} is unknown; known: {', '.join(DTYPES)}")
        trusted = self.options.trust_remote_code
        checkpoint = inspect_model(model, base_model=base_model, revision=revision, trust_remote_code=trusted)
        check_family(checkpoint)
        folder = checkpoint.folder
        self._shape = _shape(checkpoint, dtype)
        try:
            if checkpoint.base_folder is not None:
                self._merged = tempfile.TemporaryDirectory(prefix="seedbench-r1-merged-")
                folder = merge_adapter(checkpoint, Path(self._merged.name), dtype, trust_remote_code=trusted)
            # From the folder that the engine loads, so that both use the same template and processor.
            processor = load_any_processor(str(folder), trust_remote_code=trusted)
            wanted = checkpoint_dtype(checkpoint.config) if dtype == "auto" else dtype
            self._engine, self._guard = start_engine(folder, wanted, self.options)
            self._check_prompts(processor, checkpoint.size_multiple)
        except BaseException:
            self.close()
            raise
        self.processor: AnyProcessor = dataclasses.replace(processor, context=self._engine.model_config.max_model_len)

    def replace_weights(self, model: str, *, dtype: str = "auto", revision: str | None = None) -> bool:
        """Go on with another checkpoint's weights in the same engine; False, and nothing done, if it is no sibling.

        A sibling has the same architecture, tokenizer, template and processor, byte for byte, and is no adapter. What
        the engine keeps of prompts and pixels is forgotten. Raises ConfigError as the constructor does, ResourceError
        if the engine dies.
        """
        checkpoint = inspect_model(model, revision=revision, trust_remote_code=self.options.trust_remote_code)
        if checkpoint.base_folder is not None or self._merged is not None or _shape(checkpoint, dtype) != self._shape:
            return False
        with engine_death_explained():
            self._engine.collective_rpc("reload_weights", kwargs={"weights_path": str(checkpoint.folder)})
            self._engine.reset_prefix_cache()
            self._engine.reset_mm_cache()
            self._engine.reset_encoder_cache()  # or the scheduler counts on pixels that the workers have forgotten
        return True

    def _check_prompts(self, processor: AnyProcessor, size_multiple: int) -> None:
        """Raise ConfigError if vLLM makes another prompt of a clip than the checkpoint's processor."""
        side = max(size_multiple, 28)
        n_frames = min(4, self.options.frames_as_images or 4)
        request = sample_request(n_frames, (4 * side) ** 2, (6 * side) ** 2, side)
        try:
            render(self._engine, processor, request, processor.prepare(request).input_ids.tolist())
        except (*REQUEST_ERRORS, self._refused) as error:
            raise ConfigError(
                f"vLLM cannot be given our clips for this model: {error}. Nothing was asked. "
                f"Fix: --backend transformers"
            ) from error

    def opened_for(self, request: Request) -> str:
        """See backends.base.Scorer."""
        return self.processor.opened_for(request)

    def generate(self, requests: Iterable[Request], sampling: SamplingConfig) -> Iterator[Result]:
        """Answer a lazy stream of requests; see backends.base.Backend.

        Requests are pulled and prepared in a thread, at most AHEAD more than the engine holds. The
        generations of a question share the computation of its prompt, and each leaves when it ends. Raises ConfigError
        for sampling options that vLLM does not take, ResourceError if its engine dies.
        """
        sampling_params(sampling, "", 0, self.processor.forbidden_ids)  # refused now, not once per request
        in_flight: dict[str, _InFlight] = {}
        prepared = (self._prepare(request, draws(request, sampling)) for request in requests)
        with engine_death_explained(), Prefetch(prepared, AHEAD) as ahead:
            try:
                yield from self._answer(ahead, sampling, in_flight)
            finally:
                if in_flight and self._engine is not None:  # nobody waits for these any more
                    self._engine.abort_request(list(in_flight))

    def score(self, requests: Iterable[Request]) -> Iterator[tuple[str, Scores | Failure]]:
        """Log-probabilities of continuations; see backends.base.Scorer. Raises ResourceError if the engine dies."""
        prepared = (self._prepare_walk(request) for request in requests)
        walks = Walks(self._engine, self._ids, self._refused, self.options.max_in_flight)
        with engine_death_explained(), Prefetch(prepared, AHEAD) as ahead:
            try:
                yield from walks.answer(ahead)
            finally:
                if self._engine is not None:
                    walks.abort()

    def _prepare_walk(self, request: Request) -> Walk | tuple[str, Failure]:
        """Runs in the prefetching thread."""
        try:
            parting = part(request, self.processor)
            expected = shared_inputs(request, self.processor, parting).input_ids.tolist()
            rendered: Any = render(self._engine, self.processor, request, expected, parting.shared)
            return Walk(request.question_id, dict(rendered), parting.endings)
        except (*REQUEST_ERRORS, self._refused) as error:
            return request.question_id, Failure("backend_error", f"{type(error).__name__}: {error}")

    def _answer(
        self, ahead: Prefetch[_Prepared], sampling: SamplingConfig, in_flight: dict[str, _InFlight]
    ) -> Iterator[Result]:
        """Fill the engine with what is ready, let it work one iteration, and so on."""
        # Admitting between iterations keeps the engine full: continuous batching fills gaps as rows end.
        while in_flight or not ahead.ended:
            for item in self._admissible(ahead, in_flight):
                yield from self._admit(item, sampling, in_flight)
            yield from self._step(in_flight, sampling)

    def _admissible(self, ahead: Prefetch[_Prepared], in_flight: dict[str, _InFlight]) -> Iterator[_Prepared]:
        """Prepared requests while there is room for generations; waits for one if the engine has no work."""
        # Requests beyond the limit would only wait inside the engine, with their pixels in memory.
        n = 1  # of the last one; the next is supposed to have as many
        while not in_flight or len(in_flight) + n <= self.options.max_in_flight:
            items = ahead.take(wait=not in_flight)
            if not items:
                return
            n = len(items[-1].draws)
            yield from items

    def close(self) -> None:
        """End the engine's processes and delete a merged adapter's folder."""
        # Cleared first, so that a second call finds nothing to close.
        engine, self._engine = self._engine, None
        if engine is not None:
            close_engine(engine, self._guard)
        if self._merged is not None:
            self._merged.cleanup()

    def _prepare(self, request: Request, wanted: tuple[Draw, ...]) -> _Prepared:
        """Prompt tokens and patches, made by vLLM and compared with our own count. Runs in the prefetching thread."""
        try:
            expected = self.processor.prepare(request).input_ids.tolist()
            rendered = render(self._engine, self.processor, request, expected)
            return _Prepared(request.question_id, wanted, rendered, self.processor.opened_for(request))
        except (*REQUEST_ERRORS, self._refused) as error:
            failure = Failure("backend_error", f"{type(error).__name__}: {error}")
            return _Prepared(request.question_id, wanted, None, failure=failure)

    def _admit(self, item: _Prepared, sampling: SamplingConfig, in_flight: dict[str, _InFlight]) -> Iterator[Result]:
        """Add a request's generations to the engine; yield a Failure for each that it does not take."""
        for result_id, seed, k in item.draws:
            failure = item.failure
            if failure is None:
                name = str(next(self._ids))
                drawn = dataclasses.replace(sampling, seed=seed)
                params = sampling_params(drawn, item.question_id, k, self.processor.forbidden_ids)
                try:
                    self._engine.add_request(name, item.prompt, params)
                    in_flight[name] = _InFlight(result_id, item.opened, time.perf_counter())
                except (ValueError, self._refused) as error:
                    failure = Failure("backend_error", f"{type(error).__name__}: {error}")
            if failure is not None:
                yield result_id, failure

    def _step(self, in_flight: dict[str, _InFlight], sampling: SamplingConfig) -> Iterator[Result]:
        """Wait for the engine's next iteration and yield what it finished."""
        for output in self._engine.step() if in_flight else ():
            if output.finished and output.request_id in in_flight:
                finished = in_flight.pop(output.request_id)
                yield finished.result_id, self._to_result(output, finished, sampling)

    def _to_result(self, output: RequestOutput, finished: _InFlight, sampling: SamplingConfig) -> Generation | Failure:
        # Each generation is a request of its own with its own seed, so there is exactly one output.
        completion = output.outputs[0]
        reason: FinishReason = "stop" if completion.finish_reason == "stop" else "length"
        if completion.finish_reason != reason:
            return Failure("backend_error", f"vLLM ended this request with {completion.finish_reason!r}")
        tokens = list(completion.token_ids)
        logprobs = [entry[token].logprob for token, entry in zip(tokens, completion.logprobs or (), strict=False)]
        if reason == "stop":  # no stop strings are set, so that the last token is the end token
            tokens, logprobs = tokens[:-1], logprobs[:-1]
        text = completion_text(self.processor.tokenizer, tokens)
        return nan_failure(text) or Generation(
            text=text,
            token_ids=tuple(tokens),
            finish_reason=reason,
            n_prompt_tokens=len(output.prompt_token_ids),
            n_tokens=len(tokens),
            latency_s=time.perf_counter() - finished.started,
            logprobs=tuple(logprobs) if sampling.logprobs else None,
            opened=finished.opened,
        )


def _shape(checkpoint: Checkpoint, dtype: str) -> tuple[object, ...]:
    """What two checkpoints must share to be answered by one engine: all but their weights."""
    config = {name: value for name, value in checkpoint.config.items() if name not in _NOT_THE_MODEL}
    files = {
        name: digest for name, digest in small_file_hashes({"": checkpoint.folder}).items() if name != "config.json"
    }
    return config, files, checkpoint_dtype(checkpoint.config) if dtype == "auto" else dtype
