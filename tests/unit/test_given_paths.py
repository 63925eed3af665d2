"""Paths and options that a new user gets wrong, and what is said of them."""

from __future__ import annotations

import shutil

import pytest

from seedbench_r1.errors import DataError
from seedbench_r1.questions import load_training_rows
from tests.command import cli


@pytest.fixture
def folder(on_disk, tmp_path):
    """A folder `my runs` of two run directories."""
    for name in ("base", "care-200"):
        shutil.copytree(on_disk.folder / name, tmp_path / "my runs" / name)
    (tmp_path / "my runs" / ".weights-sha256.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    ("command", "fix"),
    [
        (["leaderboard", "build", "my runs/", "--no-published"], "leaderboard build 'my runs'/* --no-published"),
        (["judge", "my runs"], "judge 'my runs'/*"),
        (["judge", "calibrate", "my runs"], "judge calibrate 'my runs'/*"),
        (["export", "lmms-eval", "my runs", "--out", "x"], "export lmms-eval 'my runs'/* --out x"),
        (["show", "my runs"], "show 'my runs/base'"),
        (["leaderboard", "diff", "my runs/base", "my runs"], "leaderboard diff 'my runs/base' 'my runs/base'"),
    ],
)
def test_a_folder_of_runs_is_answered_with_the_command_to_type(folder, command, fix):
    done = cli(*command, cwd=folder)
    assert done.returncode == 4
    assert "my runs holds 2 run directories and is none itself. Fix: " in done.stderr
    assert done.stderr.rstrip().endswith(f"seedbench-r1 {fix}")


def test_what_lies_beside_a_run_is_left_out_of_the_board_and_costs_nothing(folder):
    (folder / "my runs" / "notes.txt").write_text("")
    shutil.copytree(folder / "my runs" / "base", folder / "my runs" / "old" / "base")
    done = cli("leaderboard", "build", *sorted((folder / "my runs").glob("[!.]*")), "--no-published", cwd=folder)
    assert done.returncode == 5
    assert "2 measured" in done.stdout
    assert "2 of 4 runs were left out" in done.stderr


def test_a_file_of_a_run_is_answered_with_its_folder(folder):
    done = cli("show", "my runs/base/manifest.json", cwd=folder)
    assert (done.returncode, done.stderr.strip()) == (
        *(4, "my runs/base/manifest.json is a file. Fix: give the run's directory, such as my runs/base."),
    )


@pytest.mark.parametrize(
    "command", [["data", "status"], ["data", "verify"], ["eval", "--backend", "fake", "--model", "s"]]
)
def test_a_wrong_data_root_is_said_to_come_from_where_it_was_given(tmp_path, command):
    (tmp_path / "s").write_text("{}")
    by_variable = cli(*command, cwd=tmp_path, SBR1_DATA_ROOT="/no/where")
    assert by_variable.returncode == 4
    assert "The data root /no/where comes from the environment: SBR1_DATA_ROOT." in by_variable.stderr
    by_option = cli(*command, "--data-root", "/not/here", cwd=tmp_path, SBR1_DATA_ROOT="/no/where")
    assert "The data root /not/here comes from --data-root." in by_option.stderr
    (tmp_path / "seedbench-r1.toml").write_text('data_root = "/old/disk"')
    by_file = cli(*command, cwd=tmp_path)
    assert "The data root /old/disk comes from data_root in seedbench-r1.toml." in by_file.stderr


def test_judge_shows_its_options_takes_them_first_and_explains_judge_id(folder):
    shown = cli("judge", "--help", cwd=folder, COLUMNS="80").stdout
    for word in ("calibrate", "agreement", "--judge-base-url", "--votes", "--max-cost", "─ Limits ─"):
        assert word in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert "judge run [OPTIONS]" not in cli("judge", "calibrate", "--help", cwd=folder).stdout
    first = cli("judge", "--judge", "rules", "my runs/base", cwd=folder)
    assert first.returncode == 0, first.stderr
    refused = cli("judge", "my runs/base", "--judge", "rules", "--judge-id", "rules/v1", cwd=folder)
    assert refused.returncode == 3
    assert (
        "--judge-id rules/v1 names verdicts that exist, for `judge calibrate` and `judge agreement`." in refused.stderr
    )
    sheet = cli("judge", "calibrate", "my runs/base", "--judge", "rules/v1", "--n", "4", cwd=folder)
    assert sheet.returncode == 0, sheet.stderr
    unknown = cli("judge", "calibrate", "my runs/base", "--judge-id", "nobody", cwd=folder)
    assert "No verdicts of 'nobody'. These runs were judged by: rules/v1." in unknown.stderr
    absent = cli("judge", "agreement", "none.csv", "my runs/base", cwd=folder)
    assert "none.csv" in absent.stderr


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["experiment", "run", "miniature", "--jobs", "0"], "greater than or equal to 1"),
        (["experiment", "run", "miniature", "--seeds", "x"], "Give numbers"),
        (["demo", "generate", "--inconsistent", "1.5"], "less than or equal to 1"),
        (["demo", "generate", "--train", "-1"], "greater than or equal to 0"),
        (["leaderboard", "build", "x", "--max-size", "0"], "Fix: a number above 0"),
        (["import", "grpo-care", "nope_L1.json"], "nope_L1.json is not there."),
        (["import", "lmms-eval", "."], ". is a folder."),
    ],
)
def test_values_out_of_range_and_options_without_effect_are_refused(tmp_path, command, said):
    done = cli(*command, cwd=tmp_path, COLUMNS="200")
    assert done.returncode in (2, 3, 4)
    assert said in done.stderr


def test_an_absent_training_file_is_not_looked_for_among_the_options_of_eval(tmp_path):
    for name in ("training_6k.jsonl", "mine.jsonl"):
        with pytest.raises(DataError, match=r"No training file at .*--data at the dataset folder") as caught:
            load_training_rows(tmp_path / name, tmp_path)
        assert "--annotations" not in str(caught.value)
