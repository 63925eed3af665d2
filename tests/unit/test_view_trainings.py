"""Trainings in the window of `view`: their logs are read on, cut logs are noticed, and nothing but media is served."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from seedbench_r1.errors import DataError
from seedbench_r1.window.given import Given
from seedbench_r1.window.growing_file import GrowingFile
from seedbench_r1.window.trainings import TrainingLog, Trainings
from tests.command import cli
from tests.unit.test_view import get, start


def metrics(step: int, **more: object) -> dict[str, object]:
    return {"step": step, "epoch": step / 10, "reward": 1.0 + step / 10, "seconds": {"step": 2.0 * step}} | more


def completion(question_id: str, step: int, text: str = "<think>x</think><answer>A</answer>", **more: object) -> dict:
    line = {"step": step, "question_id": question_id, "question": f"What of {question_id}?", "options": ["a", "b"]}
    line |= {"gold": "A", "video": None, "image": None, "text": text, "opened": "", "finish_reason": "stop"}
    return line | {"tokens": 5, "accuracy": 1.0, "format": 1.0} | more


def rollout(question_id: str, step: int, **more: object) -> dict:
    made = {"reward": 2.5, "bonus": 0.5, "likelihood": 0.9, "advantage": 1.0, "regenerated": None, "rewards": {}}
    return completion(question_id, step, **(made | more))


def write(folder: Path, name: str, *lines: dict, mode: str = "a") -> None:
    folder.mkdir(exist_ok=True)
    with (folder / name).open(mode) as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def test_a_log_is_read_on_from_where_it_ended(tmp_path):
    path = tmp_path / "log.jsonl"
    file = GrowingFile(path)
    assert file.more() == (False, [])  # it is not there yet
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert file.more() == (False, [(0, {"step": 1}), (12, {"step": 2})])
    assert file.more() == (False, [])
    with path.open("a") as more:
        more.write('ep": 3}\n')
    assert file.more() == (False, [(24, {"step": 3})])
    assert file.line(12) == {"step": 2}


@pytest.mark.parametrize(
    "after",
    [
        '{"step": 1}\n',  # shorter
        '{"step": 1}\n{"step": 9}\n{"step": 8}\n',  # cut, and as long as before or longer
        "",
    ],
)
@pytest.mark.parametrize("replaced", [True, False])
def test_a_log_that_was_cut_is_read_again(tmp_path, after, replaced):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    file = GrowingFile(path)
    assert len(file.more()[1]) == 2
    if replaced:
        (tmp_path / "new").write_text(after)
        (tmp_path / "new").rename(path)
    else:
        path.write_text(after)
    gone, lines = file.more()
    assert gone
    assert [line for _, line in lines] == [json.loads(line) for line in after.splitlines()]
    path.unlink()
    assert file.more() == (bool(after), [])


def test_junk_in_a_log_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n[2]\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl holds a line that is no JSON object"):
        GrowingFile(tmp_path / "metrics.jsonl").more()


def test_what_is_known_of_a_training_by_hand(tmp_path):
    folder = tmp_path / "care"
    write(folder, "metrics.jsonl", metrics(1), metrics(2, alarms=["zero_std 50 %"]))
    write(folder, "rollouts.jsonl", rollout("t/1", 1), rollout("t/1", 1, reward=0.5, accuracy=0.0), rollout("t/2", 2))
    write(folder, "heldout.jsonl", completion("t/7", 2, consistent=False), completion("t/8", 2, consistent=None))
    found = TrainingLog(folder).overview()
    assert (found["step"], found["epoch"], found["seconds"], found["alarms"]) == (2, 0.2, 3.0, ["zero_std 50 %"])
    assert found["questions"] == ["t/1", "t/2", "t/7", "t/8"]
    assert found["groups"] == [[0, 1, 1.5, [1.0, 0.0]], [1, 2, 2.5, [1.0]]]
    assert found["heldout"] == [[2, 2, 1.0, False], [3, 2, 1.0, None]]
    assert found["media"] == "0000"
    curves = {curve["name"]: curve["points"] for curve in found["curves"]}
    assert curves == {"reward": ((1.0, 1.1), (2.0, 1.2)), "seconds.step": ((1.0, 2.0), (2.0, 4.0))}


def test_a_training_that_goes_back_is_read_again(tmp_path):
    folder = tmp_path / "care"
    write(folder, "metrics.jsonl", metrics(1), metrics(2), metrics(3))
    write(folder, "rollouts.jsonl", rollout("t/1", 1), rollout("t/3", 3))
    log = TrainingLog(folder)
    assert log.overview() is log.overview()  # nothing is read or counted twice
    assert log.overview()["questions"] == ["t/1", "t/3"]
    write(folder, "metrics.jsonl", metrics(1), metrics(2), mode="w")
    write(folder, "rollouts.jsonl", rollout("t/1", 1), mode="w")
    write(folder, "metrics.jsonl", metrics(3, reward=9.0))
    write(folder, "rollouts.jsonl", rollout("t/4", 3, text="another"))
    found = log.overview()
    assert (found["step"], found["questions"]) == (3, ["t/1", "t/4"])
    assert found["curves"][0]["points"] == ((1.0, 1.1), (2.0, 1.2), (3.0, 9.0))
    assert [line["text"] for line in log.texts(1)["rollouts"]["3"]] == ["another"]


def test_names_and_colours_of_several(tmp_path):
    for place in ("a/care", "b/care", "c"):
        (tmp_path / place).mkdir(parents=True)
        write(tmp_path / place, "metrics.jsonl", metrics(1, likelihood=0.5))
    write(tmp_path / "c", "metrics.jsonl", {"step": 1, "loss": 0.5}, mode="w")
    trainings = Trainings()
    name, shown = trainings.state([tmp_path / "a/care", tmp_path / "b/care", tmp_path / "c"])
    assert [training["name"] for training in shown] == ["a/care", "b/care", "c"]
    looks = [(training["colour"], training["dashed"]) for training in shown]
    assert looks == [("var(--c0)", False), ("var(--c0)", True), ("var(--c2)", False)]
    assert trainings.state([tmp_path / "a/care", tmp_path / "b/care", tmp_path / "c"])[0] == name
    write(tmp_path / "c", "metrics.jsonl", {"step": 2, "loss": 0.25})
    assert trainings.state([tmp_path / "a/care", tmp_path / "b/care", tmp_path / "c"])[0] != name


def test_an_experiments_trainings_begin_one_after_the_other(tmp_path):
    (tmp_path / "experiment.json").write_text("{}")
    given = Given([tmp_path])
    assert (given.runs(), given.trainings()) == ([], [])
    (tmp_path / "trainings").mkdir()
    write(tmp_path / "trainings/grpo", "metrics.jsonl")
    assert given.trainings() == [tmp_path / "trainings/grpo"]
    write(tmp_path / "trainings/care", "metrics.jsonl")
    assert given.trainings() == [tmp_path / "trainings/grpo", tmp_path / "trainings/care"]  # the first keeps its place
    (tmp_path / "runs/seedbench-r1/care").mkdir(parents=True)
    (tmp_path / "runs/seedbench-r1/care/manifest.json").write_text("{}")
    assert given.runs() == [tmp_path / "runs/seedbench-r1/care"]


@pytest.fixture
def served(tmp_path, data_root):
    """A window on a training alone, whose log names a clip, a view, and files that are neither."""
    folder = tmp_path / "care"
    clip = next(path for path in data_root.rglob("*.mp4"))
    view = next(path for path in data_root.rglob("*.png"))
    write(folder, "metrics.jsonl", metrics(1))
    write(folder, "rollouts.jsonl", rollout("t/1", 1, video=str(clip), image=str(view)))
    write(folder, "rollouts.jsonl", rollout("t/2", 1, video="/etc/passwd", image=str(folder / "metrics.jsonl")))
    write(folder, "rollouts.jsonl", rollout("<script>alert(1)</script>", 1, video=str(tmp_path / "gone.mp4")))
    address, process = start(folder)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{20,}/", address), process.stderr.read()
    yield address, folder, clip, view
    process.kill()
    process.wait()


def test_a_window_on_a_training_alone(served):
    address, folder, clip, view = served
    status, text, headers = get(address)  # led on to the trainings
    assert (status, b"<title>Trainings</title>" in text, headers["referrer-policy"]) == (200, True, "no-referrer")
    assert b'href="../"' not in text  # there is no page of runs
    status, text, _ = get(f"{address}trainings/state")
    state = json.loads(text)
    (training,) = state["trainings"]
    assert (training["name"], training["media"]) == ("care", "330")
    assert get(f"{address}trainings/state?seen={state['state']}")[0] == 204
    write(folder, "metrics.jsonl", metrics(2))
    assert json.loads(get(f"{address}trainings/state?seen={state['state']}")[1])["trainings"][0]["step"] == 2
    lines = json.loads(get(f"{address}trainings/0/texts/0")[1])
    assert lines["rollouts"]["1"][0]["text"] == "<think>x</think><answer>A</answer>"
    assert "video" not in lines["rollouts"]["1"][0]
    assert get(f"{address}trainings/0/media/0/clip")[1] == clip.read_bytes()
    assert get(f"{address}trainings/0/media/0/view")[1] == view.read_bytes()
    part = get(f"{address}trainings/0/media/0/clip", Range="bytes=5-9")
    assert (part[0], part[1]) == (206, clip.read_bytes()[5:10])
    shutil.rmtree(folder)
    status, text, _ = get(f"{address}trainings/state")
    assert (status, json.loads(text)["trainings"][0]["step"]) == (200, 0)


@pytest.mark.parametrize(
    "path",
    ["media/1/clip", "media/1/view", "media/2/clip", "media/0/../../metrics.jsonl", "media/9/clip", "texts/9"],
)
def test_what_a_log_names_and_is_no_media_is_not_served(served, path):
    get(f"{served[0]}trainings/state")  # the log is read
    status, content, _ = get(f"{served[0]}trainings/0/{path}")
    assert status == 404
    assert b"root:" not in content


def test_a_damaged_log_is_said(served):
    address, folder, *_ = served
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("junk\n")
    status, text, _ = get(f"{address}trainings/state")
    assert (status, b"metrics.jsonl holds a line that is no JSON object" in text) == (503, True)


def test_an_experiment_that_has_not_begun_is_refused(tmp_path):
    (tmp_path / "experiment.json").write_text("{}")
    done = cli("view", tmp_path, "--no-open", cwd=tmp_path)
    assert done.returncode == 4
    assert "holds neither a run nor a training yet" in done.stderr
