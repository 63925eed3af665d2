"""lmms-eval's processes: our engine's, whose answers become our run, and its own command's with our tasks and model.

One is started as a user's is; the others are forked from one that has imported lmms-eval.
"""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from seedbench_r1.backends import open_backend
from seedbench_r1.config import resolve_eval_config
from seedbench_r1.engines.lmms_process import TASK_FOLDER, LmmsModel
from seedbench_r1.engines.lmms_transfer import plan_transfer, run_transfer
from seedbench_r1.engines.plan import plan
from seedbench_r1.errors import ConfigError
from seedbench_r1.models.checkpoint import inspect_model
from seedbench_r1.questions import load_questions
from seedbench_r1.runs.directory import load_run
from tests.command import cli
from tests.evaluation import evaluate
from tests.lmms.processes import environment, surroundings, uneven_script


def run(*words, cwd):
    """A command of ours, from which lmms-eval has no network and one thread."""
    return cli(*words, cwd=cwd, **surroundings(cwd))


def test_the_engine_with_our_model_writes_the_same_scores(data_root, tmp_path):
    script, right = uneven_script(tmp_path / "script.json", data_root)
    command = ["eval", "--backend", "fake", "--model", script, "--data-root", data_root, "--json"]
    command += ["--engine", "lmms-eval", "--lmms-model", "seedbench_r1"]
    done = run(*command, "--limit", 9, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert value["status"] == "subset"
    asked = load_run(tmp_path / value["run_dir"])
    assert len(asked.records) == 9
    assert {i: record.score.correct for i, record in asked.records.items()} == {i: right[i] for i in asked.records}
    assert asked.manifest.backend == "lmms-eval:seedbench_r1"
    assert asked.manifest.versions["lmms-eval"]
    assert {record.generation.n_tokens for record in asked.records.values()} == {1}
    again = run(*command, "--limit", 9, cwd=tmp_path)  # nothing is pending, so no process is started
    assert again.returncode == 0
    assert len(list((tmp_path / value["run_dir"] / "lmms-eval").glob("call-*"))) == 1


def test_the_engine_with_a_chat_model_of_lmms_eval(forked, data_root, tiny, tmp_path):
    command = ["eval", "--model", tiny, "--data-root", data_root, "--limit", 3, "--max-new-tokens", 5]
    command += ["--engine", "lmms-eval", "--lmms-model", "qwen2_5_vl", "--device", "cpu", "--run-name", "theirs"]
    done = run(*command, "--lmms-model-args", "device_map=cpu,attn_implementation=sdpa", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    theirs = load_run(tmp_path / "runs" / "theirs")
    assert len(theirs.records) == 3
    assert all(record.answered and 1 <= record.generation.n_tokens <= 5 for record in theirs.records.values())
    assert theirs.manifest.protocol == "lmms-eval"
    assert theirs.manifest.model.fingerprint == inspect_model(str(tiny)).info.fingerprint
    weights = inspect_model(str(tiny)).weights
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in weights.items()}
    assert theirs.manifest.weight_files == digests


def test_a_model_without_chat_interface_is_refused_and_the_run_is_incomplete(forked, data_root, tmp_path):
    command = ["eval", "--model", "x", "--data-root", data_root, "--run-name", "simple"]
    done = run(*command, "--engine", "lmms-eval", "--lmms-model", "dummy", cwd=tmp_path)
    assert done.returncode == 5  # lmms-eval itself exits with 0
    simple = load_run(tmp_path / "runs" / "simple")
    assert len(simple.records) == len(simple.questions)
    assert all("'dummy' does not: it has no chat interface" in r.failure.message for r in simple.records.values())
    half = run("eval", "--model", "x", "--data-root", data_root, "--engine", "lmms-eval", cwd=tmp_path)
    assert half.returncode == 3
    assert "--lmms-model" in half.stderr


def test_the_transfer_suite_on_a_small_benchmark_of_the_same_form(forked, data_root, tmp_path, monkeypatch):
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


def lmms_eval(server, cwd, data_root, *words):
    """The stock command, and what it wrote: (results, samples by question id, standard output)."""
    path = cli("lmms-path", cwd=cwd).stdout.strip()
    assert Path(path) == TASK_FOLDER
    words = ["--include_path", path, "--tasks", "seedbench_r1", "--output_path", "out", "--log_samples", *words]
    done = server.run(words, cwd=cwd, env=environment(cwd, SBR1_DATA_ROOT=str(data_root)))
    (results,) = (cwd / "out").rglob("*_results.json")
    samples = {}
    for file in (cwd / "out").rglob("*_samples_seedbench_r1_l?.jsonl"):
        for line in filter(None, file.read_text(encoding="utf-8").split("\n")):
            sample = json.loads(line)
            assert samples.setdefault(sample["question_id"], sample) is sample
    return json.loads(results.read_text()), samples, done.stdout


def test_the_stock_command_and_our_runner_agree_on_a_real_model(server, data_root, tiny, tmp_path):
    options = {"model": str(tiny), "data_root": data_root, "runs_dir": tmp_path / "ours", "max_new_tokens": 6}
    direct = plan(resolve_eval_config(options | {"batch_size": 4}, environ={}, working_dir=tmp_path))
    evaluate(direct, open_backend)
    ours = load_run(direct.path)
    args = f"pretrained={tiny},backend=transformers,max_new_tokens=6,runs_dir=theirs"
    results, samples, _ = lmms_eval(server, tmp_path, data_root, "--model", "seedbench_r1", "--model_args", args)
    assert set(samples) == set(ours.questions)
    for question_id, record in ours.records.items():
        sample = samples[question_id]
        assert sample["raw_text"] == record.generation.text
        assert sample["accuracy"] == float(record.score.correct)
        assert sample["strict_match"] == float(record.score.strict_correct)
        assert sample["token_counts"][0]["output_tokens"] == record.generation.n_tokens
    theirs = load_run(tmp_path / "theirs" / direct.path.name)  # the same protocol id
    assert {i: (r.parsed, r.score, r.generation.finish_reason) for i, r in theirs.records.items()} == {
        i: (r.parsed, r.score, r.generation.finish_reason) for i, r in ours.records.items()
    }
    assert theirs.manifest.completed_utc is not None
    options["runs_dir"] = tmp_path / "theirs"
    there = plan(resolve_eval_config(options, environ={}, working_dir=tmp_path))
    again = evaluate(there, lambda _: pytest.fail("a question was asked again"))
    assert again.summary.status == "complete"
    correct = sum(record.score.correct for record in ours.records.values())
    assert results["groups"]["seedbench_r1"]["accuracy,none"] == pytest.approx(correct / len(ours.questions), abs=1e-12)


def test_the_group_s_mean_is_the_benchmark_s_accuracy(server, data_root, tmp_path):
    script, right = uneven_script(tmp_path / "script.json", data_root)
    args = f"pretrained={script},backend=fake"
    results, samples, table = lmms_eval(server, tmp_path, data_root, "--model", "seedbench_r1", "--model_args", args)
    assert {i: bool(sample["accuracy"]) for i, sample in samples.items()} == right
    assert all(sample["raw_text"].endswith("</answer>\n") for sample in samples.values())
    assert all(sample["reasoning"] == "see" for sample in samples.values())
    group = results["groups"]["seedbench_r1"]
    shares = {level: [v for i, v in right.items() if i.startswith(level)] for level in ("L1", "L2", "L3")}
    means = {level: sum(values) / len(values) for level, values in shares.items()}
    assert len(set(means.values())) == 3
    assert group["accuracy,none"] == pytest.approx(sum(right.values()) / len(right), abs=1e-12)
    assert group["accuracy,none"] != pytest.approx(sum(means.values()) / 3, abs=1e-3)
    for level, mean in means.items():
        assert results["results"][f"seedbench_r1_{level.lower()}"]["accuracy,none"] == pytest.approx(mean, abs=1e-12)
        assert group[f"level_{level.lower()},none"] == pytest.approx(mean, abs=1e-12)
    assert (group["domain_hobbies,none"], group["domain_work,none"]) == (1.0, 0.0)
    assert results["results"]["seedbench_r1_l1"]["domain_work,none"] is None
    assert results["results"]["seedbench_r1_l2"]["clustered_se,none"] > 0
    assert "seedbench_r1_l3" in table
