"""Runs on a user's own questions: the command line from data check to a board, with real clips."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from leaderboards.board import build_board
from leaderboards.draw.page import write_html
from leaderboards.exports.common import load_exported
from leaderboards.ranking import parse_metric
from leaderboards.stats import credit_interval
from leaderboards.suites import SUITES
from seedbench_r1.engines.plan import plan
from seedbench_r1.errors import ConfigError, DataError
from seedbench_r1.runs.directory import load_run
from seedbench_r1.suites import resolve
from tests.command import cli
from tests.own_files import make_media, row, write
from tests.small_benchmark import write_script

pytestmark = pytest.mark.usefixtures("shared_decoders")
LETTERS = "ABCDEFG"
OWN = SUITES["own"]


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    return make_media(tmp_path_factory.mktemp("own"))


def script(folder: Path, name: str, answers: dict[str, str], default: str = "A") -> Path:
    texts = {key: f"<think>So the answer is {said}.</think><answer>{said}</answer>" for key, said in answers.items()}
    path = folder / f"{name}.json"
    path.write_text(
        json.dumps({"answers": texts, "default": f"<think>So it is {default}.</think><answer>{default}</answer>"})
    )
    return path


def configure(media: Path, folder: Path, questions: Path, model: Path, **more):
    given = {"suite": "own", "questions": questions, "data_root": media, "runs_dir": folder / "runs"}
    return resolve(given | {"backend": "fake", "model": str(model)} | more, environ={}, working_dir=folder)


def evaluate(media: Path, folder: Path, questions: Path, model: Path, *more: object):
    command = ["eval", "--suite", "own", "--questions", questions, "--data-root", media, "--backend", "fake"]
    return cli(*command, "--model", model, "--runs-dir", folder / "runs", "--json", *more, cwd=folder)


def seven(number: int, gold: str) -> dict[str, object]:
    return row(number, options=[f"thing {letter}" for letter in LETTERS], answer=gold)


def mixed() -> list[dict[str, object]]:
    """Options of 3 and 7, numbers and texts, clips and an image, in two splits."""
    return [
        row(1, kind="choice", split="near", answer="A"),
        seven(2, "G") | {"kind": "choice", "split": "near"},
        row(3, kind="numerical", split="near", options=None, answer=4),
        row(4, kind="regression", split="far", options=None, answer=100),
        row(5, kind="ocr", split="far", options=None, answer="NO EXIT", video=None, image="view.png"),
        row(6, kind="free-form", split="far", options=None, answer="a red cat", image="view.png"),
    ]


SAID = {"near/q1": "A", "near/q2": "G", "near/q3": "4", "far/q4": "75", "far/q5": "EXIT", "far/q6": "red cat"}
CREDITS = {"near": (3, 3), "far": (0.5 + 0.5 + (0.8 + 2 / 3 + 0.8) / 3, 3)}  # by hand: mean relative accuracy of 75 ...


def test_a_run_of_every_kind_is_scored_shown_judged_and_continued(media, tmp_path):
    questions = write(tmp_path / "mine.jsonl", mixed())
    model = script(tmp_path, "m", SAID)
    done = evaluate(media, tmp_path, questions, model)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    for split, (total, n) in CREDITS.items():
        assert result["splits"][split]["correct"] == pytest.approx(total)
        assert result["splits"][split]["n"] == n
        assert result["splits"][split]["accuracy"] == pytest.approx(total / n, abs=1e-6)
    assert set(result["groups"]["far"]) == {"regression", "ocr", "free-form"}
    path = Path(result["run_dir"])
    assert re.fullmatch(r"fake-m--own-mine-[0-9a-f]{8}", path.name)
    # The same command asks nothing again.
    assert evaluate(media, tmp_path, questions, model).returncode == 0
    assert len((path / "records.jsonl").read_text().splitlines()) == 6
    shown = cli("show", path, "--question", "near/q2", cwd=tmp_path).stdout
    assert "G. thing G   <- gold answered" in shown
    judged = json.loads(cli("judge", path, "--json", cwd=tmp_path).stdout)
    assert judged["levels"]["near"]["judged"] == 2, "the two choices; numbers and texts have nothing to settle on"
    assert judged["levels"]["near"]["reasoning_consistency"] == 1.0
    assert "far" not in judged["levels"]


def test_tables_name_splits_and_their_groups(media, tmp_path):
    rows = [row(n, category="weather" if n % 2 else "time") for n in range(1, 7)]
    questions = write(tmp_path / "q.csv", rows)
    model = script(tmp_path, "m", {})
    arguments = [
        "--suite",
        "own",
        "--questions",
        questions,
        "--data-root",
        media,
        "--backend",
        "fake",
        "--model",
        model,
    ]
    out = cli("eval", *arguments, cwd=tmp_path).stdout
    assert re.search(r"^ split +n +score %", out, re.MULTILINE)
    assert re.search(r"^ +weather +3 ", out, re.MULTILINE)
    dry = cli("eval", *arguments, "--dry-run", cwd=tmp_path).stdout
    assert "prompt of own/q1 (choice)" in dry
    assert "Exactly one option is right." in dry


def test_another_reading_of_the_file_is_another_data_set(media, tmp_path):
    rows = [row(n, answer="ABC"[n % 3], other="CAB"[n % 3]) for n in range(1, 7)]
    questions, model = write(tmp_path / "q.jsonl", rows), script(tmp_path, "m", {})
    assert evaluate(media, tmp_path, questions, model).returncode == 0
    done = evaluate(media, tmp_path, questions, model, "--map", "gold=other")
    assert done.returncode == 3
    assert "holds another run. Differing: dataset_hash" in done.stderr


def test_some_splits_a_limit_and_shards(media, tmp_path):
    rows = [row(n, split="ab"[n % 2]) for n in range(12)]
    questions, model = write(tmp_path / "q.jsonl", rows), script(tmp_path, "m", {})
    planned = plan(configure(media, tmp_path, questions, model, splits="b"))
    assert {q.split for q in planned.questions} == {"b"}
    assert planned.manifest.n_total == {"b": {"all": 6, "choice": 6}}
    with pytest.raises(ConfigError, match=r"--splits: no split 'B'\. .*There are: a, b"):
        plan(configure(media, tmp_path, questions, model, splits="B"))
    limited = plan(configure(media, tmp_path, questions, model, limit=4)).questions
    assert sorted(q.split for q in limited) == ["a", "a", "b", "b"]
    done = evaluate(media, tmp_path, questions, model, "--data-parallel", 2)
    assert json.loads(done.stdout)["status"] == "complete", done.stderr


def test_missing_clips_stop_the_run_before_it_starts(media, tmp_path):
    questions = write(tmp_path / "q.jsonl", [row(1), row(2, video="clips/none.mp4")])
    done = evaluate(media, tmp_path, questions, script(tmp_path, "m", {}))
    assert done.returncode == 4
    assert "1 media files missing, for 1 of 2 questions (own: 1; e.g. clips/none.mp4)" in done.stderr
    assert "docs/your-questions.md" in done.stderr


def test_bad_rows_are_counted_and_flagged(media, tmp_path):
    questions = write(tmp_path / "q.jsonl", [row(n) for n in range(1, 6)] + [row(6, answer="Z")])
    model = script(tmp_path, "m", {})
    refused = evaluate(media, tmp_path, questions, model)
    assert refused.returncode == 4
    assert "q.jsonl:6: answer is 'Z'" in refused.stderr
    assert "To leave such rows out: --skip-bad-rows" in refused.stderr
    done = evaluate(media, tmp_path, questions, model, "--skip-bad-rows")
    path = json.loads(done.stdout)["run_dir"]
    assert load_run(Path(path)).manifest.bad_rows == {"own": 1}
    assert "BAD ROWS 1" in build_board([Path(path)]).rows[0].flags


def test_where_relative_paths_lead(media, tmp_path, monkeypatch):
    questions = write(tmp_path / "here" / "q.jsonl", [row(1)])
    given = {"suite": "own", "questions": questions, "model": "m", "backend": "fake"}
    elsewhere = {"SBR1_DATA_ROOT": "/seed-bench"}
    assert resolve(given, environ=elsewhere, working_dir=tmp_path).data_root == questions.parent
    assert resolve(given | {"data_root": media}, environ={}, working_dir=tmp_path).data_root == media
    (tmp_path / "seedbench-r1.toml").write_text('data_root = "bench"\n')
    assert resolve(given, environ={}, working_dir=tmp_path).data_root == questions.parent
    (tmp_path / "seedbench-r1.toml").write_text('suite = "own"\ndata_root = "bench"\n')
    assert resolve(given, environ={}, working_dir=tmp_path).data_root == tmp_path / "bench"
    with pytest.raises(ConfigError, match=r"--suite own needs your questions\. Fix: --questions FILE"):
        resolve({"suite": "own", "model": "m"}, environ={}, working_dir=tmp_path)
    for name in ("questions", "map", "splits"):
        with pytest.raises(ConfigError, match=f"--{name} belongs to --suite own"):
            resolve({"model": "m", "data_root": media, name: "x"}, environ={}, working_dir=tmp_path / "here")


def test_lmms_eval_is_refused(media, tmp_path):
    questions = write(tmp_path / "q.jsonl", [row(1)])
    done = evaluate(media, tmp_path, questions, script(tmp_path, "m", {}), "--engine", "lmms-eval", "--lmms-model", "x")
    assert done.returncode == 3
    assert "--suite own does not run on --engine lmms-eval" in done.stderr


def test_an_environment_for_the_benchmark_is_not_blamed(media, tmp_path):
    questions = write(tmp_path / "q.jsonl", [row(1), row(2, answer="Z")])
    command = [
        "eval",
        "--suite",
        "own",
        "--questions",
        questions,
        "--backend",
        "fake",
        "--model",
        script(tmp_path, "m", {}),
    ]
    done = cli(*command, cwd=tmp_path, SBR1_DATA_ROOT=str(tmp_path))
    assert done.returncode == 4
    assert "SBR1_DATA_ROOT" not in done.stderr


def test_sheets_for_labels_have_a_column_for_every_option(two_runs, tmp_path):
    done = cli("judge", "calibrate", two_runs[0], "--n", 8, "--out", tmp_path / "s.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "s.csv").open() as file:
        lines = {line["answer"]: line for line in csv.DictReader(file)}
    assert list(lines["G"])[2:9] == list("ABCDEFG")
    assert (lines["G"]["G"], lines["A"]["C"], lines["A"]["D"]) == ("thing G", "snow", "")


def test_reasoning_that_is_nothing_but_a_letter_behind_d(media, tmp_path):
    questions = write(tmp_path / "q.jsonl", [seven(1, "G"), seven(2, "A")])
    model = tmp_path / "m.json"
    model.write_text(json.dumps({"default": "<think>G</think><answer>G</answer>"}))
    path = json.loads(evaluate(media, tmp_path, questions, model).stdout)["run_dir"]
    judged = json.loads(cli("judge", path, "--json", cwd=tmp_path).stdout)
    assert judged["reasoning"]["letter_only"] == 2


# ---- data check


def test_data_check_says_what_it_understood(media, tmp_path):
    questions = write(tmp_path / "mine.jsonl", [each | {"note": 1} for each in mixed()])
    done = cli("data", "check", questions, "--data-root", media, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for line in (
        "mine.jsonl: JSON lines, 6 rows, 6 questions",
        "columns    text=question, options=options, gold=answer, video=video, image=image, split=split, kind=kind",
        "left over  note",
        "kinds      choice: 2, numerical: 1, regression: 1, ocr: 1, free-form: 1",
        "options    3 options: 1 questions, 7 options: 1 questions",
        "splits     near: 3, far: 3",
        "videos     4 found, 0 missing",
        "images     1 found, 0 missing",
        "G. thing G",
    ):
        assert line in done.stdout, line
    assert done.stdout.count("\n--- ") == 5
    assert "First reason step by step inside <think> </think>" in done.stdout
    value = json.loads(cli("data", "check", questions, "--data-root", media, "--json", cwd=tmp_path).stdout)
    assert (value["questions"], value["left_over"], value["options"]) == (6, ["note"], {"3": 1, "7": 1})
    assert len(value["examples"]) == 5


def test_data_check_names_every_bad_row_and_missing_file(media, tmp_path):
    rows = [row(1), row(2, answer="Z"), row(3, video="clips/none.mp4"), row(4, split="a/b"), row(1)]
    questions = write(tmp_path / "q.csv", rows)
    done = cli("data", "check", questions, "--data-root", media, cwd=tmp_path)
    assert done.returncode == 4
    for line in ("q.csv:3: answer is 'Z'", "q.csv:5: split is 'a/b'", "q.csv:6: id 'q1' stands already in 'own', at"):
        assert f"bad row: {questions.parent}/{line}" in done.stdout
    assert f"missing: {media}/clips/none.mp4" in done.stdout
    assert "3 of 5 rows cannot be used" in done.stderr
    value = json.loads(cli("data", "check", questions, "--data-root", media, "--json", cwd=tmp_path).stdout)
    assert (len(value["bad_rows"]), value["missing"], value["exit_code"]) == (3, [f"{media}/clips/none.mp4"], 4)


def test_data_check_maps_columns(media, tmp_path):
    questions = write(tmp_path / "q.csv", [{"f": "What?", "o1": "x", "o2": "y", "g": "1", "v": "clips/1.mp4"}])
    mapping = "text=f,options=o1+o2,gold.1=g,video=v"
    done = cli("data", "check", questions, "--map", mapping, "--data-root", media, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "g counts options from 1" in done.stdout
    assert "right: A, x" in done.stdout
    wrong = cli("data", "check", questions, "--map", "text=F", cwd=tmp_path)
    assert wrong.returncode == 3
    assert "no column 'F'. Did you mean 'f'?" in wrong.stderr


# ---- boards


@pytest.fixture(scope="module")
def two_runs(media, tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("two")
    questions = write(folder / "mine.jsonl", mixed())
    models = [script(folder, "good", SAID), script(folder, "poor", {"near/q2": "E", "far/q4": "55"})]
    paths = [Path(json.loads(evaluate(media, folder, questions, model).stdout)["run_dir"]) for model in models]
    assert cli("judge", *paths, cwd=folder).returncode == 0
    return paths


def test_a_board_of_ones_own(two_runs, tmp_path):
    board = build_board(two_runs, baseline=str(two_runs[1]))
    assert (board.suite, board.title, board.bank.levels, str(board.metric)) == (
        OWN,
        "mine.jsonl",
        ("near", "far"),
        "near.accuracy",
    )
    good, poor = board.rows
    assert good.accuracy["far"].value == pytest.approx(CREDITS["far"][0] / 3)
    assert (good.accuracy["near"].k, poor.accuracy["near"].k) == (3, 1)
    # 55 for 100: one threshold of ten; "A" for "a red cat": one word of three by two of three measures.
    assert poor.accuracy["far"].value == pytest.approx((0.1 + (0.5 + 0 + 0.5) / 3) / 3)
    difference = good.accuracy["far"].value - poor.accuracy["far"].value
    assert good.deltas["far"].value == pytest.approx(difference)
    assert board.tests["far"].differences[0, 1] == pytest.approx(difference)
    assert (good.consistency["near"].n, good.tier, board.published) == (2, "A", ())
    assert "far" not in good.consistency
    assert good.quadrants["near"].n == 2
    with pytest.raises(ConfigError, match=r"--metric 'l3\.accuracy' is unknown\. Fix: a split \(near, far\)"):
        build_board(two_runs, metric="l3.accuracy")
    assert str(build_board(two_runs, metric="far.accuracy").metric) == "far.accuracy"


def test_its_files_have_the_splits_as_columns(two_runs, tmp_path):
    done = cli("leaderboard", "build", *two_runs, "--out", tmp_path / "b.html", "--predictions", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "b.csv").open() as file:
        first = next(csv.DictReader(file))
    assert (first["near_acc"], first["near_n"], first["near_cons"]) == ("100.00", "3", "100.00")
    assert not [name for name in first if re.match(r"l[123]_|gap", name)]
    markdown = (tmp_path / "b.md").read_text()
    assert markdown.startswith("# mine.jsonl leaderboard")
    assert "| Rank | Tier | Model | near | far | Consistency near | Flags |" in markdown
    assert "near & far & Consist." in (tmp_path / "b.tex").read_text()
    page = (tmp_path / "b.html").read_text()
    assert "<title>mine.jsonl leaderboard</title>" in page
    assert 'id="layer-letters"' in page
    assert 'id="layer-credits"' in page
    assert "SEED-Bench-R1" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL).replace("seedbench-r1", "")
    with (tmp_path / "predictions.csv").open() as file:
        picked = {
            line["sample_id"]: line["pred"] for line in csv.DictReader(file) if line["run_id"].startswith("fake-good")
        }
    assert (picked["q2"], picked["q3"]) == ("G", "")


def test_suites_are_never_mixed(two_runs, data_root, tmp_path):
    command = ["eval", "--backend", "fake", "--model", write_script(tmp_path / "s.json"), "--data-root", data_root]
    assert cli(*command, cwd=tmp_path).returncode in (0, 5)
    bench = next((tmp_path / "runs").iterdir())
    board = build_board([*two_runs, bench])
    assert [row.run_id for row in board.rows] == [bench.name]
    assert len(board.left_out) == 2
    assert all("answers the suite own: not to be mixed with SEED-Bench-R1 results" in i.reason for i in board.left_out)
    own = build_board([*two_runs, bench], baseline=str(two_runs[0]))
    assert (own.suite, len(own.rows)) == (OWN, 2)
    assert "answers the suite seedbench-r1: not to be mixed" in own.left_out[0].reason


def test_runs_of_ones_own_are_not_exported_under_the_benchmarks_names(two_runs, tmp_path):
    done = cli("export", "hub", two_runs[0], "--out", tmp_path / "x", cwd=tmp_path)
    assert done.returncode == 4
    assert "these formats name SEED-Bench-R1's levels" in done.stderr
    with pytest.raises(DataError, match="answers the suite own: these formats name SEED-Bench-R1's levels"):
        load_exported(two_runs[0])


def test_a_page_with_four_options_needs_no_further_layers(media, tmp_path):
    questions = write(tmp_path / "q.jsonl", [row(n) for n in range(1, 6)])
    path = Path(json.loads(evaluate(media, tmp_path, questions, script(tmp_path, "m", {})).stdout)["run_dir"])
    write_html(build_board([path]), tmp_path / "p.html")
    page = (tmp_path / "p.html").read_text()
    assert 'id="layer-letters"' not in page
    assert 'id="layer-credits"' not in page


def test_metrics_of_splits_with_dots():
    assert str(parse_metric("v1.0.accuracy", OWN, ("v1.0", "b"))) == "v1.0.accuracy"
    assert parse_metric(None, OWN, ("Test", "test")).level == "Test"
    assert parse_metric("test.sound", OWN, ("Test", "test")).level == "test"


def test_intervals_of_credits():
    credits, clusters = [0.25, 0.5, 0.75, 0.5, 0.5, 0.5], ["a", "a", "b", "b", "c", "c"]
    found = credit_interval(credits, clusters)
    # By hand: cluster sums of residuals from 0.5 are -0.25, 0.25, 0; CR1 = sqrt(3/2 * 0.125) / 6; t(2) = 4.302653
    se = (1.5 * 0.125) ** 0.5 / 6
    assert found.value == 0.5
    assert (found.lo, found.hi) == pytest.approx(
        (max(0.0, 0.5 - 4.302653 * se), min(1.0, 0.5 + 4.302653 * se)), abs=1e-6
    )
    assert found.se == pytest.approx(se)
    same = credit_interval([0.5] * 4, list("abcd"))
    q = 0.025**0.25
    assert (same.lo, same.hi) == pytest.approx((q * 0.5, q * 0.5 + 1 - q))
    with pytest.raises(ValueError, match="credits must lie in"):
        credit_interval([0.5, 1.5], ["a", "b"])


def test_answers_of_elsewhere_to_ones_own_questions_stand_on_its_board(two_runs, tmp_path):
    evaluated = load_run(two_runs[0])
    questions = two_runs[0].parents[1] / "mine.jsonl"
    lines = [{"question_id": i, "response": record.generation.text} for i, record in evaluated.records.items()]
    answers = write(tmp_path / "elsewhere" / "answers.jsonl", lines)
    root = Path(next(q.video for q in evaluated.questions.values() if q.video is not None)).parent.parent
    given = ("--questions", questions, "--data-root", root, "--model-name", "elsewhere")
    done = cli("import", "predictions", answers, *given, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "runs").iterdir()
    imported = load_run(path)
    assert imported.manifest.suite == "own"
    assert imported.manifest.dataset_hash == evaluated.manifest.dataset_hash
    assert [r.score.credit for r in imported.records.values()] == [r.score.credit for r in evaluated.records.values()]
    board = build_board([*two_runs, path])
    assert sorted(row.model for row in board.rows) == ["elsewhere", "fake-good", "fake-poor"]
    refused = cli("import", "grpo-care", answers, *given, cwd=tmp_path)
    assert refused.returncode == 3
    assert "Fix: import predictions" in refused.stderr
