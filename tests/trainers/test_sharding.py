"""Weights spread over processes (--fsdp): the same training as without, and as in one process."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from seedbench_r1.errors import ConfigError
from seedbench_r1.models.checkpoint import list_checkpoints
from seedbench_r1.runs.training_snapshot import read_lines
from tests.trainers.launch import (
    MAIN,
    assert_same_checkpoint,
    command,
    environment,
    finish,
    metrics_of,
    processes,
    state_of,
    trainings,
)
from tests.trainers.toy import plan_and_train, toy_config
from trainers.checkpoints import read_training
from trainers.config import TrainConfig
from trainers.plan import plan_training

TRAINING_PAGE = Path(__file__).parents[2] / "docs" / "training.md"
# AdamW's first steps have the size of the rate, whatever the rounding
RL = {"num_generations": 4, "max_steps": 3, "rollout_batch_size": 2, "save_steps": 100, "learning_rate": 5e-4}
FROZEN = RL | {"algo": "care", "reference": "frozen", "max_steps": 2}
CARE = RL | {"algo": "care", "ema_every": 1, "ema_decay": 0.9}
HELD = {"eval_every": 2, "eval_questions": 1}
KINDS = {
    "care": CARE | HELD | {"group_chunk": 3, "gradient_checkpointing": True},
    "kl": RL | {"algo": "grpo", "beta": 0.5, "kl_on": "accurate", "bonus": "none", "max_steps": 2},
    # Tokens are counted over both processes; two updates a step
    "dapo": RL
    | {"algo": "grpo", "preset": "grpo-nokl", "loss_type": "dapo", "num_iterations": 2, "epsilon": 0.02}
    | {"max_steps": 2},
    "refill": CARE | {"refill": 1, "num_generations": 2},
    # The reference's weights are gathered to write answers, with a process that has none to ask for, too.
    "refgen": CARE | {"bonus": "refgen", "refgen_tokens": 8},
    "sft": {"algo": "sft", "max_steps": 2, "save_steps": 100, "learning_rate": 5e-4, "freeze_vision": True},
    "frozen": FROZEN,
    "main-memory": CARE | {"optimizer_device": "cpu"},
    # One step: then weights that are equal within 1e-6 may round apart (one in 270,592 did), and other tokens are drawn
    "bfloat16": CARE | {"dtype": "bfloat16", "max_steps": 1},
}

LORA = {"lora": True, "lora_r": 4, "lora_alpha": 8, "learning_rate": 5e-3}
ADAPTED = {
    "lora": CARE | HELD | LORA,
    "lora-frozen": FROZEN | LORA,
    "lora-kl": KINDS["kl"] | LORA,
    "lora-refgen": CARE | {"bonus": "refgen", "refgen_tokens": 8} | LORA,
    "lora-refgen-frozen": FROZEN | {"bonus": "refgen", "refgen_tokens": 8} | LORA,
    "lora-sft": {"algo": "sft", "max_steps": 2, "save_steps": 100} | LORA,
}

# By the command line, without --fsdp.
COMMAND = {"algo": "care", "num_generations": 4, "max_steps": 3, "rollout_batch_size": 1, "save_steps": 100}
COMMAND |= {"learning_rate": 5e-4}


@dataclass(frozen=True)
class Trained:
    one: Path  # one process with twice the accumulation
    two: Path  # two processes
    sharded: Path  # two processes and --fsdp
    resumed: Path  # likewise, stopped after the first step and continued, "lora" without --fsdp; some kinds only


@pytest.fixture(scope="module")
def trained(toy, tmp_path_factory) -> Trained:
    """Every kind of training in each way; the two processes are started once for all of them."""
    made = Trained(*(tmp_path_factory.mktemp(name) for name in ("one", "two", "sharded", "resumed")))
    options = []
    for name, settings in (KINDS | ADAPTED).items():
        shared = settings | {"model": toy.sft, "data": toy.data, "gradient_accumulation_steps": 2}
        options.append(shared | {"out": made.two / name})
        options.append(shared | {"out": made.sharded / name, "fsdp": True})
        if name in ("care", "main-memory", "lora", "lora-kl"):
            again = shared | {"out": made.resumed / name, "fsdp": True}
            options += [again | {"stop_after": 1}, again | {"fsdp": name != "lora"}]
        if name == "main-memory":
            # In bfloat16: then what is stepped on is not what a pass reads.
            again = shared | {"out": made.resumed / "moved", "fsdp": True, "max_steps": 2, "dtype": "bfloat16"}
            options += [again | {"stop_after": 1, "optimizer_device": "auto"}, again]
            options.append(again | {"out": made.sharded / "moved"})
    shared = KINDS["dapo"] | {"model": toy.sft, "data": toy.data, "gradient_accumulation_steps": 2}
    options.append(shared | {"out": made.sharded / "packed", "fsdp": True, "max_packed_tokens": 10**6})
    shared = COMMAND | {"model": toy.sft, "data": toy.data, "gradient_accumulation_steps": 2}
    options.append(shared | {"out": made.two / "command", "command_line": True})
    children = trainings(options, 2)
    for name, settings in (KINDS | ADAPTED | {"command": COMMAND}).items():
        plan_and_train(toy_config(toy.sft, toy.data, made.one / name, **settings, gradient_accumulation_steps=4))
    finish(children)
    return made


def kept(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of resume/sharded, whole, by their place ("adamw.model.lm_head.weight.exp_avg")."""
    folder = folder / "resume" / "sharded"
    found = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    values = {name: torch.zeros(entry.size, dtype=entry.properties.dtype) for name, entry in found.items()}
    dcp.load(values, checkpoint_id=folder, no_dist=True)
    return values


def part(values: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in values.items() if key.startswith(f"{name}.")}


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """What the optimiser steps on: the fp32 weights, which a model folder in bfloat16 does not hold."""
    if (folder / "resume" / "sharded").exists():
        return part(kept(folder), "weights")
    copies = state_of(folder)["optimizer"]["weights"] if (folder / "resume").exists() else {}
    # the file has the hub's names, the shards have the model's
    return copies or AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).state_dict()


def farthest(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    names = left.keys() & right.keys()
    assert len(names) == min(len(left), len(right)) > 0
    return max(float((left[name] - right[name]).detach().abs().max()) for name in names)


def assert_same_metrics(ours: Path, theirs: Path, n: int) -> list[int]:
    """Returns ours' idle passes."""
    mine, others = metrics_of(ours), metrics_of(theirs)
    idle = [line.pop("idle_passes", 0) for line in mine]
    assert len(mine) == len(others) == n
    for line, other in zip(mine, others, strict=True):
        assert line.pop("heldout", None) == other.pop("heldout", None)
        numbers = {name: value for name, value in other.items() if value is not None}
        assert line.keys() == other.keys()
        assert {name: line[name] for name in numbers} == pytest.approx(numbers, rel=1e-3, abs=1e-5)
        assert all(value is None for name, value in line.items() if name not in numbers)
    return idle


def assert_same_texts(ours: Path, theirs: Path) -> None:
    rollouts = [read_lines(folder / "rollouts.jsonl") for folder in (ours, theirs)]
    texts = [[line["text"] for line in lines] for lines in rollouts]
    assert texts[0] == texts[1] != []
    written = [[line.get("regenerated") for line in lines] for lines in rollouts]
    assert written[0] == written[1]
    if "refgen" in ours.name:
        assert any(text is not None for text in written[0])
        assert any(line["bonus"] > 0 for line in read_lines(ours / "metrics.jsonl"))


def assert_same_shards(one: Path, other: Path) -> None:
    left, right = kept(one), kept(other)
    assert left.keys() == right.keys()
    assert any(name.startswith("average.") for name in left)
    assert [name for name in left if not torch.equal(left[name], right[name])] == []
    left, right = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert [name for name in left if not torch.equal(left[name], right[name])] == []
    assert read_training(one).progress == read_training(other).progress


@pytest.mark.parametrize("kind", KINDS)
def test_sharded_is_unsharded_is_one_process(toy, trained, kind):
    last = f"checkpoint-{KINDS[kind]['max_steps']}"
    one, two, sharded = (folder / kind / last for folder in (trained.one, trained.two, trained.sharded))
    start = weights_of(toy.sft)

    assert farthest(weights_of(sharded), weights_of(two)) <= 1e-6
    assert farthest(weights_of(sharded), weights_of(one)) <= 1e-6
    assert farthest(weights_of(sharded), start) > 1e-4
    average = part(kept(sharded), "average")
    assert bool(average) == (kind in ("care", "refill", "refgen", "main-memory", "bfloat16"))
    assert not average or farthest(average, state_of(one)["average"]) <= 1e-6
    idle = assert_same_metrics(trained.sharded / kind, trained.one / kind, KINDS[kind]["max_steps"])
    assert kind != "refill" or sum(line["refilled"] for line in metrics_of(trained.sharded / kind)) > 0
    if kind != "sft":
        assert sum(idle) > 0, "no process was short of a pass: padding was not tested"
        assert_same_texts(trained.sharded / kind, trained.one / kind)
    assert {path.name for path in sharded.iterdir()} == {path.name for path in one.iterdir()}
    written = AutoModelForImageTextToText.from_pretrained(sharded, dtype="auto").state_dict()
    assert {value.dtype for value in written.values()} == {torch.bfloat16 if kind == "bfloat16" else torch.float32}
    fp32 = part(kept(sharded), "weights")
    assert all(torch.equal(value.to(written[name].dtype), written[name]) for name, value in fp32.items())


def test_packed_passes_of_sharded_weights_are_those_of_one_group_each(trained):
    packed, apart = trained.sharded / "packed", trained.one / "dapo"
    assert farthest(weights_of(packed / "checkpoint-2"), weights_of(apart / "checkpoint-2")) <= 1e-6
    together, one = ([line["policy_passes"] for line in metrics_of(folder)] for folder in (packed, apart))
    assert sum(together) < sum(one)


@pytest.mark.parametrize("kind", ADAPTED)
def test_adapters_on_a_sharded_base_are_those_on_a_whole_one(trained, kind):
    """The base alone is sharded: what is trained, averaged and saved lies whole in every process."""
    last = f"checkpoint-{ADAPTED[kind]['max_steps']}"
    one, two, sharded = (folder / kind / last for folder in (trained.one, trained.two, trained.sharded))
    adapters = [load_file(folder / "adapter_model.safetensors") for folder in (sharded, two, one)]
    # Ten times the rate, ten times the tolerance.
    assert farthest(adapters[0], adapters[1]) <= 1e-5
    assert farthest(adapters[0], adapters[2]) <= 1e-5
    assert max(float(value.abs().max()) for name, value in adapters[0].items() if "lora_B" in name) > 1e-3
    average = state_of(sharded)["average"]
    assert bool(average) == (kind in ("lora", "lora-refgen"))
    assert not average or farthest(average, state_of(one)["average"]) <= 1e-5
    assert_same_metrics(trained.sharded / kind, trained.one / kind, ADAPTED[kind]["max_steps"])
    if kind != "lora-sft":
        assert_same_texts(trained.sharded / kind, trained.one / kind)
    # peft can load it, too: the wrapper of --fsdp is not what the base is.
    described = json.loads((sharded / "adapter_config.json").read_text())
    assert described["auto_mapping"]["base_model_class"] == "Qwen2_5_VLForConditionalGeneration"
    assert described["auto_mapping"] == json.loads((one / "adapter_config.json").read_text())["auto_mapping"]
    assert {path.name for path in sharded.iterdir()} == {path.name for path in one.iterdir()}


def test_adapters_on_a_sharded_base_continue_bit_for_bit_and_on_a_whole_one(trained):
    whole, resumed = trained.sharded / "lora-kl" / "checkpoint-2", trained.resumed / "lora-kl" / "checkpoint-2"
    assert_same_checkpoint(whole, resumed)
    assert metrics_of(trained.sharded / "lora-kl") == metrics_of(trained.resumed / "lora-kl")
    left, right = (folder / "lora" / "checkpoint-3" for folder in (trained.sharded, trained.resumed))
    assert farthest(*(load_file(folder / "adapter_model.safetensors") for folder in (left, right))) <= 1e-5
    ours, theirs = metrics_of(trained.sharded / "lora"), metrics_of(trained.resumed / "lora")
    assert [("idle_passes" in one, "idle_passes" in two) for one, two in zip(ours, theirs, strict=True)] == [
        (True, True),
        (True, False),
        (True, False),
    ]


def test_two_processes_of_the_command_are_one_with_twice_the_accumulation(toy, trained):
    one, two = (folder / "command" / "checkpoint-3" for folder in (trained.one, trained.two))
    assert farthest(load_file(one / "model.safetensors"), load_file(two / "model.safetensors")) <= 1e-6
    assert farthest(load_file(toy.sft / "model.safetensors"), load_file(one / "model.safetensors")) > 1e-3
    assert farthest(state_of(one)["average"], state_of(two)["average"]) <= 1e-6
    ours, theirs = metrics_of(trained.one / "command"), metrics_of(trained.two / "command")
    assert [line["reward"] for line in ours] == pytest.approx([line["reward"] for line in theirs])
    assert [line["policy_passes"] for line in ours] == [line["policy_passes"] for line in theirs]
    printed = [(trained.two / "command" / f"stdout-{rank}").read_text() for rank in range(2)]
    assert json.loads(printed[0])["step"] == 3
    assert printed[1] == ""


@pytest.mark.parametrize("kind", ["care", "main-memory"])
def test_sharded_training_continues_bit_for_bit(trained, kind):
    whole, resumed = trained.sharded / kind, trained.resumed / kind
    assert [path.name for path in list_checkpoints(resumed)] == ["checkpoint-1", "checkpoint-3"]
    assert_same_shards(whole / "checkpoint-3", resumed / "checkpoint-3")
    assert metrics_of(whole) == metrics_of(resumed)


def test_a_sharded_optimizer_moves_to_main_memory_between_steps(trained):
    """The advice for a GPU whose memory does not suffice."""
    whole, resumed = (kept(folder / "moved" / "checkpoint-2") for folder in (trained.sharded, trained.resumed))
    assert whole.keys() == resumed.keys()
    assert farthest(part(whole, "weights"), part(resumed, "weights")) <= 1e-6
    assert farthest(part(whole, "average"), part(resumed, "average")) <= 1e-6


def test_what_cannot_be_sharded_or_continued_is_refused(toy, trained, tmp_path):
    options = KINDS["care"] | {"gradient_accumulation_steps": 2}

    def config(out: Path, **changes) -> TrainConfig:
        return toy_config(toy.sft, toy.data, out, **options | changes)

    with pytest.raises(ConfigError, match=r"there is one. Fix: torchrun"):
        plan_training(config(tmp_path, fsdp=True))
    begun = {name: unfinished(getattr(trained, name) / "care", tmp_path / name) for name in ("sharded", "two")}
    with pytest.raises(ConfigError, match=r"was written with --fsdp"):
        plan_training(config(begun["sharded"]), world_size=2)
    with pytest.raises(ConfigError, match=r"was written without --fsdp"):
        plan_training(config(begun["two"], fsdp=True), world_size=2)
    shutil.rmtree(begun["two"] / "checkpoint-2" / "resume")
    with pytest.raises(ConfigError, match=r"has no resume/state.pt to continue from"):
        plan_training(config(begun["two"]), world_size=2)


def test_a_finished_training_may_have_lost_what_a_continuation_needs(toy, trained, tmp_path):
    shutil.copytree(trained.two / "care", tmp_path / "care")
    shutil.rmtree(tmp_path / "care" / "checkpoint-3" / "resume")
    options = KINDS["care"] | {"gradient_accumulation_steps": 2}
    planned = plan_training(toy_config(toy.sft, toy.data, tmp_path / "care", **options), world_size=2)
    assert planned.done == planned.n_steps == 3


def unfinished(folder: Path, copy: Path) -> Path:
    """A copy of a finished training whose checkpoint says that a step is missing."""
    shutil.copytree(folder, copy)
    path = (copy / "checkpoint-3").rename(copy / "checkpoint-2") / "training.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"step": 2}))
    return copy


LONG = {"num_generations": 4, "rollout_batch_size": 2, "learning_rate": 5e-4, "ema_every": 1, "ema_decay": 0.9}
LONG |= {"max_steps": 8, "save_steps": 2}


def long_command(toy, out: Path, accumulation: int) -> list[str]:
    config = toy_config(toy.sft, toy.data, out, "care", gradient_accumulation_steps=accumulation, **LONG)
    return command(config, "--fsdp", "--ema-every", "1", "--ema-decay", "0.9")


@pytest.mark.slow
def test_a_kill_costs_the_steps_since_the_last_checkpoint_in_any_number_of_processes(toy, tmp_path):
    finish(processes([long_command(toy, tmp_path / "whole", 2)] * 2))
    out = tmp_path / "killed"
    children = processes([long_command(toy, out, 2)] * 2)
    deadline = time.monotonic() + 300
    while len(read_lines(out / "metrics.jsonl")) < 5:
        assert all(child.poll() is None for child in children)
        assert time.monotonic() < deadline
        time.sleep(0.005)
    for child in children:
        child.send_signal(signal.SIGKILL)
    assert [child.wait() for child in children] == [-signal.SIGKILL] * 2
    last = list_checkpoints(out)[-1].name
    assert last in ("checkpoint-2", "checkpoint-4", "checkpoint-6")
    shutil.copytree(out, tmp_path / "four")
    finish(processes([long_command(toy, out, 2)] * 2))
    whole = tmp_path / "whole" / "checkpoint-8"
    assert_same_shards(whole, out / "checkpoint-8")
    assert metrics_of(out) == metrics_of(tmp_path / "whole")
    finish(processes([long_command(toy, tmp_path / "four", 1)] * 4))
    left, right = kept(whole), kept(tmp_path / "four" / "checkpoint-8")
    assert farthest(part(left, "weights"), part(right, "weights")) <= 1e-6
    assert farthest(part(left, "average"), part(right, "average")) <= 1e-6


@pytest.mark.slow
def test_another_folder_in_another_process_is_refused_by_all(toy, tmp_path):
    children = processes([long_command(toy, tmp_path / str(rank), 2) for rank in range(2)])
    errors = [child.communicate(timeout=300)[1] for child in children]
    assert [child.returncode for child in children] == [7, 7], errors
    assert all("not the same folder in all processes" in error for error in errors)
    assert list_checkpoints(tmp_path / "0") == list_checkpoints(tmp_path / "1") == []


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_the_launchers_start_it(toy, tmp_path, launcher):
    config = toy_config(toy.sft, toy.data, tmp_path, "care", **LONG | {"max_steps": 1})
    words = command(config, "--fsdp")[3:]
    (tmp_path / "train.py").write_text('if __name__ == "__main__":\n    ' + MAIN)
    start = {
        "torchrun": ["torchrun", "--standalone", "--nproc-per-node", "2"],
        "accelerate": ["accelerate", "launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"],
    }[launcher]
    tool = str(Path(sys.executable).parent / start[0])
    done = subprocess.run(
        [tool, *start[1:], str(tmp_path / "train.py"), *words],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    assert read_training(tmp_path / "checkpoint-1").progress.step == 1
    assert {path.name for path in (tmp_path / "checkpoint-1" / "resume" / "sharded").iterdir()} == {
        ".metadata",
        "__0_0.distcp",
        "__1_0.distcp",
    }


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_torchrun_hands_a_signal_on_and_waits_for_the_checkpoint(toy, tmp_path, number):
    """With the options that docs/training.md gives it: without them it kills its processes after 30 seconds."""
    config = toy_config(toy.sft, toy.data, tmp_path, "care", **LONG | {"max_steps": 400, "save_steps": 400})
    (tmp_path / "train.py").write_text('if __name__ == "__main__":\n    ' + MAIN)
    documented = re.search(r"torchrun (--signals-to-handle \S+ --shutdown-timeout \S+) ", TRAINING_PAGE.read_text())
    tool = [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc-per-node", "2"]
    words = [*tool, *documented[1].split(), str(tmp_path / "train.py"), *command(config, "--fsdp")[3:]]
    child = subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while len(read_lines(tmp_path / "metrics.jsonl")) < 2:
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child.send_signal(number)
    error = child.communicate(timeout=300)[1]
    (saved,) = list_checkpoints(tmp_path)
    assert read_training(saved).progress.step == len(metrics_of(tmp_path)) < 400
    assert "Stopping once this step is finished and saved" in error
    left = subprocess.run(["pgrep", "-f", str(tmp_path / "train.py")], capture_output=True, check=False).stdout
    assert left == b"", "processes were left behind"


@pytest.mark.slow
@pytest.mark.parametrize("extra", [["--max-steps", "0"], ["--model", "nowhere"], ["--no-such-option"]])
def test_what_all_refuse_is_said_once_under_torchrun(toy, tmp_path, extra):
    """Before the processes have met, after it, and by the parser of the command line."""
    config = toy_config(toy.sft, toy.data, tmp_path / "out", "care", **LONG | {"max_steps": 1})
    (tmp_path / "train.py").write_text('if __name__ == "__main__":\n    ' + MAIN)
    tool = [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc-per-node", "2"]
    words = [*tool, str(tmp_path / "train.py"), *command(config, "--fsdp")[3:], *extra]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False, timeout=300)
    said = {"--max-steps": "--max-steps is 0", "--model": "No model", "--no-such-option": "No such option"}
    assert done.stderr.count(said[extra[0]]) == 1, done.stderr
    assert "ChildFailedError" in done.stderr  # torchrun's traceback follows every refusal, as docs/training.md says
