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
    return json.dumps({"reason": "because", "supports": "A" if consistent else "none", "consistent": consistent})


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
    assert judge_id.startswith("openai:judge-1/v2-")
    assert len(load_verdicts(run)[judge_id]) == 28
    assert KEY not in done.stdout + done.stderr
    assert all(KEY not in path.read_text() for path in run.iterdir() if path.is_file())


def test_what_cannot_be_read_stays_missing_is_no_success_and_is_asked_again(run):
    def unreadable(number, body):
        return ok("ok") if number == 0 else ok("maybe")

    with ApiServer(unreadable) as server:
        done = judge(run, server, "--json", "--limit", 2)
        assert done.returncode == 5, done.stderr
        assert "2 verdicts failed and are missing from the rates: not JSON" in done.stderr
        assert json.loads(done.stdout)["failed"] == 2
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
        # A case costs 0.002, at most 0.004.
        prices = ("--price-in", 1.0, "--price-out", 10.0, "--judge-max-tokens", 300)
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


# Servers as hosted models really answer; what is asked of the judge is the same for all of them.
NEW_LIMIT = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
ONLY_ONE = (
    "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported."
)
NO_SCHEMA = "response_format of type json_schema is not supported"


def judged(run: Path, react, *options: object, expect: int = 0):
    """The finished command, and the server that it asked."""
    with ApiServer(react) as server:
        done = judge(run, server, *options)
    assert done.returncode == expect, done.stdout + done.stderr
    return done, server


def test_a_server_that_wants_max_completion_tokens_refuses_once(run):
    def react(number, body):
        return error(400, NEW_LIMIT) if "max_tokens" in body else ok(verdict())

    done, server = judged(run, react, "--json")
    assert json.loads(done.stdout)["levels"]["all"]["judged"] == 28
    assert [name for body in server.seen for name in body if name.startswith("max_")] == (
        ["max_tokens"] + ["max_completion_tokens"] * 29
    )


def test_a_number_that_is_too_large_is_no_question_of_its_name(run):
    large = "'max_tokens' or 'max_completion_tokens' is too large: 2048. This model's maximum context length is 1024."
    done, server = judged(run, lambda number, body: error(400, large), expect=6)
    assert len(server.seen) == 1
    assert "is too large: 2048" in done.stderr


def test_a_temperature_that_is_refused_is_named_with_its_way_out(run):
    def react(number, body):
        return error(400, ONLY_ONE) if body.get("temperature", 1) != 1 else ok(verdict())

    done, server = judged(run, react, expect=6)
    assert len(server.seen) == 1
    assert "Fix: --judge-temperature none" in done.stderr
    ids = []
    for flag, value in (("--judge-temperature", "none"), ("--temperature", 1)):
        done, server = judged(run, react, "--json", flag, value)
        ids.append(json.loads(done.stdout)["judge_id"])
        assert all(("temperature" in body, "top_p" in body) == (value == 1, value == 1) for body in server.seen)
    assert len(set(ids)) == 2


def test_a_server_without_schemas_is_asked_once_and_read_as_strictly(run):
    replies = {5: verdict().replace("because", "because</think>"), 7: f"Sure!\n{verdict()}"}

    def react(number, body):
        return error(400, NO_SCHEMA) if "response_format" in body else ok(replies.get(number, verdict()))

    done, server = judged(run, react, "--json", "--concurrency", 1)
    assert ["response_format" in body for body in server.seen] == [True] + [False] * 30  # 2 probes, 28 cases, one again
    value = json.loads(done.stdout)
    assert value["levels"]["all"]["judged"] == 28
    with ApiServer(lambda number, body: ok(verdict()), port=server.port) as same:
        other = json.loads(judge(run, same, "--json").stdout)["judge_id"]
    assert other != value["judge_id"]  # the same server, asked with a schema
    assert len(load_verdicts(run)) == 2


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", None])
def test_the_thoughts_of_a_reasoning_judge_are_no_part_of_its_verdict(run, name):
    thoughts = 'The answer is {"reason": "x", "supports": "none", "consistent": false}'

    def react(number, body):
        message = {"role": "assistant", "content": verdict()}
        if name is None:
            message["content"] = f"<think>{thoughts}</think>{verdict()}"
        else:
            message[name] = thoughts
        return ok(choices=[{"index": 0, "finish_reason": "stop", "message": message}])

    done, server = judged(run, react, "--json")
    assert json.loads(done.stdout)["levels"]["all"]["consistent"] == 28
    assert len(server.seen) == 29


@pytest.mark.parametrize(
    "reaction",
    [
        ok(None, finish_reason="length"),
        ok('{"reason": "the reasoning says', finish_reason="length"),
        ok("<think>Hmm", finish_reason="length"),
        error(400, "Could not finish the message because max_tokens or model output limit was reached."),
    ],
    ids=["nothing", "inside", "thoughts", "refusal"],
)
def test_a_cut_verdict_is_named_and_asked_for_once(run, reaction):
    done, server = judged(run, lambda number, body: reaction, "--limit", 3, "--judge-max-tokens", 100, expect=5)
    assert len(server.seen) == 1 + 3
    assert "3 verdicts failed" in done.stderr
    assert "cut at its limit of 100 tokens; give it more: --judge-max-tokens 400" in done.stderr
    assert done.stderr.rstrip().endswith("another setting is another judge id.")


def test_a_verdict_that_fits_exactly_is_a_verdict(run):
    done, _ = judged(run, lambda number, body: ok(verdict(), finish_reason="length"), "--json")
    assert json.loads(done.stdout)["levels"]["all"]["judged"] == 28


def test_a_judge_that_cuts_everything_is_given_up(run):
    done, server = judged(run, lambda n, body: ok(None, finish_reason="length"), "--concurrency", 1, expect=6)
    assert len(server.seen) in range(21, 23)  # a probe, twenty, and at most one in flight
    assert "The first 20 verdicts" in done.stderr
    assert "--judge-max-tokens 8192" in done.stderr


def test_verdicts_of_the_old_prompt_are_continued_and_not_mixed_with_the_new(run):
    def react(number, body):
        keys = body["response_format"]["json_schema"]["schema"]["required"]
        return ok(json.dumps({key: json.loads(verdict())[key] for key in keys}))

    with ApiServer(react) as server:
        old = ("--json", "--judge-prompt", "v1")
        assert judge(run, server, *old, "--limit", 10).returncode == 0
        first = dict(server.seen[-1])
        assert first["max_tokens"] == 300
        assert first["messages"][0]["content"].rstrip().endswith('"reason": "..."}')
        before = len(server.seen)
        assert judge(run, server, *old).returncode == 0
        assert len(server.seen) - before == 1 + 18
        value = json.loads(judge(run, server, "--json").stdout)
        assert value["judge_id"].startswith("openai:judge-1/v2-")
    assert [len(verdicts) for verdicts in load_verdicts(run).values()] == [28, 28]
