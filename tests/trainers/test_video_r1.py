"""Training on Video-R1's files: rows, wording, media, and a step of each algorithm."""

import gc
import json
import subprocess
import sys

import pytest

from leaderboards.board import build_board
from seedbench_r1.errors import ConfigError, DataError
from seedbench_r1.prompts import build_prompt
from seedbench_r1.questions import file_sha256
from seedbench_r1.rows import BadRows, read_rows
from seedbench_r1.runs.training_snapshot import Overlap, find_overlap, read_lines
from seedbench_r1.suites.own import trained_on
from seedbench_r1.suites.transfer import BENCHMARKS, DEFAULT_TEMPLATE, load_transfer_file
from tests.command import cli
from tests.small_transfer import IMAGE, choice_row, row_of, write_transfer
from tests.trainers.toy import plan_and_train
from tests.video_r1 import SMALL, training_rows, write_model, write_training
from trainers.checkpoints import read_training
from trainers.config import TrainConfig
from trainers.data import QuestionStream, contradicting_rows, read_data
from trainers.plan import plan_training
from trainers.resolve import resolve_train_config
from trainers.video_r1 import load_video_r1_rows


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


def config_of(tmp_path, model="m", algo="care", file="Video-R1-260k.json", **options) -> TrainConfig:
    places = {"model": str(model), "data": tmp_path, "out": tmp_path / "out", "train_file": tmp_path / file}
    return resolve_train_config({"algo": algo, "suite": "video-r1"} | places | SMALL | options)


def load(tmp_path, rows, *, skip=None, responses=True):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    bad = BadRows(skip=skip)
    return load_video_r1_rows(path, tmp_path, bad, responses=responses), bad.messages


def test_rows_become_questions_of_every_kind(tmp_path):
    rows, _ = load(tmp_path, training_rows(5, process="<think> so </think>"))
    assert len(rows) == 5
    questions = [row.question for row in rows]
    assert [q.question_id for q in questions] == [f"video-r1/{place}" for place in range(5)]
    assert [q.kind for q in questions] == ["choice", "numerical", "ocr", "free-form", "regression"]
    assert [q.gold for q in questions] == ["B", "12", "NO EXIT", "a red ball", "2.5"]
    assert questions[0].options == ("rain", "sun", "snow")
    assert rows[0].answer == "sun"
    assert (questions[0].video, questions[0].image) == (tmp_path / "clips/0.mp4", None)
    assert (questions[1].video, questions[1].image) == (None, tmp_path / "pictures/1.png")
    assert questions[1].source.line == 2
    assert rows[0].response == "<think> so </think>\n<answer>B</answer>"
    # Options are the row's own in every epoch, and the stream takes what is made row by row.
    drawn = QuestionStream(rows, seed=1).take(15)
    assert {(d.question.question_id, d.question.options, d.question.gold) for d in drawn} == {
        (q.question_id, q.options, q.gold) for q in questions
    }
    assert list(rows[1:3]) == [rows[1], rows[2]]
    assert contradicting_rows(rows) == []


def test_without_responses_a_row_teaches_its_answer(tmp_path):
    rows, _ = load(tmp_path, training_rows(5, process="<think>x</think>"), responses=False)
    assert {row.response for row in rows} == {None}
    assert {d.response for d in QuestionStream(rows, 0).take(5)} == {
        f"<answer>{gold}</answer>" for gold in ("B", "12", "NO EXIT", "a red ball", "2.5")
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"problem_type": "essay"}, "problem_type is 'essay'"),
        ({"data_type": "audio"}, "data_type is 'audio'"),
        ({"path": "../secret.mp4"}, "path is '../secret.mp4'"),
        ({"path": "/data/../1.mp4"}, "path is '/data/../1.mp4'"),
        ({"path": ""}, "path is ''"),
        ({"solution": "<answer>D</answer>"}, "expected a letter from A to C"),
        ({"solution": "<answer>AB</answer>"}, "expected a letter from A to C"),
        ({"solution": "B"}, "expected '<answer>...</answer>'"),
        ({"options": ["A. x"]}, "options holds 1 texts"),
        ({"options": ["A. x", "C. y", "B. z"]}, "options have the letters 'ACB'"),
        ({"options": "A. x B. y"}, "expected a list of texts"),
        ({"options": ["A. x", 3, "C. z"]}, "expected a list of texts"),
        ({"problem": None}, "problem is None"),
        ({"process": "no tag"}, "process is 'no tag', expected '<think>"),
        ({"process": 3}, "process is 3"),
        ({"problem_type": "numerical", "solution": "<answer>3/8</answer>"}, "expected a number"),
    ],
)
def test_an_odd_row_is_named_with_its_place_or_left_out(tmp_path, change, message):
    rows = [choice_row("A"), choice_row("B") | change, choice_row("C")]
    with pytest.raises(DataError, match=r"rows\.json: index 1: ") as refused:
        load(tmp_path, rows)
    assert message in str(refused.value)
    with pytest.raises(DataError, match="--skip-bad-rows"):
        load(tmp_path, rows, skip=False)
    found, messages = load(tmp_path, rows, skip=True)
    assert [row.question.question_id for row in found] == ["video-r1/0", "video-r1/2"]
    assert len(messages) == 1
    assert message in messages[0]


def test_unlettered_options_and_unusual_paths_are_read_by_the_careful_way(tmp_path):
    rows = [choice_row("B", options=["yes", "no"]), choice_row("A", options=["(A) x", "(B) y"], path="a//b/./c.mp4")]
    first, second = load(tmp_path, rows)[0]
    assert first.question.options == ("yes", "no")
    assert second.question.options == ("x", "y")
    # A root that is itself the first folder of the paths.
    inner, _ = load(tmp_path, [choice_row("A", path=f"./{tmp_path.name}/x/1.mp4")])
    assert inner[0].question.video == tmp_path / "x" / "1.mp4"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1}, {"b": 2', "not valid JSON"),
        ('[{"a": 1} {"b": 2}]', "Expecting ',' delimiter at index 0"),
        ('[{"a": 1},]', "not valid JSON"),
        ('[{"a": 1}] x', "Extra data"),
        ('[{"a": 1}, 12]', "index 1: expected a JSON object, found int"),
        ('[{"a": 1, "a": 2}]', "'a' stands twice"),
        ('[{"a": "\\ud83d"}]', "half of a surrogate pair"),
        ("[" * 500 + "]" * 500, "nested too deeply"),
        ("[" * 200_000, "nested too deeply"),
    ],
)
def test_a_damaged_list_is_refused_at_its_place(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"a\.json") as refused:
        list(read_rows(path, BadRows()))
    assert message in str(refused.value)


def test_a_list_read_in_pieces_is_what_json_loads_reads(tmp_path, monkeypatch):
    rows = [{"n": n, "t": 'é😀\\"[{,' * (n % 7), "l": [1, [n]], "o": {"x": None, "y": -1.5e-3}} for n in range(60)]
    path = tmp_path / "a.json"
    for piece in (1, 2, 3, 7, 64, 1 << 20):
        monkeypatch.setattr("seedbench_r1.rows._PIECE", piece)
        for text in (json.dumps(rows), json.dumps(rows, indent=2, ensure_ascii=False), "﻿ " + json.dumps(rows) + "\n\n"):
            path.write_text(text, encoding="utf-8")
            found = list(read_rows(path, BadRows()))
            assert [row for _, row in found] == rows
            assert [place for place, _ in found] == [(f"{path}: index {n}", n + 1) for n in range(60)]
        path.write_text("[ ]")
        assert list(read_rows(path, BadRows())) == []


def test_questions_are_asked_in_the_transfer_suites_words(tmp_path):
    config = config_of(tmp_path)
    assert config.template == DEFAULT_TEMPLATE
    rows, _ = load(tmp_path, training_rows(2))
    assert "A. rain\nB. sun\nC. snow" in build_prompt(rows[0].question, config.template)
    assert "what the image shows" in build_prompt(rows[1].question, config.template)
    with pytest.raises(ConfigError, match="--suite video-r1 has no file of a fixed name"):
        resolve_train_config({"algo": "care", "suite": "video-r1", "model": "m", "data": tmp_path, "out": tmp_path})


def test_missing_media_and_bad_rows_are_said_before_a_model_is_loaded(tmp_path, model):
    write_training(tmp_path, [*training_rows(5), row_of("numerical", "3/8"), choice_row("A", path="./clips/gone.mp4")])
    with pytest.raises(DataError, match=r"index 5: .*--skip-bad-rows"):
        read_data(config_of(tmp_path))
    with pytest.raises(DataError, match=r"1 media files .*gone\.mp4.*--allow-missing"):
        read_data(config_of(tmp_path, skip_bad_rows=True))
    planned = plan_training(config_of(tmp_path, model, skip_bad_rows=True, allow_missing=True, max_steps=1))
    assert len(planned.rows) == 6
    assert len(planned.bad_rows) == 1
    assert planned.identity["skip_bad_rows"] is True
    assert gc.isenabled()


def test_a_file_of_video_r1s_without_the_suite_is_told_so(tmp_path):
    file = write_training(tmp_path, training_rows(5))
    places = {"model": "m", "data": tmp_path, "out": tmp_path / "out", "algo": "care", "train_file": file}
    with pytest.raises(DataError, match=r"holds Video-R1's rows\. Fix: --suite video-r1 --train-file"):
        read_data(resolve_train_config(places))


def test_a_step_of_care_on_every_kind(tmp_path, model):
    write_training(tmp_path, training_rows(5))
    config = config_of(tmp_path, model, gradient_accumulation_steps=5, max_steps=1, rollout_log_steps=1)
    result = plan_and_train(config)
    assert (result.step, result.replaced) == (1, 0)
    (line,) = read_lines(config.out / "metrics.jsonl")
    assert line["accuracy"] is not None
    assert read_training(result.checkpoint).identity["suite"] == "video-r1"
    (first, *_) = read_lines(config.out / "rollouts.jsonl")
    assert first["question_id"].startswith("video-r1/")


def test_sft_learns_the_cot_files_responses(tmp_path, model):
    write_training(tmp_path, training_rows(5, process="<think>so it is</think>"), "Video-R1-COT-165k.json")
    options = {"max_completion_length": 64, "gradient_accumulation_steps": 1, "per_device_train_batch_size": 5}
    options = {name: value for name, value in (SMALL | options).items() if name != "num_generations"}
    places = {"model": str(model), "data": tmp_path, "out": tmp_path / "out", "suite": "video-r1"}
    config = resolve_train_config(
        {"algo": "sft", "train_file": tmp_path / "Video-R1-COT-165k.json", "max_steps": 6, "learning_rate": 4e-3}
        | places
        | options
    )
    plan_and_train(config)
    losses = [line["loss"] for line in read_lines(config.out / "metrics.jsonl")]
    assert losses[-1] < 0.9 * losses[0]


LOADING = """
import sys
from pathlib import Path
from seedbench_r1.rows import BadRows
from trainers.video_r1 import load_video_r1_rows

def peak():  # not getrusage's, which a process inherits from the one that started it
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

before = peak()
rows = load_video_r1_rows(Path(sys.argv[1]), Path(sys.argv[1]).parent, BadRows(), responses=False)
print(len(rows), peak() - before)
"""


def test_twenty_thousand_rows_take_memory_in_proportion(tmp_path):
    """260,000 took 259 MB (docs/training.md); a thirteenth of them takes a thirteenth."""
    path = tmp_path / "rows.json"
    words = "How many times does the man in the red coat open the door of the kitchen before it rains?"
    options = [f"the {thing} on the table" for thing in ("cup", "pan", "jar", "box")]
    path.write_text(
        json.dumps([choice_row("B", *options, problem=f"{words} {n}", path=f"./a/{n}.mp4") for n in range(20_000)])
    )
    done = subprocess.run([sys.executable, "-c", LOADING, str(path)], capture_output=True, text=True, check=True)
    n, megabytes = map(float, done.stdout.split())
    assert n == 20_000
    assert 0 < megabytes < 259 / 13 + 10  # pieces of the file are read at once


def test_an_epoch_of_care_on_five_kinds_is_evaluated_on_the_transfer_suite(tmp_path, model):
    """SFT on traces, CARE on 40 rows, then the six benchmarks with the checkpoint: the road of docs/training.md."""
    root = tmp_path / "data"
    root.mkdir()
    traces = [row | {"process": "<think>so it is</think>"} for row in training_rows(40)]
    write_training(root, traces, "Video-R1-COT-165k.json")
    write_training(root, training_rows(40))
    write_transfer(root)
    pixels = {name: value for name, value in SMALL.items() if "pixels" in name or name == "max_frames"}
    shared = [*flags(pixels), "--device", "cpu"]
    train = ["train", "--suite", "video-r1", "--data", root, *shared, "--workers", 1, "--no-gradient-checkpointing"]
    train += ["--lr-scheduler-type", "constant", "--per-device-train-batch-size", 4, "--max-completion-length", 48]
    sft = ["--algo", "sft", "--train-file", root / "Video-R1-COT-165k.json", "--model", model, "--out", "sft"]
    sft += ["--gradient-accumulation-steps", 1, "--learning-rate", 4e-3, "--max-steps", 60, "--warmup-ratio", 0]
    assert_done(cli(*train, *sft, cwd=tmp_path))
    care = ["--algo", "care", "--train-file", root / "Video-R1-260k.json", "--model", "sft/checkpoint-60"]
    care += ["--out", "care"]
    care += ["--num-generations", 4, "--learning-rate", 1e-4, "--rollout-log-steps", 1]
    said = assert_done(cli(*train, *care, cwd=tmp_path))
    assert "eval --model care/checkpoint-10 --suite transfer" in " ".join(said.stdout.split())
    lines = read_lines(tmp_path / "care" / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 11))
    assert lines[-1]["epoch"] == 1.0
    rollouts = read_lines(tmp_path / "care" / "rollouts.jsonl")
    assert max(line["format"] for line in lines) > 0.2
    assert any(line["bonus"] > 0 for line in lines)
    assert any(0 < rollout["accuracy"] < 1 for rollout in rollouts)  # a text that is partly right
    evaluate = ["eval", "--suite", "transfer", "--model", "care/checkpoint-10", "--data-root", root, "--json", *shared]
    result = json.loads(assert_done(cli(*evaluate, "--max-new-tokens", 48, cwd=tmp_path)).stdout)
    assert result["status"] == "complete"
    assert set(result["benchmarks"]) == {"vsibench", "videommmu", "mmvu", "mvbench", "tempcompass", "videomme"}
    (run,) = (tmp_path / "runs").glob("*--transfer-*")
    snapshot = json.loads((run / "training_snapshot.json").read_text())
    assert snapshot["step"] == 10
    # The training files were read again: none of these questions is in them.
    assert (snapshot["overlap"]["shared"], snapshot["overlap"]["files"]) == (0, 2)
    evaluate[evaluate.index("care/checkpoint-10")] = "sft/checkpoint-60"
    assert_done(cli(*evaluate, "--max-new-tokens", 48, cwd=tmp_path))
    runs = sorted((tmp_path / "runs").glob("*--transfer-*"))
    assert_done(cli("judge", *runs, cwd=tmp_path))
    built = assert_done(
        cli("leaderboard", "build", *runs, "--baseline", runs[1], "-o", "board.html", "--rank-unparsed", cwd=tmp_path)
    )
    assert "2 measured, 2 ranked, 0 incomplete, 10 reported by papers" in built.stdout
    board = build_board(runs, baseline=str(runs[1]))
    care_row = board.row(run.name)
    assert (care_row.algo, care_row.step, tuple(care_row.accuracy)) == ("care", 10, tuple(BENCHMARKS.values()))
    assert set(care_row.deltas) == set(BENCHMARKS.values())
    assert 'href="#training"' in (tmp_path / "board.html").read_text()  # the curves of both trainings


def test_a_transfer_question_that_was_trained_on_is_counted(tmp_path):
    seen = choice_row("A", path="./elsewhere/a.mp4")
    files = {"mvbench": [choice_row("B"), row_of("OCR", "EXIT", data_type="image", path=IMAGE)]}
    write_transfer(tmp_path, files)
    asked = load_transfer_file(tmp_path / "Evaluation" / "eval_mvbench.json", tmp_path, "mvbench")
    for rows, shared in (([seen], 1), ([seen | {"problem": "Another?"}], 0), ([seen | {"data_type": "image"}], 0)):
        path = tmp_path / "Video-R1-260k.json"
        path.write_text(json.dumps([*rows, 3]))
        identity, config = {"data_sha256": file_sha256(path)}, {"train_file": str(path)}
        (tmp_path / "training.json").write_text(json.dumps({"identity": identity, "config": config, "step": 1}))
        assert find_overlap(tmp_path, asked, {}, trained_on) == Overlap(shared, 2, files=1, unknown=0)


def flags(values):
    return [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", value)]


def assert_done(done):
    assert done.returncode == 0, done.stdout + done.stderr
    return done
