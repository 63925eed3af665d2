"""The page of runs of several samples of each question: means, and baselines chosen in the browser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from leaderboards.board import build_board
from leaderboards.draw.numbers import points
from leaderboards.draw.page import write_html
from seedbench_r1.judges.run import RulesJudge, judge_run
from seedbench_r1.runs.directory import load_run
from seedbench_r1.runs.samples import runs_of
from tests.browser.conftest import BUILT, wait_for
from tests.browser.test_page import differences
from tests.command import cli


@pytest.fixture(scope="module")
def runs(data_root, tmp_path_factory) -> list[Path]:
    """Three samples of one model, whose reasoning now and then says otherwise or nothing; one answer of another."""
    folder = tmp_path_factory.mktemp("sampled-page")
    spoken = "<think>So the answer is {}.</think><answer>{}</answer>"
    said = {
        f"L1/{i}": [spoken.format(*pair) for pair in (("A", "A"), ("CB"[i % 2], "B"), ("perhaps clear", "D"))]
        for i in range(40)
    }
    models = {
        "several": {"default": spoken.format("A", "A"), "answers": said},
        "one": {"default": spoken.format(*"BB")},
    }
    found = []
    for name, content in models.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
        more = ("--samples", 3) if name == "several" else ()
        options = ("--backend", "fake", "--model", folder / f"{name}.json", "--data-root", data_root)
        done = cli("eval", *options, "--temperature", 1, "--top-p", 1, *more, "--json", cwd=folder)
        assert done.returncode == 0, done.stderr
        found.append(folder / json.loads(done.stdout)["run_dir"])
    for run in runs_of(found):
        judge_run(load_run(run), RulesJudge())
    return found


def test_a_baseline_chosen_in_the_page_gives_what_python_gives(runs, browser, tmp_path):
    for number, base in enumerate(runs):
        write_html(build_board(runs, metric="l1.accuracy"), tmp_path / "plain.html", built_utc=BUILT)
        board = build_board(runs, baseline=str(base), metric="l1.accuracy")
        write_html(board, tmp_path / "based.html", built_utc=BUILT)
        found = differences(browser, tmp_path / "plain.html", board.baseline)
        assert found == differences(browser, tmp_path / "based.html")
        other = board.row(runs[1 - number].name)
        # A judge that could not decide in some samples leaves the rate of those questions open.
        assert other.judged_deltas["consistency"]["L1"].missing > 0
        assert any(text.startswith(points(other.deltas["L1"].value)) for text, _ in found)
        assert browser.get_log("browser") == []


def test_the_card_shows_what_the_models_saw(runs, browser, tmp_path):
    board = build_board(runs)
    write_html(board, tmp_path / "page.html", built_utc=BUILT)
    question = next(question for question in board.bank.questions if question.video is not None)
    browser.get("about:blank")
    browser.get((tmp_path / "page.html").as_uri() + f"#q={question.question_id}")
    wait_for(browser, f"return document.querySelector('#card h3')?.textContent === '{question.question_id}'")
    wait_for(browser, "return [...document.querySelectorAll('#card .media img')].every(img => img.naturalWidth > 0)")
    alt = browser.execute_script("return [...document.querySelectorAll('#card .media img')].map(img => img.alt)")
    assert alt[0].endswith("frames of the clip, in order")
    assert alt[1] == "The current view"
    assert browser.get_log("browser") == []
