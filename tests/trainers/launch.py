"""Trainings as users start them: command lines, several processes; and what they wrote, compared."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from seedbench_r1.cli.app import app
from seedbench_r1.runs.training_snapshot import read_lines
from tests.decoders import sharing_in_trainings
from tests.forked import Forked, Server
from tests.trainers.toy import plan_and_train, toy_config
from trainers.checkpoints import read_training
from trainers.config import TrainConfig
from trainers.metrics import StepMetrics

MAIN = "from seedbench_r1.cli.app import main; main()"


def command(config: TrainConfig, *extra: str) -> list[str]:
    """The command line of a toy configuration."""
    options = ["--algo", config.algo, "--model", config.model, "--data", config.data, "--out", config.out]
    options += ["--device", "cpu", "--workers", "1", "--prompt-file", config.data / "prompt.toml"]
    options += ["--image-min-pixels", "3136", "--image-max-pixels", "3136", "--no-gradient-checkpointing"]
    options += ["--learning-rate", config.learning_rate, "--lr-scheduler-type", "constant"]
    options += ["--max-completion-length", "16", "--max-steps", config.max_steps, "--save-steps", config.save_steps]
    options += ["--num-generations", config.num_generations, "--rollout-batch-size", config.rollout_batch_size]
    options += ["--gradient-accumulation-steps", config.gradient_accumulation_steps, *extra]
    return [sys.executable, "-c", MAIN, "train", *map(str, options)]


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | more


def ranks(n: int) -> list[dict[str, str]]:
    """What torchrun and accelerate launch tell each of n processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(n)]


def processes(commands: list[list[str]]) -> list[subprocess.Popen]:
    """One process per command, each with its rank."""
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    told = zip(commands, ranks(len(commands)), strict=True)
    return [subprocess.Popen(words, env=environment(**ranked), **streams) for words, ranked in told]


def finish(children: Sequence[subprocess.Popen | Forked], *, timeout_s: float = 500) -> None:
    """Wait for their end, which must be a good one."""
    try:
        errors = [child.communicate(timeout=timeout_s)[1] for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0] * len(children), "\n".join(errors)


def metrics_of(out: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read_lines(out / "metrics.jsonl")]


def state_of(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "resume" / "state.pt", weights_only=True)


def assert_same_checkpoint(one: Path, other: Path) -> None:
    files = [path.name for path in one.glob("*.safetensors")]
    assert files
    for name in files:
        left, right = load_file(one / name), load_file(other / name)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left)
    left, right = state_of(one), state_of(other)
    torch.testing.assert_close(left, right, rtol=0, atol=0)
    assert read_training(one).progress == read_training(other).progress


def trainings(options: list[dict[str, Any]], n: int) -> list[Forked]:
    """n processes, as torchrun starts them, that train with each of the toy configurations, one after the other."""
    modules = ["tests.trainers.launch", "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl", "torch._dynamo"]
    server = Server("train", "tests.trainers.launch:train_all", modules)
    words, quiet = [json.dumps(options, default=str)], {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    children = [server.popen(words, env=environment(**ranked), **quiet) for ranked in ranks(n)]
    server.close()
    return children


def train_all() -> None:
    """What a process of `trainings` runs.

    Options besides the configuration's: stop_after, the step after which the training is stopped as by a signal;
    command_line, to run the command instead, whose standard output each process writes to <out>/stdout-<rank>.
    """
    torch.set_num_threads(1)
    with sharing_in_trainings():
        for one in json.loads(sys.argv[1]):
            _train(one)


def _train(one: dict[str, Any]) -> None:
    places = {name: Path(one.pop(name)) for name in ("model", "data", "out")}
    by_command = one.pop("command_line", False)
    last, stop = one.pop("stop_after", None), threading.Event()
    config = toy_config(**places, algo=one.pop("algo"), **one)
    if by_command:
        done = CliRunner().invoke(app, command(config, "--json")[3:], catch_exceptions=False)
        (config.out / f"stdout-{os.environ['RANK']}").write_text(done.stdout)
        return

    def observe(line: StepMetrics) -> None:
        if line["step"] == last:
            stop.set()

    plan_and_train(config, stop=stop, observe=observe)
