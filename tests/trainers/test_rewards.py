"""Rewards by kind: the evaluation's own, the authors' script's, and a user's own functions."""

import json
import subprocess
import sys

import pytest
import torch

from seedbench_r1.errors import ConfigError
from seedbench_r1.kinds import parse, score
from seedbench_r1.runs.training_snapshot import read_lines
from seedbench_r1.types import Question
from tests.trainers.launch import command, environment
from tests.trainers.test_steps import A, B, config_of, group_of, policy, reference_of  # noqa: F401 - a fixture
from tests.trainers.toy import plan_and_train, toy_config
from tests.video_r1 import training_rows, write_training
from trainers import grpo, user_rewards
from trainers.groups import Rollout
from trainers.plan import plan_training
from trainers.resolve import resolve_train_config
from trainers.rewards import relative_error, reward, script_accuracy, script_reward
from trainers.user_rewards import (
    RewardFailed,
    UserRewards,
    parse_reward,
    parse_rewards,
    trial_completions,
    try_rewards,
)

SAID = "<think>so</think><answer>{}</answer>"


def question(kind: str, gold: str) -> Question:
    options = ("rain", "sun", "snow") if kind == "choice" else ()
    return Question("video-r1/0", "video-r1", "?", options, gold, None, None, "c", kind=kind)


@pytest.mark.parametrize(
    ("kind", "gold", "answer", "ours", "script"),
    [
        ("choice", "B", "B", 1.0, 1.0),
        ("choice", "B", "B.", 1.0, 0.0),
        ("choice", "B", "sun", 1.0, 0.0),
        ("numerical", "3.14", "3.139", 1.0, 1.0),
        ("numerical", "3.14", "3.15", 0.0, 0.0),
        ("numerical", "3", "3.0", 1.0, 0.0),  # theirs: both or neither with a point
        ("numerical", "1,200", "1200", 1.0, 0.0),
        ("numerical", "4", "4 chairs", 1.0, 0.0),
        ("numerical", "4", "inf", 0.0, 0.0),
        ("ocr", "NO EXIT HERE", "NO EXIT", 1 - 1 / 3, 1 - 1 / 3),
        ("ocr", "NO", "a b c", 0.0, 0.0),  # three edits for one word
        ("regression", "10", "9", 0.8, 0.9),  # thresholds below 0.1: 0.5 to 0.85; 1 - 1/10
        ("regression", "10", "25", 0.0, 0.0),
        ("regression", "10", "ten", 1.0, 0.0),
        ("regression", "0", "0", 1.0, 0.0),  # theirs: 1 - 1e-9 / 1e-9
    ],
)
def test_rewards_of_a_kind_by_hand(kind, gold, answer, ours, script):
    asked, text = question(kind, gold), SAID.format(answer)
    by_us = reward(asked, Rollout((1,), text, "stop"))
    assert by_us.accuracy == pytest.approx(ours, abs=1e-12)
    assert by_us.accuracy == score(asked, parse(text, asked)).credit  # the evaluation's own
    by_them = reward(asked, Rollout((1,), text, "stop"), "script")
    assert by_them.accuracy == pytest.approx(script, abs=1e-9)  # their relative error adds 1e-9 to both parts
    assert by_us.format == by_them.format == 1.0


def test_a_relative_error_is_the_scripts():
    assert relative_error("9", "10") == (1 + 1e-9) / (10 + 1e-9)
    assert relative_error("1,000", "1000") == 1e-9 / (1000 + 1e-9)
    assert relative_error("nan", "1") == relative_error("", "1") == relative_error("-inf", "1") == 1.0


def test_answers_come_from_the_first_tag():
    asked = question("regression", "10")
    assert script_reward(asked, "<answer>10</answer><answer>1</answer>").accuracy == pytest.approx(1.0, abs=1e-9)
    assert script_reward(asked, "<answer>1</answer><answer>10</answer>").accuracy == pytest.approx(0.1)
    assert script_reward(asked, "10").accuracy == 0.0


def test_free_answers_by_the_scripts_stemmed_rouge():
    pytest.importorskip("rouge_score")
    # Stemmed "cats" is "cat" (a word of more than three letters): ROUGE-1 and -L 1, ROUGE-2 1.
    assert script_accuracy("free-form", "red cats", "red cat") == pytest.approx(1.0)
    asked = question("free-form", "red cat")
    assert reward(asked, Rollout((1,), SAID.format("red cats"), "stop")).accuracy == pytest.approx((0.5 + 0 + 0.5) / 3)
    # "a red ball" against "a red cup": F1 2/3, of pairs 1/2, of the longest 2/3.
    assert script_accuracy("free-form", "a red ball", "a red cup") == pytest.approx((2 / 3 + 1 / 2 + 2 / 3) / 3)
    assert script_accuracy("free-form", "", "a red cup") == 0.0


def test_a_missing_rouge_package_is_named_before_anything_is_read(tmp_path, monkeypatch):
    from trainers.rewards import _rouge_scorer

    _rouge_scorer.cache_clear()
    for name in ("rouge_score", "rouge_score.rouge_scorer"):
        monkeypatch.setitem(sys.modules, name, None)
    write_training(tmp_path, training_rows(5))
    file = tmp_path / "Video-R1-260k.json"
    options = {"suite": "video-r1", "train_file": file, "model": "m", "data": tmp_path, "out": tmp_path / "out"}
    with pytest.raises(ConfigError, match=r"pip install rouge-score; or --rewards evaluation"):
        plan_training(resolve_train_config({"preset": "care-paper"} | options))


# A user's own functions.

FUNCTIONS = """
import re, time
import numpy as np

def short(question, completion):
    return np.float32(1.0 / (1 + len(completion.split())))

def right(question, completion):
    return f"<answer>{question.gold}</answer>" in completion

def raises(question, completion):
    if not completion:
        raise ValueError("no such\\nthing")
    return 1

def raises_late(question, completion):
    if "so A" in completion:
        raise ValueError("late")
    return 1.0

def nothing(question, completion):
    return None

def text(question, completion):
    return "1.0"

def nan(question, completion):
    return float("nan")

def slow(question, completion):
    time.sleep(30)

def backtracks(question, completion):
    return float(bool(re.match(r"(a+)+$", "a" * 40 + "b")))

def leaves(question, completion):
    import os
    os._exit(3)
"""


@pytest.fixture
def functions(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FUNCTIONS)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mine.py", "is not understood"),
        ("mine.py:", "is not understood"),
        (":f", "is not understood"),
        ("mine.py:f:heavy", "the weight 'heavy' is no number"),
        ("mine.py:f:0", "the weight is 0"),
        ("mine.py:f:nan", "the weight is nan"),
        ("gone.py:f", "there is no file gone.py"),
    ],
)
def test_what_is_no_reward_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_rewards([text])


def test_a_weight_is_the_third_part():
    spec = parse_reward("a/b.py:f:-0.5")
    assert (str(spec.path), spec.function, spec.weight) == ("a/b.py", "f", -0.5)
    assert parse_reward("b.py:f").weight == 1.0


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("raises", r"raises raised ValueError: no such thing, tried on a completion that is empty \(''\) of "),
        ("nothing", "nothing returned None, expected a finite number, tried on a completion that is good"),
        ("text", "text returned '1.0', expected a finite number"),
        ("nan", "nan returned nan, expected a finite number"),
        ("slow", "slow took longer than 1 seconds"),
        ("backtracks", "backtracks took longer than 1 seconds"),
        ("leaves", r"leaves ended its process \(exit code 3\)"),
        ("absent", "the file has no function 'absent'"),
    ],
)
def test_a_function_without_a_number_is_refused_by_name(functions, monkeypatch, function, message):
    monkeypatch.setattr(user_rewards, "TIME_LIMIT_S", 1.0)
    specs = parse_rewards([f"{functions}:{function}"])
    with pytest.raises(ConfigError, match=message):
        try_rewards(specs, question("choice", "B"))


def test_a_file_that_cannot_be_imported_is_refused(tmp_path):
    (tmp_path / "broken.py").write_text("import no_such_package_at_all\ndef f(q, c): return 1.0\n")
    with pytest.raises(ConfigError, match=r"broken\.py:f: raised ModuleNotFoundError"):
        try_rewards(parse_rewards([f"{tmp_path}/broken.py:f"]), question("choice", "B"))


@pytest.mark.parametrize(
    ("kind", "gold"), [("choice", "C"), ("numerical", "12"), ("ocr", "EXIT"), ("free-form", "a b")]
)
def test_trial_completions_are_what_they_are_called(kind, gold):
    asked = question(kind, gold)
    tried = trial_completions(asked)
    rewards = {label: reward(asked, Rollout((1,), text, "stop")).accuracy for label, text in tried.items()}
    assert rewards["good"] > 0.6
    assert rewards["wrong"] == rewards["empty"] == 0.0
    assert "<" not in tried["without tags"]
    assert len(tried["very long"]) > 10_000


def test_values_are_tried_once_and_their_sum_is_weighted(toy, policy, functions):  # noqa: F811
    specs = parse_rewards([f"{functions}:right:2", f"{functions}:short:0.5"])
    asked = group_of(toy, policy, [A]).example.question
    tried = try_rewards(specs, asked)
    assert tried["right"] == {"good": 1, "wrong": 0, "empty": 0, "without tags": 0, "very long": 1}
    assert tried["short"]["empty"] == 1.0
    config = config_of(toy)
    base = grpo.base_rewards(policy, group_of(toy, policy, [A, B]), config)
    with UserRewards(specs) as rewards:
        found = grpo.with_own_rewards(base, rewards, config)
    assert found.own["right"].tolist() == [1.0, 0.0]
    short = 1 / (1 + len(A.split()))
    torch.testing.assert_close(found.reward, base.reward + torch.tensor([2 + 0.5 * short, 0.5 * short]))
    assert found.reward.tolist() == pytest.approx([1 + 1 + 2 + 0.5 * short, 1 + 0.5 * short])
    # A bonus comes on top, and the group's advantages follow from all of it.
    full = grpo.compute_rewards(found, grpo.answer_likelihoods(policy, reference_of(policy), found, config), config)
    assert full.reward[0] == pytest.approx(float(found.reward[0]) + 0.5)


def test_a_failure_in_training_names_question_and_completion_or_counts_zero(toy, policy, functions):  # noqa: F811
    base = grpo.base_rewards(policy, group_of(toy, policy, [A, B]), config_of(toy))
    with UserRewards(parse_rewards([f"{functions}:raises_late"])) as rewards:
        with pytest.raises(ConfigError, match=r"raised ValueError: late. Question train/0, completion '<think>so A"):
            grpo.with_own_rewards(base, rewards, config_of(toy))
        config = config_of(toy, reward=(f"{functions}:raises_late",), reward_failures="zero")
        found = grpo.with_own_rewards(base, rewards, config)
    assert found.own["raises_late"].tolist() == [0.0, 1.0]
    assert found.failed == 1
    with pytest.raises(RewardFailed, match="late"), UserRewards(rewards.specs) as again:
        again.value(rewards.specs[0], base.group.example.question, A)


def test_a_training_reports_each_reward_by_name_and_is_bound_to_the_files_bytes(toy, tmp_path, functions):
    options = {"max_steps": 1, "num_generations": 4, "rollout_log_steps": 1}
    options |= {"reward": (f"{functions}:short:0.5", f"{functions}:right")}
    config = toy_config(toy.sft, toy.data, tmp_path / "out", "care", **options)
    plan_and_train(config)
    (line,) = read_lines(config.out / "metrics.jsonl")
    rollouts = read_lines(config.out / "rollouts.jsonl")
    assert set(line["rewards"]) == {"short", "right"}
    assert line["rewards"]["short"] == pytest.approx(sum(r["rewards"]["short"] for r in rollouts) / 4, rel=1e-6)
    for r in rollouts:
        parts = r["accuracy"] + r["format"] + r["bonus"] + 0.5 * r["rewards"]["short"] + r["rewards"]["right"]
        assert r["reward"] == pytest.approx(parts, rel=1e-6)
        assert r["rewards"]["right"] == float(f"<answer>{r['gold']}</answer>" in r["text"])
    # Another path to the same bytes continues, other bytes do not.
    moved = tmp_path / "moved.py"
    moved.write_text(FUNCTIONS)
    specs = (f"{moved}:short:0.5", f"{moved}:right")
    assert plan_training(toy_config(toy.sft, toy.data, config.out, "care", **options | {"reward": specs})).done == 1
    moved.write_text(FUNCTIONS + "\n")
    with pytest.raises(ConfigError, match="reward_functions"):
        plan_training(toy_config(toy.sft, toy.data, config.out, "care", **options | {"reward": specs}))


def test_the_command_takes_several_rewards_and_tries_them_in_a_dry_run(toy, tmp_path, functions, capfd):
    from typer.testing import CliRunner

    from seedbench_r1.cli.app import app

    config = toy_config(toy.raw, toy.data, tmp_path / "out", "care", max_steps=1)
    words = command(config, "--reward", f"{functions}:right", "--reward", f"{functions}:short:0.5", "--dry-run")[3:]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "reward right, weight 1, on trial completions: good 1, wrong 0, empty 0," in done.output
    assert "reward short, weight 0.5" in done.output
    as_json = CliRunner().invoke(app, [*words, "--json"])
    assert json.loads(as_json.stdout)["rewards"]["right"]["very long"] == 1
    refused = CliRunner().invoke(app, command(config, "--reward", f"{functions}:nothing", "--dry-run")[3:])
    assert "nothing returned None" in str(refused.exception)


def test_a_path_in_a_settings_file_begins_at_its_folder_and_prints_are_no_results(toy, tmp_path, capfd):
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "loud.py").write_text("def loud(question, completion):\n    print('heard')\n    return 1.0\n")
    (folder / "a.toml").write_text('[train]\nalgo = "care"\nreward = ["loud.py:loud:0.5"]\n')
    places = {"model": str(toy.raw), "data": toy.data, "out": tmp_path / "out"}
    config = resolve_train_config(places, config_file=folder / "a.toml")
    (spec,) = parse_rewards(config.reward)
    assert (spec.path, spec.weight) == (folder / "loud.py", 0.5)
    assert set(try_rewards([spec], question("ocr", "EXIT"))["loud"].values()) == {1.0}
    out, err = capfd.readouterr()
    assert out == ""
    assert "heard" in err


def test_a_script_without_its_guard_is_told_so(toy, tmp_path, functions):
    script = tmp_path / "script.py"
    options = {"algo": "care", "model": str(toy.raw), "data": str(toy.data), "out": str(tmp_path / "out")}
    options |= {"device": "cpu", "max_steps": 1, "reward": [f"{functions}:right"]}
    script.write_text(f"import seedbench_r1 as sb\nsb.train(**{options!r})\n")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, env=environment())
    assert done.returncode == 1
    assert "The process of --reward's functions does not stay alive" in done.stderr
