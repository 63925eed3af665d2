"""A training that learns nothing says so, ends, and neither writes broken weights nor comes to the same end again."""

import json
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from seedbench_r1.cli.app import app
from seedbench_r1.errors import ConfigError
from seedbench_r1.models.checkpoint import list_checkpoints
from seedbench_r1.runs.training_snapshot import ALARM, read_lines
from tests.trainers.launch import command, metrics_of, processes
from tests.trainers.toy import plan_and_train, policy_of, toy_config
from trainers.alarms import END_AFTER, SAY_EVERY, Alarms
from trainers.errors import TrainingEnded
from trainers.metrics import StepLog
from trainers.optimizer import Optimizer
from trainers.plan import plan_training
from trainers.processes import Processes
from trainers.rewards import Reward
from trainers.trackers import scalars

# Random weights and four tokens: no rollout is ever well formed.
HOPELESS = {"preset": "grpo-nokl", "num_generations": 2, "max_completion_length": 4, "max_steps": 60, "save_steps": 20}


def names(out: Path) -> list[str]:
    return [folder.name for folder in list_checkpoints(out)]


def changed(source: Path, copy: Path, value: float, *, of: slice = slice(1)) -> Path:
    """A copy of a model in which numbers of the last norm are `value`."""
    shutil.copytree(source, copy)
    weights = load_file(copy / "model.safetensors")
    (key,) = (name for name in weights if name.endswith("model.norm.weight"))
    weights[key] = weights[key].clone()
    weights[key][of] = value
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


@pytest.fixture
def hopeless(toy, tmp_path):
    return lambda out="out", **changes: toy_config(toy.raw, toy.data, tmp_path / out, "grpo", **HOPELESS | changes)


def test_no_well_formed_rollout_is_said_within_20_steps_and_ends_the_training_after_50(hopeless, tmp_path):
    config, out = hopeless(), tmp_path / "out"
    with pytest.raises(TrainingEnded) as seen:
        plan_and_train(config)
    assert seen.value.exit_code == 7
    assert (
        "ended at step 50: no rollout was well formed (format 0 %) in 50 of 50 steps, since step 1. Look at: "
        in str(seen.value)
    )
    assert "--keep-going" in str(seen.value)
    lines = metrics_of(out)
    assert len(lines) == END_AFTER
    said = {line["step"]: line["alarms"] for line in lines if "alarms" in line}
    assert list(said) == [10, 20, 30, 40, 50]
    assert "no rollout was well formed (format 0 %) in 10 of 10 steps, since step 1" in said[10]
    assert names(out) == ["checkpoint-20", "checkpoint-40"]  # of before, complete; none of the end
    # The same command would come to the same end: nothing is trained until somebody has decided.
    with pytest.raises(TrainingEnded, match=r"was ended at step 50: no rollout.*Nothing was trained"):
        plan_training(config)
    assert metrics_of(out) == lines
    assert plan_and_train(hopeless(keep_going=True)).finished
    assert metrics_of(out)[-1]["step"] == 60
    assert not (out / ALARM).exists()


def test_an_alarm_goes_on_where_a_stopped_training_left_it(hopeless, tmp_path):
    stop = threading.Event()
    plan_and_train(hopeless(), stop=stop, observe=lambda line: stop.set() if line["step"] == 30 else None)
    with pytest.raises(TrainingEnded, match=r"ended at step 50: .* in 50 of 50 steps, since step 1"):
        plan_and_train(hopeless())
    assert [line["step"] for line in metrics_of(tmp_path / "out") if "alarms" in line] == [10, 20, 30, 40, 50]


def test_the_last_checkpoint_from_before_the_alarm_is_kept(toy, tmp_path, monkeypatch):
    settings = {"preset": "grpo-nokl", "num_generations": 2, "max_steps": 80, "save_steps": 1, "save_total_limit": 1}
    config = toy_config(toy.sft, toy.data, tmp_path / "out", "grpo", **settings)

    def observe(metrics):
        if metrics["step"] == 4:
            monkeypatch.setattr("trainers.grpo.reward", lambda *given: Reward(0.0, 0.0))

    with pytest.raises(TrainingEnded, match=r"in 50 of 50 steps, since step 5\..*from before is checkpoint-4\."):
        plan_and_train(config, observe=observe)
    assert all(line["format"] > 0 for line in metrics_of(tmp_path / "out")[:4])
    assert names(tmp_path / "out") == ["checkpoint-4", "checkpoint-53"]


@pytest.mark.parametrize(("max_steps", "seen"), [(22, 22), (60, 50)])
def test_sft_whose_gradients_are_never_finite_ends_without_a_checkpoint(toy, tmp_path, max_steps, seen):
    model = changed(toy.raw, tmp_path / "model", 3e38)  # finite itself, its products are not
    config = toy_config(model, toy.data, tmp_path / "out", "sft", gradient_accumulation_steps=1, max_steps=max_steps)
    message = (
        rf"ended at step {seen}: no step was taken, because the gradient was not finite, in {seen} of {seen} steps"
    )
    with pytest.raises(TrainingEnded, match=message):
        plan_and_train(config)
    assert names(tmp_path / "out") == []
    assert all(line["grad_norm"] is None and line["loss"] is None for line in metrics_of(tmp_path / "out"))
    assert {"NaN", "Infinity"}.isdisjoint((tmp_path / "out" / "metrics.jsonl").read_text().replace(",", " ").split())


def test_a_model_of_nan_weights_is_refused_by_file_and_tensor(toy, tmp_path):
    model = changed(toy.raw, tmp_path / "model", float("nan"))
    named = f"norm.weight in {model / 'model.safetensors'} holds NaN or infinity"
    done = CliRunner().invoke(app, command(toy_config(model, toy.data, tmp_path / "out", "grpo", max_steps=3))[3:])
    assert isinstance(done.exception, ConfigError)
    assert named in str(done.exception)
    with pytest.raises(ConfigError, match="are not finite") as seen:
        plan_and_train(toy_config(model, toy.data, tmp_path / "out", "sft", max_steps=3))
    assert named in str(seen.value)
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_logits_that_overflow_are_named_before_a_token_is_drawn_from_them(toy, tmp_path):
    model = changed(toy.raw, tmp_path / "model", 3e38, of=slice(None))
    for changes in ({}, {"decode_cache": "static"}, {"temperature": 0.5, "top_p": 0.9}):
        config = toy_config(model, toy.data, tmp_path / "out", "grpo", **HOPELESS | changes)
        with pytest.raises(
            TrainingEnded, match=r"logits are not finite .* every weight is finite, .*overflow in float32"
        ):
            plan_and_train(config)


def test_what_vllm_gives_without_a_finite_probability_is_not_trained_on(toy, monkeypatch):
    from trainers import vllm_sampler

    monkeypatch.setattr(vllm_sampler, "ColocatedEngine", lambda *given, **options: None)
    config = toy_config(toy.raw, toy.data, toy.data / "none", "care", rollouts="vllm")
    sampler = vllm_sampler.VllmSampler(policy_of(config), config, Processes("cpu"))

    def completion(*logprobs):
        entries = [{5: SimpleNamespace(logprob=value)} for value in logprobs]
        return SimpleNamespace(finish_reason="length", token_ids=[5] * len(entries), logprobs=entries)

    assert sampler._rollout(completion(-1.0, -2.0)).logprobs == (-1.0, -2.0)
    with pytest.raises(TrainingEnded, match="logits are not finite"):
        sampler._rollout(completion(-1.0, float("nan")))


def test_weights_that_a_step_has_broken_are_not_written(toy, tmp_path, monkeypatch):
    config = toy_config(toy.raw, toy.data, tmp_path / "out", "sft", max_steps=3, save_steps=1)
    step = Optimizer.step

    def break_a_weight(optimizer, rate):
        norm = step(optimizer, rate)
        if list_checkpoints(config.out):
            list(optimizer.weights.values())[-1].data[0] = float("nan")
        return norm

    monkeypatch.setattr(Optimizer, "step", break_a_weight)
    with pytest.raises(
        TrainingEnded, match=r"checkpoint-2 was not written: \S+ holds NaN.* last good.*: checkpoint-1\."
    ):
        plan_and_train(config)
    assert names(tmp_path / "out") == ["checkpoint-1"]
    assert not list((tmp_path / "out").glob(".checkpoint*"))
    monkeypatch.undo()
    assert plan_and_train(config).finished


def step(number: int, **changes) -> dict:
    return {"step": number, "grad_norm": 1.0, "loss": 0.1, "format": 1.0, "reasoning": 1.0} | changes


def count(toy, lines, **config) -> tuple[Alarms, dict[int, list[str]]]:
    alarms = Alarms(toy_config(toy.raw, toy.data, toy.data / "none", "care", **config))
    said = {line["step"]: alarms.count(line) for line in lines}
    return alarms, {number: texts for number, texts in said.items() if texts}


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ({"grad_norm": None}, "no step was taken, because the gradient was not finite"),
        ({"loss": None}, "the loss was not finite"),
        ({"format": 0.0}, "no rollout was well formed"),
        ({"reasoning": 0.0}, "no rollout had any reasoning"),
    ],
)
def test_fifty_steps_in_a_row_and_not_one_less(toy, bad, text):
    good, row = [step(1), step(2)], [step(3 + number, **bad) for number in range(50)]
    alarms, said = count(toy, good + row[:49])
    assert list(said) == [12, 22, 32, 42]  # ten steps in a row, and every ten
    assert alarms.end(1000) is None
    alarms.count(row[49])
    assert alarms.end(1000).startswith(f"{text}")
    assert "in 50 of 50 steps, since step 3. Look at: " in alarms.end(1000)
    # A good step ends the row.
    alarms, _ = count(toy, [*good, *row[:49], step(52), *(step(53 + n, **bad) for n in range(49))])
    assert alarms.end(1000) is None
    assert count(toy, good + row, keep_going=True)[0].end(1000) is None
    assert SAY_EVERY <= 20


def test_what_the_last_good_step_is(toy):
    assert count(toy, [step(1)])[0].last_good is None
    assert count(toy, [step(1), step(2), step(3, format=0.0)])[0].last_good == 2
    assert count(toy, [step(1), step(2, loss=None), step(3, format=0.0)])[0].last_good == 2
    assert count(toy, [step(1), step(2, loss=None), step(3, format=0.0, loss=None)])[0].last_good == 1


def test_a_format_that_is_not_rewarded_is_no_alarm(toy):
    lines = [step(n, format=0.0) for n in range(1, 60)]
    assert count(toy, lines, format_weight=0.0)[1] == {}
    assert count(toy, lines)[0].end(1000) is not None


@pytest.mark.parametrize(
    ("usual", "later", "jumps"),
    [
        (0.001, 0.049, False),  # 49 times, and still rounding
        (0.001, 0.051, True),
        (0.02, 0.19, False),
        (0.02, 0.21, True),
        (0.5, 0.9, False),
        (0.5, 1.1, True),  # ten times the usual cannot be reached: another model
        (1.1, 1.1, True),  # wrong from the first step on
        (0.001, None, False),  # not measured
    ],
)
def test_a_sampler_that_is_not_the_policy(toy, usual, later, jumps):
    lines = [step(n, rollout_logprob_gap=usual) for n in range(1, 21)]
    lines += [step(n, rollout_logprob_gap=later) for n in range(21, 71)]
    alarms, said = count(toy, lines)
    assert (alarms.end(1000) is not None) == jumps
    assert bool(said) == jumps
    # A step without a policy pass measures nothing, and neither ends nor lengthens the row.
    if jumps and usual < 1:
        alarms, _ = count(toy, [*lines[:60], step(61), *lines[60:69]])
        assert alarms.end(1000) is None
        alarms.count(step(72, rollout_logprob_gap=later))
        assert "in 50 of 52 steps, since step 21" in alarms.end(1000)


def test_files_and_trackers_hold_no_nan(tmp_path):
    def refuse(word: str) -> float:
        raise AssertionError(word)

    log = StepLog(tmp_path, 0)
    broken = {"step": 1, "loss": float("nan"), "seconds": {"io": float("inf")}, "list": [1.0, float("-inf")]}
    log.write(broken, [{"step": 1, "reward": float("nan")}])
    log.close()
    lines = [
        json.loads((tmp_path / name).read_text(), parse_constant=refuse) for name in ("metrics.jsonl", "rollouts.jsonl")
    ]
    assert lines[0] == {"step": 1, "loss": None, "seconds": {"io": None}, "list": [1.0, None]}
    assert lines[1] == {"step": 1, "reward": None}
    assert scalars(broken) == {"step": 1.0}


def test_numbers_that_json_cannot_hold_are_no_settings(toy):
    for name in ("learning_rate", "temperature", "fps"):
        with pytest.raises(ConfigError, match=r"is inf, which is out of range: a finite number"):
            toy_config(toy.raw, toy.data, toy.data / "none", "grpo", **{name: float("inf")})


def test_two_processes_end_together(hopeless, tmp_path):
    config = hopeless(gradient_accumulation_steps=1)
    children = processes([command(config, "--preset", "grpo-nokl") for _ in range(2)])
    errors = [child.communicate(timeout=300)[1] for child in children]
    assert [child.returncode for child in children] == [7, 7], "\n".join(errors)
    # The main process says it, once while it goes on and once at the end; on one line each.
    assert errors[0].count("no rollout was well formed (format 0 %) in 10 of 10 steps") == 1
    assert "Training ended at step 50" in errors[0]
    assert "bug" not in "".join(errors)
    assert len(read_lines(tmp_path / "out" / "metrics.jsonl")) == END_AFTER
