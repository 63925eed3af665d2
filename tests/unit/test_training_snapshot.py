"""What a run keeps of its checkpoint's training: curves up to its step, and which of its questions it had seen."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from seedbench_r1.backends.fake import FakeBackend
from seedbench_r1.engines.plan import plan
from seedbench_r1.errors import DataError
from seedbench_r1.models.checkpoint import Checkpoint
from seedbench_r1.questions import file_sha256
from seedbench_r1.runs.directory import load_run
from seedbench_r1.runs.training_snapshot import (
    FILE,
    MAX_POINTS,
    Overlap,
    TrainingSnapshot,
    curves,
    load_snapshot,
    read_lines,
    take_snapshot,
    thin,
    write_curves,
    write_snapshot,
)
from seedbench_r1.suites.own import trained_on as read_own
from seedbench_r1.types import Question
from tests.evaluation import evaluate
from tests.rows import training_row, write_rows
from tests.unit.test_evaluate import configure


def line(step, **values):
    return {"step": step, "reward": step / 10, "kl": None, "loss": -0.5, "grad_norm": 1.0} | values


def checkpoint(out, step, *, lines=(), **training):
    """out/checkpoint-<step> with its training.json, and out/metrics.jsonl."""
    folder = out / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    content = {"step": step, "algorithm": "care", "identity": {"seed": 1}, "config": {}} | training
    (folder / "training.json").write_text(json.dumps(content), encoding="utf-8")
    (out / "metrics.jsonl").write_text("".join(json.dumps(value) + "\n" for value in lines), encoding="utf-8")
    return folder


def question(number, split="L1", **changes):
    made = Question(
        question_id=f"{split}/{number}",
        split=split,
        text="What next?",
        options=("a", "b", "c", "d"),
        gold="A",
        video=Path("videos") / f"{number}.mp4",
        image=Path("images") / f"{number}.png",
        cluster="P01",
        domain=None,
        task_goal="make tea",
    )
    return replace(made, **changes)


def test_curves_end_at_the_checkpoint(tmp_path):
    folder = checkpoint(tmp_path, 20, lines=[line(step) for step in range(1, 41)])
    snapshot = take_snapshot(folder, [], {}, read_own)
    assert (snapshot.step, snapshot.overlap) == (20, Overlap(0, 0, files=0, unknown=1))
    assert snapshot.curves["reward"] == tuple((float(step), step / 10) for step in range(1, 21))
    assert set(snapshot.curves) == {"reward", "loss", "grad_norm"}  # no kl was measured
    later = checkpoint(tmp_path / "again", 40, lines=[line(1)])
    assert take_snapshot(later, [], {}, read_own).training_id == snapshot.training_id
    other = checkpoint(tmp_path / "other", 40, identity={"seed": 2})
    assert take_snapshot(other, [], {}, read_own).training_id != snapshot.training_id


def test_a_checkpoint_that_was_copied_alone_keeps_its_curves(tmp_path):
    folder = checkpoint(tmp_path / "out", 20, lines=[line(step) for step in range(1, 21)])
    before = take_snapshot(folder, [], {}, read_own)
    write_curves(folder, curves(read_lines(tmp_path / "out" / "metrics.jsonl")))
    moved = tmp_path / "elsewhere" / "model"
    shutil.copytree(folder, moved)
    # Metrics next to it may be another training's.
    (moved.parent / "metrics.jsonl").write_text(json.dumps(line(1, reward=99.0)) + "\n")
    assert take_snapshot(moved, [], {}, read_own) == before
    (moved / "curves.json").write_text(json.dumps({"schema": "sbr1.curves/9", "curves": {}}))
    with pytest.raises(DataError, match=r"curves\.json has schema .*sbr1.curves/9.*expected"):
        take_snapshot(moved, [], {}, read_own)
    (moved / "curves.json").write_text(json.dumps({"schema": "sbr1.curves/1", "curves": {"reward": [["a", 1]]}}))
    with pytest.raises(DataError, match="cannot be read"):
        take_snapshot(moved, [], {}, read_own)


def test_a_model_that_was_not_trained_here(tmp_path):
    assert take_snapshot(tmp_path, [question(1)], {}, read_own) is None


def test_what_is_no_number_is_left_out():
    found = curves(
        [
            {"step": 1, "reward": float("nan"), "heldout": {"n": 4, "accuracy": 0.5}, "length": True},
            {"step": 2, "reward": 0.5, "grad_norm": "high", "heldout": {"n": 0, "accuracy": None}},
            {"step": 2, "reward": 0.75},
        ]
    )
    assert found == {"reward": ((2.0, 0.75),), "heldout_accuracy": ((1.0, 0.5),)}


def test_the_loss_of_supervised_training_is_another_one():
    found = curves([{"step": 1, "loss": 1.5, "length": 80.0, "grad_norm": 2.0}])
    assert found == {"sft_loss": ((1.0, 1.5),), "grad_norm": ((1.0, 2.0),)}


@pytest.mark.parametrize("n", [1, 299, 300, 301, 600, 1500, 1501, 20_000])
def test_thinning_keeps_means_and_the_end(n):
    points = [(float(step), float(step * step)) for step in range(1, n + 1)]
    thinned = thin(points)
    assert len(thinned) <= MAX_POINTS
    assert thinned[-1] == points[-1] or thinned[-1] == pytest.approx(points[-1], rel=1e-5)
    steps = [step for step, _ in thinned]
    assert steps == sorted(set(steps))
    if n <= MAX_POINTS:
        assert thinned == tuple(points)
    else:
        size = -(-n // MAX_POINTS)
        first = points[:size]
        assert thinned[0] == pytest.approx([sum(axis) / size for axis in zip(*first, strict=True)], rel=1e-5)


def test_a_hugging_face_trainers_state(tmp_path):
    """Names as TRL and as GRPO-CARE's own trainer write them; the last entry of a training is about the whole."""
    history = [
        {"step": 1, "reward": 0.5, "rewards/accuracy_reward": 0.25, "rewards/bonus_rewards": 0.125, "kl": 0.01},
        {"step": 2, "completion_length": 200.0, "rewards/accuracy_reward/mean": 0.5, "completions/mean_length": 190.0},
        {"step": 2, "train_runtime": 5.0},
        {"step": 3, "reward": 9.0},
    ]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"global_step": 2, "log_history": history}))
    snapshot = take_snapshot(tmp_path, [], {}, read_own)
    assert snapshot.step == 2
    assert snapshot.overlap is None
    assert snapshot.curves == {
        "reward": ((1.0, 0.5),),
        "accuracy": ((1.0, 0.25), (2.0, 0.5)),
        "bonus": ((1.0, 0.125),),
        "kl": ((1.0, 0.01),),
        "length": ((2.0, 190.0),),
    }


def trained_on(data, rows, name="training_6k.jsonl"):
    path = write_rows(data / "annotations" / name, rows)
    return {"identity": {"data_sha256": file_sha256(path)}, "config": {"data": str(data), "train_file": None}}


def test_questions_that_were_trained_on_are_counted(tmp_path):
    rows = [training_row(number) for number in range(5)]
    training = trained_on(tmp_path / "data", rows)
    asked = [question(3), question(4), question(5), question(6, video=None), question(2, task_goal="cook")]
    folder = checkpoint(tmp_path / "out", 10, **training)
    assert take_snapshot(folder, asked, {"L1": "x"}, read_own).overlap == Overlap(
        shared=2, checked=5, files=1, unknown=0
    )
    (tmp_path / "data" / "annotations" / "training_6k.jsonl").write_text("{}\n")
    assert take_snapshot(folder, asked, {}, read_own).overlap == Overlap(shared=0, checked=5, files=0, unknown=1)


def test_training_on_the_evaluated_file_itself_needs_no_file(tmp_path):
    folder = checkpoint(tmp_path, 10, identity={"data_sha256": "abc"})
    asked = [question(1), question(2), question(1, split="L3")]
    assert take_snapshot(folder, asked, {"L1": "abc", "L3": "def"}, read_own).overlap == Overlap(
        2, 3, files=1, unknown=0
    )


def test_the_checkpoint_before_counts_too(tmp_path):
    """SFT on a validation question, then CARE on others: the chain is followed through config.model."""
    first = checkpoint(
        tmp_path / "sft", 10, **trained_on(tmp_path / "a", [training_row(7)], "training_with_cot_6k.jsonl")
    )
    second = trained_on(tmp_path / "b", [training_row(1)])
    second["config"]["model"] = str(first)
    folder = checkpoint(tmp_path / "care", 20, **second)
    assert take_snapshot(folder, [question(7), question(8)], {}, read_own).overlap == Overlap(1, 2, files=2, unknown=0)
    own = json.loads((folder / "training.json").read_text())
    own["config"]["model"] = str(folder)  # a circle ends
    (folder / "training.json").write_text(json.dumps(own))
    assert take_snapshot(folder, [question(7)], {}, read_own).overlap == Overlap(0, 1, files=1, unknown=0)


def test_written_and_read_back(tmp_path):
    snapshot = TrainingSnapshot("ab" * 8, 20, {"reward": ((1.0, 0.25), (2.0, 0.5))}, Overlap(1, 2, 3, 0))
    assert load_snapshot(tmp_path) is None
    write_snapshot(tmp_path, snapshot)
    assert load_snapshot(tmp_path) == snapshot
    for text in ("{", "[]", '{"schema": "sbr1.training-snapshot/9"}', '{"schema": "sbr1.training-snapshot/1"}'):
        (tmp_path / FILE).write_text(text)
        with pytest.raises(DataError, match=FILE):
            load_snapshot(tmp_path)


def evaluated(data_root, tmp_path, folder):
    """A run of the scripted backend that passes for one of the checkpoint in `folder`."""
    (folder / "model.safetensors").write_bytes(b"weights")
    planned = plan(configure(data_root, tmp_path))
    planned = replace(planned, checkpoint=Checkpoint(planned.manifest.model, folder, None, 28, "ours", 7, {}))
    result = evaluate(planned, lambda _: FakeBackend.from_file(Path(planned.config.model)))
    assert result.summary.status == "complete"
    return load_run(planned.path)


def test_an_evaluation_keeps_it(data_root, tmp_path):
    folder = checkpoint(tmp_path / "out", 3, lines=[line(step) for step in (1, 2, 3, 4)], identity={"data_sha256": "x"})
    run = evaluated(data_root, tmp_path, folder)
    snapshot = load_snapshot(run.path)
    assert [step for step, _ in snapshot.curves["reward"]] == [1.0, 2.0, 3.0]
    assert snapshot.overlap == Overlap(0, len(run.questions), files=0, unknown=1)


def test_damaged_metrics_cost_no_answer(data_root, tmp_path):
    folder = checkpoint(tmp_path / "out", 3)
    (tmp_path / "out" / "metrics.jsonl").write_text("what\n")
    run = evaluated(data_root, tmp_path, folder)
    assert load_snapshot(run.path) is None
    events = [json.loads(text) for text in (run.path / "events.jsonl").read_text().splitlines()]
    (problem,) = [event["problem"] for event in events if event["event"] == "training_snapshot"]
    assert "metrics.jsonl:1" in problem
