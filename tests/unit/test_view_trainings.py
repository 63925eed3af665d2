"""Trainings in the window of `view`: their logs are read on, cut logs are noticed, and nothing but media is served."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import urllib.request
from pathlib import Path

import pytest

from seedbench_r1.errors import DataError
from seedbench_r1.window.given import Given
from seedbench_r1.window.growing_file import GrowingFile, WasCut
from seedbench_r1.window.media import media_there, media_type
from seedbench_r1.window.training_log import TrainingLog
from seedbench_r1.window.training_log import question_key as key
from seedbench_r1.window.trainings import Trainings, names_of
from tests.command import cli
from tests.unit.test_view import get, start

HOSTILE = "<script>alert(1)</script>"


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
    assert list(file.more()) == []  # it is not there yet
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert list(file.more()) == [(0, {"step": 1}), (12, {"step": 2})]
    assert list(file.more()) == []
    with path.open("a") as more:
        more.write('ep": 3}\n')
    assert list(file.more()) == [(24, {"step": 3})]
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
def test_a_log_that_was_cut_is_noticed(tmp_path, after, replaced):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    file = GrowingFile(path)
    assert len(list(file.more())) == 2
    if replaced:
        (tmp_path / "new").write_text(after)
        (tmp_path / "new").rename(path)
    else:
        path.write_text(after)
    with pytest.raises(WasCut):
        list(file.more())
    file.forget()
    assert [line for _, line in file.more()] == [json.loads(line) for line in after.splitlines()]
    path.unlink()
    if after:
        with pytest.raises(WasCut):
            list(file.more())
    else:
        assert list(file.more()) == []


def test_a_log_that_was_replaced_by_one_that_begins_alike_is_noticed(tmp_path):
    """As a training that goes back writes it: what stood last may stand there again."""
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n')
    file = GrowingFile(path)
    assert len(list(file.more())) == 1
    (tmp_path / "new").write_text('{"step": 1}\n{"step": 2}\n')
    (tmp_path / "new").rename(path)
    with pytest.raises(WasCut):
        list(file.more())


def test_junk_in_a_log_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n[2]\n')
    message = r"metrics\.jsonl: the line at byte 12 is not valid JSON\. Fix: remove that line"
    with pytest.raises(DataError, match=message):
        list(GrowingFile(tmp_path / "metrics.jsonl").more())


def test_what_is_known_of_a_training_by_hand(tmp_path):
    folder = tmp_path / "care"
    write(folder, "metrics.jsonl", metrics(1), metrics(2, alarms=["zero_std 50 %"]))
    write(folder, "rollouts.jsonl", rollout("t/1", 1), rollout("t/1", 1, reward=0.5, accuracy=0.0), rollout("t/2", 2))
    write(folder, "heldout.jsonl", completion("t/7", 2, consistent=False), completion("t/8", 2, consistent=None))
    found = TrainingLog(folder).overview()
    assert (found["step"], found["epoch"], found["seconds"], found["alarms"]) == (
        2,
        0.2,
        3.0,
        ["step 2: zero_std 50 %"],
    )
    assert found["questions"] == {key(name): [name, 0] for name in ("t/1", "t/2", "t/7", "t/8")}
    assert found["groups"] == [(1, key("t/1"), 1.5, [1.0, 0.0]), (2, key("t/2"), 2.5, [1.0])]
    rows = [[key("t/7"), [[1.0, False]]], [key("t/8"), [[1.0, None]]]]
    assert found["heldout"] == {"questions": 2, "all_steps": 1, "steps": [2], "rows": rows}
    curves = {curve["name"]: curve["points"] for curve in found["curves"]}
    assert curves == {"reward": ((1.0, 1.1), (2.0, 1.2)), "seconds.step": ((1.0, 2.0), (2.0, 4.0))}


def test_of_many_held_out_answers_the_page_gets_a_part(tmp_path):
    folder = tmp_path / "care"
    answers = [completion(f"t/{n}", step, consistent=True) for step in range(10, 1010, 10) for n in range(150)]
    write(folder, "heldout.jsonl", *answers)
    found = TrainingLog(folder).overview()["heldout"]
    assert (found["questions"], found["all_steps"], len(found["rows"])) == (150, 100, 100)
    assert (len(found["steps"]), found["steps"][0], found["steps"][-1]) == (24, 10, 1000)
    assert found["steps"] == sorted(set(found["steps"]))
    assert all(len(answers) == 24 and None not in answers for _, answers in found["rows"])


def test_a_training_that_goes_back_is_read_again(tmp_path):
    folder = tmp_path / "care"
    write(folder, "metrics.jsonl", metrics(1), metrics(2), metrics(3))
    write(folder, "rollouts.jsonl", rollout("t/1", 1), rollout("t/3", 3))
    log = TrainingLog(folder)
    before = log.overview()
    assert log.overview() is before  # nothing is read or counted twice
    assert list(before["questions"].values()) == [["t/1", 0], ["t/3", 0]]
    write(folder, "metrics.jsonl", metrics(1), metrics(2), mode="w")
    write(folder, "rollouts.jsonl", rollout("t/1", 1), mode="w")
    write(folder, "metrics.jsonl", metrics(3, reward=9.0))
    write(folder, "rollouts.jsonl", rollout("t/4", 3, text="another"))
    # Texts are never another question's, also before the logs are read again.
    with pytest.raises(DataError, match="was cut meanwhile"):
        log.texts(key("t/3"))
    found = log.overview()
    assert (found["step"], list(found["questions"].values())) == (3, [["t/1", 0], ["t/4", 0]])
    assert found["begun"] == before["begun"] + 1
    assert found["curves"][0]["points"] == ((1.0, 1.1), (2.0, 1.2), (3.0, 9.0))
    assert [line["text"] for line in log.texts(key("t/4"))["rollouts"]["3"]] == ["another"]
    assert log.texts(key("t/3")) is None


@pytest.mark.parametrize("name", ["metrics.jsonl", "rollouts.jsonl", "heldout.jsonl"])
def test_nothing_is_lost_by_a_log_that_cannot_be_read_for_a_while(tmp_path, name):
    folder = tmp_path / "care"
    write(folder, "metrics.jsonl", metrics(1))
    write(folder, "rollouts.jsonl", rollout("t/1", 1))
    write(folder, "heldout.jsonl", completion("t/7", 1, consistent=True))
    log = TrainingLog(folder)
    log.overview()
    write(folder, "metrics.jsonl", metrics(2))
    whole = (folder / name).read_text()
    with (folder / name).open("a") as file:
        file.write("junk\n")
    with pytest.raises(DataError, match=name):
        log.overview()
    (folder / name).write_text(whole)
    # At once what was new, before anything more is written.
    assert log.overview() | {"begun": 0} == TrainingLog(folder).overview()
    assert log.overview()["curves"][0]["points"] == ((1.0, 1.1), (2.0, 1.2))
    write(folder, "metrics.jsonl", metrics(3))
    assert log.overview() | {"begun": 0} == TrainingLog(folder).overview()
    assert log.overview()["curves"][0]["points"] == ((1.0, 1.1), (2.0, 1.2), (3.0, 1.3))


@pytest.mark.parametrize(
    "line",
    [
        {"step": 2, "seconds": 3.0},
        {"step": 2, "seconds": {"step": None}},
        {"step": 2, "epoch": "late", "alarms": "all", "rewards": [1]},
        {"step": float("nan")},
        {},
    ],
)
def test_strange_values_in_a_log_are_left_out(tmp_path, line):
    folder = tmp_path / "care"
    write(folder, "metrics.jsonl", metrics(1), line)
    write(folder, "rollouts.jsonl", {"step": 1}, {"question_id": None, "step": "x"}, rollout("t/1", 1, reward=None))
    write(folder, "heldout.jsonl", completion("t/7", 1, consistent="yes"), {"step": 1})
    (folder / "checkpoint-1").mkdir()
    (folder / "checkpoint-1" / "training.json").write_text('{"config": "none", "algorithm": 5}')
    found = TrainingLog(folder).overview()
    json.dumps(found, allow_nan=False)
    assert found["curves"][0]["points"][0] == (1.0, 1.1)
    assert (found["model"], found["checkpoint"]) == ("", "checkpoint-1")


def test_names_and_colours_of_several(tmp_path):
    folders = [tmp_path / place for place in ("a/s0/care", "b/s0/care", "b/s1/care", "c")]
    for folder in folders:
        folder.mkdir(parents=True)
        write(folder, "metrics.jsonl", metrics(1, likelihood=0.5))
    write(tmp_path / "c", "metrics.jsonl", {"step": 1, "loss": 0.5}, mode="w")
    trainings = Trainings()
    name, shown = trainings.state(folders)
    assert [training["name"] for training in shown] == ["a/s0/care", "b/s0/care", "s1/care", "c"]
    looks = [(training["colour"], training["dashed"]) for training in shown]
    assert len(set(looks)) == 4
    assert looks[0] == ("var(--c0)", False)
    assert looks[1] == ("var(--c0)", True)
    assert looks[3] == ("var(--c2)", False)
    assert trainings.state(folders)[0] == name
    write(tmp_path / "c", "metrics.jsonl", {"step": 2, "loss": 0.25})
    assert trainings.state(folders)[0] != name


def test_names_are_as_short_as_they_can_be():
    assert names_of([Path("/x/care"), Path("/x/grpo")]) == ["care", "grpo"]
    long = ["one/trainings/care", "two/trainings/care"]
    assert names_of([Path("/e") / name for name in long]) == long


def test_a_damaged_log_costs_nothing_while_nothing_changes(tmp_path):
    """It is not read from its first line at every question."""
    folder = tmp_path / "care"
    write(folder, "rollouts.jsonl", *(rollout(f"t/{n}", 1) for n in range(50)))
    with (folder / "rollouts.jsonl").open("a") as file:
        file.write("junk\n")
    log, read = TrainingLog(folder), []
    for _ in range(3):
        with pytest.raises(DataError):
            log.overview()
        read.append(log._files["rollouts.jsonl"].read)
    assert len(set(read)) == 1
    assert read[0] > 10_000


def test_alarms_stay_for_ten_steps_and_the_end_is_told(tmp_path):
    folder = tmp_path / "care"
    write(folder, "metrics.jsonl", metrics(1, alarms=["no reasoning"]), metrics(2))
    log = TrainingLog(folder)
    assert (log.overview()["alarms"], log.overview()["ended"]) == (["step 1: no reasoning"], "")
    write(folder, "metrics.jsonl", *(metrics(step) for step in range(3, 12)))
    assert log.overview()["alarms"] == []
    write(folder, "alarm.json", {"why": "no rollout had any reasoning"})
    assert log.overview()["ended"] == "no rollout had any reasoning"


def test_a_checkpoint_that_comes_after_the_last_step_is_noticed_and_a_half_one_hides_nothing(tmp_path):
    folder = tmp_path / "care"
    write(folder, "metrics.jsonl", metrics(1))
    log = TrainingLog(folder)
    assert log.overview()["checkpoint"] == ""
    (folder / "checkpoint-1").mkdir()
    (folder / "checkpoint-1" / "training.json").write_text('{"con')
    assert log.overview()["checkpoint"] == "checkpoint-1"
    (folder / "checkpoint-1" / "training.json").write_text('{"algorithm": "care", "config": {"model": "/m/base/"}}')
    found = log.overview()
    assert (found["algorithm"], found["model"], len(found["curves"])) == ("care", "base", 2)


def test_when_a_step_was_written_is_known(tmp_path):
    write(tmp_path / "care", "metrics.jsonl", metrics(1))
    os.utime(tmp_path / "care" / "metrics.jsonl", (1000, 2000))
    assert Trainings().state([tmp_path / "care"])[1][0]["changed"] == 2000


def test_media_are_where_the_last_line_names_them(tmp_path):
    """A training that began under a relative data root, or elsewhere, and goes on."""
    folder = tmp_path / "out"
    write(folder, "metrics.jsonl", metrics(1))
    (tmp_path / "a.png").write_bytes(b"")
    write(folder, "rollouts.jsonl", rollout("t/1", 1, image="data/a.png"))
    log = TrainingLog(folder)
    assert list(log.overview()["questions"].values()) == [["t/1", 0]]
    write(folder, "rollouts.jsonl", rollout("t/1", 2, image=str(tmp_path / "a.png")))
    assert list(log.overview()["questions"].values()) == [["t/1", 2]]


def test_a_step_that_was_cut_is_not_another_steps_text(tmp_path):
    folder = tmp_path / "care"
    write(folder, "metrics.jsonl", metrics(1), metrics(2))
    write(folder, "rollouts.jsonl", rollout("t/1", 1, text="a"), rollout("t/1", 2, text="b"))
    log = TrainingLog(folder)
    log.overview()
    # The same question stands there now, of another step.
    write(folder, "rollouts.jsonl", rollout("t/1", 3, text="a"), rollout("t/1", 2, text="b"), mode="w")
    with pytest.raises(DataError, match="was cut meanwhile"):
        log.texts(key("t/1"))


def test_a_log_whose_folder_may_not_be_read_is_one_trainings_trouble(tmp_path, monkeypatch):
    write(tmp_path / "good", "metrics.jsonl", metrics(1))
    write(tmp_path / "bad", "metrics.jsonl", metrics(1))
    plain = GrowingFile.more

    def more(self):
        if "bad" in str(self.path):
            raise PermissionError(13, "Permission denied", str(self.path))
        return plain(self)

    monkeypatch.setattr(GrowingFile, "more", more)
    _, (good, bad) = Trainings().state([tmp_path / "good", tmp_path / "bad"])
    assert (good["step"], "Permission denied" in bad["error"]) == (1, True)


def test_a_damaged_training_does_not_hide_the_others(tmp_path):
    write(tmp_path / "good", "metrics.jsonl", metrics(1))
    write(tmp_path / "bad", "metrics.jsonl", metrics(1))
    (tmp_path / "bad" / "rollouts.jsonl").write_text("junk\n")
    _, (good, bad) = Trainings().state([tmp_path / "good", tmp_path / "bad"])
    assert (good["error"], good["step"]) == ("", 1)
    assert "rollouts.jsonl: the line at byte 0 is not valid JSON" in bad["error"]


def test_a_training_is_listed_once_and_a_run_next_to_its_logs_too(tmp_path):
    both = tmp_path / "both"
    write(both, "metrics.jsonl", metrics(1))
    (tmp_path / "link").symlink_to(both)
    (tmp_path / "x").mkdir()
    given = Given([both, tmp_path / "x" / ".." / "both", tmp_path / "link"])
    assert given.trainings() == [both]
    assert given.runs() == []
    (both / "manifest.json").write_text("{}")
    assert given.runs()[0] == both


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
    write(folder, "rollouts.jsonl", rollout(HOSTILE, 1, video=str(tmp_path / "gone.mp4")))
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
    assert training["name"] == "care"
    assert training["questions"] == {key("t/1"): ["t/1", 3], key("t/2"): ["t/2", 0], key(HOSTILE): [HOSTILE, 0]}
    assert get(f"{address}trainings/state?seen={state['state']}")[0] == 204
    write(folder, "metrics.jsonl", metrics(2))
    assert json.loads(get(f"{address}trainings/state?seen={state['state']}")[1])["trainings"][0]["step"] == 2
    texts, media = (f"{address}trainings/0/{kind}/{key('t/1')}" for kind in ("texts", "media"))
    lines = json.loads(get(texts)[1])
    assert lines["rollouts"]["1"][0]["text"] == "<think>x</think><answer>A</answer>"
    assert "video" not in lines["rollouts"]["1"][0]
    assert get(f"{media}/clip")[1] == clip.read_bytes()
    assert get(f"{media}/view")[1] == view.read_bytes()
    part = get(f"{media}/clip", Range="bytes=5-9")
    assert (part[0], part[1]) == (206, clip.read_bytes()[5:10])
    shutil.rmtree(folder)
    status, text, _ = get(f"{address}trainings/state")
    assert (status, json.loads(text)["trainings"][0]["step"]) == (200, 0)


@pytest.mark.parametrize(
    ("question", "kind"),
    [("t/2", "clip"), ("t/2", "view"), (HOSTILE, "clip"), ("t/1", "manifest.json"), ("t/9", "clip")],
)
def test_what_a_log_names_and_is_no_media_is_not_served(served, question, kind):
    get(f"{served[0]}trainings/state")  # the log is read
    status, content, _ = get(f"{served[0]}trainings/0/media/{key(question)}/{kind}")
    assert status == 404
    assert b"root:" not in content
    assert get(f"{served[0]}trainings/0/texts/{key('t/9')}")[0] == 404
    assert get(f"{served[0]}trainings/7/texts/{key('t/1')}")[0] == 404


def test_only_pictures_and_clips_that_do_nothing_are_media(tmp_path):
    for name in ("a.mp4", "a.MKV", "a.webp", "a.svg", "a.html", "a"):
        (tmp_path / name).write_text("x")
    (tmp_path / "link.mp4").symlink_to("/etc/passwd")
    found = {path.name: media_type(path) for path in tmp_path.iterdir()}
    assert found.pop("a.mp4") == "video/mp4"
    assert found.pop("a.MKV") == "video/x-matroska"
    assert found.pop("a.webp") == "image/webp"
    assert set(found.values()) == {None}
    assert media_type(tmp_path / "gone.mp4") is None


def test_media_of_the_hubs_cache_are_media_and_what_only_pretends_is_not(tmp_path, data_root):
    """Links to files without an ending, which begin as clips and pictures do."""
    for source in (next(data_root.rglob("*.mp4")), next(data_root.rglob("*.png"))):
        blob = tmp_path / f"blob-of-{source.suffix[1:]}"
        blob.write_bytes(source.read_bytes())
        link = tmp_path / f"link{source.suffix}"
        link.symlink_to(blob)
        assert media_type(link) == media_type(source)
        blob.write_text("root:x:0:0")
        assert media_type(link) is None


def test_a_folder_that_may_not_be_entered_is_as_if_it_were_not_there(monkeypatch, tmp_path):
    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "is_file", refuse)
    assert media_there(tmp_path / "a.mp4", tmp_path / "a.png") == 0


def test_a_damaged_log_is_said(served):
    address, folder, *_ = served
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("junk\n")
    status, text, _ = get(f"{address}trainings/state")
    assert (status, "metrics.jsonl: the line at byte" in json.loads(text)["trainings"][0]["error"]) == (200, True)


def test_texts_of_half_a_character_and_numbers_that_are_none_are_served(served):
    """As servers send that cut UTF-16: the logs hold them."""
    address, folder, *_ = served
    half = "cut \ud83d"
    write(folder, "rollouts.jsonl", rollout(f"t/{half}", 1, text=half, reward=float("nan")))
    state = json.loads(get(f"{address}trainings/state")[1])
    assert [f"t/{half}", 0] in state["trainings"][0]["questions"].values()
    status, text, _ = get(f"{address}trainings/0/texts/{key(f't/{half}')}")
    (line,) = json.loads(text)["rollouts"]["1"]
    assert (status, line["text"], line["reward"]) == (200, half, None)


def test_ctrl_c_ends_the_window_while_a_clip_is_half_sent(tmp_path, data_root):
    clip = tmp_path / "long.mp4"
    clip.write_bytes(next(data_root.rglob("*.mp4")).read_bytes() + bytes(200_000_000))
    write(tmp_path / "care", "metrics.jsonl", metrics(1))
    write(tmp_path / "care", "rollouts.jsonl", rollout("t/1", 1, video=str(clip)))
    address, process = start(tmp_path / "care")
    try:
        get(f"{address}trainings/state")
        with urllib.request.urlopen(f"{address}trainings/0/media/{key('t/1')}/clip", timeout=30) as reply:
            reply.read(1000)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=15) == 0
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()


def test_runs_that_cannot_be_shown_do_not_hide_trainings(tmp_path):
    write(tmp_path / "care", "metrics.jsonl", metrics(1))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text("{}")
    address, process = start(tmp_path / "run", tmp_path / "care")
    try:
        assert get(f"{address}trainings/state")[0] == 200
        assert get(address)[0] == 503
        process.terminate()
        assert "the runs cannot be shown, the trainings can" in process.stderr.read()
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("out", "holds 1 trainings and is none itself. Fix: seedbench-r1 view"),
        ("out/care/checkpoint-1", "lies in a training. Fix: seedbench-r1 view"),
    ],
)
def test_folders_around_and_in_a_training_are_refused_with_the_line_to_type(tmp_path, path, message):
    (tmp_path / "out").mkdir()
    write(tmp_path / "out" / "care", "metrics.jsonl", metrics(1))
    (tmp_path / "out" / "care" / "checkpoint-1").mkdir()
    done = cli("view", tmp_path / path, "--no-open", cwd=tmp_path)
    assert (done.returncode, message in done.stderr) == (4, True), done.stderr


def test_an_experiment_that_has_not_begun_is_refused(tmp_path):
    (tmp_path / "experiment.json").write_text("{}")
    done = cli("view", tmp_path, "--no-open", cwd=tmp_path)
    assert done.returncode == 4
    assert "holds neither a run nor a training yet" in done.stderr
