"""`train --rollouts vllm` on the toy task: two processes are killed, one goes on."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time

import pytest

from tests.trainers.launch import command, environment, metrics_of
from tests.trainers.toy import RESPONSE, toy_config, write_toy, write_toy_model

STEPS, SEEN = 8, 3  # of the training, and before the kill


def start(config, *extra, **more):
    # frozen reference with KL: every group has a policy pass. The decay shrinks the weights by a tenth in every step.
    options = ["--preset", "grpo", "--rollouts", "vllm", "--weight-decay", "50"]
    return subprocess.Popen(
        command(config, *options, *extra),
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


def test_two_processes_are_killed_and_one_goes_on(tmp_path):
    from seedbench_r1.errors import ConfigError
    from trainers.checkpoints import list_checkpoints
    from trainers.plan import plan_training

    data = write_toy(tmp_path / "data", {"A": RESPONSE.format("A", "A")})
    model = write_toy_model(tmp_path / "model", data, hidden=64)  # vLLM's CPU attention takes heads of 32 and more
    settings = {"preset": "grpo", "weight_decay": 50.0, "max_steps": STEPS, "save_steps": 1, "num_generations": 4}
    config = toy_config(model, data, tmp_path / "out", "grpo", rollouts="vllm", **settings)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    children = [start(config, RANK=str(rank), LOCAL_RANK=str(rank), **shared) for rank in range(2)]
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
