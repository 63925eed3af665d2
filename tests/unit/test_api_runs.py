"""API models from the command line: settings, the key, whole runs against a real server on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from seedbench_r1.backends.openai import api_model
from seedbench_r1.config import api_key, resolve_eval_config
from seedbench_r1.errors import ConfigError
from tests.api_server import ANSWER, ApiServer, error, ok
from tests.command import cli
from tests.forked import COMMANDS
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("shared_decoders")

KEY = "sk-test-0123456789abcdef"


def resolved(tmp_path, **options):
    return resolve_eval_config({"data_root": tmp_path, **options}, environ={}, working_dir=tmp_path)


def test_the_backend_names_the_model(tmp_path):
    config = resolved(tmp_path, backend="openai:org/name:tag")
    assert (config.backend, config.model) == ("openai", "org/name:tag")
    assert (config.concurrency, config.api_video, config.api_timeout_s) == (16, "images", 120.0)
    (tmp_path / "seedbench-r1.toml").write_text('model = "ckpt"\nconcurrency = 4\n')
    config = resolved(tmp_path, backend="openai:m")
    assert (config.model, config.concurrency) == ("m", 4)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"backend": "openai"}, "names no model"),
        ({"backend": "openai:"}, "names no model"),
        ({"backend": "openai:m", "model": "other"}, "leave --model out"),
        ({"model": "m", "base_url": "http://h/v1"}, "add --backend openai:MODEL"),
        ({"backend": "openai:m", "base_url": "localhost:8000/v1"}, "http://localhost:8000/v1"),
        ({"backend": "openai:m", "base_url": "http://user:secret@h/v1"}, "use OPENAI_API_KEY"),
        ({"backend": "openai:m", "base_url": "http://h/v1?key=secret"}, "use OPENAI_API_KEY"),
        ({"backend": "openai:m", "max_cost": 1.0}, "--price-in"),
        ({"backend": "openai:m", "concurrency": 0}, "--concurrency"),
        ({"backend": "openai:m", "api_video": "gif"}, "--api-video"),
        ({"backend": "openai:m", "price_in": -1.0}, "--price-in"),
    ],
)
def test_what_does_not_go_together(tmp_path, options, told):
    with pytest.raises(ConfigError, match=told.replace("(", r"\(")) as caught:
        resolved(tmp_path, **options)
    assert "secret" not in str(caught.value)


def test_the_key():
    assert api_key(None, {"OPENAI_API_KEY": f" {KEY}\n"}) == KEY
    with pytest.raises(ConfigError, match="export OPENAI_API_KEY=YOUR_KEY"):
        api_key(None, {})
    with pytest.raises(ConfigError, match="export OPENAI_API_KEY=none"):
        api_key("http://localhost:8000/v1", {"OPENAI_API_KEY": " "})
    with pytest.raises(ConfigError, match="holds a space") as caught:
        api_key(None, {"OPENAI_API_KEY": f"{KEY} {KEY}"})
    assert KEY not in str(caught.value)


def test_model_and_host_are_the_identity(tmp_path):
    def info(model, url):
        return api_model(resolved(tmp_path, backend=f"openai:{model}", base_url=url))

    first = info("m", "http://a:8000/v1")
    assert (first.path, first.name) == ("openai:m", "m")
    assert info("m", "http://a:9000/v1").fingerprint == first.fingerprint
    assert len({first.fingerprint, info("n", "http://a/v1").fingerprint, info("m", "http://b/v1").fingerprint}) == 3


# The command line


@pytest.fixture
def command(data_root, tmp_path):
    """Run `eval` against a server; whatever happens, the key is nowhere afterwards."""

    def run(url: str, *options: object, key: str = KEY) -> subprocess.CompletedProcess[str]:
        base = ["eval", "--backend", "openai:tiny", "--base-url", url, "--data-root", data_root]
        done = cli(*base, *options, cwd=tmp_path, OPENAI_API_KEY=key)
        assert KEY not in done.stdout + done.stderr
        for path in tmp_path.rglob("*"):
            assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
        assert "Traceback" not in done.stderr
        return done

    return run


def lines(folder: Path) -> list[dict]:
    (path,) = folder.glob("runs/*/records.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_survives_its_server(command, tmp_path):
    def script(number, body):
        if number == 10:
            server.die_soon()
            return ok(wait_s=60)
        return ok(ANSWER.format("B"), prompt_tokens=1000, tokens=20)

    with ApiServer(script) as server:
        options = ("--concurrency", 2, "--api-tries", 1, "--price-in", 2.0, "--price-out", 10.0, "--workers", 1)
        url, port = server.url, server.port
        died = command(url, *options)
    assert died.returncode == 3, died.stderr
    assert "Answers so far are saved" in died.stderr
    answered = sum("score" in line for line in lines(tmp_path))
    assert 9 <= answered <= 11  # the second connection may have been cut too, or been served once more
    with ApiServer([ok(ANSWER.format("B"), prompt_tokens=1000, tokens=20)], port=port) as server:
        done = command(url, *options, "--json")
        value = json.loads(done.stdout)
        assert (done.returncode, value["status"]) == (0, "complete"), done.stderr
        assert len(server.seen) == 28 - answered
        assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    (run,) = (tmp_path / "runs").iterdir()
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["model"]["path"] == "openai:tiny"
    assert (manifest["backend"], manifest["transport"]["frames_as"]) == ("openai", "images")
    assert run.name == f"tiny--{manifest['protocol_id']}"
    record = lines(tmp_path)[0]["generation"]
    assert (record["n_prompt_tokens"], record["n_tokens"], record["finish_reason"]) == (1000, 20, "stop")


def test_a_run_stops_before_it_costs_too_much(command, tmp_path):
    with ApiServer([ok(prompt_tokens=1000, tokens=20, wait_s=0.3)]) as server:
        # 1000 x 2 + 20 x 10 = 2200 millionths each; at most 2240 with 24 new tokens: eleven fit into 0.025
        money = ("--price-in", 2, "--price-out", 10, "--max-cost", 0.025, "--max-new-tokens", 24, "--concurrency", 2)
        done = command(server.url, *money)
        assert done.returncode == 5
        assert len(server.seen) == len(lines(tmp_path)) == 11
        assert "--max-cost 0.025 does not pay for them" in done.stderr
        assert "17 questions were not asked" in done.stderr
        assert " cost=0.0" in done.stderr
        assert len(server.seen) == 11


@pytest.mark.parametrize(("signals", "written"), [(1, 3), (2, 0)])
def test_the_first_signal_drains_and_the_second_ends(data_root, tmp_path, signals, written):
    released = threading.Event()

    def script(number, body):
        released.wait(200)
        return ok()

    with ApiServer(script) as server:
        command = ["eval", "--backend", "openai:tiny", "--base-url", server.url, "--data-root", data_root]
        command += ["--concurrency", "3", "--run-name", "run", "--workers", "1"]
        environment = os.environ | {"OPENAI_API_KEY": KEY}
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        process = COMMANDS.popen(command, cwd=tmp_path, env=environment, **pipes)
        with process.stderr:
            wait_until(lambda: len(server.seen) == 3)
            process.send_signal(signal.SIGINT)
            # the second follows once the first has been answered: two that arrive together count as one
            assert any("Once more stops at once" in line for line in process.stderr)
            if signals == 2:
                process.send_signal(signal.SIGINT)
            else:
                time.sleep(0.5)
                assert process.poll() is None
                released.set()
            assert process.wait(timeout=120) == 130
        released.set()
    assert (tmp_path / "runs" / "run" / "records.jsonl").read_text().count("\n") == written
    assert len(server.seen) == 3


def test_a_refused_or_absent_key(command, tmp_path):
    with ApiServer([error(401, f"Incorrect API key provided: {KEY}")]) as server:
        refused = command(server.url)
        assert refused.returncode == 3
        assert "Incorrect API key provided: [key]" in refused.stderr
        absent = command(server.url, key="")
        assert absent.returncode == 3
        assert "export OPENAI_API_KEY=none" in absent.stderr
        assert absent.stdout == ""
        chatty = command(server.url, "--limit", 1, "--print-config")
        assert chatty.returncode == 0
