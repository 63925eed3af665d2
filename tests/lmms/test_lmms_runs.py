"""lmms-eval's own command with our tasks and our model: the same answers and scores as our runner's."""

import json
import sys
from pathlib import Path

import pytest

from seedbench_r1.backends import open_backend
from seedbench_r1.config import resolve_eval_config
from seedbench_r1.engines.lmms_process import TASK_FOLDER
from seedbench_r1.engines.plan import plan
from seedbench_r1.runs.directory import load_run
from tests.command import RUN
from tests.evaluation import evaluate
from tests.lmms.processes import run, uneven_script


def lmms_eval(cwd, data_root, *words):
    """The stock command, and what it wrote: (results, samples by question id)."""
    path = run([*RUN, "lmms-path"], cwd).stdout.strip()
    assert Path(path) == TASK_FOLDER
    command = [sys.executable, "-m", "lmms_eval", "--include_path", path, "--tasks", "seedbench_r1"]
    done = run([*command, "--output_path", "out", "--log_samples", *words], cwd, SBR1_DATA_ROOT=str(data_root))
    (results,) = (cwd / "out").rglob("*_results.json")
    samples = {}
    for file in (cwd / "out").rglob("*_samples_seedbench_r1_l?.jsonl"):
        for line in filter(None, file.read_text(encoding="utf-8").split("\n")):
            sample = json.loads(line)
            assert samples.setdefault(sample["question_id"], sample) is sample
    return json.loads(results.read_text()), samples, done.stdout


def test_the_stock_command_and_our_runner_agree_on_a_real_model(data_root, tiny, tmp_path):
    options = {"model": str(tiny), "data_root": data_root, "runs_dir": tmp_path / "ours", "max_new_tokens": 6}
    direct = plan(resolve_eval_config(options | {"batch_size": 4}, environ={}, working_dir=tmp_path))
    evaluate(direct, open_backend)
    ours = load_run(direct.path)
    args = f"pretrained={tiny},backend=transformers,max_new_tokens=6,runs_dir=theirs"
    results, samples, _ = lmms_eval(tmp_path, data_root, "--model", "seedbench_r1", "--model_args", args)
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


def test_the_group_s_mean_is_the_benchmark_s_accuracy(data_root, tmp_path):
    script, right = uneven_script(tmp_path / "script.json", data_root)
    args = f"pretrained={script},backend=fake"
    results, samples, table = lmms_eval(tmp_path, data_root, "--model", "seedbench_r1", "--model_args", args)
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
