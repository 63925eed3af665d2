"""`seedbench-r1 demo` as a newcomer types it, in a process of its own: half a minute, so in a file of its own."""

from __future__ import annotations

import csv
import resource

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
