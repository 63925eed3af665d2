"""Pictures in the page: a toy's by default, the benchmark's on request; within the size; nothing damaged."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from leaderboards.board import build_board
from leaderboards.draw.page import write_html
from leaderboards.draw.page_pictures import FRAME_WIDTH, LICENCES, take_pictures
from seedbench_r1.runs.directory import load_run
from tests import own_files
from tests.command import cli
from tests.small_benchmark import write_script

pytestmark = pytest.mark.usefixtures("shared_decoders")


@pytest.fixture(scope="module")
def toy(data_root, tmp_path_factory) -> tuple[Path, Path]:
    """A data root of its own, and a run on it."""
    folder = tmp_path_factory.mktemp("pictures")
    root = folder / "data"
    shutil.copytree(data_root, root)
    return root, run_on(root, folder)


def run_on(root: Path, folder: Path) -> Path:
    model = write_script(folder / "s.json")
    done = cli("eval", "--backend", "fake", "--model", model, "--data-root", root, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / json.loads(done.stdout)["run_dir"]


def pictures_in(page: Path) -> dict[str, list]:
    found = re.search(r'<script type="application/json" id="pictures">(.*?)</script>', page.read_text(), re.DOTALL)
    return json.loads(found[1]) if found else {}


def opened(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_a_toys_page_shows_what_the_model_saw(toy, tmp_path):
    _, run = toy
    board = build_board([run])
    report = write_html(board, tmp_path / "page.html", built_utc="2026-01-01T00:00:00Z")
    found = pictures_in(tmp_path / "page.html")
    assert len(found) == len(board.bank.questions) == 28
    assert (report.pictures.said, report.pictures.note) == ("pictures: 28 of 28 questions", "")
    for place, (strip, view, n_frames) in found.items():
        question = board.bank.questions[int(place)]
        assert bool(strip) == (question.video is not None)
        assert opened(view).format == "WEBP"
        if strip:
            sheet = opened(strip)
            rows = -(-n_frames // 8)
            assert sheet.width == FRAME_WIDTH * -(-n_frames // rows)
            assert sheet.height % rows == 0
    again = tmp_path / "again.html"
    write_html(board, again, built_utc="2026-01-01T00:00:00Z")
    assert again.read_bytes() == (tmp_path / "page.html").read_bytes()


def test_of_the_benchmark_only_on_request_and_with_the_licences_said(toy, tmp_path):
    root, _ = toy
    for file in (root / "annotations").glob("*.jsonl"):
        file.write_text(file.read_text().replace('"data_source": "miniature"', '"data_source": "elsewhere"'))
    run = run_on(root, tmp_path)
    built = cli("leaderboard", "build", run, "-o", "none.html", cwd=tmp_path)
    assert pictures_in(tmp_path / "none.html") == {}
    assert "pictures" not in built.stdout
    built = cli("leaderboard", "build", run, "-o", "some.html", "--pictures", 5, cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    assert len(pictures_in(tmp_path / "some.html")) == 5
    assert "pictures: 5 of 5 questions" in built.stdout
    assert "CC BY-NC 4.0" in built.stdout
    assert LICENCES.replace("'", "&#39;") in (tmp_path / "some.html").read_text()


def test_damaged_and_absent_media_are_left_out_and_the_size_is_kept(toy, tmp_path):
    _, run = toy
    board = build_board([run])
    order = list(range(len(board.bank.questions)))
    every = take_pictures(board, order, 6, 10**9)
    few = take_pictures(board, order, 6, sum(map(len, every.of[0])) + 1)
    assert (len(every.of), list(few.of), few.wanted) == (6, [0], 6)
    questions = list(load_run(run).questions.values())
    clips = [q.video for q in questions[:6] if q.video is not None]
    kept = {clip: clip.read_bytes() for clip in clips[:2]}
    clips[0].write_bytes(b"no clip")
    clips[1].unlink()
    try:
        left = take_pictures(board, order, 6, 10**9)
    finally:
        for clip, content in kept.items():
            clip.write_bytes(content)
    assert len(left.of) == 4
    assert left.said == "pictures: 4 of 6 questions"


def test_own_questions_are_shown_where_they_are_said_to_be_free(tmp_path):
    own_files.make_media(tmp_path)
    file = own_files.write(tmp_path / "rain.csv", [own_files.row(number) for number in range(1, 5)])
    model = write_script(tmp_path / "s.json")
    words = ("eval", "--backend", "fake", "--model", model, "--suite", "own", "--questions", file, "--json")
    folder = tmp_path / json.loads(cli(*words, cwd=tmp_path).stdout)["run_dir"]
    cli("leaderboard", "build", folder, "-o", "page.html", cwd=tmp_path)
    assert pictures_in(tmp_path / "page.html") == {}
    # The same command again, with the word: nothing is asked twice.
    done = cli(*words, "--free-media", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    built = cli("leaderboard", "build", folder, "-o", "page.html", cwd=tmp_path)
    assert len(pictures_in(tmp_path / "page.html")) == 4
    assert "pictures: 4 of 4 questions" in built.stdout
    refused = cli("eval", "--backend", "fake", "--model", model, "--free-media", "--dry-run", cwd=tmp_path)
    assert refused.returncode == 3
    assert "--free-media" in refused.stderr
