"""API models: what is sent, the contract of backends against a real server on loopback, and whole runs."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import threading
import time
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from seedbench_r1.api.client import ChatClient
from seedbench_r1.api.cost_limit import CostLimit, token_cost
from seedbench_r1.api.replies import Reply, read_reply
from seedbench_r1.backends import openai as openai_api
from seedbench_r1.backends.openai import OpenAIBackend, chat_messages, completion_seed, to_generation
from seedbench_r1.errors import ConfigError
from seedbench_r1.prompts import DEFAULT_TEMPLATE
from seedbench_r1.protocol import protocol_id
from seedbench_r1.types import Failure, Generation, Request, SamplingConfig, VideoConfig
from tests.api_server import ApiServer, Reaction, error, ok

KEY = "sk-test-0123456789abcdef"
SAMPLING = SamplingConfig(max_new_tokens=10)


def request(name: str = "L1/0", *, n_frames: int | None = 4, text: str | None = None) -> Request:
    """Smooth pictures, each of its own colour. Frames are 15 apart in a clip of 30 frames per second."""
    ramp = np.linspace(0, 60, 28 * 28, dtype=np.uint8).reshape(28, 28, 1)
    parts = [{"type": "image"}, {"type": "text", "text": text or name}]
    image = ramp + np.array([200, 0, 0], dtype=np.uint8) // 2
    if n_frames is None:
        return Request(name, ({"role": "user", "content": parts},), None, (), None, None, image)
    frames = np.stack([ramp + np.array([0, 0, 20 * i], dtype=np.uint8) for i in range(n_frames)])
    messages = ({"role": "user", "content": [{"type": "video"}, *parts]},)
    return Request(name, messages, frames, tuple(range(0, 15 * n_frames, 15)), 30.0, 100, image)


def several(n: int):
    return [request(f"L1/{i}", n_frames=None) for i in range(n)]


def name_of(body) -> str:
    return body["messages"][-1]["content"][-1]["text"]


def pixels(url: str) -> np.ndarray:
    assert url.startswith("data:image/jpeg;base64,")
    return decoded(url.partition(",")[2])


def decoded(data: str) -> np.ndarray:
    picture = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
    assert picture.format == "JPEG"
    return np.asarray(picture)


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    return found.shape == expected.shape and int(np.abs(found.astype(int) - expected.astype(int)).max()) <= 4


@pytest.fixture
def backend():
    """Open a backend on a server; everything is closed afterwards."""
    opened = []

    def on(server: ApiServer, *, tries: int = 2, timeout_s: float = 5.0, **options) -> OpenAIBackend:
        client = ChatClient(server.url, KEY, tries=tries, timeout_s=timeout_s, first_wait_s=0.01)
        opened.append(OpenAIBackend("m", client, **options))
        return opened[-1]

    yield on
    for one in opened:
        one.close()
        one.close()


def test_frames_as_images():
    asked = request()
    (message,) = chat_messages(asked, "images")
    intro, *images, text = message["content"]
    # 3 steps of 15 frames at 30 per second: 3 frames in 1.5 s
    assert intro["text"] == (
        "The next 4 images are the frames of the video in order, 2.00 per second. The image follows them."
    )
    assert text == {"type": "text", "text": "L1/0"}
    expected = [*asked.frames, asked.image]
    assert len(images) == 5
    assert all(close(pixels(part["image_url"]["url"]), one) for part, one in zip(images, expected, strict=True))


def test_frames_as_a_video():
    asked = request()
    (message,) = chat_messages(asked, "video")
    video, image, text = message["content"]
    kind, _, data = video["video_url"]["url"].partition(",")
    assert (video["type"], kind) == ("video_url", "data:video/jpeg;base64")
    assert all(close(decoded(one), frame) for one, frame in zip(data.split(","), asked.frames, strict=True))
    assert close(pixels(image["image_url"]["url"]), asked.image)
    assert text["text"] == "L1/0"
    fields = openai_api.extra_fields(asked, SAMPLING, "video")
    clip = {"fps": 30.0, "total_num_frames": 100, "num_frames": 4, "frames_indices": [0, 15, 30, 45]}
    assert fields == {"media_io_kwargs": {"video": clip}}


def test_colour_edges_survive():
    stripes = np.zeros((28, 28, 3), dtype=np.uint8)
    stripes[:, ::2, 0] = 255
    stripes[:, 1::2, 2] = 255
    # halved chroma would mix red and blue columns into purple: an error above 100
    assert np.abs(decoded(openai_api.jpeg_base64(stripes)).astype(int) - stripes).max() < 40


def test_without_a_clip_and_with_a_system_message():
    asked = request(n_frames=None)
    asked = Request(
        "q",
        ({"role": "system", "content": [{"type": "text", "text": "s"}]}, *asked.messages),
        None,
        (),
        None,
        None,
        asked.image,
    )
    for mode in ("images", "video"):
        system, user = chat_messages(asked, mode)
        assert system == {"role": "system", "content": [{"type": "text", "text": "s"}]}
        assert [part["type"] for part in user["content"]] == ["image_url", "text"]
        assert openai_api.extra_fields(asked, SAMPLING, mode) == {}


def test_what_is_sent(backend):
    sampling = SamplingConfig(temperature=0.1, top_p=0.001, max_new_tokens=7, seed=3)
    with ApiServer([ok(logprobs=[-0.5])]) as server:
        on = backend(server)
        list(on.generate([request()], sampling))
        special = SamplingConfig(top_k=20, repetition_penalty=1.05, logprobs=True)
        ((_, generation),) = on.generate([request()], special)
    plain, other = ({key: body[key] for key in body if key != "messages"} for body in server.seen)
    seed = completion_seed(3, "L1/0", 0)
    assert plain == {"model": "m", "temperature": 0.1, "top_p": 0.001, "max_tokens": 7, "seed": seed}
    assert (other["top_k"], other["repetition_penalty"], other["logprobs"]) == (20, 1.05, True)
    assert generation.logprobs == (-0.5,)


def test_seeds_depend_on_question_completion_and_seed_only():
    assert completion_seed(0, "L1/1", 0) == 1808898875  # printf 0:L1/1:0 | sha256sum, 4 bytes, halved
    seeds = {completion_seed(s, q, k) for s in (0, 1) for q in ("L1/1", "L1/2") for k in (0, 1)}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_the_way_pixels_travel_is_part_of_the_protocol():
    parts = (DEFAULT_TEMPLATE, VideoConfig(), SamplingConfig())
    ids = [protocol_id(*parts, sent) for sent in (None, openai_api.transport("images"), openai_api.transport("video"))]
    assert len(set(ids)) == 3
    assert ids[0] == protocol_id(*parts)


@pytest.mark.parametrize(
    ("reason", "expected"), [("stop", "stop"), ("length", "length"), ("content_filter", None), ("tool_calls", None)]
)
def test_finish_reasons(reason, expected):
    result = to_generation(Reply("t", reason, 5, 2, 0.1))
    if expected is None:
        assert isinstance(result, Failure)
        assert reason in result.message
    else:
        assert result == Generation("t", (), expected, 5, 2, 0.1)
    assert isinstance(to_generation(Reply("t", "stop", 5, 2, 0.1), logprobs=True), Failure)


# The contract of backends.base.Backend


def test_every_completion_leaves_once_with_its_own_seed(backend):
    with ApiServer(lambda number, body: ok(name_of(body))) as server:
        results = list(backend(server).generate(iter(several(5)), SamplingConfig(n=3)))
    assert Counter(name for name, _ in results) == {f"L1/{i}": 3 for i in range(5)}
    assert all(generation.text == name for name, generation in results)
    assert len({body["seed"] for body in server.seen}) == 15


def test_an_empty_stream_ends(backend):
    with ApiServer([ok()]) as server:
        assert list(backend(server).generate(iter([]), SAMPLING)) == []


def test_a_request_depends_on_nothing_around_it(backend):
    def asked(requests, concurrency):
        with ApiServer([ok()]) as server:
            list(backend(server, concurrency=concurrency).generate(iter(requests), SamplingConfig(n=2)))
        return sorted(json.dumps(body, sort_keys=True) for body in server.seen)

    assert asked(several(6), 3) == asked(several(6)[::-1], 1)


def test_failures_stay_with_their_request(backend):
    def script(number, body):
        return {"L1/1": error(400, "too long"), "L1/2": error(500), "L1/3": ok(wait_s=60)}.get(name_of(body), ok())

    broken = request("L1/9")
    broken = Request(broken.question_id, broken.messages, broken.frames.astype(float), *[None] * 3, broken.image)
    with ApiServer(script) as server:
        on = backend(server, timeout_s=1.5)
        results = dict(on.generate(iter([*several(6), broken]), SAMPLING))
    assert {name: result.kind for name, result in results.items() if isinstance(result, Failure)} == {
        "L1/1": "backend_error",
        "L1/2": "backend_error",
        "L1/3": "timeout",
        "L1/9": "backend_error",
    }
    assert isinstance(results["L1/0"], Generation)
    assert len(results) == 7


def test_concurrency_is_used_and_bounded(backend):
    three_ask = threading.Barrier(3)  # nobody is answered alone

    def script(number, body):
        three_ask.wait(60)
        return ok()

    with ApiServer(script) as server:
        assert len(list(backend(server, concurrency=3).generate(iter(several(9)), SAMPLING))) == 9
        assert server.most_at_once == 3


def test_a_slow_answer_keeps_nobody_waiting(backend):
    with ApiServer(lambda number, body: ok(wait_s=2.0 if name_of(body) == "L1/0" else 0)) as server:
        order = [name for name, _ in backend(server, concurrency=2).generate(iter(several(6)), SAMPLING)]
    assert order[-1] == "L1/0"
    assert len(order) == 6


def test_a_result_does_not_wait_for_the_next_request(backend):
    answered = threading.Event()

    def stream():
        yield request("L1/0", n_frames=None)
        assert answered.wait(60), "the first answer waited for the second request"
        yield request("L1/1", n_frames=None)

    with ApiServer([ok()]) as server:
        names = []
        for name, _ in backend(server).generate(stream(), SAMPLING):
            names.append(name)
            answered.set()
    assert names == ["L1/0", "L1/1"]


def test_requests_are_pulled_lazily_and_closing_stops_it(backend):
    pulled = []

    def stream():
        for asked in several(1000):
            pulled.append(asked)
            yield asked

    with ApiServer([ok()]) as server:
        on = backend(server, concurrency=4)
        results = on.generate(stream(), SAMPLING)
        next(results)
        time.sleep(0.2)
        assert len(pulled) <= 4  # the consumer has not come back, so that no place is free
        results.close()
        time.sleep(0.1)
        assert len(pulled) <= 4
        assert len(list(on.generate(iter(several(2)), SAMPLING))) == 2


def test_an_error_of_the_stream_is_raised_after_its_answers(backend):
    def stream():
        yield from several(2)
        raise OSError("no such disk")

    seen: list[str] = []
    with ApiServer([ok(wait_s=0.1)]) as server, pytest.raises(OSError, match="no such disk"):
        seen.extend(name for name, _ in backend(server).generate(stream(), SAMPLING))
    seen_late = sorted(body for body in map(name_of, server.seen))
    assert seen_late == ["L1/0", "L1/1"]


def test_a_refused_key_ends_the_run_after_its_answers(backend):
    seen = []
    with ApiServer(lambda number, _: ok() if number < 3 else error(401)) as server:
        results = backend(server, concurrency=1).generate(iter(several(9)), SAMPLING)
        with pytest.raises(ConfigError, match="refused the key"):
            seen.extend(results)
        assert len(server.seen) == 4


def test_a_dead_server_ends_the_run(backend):
    with ApiServer(lambda number, _: Reaction(vanish=True) if number >= 5 else ok()) as server:
        results = backend(server, tries=1, concurrency=1).generate(iter(several(100)), SAMPLING)
        seen = []
        with pytest.raises(ConfigError, match="8 requests in a row"):
            seen.extend(results)
    kinds = Counter(type(result).__name__ for _, result in seen)
    assert kinds == {"Generation": 5, "Failure": 7}  # the eighth failure is the error


def test_an_answer_between_failures_gives_hope(backend):
    with ApiServer(lambda number, _: ok() if number % 8 == 7 else error(404)) as server:
        results = [result for _, result in backend(server, concurrency=1).generate(iter(several(32)), SAMPLING)]
    assert sum(isinstance(result, Generation) for result in results) == 4


def test_a_server_that_refuses_some_goes_on(backend):
    with ApiServer(lambda number, _: error(400) if number < 40 else ok()) as server:
        results = [result for _, result in backend(server).generate(iter(several(41)), SAMPLING)]
    assert sum(isinstance(result, Failure) for result in results) == 40


def test_vllm_that_does_not_trust_frame_times(backend):
    told = "Per-request media_io_kwargs are disabled ... --trust-request-mm-kwargs only when clients are trusted."
    with ApiServer([error(400, told)]) as server, pytest.raises(ConfigError, match="--api-video images"):
        list(backend(server, api_video="video").generate([request()], SAMPLING))


# Money


def test_cost_by_hand():
    assert token_cost(2_000_000, 500_000, 0.5, 8.0) == 5.0  # 2 x 0.5 + 0.5 x 8


@pytest.mark.parametrize("concurrency", [1, 8])
def test_the_limit_is_not_exceeded(backend, concurrency, caplog):
    # One answer: 100 prompt tokens at 10,000 and 10 new ones at 100,000 per million = 2; 11 pay for five
    with ApiServer([ok(prompt_tokens=100, tokens=10)]) as server:
        cost_limit = CostLimit(11.0, 10_000.0, 100_000.0)
        on = backend(server, concurrency=concurrency, cost_limit=cost_limit)
        results = list(on.generate(iter(several(20)), SAMPLING))
    assert len(results) == len(server.seen) == 5
    assert cost_limit.spent == pytest.approx(10.0)
    assert "Stopped before --max-cost 11: 10 spent" in caplog.text


def test_cheaper_answers_buy_more(backend):
    # Each may cost 2 but costs 1.1: after nine, 9.9 is spent and one more might make 11.9
    with ApiServer([ok(prompt_tokens=100, tokens=1)]) as server:
        on = backend(server, concurrency=8, cost_limit=CostLimit(11.0, 10_000.0, 100_000.0))
        assert len(list(on.generate(iter(several(20)), SAMPLING))) == 9
        on = backend(server, cost_limit=CostLimit(0.9, 10_000.0, 100_000.0))
        assert list(on.generate(iter(several(20)), SAMPLING)) == []  # 10 new tokens alone might cost 1


def test_failures_and_several_completions_leave_the_account_even(backend):
    with ApiServer(lambda number, _: error(400) if number % 2 else ok(prompt_tokens=100, tokens=10)) as server:
        cost_limit = CostLimit(1000.0, 10_000.0, 100_000.0)
        results = list(
            backend(server, cost_limit=cost_limit).generate(iter(several(6)), SamplingConfig(n=2, max_new_tokens=10))
        )
    assert len(results) == 12
    assert cost_limit.spent == pytest.approx(12.0)  # six answers of 2


def test_nothing_but_the_token_of_nan_logits_is_no_answer():
    reply = Reply("!" * 1024, "length", 5, 1024, 0.1, None)
    assert "not finite" in to_generation(reply).message
    for text in ("!" * 31, "!" * 40 + " B", "Stop!"):
        assert to_generation(dataclasses.replace(reply, text=text)).text == text


def test_thoughts_in_a_field_of_their_own_are_read():
    """As vLLM and DeepSeek's servers part them; and as servers that know no such field leave them."""
    message = {"role": "assistant", "content": "<answer>B</answer>"}
    for name in ("reasoning_content", "reasoning"):
        body = {"choices": [{"message": message | {name: "The cup is dirty."}, "finish_reason": "stop"}]}
        body |= {"usage": {"prompt_tokens": 1, "completion_tokens": 2}}
        found = to_generation(read_reply(json.dumps(body), 0.1))
        assert (found.text, found.opened) == ("<think>The cup is dirty.</think><answer>B</answer>", "")
    body["choices"][0] = {"message": {"content": None, "reasoning": "The cup"}, "finish_reason": "length"}
    assert to_generation(read_reply(json.dumps(body), 0.1)).text == "<think>The cup"
    body["choices"][0] = {"message": {"content": "The cup.</think>\n\nB"}, "finish_reason": "stop"}
    found = to_generation(read_reply(json.dumps(body), 0.1))
    assert (found.text, found.opened) == ("The cup.</think>\n\nB", "<think>\n")
    with pytest.raises(ValueError, match="not JSON: nested too deeply"):
        read_reply("[" * 100_000, 0.1)


def test_a_server_that_counts_no_tokens_is_believed_its_answers(backend, caplog):
    with ApiServer([ok("A", usage=None)]) as server:
        results = list(backend(server).generate(several(3), SAMPLING))
    assert [generation.text for _, generation in results] == ["A"] * 3
    assert {(generation.n_prompt_tokens, generation.n_tokens) for _, generation in results} == {(None, None)}
    assert sum("tokens and cost stay unknown" in message for message in caplog.messages) == 1


def test_a_limit_on_cost_needs_token_counts(backend):
    with ApiServer([ok("A", usage=None)]) as server:
        limited = backend(server, cost_limit=CostLimit(1.0, 1.0, 1.0))
        with pytest.raises(ConfigError, match=r"usage\), so --max-cost cannot be kept.*Fix: leave out --max-cost"):
            list(limited.generate(several(3), SAMPLING))
        assert len(server.seen) == 1
