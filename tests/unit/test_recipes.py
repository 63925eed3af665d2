"""CONTRIBUTING.md's recipes, carried out on a copy of the code: what a newcomer types works."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny_generic
from tests.small_benchmark import write_script
from tests.tiny_models import tiny_checkpoint

ROOT = Path(__file__).parents[2]
RECIPES = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
CODE = shutil.ignore_patterns("checkpoints")  # with its bytecode: what a recipe leaves alone is not compiled anew


@pytest.fixture
def copy(tmp_path) -> Path:
    """The three packages, without the demo's trained models."""
    for package in ("seedbench_r1", "trainers", "leaderboards"):
        shutil.copytree(ROOT / package, tmp_path / "code" / package, ignore=CODE)
    return tmp_path / "code"


def carry_out(title: str, code: Path) -> None:
    """Do to the copy what the blocks of a recipe say."""
    section = re.search(rf"### {title}\n(.*?)(?=\n###? )", RECIPES, re.DOTALL).group(1)
    for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        first, _, rest = block.partition("\n")
        if first.startswith("# new: "):
            (code / first.removeprefix("# new: ")).write_text(rest, encoding="utf-8")
            continue
        file, _, verb = first.removeprefix("# ").partition(", ")
        old, _, new = rest.partition("# this:\n")
        path = code / file
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{title}: {file} holds {old!r} {text.count(old)} times"
        path.write_text(text.replace(old, old + new if verb == "after:" else new), encoding="utf-8")


def python(code: Path, script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A script in the copy, in a process of its own."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SBR1_")}
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=code,
        env=environ | {"PYTHONPATH": str(code)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def evaluated(code: Path, *options: object) -> dict:
    """`eval --json` in the copy."""
    main = "from seedbench_r1.cli.app import main; main()"
    done = python(code, main, "eval", *options, "--workers", 1, "--json", "--runs-dir", code / "runs")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_backend(copy, data_root):
    carry_out("A backend", copy)
    checkpoint = tiny_checkpoint("qwen2_5_vl")
    value = evaluated(copy, "--backend", "echo", "--model", checkpoint, "--data-root", data_root, "--levels", "L1")
    assert value["status"] == "complete"
    gold_a = sum(json.loads(line)["golden_choice_idx"] == "A" for line in annotations(data_root))
    assert value["levels"]["L1"]["correct"] == gold_a


def annotations(data_root: Path) -> list[str]:
    return (data_root / "annotations" / "validation_L1.jsonl").read_text().splitlines()


@pytest.mark.parametrize("shards", [1, 2])
def test_a_suite(copy, data_root, tmp_path, shards):
    """On two engines: every suite runs on every engine."""
    carry_out("A suite", copy)
    script = write_script(tmp_path / "s.json", answer="<think>r</think><answer>A</answer>")
    options = ["--suite", "first-letter", "--backend", "fake", "--model", script, "--data-root", data_root]
    value = evaluated(copy, *options, "--levels", "L1", "--data-parallel", shards)
    assert list(value["levels"]) == ["L1"]
    assert value["levels"]["L1"]["accuracy"] == 1.0
    assert "first-letter-" in value["run_dir"]


def test_a_model_family(copy, data_root, tmp_path):
    """With a checkpoint of the real class; without its row it is answered by, too, but warned of."""
    model = write_idefics3(tmp_path / "model")
    options = ["--model", model, "--data-root", data_root, "--device", "cpu", "--max-new-tokens", 2, "--limit", 2]
    for tried in (False, True):
        if tried:
            carry_out("A model family", copy)
        options += ["--workers", 1, "--json", "--runs-dir", copy / f"runs-{tried}"]
        done = python(copy, "from seedbench_r1.cli.app import main; main()", "eval", *options)
        assert json.loads(done.stdout)["status"] == "subset", done.stderr
        assert ("idefics3 have not been tried here" in done.stderr) != tried


def write_idefics3(folder):
    """SmolVLM2's ancestor, by the recipe of that one's checkpoint."""
    import transformers

    smolvlm = tiny_generic.RECIPES["smolvlm"]

    def config(vocabulary, ids):
        made = smolvlm.config(vocabulary, ids).to_dict()
        vision = made["vision_config"] | {"model_type": "idefics3_vision"}
        return transformers.Idefics3Config(
            text_config=made["text_config"],
            vision_config=vision,
            image_token_id=made["image_token_id"],
            scale_factor=made["scale_factor"],
            pad_token_id=ids["<|endoftext|>"],
        )

    def processor(tokenizer, template):
        sizes = {"size": {"longest_edge": 112}, "max_image_size": {"longest_edge": 56}}
        image = transformers.Idefics3ImageProcessor(**sizes)
        return transformers.Idefics3Processor(image, tokenizer, image_seq_len=4, chat_template=template)

    recipe = dataclasses.replace(smolvlm, video="", config=config, processor=processor)
    return tiny_generic.write_checkpoint(folder, recipe)


def test_a_column_of_the_csv(copy, data_root, tmp_path):
    carry_out("A column of the CSV", copy)
    script = write_script(tmp_path / "s.json")
    value = evaluated(copy, "--backend", "fake", "--model", script, "--data-root", data_root)
    build = "import sys, seedbench_r1 as sb; print(sb.leaderboard([sys.argv[1]]).save(sys.argv[2]).read_text())"
    done = python(copy, build, copy / value["run_dir"], tmp_path / "board.csv")
    header, row = done.stdout.splitlines()[:2]
    assert header.endswith(",n_questions"), done.stderr
    assert row.endswith(",28")


def test_an_answer_form(copy):
    read = "import sys; from seedbench_r1.parsing import parse_response; print(parse_response(sys.argv[1]).answer)"
    form = "<think>r</think><answer>My pick is B</answer>"
    assert python(copy, read, form).stdout == "None\n"
    carry_out("An answer form that the parser misses", copy)
    assert python(copy, read, form).stdout == "B\n"
