"""`show`: a run's result, a question with what every judge says of it; and whose table `judge` prints."""

from __future__ import annotations

import json
import shutil

from tests.command import cli


def test_a_run_without_a_question_prints_its_result_and_every_judges_table(on_disk, tmp_path):
    shown = cli("show", on_disk.folder / "messy", cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    row = on_disk.board.row("messy")
    accuracy = row.accuracy["L3"]
    cell = f"{100 * accuracy.value:.1f} [{100 * accuracy.lo:.1f}, {100 * accuracy.hi:.1f}]"
    assert any(line.startswith(" L3 ") and cell in line for line in lines)
    assert "not judged" not in shown.stdout
    assert f"{on_disk.folder / 'messy'}, judged by rules/v1" in lines
    rate = row.consistency["L3"]
    assert f"{100 * rate.value:.1f} [{100 * rate.lo:.1f}, {100 * rate.hi:.1f}]" in shown.stdout
    assert max(map(len, [line for line in lines if str(on_disk.folder) not in line])) <= 80
    value = json.loads(cli("show", on_disk.folder / "messy", "--json", cwd=tmp_path).stdout)
    assert (value["schema"], value["status"]) == ("sbr1.show/1", "complete")
    assert value["levels"]["L3"]["accuracy"] == round(accuracy.value, 6)
    assert value["judges"][0]["levels"]["L3"]["consistent"] == rate.k


def test_a_run_without_verdicts_and_one_that_was_stopped_say_so(on_disk, tmp_path):
    assert "consistency not judged" in cli("show", on_disk.folder / "not-judged", cwd=tmp_path).stdout
    stopped = cli("show", on_disk.folder / "stopped", cwd=tmp_path)
    assert stopped.returncode == 0
    assert "INCOMPLETE: 16 questions have no answer" in stopped.stdout


def test_a_question_comes_with_every_judges_verdict_and_reason(on_disk, tmp_path):
    run = shutil.copytree(on_disk.folder / "base", tmp_path / "run")
    more = {"question_id": "L3/1", "consistent": None, "reason": "failed: \x1b[2J", "judge_id": "openai:big/v1"}
    voted = more | {"judge_id": "local:own/v1", "consistent": False, "reason": "it says C", "votes": [True, False]}
    with (run / "verdicts.jsonl").open("a") as stream:
        stream.write(json.dumps(more) + "\n" + json.dumps(voted) + "\n")
    lines = cli("show", run, "--question", "L3/1", cwd=tmp_path).stdout.splitlines()[-3:]
    assert lines[0] == "verdict   not consistent, votes 1 of 2 yes, by local:own/v1: it says C"
    assert lines[1] == r"verdict   no verdict, by openai:big/v1: failed: \x1b[2J"
    assert "consistent, by rules/v1: " in lines[2]
    value = json.loads(cli("show", run, "--question", "L3/1", "--json", cwd=tmp_path).stdout)
    assert [verdict["judge_id"] for verdict in value["verdicts"]] == ["local:own/v1", "openai:big/v1", "rules/v1"]


def test_each_table_of_judge_says_whose_it_is(on_disk, tmp_path):
    runs = [shutil.copytree(on_disk.folder / name, tmp_path / name) for name in ("base", "care-200")]
    done = cli("judge", *runs, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    named = [line for line in done.stdout.splitlines() if line.startswith(str(tmp_path))]
    assert named == [f"{run}, judged by rules/v1" for run in runs]
