"""Models behind a server that speaks OpenAI's chat completions: hosted ones, or a `vllm serve` of one's own.

Frames travel as JPEG images in front of the current view, or as one video in vLLM's own form. Both are part of the
protocol id (`transport`), since JPEG and the form of the clip can change an answer.
"""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import threading
import urllib.parse
from collections.abc import Iterable, Iterator

from seedbench_r1.api.client import ChatClient, RequestFailed
from seedbench_r1.api.cost_limit import CostLimit
from seedbench_r1.api.replies import Reply
from seedbench_r1.api.worker_pool import in_parallel
from seedbench_r1.backends.base import Draw, Result, draws, nan_failure
from seedbench_r1.config import OPENAI_BASE_URL, EvalConfig
from seedbench_r1.errors import ConfigError
from seedbench_r1.media.decode import Pixels
from seedbench_r1.parsing import assumed_opening
from seedbench_r1.typed_json import shown
from seedbench_r1.types import (
    ApiVideo,
    Failure,
    FinishReason,
    Generation,
    ModelInfo,
    Request,
    SamplingConfig,
)

log = logging.getLogger(__name__)

JPEG_QUALITY = 95  # of 100, colour at full resolution
FRAMES_TEXT = "The next {n} images are the frames of the video in order, {fps:.2f} per second. The image follows them."
FINISH: dict[str, FinishReason] = {"stop": "stop", "length": "length"}  # OpenAI's API reference, chat completions
HOPELESS_AFTER = 8  # failures in a row with a reason that concerns every request; at least one for each in flight


def transport(api_video: ApiVideo) -> dict[str, object]:
    """What this backend does to a request that can change an answer. Part of the protocol id."""
    sent: dict[str, object] = {"frames_as": api_video, "jpeg_quality": JPEG_QUALITY, "jpeg_chroma": "4:4:4"}
    return sent | ({"frames_text": FRAMES_TEXT} if api_video == "images" else {})


def api_model(config: EvalConfig) -> ModelInfo:
    """What is known of a model behind a server: its name there, and the server's host, hashed into the fingerprint."""
    # A model name may mean anything behind another server; port and path may change without changing the model.
    host = urllib.parse.urlsplit(config.base_url or OPENAI_BASE_URL).hostname
    fingerprint = hashlib.sha256(f"{config.model}\n{host}".encode()).hexdigest()[:16]
    return ModelInfo(path=f"openai:{config.model}", name=config.model, fingerprint=fingerprint)


class OpenAIBackend:
    """Asks `model` through a client, `concurrency` requests at a time. See backends.base.Backend.

    Each completion is a request of its own with its own seed. Token ids are not known: `token_ids` is empty, and token
    counts are the server's.
    """

    def __init__(
        self,
        model: str,
        client: ChatClient,
        *,
        concurrency: int = 16,
        api_video: ApiVideo = "images",
        cost_limit: CostLimit | None = None,
    ) -> None:
        self._model = model
        self._client = client
        self._concurrency = concurrency
        self._api_video = api_video
        self._cost_limit = cost_limit
        self._guard = threading.Lock()
        self._said = False  # that the server counts no tokens
        self._hopeless = 0  # failures in a row that no reply interrupted and that no request was to blame for

    @classmethod
    def from_config(cls, config: EvalConfig, api_key: str) -> OpenAIBackend:
        """Open a connection. Raises ConfigError if the `openai` package is absent."""
        client = ChatClient(
            config.base_url or OPENAI_BASE_URL,
            api_key,
            timeout_s=config.api_timeout_s,
            tries=config.api_tries,
            limit_name="max_completion_tokens" if config.max_completion_tokens else "max_tokens",
        )
        cost_limit = None
        if config.max_cost is not None and config.price_in is not None and config.price_out is not None:
            cost_limit = CostLimit(config.max_cost, config.price_in, config.price_out)
        return cls(
            config.model, client, concurrency=config.concurrency, api_video=config.api_video, cost_limit=cost_limit
        )

    def generate(self, requests: Iterable[Request], sampling: SamplingConfig) -> Iterator[Result]:
        """Answer a lazy stream of requests.

        With a cost limit, the stream ends before a request that might exceed it, and a warning says so.

        Raises:
            ConfigError: the key is refused, the server cannot be reached, or it does not take what we send. What was
                answered before has been yielded.
        """

        def answer(request: Request) -> Iterator[Result]:
            try:
                messages: list[dict[str, object]] | Failure = chat_messages(request, self._api_video)
            # Encoded once for all completions, since JPEGs take longer than the rest of a request.
            except (ValueError, TypeError, OSError) as error:  # pixels that are no picture
                messages = Failure("backend_error", f"{type(error).__name__}: {error}")
            for draw in draws(request, sampling):
                yield draw.result_id, self._answer(request, messages, sampling, draw)

        if self._cost_limit is None:
            yield from in_parallel(requests, answer, self._concurrency)
            return
        # Requests are pulled, and so decoded, only when they can be paid for.
        paid = self._cost_limit.affordable(
            requests, completions=lambda request: len(draws(request, sampling)), max_tokens=sampling.max_new_tokens
        )
        try:
            yield from in_parallel(paid, answer, self._concurrency)
        finally:
            # Threads that wait for money would otherwise keep the pool from ending.
            self._cost_limit.close()

    def close(self) -> None:
        """Cancel what is in flight."""
        self._client.close()

    def _answer(
        self, request: Request, messages: list[dict[str, object]] | Failure, sampling: SamplingConfig, draw: Draw
    ) -> Generation | Failure:
        reply = None
        try:
            if isinstance(messages, Failure):
                return messages
            reply = self._client.complete(
                messages,
                model=self._model,
                max_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=completion_seed(draw.seed, request.question_id, draw.k),
                extra=extra_fields(request, sampling, self._api_video),
            )
            self._note(reply)
            # A reply, even an unusable one, shows that server, model and key are there.
            return to_generation(reply, logprobs=sampling.logprobs)
        except RequestFailed as error:
            self._check_hope(error)
            return Failure(error.kind, str(error))
        finally:
            if self._cost_limit is not None:
                self._cost_limit.settle(None if reply is None else reply.usage)

    def _note(self, reply: Reply) -> None:
        """The server answers. Raises ConfigError if it does not count tokens that a limit needs."""
        with self._guard:
            self._hopeless = 0
            said, self._said = self._said, self._said or reply.usage is None
        if self._cost_limit is not None:
            self._cost_limit.counted(reply.usage, self._client.base_url)
        elif reply.usage is None and not said:
            log.warning(
                "%s does not say how many tokens an answer took (usage): tokens and cost stay unknown",
                self._client.base_url,
            )

    def _check_hope(self, error: RequestFailed) -> None:
        """Raises ConfigError if it is not this request's fault and will not get better."""
        # vLLM's refusal names its option; every request would get the same one.
        if self._api_video == "video" and "trust-request-mm-kwargs" in str(error):
            raise ConfigError(
                f"The server refuses the frames' times ({error}) Fix: start it with "
                f"`vllm serve MODEL --trust-request-mm-kwargs`, or take --api-video images (another protocol id)."
            ) from error
        with self._guard:
            self._hopeless = self._hopeless + 1 if error.for_all else 0
            hopeless = self._hopeless
        if hopeless >= max(HOPELESS_AFTER, self._concurrency):
            raise ConfigError(
                f"{hopeless} requests in a row failed for a reason that concerns all of them ({error}). Answers so far "
                f"are saved. Fix: check --base-url, the model's name and the server, and run the same command again."
            ) from error


def chat_messages(request: Request, api_video: ApiVideo) -> list[dict[str, object]]:
    """The request's messages with its pixels in them, in OpenAI's form: video, image, text as in the request.

    With "images", a line of text says how many of the images that follow it are frames, and how dense they are.
    """
    messages = []
    for message in request.messages:
        parts: list[dict[str, object]] = []
        for part in message["content"]:
            if part["type"] == "video" and api_video == "images":
                parts += frames_as_images(request)
            elif part["type"] == "video":
                parts.append({"type": "video_url", "video_url": {"url": video_url(request)}})
            elif part["type"] == "image":
                parts.append(image_part(_pixels(request.image)))
            else:
                parts.append({"type": "text", "text": part["text"]})
        messages.append({"role": message["role"], "content": parts})
    return messages


def frames_as_images(request: Request) -> list[dict[str, object]]:
    """A line of text, then one image part for each frame."""
    frames = _pixels(request.frames)
    # The model is shown how dense the frames are: images carry no time.
    first, last = request.clock_indices[0], request.clock_indices[-1]
    # Frames are spread from the first to the last, so n of them span n - 1 intervals.
    fps = (len(frames) - 1) * (request.native_fps or 0.0) / max(1.0, last - first)
    intro: dict[str, object] = {"type": "text", "text": FRAMES_TEXT.format(n=len(frames), fps=fps)}
    return [intro, *(image_part(frame) for frame in frames)]


def image_part(pixels: Pixels) -> dict[str, object]:  # (H, W, 3) uint8
    """The picture in a data URL."""
    return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{jpeg_base64(pixels)}"}}


def video_url(request: Request) -> str:
    """All frames in one data URL: JPEGs in base64, separated by commas, as vLLM reads media type video/jpeg."""
    return "data:video/jpeg;base64," + ",".join(jpeg_base64(frame) for frame in _pixels(request.frames))


def jpeg_base64(pixels: Pixels) -> str:  # (H, W, 3) uint8
    """The picture as a JPEG in base64."""
    from PIL import Image

    stream = io.BytesIO()
    # No chroma subsampling: small coloured objects would lose their edges.
    Image.fromarray(pixels).save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def extra_fields(request: Request, sampling: SamplingConfig, api_video: ApiVideo) -> dict[str, object]:
    """Fields of the body that not every server knows, and only those that are needed.

    top_k and repetition_penalty are vLLM's names. So is media_io_kwargs: without the frames' places in the clip, vLLM
    takes them to be a second apart. chat_template_kwargs is read by vLLM and SGLang.
    """
    fields: dict[str, object] = {}
    # Hosted servers refuse fields that are vLLM's own, so a neutral value is not sent.
    if sampling.top_k != 0:
        fields["top_k"] = sampling.top_k
    if sampling.repetition_penalty != 1.0:
        fields["repetition_penalty"] = sampling.repetition_penalty
    if sampling.logprobs:
        fields["logprobs"] = True
    if request.thinking != "auto":
        fields["chat_template_kwargs"] = {"enable_thinking": request.thinking == "on"}
    if api_video == "video" and request.frames is not None:
        clip = {"fps": request.native_fps, "total_num_frames": request.n_total, "num_frames": len(request.frames)}
        fields["media_io_kwargs"] = {"video": clip | {"frames_indices": list(request.clock_indices)}}
    return fields


def completion_seed(seed: int, question_id: str, k: int) -> int:
    """31 bits for the k-th completion of a question: the same in every run, shard and order."""
    digest = hashlib.sha256(f"{seed}:{question_id}:{k}".encode()).digest()
    # Servers take seeds as signed 32-bit numbers.
    return int.from_bytes(digest[:4]) >> 1


def to_generation(reply: Reply, *, logprobs: bool = False) -> Generation | Failure:
    """A Failure if the server stopped for a reason that is not the model's, or without log-probabilities asked for."""
    if reply.finish_reason not in FINISH:
        return Failure("backend_error", f"the server ended the answer with finish_reason {shown(reply.finish_reason)}")
    if logprobs and reply.logprobs is None:
        return Failure("backend_error", "the server gave no log-probabilities")
    return nan_failure(reply.text) or Generation(
        text=reply.text,
        token_ids=(),
        finish_reason=FINISH[reply.finish_reason],
        n_prompt_tokens=reply.n_prompt_tokens,
        n_tokens=reply.n_tokens,
        latency_s=reply.latency_s,
        logprobs=reply.logprobs if logprobs else None,
        # The prompt was made by the server; what it opened shows only in what the model closes.
        opened=assumed_opening(reply.text),
    )


def _pixels(pixels: Pixels | None) -> Pixels:
    if pixels is None:
        raise ValueError("the messages have a place for pixels that the request does not bring")
    return pixels
