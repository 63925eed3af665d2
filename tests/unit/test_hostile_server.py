"""Whatever a chat server sends is an answer or one recorded failure, of bounded size, and never repeats the key."""

from __future__ import annotations

import base64
import itertools
import json
import logging
import resource
import shutil
from pathlib import Path

import pytest

from seedbench_r1.api.client import CARRIERS, ChatClient, RequestFailed
from seedbench_r1.api.redaction import redact, secret_pattern
from seedbench_r1.api.replies import Reply
from seedbench_r1.runs.directory import load_run
from seedbench_r1.runs.verdicts import load_verdicts
from tests.api_server import ApiServer, Reaction, error, ok
from tests.command import cli, cli_forked
from tests.hostile import ANSWERED, FAILED, KEY, SLOW

pytestmark = pytest.mark.usefixtures("shared_decoders")
PEAK_MB = 400  # of memory that a reply of at most 8 MiB may take: JSON of it is some times as large


def ask(reaction: Reaction, timeout_s: float = 60.0) -> Reply | RequestFailed:
    with ApiServer([reaction]) as server:
        client = ChatClient(server.url, KEY, timeout_s=timeout_s, tries=1)
        try:
            return client.complete([{"role": "user", "content": "?"}], model="m", max_tokens=8)
        except RequestFailed as failure:
            return failure
        finally:
            client.close()


@pytest.mark.parametrize("name", [*ANSWERED, *FAILED])
def test_a_hostile_reply(name):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = ask((ANSWERED | FAILED)[name])
    if name in ANSWERED:
        assert isinstance(found, Reply), found
        assert "<answer>" in found.text
    else:
        # The reason to stop is read one floor above.
        assert isinstance(found, RequestFailed) or name == "key as reason to stop"
    said = f"{found}" if isinstance(found, RequestFailed) else f"{found.text} {found.finish_reason}"
    assert KEY not in said.replace("\\", "")
    assert isinstance(found, Reply) or len(said) < 700
    assert "\n" not in said
    if name in ("gzip bomb", "endless chunks", "too long"):
        assert "longer than 8 MiB" in said
    if "key" in name or "echoes" in name:
        assert "[key]" in said
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < PEAK_MB * 1024


@pytest.mark.parametrize("name", SLOW)
def test_time_is_bounded_in_sum_not_for_each_byte(name):
    found = ask(SLOW[name], timeout_s=0.5)
    assert isinstance(found, RequestFailed)
    assert found.kind == "timeout"


@pytest.mark.parametrize("name", ["too long", "gzip bomb"])
def test_what_is_too_long_is_tried_again(name):
    with ApiServer([FAILED[name], ok("B")]) as server:
        client = ChatClient(server.url, KEY, tries=2, first_wait_s=0.01)
        assert client.complete([], model="m", max_tokens=8).text == "B"
        client.close()
    assert len(server.seen) == 2


def test_another_address_is_named_and_not_tried_again():
    with ApiServer([FAILED["sent elsewhere"], ok("B")]) as server:
        client = ChatClient(server.url, KEY, tries=2, first_wait_s=0.01)
        with pytest.raises(
            RequestFailed, match=r"http://\[key\].invalid/, another server. Fix: give that one's"
        ) as caught:
            client.complete([], model="m", max_tokens=8)
        client.close()
    assert (caught.value.for_all, len(server.seen)) == (True, 1)


def test_a_redirection_on_the_same_server_is_followed():
    with ApiServer(lambda number, _: Reaction(308, headers={"Location": "/v2/chat"}) if number == 0 else ok("B")) as on:
        client = ChatClient(on.url, KEY, tries=1)
        assert client.complete([], model="m", max_tokens=8).text == "B"
        client.close()
    assert on.headers[1]["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("before", ["", "a", "ab", "Bearer "])
@pytest.mark.parametrize("after", ["", "x", "xy"])
def test_the_key_is_found_in_base64_wherever_it_begins(before, after):
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        # A key whose base64 has both of the characters that differ
        key = "k~~~?>>>" + KEY
        text = encode(f"{before}{key}{after}".encode()).decode()
        left = redact(text, secret_pattern(key)).replace("[key]", "")
        assert len(left) <= 6 + len(before) * 2


def test_ordinary_text_is_left_alone():
    text = "The key sk-test is 100 % in \\u0041 and c2stdGVzdA== &#115; " * 50
    assert redact(text, secret_pattern(KEY)) == text
    assert secret_pattern("none") is None


def test_the_log_of_what_carries_a_request_says_no_header(caplog):
    caplog.set_level(logging.DEBUG)
    ask(Reaction(400, b"{}", {"X-Request-Id": KEY}))
    assert KEY not in caplog.text
    assert all(logging.getLogger(name).getEffectiveLevel() >= logging.WARNING for name in CARRIERS)


def command(*words: object, cwd: Path):
    done = cli(*words, cwd=cwd, OPENAI_API_KEY=KEY)
    assert KEY not in done.stdout + done.stderr
    return done


def no_key_below(folder: Path) -> None:
    for path in folder.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


@pytest.fixture(scope="module")
def survived(data_root, tmp_path_factory) -> Path:
    """A run in which every request met another hostile reply, asked twice."""
    folder = tmp_path_factory.mktemp("hostile")
    # In turns, since eight in a row that concern every request would end the run.
    met = [one for pair in zip(FAILED.values(), itertools.cycle(ANSWERED.values()), strict=False) for one in pair]
    with ApiServer(met) as server:
        asked = ("eval", "--backend", "openai:m", "--base-url", server.url, "--data-root", data_root)
        for _ in range(2):
            done = command(*asked, "--concurrency", 1, "--api-tries", 1, "--workers", 1, "--quiet", cwd=folder)
            assert done.returncode == 5, done.stderr
    assert len(server.seen) > 40
    no_key_below(folder)
    (path,) = (folder / "runs").iterdir()
    return path


def test_a_run_full_of_them_can_be_read_shown_ranked_and_judged(survived, tmp_path):
    run = load_run(survived)
    assert run.records
    texts = [record.generation.text for record in run.records.values() if record.generation]
    assert any("[key]" in text for text in texts)
    board = ("leaderboard", "build", survived, "-o", tmp_path / "page.html", "--no-published")
    for words in (("show", survived), board):
        done = command(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(done.stdout + done.stderr)
    no_key_below(tmp_path)


def test_a_judge_that_sends_them_costs_verdicts_and_no_run(survived, tmp_path):
    """A refused request concerns all, so that three in a row end it; with answers between them it goes on."""
    run = shutil.copytree(survived, tmp_path / "run")
    reason = {"supports": "B", "consistent": True, "reason": f"\ud83d {KEY} \x1b[2J" + "x" * 100_000}
    good = ok(json.dumps(reason))
    hostile = list(FAILED.values())

    def script(number, _):
        # The first request only asks whether there is a judge.
        return ok("ok") if number == 0 else good if number % 2 else hostile[number // 2 % len(hostile)]

    with ApiServer(script) as server:
        options = ("--judge-base-url", server.url, "--tries", 1, "--concurrency", 1)
        done = command("judge", run, "--judge", "openai:m", *options, cwd=tmp_path)
    assert done.returncode == 5, done.stderr
    assert "11 verdicts failed and are missing from the rates" in done.stderr
    no_key_below(tmp_path)
    ((_, verdicts),) = load_verdicts(run).items()
    assert {verdict.consistent for verdict in verdicts.values()} >= {True, None}
    assert max(len(verdict.reason) for verdict in verdicts.values()) < 5000
    assert any("[key]" in verdict.reason for verdict in verdicts.values())


def test_a_traceback_does_not_quote_the_server(survived, tmp_path, data_root):
    with ApiServer([error(401, f"Incorrect API key provided: {KEY}")]) as server:
        words = ("-vv", "eval", "--backend", "openai:m", "--base-url", server.url, "--data-root", data_root)
        done = cli_forked(*words, "--workers", 1, cwd=tmp_path, OPENAI_API_KEY=KEY)
    assert done.returncode == 3
    assert "Traceback" in done.stderr
    assert "[key]" in done.stderr
    assert KEY not in done.stderr
