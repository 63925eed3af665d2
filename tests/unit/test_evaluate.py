"""The loop with real media, real decoding processes and the scripted backend."""

import functools
import json
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from seedbench_r1.backends.fake import FakeBackend
from seedbench_r1.config import resolve_eval_config
from seedbench_r1.engines.plan import plan
from seedbench_r1.errors import ConfigError, DataError, IncompleteRun
from seedbench_r1.media.frames import load_media
from seedbench_r1.questions import load_questions
from seedbench_r1.runs.directory import load_run
from seedbench_r1.types import Failure, RunRecord
from tests.evaluation import evaluate
from tests.small_benchmark import copy_of, write_script

pytestmark = pytest.mark.usefixtures("shared_decoders")


def configure(data_root: Path, folder: Path, **options):
    script = folder / "script.json"
    if not script.exists():
        write_script(script)
    given = {"model": str(script), "backend": "fake", "data_root": data_root, "runs_dir": folder / "runs", **options}
    return resolve_eval_config(given, environ={}, working_dir=folder)


def run(config, answer=None, **extra):
    backend = FakeBackend.from_file(Path(config.model)) if answer is None else FakeBackend(answer)
    return evaluate(plan(config), lambda _: backend, **extra)


def test_every_question_is_answered_once_and_scored(data_root, tmp_path):
    config = configure(data_root, tmp_path)
    seen: list[RunRecord] = []
    result = run(config, observe=seen.append)
    questions = load_questions(data_root)
    gold_a = Counter(q.split for q in questions if q.gold == "A")
    assert result.summary.status == "complete"
    assert (result.unanswered, result.failed, result.stopped) == (0, 0, False)
    for level, group in result.summary.splits.items():
        assert group.n == group.selected == group.answered == sum(q.split == level for q in questions)
        assert group.correct == gold_a[level]
    assert Counter(r.question_id for r in seen) == {q.question_id: 1 for q in questions}
    loaded = load_run(plan(config).path)
    assert loaded.manifest.completed_utc is not None
    assert {r.reader for r in loaded.records.values()} == {"decord", None}
    assert json.loads((loaded.path / "summary.json").read_text())["status"] == "complete"


def test_the_backend_sees_video_image_text_and_uint8_pixels(data_root, tmp_path):
    requests = []
    run(configure(data_root, tmp_path), answer=lambda request, _: (requests.append(request), "<answer>A</answer>")[1])
    for request in requests:
        kinds = [part["type"] for part in request.messages[-1]["content"]]
        assert kinds == (["image", "text"] if request.frames is None else ["video", "image", "text"])
        assert request.image.dtype == "uint8"
        if request.frames is not None:
            assert request.frames.dtype == "uint8"
            assert len(request.frame_indices) == len(request.frames) >= 4
    assert any(request.frames is None for request in requests)


def test_a_failure_is_kept_apart_and_tried_again(data_root, tmp_path):
    config = configure(data_root, tmp_path)
    first = load_questions(data_root)[0].question_id

    def poison(request, _):
        return Failure("backend_error", "x") if request.question_id == first else "<answer>A</answer>"

    result = run(config, answer=poison)
    assert (result.summary.status, result.unanswered, result.failed) == ("incomplete", 1, 1)
    asked = []
    result = run(config, answer=lambda request, _: (asked.append(request.question_id), "<answer>A</answer>")[1])
    assert asked == [first]
    assert result.summary.status == "complete"


def test_bad_media_fail_alone_and_heal(data_root, tmp_path):
    root = copy_of(data_root, tmp_path / "data")
    questions = [q for q in load_questions(root) if q.video is not None]
    by_video = {}
    for q in questions:
        by_video.setdefault(q.video, []).append(q)
    truncated, empty, text = list(by_video)[:3]
    image = next(q.image for q in questions if q.video not in (truncated, empty, text))
    saved = {path: path.read_bytes() for path in (truncated, empty, text, image)}
    truncated.write_bytes(saved[truncated][: len(saved[truncated]) // 2])
    empty.write_bytes(b"")
    text.write_bytes(b"this is no video")
    image.write_bytes(saved[image][:100])
    affected = {q.question_id for q in load_questions(root) if q.video in saved or q.image in saved}
    config = configure(root, tmp_path)
    result = run(config)
    assert result.summary.status == "incomplete"
    failures = {i: r.failure for i, r in load_run(plan(config).path).records.items() if r.failure}
    assert set(failures) == affected
    assert {f.kind for f in failures.values()} == {"media_error"}
    assert all(any(str(path) in f.message for path in saved) for f in failures.values())
    for path, data in saved.items():
        path.write_bytes(data)
    assert run(config).summary.status == "complete"


def test_absent_files_stop_the_run_before_a_model_is_loaded(data_root, tmp_path):
    root = copy_of(data_root, tmp_path / "data")
    question = next(q for q in load_questions(root) if q.split == "L3" and q.video is not None)
    question.video.unlink()
    with pytest.raises(DataError, match=r"missing.*L3.*--levels L1,L2.*--allow-missing") as error:
        plan(configure(root, tmp_path))
    assert str(question.video.relative_to(root)) in str(error.value)
    listing = next((tmp_path / "runs").glob("*/missing.txt"))
    assert listing.read_text() == f"{question.video}\n"
    result = run(configure(root, tmp_path, allow_missing=True))
    assert (result.summary.status, result.failed) == ("incomplete", 1)


def test_a_limit_makes_a_subset_and_the_full_run_completes_it(data_root, tmp_path):
    result = run(configure(data_root, tmp_path, limit=6))
    assert result.summary.status == "subset"
    assert sum(group.answered for group in result.summary.splits.values()) == 6
    asked = []
    full = run(
        configure(data_root, tmp_path), answer=lambda r, _: (asked.append(r.question_id), "<answer>A</answer>")[1]
    )
    assert full.summary.status == "complete"
    assert len(asked) == len(load_questions(data_root)) - 6


def test_a_stop_finishes_what_is_in_flight_and_the_rest_follows(data_root, tmp_path):
    config = configure(data_root, tmp_path)
    stop = threading.Event()

    def observe(record):
        if len(load_run(plan(config).path).records) >= 5:
            stop.set()

    result = run(config, stop=stop, observe=observe)
    assert result.stopped
    assert result.summary.status == "incomplete"
    done = len(load_run(plan(config).path).records)
    assert 5 <= done < len(load_questions(data_root))
    assert run(config).summary.status == "complete"


def third_clip_takes_an_hour(video, image, config):
    """Runs in a decoding process."""
    if video is not None and video.stem.endswith("2"):
        time.sleep(3600)
    return load_media(video, image, config)


def test_a_stop_does_not_wait_for_a_slow_decoder(data_root, tmp_path, monkeypatch):
    monkeypatch.setattr("seedbench_r1.engines.local.media_loader", lambda *_: third_clip_takes_an_hour)
    config = configure(data_root, tmp_path)
    stop, set_at, seen = threading.Event(), [], []

    def observe(record):  # the decoders are at work by then, one of them for an hour
        seen.append(record)
        if len(seen) == 5:
            set_at.append(time.monotonic())
            stop.set()

    result = run(config, stop=stop, observe=observe)
    assert time.monotonic() - set_at[0] < 30  # not the 60 s that a decoder is allowed
    assert result.stopped
    assert 0 < result.unanswered < len(load_questions(data_root))
    assert all(record.answered for record in load_run(plan(config).path).records.values())


def test_shards_together_are_the_whole_run(data_root, tmp_path):
    for i in (1, 2, 3):
        result = run(configure(data_root, tmp_path, shard=(i, 3)))
        assert result.unanswered == 0
        assert result.summary.status == ("complete" if i == 3 else "incomplete")
    whole = run(configure(data_root, tmp_path, run_name="whole"))
    assert whole.summary == result.summary


def test_an_edited_annotation_file_is_refused(data_root, tmp_path):
    root = copy_of(data_root, tmp_path / "data")
    run(configure(root, tmp_path))
    file = root / "annotations" / "validation_L2.jsonl"
    file.write_text(file.read_text() + "\n")
    with pytest.raises(ConfigError, match="dataset_hash"):
        run(configure(root, tmp_path))


def test_own_questions_in_the_same_schema(data_root, tmp_path):
    config = configure(data_root, tmp_path, annotations=data_root / "annotations" / "validation_L1.jsonl")
    result = run(config)
    assert set(result.summary.splits) == {"custom"}
    assert result.summary.status == "complete"


def load_and_note(folder, video, image, config):
    """Runs in a decoding process: a file for each question that is decoded."""
    media = load_media(video, image, config)
    tempfile.mkstemp(dir=folder)
    return media


def test_decoding_runs_ahead_of_the_backend(data_root, tmp_path, monkeypatch):
    """While a question is answered, the next one is decoded: the backend asks only when it has been."""
    (folder := tmp_path / "decoded").mkdir()
    monkeypatch.setattr("seedbench_r1.engines.local.media_loader", lambda *_: functools.partial(load_and_note, folder))
    n_questions, asked = len(load_questions(data_root)), []

    class Patient:
        def generate(self, requests, sampling):
            for request in requests:
                asked.append(request.question_id)
                wait_for_files(folder, min(len(asked) + 1, n_questions))
                yield from FakeBackend(lambda *_: "<answer>A</answer>").generate([request], sampling)

        def close(self):
            pass

    result = evaluate(plan(configure(data_root, tmp_path)), lambda _: Patient())
    assert result.summary.status == "complete"
    assert len(asked) == n_questions


def wait_for_files(folder, n):
    deadline = time.monotonic() + 120
    while len(list(folder.iterdir())) < n:
        assert time.monotonic() < deadline, f"no {n} questions were decoded within 120 s"
        time.sleep(0.005)


def test_the_model_is_not_loaded_when_nothing_is_pending(data_root, tmp_path):
    config = configure(data_root, tmp_path)
    run(config)

    def must_not_load(_):
        raise AssertionError("loaded")

    assert evaluate(plan(config), must_not_load).summary.status == "complete"


def failing(message, n=None):
    """A backend all of whose answers, or the first n, are failures."""
    asked = []

    def answer(request, _):
        asked.append(request.question_id)
        text = message(request, len(asked)) if callable(message) else message
        return Failure("backend_error", text) if n is None or len(asked) <= n else "<answer>A</answer>"

    return answer, asked


def test_a_run_that_cannot_succeed_stops_and_says_why(data_root, tmp_path):
    config = configure(data_root, tmp_path)
    answer, asked = failing(lambda request, k: f"the engine of {request.question_id} lost {k} tokens.")
    with pytest.raises(IncompleteRun, match=r"20 questions in a row .* the engine of L\S+ lost 20 tokens. Fix that"):
        run(config, answer=answer)
    assert len(asked) == 20
    records = load_run(plan(config).path).records
    assert len(records) == 20
    # Mended, the same command asks them again.
    assert run(config).summary.status == "complete"


def test_single_faults_do_not_stop_a_run(data_root, tmp_path):
    config = configure(data_root, tmp_path)
    for message, n in (("x", 19), (lambda request, k: "odd" if k % 2 else "even", None)):
        answer, asked = failing(message, n)
        assert run(replace(config, fresh=True), answer=answer).summary.status == "incomplete"
        assert len(asked) == 28
    answered = iter(range(100))
    some = run(
        replace(config, fresh=True),
        answer=lambda request, _: "<answer>A</answer>" if not next(answered) else Failure("backend_error", "x"),
    )
    assert (some.unanswered, some.failed) == (27, 27)
