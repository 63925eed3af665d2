"""Run directories that version 0.1.0 wrote are read, shown, judged, ranked and continued."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from leaderboards.board import build_board
from seedbench_r1.backends.fake import FakeBackend
from seedbench_r1.config import resolve_eval_config
from seedbench_r1.engines.plan import plan
from seedbench_r1.judges.run import RulesJudge, judge_run
from seedbench_r1.runs.directory import load_run
from seedbench_r1.runs.verdicts import load_verdicts
from tests.command import cli
from tests.evaluation import evaluate
from tests.small_benchmark import ANSWER

OLD = Path(__file__).parents[1] / "old_runs"


@pytest.fixture
def benchmark_run(tmp_path) -> Path:
    """28 questions of the small benchmark: 27 answered and judged, one failed."""
    return shutil.copytree(OLD / "sbr1-0.1.0", tmp_path / "runs" / "sbr1-0.1.0")


def test_everything_that_was_written_is_read(benchmark_run):
    run = load_run(benchmark_run)
    assert (run.manifest.suite, run.manifest.protocol_id) == ("seedbench-r1", "5afd59b6")
    assert set(run.manifest.template.wording) == {"with_video", "without_video"}
    lines = [json.loads(line) for line in (OLD / "sbr1-0.1.0" / "records.jsonl").read_text().splitlines()]
    for line in lines:
        record, question = run.records[line["question_id"]], run.questions[line["question_id"]]
        assert (record.split, record.cluster) == (line["level"], line["video_id"]) == (question.split, question.cluster)
        if "score" in line:
            assert record.score.correct == line["score"]["correct"]
            assert record.score.strict_correct == line["score"]["strict_correct"]
            assert record.parsed.answer == line["parsed"]["answer"]
        else:
            assert record.failure.message == line["failure"]["message"]
    assert {question.kind for question in run.questions.values()} == {"choice"}


def test_it_is_judged_and_ranked(benchmark_run):
    (before,) = load_verdicts(benchmark_run).values()
    after = judge_run(load_run(benchmark_run), RulesJudge())
    assert after == before
    board = build_board([benchmark_run], include_published=False)
    (row,) = board.rows
    counted = json.loads((benchmark_run / "summary.json").read_text())["levels"]
    assert row.answered == sum(level["answered"] for level in counted.values()) == 27


def test_it_is_continued_under_the_same_protocol(benchmark_run, data_root, tmp_path):
    script = shutil.copy(OLD / "model.json", tmp_path / "model.json")
    # As version 0.1.0 wrote them: rows did not say that they are of a toy world.
    root = shutil.copytree(data_root, tmp_path / "data")
    for file in (root / "annotations").glob("*.jsonl"):
        file.write_text(file.read_text().replace('"data_source": "miniature", ', ""))
    given = {"model": str(script), "backend": "fake", "data_root": root, "run_name": benchmark_run.name}
    config = resolve_eval_config(given | {"runs_dir": benchmark_run.parent}, environ={}, working_dir=tmp_path)
    asked = []
    backend = FakeBackend(lambda request, _: (asked.append(request.question_id), ANSWER.format("A"))[1])
    result = evaluate(plan(config), lambda _: backend)
    assert (result.summary.status, len(asked)) == ("complete", 1)
    assert len(load_run(benchmark_run).records) == 28


def test_a_run_of_the_general_benchmarks_too(tmp_path):
    path = shutil.copytree(OLD / "transfer-0.1.0", tmp_path / "transfer-0.1.0")
    run = load_run(path)
    assert run.manifest.suite == "transfer"
    assert run.manifest.n_total["vsibench"] == {"all": 5, "choice": 2, "regression": 3}
    kinds = {question_id: question.kind for question_id, question in run.questions.items()}
    assert (kinds["vsibench/0"], kinds["vsibench/4"], kinds["videomme/1"]) == ("choice", "regression", "ocr")
    assert run.records["vsibench/4"].score.credit == 0.5
    shown = cli("show", path, "--question", "vsibench/4", cwd=tmp_path)
    assert "credit 0.5" in shown.stdout
    judged = cli("judge", path, "--json", cwd=tmp_path)
    assert judged.returncode == 0, judged.stderr
    board = build_board([path])
    assert (board.suite.name, board.bank.levels[0], len(board.rows)) == ("transfer", "VSI-Bench", 1)
