"""A run directory is believed only as far as it can be checked: ordinary accidents, and edits."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from leaderboards.board import build_board
from seedbench_r1.backends.fake import FakeBackend
from seedbench_r1.config import resolve_eval_config
from seedbench_r1.demo.models import shipped_model
from seedbench_r1.engines.plan import plan
from seedbench_r1.errors import ConfigError, DataError
from seedbench_r1.files import AppendFile
from seedbench_r1.kinds import LAW
from seedbench_r1.models.checkpoint import inspect_model
from seedbench_r1.models.fingerprint import WeightHashes
from seedbench_r1.models.weights import check_weights
from seedbench_r1.questions import load_annotations
from seedbench_r1.runs.directory import RunDir, load_run, read_manifest
from seedbench_r1.runs.records import read_lines, run_identity
from seedbench_r1.scoring import to_record
from seedbench_r1.typed_json import from_json
from seedbench_r1.types import Generation, RunManifest, RunRecord, to_json
from tests.evaluation import evaluate
from tests.rows import evaluation_row, write_rows
from tests.small_benchmark import ANSWER
from tests.synthetic_runs import RunSpec, make_benchmark, write_run, write_runs
from tests.unit.test_runs import manifest


@pytest.fixture
def questions(tmp_path):
    return load_annotations(write_rows(tmp_path / "a.jsonl", [evaluation_row(i) for i in range(4)]), tmp_path, "L1")


def written(path: Path, questions, text="<think>r</think><answer>A</answer>", **changes) -> Path:
    with RunDir.open(path, manifest(**changes), questions) as run:
        for question in questions:
            run.append(to_record(question, Generation(text, (), "stop", 1, 1, 0.1)))
    return path


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in (path / "records.jsonl").read_text().splitlines()]


def write_lines(path: Path, lines: list[dict]) -> None:
    (path / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_records_without_a_manifest_are_not_adopted(tmp_path, questions):
    path = written(tmp_path / "run", questions)
    (path / "manifest.json").unlink()
    before = (path / "records.jsonl").read_bytes()
    with pytest.raises(ConfigError, match="no manifest"):
        RunDir.open(path, manifest(), questions)
    assert (path / "records.jsonl").read_bytes() == before
    assert not (path / "manifest.json").exists()
    with RunDir.open(path, manifest(), questions, fresh=True) as run:
        assert len(run.pending(questions)) == 4
    assert [file.read_bytes() for file in path.glob("old-*/records.jsonl")] == [before]


def test_only_files_that_this_program_names_are_merged(tmp_path, questions):
    path = written(tmp_path / "run", questions)
    wrong = (path / "records.jsonl").read_text().replace("<answer>A", "<answer>B")
    for name in ("records_backup.jsonl", "records (copy).jsonl", "records.jsonl.bak", "records.old.jsonl"):
        (path / name).write_text(wrong)
    assert {record.parsed.answer for record in load_run(path).records.values()} == {"A"}
    (path / "records.1-of-2.jsonl").write_text(wrong)
    assert {record.parsed.answer for record in load_run(path).records.values()} == {"A"}  # records.jsonl comes last


def test_another_runs_records_are_refused_with_their_line(tmp_path, questions):
    path, other = written(tmp_path / "run", questions), written(tmp_path / "other", questions, seed=1)
    with (path / "records.jsonl").open("a") as stream:
        stream.write((other / "records.jsonl").read_text())
    with pytest.raises(DataError, match=r"records.jsonl:5: .*belongs to run"):
        load_run(path)
    with pytest.raises(DataError, match=r"records.jsonl:5: .*belongs to run"):
        RunDir.open(path, manifest(), questions)
    lines = lines_of(written(tmp_path / "third", questions))
    del lines[1]["run"]
    write_lines(tmp_path / "third", lines)
    with pytest.raises(DataError, match=r"records.jsonl:2: .*'of no name'"):
        load_run(tmp_path / "third")


@pytest.mark.parametrize("change", ["protocol_id", "backend", "dtype", "seed", "fingerprint", "suite"])
def test_a_runs_identity_is_what_was_asked_of_which_model_and_how(change):
    ours = manifest()
    if change == "fingerprint":
        other = replace(ours, model=replace(ours.model, fingerprint="0" * 16))
    else:
        other = replace(ours, **{change: 7 if change == "seed" else "other"})
    assert run_identity(other) != run_identity(ours) == run_identity(replace(ours, command="x", versions={"a": "b"}))


def test_answers_are_read_from_their_text_anew(tmp_path, questions):
    """Of an earlier law: read again, and marked."""
    path = written(tmp_path / "run", questions, text="<think>r</think>\n\nThe answer is A.")
    lines = lines_of(path)
    for line in lines:
        line["law"] = "1.1"
        line["parsed"]["answer"] = None
        line["score"] = {"outcome": "unparsed", "credit": 0.0, "strict_credit": 0.0}
    write_lines(path, lines)
    run = load_run(path)
    assert {record.parsed.answer for record in run.records.values()} == {"A"}
    assert (run.rescored, run.edited) == (4, ())


def test_what_the_second_law_did_not_read_is_no_edit(tmp_path, questions):
    path = written(tmp_path / "run", questions, text="<think>r</think>\n\nA is correct.")
    said = {"parsed": {"reasoning": "r", "answer": None, "answer_text": "", "format_ok": False}, "law": "2.2"}
    score = {"outcome": "unparsed", "credit": 0.0, "strict_credit": 0.0}
    write_lines(path, [line | said | {"score": score} for line in lines_of(path)])
    run = load_run(path)
    assert {record.parsed.answer for record in run.records.values()} == {"A"}
    assert (run.rescored, run.edited) == (4, ())


def test_a_changed_gold_letter_shows_under_an_earlier_law_too(tmp_path, questions):
    path = written(tmp_path / "run", questions)
    lines = lines_of(path)
    write_lines(path, [line | {"law": "1.1"} for line in lines])
    assert load_run(path).edited == ()
    asked = [json.loads(line) for line in (path / "questions.jsonl").read_text().splitlines()]
    asked[1]["gold"] = "B" if asked[1]["gold"] == "A" else "A"
    (path / "questions.jsonl").write_text("".join(json.dumps(question) + "\n" for question in asked))
    assert load_run(path).edited == (asked[1]["question_id"],)


@pytest.mark.parametrize(
    ("change", "message"), [({"law": "9.9"}, "newer version"), ({"domain": "Work"}, "cluster or domain")]
)
def test_what_a_record_cannot_say(tmp_path, questions, change, message):
    path = written(tmp_path / "run", questions)
    lines = lines_of(path)
    write_lines(path, [*lines[:2], lines[2] | change])
    with pytest.raises(DataError, match=rf"records.jsonl:3: .*{message}"):
        load_run(path)


EDITS = {
    "credit": lambda line: line["score"].update(credit=1.0 - line["score"]["credit"]),
    "strict_credit": lambda line: line["score"].update(strict_credit=1.0 - line["score"]["strict_credit"]),
    "answer": lambda line: line["parsed"].update(answer="D" if line["parsed"]["answer"] != "D" else "C"),
    "outcome": lambda line: line["score"].update(outcome="unparsed"),
    "text": lambda line: line["generation"].update(text="<think>r</think><answer>D</answer>"),
    "no score fields": lambda line: line.update(score={}),
    "words for numbers": lambda line: line["score"].update(credit="yes"),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edited_record_is_counted_by_its_text_and_the_run_is_not_ranked(tmp_path, edit):
    benchmark = make_benchmark()
    paths = write_runs(tmp_path, [RunSpec("a", ability=1.0), RunSpec("b", seed=1)], benchmark)
    lines = lines_of(paths[0])
    edit(lines[0])
    write_lines(paths[0], lines)
    board = build_board(paths, include_published=False, metric="l1.accuracy")
    row = {row.run_id: row for row in board.rows}["a"]
    assert "EDITED 1" in row.flags
    assert any("Edited after they were written" in warning and "a" in warning for warning in board.warnings)
    assert not row.ranked
    assert {row.run_id: row for row in board.rows}["b"].ranked
    texts = {line["question_id"]: line["generation"]["text"] for line in lines}
    gold = {question["question_id"]: question["gold"] for question in benchmark.questions}
    right = sum(f"<answer>{gold[i]}</answer>" in text for i, text in texts.items() if i.startswith("L1/"))
    assert row.accuracy["L1"].k == right


def test_edited_gold_letters_are_found_too(tmp_path):
    (path,) = write_runs(tmp_path, [RunSpec("a")], make_benchmark())
    questions = [json.loads(line) for line in (path / "questions.jsonl").read_text().splitlines()]
    (path / "questions.jsonl").write_text("".join(json.dumps(q | {"gold": "A"}) + "\n" for q in questions))
    (row,) = build_board([path], include_published=False).rows
    assert any(flag.startswith("EDITED") for flag in row.flags)
    assert not row.ranked


def test_more_than_a_fifth_unparsed_is_shown_and_ranked_on_request_only(tmp_path):
    path = write_run(tmp_path, RunSpec("a", unparsed=0.4), make_benchmark())
    (row,) = build_board([path], include_published=False).rows
    assert (row.ranked, row.status) == (False, "complete")
    assert any(flag.startswith("UNPARSED") for flag in row.flags)
    (row,) = build_board([path], include_published=False, rank_unparsed=True).rows
    assert row.ranked


def test_no_reasoning_is_not_a_consistency_of_nothing(tmp_path):
    path = write_run(tmp_path, RunSpec("a", bare=1.0, judges=("rules/v1",)), make_benchmark())
    (row,) = build_board([path], include_published=False).rows
    assert "NO REASONING" in row.flags
    assert row.consistency == {}


JUNK = [None, True, -1, 2**31, 1e400, float("nan"), "", "x", [], ["L1/1"], {}, {"a": 1}]


def places(value: object, path: tuple = ()) -> list[tuple]:
    """The paths of all values in a JSON object."""
    if not isinstance(value, dict):
        return [path]
    return [path] * bool(path) + [place for name, item in value.items() for place in places(item, (*path, name))]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_one_bad_run_is_left_out_and_costs_no_other(data, tmp_path_factory):
    """Any value of any file of a run directory replaced by junk: read, or left out with its reason, never more."""
    folder = tmp_path_factory.mktemp("junk")
    good, bad = write_runs(folder, [RunSpec("good"), RunSpec("bad", seed=1, judges=("rules/v1",))], make_benchmark())
    name = data.draw(st.sampled_from(["manifest.json", "records.jsonl", "questions.jsonl", "verdicts.jsonl"]))
    text = (bad / name).read_text()
    values = [json.loads(text)] if name == "manifest.json" else [json.loads(line) for line in text.splitlines()]
    value = values[data.draw(st.integers(0, min(3, len(values) - 1)))]
    *parents, last = data.draw(st.sampled_from(places(value)))
    target = value
    for parent in parents:
        target = target[parent]
    if data.draw(st.booleans()):
        target[last] = data.draw(st.sampled_from(JUNK))
    else:
        del target[last]
    (bad / name).write_text("".join(json.dumps(value) + "\n" for value in values))
    board = build_board([good, bad], include_published=False, metric="l1.accuracy")
    assert "good" in {row.run_id for row in board.rows}
    assert len(board.rows) + len(board.left_out) == 2
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("records.jsonl", b"[" * 100_000),
        ("records.jsonl", b'{"question_id": ' + b"[" * 100_000),
        ("records.jsonl", b"\x00" * 300),
        ("verdicts.jsonl", b"[" * 100_000),
        ("questions.jsonl", b"{" * 100_000),
        ("manifest.json", b"[" * 100_000),
        ("manifest.json", b"null"),
        ("training_snapshot.json", b"[" * 100_000),
    ],
)
def test_deep_and_empty_json_costs_its_own_run_alone(tmp_path, name, content):
    good, bad = write_runs(tmp_path, [RunSpec("good"), RunSpec("bad", seed=1)], make_benchmark())
    (bad / name).write_bytes(content + b"\n")
    board = build_board([good, bad], include_published=False, metric="l1.accuracy")
    assert "good" in {row.run_id for row in board.rows}


def test_half_a_surrogate_pair_is_recorded_like_any_text(tmp_path, questions):
    path = written(tmp_path / "run", questions, text="<think>\ud83d</think><answer>A</answer>")
    assert {record.parsed.answer for record in load_run(path).records.values()} == {"A"}
    assert {record.parsed.reasoning for record in load_run(path).records.values()} == {"\ud83d"}
    file = AppendFile(tmp_path, "x.jsonl")
    file.append(json.dumps({"a": "\udfff and \U0001f600"}, ensure_ascii=False) + "\n")
    file.close()
    assert list(read_lines(tmp_path / "x.jsonl", dict)) == [{"a": "\udfff and \U0001f600"}]


def test_json_becomes_what_it_was(questions):
    record = to_record(questions[0], Generation("<answer>A</answer>", (1, 2), "stop", 5, 2, 0.25, opened="<think>\n"))
    assert from_json(RunRecord, to_json(record)) == record
    ours = manifest(transport={"a": [1, {"b": None}]})
    assert from_json(RunManifest, to_json(ours) | {"template": to_json_template(ours)}) == ours
    with pytest.raises(ValueError, match=r"generation.n_tokens is -2, expected 0 to"):
        from_json(RunRecord, to_json(replace(record, generation=replace(record.generation, n_tokens=-2))))
    value = to_json(ours) | {"template": to_json_template(ours), "n_total": {"L1": {"all": True}}}
    with pytest.raises(ValueError, match=r"n_total.L1.all is True, expected a whole number"):
        from_json(RunManifest, value)


def to_json_template(ours: RunManifest) -> dict:
    return {"wording": dict(ours.template.wording), "system": ours.template.system}


def test_every_record_says_its_run_and_its_law(tmp_path, questions):
    path = written(tmp_path / "run", questions)
    assert {(line["run"], line["law"]) for line in lines_of(path)} == {(run_identity(read_manifest(path)), LAW)}


# ---- the fingerprint is the model


@pytest.fixture
def model(tmp_path) -> Path:
    """A checkpoint of 4 MiB: its middle is neither in the first nor in the last one."""
    return Path(shutil.copytree(shipped_model("sft"), tmp_path / "model"))


def asked(model: Path, data_root: Path, tmp_path: Path, **changes):
    given = {"model": str(model), "data_root": data_root, "runs_dir": tmp_path / "runs", "run_name": "r"} | changes
    return plan(resolve_eval_config(given, environ={}, working_dir=tmp_path))


def answered_by_script(planned):
    return evaluate(planned, lambda _: FakeBackend(lambda request, sampling: ANSWER.format("A")))


def zero_the_middle(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[3 << 19 : 3 << 20] = bytes(3 << 19)
    file.write_bytes(data)


def damage(model: Path, name: str) -> None:
    if name == "model.safetensors":
        zero_the_middle(model / name)
    elif name == "tokenizer.model":
        (model / name).write_text("new")
    else:
        (model / name).write_text((model / name).read_text() + " ")


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "processor_config.json",
        "config.json",
        "tokenizer.model",
    ],
)
def test_a_file_of_the_model_that_changes_under_a_run_is_named(model, data_root, tmp_path, name):
    first = answered_by_script(asked(model, data_root, tmp_path, levels=("L1",)))
    assert first.summary.status == "complete"
    damage(model, name)
    before = (tmp_path / "runs" / "r" / "records.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=rf"Differing: {name} of the model has changed"):
        answered_by_script(asked(model, data_root, tmp_path))
    assert (tmp_path / "runs" / "r" / "records.jsonl").read_bytes() == before


def test_a_copy_of_the_same_bytes_continues(model, data_root, tmp_path):
    answered_by_script(asked(model, data_root, tmp_path, levels=("L1",)))
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    for file in copy.iterdir():
        os.utime(file, ns=(1, 1))
    (copy / "training.json").unlink(missing_ok=True)  # says nothing to the model
    assert answered_by_script(asked(copy, data_root, tmp_path)).summary.status == "complete"


def test_weights_that_change_before_they_are_known_leave_no_complete_run(model, data_root, tmp_path):
    """As two shards on two machines with different copies: the second one's bytes are compared when they are read."""
    first = asked(model, data_root, tmp_path, shard=(1, 2))
    answered_by_script(first)
    second = asked(model, data_root, tmp_path, shard=(2, 2))
    manifest = json.loads((first.path / "manifest.json").read_text())
    known = manifest.pop("weight_files")
    (first.path / "manifest.json").write_text(json.dumps(manifest))
    zero_the_middle(model / "model.safetensors")

    with RunDir.open(second.path, second.manifest, second.questions, shard=(2, 2)) as run:
        run.note_weights(known)
        for question in run.pending(second.questions, shard=(2, 2)):
            run.append(to_record(question, Generation(ANSWER.format("A"), (), "stop", 1, 1, 0.1)))
        hashes = WeightHashes(second.checkpoint.weights, tmp_path / "hashes.json").start().wait()
        summary = second.suite.summarise(load_run(first.path).records, run.questions.values(), run.manifest.n_total)
        assert summary.status == "complete"
        with pytest.raises(ConfigError, match=r"model.safetensors had other bytes"):
            run.finish(summary, hashes)
    assert read_manifest(first.path).completed_utc is None
    (row,) = build_board([first.path], include_published=False).rows
    assert "MIXED WEIGHTS" in row.flags
    assert not row.ranked


def test_weights_are_read_once_and_again_when_they_change(model, tmp_path):
    file = model / "model.safetensors"
    cache = tmp_path / "hashes.json"
    wanted = {"model.safetensors": hashlib.sha256(file.read_bytes()).hexdigest()}
    assert WeightHashes({"model.safetensors": file}, cache).start().wait() == wanted
    entry = json.loads(cache.read_text())
    (path,) = entry
    cache.write_text(json.dumps({path: [*entry[path][:-1], "kept"]}))
    assert WeightHashes({"model.safetensors": file}, cache).start().wait() == {"model.safetensors": "kept"}
    os.utime(file, ns=(1, 1))
    assert WeightHashes({"model.safetensors": file}, cache).start().wait() == wanted
    cache.write_text("[" * 100_000)
    assert WeightHashes({"model.safetensors": file}, cache).start().wait() == wanted
    with pytest.raises(ConfigError, match="could not be read to their end"):
        WeightHashes({"gone": model / "gone.safetensors"}, cache).start().wait()


def test_two_merges_that_share_their_ends_are_two_models(model, data_root, tmp_path):
    """As with adapters that train neither the head, which stands first in a file, nor the vision tower, the last."""
    first = asked(model, data_root, tmp_path, run_name="a")
    zero_the_middle(model / "model.safetensors")
    second = asked(model, data_root, tmp_path, run_name="b")
    assert first.manifest.model.fingerprint == second.manifest.model.fingerprint
    assert run_identity(first.manifest) != run_identity(second.manifest)
    answered_by_script(first)
    answered_by_script(second)
    shutil.copy(second.path / "records.jsonl", first.path / "records.jsonl")
    with pytest.raises(DataError, match="belongs to run"):
        load_run(first.path)


def test_a_file_that_was_replaced_with_its_times_is_read_again(model, tmp_path):
    file, cache = model / "model.safetensors", tmp_path / "hashes.json"
    before = WeightHashes({"m": file}, cache).start().wait()
    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    zero_the_middle(file)
    os.utime(file, ns=times)
    assert WeightHashes({"m": file}, cache).start().wait() != before


# ---- the files of a run agree with each other, and with other runs


def edit_manifest(path: Path, **changes: object) -> None:
    value = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(value | changes))


def edit_questions(path: Path, **changes: object) -> None:
    """Change the first question, whose score stays what it was."""
    first, *others = (path / "questions.jsonl").read_text().splitlines()
    lines = [json.dumps(json.loads(first) | changes, ensure_ascii=False, separators=(",", ":")), *others]
    (path / "questions.jsonl").write_text("".join(f"{line}\n" for line in lines))


def rows_of(paths: list[Path]) -> dict:
    return {row.run_id: row for row in build_board(paths, include_published=False, metric="l1.accuracy").rows}


def test_settings_that_are_not_those_of_the_protocol_id(tmp_path):
    paths = write_runs(tmp_path, [RunSpec("a"), RunSpec("b", seed=1)], make_benchmark())
    video = json.loads((paths[0] / "manifest.json").read_text())["video"]
    edit_manifest(paths[0], video=video | {"max_frames": 8})
    board = build_board(paths, include_published=False, metric="l1.accuracy")
    rows = {row.run_id: row for row in board.rows}
    assert "EDITED manifest.json" in rows["a"].flags
    assert not rows["a"].ranked
    assert rows["b"].ranked
    assert any("a: manifest.json: its settings are not those of protocol id" in warning for warning in board.warnings)


@pytest.mark.parametrize("old", ["sbr1-0.1.0", "transfer-0.1.0"])
def test_runs_of_earlier_versions_are_not_doubted(old):
    assert load_run(Path(__file__).parents[1] / "old_runs" / old).doubts == ()


@pytest.mark.parametrize(
    ("n_total", "message"),
    [
        ({}, "does not say how many questions 'L1' has"),
        ({"L1": {}}, "does not say how many questions 'L1' has"),
        ({"L1": {"all": 3}}, "questions.jsonl holds 4 of 'L1', manifest.json says 3"),
        ({"L1": {"all": 4, "Work": 3, "Hobbies": 2}}, "the parts of 'L1' in manifest.json add up to 5, all to 4"),
    ],
)
def test_a_denominator_that_cannot_be(tmp_path, questions, n_total, message):
    path = written(tmp_path / "run", questions)
    edit_manifest(path, n_total={"L1": {"all": 4}})
    load_run(path)
    edit_manifest(path, n_total=n_total)
    with pytest.raises(DataError, match=message):
        load_run(path)


def test_a_denominator_that_other_runs_do_not_have(tmp_path):
    paths = write_runs(tmp_path, [RunSpec(name, seed=seed) for seed, name in enumerate("abc")], make_benchmark())
    n_total = json.loads((paths[1] / "manifest.json").read_text())["n_total"]
    n_total["L1"]["all"] += 1
    edit_manifest(paths[1], n_total=n_total)
    rows = rows_of(paths)
    assert "EDITED manifest.json" in rows["b"].flags
    assert [rows[name].ranked for name in "abc"] == [True, False, True]


@pytest.mark.parametrize("change", [{"text": "What then?"}, {"options": ["w", "x", "y", "z"]}])
def test_questions_that_other_runs_of_the_same_data_were_not_asked(tmp_path, change):
    paths = write_runs(tmp_path, [RunSpec(name, seed=seed) for seed, name in enumerate("abc")], make_benchmark())
    edit_questions(paths[2], **change)
    rows = rows_of(paths)
    assert [rows[name].ranked for name in "abc"] == [True, True, False]
    assert "EDITED questions.jsonl" in rows["c"].flags
    # Of two nobody can tell which was edited.
    assert not any(row.ranked for row in rows_of(paths[1:]).values())


def test_questions_that_are_not_those_that_were_written(tmp_path, questions):
    path = written(tmp_path / "run", questions)
    assert load_run(path).doubts == ()
    edit_questions(path, text="What then?")
    (doubt,) = load_run(path).doubts
    assert doubt.startswith("questions.jsonl: ")
    # Going on would write the edited questions anew, with their hash.
    with pytest.raises(ConfigError, match=r"was edited. questions.jsonl"):
        RunDir.open(path, manifest(), questions)


def test_a_run_that_grows_is_not_doubted_and_neither_is_one_that_was_killed_while_it_grew(tmp_path, questions):
    with RunDir.open(tmp_path / "run", manifest(), questions[:2]):
        before = (tmp_path / "run" / "manifest.json").read_text()
    with RunDir.open(tmp_path / "run", manifest(), questions):
        assert load_run(tmp_path / "run").doubts == ()
    (tmp_path / "run" / "manifest.json").write_text(before)
    assert load_run(tmp_path / "run").doubts == ()


def test_a_copy_is_no_second_run(tmp_path):
    (path,) = write_runs(tmp_path, [RunSpec("a")], make_benchmark())
    copy = Path(shutil.copytree(path, tmp_path / "better"))
    model = json.loads((copy / "manifest.json").read_text())["model"]
    edit_manifest(copy, model=model | {"name": "better"})
    os.utime(path / "records.jsonl", (1, 1))
    board = build_board([copy, path], include_published=False, metric="l1.accuracy")
    assert [row.run_id for row in board.rows] == ["a"]
    (left_out,) = board.left_out
    assert left_out.path == copy
    assert "byte for byte" in left_out.reason
    assert "wrong name: better there, a here" in left_out.reason
    board = build_board([path, copy], baseline=str(copy), include_published=False, metric="l1.accuracy")
    assert [row.run_id for row in board.rows] == ["better"]
    edit_manifest(path, sampling=json.loads((path / "manifest.json").read_text())["sampling"] | {"top_p": 0.5})
    board = build_board([path, copy], include_published=False, metric="l1.accuracy")
    assert [row.run_id for row in board.rows] == ["better"]


# ---- weights that were copied in part


def zero_tail(file: Path, share: float) -> None:
    data = file.read_bytes()
    keep = int(len(data) * (1 - share))
    file.write_bytes(data[:keep] + bytes(len(data) - keep))


def test_a_file_that_ends_in_zeros_was_copied_in_part(model):
    zero_tail(model / "model.safetensors", 0.5)
    with pytest.raises(ConfigError, match=r"model.safetensors ends in zeros.*[0-9]+ matrices.*first model\."):
        inspect_model(str(model))


@pytest.mark.parametrize(
    ("names", "whole"),
    [
        ("a.weight z.weight", True),  # one matrix of zeros may be meant
        ("a.weight y.bias z.bias", True),
        ("a.weight y.lora_B.weight z.lora_B.weight", True),
        ("a.weight y.weight z.weight", False),
    ],
)
def test_zeros_that_are_legal(tmp_path, names, whole):
    first, *others = names.split()
    tensors = {first: np.ones((64, 64), np.float32)} | {name: np.zeros((64, 64), np.float32) for name in others}
    save_file(tensors, tmp_path / "model.safetensors")
    if whole:
        assert check_weights(tmp_path) == [tmp_path / "model.safetensors"]
    else:
        with pytest.raises(ConfigError, match=r"2 matrices .* first y.weight"):
            check_weights(tmp_path)


# ---- a last line without its newline


def test_a_complete_last_line_without_its_newline_counts_and_a_torn_one_is_asked_again(tmp_path, questions):
    path = written(tmp_path / "run", questions)
    file = path / "records.jsonl"
    data = file.read_bytes()
    file.write_bytes(data[:-1])
    assert len(load_run(path).records) == 4
    with RunDir.open(path, manifest(), questions) as run:
        assert not run.pending(questions)
    assert file.read_bytes() == data
    file.write_bytes(data[:-5])
    assert len(load_run(path).records) == 3
    with RunDir.open(path, manifest(), questions) as run:
        assert [question.question_id for question in run.pending(questions)] == [questions[3].question_id]
        run.append(to_record(questions[3], Generation(ANSWER.format("A"), (), "stop", 1, 1, 0.1)))
    assert len(load_run(path).records) == 4
