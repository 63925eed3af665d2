"""The window of `view` in a browser: the clip plays, the frames and the view are there."""

from __future__ import annotations

import json

import pytest

from seedbench_r1.runs.directory import load_run, read_manifest
from seedbench_r1.runs.probes import ProbeResult, probe_line
from seedbench_r1.runs.records import run_identity
from tests.browser.conftest import HOSTILE, wait_for
from tests.command import cli
from tests.small_benchmark import write_script
from tests.unit.test_view import start

PROBED = ProbeResult("forced/v1", "A", "B", 0.2, 0.71, changed=HOSTILE)


@pytest.fixture(scope="module")
def window(data_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("window")
    model = write_script(folder / "s.json")
    done = cli("eval", "--backend", "fake", "--model", model, "--data-root", data_root, "--json", cwd=folder)
    run = folder / json.loads(done.stdout)["run_dir"]
    questions = load_run(run).questions
    lines = [probe_line(name, PROBED, run_identity(read_manifest(run))) for name in questions]
    (run / "probes.jsonl").write_text("".join(lines))
    address, process = start(run)
    yield address, run
    process.kill()
    process.wait()


def test_a_card_has_the_clip_its_frames_and_the_view(window, browser):
    address, run = window
    question = next(q for q in load_run(run).questions.values() if q.video is not None)
    browser.get("about:blank")
    browser.get_log("browser")  # of pages whose window has ended
    browser.get(f"{address}#q={question.question_id}")
    wait_for(browser, f"return document.querySelector('#card h3')?.textContent === '{question.question_id}'")
    wait_for(browser, "return document.querySelectorAll('#card .media img').length === 2")
    wait_for(browser, "return [...document.querySelectorAll('#card .media img')].every(img => img.naturalWidth > 0)")
    wait_for(browser, "return document.querySelector('#card video').readyState > 0")
    assert browser.execute_script("return document.querySelector('#card video').duration") > 0
    shown = browser.execute_script("return document.querySelector('#card .probed').textContent")
    assert shown == f"forced/v1 B instead of A (0.71, A 0.20)what was shown{HOSTILE}"
    assert browser.execute_script("return window.harmed") is None
    assert browser.get_log("browser") == []
