"""Recipes as files: what is refused, and at which line; what follows from one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from seedbench_r1.errors import ConfigError
from seedbench_r1.experiments.checks import check_settings
from seedbench_r1.experiments.folder import Folder
from seedbench_r1.experiments.jobs import jobs_of, launch_words, measuring_steps, training_step, words_of
from seedbench_r1.experiments.launch import shares
from seedbench_r1.experiments.recipe import KEYS, find_recipe, read_recipe, shipped_recipes
from seedbench_r1.experiments.recipe_file import line_of
from trainers.config import TABLE

SMALL = """# a comment
title = "Two"
baseline = "grpo"
seeds = [0, 1]

[data.miniature]
questions = 4

[models]
start = "demo:sft"

[train]
max_steps = 2

[variants.grpo]
algo = "grpo"

[variants."care"]  # quoted
algo = "care"
reward = [
  "mine.py:short",
]
bonus_margin = 0.01

[[judges]]
judge = "miniature"
"""


def written(folder: Path, text: str = SMALL) -> Path:
    file = folder / "small.toml"
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("place", "line"),
    [
        (("title",), 2),
        (("data", "miniature", "questions"), 7),
        (("variants", "grpo"), 15),
        (("variants", "care"), 18),
        (("variants", "care", "reward"), 20),
        (("variants", "care", "bonus_margin"), 23),
        (("judges", 0), 25),
        (("judges", 0, "judge"), 26),
        (("judges", 1), None),
        (("variants", "sft"), None),
    ],
)
def test_the_line_of_a_key(place, line):
    assert line_of(SMALL, place) == line


def test_the_line_of_a_key_whatever_else_looks_like_it():
    text = 'text = """\nseed = 1\n"""\nin = {seed = 2}\n# seed = 3\n"seed" = 4\n'
    assert line_of(text, ("seed",)) == 6
    assert line_of(text, ("in", "seed")) == 4


@pytest.mark.parametrize(
    ("before", "after", "line", "said"),
    [
        ("max_steps = 2", "max_step = 2", 13, "unknown key 'max_step' of [train]. Did you mean 'max_steps'?"),
        ("max_steps = 2", "max-steps = true", 13, "max_steps is True, expected int"),
        ("[train]", "[eval]\nrun-name = 'x'\n[train]", 13, "unknown key 'run_name'"),
        ("bonus_margin = 0.01", "bonus_margn = 0.01", 23, "Did you mean 'bonus_margin'?"),
        ("bonus_margin = 0.01", "bonus_margin = -1", 23, "--bonus-margin is -1"),
        ('algo = "grpo"', 'algo = "grpo"\nbonus_margin = 0.1', 17, "--bonus-margin belongs to --bonus care"),
        ('algo = "grpo"', 'algo = "ppo"', 16, "--algo is 'ppo'"),
        ('algo = "grpo"', 'algo = "grpo"\nout = "x"', 17, "unknown key 'out'"),
        ('algo = "grpo"', "beta = 0.1", 15, "neither algo nor preset"),
        ('algo = "grpo"', 'algo = "grpo"\nmodel = "other"', 15, "starts from 'other'. Known: start, grpo, care"),
        ('judge = "miniature"', 'judge = "minature"', 25, "No judge 'minature'"),
        ('judge = "miniature"', "vote = 3", 26, "unknown key 'vote'"),
        ("questions = 4", "questions = 0", 7, "at least 1"),
        ("seeds = [0, 1]", "seeds = 3", 4, "expected a list of numbers"),
        ('title = "Two"', "jobs = 0", 2, "at least 1"),
        ('title = "Two"', 'name = "Two"', 2, "unknown key 'name'"),
        ('title = "Two"', 'checkpoints = "best"', 2, "newest, all or a list of steps"),
        ('baseline = "grpo"', 'baseline = "sft"', 3, "'sft' is no model and no variant"),
        ("[variants.grpo]", "[variants.start]", 15, "is a model and a variant"),
        ("[variants.grpo]", '[variants."../x"]', 15, "no name of a folder"),
        ("[train]", "[launch]\nprocesses = 2\n[train]", 13, "no place for {processes}"),
        ("[train]", "[suites.standard]\nlevel = 1\n[train]", 13, "unknown key 'level' of [suites.standard]"),
        ("[train]", '[suites.standard]\nprotocol = "hasty"\n[train]', 12, "No protocol 'hasty'"),
        ("[train]", "[eval]\nrun_name = 'x'\n[train]", 13, "unknown key 'run_name'"),
        ("[train]", "[[probes]]\nprobes = 'forc'\n[train]", 13, "no probe"),
    ],
)
def test_what_is_refused_is_refused_with_its_line(tmp_path, before, after, line, said):
    assert before in SMALL
    file = written(tmp_path, SMALL.replace(before, after, 1))
    with pytest.raises(ConfigError) as refused:
        check_settings(read_recipe(file))
    assert str(refused.value).startswith(f"{file}:{line}: ")
    assert said in str(refused.value)


def test_what_is_no_recipe(tmp_path):
    with pytest.raises(ConfigError, match=r"one of .*miniature"):
        find_recipe(Path("minature"))
    with pytest.raises(ConfigError, match="not valid TOML"):
        read_recipe(written(tmp_path, "seeds = [0"))
    with pytest.raises(ConfigError, match="names no model to start from"):
        read_recipe(written(tmp_path, "seeds = [0]"))
    circle = SMALL.replace('algo = "grpo"', 'algo = "grpo"\nmodel = "care"').replace(
        'algo = "care"', 'algo = "care"\nmodel = "grpo"'
    )
    with pytest.raises(ConfigError, match="starts from itself"):
        read_recipe(written(tmp_path, circle))


def test_changes_of_the_command_line(tmp_path):
    file = written(tmp_path)
    recipe = read_recipe(
        file, ["train.max_steps=7", "variants.care.algo=grpo", "models.start=some/folder", "seeds=[3]"]
    )
    assert (recipe.train["max_steps"], recipe.seeds, recipe.models) == (7, (3,), {"start": "some/folder"})
    assert recipe.variants["care"].settings["algo"] == "grpo"
    with pytest.raises(ConfigError, match=r"--set train.max_step: unknown key"):
        read_recipe(file, ["train.max_step=7"])
    with pytest.raises(ConfigError, match=r"TABLE.KEY=VALUE"):
        read_recipe(file, ["max_steps"])


def test_paths_are_those_of_the_files_folder(tmp_path):
    text = SMALL.replace("max_steps = 2", 'max_steps = 2\ntrain_file = "rows.jsonl"')
    recipe = read_recipe(written(tmp_path, text), ["eval.frame_cache=frames"])
    assert recipe.train["train_file"] == tmp_path / "rows.jsonl"
    assert recipe.variants["care"].settings["reward"] == (str(tmp_path / "mine.py:short"),)
    assert recipe.eval["frame_cache"] == Path("frames")


def test_jobs_are_the_models_and_every_variant_with_every_seed(tmp_path):
    chained = SMALL.replace('algo = "care"', 'algo = "care"\nmodel = "grpo"')
    recipe = read_recipe(written(tmp_path, chained))
    assert [job.name for job in jobs_of(recipe)] == ["start", "grpo-seed0", "care-seed0", "grpo-seed1", "care-seed1"]
    only = jobs_of(recipe, ["care"], [5])
    assert [(job.name, job.after) for job in only] == [
        ("start", None),
        ("grpo-seed5", None),
        ("care-seed5", "grpo-seed5"),
    ]
    with pytest.raises(ConfigError, match=r"No variant 'sft'. There are: grpo, care"):
        jobs_of(recipe, ["sft"])


def test_a_training_is_the_command_that_a_user_types(tmp_path):
    line = '[launch]\nline = "torchrun --nproc-per-node {processes} --no-python"\nprocesses = 2\n\n[train]'
    recipe = read_recipe(written(tmp_path, SMALL.replace("[train]", line)))
    folder = Folder(tmp_path / "out")
    step = training_step(recipe, folder, jobs_of(recipe, ["grpo"])[1])
    words = " ".join(launch_words(recipe, step, ("seedbench-r1",)))
    assert words.startswith(f"torchrun --nproc-per-node 2 --no-python seedbench-r1 train --config {folder.settings}")
    assert words.endswith(f"--out {folder.trainings / 'grpo-seed0'} --algo grpo --seed 0 --data {folder.data}")


def test_settings_as_words():
    settings = {"lora": True, "fsdp": False, "skip_bad_rows": False, "reward": ("a.py:f", "b.py:g:2"), "beta": 0.1}
    assert words_of(settings, TABLE) == (
        "--lora", "--no-fsdp", "--reward", "a.py:f", "--reward", "b.py:g:2", "--beta", "0.1",
    )  # fmt: skip


def test_cores_and_gpus_are_shared_out():
    first, second = shares(2, 2, {"CUDA_VISIBLE_DEVICES": "0, 1,GPU-a,GPU-b"})
    assert (first.devices, second.devices) == (("0", "1"), ("GPU-a", "GPU-b"))
    assert first.environment(1)["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert "CUDA_VISIBLE_DEVICES" not in shares(2, 1, {"CUDA_VISIBLE_DEVICES": ""})[0].environment(1)
    with pytest.raises(ConfigError, match=r"need 6 GPUs, and 4 can be seen. Fix: --jobs 2"):
        shares(3, 2, {"CUDA_VISIBLE_DEVICES": "0,1,2,3"})


def test_every_shipped_recipe_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("SBR1_DATA_ROOT", str(tmp_path))
    assert "miniature" in shipped_recipes()
    for name in shipped_recipes():
        check_settings(read_recipe(Path(name)))


def test_the_recipes_in_the_docs_are_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("SBR1_DATA_ROOT", str(tmp_path))
    page = (Path(__file__).parents[2] / "docs" / "experiments.md").read_text()
    whole, launch = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    recipe = read_recipe(written(tmp_path, f"{whole}\n{launch}"))
    check_settings(recipe)
    assert [job.name for job in jobs_of(recipe, ["care-longer"], [0])] == ["vanilla", "care-seed0", "care-longer-seed0"]
    assert recipe.launch.slurm == {
        "slurm_partition": "gpu",
        "gpus_per_node": 4,
        "cpus_per_task": 32,
        "mem_gb": 500,
        "timeout_min": 1440,
    }
    assert recipe.launch.line in (find_recipe(Path("table2"))).read_text()


def test_every_key_of_a_recipe_is_in_the_docs():
    page = (Path(__file__).parents[2] / "docs" / "experiments.md").read_text()
    for key in KEYS:
        assert f"`{key}`" in page or f"[{key}]" in page or f"[{key}." in page, key


def test_the_recipes_lie_at_the_top_of_the_checkout_too():
    root = Path(__file__).parents[2]
    assert {path.stem: path.read_text() for path in (root / "recipes").glob("*.toml")} == {
        name: path.read_text() for name, path in shipped_recipes().items()
    }


def test_no_file_of_the_working_directory_changes_an_experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seedbench-r1.toml").write_text(
        '[judge]\njudge = "none"\n[train]\nbeta = "none"\n[eval]\nseed = "none"\n'
    )
    recipe, folder = read_recipe(written(tmp_path)), Folder(tmp_path / "out")
    check_settings(recipe)
    run = folder.trainings / "grpo-seed0" / "checkpoint-2"
    run.mkdir(parents=True)
    steps = measuring_steps(recipe, folder, jobs_of(recipe, ["grpo"], [0])[1])
    assert [step.kind for step in steps] == ["eval", "judge"]
    for step in steps:
        assert step.words[step.words.index("--config") + 1] == str(folder.settings)
