"""`seedbench-r1 demo` as a newcomer types it, in a process of its own, and what `demo model` says comes next."""

from __future__ import annotations

import csv
import json
import resource
import shlex

import pytest

from seedbench_r1.demo.settings import write_settings
from tests.command import cli, cli_process


def test_the_demo_goes_the_whole_way(tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = cli_process("demo", cwd=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2 * 240  # four minutes on two cores
    assert "known, not judged" in done.stdout
    with (tmp_path / "demo-out" / "leaderboard.csv").open(newline="") as stream:
        rows = {row["run_id"]: row for row in csv.DictReader(stream)}
    assert rows.keys() == {"sft", "grpo", "care"}
    for row in rows.values():
        assert row["status"] == "complete"
        assert (row["l1_n"], row["l2_n"], row["l3_n"]) == ("80", "80", "80")
        assert all(row[f"l3_{domain}_n"] == "20" for domain in ("daily", "hobbies", "recreation", "work"))
        assert row["judge"] == "miniature/v1"
        assert float(row["l1_acc_lo"]) > 25  # chance
    assert float(rows["care"]["l1_cons"]) > float(rows["sft"]["l1_cons"])
    page = (tmp_path / "demo-out" / "leaderboard.html").read_text(encoding="utf-8")
    assert all(name in page for name in rows)
    answered = {path: path.read_bytes() for path in (tmp_path / "demo-out" / "runs").glob("*/records.jsonl")}
    assert cli("demo", cwd=tmp_path).returncode == 0
    assert {path: path.read_bytes() for path in answered} == answered


@pytest.mark.parametrize(("trained", "next_step"), [(None, "sft"), ("sft", "care"), ("care", "eval")])
def test_a_model_says_a_next_step_that_follows_from_it(tmp_path, trained, next_step):
    write_settings(tmp_path / "small world")
    model = tmp_path / "small world" / "base"
    shown = cli("demo", "model", "--out", model, *(("--trained", trained) if trained else ()), cwd=tmp_path).stdout
    name, *words = shlex.split(shown.partition("next: ")[2])
    assert name == "seedbench-r1"
    done = cli(*words, "--print-config", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    settings = json.loads(done.stdout)
    assert settings["model"] == str(model)
    assert words[0] == ("eval" if next_step == "eval" else "train")
    assert settings.get("algo", "eval") == next_step
