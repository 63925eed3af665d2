"""The window on runs: a real process, reached as a browser and as a stranger would."""

from __future__ import annotations

import html
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from seedbench_r1.config import child_environment
from seedbench_r1.runs.directory import load_run, read_manifest
from seedbench_r1.runs.probes import ProbeResult, probe_line
from seedbench_r1.runs.records import run_identity
from seedbench_r1.window.runs import Runs, outcome
from tests.command import cli
from tests.small_benchmark import write_script

pytestmark = pytest.mark.usefixtures("shared_decoders")


@dataclass
class Opened:
    address: str
    process: subprocess.Popen
    run: Path


def evaluated(root: Path, folder: Path, *more: object) -> Path:
    model = write_script(folder / "s.json")
    done = cli("eval", "--backend", "fake", "--model", model, "--data-root", root, "--json", *more, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / json.loads(done.stdout)["run_dir"]


def start(run: Path, *more: object) -> tuple[str, subprocess.Popen]:
    words = [sys.executable, "-m", "seedbench_r1", "view", str(run), "--no-open", *map(str, more)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(words, env=child_environment({"OMP_NUM_THREADS": "1"}), **pipes)
    return process.stdout.readline().strip(), process


@pytest.fixture(scope="module")
def opened(data_root, tmp_path_factory) -> Iterator[Opened]:
    folder = tmp_path_factory.mktemp("view")
    shutil.copytree(data_root, folder / "data")
    run = evaluated(Path("data"), folder)  # as it is called there; the window is opened from elsewhere
    address, process = start(run)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{20,}/", address), process.stderr.read()
    yield Opened(address, process, run)
    process.kill()
    process.wait()


def get(address: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    request = urllib.request.Request(address, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, reply.read(), dict(reply.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read(), dict(error.headers)


def data_of(page: bytes) -> dict:
    """What the page's script is given."""
    return json.loads(re.search(r'id="data">(.*?)</script>', html.unescape(page.decode()))[1])


def test_the_page_asks_for_texts_and_which_media_are_there(opened):
    status, text, headers = get(opened.address)
    assert status == 200
    assert headers["referrer-policy"] == "no-referrer"
    page = html.unescape(text.decode())
    assert "img-src data: 'self'; media-src 'self'; connect-src 'self'" in page
    data = data_of(text)
    questions = load_run(opened.run).questions
    assert len(questions) == 28
    assert 'id="detail-' not in page  # the page carries none itself
    run = load_run(opened.run)
    for place, (question_id, question) in enumerate(questions.items()):
        status, text, _ = get(f"{opened.address}{data['served']}/texts/0/{place}")
        columns, record = json.loads(text), run.records[question_id]
        assert (status, columns["p"], len(question.options)) == (200, [place], 4)
        _, there, _ = get(f"{opened.address}{data['served']}/media/{place}")
        assert json.loads(there) == {"media": 2 if question.video is None else 3}  # every question has a view
        whole = None if record.parsed.format_ok else record.generation.text
        assert (columns["r"], columns["x"]) == ([record.parsed.reasoning], [whole])


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (ProbeResult("forced/v1", "A", "A", 0.9, 0.9), "A, as before (0.90)"),
        (ProbeResult("forced/v1", "A", "B", 0.2, 0.71), "B instead of A (0.71, A 0.20)"),
        (ProbeResult("swapped/v1", "A", "B", target="C"), "B instead of A; the changed reasoning concludes C"),
        (ProbeResult("text-match/v1", "A", None, note="no option"), "no option"),
    ],
)
def test_what_a_probe_made_of_an_answer(result, said):
    assert outcome(result) == said


def test_a_questions_probes_are_next_to_its_text(opened, tmp_path):
    run = tmp_path / "probed"
    shutil.copytree(opened.run, run)
    name = next(iter(load_run(run).questions))
    result = ProbeResult("forced/v1", "A", "B", 0.2, 0.71, changed="<think>none</think>")
    (run / "probes.jsonl").write_text(probe_line(name, result, run_identity(read_manifest(run))))
    runs = Runs(None, None, None)
    assert "Live trainings" not in runs.page([run], trainings=False)
    (shown,) = runs.made.values()
    assert shown.texts(0, 0)["probes"] == [["forced/v1", "B instead of A (0.71, A 0.20)", "<think>none</think>"]]
    assert shown.texts(0, 1)["probes"] == []
    assert shown.texts(0, 28) is shown.texts(None, 0) is None
    # A training has begun since: its link is there, although no run has changed.
    assert "Live trainings" in runs.page([run], trainings=True)


def test_an_older_page_gets_its_own_texts_or_none(data_root, tmp_path):
    """Places mean other questions, and rows other runs, on a page that was made later."""
    run = evaluated(data_root, tmp_path, "--run-name", "x", "--levels", "L2")
    address, process = start(run)
    try:
        older = data_of(get(address)[1])["served"]
        first = get(f"{address}{older}/texts/0/0")[:2]  # the headers hold the time
        evaluated(data_root, tmp_path, "--run-name", "x", "--levels", "L1")
        assert data_of(get(address)[1])["levels"] == ["L1", "L2"]
        assert get(f"{address}{older}/texts/0/0")[:2] == first
        for number in range(2):
            (run / f"records.{number + 1}-of-9.jsonl").write_text("")
            assert get(address)[0] == 200
        status, text, _ = get(f"{address}{older}/texts/0/0")
        assert (status, text) == (409, b"The runs have changed since this page was made. Fix: reload it.")
    finally:
        process.kill()


def test_clips_are_served_as_they_are_and_in_ranges(opened):
    _, text, _ = get(opened.address)
    data = data_of(text)
    bank = list(load_run(opened.run).questions.values())
    with_clip = next(place for place, question in enumerate(bank) if question.video is not None)
    base = f"{opened.address}{data['served']}/media/{with_clip}"
    status, content, headers = get(f"{base}/clip")
    assert status == 200
    clips = {question.video.read_bytes() for question in bank if question.video is not None}
    assert content in clips
    status, part, headers = get(f"{base}/clip", Range="bytes=10-19")
    assert headers["content-security-policy"].endswith("sandbox")
    assert (status, part, headers["content-range"]) == (206, content[10:20], f"bytes 10-19/{len(content)}")
    status, view, _ = get(f"{base}/view")
    assert (status, view[:8]) == (200, b"\x89PNG\r\n\x1a\n")
    status, frames, headers = get(f"{base}/frames")
    assert (status, headers["content-type"], frames[:4], frames[8:12]) == (200, "image/webp", b"RIFF", b"WEBP")


@pytest.mark.parametrize(
    "path",
    [
        "PAGE/media/0/manifest.json",
        "PAGE/media/0/../../../../../etc/passwd",
        "PAGE/media/0/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "PAGE/media/99999/clip",
        "PAGE/media/-1/view",
        "PAGE/texts/0/99999",
        "PAGE/texts/1/0",
        "PAGE/texts/0/../../manifest.json",
        "trainings/0/texts/0",
        "trainings/0/media/0/clip",
        "../",
        "PAGE/media/0/",
        "manifest.json",
        f"PAGE/texts/0/{'9' * 5000}",
    ],
)
def test_nothing_else_is_served(opened, path):
    status, content, _ = get(opened.address + path.replace("PAGE", data_of(get(opened.address)[1])["served"]))
    assert status == 404
    assert b"root:" not in content


def test_a_stranger_sees_nothing(opened):
    port = opened.address.split(":")[2].partition("/")[0]
    base = f"http://127.0.0.1:{port}"
    for path in ("/", "/wrong-token/", "/wrong-token/media/0/view", "/docs", "/openapi.json"):
        assert get(base + path)[0] == 404
    # A name of another site that leads here.
    assert get(opened.address, Host="attacker.example")[0] == 400
    # Only this machine is listened to.
    with socket.socket() as other:
        other.settimeout(2)
        assert other.connect_ex((socket.gethostbyname(socket.gethostname()), int(port))) != 0 or (
            socket.gethostbyname(socket.gethostname()).startswith("127.")
        )


def test_a_run_in_progress_is_read_again_and_a_missing_one_is_said(data_root, tmp_path):
    run = evaluated(data_root, tmp_path, "--run-name", "x", "--levels", "L1")
    address, process = start(run)
    try:
        before = get(address)[1].decode()
        assert '"levels":["L1"]' in before
        evaluated(data_root, tmp_path, "--run-name", "x", "--levels", "L2")
        assert '"levels":["L1","L2"]' in get(address)[1].decode()
        run.rename(tmp_path / "away")
        status, text, _ = get(address)
        assert (status, b"does not exist" in text) == (503, True)
        (tmp_path / "away").rename(run)
        assert get(address)[0] == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()


def test_what_is_no_run_is_said_before_anything_is_served(opened, tmp_path):
    (tmp_path / "empty").mkdir()
    done = cli("view", tmp_path / "empty", "--no-open", cwd=tmp_path)
    assert done.returncode == 4
    assert "no run was started there" in done.stderr
    port = opened.address.split(":")[2].partition("/")[0]
    taken = cli("view", opened.run, "--no-open", "--port", port, cwd=tmp_path)
    assert taken.returncode == 7
    assert f"Port {port} cannot be used" in taken.stderr
