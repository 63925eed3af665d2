"""Training on questions of one's own: the evaluation's reader, targets of SFT, what is refused, and resuming."""

import json
import threading

import pytest

from seedbench_r1.errors import ConfigError, DataError
from seedbench_r1.questions import file_sha256
from seedbench_r1.rows import BadRows
from seedbench_r1.runs.training_snapshot import Overlap, find_overlap, read_lines
from seedbench_r1.suites.own import open_file, trained_on
from seedbench_r1.suites.transfer import DEFAULT_TEMPLATE
from tests.command import cli_process
from tests.media import make_clip, make_image
from tests.own_files import write
from tests.trainers.launch import assert_same_checkpoint, metrics_of
from tests.trainers.toy import plan_and_train
from tests.video_r1 import OPTIONS, PROBLEMS, SMALL, write_model
from trainers.checkpoints import read_training
from trainers.config import TrainConfig
from trainers.data import QuestionStream, read_data
from trainers.plan import plan_training
from trainers.resolve import resolve_train_config

KINDS = ("choice", "numerical", "ocr", "free-form", "regression")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


def own_row(number, **changes):
    """The five kinds in turn, every other one with an image for a clip; a change to None takes the column away."""
    _, problem, gold = PROBLEMS[number % 5]
    row = {
        "question": problem,
        "kind": KINDS[number % 5],
        "answer": gold,
        "file": f"pictures/{number % 3}.png" if number % 2 else f"clips/{number % 3}.mp4",
        "part": "test" if number % 10 > 7 else "train",
    }
    row |= {"options": list(OPTIONS)} if number % 5 == 0 else {}
    return {name: value for name, value in (row | changes).items() if value is not None}


MAP = "video=file,split=part"


def write_own(root, rows, name="own.jsonl"):
    for number in range(3):
        for path, make in ((root / f"clips/{number}.mp4", make_clip), (root / f"pictures/{number}.png", make_image)):
            path.parent.mkdir(parents=True, exist_ok=True)
            make(path, seed=number) if make is make_image else make(path, n_frames=40, fps=20)
    return write(root / name, rows)


def config_of(tmp_path, model="m", algo="care", name="own.jsonl", **options) -> TrainConfig:
    places = {"model": str(model), "out": tmp_path / "out", "train_file": tmp_path / name, "map": MAP}
    small = {name: value for name, value in SMALL.items() if algo != "sft" or name != "num_generations"}
    return resolve_train_config({"algo": algo, "suite": "own"} | places | small | options, environ={})


def plain(rows):
    return [(row.question, row.response) for row in rows]


# ---- rows


@pytest.mark.parametrize("name", ["own.jsonl", "own.json", "own.csv", "own.parquet", "saved"])
def test_rows_are_the_evaluations_questions(tmp_path, name):
    letters = [chr(ord("a") + n) * 2 for n in range(26)]
    rows = [own_row(n) for n in range(10)] + [
        own_row(10, options=letters, answer="Z"),
        own_row(15, options=letters[:2]),
    ]
    write_own(tmp_path, rows, name)
    data = read_data(config_of(tmp_path, name=name, data=tmp_path))
    asked = list(open_file(tmp_path / name, MAP, tmp_path, BadRows())[1])
    assert [row.question for row in data.rows] == [q for q in asked if q.split == "train"] + [
        q for q in asked if q.split == "test"
    ]
    assert {len(q.options) for q in asked} == {0, 2, 3, 26}
    assert {q.kind for q in asked} == set(KINDS)
    assert data.left_out == ()
    assert data.notes == (f"{name}: trained on the splits train, test; --splits takes some of them.",)
    # Options are the row's own in every epoch.
    drawn = QuestionStream(data.rows, seed=1).take(36)
    assert {(d.question.question_id, d.question.options, d.question.gold) for d in drawn} == {
        (q.question_id, q.options, q.gold) for q in asked
    }


def test_splits_are_chosen_as_in_evaluation(tmp_path):
    write_own(tmp_path, [own_row(n) for n in range(10)])
    data = read_data(config_of(tmp_path, splits="train"))
    assert ({row.question.split for row in data.rows}, len(data.rows)) == ({"train"}, 8)
    assert (data.left_out, data.notes) == (("test",), ())
    with pytest.raises(ConfigError, match=r"--splits: no split 'tests'\. Did you mean 'test'"):
        read_data(config_of(tmp_path, splits="tests"))


def test_media_lie_next_to_the_file_or_below_data(tmp_path):
    write_own(tmp_path, [own_row(0)])
    config = config_of(tmp_path)
    assert (config.data, config.template) == (tmp_path, DEFAULT_TEMPLATE)
    # That of the benchmark is not that of one's own.
    options = {
        "algo": "grpo",
        "suite": "own",
        "model": "m",
        "out": tmp_path / "out",
        "train_file": tmp_path / "own.jsonl",
    }
    assert resolve_train_config(options, environ={"SBR1_DATA_ROOT": "/benchmark"}).data == tmp_path
    assert resolve_train_config(options | {"data": tmp_path / "x"}, environ={}).data == tmp_path / "x"
    toml = tmp_path / "t.toml"
    toml.write_text('[train]\nsuite = "own"\ntrain_file = "q/own.csv"\n')
    few = {name: options[name] for name in ("algo", "model", "out")}
    assert resolve_train_config(few, config_file=toml, environ={}).data == tmp_path / "q"
    with pytest.raises(ConfigError, match=r"--suite own needs your questions\. Fix: --train-file FILE"):
        resolve_train_config({"algo": "grpo", "suite": "own", "model": "m", "out": "o"}, environ={})
    with pytest.raises(ConfigError, match="--map belongs to --suite own, and this is --suite seedbench-r1"):
        resolve_train_config({"algo": "grpo", "model": "m", "out": "o", "data": "d", "map": "text=x"}, environ={})


# ---- targets


def test_sft_teaches_a_response_or_reasoning_and_answer(tmp_path):
    whole = [own_row(n, response=f"<think>so {n}</think><answer>x</answer>", cot="unread") for n in range(5)]
    write_own(tmp_path, whole)
    data = read_data(config_of(tmp_path, algo="sft"))
    assert [row.response for row in data.rows] == [each["response"] for each in whole]
    write_own(tmp_path, [own_row(0, rationale=" so it is "), own_row(1, rationale="<think>\nso it is</think>")])
    data = read_data(config_of(tmp_path, algo="sft"))
    assert [row.response for row in data.rows] == [
        "<think>so it is</think>\n<answer>B</answer>",
        "<think>so it is</think>\n<answer>12</answer>",
    ]
    assert "the responses are rationale in its tag and the right answer" in data.notes[0]
    # Without --algo sft they are not read, and evaluation does not hash them.
    assert [row.response for row in read_data(config_of(tmp_path)).rows] == [None, None]
    assert "rationale" not in read_data(config_of(tmp_path)).read_as
    assert "rationale" in data.read_as
    write_own(tmp_path, [own_row(0, why="so")])
    data = read_data(config_of(tmp_path, algo="sft", map=f"{MAP},reasoning=why"))
    assert data.rows[0].response == "<think>so</think>\n<answer>B</answer>"


def test_without_targets_sft_is_refused_and_the_others_are_not(tmp_path):
    write_own(tmp_path, [own_row(0)])
    with pytest.raises(DataError, match=r"own\.jsonl: no column is known to hold what SFT teaches") as refused:
        read_data(config_of(tmp_path, algo="sft"))
    assert "--map response=COLUMN" in str(refused.value)
    assert "question" in str(refused.value)
    assert len(read_data(config_of(tmp_path, algo="grpo")).rows) == 1
    with pytest.raises(ConfigError, match="--map names response and reasoning"):
        read_data(config_of(tmp_path, algo="sft", map="response=a,reasoning=b"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reasoning": None}, "reasoning is None, expected the text to teach"),
        ({"reasoning": "  "}, "reasoning is None, expected the text to teach"),
        ({"reasoning": 3}, "reasoning is 3, expected the text to teach"),
        ({"reasoning": "<think></think>"}, "expected the reasoning alone"),
        ({"reasoning": "<think>a</think><answer>B</answer>"}, "--map response=reasoning if it holds the answer, too"),
        ({"options": "rain, sun, snow"}, "options is 'rain, sun, snow', expected a list of texts"),
        ({"options": ["rain"]}, "options holds 1 options, expected 2 to 26"),
        ({"options": [str(n) for n in range(27)]}, "options holds 27 options"),
        ({"answer": "D"}, "answer is 'D', expected a letter from A to C"),
        ({"kind": "essay"}, "kind is 'essay', expected choice, numerical"),
        ({"file": "http://x/1.mp4"}, "expected the path of a file on this machine"),
        ({"file": None}, "hold no file; a question needs a clip or an image"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_or_left_out(tmp_path, change, message):
    rows = [own_row(n, reasoning="so") for n in (0, 5, 10)]
    rows[1] = own_row(5, **{"reasoning": "so"} | change)
    write_own(tmp_path, rows)
    with pytest.raises(DataError, match=r"own\.jsonl:2: .*--skip-bad-rows") as refused:
        read_data(config_of(tmp_path, algo="sft"))
    assert message in str(refused.value)
    bad = BadRows(skip=True)
    assert [r.question.question_id for r in read_data(config_of(tmp_path, algo="sft"), bad).rows] == [
        "train/1",
        "train/3",
    ]
    assert len(bad.messages) == 1


def test_rows_of_other_splits_need_no_target(tmp_path):
    write_own(tmp_path, [own_row(0, reasoning="so"), own_row(8)])
    assert len(read_data(config_of(tmp_path, algo="sft", splits="train")).rows) == 1
    with pytest.raises(DataError, match=r":2: reasoning is None"):
        read_data(config_of(tmp_path, algo="sft"))


def test_what_is_wrong_is_said_before_a_model_is_loaded(tmp_path, model):
    write_own(tmp_path, [*(own_row(n) for n in range(4)), own_row(5, options="A. x B. y")])
    with pytest.raises(ConfigError, match=r"--map video=fil: no column 'fil'. Did you mean 'file'"):
        plan_training(config_of(tmp_path, model, map="video=fil"))
    with pytest.raises(DataError, match=r"own\.jsonl:5: options is 'A\. x B\. y'.*--skip-bad-rows"):
        plan_training(config_of(tmp_path, model))
    planned = plan_training(config_of(tmp_path, model, skip_bad_rows=True, max_steps=1))
    assert (len(planned.rows), len(planned.bad_rows)) == (4, 1)
    (tmp_path / "clips" / "2.mp4").unlink()
    missing = (
        r"1 media files of .*own\.jsonl missing, e\.g\. .*2\.mp4\. Nothing was trained.*or --data \(.*--allow-missing"
    )
    with pytest.raises(DataError, match=missing):
        plan_training(config_of(tmp_path, model, skip_bad_rows=True))
    assert len(plan_training(config_of(tmp_path, model, skip_bad_rows=True, allow_missing=True)).rows) == 4
    with pytest.raises(DataError, match=r"No questions at .*gone\.csv\. Fix: --train-file FILE"):
        plan_training(config_of(tmp_path, model, name="gone.csv"))


def test_a_file_of_ones_own_without_the_suite_is_told_so(tmp_path):
    file = write_own(tmp_path, [own_row(0)])
    places = {"model": "m", "data": tmp_path, "out": tmp_path / "out", "algo": "care", "train_file": file}
    with pytest.raises(DataError, match=r"own\.jsonl:1: .* If the file has columns of your own: --suite own"):
        read_data(resolve_train_config(places))


# ---- steps


def test_a_step_of_care_on_every_kind(tmp_path, model):
    write_own(tmp_path, [own_row(n) for n in range(5)])
    config = config_of(tmp_path, model, gradient_accumulation_steps=5, max_steps=1, rollout_log_steps=1)
    result = plan_and_train(config)
    assert (result.step, result.replaced) == (1, 0)
    (line,) = read_lines(config.out / "metrics.jsonl")
    assert line["accuracy"] is not None
    assert read_training(result.checkpoint).identity["suite"] == "own"
    (first, *_) = read_lines(config.out / "rollouts.jsonl")
    assert first["question_id"].startswith("train/")


def test_sft_learns_the_reasoning_and_the_answer(tmp_path, model):
    write_own(tmp_path, [own_row(n, why="so it is") for n in range(5)])
    config = config_of(
        tmp_path,
        model,
        algo="sft",
        map=f"{MAP},reasoning=why",
        max_completion_length=64,
        per_device_train_batch_size=5,
        max_steps=6,
        learning_rate=4e-3,
    )
    plan_and_train(config)
    losses = [line["loss"] for line in read_lines(config.out / "metrics.jsonl")]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("algo", ["grpo", "care", "sft"])
def test_a_stopped_training_goes_on_bit_for_bit(tmp_path, model, algo):
    write_own(tmp_path, [own_row(n, reasoning="so it is") for n in range(10)])
    options = {"splits": "train", "max_steps": 3, "save_steps": 1, "learning_rate": 1e-3, "max_completion_length": 48}
    options |= {"gradient_accumulation_steps": 2} | ({"num_generations": 2} if algo != "sft" else {})
    whole = plan_and_train(config_of(tmp_path, model, algo, out=tmp_path / "whole", **options))
    config, stop = config_of(tmp_path, model, algo, **options), threading.Event()
    plan_and_train(config, stop=stop, observe=lambda line: stop.set() if line["step"] == 2 else None)
    assert plan_training(config).done == 2
    continued = plan_and_train(config)
    assert_same_checkpoint(whole.checkpoint, continued.checkpoint)
    assert metrics_of(config.out) == metrics_of(tmp_path / "whole")


def test_what_the_rows_are_is_compared_when_a_training_is_continued(tmp_path, model):
    write_own(tmp_path, [own_row(n, other="A" if n % 5 == 0 else PROBLEMS[n % 5][2]) for n in range(10)])
    options = {"splits": "train", "max_steps": 2, "num_generations": 2}
    stop = threading.Event()
    plan_and_train(config_of(tmp_path, model, **options), stop=stop, observe=lambda line: stop.set())
    # The same columns by another mapping are the same rows.
    assert plan_training(config_of(tmp_path, model, map=f"text=question,{MAP}", **options)).done == 1
    with pytest.raises(ConfigError, match=r"read_as: .*answer.* there, .*other.* here"):
        plan_training(config_of(tmp_path, model, map=f"gold=other,{MAP}", **options))
    with pytest.raises(ConfigError, match="splits: 'train' there, 'test' here"):
        plan_training(config_of(tmp_path, model, **options | {"splits": "test"}))
    with pytest.raises(ConfigError, match="skip_bad_rows: False there, True here"):
        plan_training(config_of(tmp_path, model, skip_bad_rows=True, **options))
    with (tmp_path / "own.jsonl").open("a") as file:
        file.write(json.dumps(own_row(3)) + "\n")
    with pytest.raises(ConfigError, match="data_sha256"):
        plan_training(config_of(tmp_path, model, **options))


def test_questions_that_were_trained_on_are_counted(tmp_path):
    path = write_own(tmp_path, [own_row(n, question=f"What is seen at {n}?") for n in range(10)])
    data = read_data(config_of(tmp_path, splits="train"))
    identity = {"data_sha256": file_sha256(path)}
    config = {"train_file": str(path), "suite": "own", "map": MAP, "splits": "train"}
    (tmp_path / "training.json").write_text(json.dumps({"identity": identity, "config": config, "step": 1}))
    asked = list(open_file(path, MAP, tmp_path, BadRows())[1])
    # The file's hash alone would count both splits.
    for known in ({}, {"train": identity["data_sha256"], "test": identity["data_sha256"]}):
        assert find_overlap(tmp_path, asked, known, trained_on) == Overlap(8, 10, files=1, unknown=0)
    assert len(data.rows) == 8
    path.write_text(path.read_text() + "\n")
    assert find_overlap(tmp_path, asked, {}, trained_on) == Overlap(0, 10, files=0, unknown=1)


def test_the_command_trains_and_names_the_questions_to_ask(tmp_path, model):
    write_own(tmp_path, [own_row(n) for n in range(10)])
    pixels = {name: value for name, value in SMALL.items() if "pixels" in name or name == "max_frames"}
    flags = [word for name, value in pixels.items() for word in (f"--{name.replace('_', '-')}", value)]
    command = ["train", "--algo", "grpo", "--suite", "own", "--train-file", "own.jsonl", "--map", MAP]
    command += ["--splits", "train", "--model", model, "--out", "out", "--max-steps", 1, "--num-generations", 2]
    command += ["--max-completion-length", 8, "--device", "cpu", "--workers", 1, *flags]
    done = cli_process(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert f"--suite own --questions own.jsonl --map {MAP} --splits test" in said
    (after,) = [line.split("next: seedbench-r1 ")[1] for line in done.stdout.splitlines() if "next: " in line]
    done = cli_process(*after.split(), "--max-new-tokens", 4, "--device", "cpu", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["status"], list(result["splits"])) == ("complete", ["test"])
    (run,) = (tmp_path / "runs").glob("*--own-*")
    overlap = json.loads((run / "training_snapshot.json").read_text())["overlap"]
    assert overlap == {"shared": 0, "checked": 2, "files": 1, "unknown": 0}
