"""A judge behind a real HTTP server that misbehaves, and the judge commands as a user types them."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from seedbench_r1.questions import load_questions
from seedbench_r1.runs.directory import load_run
from seedbench_r1.runs.verdicts import load_verdicts
from tests.api_server import ApiServer, Reaction, error, ok
from tests.command import cli, cli_forked
from tests.small_benchmark import write_script

KEY = "sk-very-secret-key"


@pytest.fixture(scope="module")
def answered(data_root, tmp_path_factory) -> Path:
    """A run of 28 answers, each with reasoning, made by the command line."""
    folder = tmp_path_factory.mktemp("answered")
    answers = {
        q.question_id: f"<think>So I should {q.options[0]}.</think><answer>A</answer>"
        for q in load_questions(data_root)
    }
    script = write_script(folder / "script.json", **answers)
    done = cli("eval", "--backend", "fake", "--model", script, "--data-root", data_root, "--workers", 1, cwd=folder)
    assert done.returncode == 0
    (path,) = (folder / "runs").iterdir()
    return path


@pytest.fixture
def run(answered, tmp_path) -> Path:
    """A copy of the run, to be judged."""
    return shutil.copytree(answered, tmp_path / "runs" / answered.name)


def verdict(consistent: bool = True) -> str:
    return json.dumps({"supports": "A" if consistent else "none", "consistent": consistent, "reason": "because"})


def judge(run: Path, server: ApiServer, *options: object, key: str = KEY):
    command = ["judge", run, "--judge", "openai:judge-1", "--judge-base-url", server.url, "--timeout", 3, "--tries", 2]
    command += options
    return cli(*command, cwd=run.parent.parent, OPENAI_API_KEY=key)


def test_a_whole_run_is_judged_with_retries_on_every_kind_of_trouble(run):
    troubles = [
        error(429, Retry_After="0"),
        error(500),
        Reaction(body=b"{not json"),
        Reaction(body=b'{"choices": []}'),
        Reaction(vanish=True),
        ok("I would say yes."),
        ok(json.dumps({"consistent": True})),
        ok(verdict(), wait_s=0.2),
    ]
    left, asked = list(troubles), []

    def react(number, body):
        """The probe, then one trouble for every second case, and none for a case that is asked again."""
        if number == 0:
            return ok("ok")
        again = body["messages"] in asked
        asked.append(body["messages"])
        if left and not again and len(asked) % 2:
            return left.pop(0)
        return ok(verdict(number % 4 != 0))

    with ApiServer(react) as server:
        done = judge(run, server, "--json", "--concurrency", 4)
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert not left
    assert len(asked) == 28 + len(troubles) - 1  # the last is only slow
    assert value["levels"]["all"]["judged"] == 28
    assert value["levels"]["all"]["missing"] == 0
    judge_id = value["judge_id"]
    assert judge_id.startswith("openai:judge-1/v1-")
    assert len(load_verdicts(run)[judge_id]) == 28
    assert KEY not in done.stdout + done.stderr
    assert all(KEY not in path.read_text() for path in run.iterdir() if path.is_file())


def test_what_cannot_be_read_stays_missing_and_is_asked_again(run):
    def unreadable(number, body):
        return ok("ok") if number == 0 else ok("maybe")

    with ApiServer(unreadable) as server:
        done = judge(run, server, "--json", "--limit", 2)
        assert done.returncode == 0, done.stderr
        level = json.loads(done.stdout)["levels"]["all"]
        assert (level["judged"], level["missing"], level["reasoning_consistency"]) == (0, 28, None)
        assert len(server.seen) == 1 + 2 * 3  # the probe, and three tries for each of two cases
    with ApiServer(lambda number, body: ok("ok") if number == 0 else ok(verdict())) as server:
        # another address is another judge id: the same wording behind another server may be another model
        done = judge(run, server, "--json")
    assert json.loads(done.stdout)["levels"]["all"]["judged"] == 28


def test_a_server_that_dies_leaves_what_was_said_and_the_rest_follows(run):
    healthy = {"until": 13}

    def react(number, body):
        if number >= healthy["until"]:
            return Reaction(vanish=True)
        return ok("ok") if "Reply with the word ok" in str(body) else ok(verdict())

    with ApiServer(react) as server:
        done = judge(run, server, "--concurrency", 2)
        assert done.returncode == 6, done.stderr
        assert "run judge again" in done.stderr
        (known,) = load_verdicts(run).values()
        said = sum(v.consistent is not None for v in known.values())
        assert said == 12
        before = len(server.seen)
        healthy["until"] = 10_000
        done = judge(run, server, "--json")
        assert done.returncode == 0, done.stderr
        assert len(server.seen) - before == 1 + 28 - said
    assert json.loads(done.stdout)["levels"]["all"]["judged"] == 28


@pytest.mark.parametrize("reaction", [error(401), error(404), Reaction(vanish=True)])
def test_a_judge_that_does_not_answer_at_all_is_exit_6(run, reaction):
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    with ApiServer(lambda number, body: reaction) as server:
        done = judge(run, server)
    assert done.returncode == 6, done.stderr
    assert "Evaluation is safe" in done.stderr
    assert KEY not in done.stderr
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_no_key_is_exit_6_and_answers_are_untouched(run):
    done = cli("judge", run, "--judge", "openai:m", cwd=run.parent.parent, OPENAI_API_KEY="")
    assert done.returncode == 6
    assert "OPENAI_API_KEY" in done.stderr
    assert "No fallback is used" in done.stderr
    assert not (run / "verdicts.jsonl").exists()


def test_votes_and_their_flip_rate(run):
    def react(number, body):
        return ok("ok") if number == 0 else ok(verdict(number % 3 != 0))

    with ApiServer(react) as server:
        done = judge(run, server, "--json", "--votes", 3, "--concurrency", 1)
    value = json.loads(done.stdout)
    assert value["flips"] == {"flipped": 28, "voted": 28}
    assert value["levels"]["all"]["consistent"] == 28  # two of three


def test_the_cost_is_estimated_first_and_kept(run):
    def react(number, body):
        return ok("ok") if number == 0 else ok(verdict(), prompt_tokens=1000, tokens=100)

    with ApiServer(react) as server:
        prices = ("--price-in", 1.0, "--price-out", 10.0)  # a case costs 0.002, at most 0.004
        assert judge(run, server, "--max-cost", 1.0).returncode == 3
        done = judge(run, server, "--max-cost", 0.012, "--concurrency", 1, *prices)
    assert "28 cases" in done.stderr
    assert "at these prices" in done.stderr
    (known,) = load_verdicts(run).values()
    assert 0 < len(known) < 28
    assert len(known) * 0.002 <= 0.012


def test_rules_calibrate_and_agreement_from_the_command_line(run):
    cwd = run.parent.parent
    done = cli_forked("judge", run, "--json", cwd=cwd)
    assert json.loads(done.stdout)["levels"]["all"]["reasoning_consistency"] == 1.0
    done = cli("judge", run, cwd=cwd, COLUMNS="80")
    head = next(line for line in done.stdout.splitlines() if "consistent %" in line)
    assert head.split()[-3:] == ["wrong-", "none", "missing"]  # whole in 80 columns
    calibrate = ["judge", "calibrate", run, "--strategy", "random", "-o", "l.csv"]
    assert cli_forked(*calibrate, "--n", 10, cwd=cwd).returncode == 0
    assert cli(*calibrate, cwd=cwd).returncode == 3
    rows = list(csv.DictReader((cwd / "l.csv").open()))
    assert len(rows) == 10
    assert cli("judge", "agreement", "l.csv", run, cwd=cwd).returncode == 3  # no labels yet
    with (cwd / "l.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(row | {"supports_answer": "yes" if i < 8 else "no"} for i, row in enumerate(rows))
    value = json.loads(cli("judge", "agreement", "l.csv", run, "--json", cwd=cwd).stdout)
    assert value["table"] == {"yy": 8, "yn": 2, "ny": 0, "nn": 0}
    assert value["base_rate"] == 0.8
    shown = cli_forked("judge", "agreement", "l.csv", run, cwd=cwd)
    assert shown.returncode == 0, shown.stderr
    assert "sensitivity" in shown.stdout


@pytest.mark.parametrize("name", ["gpt", "openai:", "local:", "vote"])
def test_an_unknown_judge_is_named(run, name):
    done = cli("judge", run, "--judge", name, cwd=run.parent.parent)
    assert done.returncode == 3
    assert "rules, openai:MODEL, local:PATH" in done.stderr


def test_a_run_directory_that_is_none(tmp_path):
    assert cli("judge", tmp_path, cwd=tmp_path).returncode == 4


def test_a_second_judge_process_is_refused(run):
    from seedbench_r1.files import AppendFile

    file = AppendFile(run, "verdicts.jsonl")
    done = cli("judge", run, cwd=run.parent.parent)
    file.close()
    assert done.returncode == 3
    assert "Another process" in done.stderr
    assert load_run(run).records
