"""`eval --model A B C`: one after the other, a failed one does not stop the rest, and a table of all."""

from __future__ import annotations

import json
import shutil

import pytest

from seedbench_r1.backends.fake import FakeBackend
from seedbench_r1.cli.eval_many import models_of
from seedbench_r1.config import resolve_eval_config
from seedbench_r1.engines.kept_backend import KeptBackend
from seedbench_r1.errors import ConfigError
from seedbench_r1.runs.directory import load_run
from seedbench_r1.runs.samples import sample_runs
from tests.command import cli
from tests.small_benchmark import benchmark, write_script
from tests.tiny_models import tiny_checkpoint


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    return benchmark(tmp_path_factory.mktemp("many") / "data")


@pytest.fixture
def scripts(tmp_path):
    return [write_script(tmp_path / f"{name}.json", default=letter) for name, letter in zip("xyz", "ABC", strict=True)]


def evaluate(data_root, cwd, *words):
    return cli("eval", *words, "--backend", "fake", "--data-root", data_root, "--quiet", cwd=cwd, COLUMNS="80")


def test_all_are_evaluated_and_told_together(data_root, scripts, tmp_path):
    done = evaluate(data_root, tmp_path, "--model", *scripts)
    assert done.returncode == 0, done.stderr
    runs = sorted((tmp_path / "runs").iterdir())
    assert [load_run(run).manifest.model.name for run in runs] == ["fake-x", "fake-y", "fake-z"]
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0] == ["checkpoint", "L1", "%", "L2", "%", "L3", "%"]
    assert [row[0] for row in rows[1:4]] == ["fake-x", "fake-y", "fake-z"]
    for run, row in zip(runs, rows[1:4], strict=True):
        assert row[1] == f"{100 * load_run(run).summary().splits['L1'].accuracy:.1f}"
    assert "The best of 3 checkpoints is flattered" in done.stdout
    assert f"leaderboard build {' '.join(str(run.relative_to(tmp_path)) for run in runs)}" in done.stdout
    assert max(map(len, done.stdout.splitlines()[:4])) <= 80


def test_a_failed_one_does_not_stop_the_rest_and_decides_the_exit_code(data_root, scripts, tmp_path):
    scripts[1].write_text("{")
    done = evaluate(data_root, tmp_path, "--model", scripts[0], scripts[1], tmp_path / "nowhere.json", scripts[2])
    assert done.returncode == 3
    assert "2 of 4 checkpoints are not done" in done.stderr
    assert "there is none at" in done.stderr
    finished = [path.parent.name for path in (tmp_path / "runs").glob("*/summary.json")]
    assert sorted(name.partition("--")[0] for name in finished) == ["fake-x", "fake-z"]
    assert "failed" in done.stdout
    told = json.loads(evaluate(data_root, tmp_path, "--json", "--model", scripts[0], scripts[1]).stdout)
    assert [run["exit_code"] for run in told["runs"]] == [0, 3]
    assert told["runs"][0]["status"] == "complete"


def test_questions_without_an_answer_cost_exit_5_and_the_next_is_asked(data_root, scripts, tmp_path):
    broken = write_script(tmp_path / "broken.json")
    broken.write_text(json.dumps({"default": "A", "answers": {"L1/0": {"failure": "no"}}}))
    done = evaluate(data_root, tmp_path, "--model", broken, scripts[0])
    assert done.returncode == 5
    assert "incomplete" in done.stdout
    assert {load_run(run).summary().status for run in (tmp_path / "runs").iterdir()} == {"incomplete", "complete"}


def test_several_processes_for_each(data_root, scripts, tmp_path):
    done = evaluate(data_root, tmp_path, "--model", *scripts[:2], "--data-parallel", 2, "--workers", 1)
    assert done.returncode == 0, done.stderr
    for run in (tmp_path / "runs").iterdir():
        assert load_run(run).summary().status == "complete"
        assert len(list(run.glob("records.*-of-2.jsonl"))) == 3
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_several_samples_of_each(data_root, scripts, tmp_path):
    words = ("--samples", 2, "--temperature", 1, "--top-p", 1)
    done = evaluate(data_root, tmp_path, "--model", *scripts[:2], *words)
    assert done.returncode == 0, done.stderr
    folders = sorted((tmp_path / "runs").iterdir())
    assert [len(sample_runs(folder)) for folder in folders] == [2, 2]
    rows = [line.split() for line in done.stdout.splitlines()]
    alone = load_run(sample_runs(folders[0])[0]).summary().splits["L1"].accuracy
    assert rows[1][:2] == ["fake-x", f"{100 * alone:.1f}"]
    told = json.loads(evaluate(data_root, tmp_path, "--json", "--model", *scripts[:2], *words).stdout)
    assert told["runs"][0]["splits"]["L1"]["average"]["value"] == pytest.approx(alone)


def test_the_same_command_asks_nothing_again(data_root, scripts, tmp_path):
    evaluate(data_root, tmp_path, "--model", *scripts)
    before = {path: path.read_bytes() for path in tmp_path.rglob("records.jsonl")}
    assert evaluate(data_root, tmp_path, "--model", *scripts).returncode == 0
    assert {path: path.read_bytes() for path in tmp_path.rglob("records.jsonl")} == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--run-name", "x"), "--run-name is for one model, and 3 were given"),
        (("--shard", "1/2"), "--shard is for one model"),
        (("--dry-run",), "--dry-run and --print-config are for one model"),
        (("--engine", "ray"), "Several models are evaluated by --engine local alone"),
    ],
)
def test_what_is_for_one_model_is_refused(data_root, scripts, tmp_path, words, said):
    done = evaluate(data_root, tmp_path, *words, "--model", *scripts)
    assert done.returncode == 3
    assert said in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_word_without_model_is_no_model(data_root, tmp_path):
    done = evaluate(data_root, tmp_path, "stray")
    assert done.returncode == 3
    assert "'stray' is no option. Fix: --model stray" in done.stderr


def test_patterns_are_folders_in_the_order_of_their_numbers(tmp_path, monkeypatch):
    for step in (50, 900, 1000):
        (tmp_path / "out" / f"checkpoint-{step}").mkdir(parents=True)
    (tmp_path / "out" / "checkpoint-7.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    names = [f"out/checkpoint-{step}" for step in (50, 900, 1000)]
    assert models_of(["out/checkpoint-*"]) == names
    assert models_of(["base", "out/checkpoint-*", "out/checkpoint-50"]) == ["base", *names]
    assert models_of(["org/name"]) == ["org/name"]
    with pytest.raises(ConfigError, match="fits no folder"):
        models_of(["out/step-*"])


class Sibling(FakeBackend):
    """Takes other weights unless it is told not to."""

    def __init__(self, fits=True):
        super().__init__(lambda request, k: "x")
        self.fits, self.models, self.closed = fits, [], 0

    def replace_weights(self, model, *, dtype="auto", revision=None):
        self.models.append(model)
        return self.fits

    def close(self):
        self.closed += 1


def config(model, **more):
    return resolve_eval_config({"model": model, "data_root": ".", "backend": "vllm", **more}, environ={})


def test_one_backend_goes_on_with_siblings_and_others_get_their_own(monkeypatch):
    opened = []
    monkeypatch.setattr(
        "seedbench_r1.engines.kept_backend.open_backend", lambda config: opened.append(Sibling()) or opened[-1]
    )
    kept = KeptBackend()
    for model in "abc":
        kept.open(config(model)).close()
    assert (len(opened), opened[0].models, opened[0].closed) == (1, ["b", "c"], 0)
    kept.open(config("d", max_model_len=64)).close()
    assert (len(opened), opened[0].closed) == (2, 1)
    opened[1].fits = False
    kept.open(config("e", max_model_len=64))
    assert (len(opened), opened[1].closed, kept.starts) == (3, 1, 3)
    kept.close()
    kept.close()
    assert opened[2].closed == 1


def test_real_checkpoints_one_of_them_damaged(data_root, tmp_path):
    """Of the transformers backend, which loads each anew."""
    sound = tiny_checkpoint("qwen2_5_vl")
    shutil.copytree(sound, tmp_path / "out" / "checkpoint-2")
    shutil.copytree(sound, tmp_path / "out" / "checkpoint-10")
    (tmp_path / "out" / "checkpoint-2" / "model.safetensors").write_bytes(b"torn")
    words = ("--data-root", data_root, "--levels", "L2", "--limit", "2", "--device", "cpu", "--max-new-tokens", "4")
    done = cli("eval", "--model", "out/checkpoint-*", *words, "--quiet", cwd=tmp_path)
    assert done.returncode == 3
    assert "out/checkpoint-2" in done.stderr
    (run,) = (path for path in (tmp_path / "runs").iterdir() if (path / "summary.json").exists())
    assert load_run(run).manifest.model.path == "out/checkpoint-10"
