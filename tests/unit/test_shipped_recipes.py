"""The package's recipes, each with a dry run on data of its kind and a checkpoint in its model's shapes."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import sys
from pathlib import Path

import pytest
import torch

from seedbench_r1.demo.dataset_writer import COT_FILE, TRAINING_FILE, write_benchmark
from seedbench_r1.experiments import checks
from seedbench_r1.experiments.folder import Folder
from seedbench_r1.experiments.recipe import Recipe, read_recipe, shipped_recipes
from seedbench_r1.experiments.rehearsal import TRAINING, on_miniature
from tests.command import cli
from tests.gpu import shapes
from tests.small_transfer import write_transfer
from tests.tiny_models import tiny_checkpoint
from tests.video_r1 import training_rows, write_training


def full_size(name: str, folder: Path) -> Path:
    """A folder that passes for a model of these shapes until its weights are read: their file is a hole."""
    shutil.copytree(tiny_checkpoint("qwen2_5_vl"), folder)
    model = shapes.build(name, torch.device("meta"))
    known = json.loads((folder / "config.json").read_text())
    config = model.config.to_dict()
    # The small tokenizer's marks, of which the prompts are made.
    config |= {key: value for key, value in known.items() if key.endswith("token_id") or key == "architectures"}
    (folder / "config.json").write_text(json.dumps(config))
    header, end = {}, 0
    for key, value in model.named_parameters():
        start, end = end, end + 2 * value.numel()
        header[key] = {"dtype": "BF16", "shape": list(value.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.seek(end - 1, 1)
        file.write(b"\1")
    return folder


def repeat_rows(file: Path, n: int) -> None:
    """As many rows as the benchmark has, over the same few clips."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    made = [rows[number % len(rows)] | {"sample_id": number} for number in range(n)]
    file.write_text("".join(json.dumps(row) + "\n" for row in made))


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> dict[str, Path]:
    """Checkpoints and data, by what they are."""
    root = tmp_path_factory.mktemp("recipes")
    write_benchmark(root / "data", train=4, cot=4, frame_size=(64, 64), fps=8, seconds=1.0)
    for name in (TRAINING_FILE, COT_FILE):
        repeat_rows(root / "data" / "annotations" / name, 6000)
    write_training(root / "video-r1", training_rows(16))
    process = "<think>so</think>"
    write_training(root / "video-r1", training_rows(64, process=process), "cot.json")
    write_transfer(root / "video-r1-eval")
    made = {path.name: path for path in (root / "data", root / "video-r1", root / "video-r1-eval")}
    return made | {
        "7b": full_size("7b", root / "Qwen2.5-VL-7B-Instruct"),
        "3b": full_size("3b", root / "Qwen2.5-VL-3B-Instruct"),
        "qwen3": tiny_checkpoint("qwen3_vl"),
    }


MODEL_OF = {"table2": "7b", "table3": "7b", "table4": "7b", "lora-24gb": "3b", "qwen3-vl": "qwen3"}
DOCUMENT = Path(__file__).parents[2] / "docs" / "experiments.md"


@pytest.mark.parametrize("name", MODEL_OF)
def test_a_shipped_recipe_passes_its_dry_run(world, tmp_path, monkeypatch, name):
    monkeypatch.setattr(checks, "check_disk", lambda *given: None)  # hundreds of GB
    words = ["--set", f"models.vanilla={world[MODEL_OF[name]]}"]
    if name != "lora-24gb":
        words += ["--set", "eval.backend=transformers"]  # vLLM has an environment of its own
    if name == "table4":
        words += ["--set", f"train.data={world['video-r1']}", "--set", f"eval.data_root={world['video-r1-eval']}"]
        words += ["--set", f"train.train_file={world['video-r1'] / 'Video-R1-260k.json'}"]
        words += ["--set", f"variants.cot.train_file={world['video-r1'] / 'cot.json'}"]
    done = cli("experiment", "run", name, "--dry-run", *words, cwd=tmp_path, SBR1_DATA_ROOT=str(world["data"]))
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())
    assert "GPU hours are left" in done.stdout
    table = done.stdout.split(" trainings, ")[0].split("\n")[:-1]
    assert max(map(len, table)) <= 80
    # Its row in the docs; the tiny Qwen3-VL has another size than the one that the recipe names.
    if name != "qwen3-vl":
        lines = [line.split() for line in table[1:]]
        gpu, memory = (max(float(words[place]) for words in lines) for place in (3, 5))
        found = re.search(r"([\d.,]+) GPU hours are left.* at most ([\d.]+) GB", done.stdout)
        numbers = f"| {len(lines)} | {found[1]} | {gpu:.3g} | {memory:.3g} | {float(found[2]):.0f} |"
        (row,) = (line for line in DOCUMENT.read_text().splitlines() if line.startswith(f"| `{name}` "))
        assert row.endswith(numbers)


def test_every_shipped_recipe_but_the_miniature_is_tried_here():
    assert set(MODEL_OF) == set(shipped_recipes()) - {"miniature"}


def rehearsed(name: str, folder: Path, *changes: str) -> Recipe:
    """What `experiment run NAME --miniature` carries out."""
    return on_miniature(read_recipe(Path(name), changes), Folder(folder))


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_can_be_rehearsed(tmp_path, name):
    """Its commands' options are understood, and what makes a variant is still there."""
    recipe = rehearsed(name, tmp_path)
    checks.check_settings(recipe)
    whole = read_recipe(Path(name))
    assert list(recipe.variants) == list(whole.variants)
    sizes = {*TRAINING, "suite", "train_file", "prompt_file", "gradient_accumulation_steps"}
    for variant, there in zip(recipe.variants.values(), whole.variants.values(), strict=True):
        kept = {key: value for key, value in there.settings.items() if key not in sizes}
        assert kept.items() <= variant.settings.items()
        assert ("fsdp" in variant.settings) == (recipe.launch.processes > 1)


def test_a_rehearsal_leaves_out_hardware_sizes_and_what_costs(tmp_path):
    changes = ["variants.care.rollouts=vllm", "variants.care.max_steps=1500", "variants.care.eval_every=100"]
    changes += ["eval.limit=5", "eval.temperature=1.0", 'judges=[{judge="openai:m"}]', "seeds=[1,2,3]"]
    changes += ['probes=[{probes="forced",under="m"}]', "launch.slurm={timeout_min=9}", "checkpoints=[100]"]
    recipe = rehearsed("table2", tmp_path, *changes)
    checks.check_settings(recipe)
    assert not {"rollouts", "max_steps"} & set(recipe.variants["care"].settings)
    assert recipe.variants["care"].settings["eval_every"] == 1
    assert recipe.suites == {"seedbench-r1": {"temperature": 1.0}}
    assert recipe.judges == ({"judge": "rules"},)
    assert recipe.probes == ({"probes": "forced"},)
    assert (recipe.seeds, recipe.checkpoints, recipe.launch.slurm) == ((1, 2), "all", None)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["table2", "table4", "lora-24gb"])
def test_a_rehearsal_to_its_end(tmp_path, name):
    """torchrun and shards, a chain of variants on Video-R1's files, adapters."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = cli("experiment", "run", name, "--miniature", cwd=tmp_path, PATH=path)
    assert done.returncode == 0, done.stderr
    assert "rehearsed on the miniature: its numbers say nothing" in done.stdout
    for variant in read_recipe(Path(name)).variants:
        assert f"| {variant} | 1 |" in done.stdout


def test_a_rehearsal_has_a_dry_run_too(tmp_path):
    done = cli("experiment", "run", "table4", "--miniature", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line.split()[:3] for line in done.stdout.splitlines()[1:4]] == [
        [name, "1", "2"] for name in ("cot", "grpo", "care")
    ]
    assert not list(tmp_path.iterdir())
