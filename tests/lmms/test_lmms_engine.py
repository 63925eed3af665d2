"""`--engine lmms-eval` and the transfer suite: what lmms-eval answers becomes our run."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from seedbench_r1.config import resolve_eval_config
from seedbench_r1.engines.lmms_process import LmmsModel
from seedbench_r1.engines.lmms_transfer import plan_transfer, run_transfer
from seedbench_r1.errors import ConfigError
from seedbench_r1.models.checkpoint import inspect_model
from seedbench_r1.questions import load_questions
from seedbench_r1.runs.directory import load_run
from tests.command import RUN
from tests.lmms.processes import run, surroundings, uneven_script


def test_the_engine_with_our_model_writes_the_same_scores(data_root, tmp_path):
    script, right = uneven_script(tmp_path / "script.json", data_root)
    command = [*RUN, "eval", "--backend", "fake", "--model", script, "--data-root", data_root, "--json"]
    command += ["--engine", "lmms-eval", "--lmms-model", "seedbench_r1"]
    done = run([*command, "--limit", 9], tmp_path)
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert value["status"] == "subset"
    asked = load_run(tmp_path / value["run_dir"])
    assert len(asked.records) == 9
    assert {i: record.score.correct for i, record in asked.records.items()} == {i: right[i] for i in asked.records}
    assert asked.manifest.backend == "lmms-eval:seedbench_r1"
    assert asked.manifest.versions["lmms-eval"]
    assert {record.generation.n_tokens for record in asked.records.values()} == {1}
    again = run([*command, "--limit", 9], tmp_path)  # nothing is pending, so no process is started
    assert again.returncode == 0
    assert len(list((tmp_path / value["run_dir"] / "lmms-eval").glob("call-*"))) == 1


def test_the_engine_with_a_chat_model_of_lmms_eval(data_root, tiny, tmp_path):
    command = [*RUN, "eval", "--model", tiny, "--data-root", data_root, "--limit", 3, "--max-new-tokens", 5]
    command += ["--engine", "lmms-eval", "--lmms-model", "qwen2_5_vl", "--device", "cpu", "--run-name", "theirs"]
    done = run([*command, "--lmms-model-args", "device_map=cpu,attn_implementation=sdpa"], tmp_path)
    assert done.returncode == 0, done.stderr
    theirs = load_run(tmp_path / "runs" / "theirs")
    assert len(theirs.records) == 3
    assert all(record.answered and 1 <= record.generation.n_tokens <= 5 for record in theirs.records.values())
    assert theirs.manifest.protocol == "lmms-eval"
    assert theirs.manifest.model.fingerprint == inspect_model(str(tiny)).info.fingerprint
    weights = inspect_model(str(tiny)).weights
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in weights.items()}
    assert theirs.manifest.weight_files == digests


def test_a_model_without_chat_interface_is_refused_and_the_run_is_incomplete(data_root, tmp_path):
    command = [*RUN, "eval", "--model", "x", "--data-root", data_root, "--run-name", "simple"]
    done = run([*command, "--engine", "lmms-eval", "--lmms-model", "dummy"], tmp_path)
    assert done.returncode == 5  # lmms-eval itself exits with 0
    simple = load_run(tmp_path / "runs" / "simple")
    assert len(simple.records) == len(simple.questions)
    assert all("'dummy' does not: it has no chat interface" in r.failure.message for r in simple.records.values())
    half = run([*RUN, "eval", "--model", "x", "--data-root", data_root, "--engine", "lmms-eval"], tmp_path)
    assert half.returncode == 3
    assert "--lmms-model" in half.stderr


def test_the_transfer_suite_on_a_small_benchmark_of_the_same_form(data_root, tmp_path, monkeypatch):
    for name, value in surroundings(tmp_path).items():
        monkeypatch.setenv(name, value)
    tasks = shutil.copytree(Path(__file__).with_name("clip_task"), tmp_path / "tasks")
    clips = sorted({str(question.video) for question in load_questions(data_root) if question.video})
    rows = [
        {"id": i, "clip": clip, "question": f"What is {i}?", "answer": "A" if i % 2 else "B"}
        for i, clip in enumerate(clips[:6])
    ]
    for name, part in (("one", rows[:4]), ("two", rows[4:])):
        (tasks / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    (tmp_path / "script.json").write_text(json.dumps({"default": "A"}))
    options = {"model": str(tmp_path / "script.json"), "backend": "fake", "runs_dir": tmp_path / "runs"}
    config = resolve_eval_config(options | {"data_root": Path()}, environ={}, working_dir=tmp_path)
    ours = LmmsModel("seedbench_r1", "")
    planned = plan_transfer(config, ours, tasks=("clips",), include_path=tasks)
    results = run_transfer(planned)
    clips_result = results["clips"]
    assert (clips_result.status, clips_result.n, clips_result.expected) == ("complete", 6, 6)
    assert clips_result.metrics == {"clips_one/clip_accuracy": 50.0, "clips_two/clip_accuracy": 50.0}
    summary = json.loads((planned.path / "summary.json").read_text())
    assert (summary["suite"], summary["schema"]) == ("transfer-lmms", "sbr1.transfer-lmms/1")
    assert "not the papers' protocol" in summary["note"]
    (saved,) = (planned.path / "answers").rglob("answers.jsonl")
    assert len(saved.read_text().splitlines()) == 6
    said = []
    again = plan_transfer(config, ours, tasks=("clips",), include_path=tasks)
    assert run_transfer(again, say=said.append)["clips"] == clips_result
    assert said == ["clips: done before"]
    with pytest.raises(ConfigError, match="lmms_model"):
        run_transfer(plan_transfer(config, LmmsModel("qwen2_5_vl", "pretrained=y"), tasks=("clips",)))
