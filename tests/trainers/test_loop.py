"""The loop: it learns, continues bit for bit, survives kills, and counts the same in any number of processes."""

import dataclasses
import json
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from seedbench_r1.cli.app import app
from seedbench_r1.config import resolve_eval_config
from seedbench_r1.errors import ConfigError, DataError
from seedbench_r1.models.checkpoint import list_checkpoints
from seedbench_r1.runs.training_snapshot import read_lines
from tests.trainers.launch import (
    assert_same_checkpoint,
    command,
    environment,
    metrics_of,
    state_of,
)
from tests.trainers.toy import plan_and_train, toy_config
from trainers.checkpoints import read_training
from trainers.data import QuestionStream, read_data
from trainers.groups import Rollout, completion_line
from trainers.loop import train
from trainers.plan import plan_training
from trainers.resolve import resolve_train_config

SMALL = {"max_steps": 4, "num_generations": 4, "gradient_accumulation_steps": 2, "save_steps": 100}


@pytest.mark.parametrize(
    "options",
    [{}, {"lora": True, "learning_rate": 0.01}, {"dtype": "bfloat16", "learning_rate": 1e-5}],
    ids=["full", "lora", "bfloat16"],
)
def test_two_and_two_steps_are_four(toy, tmp_path, options):
    settings = SMALL | {"ema_every": 1, "ema_decay": 0.9} | options
    whole = plan_and_train(toy_config(toy.sft, toy.data, tmp_path / "whole", "care", **settings))
    config = toy_config(toy.sft, toy.data, tmp_path / "parts", "care", **settings)
    stop = threading.Event()
    first = plan_and_train(config, stop=stop, observe=lambda line: stop.set() if line["step"] == 2 else None)
    assert (first.step, first.finished, first.checkpoint.name) == (2, False, "checkpoint-2")
    assert plan_training(config).done == 2
    second = plan_and_train(config)
    assert (second.step, second.finished) == (4, True)
    assert_same_checkpoint(whole.checkpoint, second.checkpoint)
    assert metrics_of(tmp_path / "parts") == metrics_of(tmp_path / "whole")
    assert any(line["policy_passes"] for line in metrics_of(tmp_path / "whole"))
    assert (tmp_path / "parts" / "rollouts.jsonl").read_text() == (tmp_path / "whole" / "rollouts.jsonl").read_text()
    assert load_state_difference(first.checkpoint, whole.checkpoint) > 0


def load_state_difference(one: Path, other: Path) -> float:
    (name,) = (path.name for path in other.glob("*.safetensors"))
    left, right = load_file(one / name), load_file(other / name)
    return max(float((left[key] - right[key]).abs().max()) for key in right)


def test_a_finished_training_is_not_trained_again(toy, tmp_path):
    config = toy_config(toy.sft, toy.data, tmp_path, "grpo", preset="grpo-nokl", **SMALL | {"max_steps": 1})
    plan = plan_training(config)
    first = train(plan)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    assert train(plan_training(config)) == first
    with pytest.raises(ConfigError, match="other checkpoints than when this training was planned"):
        train(plan)
    with pytest.raises(ValueError, match="planned for 2 processes, but there are 1"):
        train(plan_training(dataclasses.replace(config, gradient_accumulation_steps=1), world_size=2))
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_kill_costs_the_steps_since_the_last_checkpoint(toy, tmp_path):
    settings = SMALL | {"max_steps": 12, "save_steps": 2}
    config = toy_config(toy.sft, toy.data, tmp_path / "killed", "care", **settings)
    child = subprocess.Popen(command(config), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while len(read_lines(config.out / "metrics.jsonl")) < 5:
        assert child.poll() is None, child.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert list_checkpoints(config.out)[-1].name != "checkpoint-12"
    for folder in list_checkpoints(config.out):
        assert read_training(folder).progress.step == int(folder.name.split("-")[1])
    assert state_of(list_checkpoints(config.out)[-1])
    resumed = CliRunner().invoke(app, command(config, "--json")[3:])
    assert resumed.exit_code == 0, resumed.output
    assert json.loads(resumed.stdout)["step"] == 12
    whole = plan_and_train(toy_config(toy.sft, toy.data, tmp_path / "whole", "care", **settings))
    assert_same_checkpoint(whole.checkpoint, config.out / "checkpoint-12")
    assert metrics_of(config.out) == metrics_of(tmp_path / "whole")
    kept = [folder.name for folder in list_checkpoints(config.out)]
    # Where this toy has collapsed by then, one from before it is kept as well.
    assert kept[-3:] == ["checkpoint-8", "checkpoint-10", "checkpoint-12"]
    assert len(kept) <= 4


def test_eval_takes_the_checkpoint(toy, tmp_path):
    from seedbench_r1.engines.local import LocalEngine
    from seedbench_r1.engines.plan import plan as plan_eval
    from seedbench_r1.engines.run import run_plan

    config = toy_config(toy.sft, toy.data, tmp_path / "out", "care", **SMALL | {"max_steps": 1})
    folder = plan_and_train(config).checkpoint
    options = {
        "model": str(folder),
        "data_root": toy.data,
        "annotations": toy.data / "annotations" / "training_6k.jsonl",
        "runs_dir": tmp_path / "runs",
        "prompt_file": toy.data / "prompt.toml",
        "image_min_pixels": 3136,
        "image_max_pixels": 3136,
        "max_new_tokens": 16,
        "device": "cpu",
    }
    planned = plan_eval(resolve_eval_config(options, environ={}, working_dir=tmp_path))
    assert run_plan(planned, LocalEngine()).summary.status == "complete"
    info = planned.manifest.model
    assert (info.algorithm, info.step, info.base_model) == ("care", 1, str(toy.raw))
    sdpa = json.loads((folder / "config.json").read_text())
    assert "seedbench" not in json.dumps(sdpa)


def test_another_configuration_is_refused_with_the_differing_keys(toy, tmp_path):
    base = SMALL | {"max_steps": 1}
    plan_and_train(toy_config(toy.sft, toy.data, tmp_path, "care", **base))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = {"num_generations": 5, "bonus_margin": 0.01}
    with pytest.raises(ConfigError, match=r"bonus_margin: 0\.0 there, 0\.01 here.*num_generations: 4 there, 5 here"):
        plan_training(toy_config(toy.sft, toy.data, tmp_path, "care", **base | other))
    with pytest.raises(ConfigError, match="model_fingerprint"):
        plan_training(toy_config(toy.raw, toy.data, tmp_path, "care", **base))
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    free = {
        "rollout_batch_size": 1,
        "save_steps": 7,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
    }
    assert plan_training(toy_config(toy.sft, toy.data, tmp_path, "care", **base | free)).done == 1


def test_unusable_questions_are_replaced_by_the_next_and_counted(toy, tmp_path):
    data = tmp_path / "data"
    rows = [json.loads(line) for line in (toy.data / "annotations" / "training_6k.jsonl").read_text().splitlines()]
    rows[1]["current_observation_basename"] = "broken.png"
    rows[2]["question"] = "long " * 600  # longer than the context of 512
    images = data / "images" / "EpicKitchens"
    images.mkdir(parents=True)
    (images / "one.png").write_bytes((toy.data / "images" / "EpicKitchens" / "one.png").read_bytes())
    (images / "broken.png").write_bytes(b"no picture")
    (data / "annotations").mkdir()
    (data / "annotations" / "training_6k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = toy_config(toy.sft, data, tmp_path / "out", "grpo", preset="grpo-nokl", **SMALL)
    result = plan_and_train(config)
    stream, used, bad = QuestionStream(read_data(config).rows, config.seed), [], []
    while len(used) < 8:  # 4 steps of 2
        drawn = stream.take(1)[0].question.question_id
        (bad if drawn in ("train/1", "train/2") else used).append(drawn)
    lines = metrics_of(tmp_path / "out")
    assert result.replaced == lines[-1]["replaced"] == len(bad) > 0
    named = [entry["question_id"] for line in lines for entry in line.get("unusable", ())]
    assert sorted(named) == sorted(bad)
    parts = dataclasses.replace(config, out=tmp_path / "parts")
    stop = threading.Event()
    first = plan_and_train(parts, stop=stop, observe=lambda line: stop.set() if line["step"] == 3 else None)
    assert 0 < first.replaced < result.replaced
    assert read_training(first.checkpoint).progress.replaced == first.replaced
    assert plan_and_train(parts).replaced == result.replaced
    assert metrics_of(tmp_path / "parts") == lines
    (images / "broken.png").unlink()
    with pytest.raises(DataError, match=r"1 media files .* missing.*--allow-missing"):
        plan_and_train(toy_config(toy.sft, data, tmp_path / "out2", "grpo", preset="grpo-nokl", **SMALL))
    (images / "one.png").write_bytes(b"no picture")
    options = SMALL | {"allow_missing": True}
    with pytest.raises(DataError, match="No training question can be used"):
        plan_and_train(toy_config(toy.sft, data, tmp_path / "out3", "grpo", preset="grpo-nokl", **options))


def test_the_first_step_is_shown_at_once_then_every_few_in_one_line_each(toy, tmp_path):
    config = toy_config(toy.sft, toy.data, tmp_path, "care", **SMALL | {"max_steps": 7})
    shown = CliRunner().invoke(app, command(config, "--logging-steps", "3", "--rollout-log-steps", "3")[3:])
    assert shown.exit_code == 0, shown.output
    lines = [line for line in shown.stderr.splitlines() if line.strip().startswith("step ")]
    assert [line.split()[1] for line in lines] == ["1/7", "3/7", "6/7", "7/7"]
    measured = metrics_of(tmp_path)
    for line, steps in zip(lines, ([0], [1, 2], [3, 4, 5], [6]), strict=True):
        accuracy = sum(measured[step]["accuracy"] for step in steps) / len(steps)  # since the line before
        assert f"acc {accuracy:.2f}" in line
        assert "rollouts" in line  # where the time went
    assert len(shown.stderr.splitlines()) == len(lines) + 3  # after three lines that say what will be done
    # A logged rollout can be read without the annotation file.
    questions = {row.question.question_id: row.question for row in read_data(config).rows}
    logged = read_lines(tmp_path / "rollouts.jsonl")
    assert sorted({line["step"] for line in logged}) == [1, 4, 7]
    for line in logged:
        question = questions[line["question_id"]]
        assert line["question"] == question.text
        assert (tuple(line["options"]), line["gold"]) == (question.options, question.gold)
        shown = [None if path is None else str(path) for path in (question.video, question.image)]
        assert [line["video"], line["image"]] == shown != [None, None]
    # Of a data root named as it is called in this folder, the absolute path: the log is read from any folder.
    asked = dataclasses.replace(question, video=Path("clip.mp4"), image=None)
    said = completion_line(asked, Rollout((1,), "", "stop"), accuracy=0.0, format_reward=0.0)
    assert (said["video"], said["image"]) == (str(Path.cwd() / "clip.mp4"), None)


def test_held_out_questions_are_answered_and_never_trained_on(toy, tmp_path):
    settings = SMALL | {"max_steps": 6, "gradient_accumulation_steps": 1, "eval_every": 3, "eval_questions": 2}
    config = toy_config(toy.sft, toy.data, tmp_path, "care", rollout_log_steps=1, **settings)
    planned = plan_training(config)
    held = {row.question.question_id for row in planned.heldout}
    assert (len(held), len(planned.rows)) == (2, 2)
    plan_and_train(config)
    asked = {line["question_id"] for line in read_lines(tmp_path / "rollouts.jsonl")}
    assert asked == {row.question.question_id for row in planned.rows}
    measured = {line["step"]: line["heldout"] for line in metrics_of(tmp_path) if "heldout" in line}
    assert sorted(measured) == [3, 6]
    assert all(value["n"] == 2 and 0 <= value["accuracy"] <= 1 for value in measured.values())
    assert measured[6]["format"] > 0
    assert all(value["undecided"] == 2 or 0 <= value["consistency"] <= 1 for value in measured.values())
    answers = read_lines(tmp_path / "heldout.jsonl")
    assert [(line["step"], line["question_id"]) for line in answers] == [(s, q) for s in (3, 6) for q in sorted(held)]
    for step, value in measured.items():
        lines = [line for line in answers if line["step"] == step]
        assert sum(line["accuracy"] for line in lines) / 2 == value["accuracy"]
        assert sum(line["consistent"] is None for line in lines) == value["undecided"]
        assert all(line["text"] and line["tokens"] > 0 and line["gold"] in "ABCD" for line in lines)
    kept = json.loads((tmp_path / "checkpoint-6" / "curves.json").read_text())["curves"]
    assert kept["heldout_accuracy"] == [[step, measured[step]["accuracy"]] for step in (3, 6)]
    assert [step for step, _ in kept["reward"]] == [1, 2, 3, 4, 5, 6]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A data root with rendered clips, for all families."""
    from seedbench_r1.demo.dataset_writer import write_benchmark

    root = tmp_path_factory.mktemp("clips")
    write_benchmark(root, questions={}, train=4, cot=4, frame_size=(64, 64), fps=8, seconds=1.0)
    return root


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_clips_and_images_train_in_every_family(clips, tmp_path, family):
    from seedbench_r1.demo.tiny_model import write_tiny_checkpoint
    from seedbench_r1.demo.traces import vocabulary_texts

    write_tiny_checkpoint(tmp_path / "model", family=family, vocabulary_texts=vocabulary_texts())
    options = {"model": str(tmp_path / "model"), "data": clips, "device": "cpu", "workers": 1, "max_frames": 4}
    options |= {"max_pixels": 4096, "min_pixels": 1024, "image_max_pixels": 4096, "max_completion_length": 256}
    options |= {"max_steps": 1, "gradient_accumulation_steps": 2}
    sft = {"algo": "sft", "out": tmp_path / "sft", "warmup_ratio": 0.0}
    trained = plan_and_train(resolve_train_config(options | sft))
    (line,) = metrics_of(tmp_path / "sft")
    assert line["grad_norm"] > 0
    assert line["replaced"] == 0
    more = {"algo": "grpo", "lora": True, "max_completion_length": 4, "num_generations": 2, "out": tmp_path / "grpo"}
    plan_and_train(resolve_train_config(options | more | {"model": str(trained.checkpoint)}))
    (line,) = metrics_of(tmp_path / "grpo")
    assert line["policy_passes"] == 2
    assert line["kl"] == pytest.approx(0.0, abs=1e-6)
    weights = load_file(tmp_path / "grpo" / "checkpoint-1" / "adapter_model.safetensors")
    assert len(weights) == 2 * 2 * 7  # A and B of seven layers in each of two blocks
