"""`train --rollouts vllm` on the toy task: in every way that weights can lie, and killed and continued."""

from __future__ import annotations

import json
import signal
import subprocess
import time

import pytest
from safetensors.torch import load_file

from tests.trainers.launch import command, environment, finish, metrics_of, ranks
from tests.trainers.toy import RESPONSE, plan_and_train, toy_config, write_toy, write_toy_model

STEPS, SEEN = 8, 3  # of the training, and before the kill


# One engine over both processes, which is the default, and its weights from wherever they lie.
WAYS = {
    "fsdp": ["--fsdp"],
    "fsdp-care": ["--fsdp", "--algo", "care", "--preset", "care", "--ema-every", "1", "--beta", "0.1"],
}
ADAPTED = {"fsdp-lora": ["--fsdp"], "lora-apart": ["--rollout-tensor-parallel", "1"]}
# What the engine is given, once a step and process: how many share it, and how many rollouts are drawn in one batch.
SPYING = """
import json, sys
from seedbench_r1.backends.vllm_colocated import ColocatedEngine
of_all = ColocatedEngine._of_all
def spied(engine, requests):
    found, before = of_all(engine, requests)
    with open({place!r}, "a") as file:
        print(json.dumps([engine.engine.vllm_config.parallel_config.tensor_parallel_size, len(found)]), file=file)
    return found, before
ColocatedEngine._of_all = spied
"""


def start(config, *extra, spy="", **more):
    # frozen reference with KL: every group has a policy pass. The decay shrinks the weights by a tenth in every step.
    options = ["--preset", "grpo", "--rollouts", "vllm", "--weight-decay", config.weight_decay]
    python, flag, code, *words = command(config, *map(str, options), *extra)
    return subprocess.Popen(
        [python, flag, spy + code, *words],
        env=environment(VLLM_CPU_KVCACHE_SPACE="1", **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_steps(config, children):
    deadline = time.monotonic() + 500
    while len(metrics_of(config.out)) < SEEN:
        assert time.monotonic() < deadline
        for child in children:
            assert child.poll() is None, child.communicate()[1]
        time.sleep(0.005)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    data = write_toy(folder / "data", {"A": RESPONSE.format("A", "A")})
    return write_toy_model(folder / "model", data, hidden=64), data  # vLLM's CPU attention takes heads of 32 and more


@pytest.fixture(scope="module")
def learned(toy, tmp_path_factory):
    """A model that answers in the right form, and now and then rightly: its rollouts differ in reward."""
    model, data = toy
    out = tmp_path_factory.mktemp("sft")
    plan_and_train(toy_config(model, data, out, "sft", max_steps=80, save_steps=80))
    return out / "checkpoint-80"


@pytest.mark.parametrize("way", WAYS)
def test_rollouts_of_two_processes_are_those_of_the_built_in_sampler_in_one(toy, tmp_path, way):
    model, data = toy
    algo = "care" if way == "fsdp-care" else "grpo"
    settings = {"preset": algo, "weight_decay": 50.0, "max_steps": 3, "save_steps": 3, "num_generations": 4, "top_k": 1}
    settings |= {"ema_every": 1, "beta": 0.1} if algo == "care" else {}
    plain = toy_config(model, data, tmp_path / "plain", algo, gradient_accumulation_steps=2, **settings)
    plan_and_train(plain)
    config = toy_config(model, data, tmp_path / "out", algo, rollouts="vllm", **settings)
    spy = SPYING.format(place=str(tmp_path / "engine"))
    extra = ["--learning-rate", config.learning_rate, "--top-k", "1", "--rollout-log-steps", "1", *WAYS[way]]
    children = [start(config, *map(str, extra), spy=spy, **ranked) for ranked in ranks(2)]
    finish(children)
    ours, theirs = metrics_of(config.out), metrics_of(plain.out)
    assert [line["step"] for line in ours] == [1, 2, 3]
    assert all(line["rollout_logprob_gap"] < 1e-5 for line in ours), [line["rollout_logprob_gap"] for line in ours]
    for name in ("length", "reward", "policy_passes"):
        assert [line[name] for line in ours] == pytest.approx([line[name] for line in theirs]), name
    assert [line["grad_norm"] for line in ours] == pytest.approx([line["grad_norm"] for line in theirs], rel=1e-3)
    assert batches(tmp_path / "engine") == [[2, 8]] * 6


def batches(engine):
    """Of two processes with a question of four rollouts each, and three steps."""
    return [json.loads(line) for line in engine.read_text().splitlines()] if engine.exists() else []


@pytest.mark.parametrize("way", ADAPTED)
def test_adapters_that_learn_are_what_two_processes_sample_from(toy, learned, tmp_path, way):
    _, data = toy
    # With a KL penalty every group has a pass.
    settings = {"preset": "grpo", "max_steps": 3, "save_steps": 3, "num_generations": 4, "learning_rate": 0.01}
    config = toy_config(learned, data, tmp_path / "out", "grpo", lora=True, lora_r=4, rollouts="vllm", **settings)
    spy = SPYING.format(place=str(tmp_path / "engine"))
    extra = ["--lora", "--lora-r", "4", "--importance-cap", "2", *ADAPTED[way]]
    finish([start(config, *extra, spy=spy, **ranked) for ranked in ranks(2)])
    lines = metrics_of(config.out)
    assert all(line["policy_passes"] == 2 for line in lines)
    assert all(line["rollout_logprob_gap"] < 1e-5 for line in lines), [line["rollout_logprob_gap"] for line in lines]
    assert [line["importance_weight"] for line in lines] == pytest.approx([1.0] * 3, abs=1e-4)
    saved = load_file(config.out / "checkpoint-3" / "adapter_model.safetensors")
    assert max(float(value.abs().max()) for name, value in saved.items() if "lora_B" in name) > 1e-3
    assert lines[0]["grad_norm"] > 0, "the adapters have not learned before the last step"
    assert batches(tmp_path / "engine") == ([] if way == "lora-apart" else [[2, 8]] * 6)


def test_two_processes_are_killed_and_one_goes_on(toy, tmp_path):
    from seedbench_r1.errors import ConfigError
    from seedbench_r1.models.checkpoint import list_checkpoints
    from trainers.plan import plan_training

    model, data = toy
    settings = {"preset": "grpo", "weight_decay": 50.0, "max_steps": STEPS, "save_steps": 1, "num_generations": 4}
    config = toy_config(model, data, tmp_path / "out", "grpo", rollouts="vllm", **settings)
    children = [start(config, **ranked) for ranked in ranks(2)]
    wait_for_steps(config, children)
    for child in children:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    assert SEEN - 1 <= int(list_checkpoints(config.out)[-1].name.split("-")[1]) < STEPS
    one = toy_config(model, data, tmp_path / "out", "grpo", rollouts="vllm", gradient_accumulation_steps=2, **settings)
    resumed = start(one, "--json")
    out, err = resumed.communicate(timeout=500)
    assert resumed.returncode == 0, err
    assert json.loads(out)["step"] == STEPS  # and nothing of vLLM's on standard output
    lines = metrics_of(config.out)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    # the sampler's log-probabilities are the newest policy's at every step: its weights have been pushed
    assert all(line["policy_passes"] == 2 for line in lines)
    assert all(line["rollout_logprob_gap"] < 1e-4 for line in lines), [line["rollout_logprob_gap"] for line in lines]
    assert all(line["rollout_ratio"] == pytest.approx(1, abs=1e-4) for line in lines)
    with pytest.raises(ConfigError, match="rollouts: 'vllm' there, 'builtin' here"):
        plan_training(toy_config(model, data, tmp_path / "out", "grpo", gradient_accumulation_steps=2, **settings))
