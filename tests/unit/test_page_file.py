"""The page as a file: what is packed into it, how much of it fits, and that it can do no harm. The browser tests are
in tests/browser."""

import base64
import hashlib
import html
import json
import re
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from leaderboards.board import build_board
from leaderboards.draw.numbers import percent, points
from leaderboards.draw.page import script, write_html
from leaderboards.draw.page_payload import allocate, bank_layer, by_interest, outcome_bytes
from leaderboards.outcomes import OUTCOME_NAMES
from seedbench_r1.types import LETTERS
from tests.synthetic_runs import RunSpec, make_benchmark, write_runs

BUILT = "2026-01-02T03:04:05Z"
GOLDEN = Path(__file__).parents[1] / "golden" / "leaderboard_page.txt"
SPECS = [
    RunSpec("best", ability=1.4, step=300, seed=1, consistent=0.9, reasoning_chars=600),
    RunSpec("middle", ability=0.4, step=200, seed=2, unparsed=0.1, truncated=0.05, reasoning_chars=600),
    RunSpec("weak", ability=-0.8, step=100, seed=3, judges=(), reasoning_chars=600),
    RunSpec("holes", ability=0.4, seed=4, failed=0.05, answered=0.9),
    RunSpec("few", ability=0.4, seed=5, limit=10),
]


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return write_runs(tmp_path_factory.mktemp("runs"), SPECS, make_benchmark())


@pytest.fixture(scope="module")
def board(paths):
    return build_board(paths, baseline="middle")


@pytest.fixture(scope="module")
def page(board, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "new" / "leaderboard.html"
    write_html(board, path, built_utc=BUILT)
    return path.read_text(encoding="utf-8")


def unpack(text):
    return zlib.decompress(base64.b64decode(text))


def layer(page, name):
    return unpack(re.search(rf'<script type="text/plain" id="{name}">([^<]*)</script>', page)[1])


class Rows(HTMLParser):
    """The text of every cell of the table #board, row by row."""

    def __init__(self):
        super().__init__()
        self.rows, self.inside = [], False

    def handle_starttag(self, tag, attributes):
        if tag == "table":
            self.inside = ("id", "board") in attributes
        if self.inside and tag == "tr":
            self.rows.append([])
        if self.inside and tag in ("td", "th"):
            self.rows[-1].append([])

    def handle_data(self, data):
        if self.inside and self.rows and self.rows[-1] and data.strip():
            self.rows[-1][-1].append(data.strip())

    def handle_endtag(self, tag):
        if tag == "table":
            self.inside = False


def table_text(page):
    """One line a row, cells between tabs, up to the papers' rows."""
    parser = Rows()
    parser.feed(page)
    lines = ["\t".join(" ".join(cell) for cell in row) for row in parser.rows]
    end = next(i for i, line in enumerate(lines) if line.startswith("† Reported"))
    return "\n".join(lines[:end]) + "\n"


def test_the_table_is_the_golden_one(page):
    """Look at the difference, then: python -m tests.unit.test_page_file"""
    assert table_text(page) == GOLDEN.read_text(encoding="utf-8")


def test_every_cell_is_the_boards(page, board):
    lines = [line.split("\t") for line in table_text(page).splitlines()]
    heads = lines[0]
    for row, line in zip(board.rows, lines[1:], strict=True):
        cells = dict(zip(heads, line, strict=True))
        assert cells["Model"].startswith(row.model)
        for name in ("L1", "L2", "L3", "Work"):
            if name in row.accuracy:
                cell = row.accuracy[name]
                assert cells[name] == f"{percent(cell.value)} [{percent(cell.lo)}, {percent(cell.hi)}]"
            else:
                assert cells[name] == f"{percent(row.bounds[name].lo)}–{percent(row.bounds[name].hi)}"
        assert cells["Rank"] == (f"{row.rank.replace('-', '–')} {row.tier}" if row.ranked else "–")
        if row.judge_id is None:
            assert cells["Cons. L3"] == cells["Sound L3"] == "–"
        if "L3" in row.deltas:
            assert cells["Δ L3"].startswith(points(row.deltas["L3"].value))
    assert [line[0] for line in lines[1:]].count("–") == 2  # holes and few


def test_outcomes_survive_packing(page, board):
    packed = np.frombuffer(layer(page, "layer-outcomes"), dtype=np.uint8).reshape(len(board.rows), -1)
    for line, measured in zip(packed, board.measured.values(), strict=True):
        table = measured.outcomes
        for byte, place in zip(line.tolist(), range(len(line)), strict=True):
            name = (*OUTCOME_NAMES, "bare")[byte & 7]
            expected = OUTCOME_NAMES[table.outcome[place]]
            assert name == ("bare" if expected == "answered" and table.bare[place] else expected)
            if expected == "answered":
                assert byte >> 3 & 3 == table.picked[place]
            assert byte >> 5 & 1 == table.correct[place]
            assert (byte >> 6) - 1 == table.consistent[place]
    assert len(set(packed.ravel().tolist())) > 15
    first = next(iter(board.measured.values())).outcomes
    assert outcome_bytes(replace(first, strict=~first.correct)) == packed[0].tobytes()


def test_questions_survive_packing(page, board):
    bank = json.loads(layer(page, "layer-bank"))
    assert bank == json.loads(json.dumps(bank_layer(board.bank)))
    for place, question in enumerate(board.bank.questions):
        goal = bank["goals"][bank["goal"][place]]
        assert bank["ids"][place] == question.question_id
        assert bank["wordings"][bank["wording"][place]].replace("\u0001", goal) == question.text
        assert tuple(bank["options"][place]) == question.options
        assert bank["gold"][place] == question.gold
        assert bank["videos"][bank["video"][place]] == question.cluster
    assert "\u0001" in bank["wordings"][0]


def test_texts_survive_packing(page, board):
    for place, (run_id, measured) in enumerate(board.measured.items()):
        details = json.loads(layer(page, f"detail-{place}"))
        records = measured.run.records
        assert len(details["p"]) == len(records), run_id
        for i, at in enumerate(details["p"]):
            record = records[board.bank.questions[at].question_id]
            if record.failure is not None:
                assert details["x"][i] == f"{record.failure.kind}: {record.failure.message}"
                continue
            assert details["r"][i] == record.parsed.reasoning
            assert details["x"][i] == (None if record.parsed.format_ok else record.generation.text)
            assert details["t"][i] == record.generation.n_tokens


def test_the_most_telling_responses_come_first(board):
    runs = list(board.measured.values())
    order = by_interest(runs, board.bank)
    answered = np.array([run.outcomes.responded for run in runs])
    right = np.array([run.outcomes.correct for run in runs]) & answered
    apart = np.flatnonzero(right.any(axis=0) & (answered & ~right).any(axis=0))
    lucky = (right & np.array([run.outcomes.consistent == 0 for run in runs])).any(axis=0)
    others = np.setdiff1d(np.flatnonzero(lucky), apart)
    assert set(order[: len(apart)]) == set(apart)
    assert set(order[len(apart) : len(apart) + len(others)]) == set(others)
    assert sorted(order) == list(range(len(board.bank.questions)))
    alone = by_interest([board.measured["few"]], board.bank)
    assert alone != order
    assert len(alone) == 30


def test_the_size_is_kept(board, tmp_path):
    whole = write_html(board, tmp_path / "whole.html", built_utc=BUILT)
    bare = write_html(board, tmp_path / "none.html", detail="none", built_utc=BUILT)
    assert whole.allocation == "reasoning: all of it"
    assert bare.allocation == "reasoning: none"
    text = whole.n_bytes - bare.n_bytes
    before = -1
    for share in (0.15, 0.4, 0.8):
        limit = bare.n_bytes + int(share * text)
        report = write_html(board, tmp_path / "some.html", max_bytes=limit, built_utc=BUILT)
        assert report.n_bytes == (tmp_path / "some.html").stat().st_size <= limit
        assert report.n_bytes > bare.n_bytes + 0.8 * share * text - 1500
        included = sum(item.n_included for item in report.shares)
        assert before < included < sum(item.n_total for item in report.shares)
        before = included
    tight = write_html(board, tmp_path / "tight.html", max_bytes=1000, built_utc=BUILT)
    assert tight.allocation == bare.allocation
    full = write_html(board, tmp_path / "full.html", detail="full", max_bytes=1000, built_utc=BUILT)
    assert full.n_bytes == whole.n_bytes


def test_any_two_runs_have_text_of_the_same_questions(board):
    """Of the questions on which any two differ, as many as fit carry the text of all runs that were asked them."""
    whole = allocate(board, "full", 0)
    room = sum(share.n_bytes for share in whole.shares) // 2
    details = allocate(board, "auto", room)
    assert [share.run_id for share in details.shares] == [row.run_id for row in board.rows]
    assert 0.8 * room < sum(share.n_bytes + 200 for share in details.shares) <= room
    carried = {
        run_id: set(json.loads(zlib.decompress(base64.b64decode(text)))["p"]) for run_id, text in details.layers.items()
    }
    every = set.union(*carried.values())
    for run_id, places in carried.items():
        present = set(np.flatnonzero(board.measured[run_id].outcomes.outcome >= 2).tolist())
        assert places == every & present
    first = by_interest(list(board.measured.values()), board.bank)[: len(every)]
    assert set(first) == every


def test_the_same_board_gives_the_same_bytes(board, page, tmp_path):
    write_html(board, tmp_path / "again.html", built_utc=BUILT)
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page
    assert [path.name for path in tmp_path.iterdir()] == ["again.html"]


def test_the_policy_allows_this_script_only(page):
    code = page.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    policy = html.unescape(re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1])
    assert policy.split("; ") == [
        "default-src 'none'",
        f"script-src 'sha256-{digest}'",
        "style-src 'unsafe-inline'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    assert code == script()
    assert not re.search(r"https?://", re.sub(r'<a href="https?://', "", page))
    assert not re.search(r"\son\w+=|javascript:", page.partition("<script")[0])


def test_what_models_and_files_say_is_escaped(paths, tmp_path):
    evil = "</script><script>alert(1)</script>\ud800"
    for name, path in (("manifest.json", paths[4]), ("records.jsonl", paths[4])):
        text = (path / name).read_text(encoding="utf-8")
        changed = text.replace('"few"', json.dumps(evil)) if name == "manifest.json" else text
        target = tmp_path / "few" / name
        target.parent.mkdir(exist_ok=True)
        target.write_text(changed, encoding="utf-8")
    (tmp_path / "few" / "questions.jsonl").write_bytes((paths[4] / "questions.jsonl").read_bytes())
    write_html(build_board([tmp_path / "few", paths[0]]), tmp_path / "page.html", built_utc=BUILT)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert "/home/" not in page
    data = json.loads(re.search(r'<script type="application/json" id="data">([^<]*)</script>', page)[1])
    assert {run["name"] for run in data["runs"]} == {"best", evil.replace("\ud800", "?")}


def test_the_shell_is_small():
    """Everything but numbers and text: at most 100 KB."""
    folder = Path(__file__).parents[2] / "leaderboards" / "draw"
    templates = sum(path.stat().st_size for path in (folder / "templates").iterdir())
    style = (folder / "static" / "report.css").stat().st_size
    assert len(script().encode()) + style + templates < 110_000


def test_points_and_percents():
    assert [points(x) for x in (0.041, -0.1, 0.0004, -0.0004)] == ["+4.1", "\u221210.0", "0.0", "0.0"]
    assert percent(1 / 3) == "33.3"
    assert LETTERS == ("A", "B", "C", "D")  # the order of the two bits in an outcome byte


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        runs = write_runs(Path(folder), SPECS, make_benchmark())
        write_html(build_board(runs, baseline="middle"), Path(folder) / "page.html", built_utc=BUILT)
        GOLDEN.write_text(table_text((Path(folder) / "page.html").read_text(encoding="utf-8")), encoding="utf-8")
