"""Boards of the general video benchmarks: their columns, tests between runs, the papers' Table 4 below them."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from leaderboards.board import build_board
from leaderboards.suites import SUITES
from seedbench_r1.errors import ConfigError
from seedbench_r1.suites.transfer import BENCHMARKS
from tests.command import cli
from tests.small_transfer import choice_row, row_of, write_transfer

pytestmark = pytest.mark.usefixtures("shared_decoders")

N = 12  # questions of each benchmark, each from a clip of its own
NAMES = tuple(BENCHMARKS.values())


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """Three models: one is right everywhere, one misses MVBench's questions, one was asked two benchmarks alone."""
    folder = tmp_path_factory.mktemp("transfer-board")
    rows = {name: [_row(folder, name, place) for place in range(N)] for name in BENCHMARKS}
    rows["vsibench"][0] = row_of("regression", "100", path=rows["vsibench"][0]["path"])
    write_transfer(folder, rows)
    right = {f"{name}/{place}": "B" for name in BENCHMARKS for place in range(N)} | {"vsibench/0": "75"}
    wrong = right | {f"mvbench/{place}": "A" for place in range(N)}
    found = {}
    for name, said, more in (("good", right, ()), ("poor", wrong, ()), ("some", right, ("mmvu,mvbench",))):
        texts = {
            question: f"<think>So the answer is {answer}.</think><answer>{answer}</answer>"
            for question, answer in said.items()
        }
        model = folder / f"{name}.json"
        model.write_text(json.dumps({"answers": texts}), encoding="utf-8")
        chosen = ["--benchmarks", *more] if more else []
        command = ("eval", "--suite", "transfer", "--backend", "fake", "--model", model, "--data-root", folder, *chosen)
        done = cli(*command, "--json", cwd=folder)
        assert done.returncode == 0, done.stderr
        found[name] = folder / Path(json.loads(done.stdout)["run_dir"])
    return found


def _row(folder: Path, name: str, place: int) -> dict[str, object]:
    # Of clips the paths count, which make the clusters.
    path = f"./Evaluation/clips/{name}-{place}.mp4"
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        target.symlink_to("a.mp4")
    return choice_row("B", path=path)


def test_the_columns_are_table_4s_and_every_pair_is_tested(runs):
    board = build_board([runs["poor"], runs["good"]], baseline=str(runs["poor"]))
    assert (board.suite, board.title, board.bank.levels) == (SUITES["transfer"], "General video benchmarks", NAMES)
    assert str(board.metric) == "vsi-bench.accuracy"
    good = board.row(board.rows[0].run_id)
    assert {name: cell.n for name, cell in good.accuracy.items()} == dict.fromkeys(NAMES, N)
    # Half of the thresholds for 75 of 100, the other eleven right.
    assert good.accuracy["VSI-Bench"].value == pytest.approx(11.5 / 12)
    delta = build_board(list(runs.values()), baseline=str(runs["poor"]), metric="mvbench.accuracy").rows
    by_name = {row.model: row for row in delta}
    assert by_name["fake-good"].deltas["MVBench"].value == 1.0
    assert by_name["fake-good"].stars("MVBench") == "***"  # 12 videos of 12: 2 of 4,096 patterns, two comparisons
    assert (by_name["fake-good"].tier, by_name["fake-some"].tier, by_name["fake-poor"].tier) == ("A", "A", "B")
    assert by_name["fake-some"].status == "complete"
    assert set(by_name["fake-some"].accuracy) == {"MMVU", "MVBench"}


def test_a_metric_goes_by_either_name_and_an_unknown_one_names_both(runs):
    paths = [runs["good"], runs["poor"]]
    assert build_board(paths, metric="videomme.sound").metric == build_board(paths, metric="VideoMME.sound").metric
    assert build_board(paths, metric="vsibench.accuracy").metric.level == "VSI-Bench"
    with pytest.raises(ConfigError, match=r"a split \(vsi-bench, videommmu, .*, vsibench\), a dot"):
        build_board(paths, metric="l3.accuracy")


def test_table_4_stands_below_never_ranked(runs):
    board = build_board([runs["good"], runs["poor"]])
    published = {row.row_id: row for row in board.published}
    assert published["care-t4-care-seed"].accuracy["TempCompass"].printed == "74.3"
    assert len(published) == 10
    # Of two benchmarks, only the papers' rows with a number in one of them.
    few = {row.row_id for row in build_board([runs["some"]]).published}
    assert "care-t4-longva" not in few
    assert "care-t4-llama-vid" in few


def test_its_files_say_what_it_is(runs, tmp_path):
    paths = [runs["good"], runs["poor"]]
    judged = cli("judge", *paths, cwd=tmp_path)
    assert judged.returncode == 0, judged.stderr
    out = ("--out", "b.html", "--baseline", runs["poor"], "--metric", "mvbench.accuracy", "--include-reported")
    done = cli("leaderboard", "build", *paths, *out, "--predictions", cwd=tmp_path, COLUMNS="80")
    assert done.returncode == 0, done.stderr
    assert "MVBench accuracy: fake-good (100.0 %) is best. Next: fake-poor (0.0 %), 100.0 points [" in done.stdout
    table = done.stdout.partition(" fake-good--transfer-")[0].splitlines()
    assert len(table) == 5
    assert max(map(len, table)) <= 80
    with (tmp_path / "b.csv").open() as file:
        lines = {line["model"]: line for line in csv.DictReader(file)}
    assert (lines["fake-good"]["VSI-Bench_acc"], lines["fake-good"]["d_MVBench"]) == ("95.83", "100.00")
    assert lines["fake-good"]["MVBench_cons"] == "100.00"
    assert (lines["GPT-4o"]["VideoMME_acc"], lines["GPT-4o"]["MVBench_acc"], lines["GPT-4o"]["source"]) == (
        "71.9",
        "",
        "reported",
    )
    with (tmp_path / "b_long.csv").open() as file:
        assert {line["level"] for line in csv.DictReader(file)} == set(NAMES)
    with (tmp_path / "predictions.csv").open() as file:
        assert {line["level"] for line in csv.DictReader(file)} == set(NAMES)
    markdown = (tmp_path / "b.md").read_text()
    assert markdown.startswith("# General video benchmarks leaderboard")
    assert f"| Rank | Tier | Model | {' | '.join(NAMES)} | Consistency MVBench |" in markdown
    assert "Video-R1-7B, Qwen2.5-VL-7B* † | 35.8 | 52.3 | 63.8 | 63.9 | 73.2 | 59.3" in markdown
    latex = (tmp_path / "b.tex").read_text()
    assert " & ".join(NAMES) in latex
    assert r"36.6" not in latex
    assert r"74.3 & 58.1" in latex
    page = (tmp_path / "b.html").read_text()
    assert "<title>General video benchmarks leaderboard</title>" in page
    outside = re.sub(r"<script.*?</script>|<tbody class=\"reported\".*?</tbody>", "", page, flags=re.DOTALL)
    assert "SEED-Bench-R1" not in outside.replace("seedbench-r1", "")
    assert "L1" not in outside.partition("<body>")[2]  # before it, a hash may hold any letters
    diff = cli("leaderboard", "diff", *paths, cwd=tmp_path, COLUMNS="80")
    assert diff.returncode == 0, diff.stderr
    assert re.search(r"MVBench +12 +0 +12 +0 +0 +\+100\.0", diff.stdout)


def test_neither_the_benchmark_nor_ones_own_questions_share_its_board(runs, data_root, tmp_path):
    model = tmp_path / "s.json"
    model.write_text(json.dumps({"answers": {}}), encoding="utf-8")
    done = cli("eval", "--backend", "fake", "--model", model, "--data-root", data_root, "--json", cwd=tmp_path)
    bench = tmp_path / Path(json.loads(done.stdout)["run_dir"])
    board = build_board([bench, runs["good"]])
    assert (board.suite.name, len(board.rows)) == ("seedbench-r1", 1)
    assert "answers the suite transfer: not to be mixed with SEED-Bench-R1 results" in board.left_out[0].reason
    board = build_board([bench, runs["good"]], baseline=str(runs["good"]))
    assert (board.suite.name, len(board.rows)) == ("transfer", 1)
    assert "not to be mixed with general video benchmarks' results" in board.left_out[0].reason
