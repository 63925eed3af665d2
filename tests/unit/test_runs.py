import json
import os
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import pytest

from seedbench_r1.errors import ConfigError, DataError, ResourceError
from seedbench_r1.files import FSYNC_EVERY_S
from seedbench_r1.prompts import DEFAULT_TEMPLATE
from seedbench_r1.protocol import protocol_id
from seedbench_r1.questions import load_annotations
from seedbench_r1.runs import directory
from seedbench_r1.runs.directory import RunDir, load_run, run_directory
from seedbench_r1.runs.records import SCHEMA, read_lines, record_from_json, record_line
from seedbench_r1.scoring import to_record
from seedbench_r1.types import Failure, Generation, ModelInfo, RunManifest, SamplingConfig, VideoConfig
from tests.rows import evaluation_row, write_rows


@pytest.fixture
def questions(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [evaluation_row(i) for i in range(10)])
    return load_annotations(path, tmp_path, "L1")


def manifest(**changes) -> RunManifest:
    video, sampling = VideoConfig(), SamplingConfig()
    base = RunManifest(
        schema=SCHEMA,
        protocol="standard",
        protocol_id=protocol_id(DEFAULT_TEMPLATE, video, sampling),
        template=DEFAULT_TEMPLATE,
        video=video,
        sampling=sampling,
        parser_version=1,
        n_total={"L1": {"all": 10}},
        dataset_hash={"L1": "d" * 64},
        model=ModelInfo("m", "m", "f" * 16),
        backend="fake",
        dtype="auto",
        seed=0,
        versions={},
        command="",
        machine="",
        created_utc="2026-01-01T00:00:00Z",
        updated_utc="2026-01-01T00:00:00Z",
    )
    return replace(base, **changes)


def generation(text="<think>r</think><answer>A</answer>", finish_reason="stop") -> Generation:
    return Generation(text, (1, 2, 3), finish_reason, 100, 3, 0.5)


def answer(question, text="<think>r</think><answer>A</answer>"):
    return to_record(question, generation(text))


def test_a_record_survives_the_disk(questions):
    record = answer(questions[0], 'weird \x1b[31m "text"\n<answer>Ä</answer> \u2028 \x00 💡')
    line = record_line(record)
    assert line.count("\n") == 1
    assert "token_ids" not in line
    again = record_from_json(json.loads(line))
    assert again == replace(record, generation=replace(record.generation, token_ids=()))
    failure = to_record(questions[0], Failure("media_error", "0 of 16 frames"))
    assert record_from_json(json.loads(record_line(failure))) == failure


@pytest.mark.parametrize(
    "damage", [{"score": None}, {"generation": None}, {"failure": {"kind": "timeout", "message": ""}}]
)
def test_a_record_is_an_answer_or_a_failure(questions, damage):
    value = json.loads(record_line(answer(questions[0]))) | damage
    with pytest.raises(ValueError, match="either"):
        record_from_json(value)


def test_pending_shrinks_and_resume_continues(tmp_path, questions):
    with RunDir.open(tmp_path / "run", manifest(), questions) as run:
        for question in questions[:4]:
            run.append(answer(question))
        run.append(to_record(questions[4], Failure("timeout", "late")))
        assert [q.question_id for q in run.pending(questions)] == [q.question_id for q in questions[4:]]
    with RunDir.open(tmp_path / "run", manifest(), questions) as run:
        assert len(run.pending(questions)) == 6
        assert len(run.pending(questions, retry_errors=False)) == 5
        assert len(run.pending(questions[:5])) == 1


def test_an_answer_beats_a_failure_and_the_last_answer_counts(tmp_path, questions):
    with RunDir.open(tmp_path / "run", manifest(), questions) as run:
        run.append(answer(questions[0], "<answer>B</answer>"))
        run.append(answer(questions[0], "<answer>A</answer>"))
        run.append(to_record(questions[0], Failure("timeout", "late")))
        assert run.records()["L1/0"].parsed.answer == "A"
    assert load_run(tmp_path / "run").records["L1/0"].parsed.answer == "A"


@pytest.mark.parametrize("cut", range(2, 60, 7))
def test_a_torn_last_line_is_dropped_and_asked_again(tmp_path, questions, cut):
    with RunDir.open(tmp_path / "run", manifest(), questions) as run:
        run.append(answer(questions[0]))
        run.append(answer(questions[1]))
    file = tmp_path / "run" / "records.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-cut])
    assert set(load_run(tmp_path / "run").records) == {"L1/0"}
    with RunDir.open(tmp_path / "run", manifest(), questions) as run:
        assert len(run.pending(questions)) == 9
        run.append(answer(questions[1]))
    assert file.read_bytes() == whole


def test_a_damaged_line_in_the_middle_is_named(tmp_path, questions):
    with RunDir.open(tmp_path / "run", manifest(), questions) as run:
        run.append(answer(questions[0]))
        run.append(answer(questions[1]))
    file = tmp_path / "run" / "records.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("{broken\n" + lines[1])
    with pytest.raises(DataError, match=r"records\.jsonl:1: "):
        load_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"model": ModelInfo("m", "m", "0" * 16)}, "model fingerprint"),
        ({"dataset_hash": {"L1": "e" * 64}}, "dataset_hash"),
        ({"backend": "transformers"}, "backend"),
        ({"dtype": "float32"}, "dtype"),
        ({"seed": 1}, "seed"),
        ({"protocol_id": "00000000"}, "protocol_id"),
    ],
)
def test_another_run_in_the_same_directory_is_refused(tmp_path, questions, changes, key):
    with RunDir.open(tmp_path / "run", manifest(), questions) as run:
        run.append(answer(questions[0]))
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir() if not p.name.startswith(".")}
    with pytest.raises(ConfigError, match=key):
        RunDir.open(tmp_path / "run", manifest(**changes), questions)
    after = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir() if not p.name.startswith(".")}
    assert before == after
    with RunDir.open(tmp_path / "run", manifest(), questions) as run:  # the lock was given back
        assert len(run.records()) == 1


def test_fresh_moves_the_old_files_aside(tmp_path, questions):
    with RunDir.open(tmp_path / "run", manifest(), questions) as run:
        run.append(answer(questions[0]))
    with RunDir.open(tmp_path / "run", manifest(seed=1), questions, fresh=True) as run:
        assert len(run.pending(questions)) == 10
        run.append(answer(questions[1]))
    (old,) = (tmp_path / "run").glob("old-*")
    assert set(load_run(old).records) == {"L1/0"}
    assert set(load_run(tmp_path / "run").records) == {"L1/1"}


def test_levels_can_be_added_later(tmp_path, questions):
    more = [replace(q, question_id=q.question_id.replace("L1", "L2"), split="L2") for q in questions]
    with RunDir.open(tmp_path / "run", manifest(), questions) as run:
        run.append(answer(questions[0]))
    second = manifest(dataset_hash={"L2": "c" * 64}, n_total={"L2": {"all": 10}})
    with RunDir.open(tmp_path / "run", second, more) as run:
        assert set(run.manifest.dataset_hash) == {"L1", "L2"}
        assert run.manifest.n_total == {"L1": {"all": 10}, "L2": {"all": 10}}
        assert len(run.questions) == 20
        assert len(run.pending(more)) == 10


@pytest.mark.parametrize("written", [1, 2])
def test_a_kill_while_media_are_named_anew_costs_nothing(tmp_path, questions, monkeypatch, written):
    """As of data that have moved: killed after so many of the three files that opening the run writes."""
    with RunDir.open(tmp_path / "run", manifest(), questions) as run:
        run.append(answer(questions[0]))
    moved = [replace(question, image=tmp_path / "moved" / question.image.name) for question in questions]
    done = []

    def killed(function):
        def write(file, *content):
            if len(done) == written:
                raise KeyboardInterrupt
            done.append(file.name)
            return function(file, *content)

        return write

    with monkeypatch.context() as patch:
        for name in ("write_json", "write_questions"):
            patch.setattr(directory, name, killed(getattr(directory, name)))
        with pytest.raises(KeyboardInterrupt):
            RunDir.open(tmp_path / "run", manifest(), moved)
    assert done == ["manifest.json", "questions.jsonl"][:written]
    assert load_run(tmp_path / "run").doubts == ()
    with RunDir.open(tmp_path / "run", manifest(), moved) as run:
        assert len(run.pending(moved)) == 9
    again = load_run(tmp_path / "run")
    assert [question.image.parent.name for question in again.questions.values()] == ["moved"] * 10
    assert again.manifest.questions_sha256 is not None


def test_shards_divide_the_questions_and_merge(tmp_path, questions):
    runs = [RunDir.open(tmp_path / "run", manifest(), questions, shard=(i, 3)) for i in (1, 2, 3)]
    parts = [run.pending(questions, shard=(i, 3)) for i, run in enumerate(runs, start=1)]
    assert sorted(q.question_id for part in parts for q in part) == sorted(q.question_id for q in questions)
    for run, part in zip(runs, parts, strict=True):
        for question in part:
            run.append(answer(question))
        run.__exit__(None, None, None)
    assert len(load_run(tmp_path / "run").records) == 10
    with RunDir.open(tmp_path / "run", manifest(), questions) as run:
        assert not run.pending(questions)


def test_a_second_process_is_refused_with_its_pid(tmp_path, questions):
    with RunDir.open(tmp_path / "run", manifest(), questions), pytest.raises(ConfigError, match=str(os.getpid())):
        RunDir.open(tmp_path / "run", manifest(), questions)
    with (
        RunDir.open(tmp_path / "run", manifest(), questions, shard=(1, 2)),
        RunDir.open(tmp_path / "run", manifest(), questions, shard=(2, 2)),
        pytest.raises(ConfigError, match="Another process"),
    ):
        RunDir.open(tmp_path / "run", manifest(), questions)


def test_a_newer_schema_is_named(tmp_path, questions):
    with RunDir.open(tmp_path / "run", manifest(), questions):
        pass
    file = tmp_path / "run" / "manifest.json"
    file.write_text(file.read_text().replace(SCHEMA, "sbr1.run/99"))
    with pytest.raises(DataError, match=r"sbr1\.run/99"):
        load_run(tmp_path / "run")
    with pytest.raises(DataError, match="not a run directory"):
        load_run(tmp_path / "elsewhere")


def test_an_unwritable_place_is_a_resource_error(tmp_path, questions):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="--runs-dir"):
        RunDir.open(tmp_path / "file" / "run", manifest(), questions)


def test_a_full_disk_leaves_no_half_line(tmp_path):
    """A real file size limit in a real process: write() comes back short, then fails."""
    code = textwrap.dedent(
        f"""
        import resource, signal, sys
        sys.path.insert(0, {str(os.getcwd())!r})
        from pathlib import Path
        from tests.unit.test_runs import manifest, answer
        from seedbench_r1.questions import load_annotations
        from seedbench_r1.runs.directory import RunDir
        from seedbench_r1.errors import ResourceError
        from tests.rows import evaluation_row, write_rows
        root = Path({str(tmp_path)!r})
        questions = load_annotations(write_rows(root / "a.jsonl", [evaluation_row(i) for i in range(10)]), root, "L1")
        with RunDir.open(root / "run", manifest(), questions) as run:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
            done = 0
            try:
                for question in questions:
                    run.append(answer(question))
                    done += 1
            except ResourceError as error:
                print(done, error.exit_code)
        """
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert done[1] == "7"
    assert 0 < int(done[0]) < 10
    data = (tmp_path / "run" / "records.jsonl").read_bytes()
    assert data.endswith(b"\n")
    assert data.count(b"\n") == int(done[0])


def test_what_was_appended_reaches_the_disk_within_a_second(tmp_path, questions, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(time.monotonic()), real(fd))[1])
    with RunDir.open(tmp_path / "run", manifest(), questions) as run:
        synced.clear()
        start = time.monotonic()
        run.append(answer(questions[0]))
        while not synced and time.monotonic() - start < 30:
            time.sleep(0.01)
        assert FSYNC_EVERY_S <= 1
        assert synced[0] - start < 10  # that, and what a busy machine adds


def test_the_run_directory_is_named_after_model_and_protocol(tmp_path):
    assert (
        run_directory(tmp_path, "Qwen2.5-VL/checkpoint-50", "3f9a12c4", None)
        == tmp_path / "qwen2.5-vl-checkpoint-50--3f9a12c4"
    )
    assert run_directory(tmp_path, "x", "3f9a12c4", "mine") == tmp_path / "mine"


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b/../..", "/absolute", "a/b", "a\\b", "a\0b"])
def test_a_run_name_that_is_not_one_folder_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=r"not the name of one folder.\nFix: a name without slashes"):
        run_directory(tmp_path, "x", "3f9a12c4", name)


@pytest.mark.parametrize("line", ["null", "5", "[]"])
def test_a_line_that_is_no_object_is_named(tmp_path, line):
    (tmp_path / "records.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match=r"records\.jsonl:1: not a valid line"):
        list(read_lines(tmp_path / "records.jsonl", record_from_json))
