"""Weights spread over processes (--fsdp): the same training as without, and as in one process."""

import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file

from seedbench_r1.errors import ConfigError
from tests.trainers.launch import command, environment, finish, metrics_of, processes, state_of, trainings
from tests.trainers.toy import toy_config
from trainers.checkpoints import checkpoints, read_progress
from trainers.loop import plan, train
from trainers.metrics import read_lines

# AdamW's first steps have the size of the rate, whatever the rounding
CARE = {"algo": "care", "num_generations": 4, "max_steps": 3, "rollout_batch_size": 2, "save_steps": 100}
CARE |= {"learning_rate": 5e-4, "ema_every": 1, "ema_decay": 0.9, "eval_every": 2, "eval_questions": 1}
KINDS = {
    "care": CARE | {"group_chunk": 3, "gradient_checkpointing": True},
    "kl": CARE | {"algo": "grpo", "beta": 0.5, "kl_on": "accurate", "bonus": "none", "max_steps": 2},
    "sft": {"algo": "sft", "max_steps": 2, "save_steps": 100, "learning_rate": 5e-4, "freeze_vision": True},
}


@dataclass(frozen=True)
class Trained:
    one: Path  # one process with twice the accumulation
    two: Path  # two processes
    sharded: Path  # two processes and --fsdp


@pytest.fixture(scope="module")
def trained(toy, tmp_path_factory) -> Trained:
    """Every kind of training, three ways; the two processes are started once for all of them."""
    made = Trained(*(tmp_path_factory.mktemp(name) for name in ("one", "two", "sharded")))
    options = []
    for name, settings in KINDS.items():
        shared = settings | {"model": toy.taught, "data": toy.data}
        options.append(shared | {"out": made.two / name, "gradient_accumulation_steps": 2})
        options.append(shared | {"out": made.sharded / name, "gradient_accumulation_steps": 2, "fsdp": True})
    children = processes([trainings(options)] * 2)
    for name, settings in KINDS.items():
        one = settings | {"model": toy.taught, "data": toy.data, "out": made.one / name}
        train(toy_config(**one, gradient_accumulation_steps=4))
    finish(children)
    return made


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def kept(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of resume/sharded, whole, by their place ("adamw.model.lm_head.weight.exp_avg")."""
    folder = folder / "resume" / "sharded"
    found = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    values = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in found.items()}
    dcp.load(values, checkpoint_id=folder, no_dist=True)
    return values


def farthest(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    assert left.keys() == right.keys()
    return max(float((left[name] - right[name]).abs().max()) for name in left)


@pytest.mark.parametrize("kind", KINDS)
def test_sharded_is_unsharded_is_one_process(toy, trained, kind):
    last = f"checkpoint-{KINDS[kind]['max_steps']}"
    one, two, sharded = (folder / kind / last for folder in (trained.one, trained.two, trained.sharded))
    assert farthest(weights_of(sharded), weights_of(two)) <= 1e-6
    assert farthest(weights_of(sharded), weights_of(one)) <= 1e-6
    moved = {name: value for name, value in weights_of(toy.taught).items()}
    assert farthest(moved, weights_of(sharded)) > 1e-4
    state, resume = state_of(one), kept(sharded)
    average = {name.removeprefix("average."): value for name, value in resume.items() if name.startswith("average.")}
    assert bool(average) == (kind == "care")
    assert kind != "care" or farthest(average, state["average"]) <= 1e-6
    ours, theirs = metrics_of(trained.sharded / kind), metrics_of(trained.one / kind)
    idle = [line.pop("idle_passes", 0) for line in ours]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, rel=1e-4, abs=1e-6)
    if kind != "sft":
        assert sum(idle) > 0, "no process was short of a pass: the padding was not tested"
        assert [line.get("heldout") for line in ours] == [line.get("heldout") for line in theirs]
        rollouts = [read_lines(folder / kind / "rollouts.jsonl") for folder in (trained.sharded, trained.one)]
        assert [line["text"] for line in rollouts[0]] == [line["text"] for line in rollouts[1]]
    files = {path.name for path in sharded.iterdir()} - {path.name for path in one.iterdir()}
    assert files == set()
