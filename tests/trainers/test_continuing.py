"""What a training is continued from is what it was: of this step, the same bytes, or it is refused by name."""

import dataclasses
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from seedbench_r1.errors import ConfigError
from tests.trainers.launch import assert_same_checkpoint, metrics_of, state_of
from tests.trainers.toy import plan_and_train, toy_config
from trainers.estimate import estimate
from trainers.identity import FORMER
from trainers.plan import plan_training
from trainers.sharding import save_shards
from trainers.weights import check_state

STEPS = {"preset": "grpo-nokl", "num_generations": 2, "max_steps": 3, "save_steps": 1}


@pytest.fixture(scope="module")
def stopped(toy, tmp_path_factory) -> Path:
    """A training of three steps, stopped after the second."""
    out, stop = tmp_path_factory.mktemp("stopped") / "out", threading.Event()
    config = toy_config(toy.sft, toy.data, out, "grpo", **STEPS)
    plan_and_train(config, stop=stop, observe=lambda line: stop.set() if line["step"] == 2 else None)
    return out


@pytest.fixture
def out(stopped, tmp_path) -> Path:
    return shutil.copytree(stopped, tmp_path / "out")


def change_json(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_checkpoint_of_before_the_settings_that_it_does_not_name_is_continued(toy, out, tmp_path):
    whole = plan_and_train(toy_config(toy.sft, toy.data, tmp_path / "whole", "grpo", **STEPS))
    folder = out / "checkpoint-2"

    def as_it_was(content: dict) -> None:
        del content["weights"]
        for name in FORMER:
            del content["identity"][name]

    change_json(folder / "training.json", as_it_was)
    state = state_of(folder)
    torch.save({name: value for name, value in state.items() if name != "step"}, folder / "resume" / "state.pt")
    with pytest.raises(ConfigError, match="rewards: 'evaluation' there, 'script' here"):
        plan_training(toy_config(toy.sft, toy.data, out, "grpo", **STEPS, rewards="script"))
    with pytest.raises(ConfigError, match="loss_type: 'grpo' there, 'gspo' here; num_iterations: 1 there, 2 here"):
        plan_training(toy_config(toy.sft, toy.data, out, "grpo", **STEPS, loss_type="gspo", num_iterations=2))
    continued = plan_and_train(toy_config(toy.sft, toy.data, out, "grpo", **STEPS))
    assert_same_checkpoint(whole.checkpoint, continued.checkpoint)
    assert metrics_of(out) == metrics_of(tmp_path / "whole")


def zero(path: Path) -> None:
    """A hole in the middle, as an interrupted copy leaves it: size, beginning and end are right."""
    content = bytearray(path.read_bytes())
    third = len(content) // 3
    content[third : 2 * third] = bytes(third)
    path.write_bytes(content)


def cut(path: Path, share: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: zero(f / "model.safetensors"), r"model\.safetensors does not belong to checkpoint-2: its sha256 is"),
        (lambda f: cut(f / "model.safetensors"), r"model\.safetensors does not .* bytes, \d+ were saved"),
        (lambda f: (f / "model.safetensors").unlink(), r"model\.safetensors does not .* 0 bytes, \d+ were saved"),
        (
            lambda f: shutil.copy(f.parent / "checkpoint-1" / "model.safetensors", f),
            r"model\.safetensors does not .*sha256",
        ),
        (
            lambda f: torch.save(state_of(f) | {"step": 1}, f / "resume" / "state.pt"),
            r"state\.pt does not belong to checkpoint-2: it is of step 1",
        ),
        (lambda f: cut(f / "resume" / "state.pt"), r"state\.pt does not .*: it cannot be read"),
        (lambda f: cut(f / "resume" / "state.pt", 0), r"state\.pt does not .*: it cannot be read"),
        (lambda f: f.rename(f.parent / "checkpoint-9"), r"training\.json is of step 2, its folder is not"),
    ],
)
def test_what_is_not_as_it_was_saved_is_refused_by_name(toy, out, damage, message):
    config = toy_config(toy.sft, toy.data, out, "grpo", **STEPS)
    plan_training(config)
    damage(out / "checkpoint-2")
    with pytest.raises(ConfigError, match=message):
        plan_training(config)


def test_only_the_newest_checkpoint_keeps_what_continuing_needs(toy, out):
    """It is most of a checkpoint's bytes: 132 of 149 GB for a 7B."""
    assert not (out / "checkpoint-1" / "resume").exists()
    assert (out / "checkpoint-1" / "model.safetensors").exists()
    shutil.rmtree(out / "checkpoint-2")
    with pytest.raises(ConfigError, match=r"checkpoint-1 has no resume/state\.pt .*only the newest .*--model .*--out"):
        plan_training(toy_config(toy.sft, toy.data, out, "grpo", **STEPS))


def test_shards_of_another_step_and_cut_ones_are_refused_by_name(tmp_path):
    folder, other = tmp_path / "checkpoint-2", tmp_path / "checkpoint-1"
    for each, step in ((folder, 2), (other, 1)):
        (each / "resume").mkdir(parents=True)
        save_shards(each / "resume" / "sharded", {"weights": {"w": torch.ones(50)}}, step)
        torch.save({"cpu": torch.get_rng_state(), "step": step}, each / "resume" / "random.pt")
    check_state(folder, 2, sharded=True)
    (shard,) = (folder / "resume" / "sharded").glob("*.distcp")
    good = shard.read_bytes()
    shutil.copy(other / "resume" / "sharded" / shard.name, shard)
    with pytest.raises(ConfigError, match=rf"{shard.name} does not belong to checkpoint-2: it is of step 1"):
        check_state(folder, 2, sharded=True)
    shard.write_bytes(good[:-200])
    with pytest.raises(ConfigError, match=rf"{shard.name} has [\d,]+ bytes, at least [\d,]+ were saved"):
        check_state(folder, 2, sharded=True)
    shard.write_bytes(good)
    shutil.copy(other / "resume" / "random.pt", folder / "resume")
    with pytest.raises(ConfigError, match=r"random\.pt does not belong to checkpoint-2: it is of step 1"):
        check_state(folder, 2, sharded=True)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: cut(f / "model.safetensors"), r"model\.safetensors is not whole"),
        (lambda f: cut(f / "model.safetensors", 0.999), r"model\.safetensors is not whole"),
        (lambda f: cut(f / "model.safetensors", 0), r"model\.safetensors is "),
        (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer"),
        (lambda f: cut(f / "config.json"), r"config\.json cannot be read as JSON"),
        (lambda f: split(f).unlink(), r"1 of 2 weight files are absent, first part-2\.safetensors"),
        (lambda f: cut(split(f)), r"part-2\.safetensors is not whole"),
    ],
)
def test_a_half_copied_model_is_refused_before_it_is_loaded(toy, tmp_path, damage, message):
    model = shutil.copytree(toy.raw, tmp_path / "model")
    plan_training(toy_config(model, toy.data, tmp_path / "out", "sft"))
    damage(model)
    with pytest.raises(ConfigError, match=message) as seen:
        plan_training(toy_config(model, toy.data, tmp_path / "out", "sft"))
    assert "\n" not in str(seen.value)


def split(folder: Path) -> Path:
    """Write the model in two files with an index, as larger ones are. Returns the second."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"part-{1 + number % 2}.safetensors" for number, name in enumerate(weights)}
    for file in set(places.values()):
        save_file({name: weights[name] for name in weights if places[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder / "part-2.safetensors"


def test_a_template_that_changed_since_the_start_is_refused(toy, out, tmp_path):
    model = shutil.copytree(toy.sft, tmp_path / "model")
    template = model / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    with pytest.raises(ConfigError, match="model_files"):
        plan_training(toy_config(model, toy.data, out, "grpo", **STEPS))
    # The former files from elsewhere are the former files.
    assert plan_training(toy_config(model, toy.data, out, "grpo", **STEPS, processor=str(toy.sft))).done == 2
    change_json(out / "checkpoint-2" / "training.json", lambda content: content["identity"].pop("model_files"))
    assert plan_training(toy_config(model, toy.data, out, "grpo", **STEPS)).done == 2


def test_a_training_that_keeps_no_optimiser_leaves_weights_alone(toy, tmp_path):
    kept, bare = (toy_config(toy.sft, toy.data, tmp_path / name, "grpo", **STEPS) for name in ("kept", "bare"))
    bare = dataclasses.replace(bare, save_optimizer="never")
    sizes = [estimate(config, plan_training(config).checkpoint, 1).disk_bytes(config, 3) for config in (kept, bare)]
    assert sizes[1] < sizes[0]
    stop = threading.Event()
    plan_and_train(kept)
    plan_and_train(bare, stop=stop, observe=lambda line: stop.set() if line["step"] == 2 else None)
    assert not list(bare.out.rglob("resume"))
    whole, alone = (load_file(config.out / "checkpoint-2" / "model.safetensors") for config in (kept, bare))
    assert all(torch.equal(value, alone[name]) for name, value in whole.items())
    with pytest.raises(ConfigError, match=r"checkpoint-2 has no resume/state\.pt .*none with --save-optimizer never"):
        plan_training(bare)
