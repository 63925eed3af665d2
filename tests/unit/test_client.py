"""The client against a real server on loopback. Waits are hundredths of a second."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from seedbench_r1.api import client as chat_client
from seedbench_r1.api.client import (
    ChatClient,
    RequestFailed,
    check_installed,
    json_reply,
    retry_after_s,
    wait_before_retry,
)
from seedbench_r1.api.replies import Reply, error_text, read_reply
from seedbench_r1.errors import ConfigError
from tests.api_server import ApiServer, Reaction, completion, error, ok

KEY = "sk-test-0123456789abcdef"
ASK = {"model": "m", "max_tokens": 8}
MESSAGES = [{"role": "user", "content": [{"type": "text", "text": "What next?"}]}]


def ask(script, *, timeout_s=30.0, tries=3, first_wait_s=0.01, key=KEY, **fields):
    """Reply or exception of one request, and the server that was asked."""
    with ApiServer(script) as server:
        client = ChatClient(server.url, key, timeout_s=timeout_s, tries=tries, first_wait_s=first_wait_s)
        try:
            return client.complete(MESSAGES, **(ASK | fields)), server
        except (RequestFailed, ConfigError) as failure:
            return failure, server
        finally:
            client.close()


def test_a_reply():
    reply, server = ask([ok("B", prompt_tokens=321, tokens=7, logprobs=[-0.5, -0.25])], seed=5, temperature=0.1)
    assert (reply.text, reply.finish_reason, reply.n_prompt_tokens, reply.n_tokens) == ("B", "stop", 321, 7)
    assert reply.logprobs == (-0.5, -0.25)
    assert 0 < reply.latency_s < 30  # what the request was allowed
    sent = {"model": "m", "messages": MESSAGES, "temperature": 0.1, "top_p": 1.0, "max_tokens": 8, "seed": 5}
    assert server.seen == [sent]
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"


def test_schema_limit_name_and_extra_fields():
    schema = {"type": "object", "properties": {"consistent": {"type": "boolean"}}}
    with ApiServer([ok()]) as server:
        client = ChatClient(server.url, KEY, limit_name="max_completion_tokens")
        client.complete(MESSAGES, **ASK, extra={"top_k": 20, "logprobs": True} | json_reply(schema))
        client.close()
    (body,) = server.seen
    assert body["response_format"]["type"] == "json_schema"
    assert body["response_format"]["json_schema"] == {"name": "reply", "schema": schema, "strict": True}
    assert (body["max_completion_tokens"], body["top_k"], body["logprobs"]) == (8, 20, True)
    assert "max_tokens" not in body
    assert "seed" not in body


GOOD = json.dumps(completion()).encode()


@pytest.mark.parametrize(
    "trouble",
    [
        *(error(status) for status in (408, 429, 500, 502, 503, 504)),
        Reaction(vanish=True),
        Reaction(body=GOOD, sent_share=0.5),
        Reaction(body=b'{"choices": [{'),
        Reaction(body=b"<html>busy</html>", headers={"Content-Type": "text/html"}),
        Reaction(body=b'{"error": {"message": "upstream"}}'),
        Reaction(body=b"[]"),
        ok(choices=[]),
        ok(usage={"prompt_tokens": "3", "completion_tokens": 1}),
        ok(finish_reason=None),
        ok(wait_s=60),
    ],
    ids=lambda r: f"{r.status}-{r.body[:14]!r}-{r.sent_share}-{r.wait_s}",
)
def test_what_may_pass_is_tried_again(trouble):
    reply, server = ask([trouble, ok("B")], timeout_s=1.5 if trouble.wait_s else 30.0)
    assert isinstance(reply, Reply), reply
    assert reply.text == "B"
    assert len(server.seen) == 2
    assert server.seen[0] == server.seen[1]


@pytest.mark.parametrize(
    ("trouble", "kind", "for_all", "told"),
    [
        (error(500, "boom"), "backend_error", False, "HTTP 500"),
        (error(503, "boom"), "backend_error", True, "HTTP 503"),
        (Reaction(body=b"nonsense"), "backend_error", False, "nonsense"),
        (Reaction(vanish=True), "backend_error", True, "it was cut"),
        (ok(wait_s=60), "timeout", False, "within 0.2 s"),
        (Reaction(body=GOOD, drip_s=0.05), "timeout", False, "within 0.2 s"),
    ],
)
def test_tries_are_counted(trouble, kind, for_all, told):
    failure, server = ask([trouble], tries=3, timeout_s=0.2 if kind == "timeout" else 30.0)
    assert (failure.kind, failure.for_all) == (kind, for_all)
    assert told in str(failure)
    assert "(tried 3 times)" in str(failure)
    assert len(server.seen) == 3


@pytest.mark.parametrize(("status", "for_all"), [(400, False), (404, True), (413, False), (422, False)])
def test_a_refusal_is_not_tried_again(status, for_all):
    failure, server = ask([error(status, "too many images"), ok()])
    assert f"HTTP {status}" in str(failure)
    assert "too many images" in str(failure)
    assert (failure.kind, failure.for_all, len(server.seen)) == ("backend_error", for_all, 1)


@pytest.mark.parametrize("reaction", [error(401), error(403), error(429, "insufficient_quota")])
def test_what_ends_the_run(reaction):
    failure, server = ask([reaction])
    assert isinstance(failure, ConfigError)
    assert "Fix:" in str(failure)
    assert len(server.seen) == 1


@pytest.mark.parametrize("place", [0, 380])
def test_no_message_holds_the_key(place):
    for reaction in (error(401, "-" * place + KEY), error(400, "-" * place + KEY), Reaction(body=KEY.encode())):
        failure, _ = ask([reaction], tries=1)
        assert KEY[:12] not in str(failure)
        assert "[key]" in str(failure)


def test_a_placeholder_is_no_secret():
    failure, _ = ask([error(400, "none of the images could be read")], key="none")
    assert "none of the images" in str(failure)


def test_retry_after_is_honoured():
    reply, server = ask([error(429, Retry_After="1"), ok()])
    assert isinstance(reply, Reply)
    assert 1.0 <= server.times[1] - server.times[0] < 15  # its own first wait is 0.01 s


def test_nobody_waits_for_hours():
    failure, server = ask([error(429, Retry_After="7200"), ok()])
    assert "left alone for 7200 s" in str(failure)
    assert len(server.seen) == 1


def test_nobody_listens():
    with ApiServer([ok()]) as server:
        url = server.url
    client = ChatClient(url, KEY, tries=2, first_wait_s=0.01)
    with pytest.raises(RequestFailed, match="no connection to") as caught:
        client.complete(MESSAGES, **ASK)
    client.close()
    assert caught.value.for_all


def test_many_threads_ask_at_once():
    all_there = threading.Barrier(8)

    def script(number, body):
        all_there.wait(60)  # nobody is answered before all eight have asked
        return ok(body["messages"][0]["content"])

    with ApiServer(script) as server:
        client = ChatClient(server.url, KEY)
        with ThreadPoolExecutor(8) as threads:
            asked = [threads.submit(client.complete, [{"role": "user", "content": f"{i}"}], **ASK) for i in range(8)]
            assert [one.result().text for one in asked] == [f"{i}" for i in range(8)]
        client.close()
        assert server.most_at_once == 8


@pytest.mark.parametrize("script", [[ok(wait_s=600)], [error(429, Retry_After="60")]])
def test_closing_breaks_off_what_waits(script):
    with ApiServer(script) as server, ThreadPoolExecutor(1) as threads:
        client = ChatClient(server.url, KEY)
        asked = threads.submit(client.complete, MESSAGES, **ASK)
        while not server.seen:
            time.sleep(0.01)
        began = time.monotonic()
        client.close()
        client.close()
        with pytest.raises(RequestFailed):
            asked.result(timeout=40)
        assert time.monotonic() - began < 20
        with pytest.raises(RequestFailed, match="closed"):
            client.complete(MESSAGES, **ASK)
    assert not any(thread.name == "chat-client" for thread in threading.enumerate())


def test_waits_by_hand():
    # 1, 2, 4 ... 60 s; between half of that and all of it
    assert [wait_before_retry(n, None, 1.0, 1.0) for n in (1, 2, 3, 6, 7, 20)] == [1, 2, 4, 32, 60, 60]
    assert wait_before_retry(3, None, 1.0, 0.0) == 2.0
    assert wait_before_retry(3, None, 0.01, 0.5) == pytest.approx(0.03)
    assert wait_before_retry(1, 30.0, 1.0, 0.5) == 30.5
    assert wait_before_retry(6, 5.0, 1.0, 0.0) == 16.0


def test_retry_after_in_both_forms():
    now = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
    assert retry_after_s(None, now) is None
    assert retry_after_s("7", now) == 7
    assert retry_after_s("-7", now) == 0
    assert retry_after_s("Thu, 01 Jan 2026 12:00:09 GMT", now) == 9
    assert retry_after_s("Thu, 01 Jan 2026 11:00:00 GMT", now) == 0
    assert retry_after_s("soon", now) is None


def test_replies_without_content():
    assert read_reply(json.dumps(completion(None, finish_reason="length")), 1.0).text == ""
    refused = completion(None)
    refused["choices"][0]["message"]["refusal"] = "I won't."
    assert read_reply(json.dumps(refused), 1.0).text == "I won't."


def test_error_bodies():
    assert error_text('{"error": {"message": "a\\n b"}}') == "a b"
    assert error_text('{"message": "a"}') == "a"
    assert error_text('{"detail": [1]}') == '{"detail": [1]}'
    assert error_text("<html>") == "<html>"
    assert error_text("x" * 1000) == "x" * 400 + "..."


def test_the_package_is_absent(monkeypatch):
    monkeypatch.setattr(chat_client.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install '\.\[judge\]'"):
        check_installed()


NEW_NAME = error(400, "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.")


def test_the_limit_is_renamed_once_where_the_server_asks_for_it():
    """No try is spent on it, and requests that were in flight together are each sent again."""
    all_there = threading.Barrier(4)

    def script(number, body):
        if number < 4:
            all_there.wait(60)
        return NEW_NAME if "max_tokens" in body else ok()

    with ApiServer(script) as server:
        client = ChatClient(server.url, KEY, tries=1)
        with ThreadPoolExecutor(4) as threads:
            assert (
                len([one.result() for one in [threads.submit(client.complete, MESSAGES, **ASK) for _ in range(4)]]) == 4
            )
        client.complete(MESSAGES, **ASK)
        client.close()
    assert ["max_tokens" in body for body in server.seen].count(True) == 4
    assert all(len({"max_tokens", "max_completion_tokens"} & set(body)) == 1 for body in server.seen)
    assert len(server.seen) == 9


def test_a_server_that_refuses_either_name_is_not_asked_for_ever():
    failure, server = ask([NEW_NAME])
    assert (failure.status, len(server.seen)) == (400, 2)
    for too_large in ("'max_tokens' or 'max_completion_tokens' is too large: 9", "max_tokens is not supported"):
        failure, server = ask([error(400, too_large)])
        assert len(server.seen) == 1


def test_without_a_temperature_sampling_is_the_servers_own():
    _, server = ask([ok()], temperature=None)
    assert server.seen == [{"model": "m", "messages": MESSAGES, "max_tokens": 8}]


def test_content_is_kept_apart_from_thoughts():
    body = completion("B")
    body["choices"][0]["message"]["reasoning"] = "hm"
    reply = read_reply(json.dumps(body), 0.1)
    assert (reply.text, reply.content) == ("<think>hm</think>B", "B")
    assert read_reply(json.dumps(completion("B")), 0.1).content == "B"
    body["choices"][0]["message"]["content"] = KEY
    reply, _ = ask([Reaction(body=json.dumps(body).encode())])
    assert KEY not in reply.content + reply.text
