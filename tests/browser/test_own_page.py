"""The page of runs on a user's own questions: seven options, numbers and texts with credits in between."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from leaderboards.board import build_board
from leaderboards.draw.page import write_html
from seedbench_r1.judges.run import RulesJudge, judge_run
from seedbench_r1.runs.directory import load_run
from tests.browser.conftest import BUILT, wait_for
from tests.browser.test_page import differences, text_of
from tests.command import cli
from tests.own_files import make_media, row, write


@pytest.fixture(scope="module")
def own_runs(tmp_path_factory) -> list[Path]:
    """Two runs of eight choices of seven and eight regressions, about four clips."""
    folder = make_media(tmp_path_factory.mktemp("own"))
    choices = [row(n, kind="choice", options=[f"thing {x}" for x in "ABCDEFG"], answer="G") for n in range(8)]
    numbers = [row(n, kind="regression", options=None, answer=100) for n in range(8, 16)]
    questions = write(folder / "mine.jsonl", [*choices, *numbers])
    paths = []
    for name, letters, values in (
        ("good", "GGGGGGAE", "100 90 75 60 99 100 80 70"),
        ("poor", "GEEGFAAB", "50 80 75 55 70 60 80 90"),
    ):
        said = [*letters, *values.split()]
        answers = {f"own/q{n}": f"<think>So the answer is {x}.</think><answer>{x}</answer>" for n, x in enumerate(said)}
        model = folder / f"{name}.json"
        model.write_text(json.dumps({"answers": answers}))
        command = ["eval", "--suite", "own", "--questions", questions, "--backend", "fake", "--model", model, "--json"]
        done = cli(*command, cwd=folder)
        assert done.returncode == 0, done.stderr
        paths.append(Path(json.loads(done.stdout)["run_dir"]))
        paths[-1] = folder / paths[-1]
        judge_run(load_run(paths[-1]), RulesJudge())
    return paths


def test_a_baseline_chosen_in_the_page_gives_what_python_gives(own_runs, browser, tmp_path):
    write_html(build_board(own_runs), tmp_path / "plain.html", built_utc=BUILT)
    board = build_board(own_runs, baseline=str(own_runs[1]))
    write_html(board, tmp_path / "based.html", built_utc=BUILT)
    found = differences(browser, tmp_path / "plain.html", board.baseline)
    assert found == differences(browser, tmp_path / "based.html")
    delta = board.rows[0].deltas["own"].value
    assert 0 < delta * 16 % 1 < 1, "no whole number of answers: credits count"
    assert any(text.startswith(f"+{100 * delta:.1f}") for text, _ in found)


def test_letters_behind_d_and_answers_without_options(own_runs, browser, tmp_path):
    write_html(build_board(own_runs), tmp_path / "plain.html", built_utc=BUILT)
    browser.get("about:blank")
    browser.get((tmp_path / "plain.html").as_uri() + "#q=own/q7")
    wait_for(browser, "return document.querySelector('#card h3')?.textContent === 'own/q7'")
    card = text_of(browser, "#card")
    assert "thing G" in card
    assert "picked E" in card
    assert "picked B" in card
    gold = "return [...document.querySelectorAll('#card li.gold')].map(li => li.textContent)"
    assert [text[0] for text in browser.execute_script(gold)] == ["G"]
    browser.get("about:blank")
    browser.get((tmp_path / "plain.html").as_uri() + "#q=own/q10")
    wait_for(browser, "return document.querySelector('#card h3')?.textContent === 'own/q10'")
    assert "Right answer: 100" in text_of(browser, "#card")
    assert browser.get_log("browser") == []
