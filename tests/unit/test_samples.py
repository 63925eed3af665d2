"""Several samples of each question: each is what its seed alone would give; killed, continued, judged, compared."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from leaderboards.board import build_board
from leaderboards.draw.page import write_html
from seedbench_r1.engines.local import LocalEngine
from seedbench_r1.engines.plan import plan
from seedbench_r1.engines.run import run_plan
from seedbench_r1.errors import ConfigError
from seedbench_r1.interface import evaluate, evaluate_samples
from seedbench_r1.runs.directory import load_run
from seedbench_r1.runs.samples import read_seeds, runs_of, sample_runs
from seedbench_r1.suites import resolve
from tests.command import cli
from tests.forked import COMMANDS
from tests.small_benchmark import ANSWER, write_script
from tests.tiny_models import tiny_checkpoint
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("shared_decoders")
FREE = {"temperature": 1.0, "top_p": 1.0}
OPTIONS = ("--temperature", 1, "--top-p", 1)


def script(folder: Path, name: str = "script", **more: object) -> Path:
    """Questions of L1 are answered A, B, A, B, ... by seed; all others A."""
    said = {f"L1/{i}": [ANSWER.format("A"), ANSWER.format("B")] for i in range(40)}
    return write_script(folder / f"{name}.json", **said, **more)


def command(data_root: Path, model: Path, *more: object) -> tuple[object, ...]:
    return ("eval", "--backend", "fake", "--model", model, "--data-root", data_root, *OPTIONS, *more)


def texts(path: Path) -> dict[str, str]:
    return {i: record.generation.text for i, record in load_run(path).records.items()}


def test_samples_of_a_real_model_are_the_runs_of_their_seeds(data_root, tmp_path):
    given = {
        "model": str(tiny_checkpoint("qwen2_5_vl")),
        "data_root": data_root,
        "max_new_tokens": 12,
        "limit": 6,
    } | FREE
    common = given | {"max_frames": 4, "dtype": "float32", "device": "cpu", "batch_size": 3}
    runs = evaluate_samples(**common, seeds="0,3", runs_dir=tmp_path / "several")
    for seed, run in runs.items():
        alone = evaluate(**common, seed=seed, run_name=f"s{seed}", runs_dir=tmp_path / "alone")
        # A subset is drawn by --seed, so that all samples have the same questions.
        assert list(run.questions) == list(runs[0].questions)
        shared = sorted(set(run.questions) & set(alone.questions))
        assert len(shared) == 6 or seed
        assert shared
        assert [texts(run.path)[i] for i in shared] == [texts(alone.path)[i] for i in shared]
        assert run.manifest.protocol_id == alone.manifest.protocol_id
        assert run.manifest.seed == run.manifest.sampling.seed == seed
    assert texts(runs[0].path) != texts(runs[3].path)


def test_a_prompt_is_computed_once_for_all_samples(data_root, tmp_path, monkeypatch):
    from seedbench_r1.backends.fake import FakeBackend

    asked = []
    generate = FakeBackend.generate

    def spied(self, requests, sampling):
        def noted():
            for request in requests:
                asked.append((request.question_id, request.seeds))
                yield request

        return generate(self, noted(), sampling)

    monkeypatch.setattr(FakeBackend, "generate", spied)
    given = {"model": str(script(tmp_path)), "backend": "fake", "data_root": data_root, "runs_dir": tmp_path} | FREE
    evaluate_samples(**given, samples=2)
    assert len(asked) == len({question for question, _ in asked}) == 28
    assert {seeds for _, seeds in asked} == {(0, 1)}
    asked.clear()
    evaluate_samples(**given, samples=4)  # the first two are there
    assert {seeds for _, seeds in asked} == {(2, 3)}
    (folder,) = tmp_path.glob("*--samples")
    assert read_seeds(folder) == (0, 1, 2, 3)
    asked.clear()
    evaluate_samples(**given, seeds=(1, 3))
    assert asked == []


def test_the_command_line_shows_average_spread_majority_and_pass(data_root, tmp_path):
    model = script(tmp_path)
    done = cli(*command(data_root, model, "--samples", 3), cwd=tmp_path, COLUMNS="80")
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert [path.name for path in sample_runs(folder)] == ["seed-0", "seed-1", "seed-2"]
    questions = load_run(folder / "seed-0").questions
    gold = [q.gold for q in questions.values() if q.split == "L1"]
    a, b, n = gold.count("A"), gold.count("B"), len(gold)
    # Two samples say A, one says B.
    line = next(line for line in done.stdout.splitlines() if line.split()[:1] == ["L1"]).split()
    assert line[1] == str(n)
    assert line[2] == f"{100 * (2 * a + b) / (3 * n):.1f}"
    low, high = sorted((100 * a / n, 100 * b / n))
    assert line[5] == f"{low:.1f}-{high:.1f}"
    assert line[6] == f"{np.std([100 * a / n, 100 * b / n, 100 * a / n], ddof=1):.1f}"
    assert line[7:] == [f"{100 * a / n:.1f}", f"{100 * (a + b) / n:.1f}"]
    assert all(len(line) <= 80 for line in done.stdout.split(" 3 samples")[0].splitlines())
    value = json.loads(cli("show", folder, "--json", cwd=tmp_path).stdout)
    assert value["splits"]["L1"]["average"]["value"] == pytest.approx((2 * a + b) / (3 * n))
    assert value["splits"]["L1"]["pass_at"]["1"]["value"] == pytest.approx((2 * a + b) / (3 * n))
    assert [sample["seed"] for sample in value["samples"]] == [0, 1, 2]
    shown = cli("show", folder, "--question", "L1/0", cwd=tmp_path).stdout
    assert [line.split()[1] for line in shown.splitlines() if line.startswith("answer ")] == ["A", "B", "A"]


def test_killed_and_continued_they_equal_an_undisturbed_run(data_root, tmp_path):
    slow = write_script(tmp_path / "script.json", seconds=0.02)
    words = command(data_root, slow, "--samples", 3)
    process = COMMANDS.popen(words, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def lines() -> int:
        return sum(file.read_bytes().count(b"\n") for file in tmp_path.glob("runs/*/seed-*/records.jsonl"))

    wait_until(lambda: lines() >= 20)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=60) == -signal.SIGKILL
    kept = {file: file.read_bytes() for file in tmp_path.glob("runs/*/seed-*/records.jsonl")}
    assert 20 <= sum(part.count(b"\n") for part in kept.values()) < 84
    again = cli(*command(data_root, slow, "--samples", 3), cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "resuming" in again.stderr
    for file, part in kept.items():
        assert file.read_bytes().startswith(part[: part.rindex(b"\n") + 1])
        assert len(load_run(file.parent).records) == 28
        assert file.read_bytes().count(b"\n") == 28  # nothing was asked twice


def test_shards_and_data_parallel_give_the_same_samples(data_root, tmp_path):
    model = script(tmp_path)
    assert cli(*command(data_root, model, "--samples", 2, "--run-name", "one"), cwd=tmp_path).returncode == 0
    done = cli(*command(data_root, model, "--samples", 2, "--run-name", "two", "--data-parallel", 2), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for i in (1, 2):
        part = cli(*command(data_root, model, "--samples", 2, "--run-name", "three", "--shard", f"{i}/2"), cwd=tmp_path)
        assert part.returncode == 0, part.stderr
    for seed in (0, 1):
        one, *others = (texts(tmp_path / "runs" / name / f"seed-{seed}") for name in ("one", "two", "three"))
        assert len(one) == 28
        assert others == [one, one]


def test_a_bad_clip_fails_in_every_sample_and_heals(data_root, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(data_root, root)
    clip = next(q.video for q in load_any(root) if q.video is not None)
    good = clip.read_bytes()
    clip.write_bytes(b"no clip")
    model = script(tmp_path)
    done = cli(*command(root, model, "--samples", 2, "--run-name", "x"), cwd=tmp_path)
    assert done.returncode == 5
    assert "INCOMPLETE" in done.stdout
    failed = [sum(not r.answered for r in load_run(run).records.values()) for run in sample_runs(tmp_path / "runs/x")]
    assert failed[0] == failed[1] > 0
    clip.write_bytes(good)
    assert cli(*command(root, model, "--samples", 2, "--run-name", "x"), cwd=tmp_path).returncode == 0


def load_any(root: Path):
    from seedbench_r1.questions import load_questions

    return load_questions(root)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--samples", 2, "--temperature", 0), "At --temperature 0 all samples are the same answer"),
        (("--samples", 2, "--seeds", "0,1"), "--seeds says how many samples there are"),
        (("--seeds", "1,1"), "names a seed twice"),
        (("--seeds", "a"), "Give whole numbers from 0 on"),
        (("--samples", 0), "--samples"),
        (("--samples", 2, "--engine", "ray"), "--samples"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_asked(data_root, tmp_path, more, message):
    done = cli(*command(data_root, script(tmp_path), *more), cwd=tmp_path)
    assert done.returncode in (2, 3)
    assert message in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_run_of_one_answer_is_not_written_over(data_root, tmp_path):
    model = script(tmp_path)
    assert cli(*command(data_root, model, "--run-name", "x"), cwd=tmp_path).returncode == 0
    done = cli(*command(data_root, model, "--run-name", "x", "--samples", 2), cwd=tmp_path)
    assert done.returncode == 3
    assert "holds a run with one answer to each question" in done.stderr
    assert not (tmp_path / "runs" / "x" / "samples.json").exists()


def test_the_python_interface_says_which_function(data_root, tmp_path):
    given = {"model": str(script(tmp_path)), "backend": "fake", "data_root": data_root, "runs_dir": tmp_path} | FREE
    with pytest.raises(ConfigError, match="Fix: evaluate_samples"):
        evaluate(**given, samples=2)
    with pytest.raises(ConfigError, match="samples=8"):
        evaluate_samples(**given)
    planned = plan(resolve(given | {"runs_dir": tmp_path / "runs", "samples": 2}), command="")
    with pytest.raises(ConfigError, match="Fix: run_samples"):
        run_plan(planned, LocalEngine())
    assert not (tmp_path / "runs").exists()


def test_at_the_standard_protocols_top_p_a_warning_says_what_to_do(data_root, tmp_path):
    model = write_script(tmp_path / "s.json")
    done = cli("eval", "--backend", "fake", "--model", model, "--data-root", data_root, "--samples", 2, cwd=tmp_path)
    assert "At this top_p all samples are nearly the same. Fix: --temperature 1 --top-p 1" in done.stdout


@pytest.fixture(scope="module")
def sampled(data_root, tmp_path_factory) -> dict[str, Path]:
    """A run of 4 samples, judged; and one of one answer, by another model."""
    folder = tmp_path_factory.mktemp("sampled")
    spoken = "<think>So the answer is {}.</think><answer>{}</answer>"
    said = {f"L1/{i}": [spoken.format("A", "A"), spoken.format("C", "B")] for i in range(40)}
    default = spoken.format("A", "A")
    models = {"several": {"default": default, "answers": said}, "one": {"default": spoken.format("B", "B")}}
    found = {}
    for name, content in models.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
        more = ("--samples", 4) if name == "several" else ()
        done = cli(*command(data_root, folder / f"{name}.json", *more, "--json"), cwd=folder)
        assert done.returncode == 0, done.stderr
        found[name] = folder / json.loads(done.stdout)["run_dir"]
    judged = cli("judge", *found.values(), cwd=folder)
    assert judged.returncode == 0, judged.stderr
    assert all((run / "verdicts.jsonl").exists() for run in runs_of(list(found.values())))
    return found


def test_on_the_board_they_are_one_row_of_means(sampled):
    board = build_board(list(sampled.values()), baseline=str(sampled["one"]), metric="l1.accuracy")
    row = board.row(sampled["several"].name)
    one = board.row(sampled["one"].name)
    gold = [q.gold for q in load_run(sampled["one"]).questions.values() if q.split == "L1"]
    a, b, n = gold.count("A"), gold.count("B"), len(gold)
    assert (row.n_samples, one.n_samples, len(board.rows)) == (4, 1, 2)
    assert "AVG@4" in row.flags
    assert row.accuracy["L1"].value == pytest.approx((a + b) / (2 * n))
    assert (row.accuracy["L1"].n, row.consistency["L1"].n) == (n, n)
    # A is said with its reason, B with the reason for C.
    assert row.consistency["L1"].value == pytest.approx(0.5)
    assert row.sound["L1"].value == pytest.approx(a / (2 * n))
    assert row.deltas["L1"].value == pytest.approx((a + b) / (2 * n) - b / n)
    assert row.judged_deltas["consistency"]["L1"].value == pytest.approx(-0.5)
    assert row.sampled["L1"].majority.value == pytest.approx((a + b) / (2 * n))  # two against two
    assert row.shares["pass_at_4"]["L1"].value == pytest.approx((a + b) / n)
    quadrants = row.quadrants["L1"]
    assert (quadrants.n, quadrants.correct_consistent, quadrants.correct_inconsistent) == (4 * n, 2 * a, 2 * b)
    # Each question's credit is a mean, so its interval is over questions, not over answers.
    by_hand = np.array([0.5 * (g in "AB") for g in gold])
    assert row.accuracy["L1"].value == pytest.approx(by_hand.mean())


def test_its_files_and_page_say_so(sampled, tmp_path):
    out = ("--out", "b.html", "--baseline", sampled["one"], "--no-published", "--metric", "l1.accuracy")
    done = cli("leaderboard", "build", *sampled.values(), *out, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    board = build_board(list(sampled.values()), metric="l1.accuracy")
    numbers = board.row(sampled["several"].name).sampled["L1"]
    lo, hi = (f"{100 * end(numbers.by_sample):.1f}" for end in (min, max))
    voted = f"maj@4 {100 * numbers.majority.value:.1f}, pass@4 {100 * numbers.passed[4].value:.1f}"
    spread = f"{lo} to {hi} % (sd {100 * np.std(numbers.by_sample, ddof=1):.1f}); {voted}"
    assert f"4 samples on L1, {spread}\n" in done.stdout
    with (tmp_path / "b.csv").open() as file:
        row = next(line for line in csv.DictReader(file) if line["samples"] == "4")
    assert float(row["l1_acc_min"]) <= float(row["l1_acc"]) <= float(row["l1_acc_max"])
    assert float(row["l1_pass"]) >= float(row["l1_maj"])
    with (tmp_path / "b_long.csv").open() as file:
        metrics = {line["metric"] for line in csv.DictReader(file)}
    assert {"maj_at_4", "pass_at_1", "pass_at_2", "pass_at_4"} <= metrics
    assert "(avg@4)" in (tmp_path / "b.md").read_text()
    assert "(avg@4)" in (tmp_path / "b.tex").read_text()
    page = (tmp_path / "b.html").read_text()
    assert all(f'id="layer-{name}"' in page for name in ("credits", "samples"))
    assert f"mean of 4 samples, {spread}; " in page
    diff = cli("leaderboard", "diff", *sampled.values(), cwd=tmp_path)
    assert diff.returncode == 0, diff.stderr
    refused = cli("export", "hub", sampled["several"], "--out", "x", cwd=tmp_path)
    assert refused.returncode == 4
    assert "holds 4 run directories" in refused.stderr


def test_a_missing_verdict_of_one_sample_is_bounded_not_guessed(sampled, tmp_path):
    several = shutil.copytree(sampled["several"], tmp_path / "several")
    file = several / "seed-1" / "verdicts.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    dropped = next(line for line in lines if '"L1/' in line)
    file.write_text("".join(line for line in lines if line != dropped))
    whole = build_board([sampled["several"]]).rows[0]
    row = build_board([several]).rows[0]
    # The three samples that have one still say something of the question.
    assert row.consistency["L1"].n == whole.consistency["L1"].n
    assert row.verdict_bounds["L1"].n == 4 * whole.consistency["L1"].n
    assert row.verdict_bounds["L1"].answered == row.verdict_bounds["L1"].n - 1


def test_equal_boards_whatever_the_order(sampled, tmp_path):
    pages = []
    for number, paths in enumerate((list(sampled.values()), list(reversed(sampled.values())))):
        target = tmp_path / f"{number}.html"
        write_html(build_board(paths), target, built_utc="2026-01-01T00:00:00Z")
        pages.append(target.read_bytes())
    assert pages[0] == pages[1]


@pytest.fixture
def folder(sampled, tmp_path) -> Path:
    """A copy of the run of four samples."""
    return Path(shutil.copytree(sampled["several"], tmp_path / sampled["several"].name))


def left_out(sampled, folder: Path) -> str:
    """Why the folder is not on the board, next to another run."""
    board = build_board([folder, sampled["one"]])
    assert [row.run_id for row in board.rows] == [sampled["one"].name]
    return board.left_out[0].reason


def test_samples_of_two_models_are_no_run(sampled, folder, tmp_path):
    shutil.rmtree(folder / "seed-1")
    shutil.copytree(sampled["one"], folder / "seed-1")
    manifest = json.loads((folder / "seed-1" / "manifest.json").read_text())
    (folder / "seed-1" / "manifest.json").write_text(json.dumps(manifest | {"seed": 1}))
    assert cli("show", folder, cwd=tmp_path).returncode == 4
    assert re.search("are no samples of one run|belongs to run", left_out(sampled, folder))


def test_a_copy_of_a_sample_is_no_second_one(sampled, folder):
    shutil.rmtree(folder / "seed-2")
    shutil.copytree(folder / "seed-1", folder / "seed-2")
    assert "holds answers with seed 1" in left_out(sampled, folder)


def test_a_lost_sample_leaves_the_row_incomplete_with_bounds(sampled, folder, tmp_path):
    shutil.rmtree(folder / "seed-2")
    row = build_board([folder]).rows[0]
    assert (row.n_samples, row.status, row.ranked) == (4, "incomplete", False)
    whole = build_board([sampled["several"]]).rows[0].accuracy["L1"]
    bounds = row.bounds["L1"]
    assert bounds.lo <= whole.value <= bounds.hi
    assert bounds.hi - bounds.lo == pytest.approx(0.25)
    assert "INCOMPLETE" in cli("show", folder, cwd=tmp_path).stdout


def test_the_bounds_of_partly_answered_questions_keep_what_is_known(folder):
    file = folder / "seed-1" / "records.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for place, line in enumerate(lines) if place % 2))
    row = build_board([folder]).rows[0]
    for name, bounds in row.bounds.items():
        runs = [load_run(path) for path in sample_runs(folder)]
        ids = [i for i, q in runs[0].questions.items() if name in (q.split, q.domain)]
        credits = [[run.records[i].score.credit if i in run.records else None for i in ids] for run in runs]
        known = [c for of_run in credits for c in of_run if c is not None]
        lost = sum(c is None for of_run in credits for c in of_run)
        assert bounds.lo == pytest.approx(sum(known) / (4 * len(ids)))
        assert bounds.hi == pytest.approx((sum(known) + lost) / (4 * len(ids)))


def test_a_copy_of_the_folder_or_one_of_its_samples_is_left_out(sampled, folder):
    board = build_board([sampled["several"], folder, sampled["several"] / "seed-0", sampled["one"]])
    assert len(board.rows) == 2
    assert len(board.left_out) == 2
    assert all("byte for byte" in item.reason for item in board.left_out)


def test_what_is_to_be_said_of_one_sample_is_said_of_all(folder):
    path = folder / "seed-1" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mixed_weights": "model.safetensors"}))
    row = build_board([folder]).rows[0]
    assert "MIXED WEIGHTS" in row.flags
    assert not row.ranked


def test_verdicts_count_whichever_sample_has_them(folder):
    (folder / "seed-0" / "verdicts.jsonl").unlink()
    row = build_board([folder]).rows[0]
    assert row.judge_id == "rules/v1"
    assert any(flag.startswith("JUDGED 75") for flag in row.flags)
    assert row.consistency["L1"].n > 0


def test_whole_sums_of_credits_are_still_no_counts(sampled):
    """Where they add up to whole numbers a design effect below 1 would be refused by Wilson's interval."""
    row = build_board([sampled["several"]]).rows[0]
    assert float(2 * row.accuracy["L1"].k).is_integer()
    assert row.gap is not None
    near, far = row.accuracy["L1"], row.accuracy["L3"]
    assert row.gap.value == pytest.approx(near.value - far.value)
    assert row.gap.lo == pytest.approx(row.gap.value - np.hypot(near.value - near.lo, far.hi - far.value))


def test_diff_gives_no_counts_and_no_mcnemar_where_questions_have_means(sampled, tmp_path):
    done = cli("leaderboard", "diff", *sampled.values(), "--list", cwd=tmp_path, COLUMNS="80")
    line = next(line for line in done.stdout.splitlines() if line.split()[:1] == ["L1"]).split()
    assert line[2:6] == ["-"] * 4
    assert line[-2:] == ["-", "-"]
    assert "several samples of a question are not right or wrong" in done.stdout
    assert "gold" not in done.stdout


def test_predictions_have_a_row_for_every_answer(sampled, tmp_path):
    cli("leaderboard", "build", sampled["several"], "-o", "b.html", "--predictions", cwd=tmp_path)
    with (tmp_path / "predictions.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 4 * 28
    assert {line["seed"] for line in lines} == {"0", "1", "2", "3"}
    assert all((line["gold"] == line["pred"]) == (line["correct"] == "1") for line in lines)
    row = build_board([sampled["several"]]).rows[0]
    of_l1 = [float(line["correct"]) for line in lines if line["level"] == "L1"]
    assert np.mean(of_l1) == pytest.approx(row.accuracy["L1"].value)


def test_a_failure_in_one_sample_of_a_question_that_another_has_not_asked(data_root, tmp_path):
    bad = {"L1/1": [ANSWER.format("A"), {"failure": "no"}]}
    model = write_script(tmp_path / "s.json", **bad)
    given = command(data_root, model, "--run-name", "x")
    assert cli(*given, "--seeds", "1", cwd=tmp_path).returncode == 5
    assert cli(*given, "--seeds", "0", "--shard", "1/2", cwd=tmp_path).returncode in (0, 5)
    built = cli("leaderboard", "build", "runs/x", "-o", "b.html", cwd=tmp_path)
    assert built.returncode == 0, built.stderr


def test_other_samples_are_refused_before_anything_is_made(data_root, tmp_path):
    model = script(tmp_path)
    given = command(data_root, model, "--run-name", "x")
    assert cli(*given, "--samples", 2, cwd=tmp_path).returncode == 0
    folder = tmp_path / "runs" / "x"
    refused = cli(*given, "--samples", 3, "--limit", 6, cwd=tmp_path)
    assert refused.returncode == 3
    assert "would not have the same questions (seed 0 28, seed 1 28, seed 2 6)" in refused.stderr
    write_script(model, default="C")
    refused = cli(*given, "--seeds", "2", cwd=tmp_path)
    assert refused.returncode == 3
    assert "holds another run" in refused.stderr
    assert (read_seeds(folder), (folder / "seed-2").exists()) == ((0, 1), False)
    fresh = cli(*given, "--seeds", "2", "--fresh", cwd=tmp_path)
    assert fresh.returncode == 0, fresh.stderr
    assert read_seeds(folder) == (2,)
    (old,) = folder.glob("old-*")
    assert sorted(path.name for path in old.iterdir()) == ["samples.json", "seed-0", "seed-1"]


def test_twenty_samples_of_one_bad_question_do_not_stop_the_run(data_root, tmp_path):
    model = write_script(tmp_path / "s.json", **{"L1/0": {"failure": "no"}})
    done = cli(*command(data_root, model, "--samples", 20), cwd=tmp_path)
    assert done.returncode == 5
    assert "in a row" not in done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert all(len(load_run(run).records) == 28 for run in sample_runs(folder))


def test_show_names_the_seed_of_each_answer(sampled, tmp_path):
    value = json.loads(cli("show", sampled["several"], "--question", "L1/0", "--json", cwd=tmp_path).stdout)
    assert [sample["seed"] for sample in value["samples"]] == [0, 1, 2, 3]
    assert [sample["record"]["parsed"]["answer"] for sample in value["samples"]] == ["A", "B", "A", "B"]
    failed = json.loads(cli("show", sampled["several"], "--failed", "--json", cwd=tmp_path).stdout)
    assert [sample["failed"] for sample in failed["samples"]] == [[], [], [], []]
