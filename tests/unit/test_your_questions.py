"""docs/your-questions.md carried out word for word, with clips that are encoded here."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from seedbench_r1.demo.tiny_model import write_tiny_checkpoint
from seedbench_r1.runs.directory import load_run
from seedbench_r1.runs.training_snapshot import read_lines
from tests.command import cli
from tests.media import make_clip
from tests.own_files import read

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "your-questions.md").read_text(encoding="utf-8")
COMMAND = f'#!/bin/sh\nexec "{sys.executable}" -c "from seedbench_r1.cli.app import main; main()" "$@"\n'


def block(language: str, containing: str) -> str:
    """The one block of the page that contains this text."""
    (found,) = [text for text in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if containing in text]
    return found


@pytest.fixture
def stranger(tmp_path) -> Path:
    """A folder with the page's CSV and its clips, and the command on the path."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "seedbench-r1").write_text(COMMAND)
    (tmp_path / "bin" / "seedbench-r1").chmod(0o755)
    (tmp_path / "cups.csv").write_text(block("csv", "clips/01.mp4"))
    (tmp_path / "clips").mkdir()
    with (tmp_path / "cups.csv").open() as file:
        for line in csv.DictReader(file):
            make_clip(tmp_path / line["clip"], n_frames=20)
    return tmp_path


def test_four_commands_ask_score_judge_and_show(stranger):
    questions = read(stranger / "cups.csv")
    assert (len(questions), {len(q.options) for q in questions}) == (10, {3})
    # Right in six of ten; the reasoning leads to another option in one of them.
    said = {q.question_id: q.gold if k < 6 else "ABC"["ABC".index(q.gold) - 1] for k, q in enumerate(questions)}
    reasons = {key: f"It shows. So the answer is {letter}." for key, letter in said.items()}
    first = questions[0]
    reasons[first.question_id] = f"So the answer is {'B' if first.gold != 'B' else 'C'}."
    answers = {key: f"<think>{reasons[key]}</think><answer>{letter}</answer>" for key, letter in said.items()}
    (stranger / "ckpt").write_text(json.dumps({"answers": answers}))
    (stranger / "seedbench-r1.toml").write_text('[eval]\nbackend = "fake"\nworkers = 1\n')
    commands = block("bash", "leaderboard build runs/*--own-cups-*")
    assert len(commands.splitlines()) == 4
    done = run_block(stranger, commands)
    assert done.returncode == 0, done.stderr
    assert "options    3 options: 10 questions" in done.stdout
    assert re.search(r"^ own +10 +60\.0 \[", done.stdout, re.MULTILINE)
    assert "left over  none" in done.stdout
    (run,) = (stranger / "runs").iterdir()
    assert len({q.cluster for q in load_run(run).questions.values()}) == 3
    with (stranger / "board_long.csv").open() as numbers:
        rates = {(line["metric"], line["level"]): line["value"] for line in csv.DictReader(numbers)}
    assert rates["reasoning_consistency", "own"] == "0.9"
    assert "<title>cups.csv leaderboard</title>" in (stranger / "board.html").read_text()


def run_block(folder: Path, commands: str) -> subprocess.CompletedProcess[str]:
    """The lines of a block in the folder, as typed in a shell."""
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SBR1_")} | {"PATH": path}
    return subprocess.run(
        ["bash", "-e", "-c", commands], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_the_commands_of_the_page_train(stranger):
    write_tiny_checkpoint(stranger / "ckpt")
    # The page's settings, at the size of a checkpoint of two layers.
    small = ["max_frames = 4", "num_generations = 2", "max_completion_length = 4", "workers = 1", 'device = "cpu"']
    small += [f"{name} = 3136" for name in ("min_pixels", "max_pixels", "image_min_pixels", "image_max_pixels")]
    (stranger / "seedbench-r1.toml").write_text("[train]\n" + "\n".join(small) + "\n")
    done = run_block(stranger, block("bash", "--train-file cups.csv --algo care"))
    assert done.returncode == 0, done.stderr
    assert "No model was loaded" in done.stdout
    assert len(read_lines(stranger / "out" / "cups" / "metrics.jsonl")) == 10
    assert "eval --model out/cups/checkpoint-10 --suite own --questions cups.csv" in " ".join(done.stdout.split())


def test_a_board_does_not_write_over_the_questions(stranger):
    (stranger / "ckpt").write_text(json.dumps({"default": "<think>So A.</think><answer>A</answer>"}))
    command = ["eval", "--suite", "own", "--questions", "cups.csv", "--model", "ckpt", "--backend", "fake"]
    assert cli(*command, "--json", cwd=stranger).returncode == 0
    before = (stranger / "cups.csv").read_bytes()
    done = cli("leaderboard", "build", *(stranger / "runs").iterdir(), "--out", "cups.html", cwd=stranger)
    assert done.returncode == 3
    assert "cups.csv is no leaderboard's table, and would be written over. Nothing was written" in done.stderr
    assert (stranger / "cups.csv").read_bytes() == before
    assert not (stranger / "cups.html").exists()
    # A board's own table is written anew.
    for _ in range(2):
        done = cli("leaderboard", "build", *(stranger / "runs").iterdir(), "--out", "board.html", cwd=stranger)
        assert done.returncode == 0, done.stderr


def test_a_checkpoint_is_asked(stranger):
    write_tiny_checkpoint(stranger / "ckpt")
    command = ["eval", "--suite", "own", "--questions", "cups.csv", "--model", "ckpt", "--limit", 3]
    done = cli(*command, "--max-new-tokens", 4, "--device", "cpu", "--json", cwd=stranger)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["status"], result["splits"]["own"]["answered"]) == ("subset", 3)
