"""Differences of consistency and of sound accuracy: against counts by hand, missing verdicts as bounds, everywhere."""

import csv
import json
import shutil

import numpy as np
import pytest

from leaderboards.board import build_board
from leaderboards.draw.csv import write_long_csv, write_wide_csv
from leaderboards.draw.latex import latex
from leaderboards.draw.markdown import markdown
from leaderboards.methods import methods_paragraph
from leaderboards.ranking import compare
from leaderboards.rows import Delta
from leaderboards.stats import holm, paired_interval, sign_flip_test
from leaderboards.story import story
from leaderboards.versus import compare_runs
from seedbench_r1.runs.directory import load_run
from seedbench_r1.runs.verdicts import load_verdicts
from tests.command import cli
from tests.synthetic_runs import RULES, RunSpec, make_benchmark, write_run

NAMES = ("base", "better", "worse", "other-judge")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four runs on the same questions; the last was judged by another judge."""
    folder = tmp_path_factory.mktemp("judged")
    questions = make_benchmark({"L1": 60, "L2": 40, "L3": 80}, seed=3)
    for spec in (
        RunSpec("base", consistent=0.5, seed=1),
        RunSpec("better", consistent=0.95, seed=2),
        RunSpec("worse", consistent=0.45, seed=3),
        RunSpec("other-judge", consistent=0.9, seed=4, judges=("openai:x/v1-0a1b2c3d",)),
    ):
        write_run(folder, spec, questions)
    return folder


@pytest.fixture(scope="module")
def board(folder):
    return build_board([folder / name for name in NAMES], baseline="base", judge=None, include_published=False)


def drop_verdicts(path, keep):
    """Leave the verdicts of which keep(question_id, consistent) is true."""
    file = path / "verdicts.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    kept = [line for line in lines if keep(line["question_id"], line["consistent"])]
    file.write_text("".join(json.dumps(line) + "\n" for line in kept))


def by_hand(folder, first, second, level, measure):
    """The differences of the questions for which both have a verdict, and their videos."""
    values = []
    for name in (first, second):
        run, verdicts = load_run(folder / name), load_verdicts(folder / name)[RULES]
        values.append(
            {
                i: (verdicts[i].consistent and (measure == "consistency" or record.score.correct))
                for i, record in run.records.items()
                if record.split == level and i in verdicts and verdicts[i].consistent is not None
            }
        )
    ids = [i for i in run.questions if i in values[0] and i in values[1]]
    return [float(values[0][i]) - float(values[1][i]) for i in ids], [run.questions[i].cluster for i in ids]


@pytest.mark.parametrize("measure", ["consistency", "sound"])
@pytest.mark.parametrize("level", ["L1", "L2", "L3"])
def test_a_difference_is_that_of_the_counts(folder, board, measure, level):
    p = []
    for name in ("better", "worse"):
        differences, videos = by_hand(folder, name, "base", level, measure)
        delta, expected = board.row(name).judged_deltas[measure][level], paired_interval(differences, videos)
        assert (delta.value, delta.n) == (pytest.approx(np.mean(differences)), len(differences))
        assert (delta.lo, delta.hi) == (pytest.approx(expected.lo), pytest.approx(expected.hi))
        assert delta.p == pytest.approx(sign_flip_test(differences, videos))
        p.append(delta.p)
    # One family: a measure on a level, all runs against the baseline.
    adjusted = [board.row(name).judged_deltas[measure][level].p_adjusted for name in ("better", "worse")]
    assert adjusted == pytest.approx(list(holm(p)))


def test_verdicts_of_another_judge_are_not_compared(board):
    assert board.row("other-judge").judged_deltas == {"consistency": {}, "sound": {}}
    assert board.row("base").judged_deltas.get("consistency", {}) == {}


def test_missing_verdicts_are_bounds_and_take_the_stars_where_they_decide_the_sign(folder, tmp_path):
    paths = [shutil.copytree(folder / name, tmp_path / name) for name in ("base", "better")]
    whole = build_board(paths, baseline="base").row("better")
    assert whole.stars("L3", "consistency")
    assert whole.delta("consistency", "L3").missing == 0
    assert not whole.verdict_bounds
    # What is missing of the better run are its bad verdicts: the rate rises, and says less.
    drop_verdicts(paths[1], lambda question_id, consistent: consistent or not question_id.startswith("L3"))
    row = build_board(paths, baseline="base").row("better")
    delta, bounds = row.delta("consistency", "L3"), row.verdict_bounds["L3"]
    n_missing = 80 - bounds.answered
    assert n_missing > 0
    assert delta.missing == n_missing
    rate = whole.consistency["L3"].value
    assert bounds.lo == pytest.approx(rate)
    assert bounds.hi == pytest.approx(rate + n_missing / 80)
    base = whole.consistency["L3"].value - whole.delta("consistency", "L3").value
    assert (delta.bound_lo, delta.bound_hi) == (pytest.approx(bounds.lo - base), pytest.approx(bounds.hi - base))
    assert not delta.sign_is_open
    # Nearly all missing: neither the rate nor the sign is known.
    drop_verdicts(paths[1], lambda question_id, _: not question_id.startswith("L3") or question_id.endswith("1"))
    row = build_board(paths, baseline="base").row("better")
    assert row.delta("consistency", "L3").sign_is_open
    assert row.stars("L3", "consistency") == ""


@pytest.mark.parametrize(
    ("missing", "lo", "hi", "stars"),
    [(0, 0.1, 0.1, "**"), (3, 0.02, 0.12, "**"), (3, 0.0, 0.2, ""), (3, -0.1, 0.2, ""), (3, -0.3, -0.1, "")],
)
def test_stars_need_a_sign_that_no_verdict_can_change(missing, lo, hi, stars):
    delta = Delta(0.1, 0.05, 0.15, 0.02, 100, 50, 0.001, 0.004, missing, lo, hi)
    assert delta.stars == stars


def test_every_file_says_it(board, tmp_path):
    delta = board.row("better").judged_deltas["consistency"]["L3"]
    shown = f"{100 * delta.value:+.1f}"
    write_wide_csv(board, tmp_path / "wide.csv")
    (wide,) = [row for row in csv.DictReader((tmp_path / "wide.csv").open()) if row["run_id"] == "better"]
    assert wide["d_l3_cons"] == f"{100 * delta.value:.2f}"
    assert wide["p_l3_cons_holm"] == f"{delta.p_adjusted:.4g}"
    assert wide["d_l3_cons_min"] == ""
    assert wide["d_l2_sound"] == f"{100 * board.row('better').judged_deltas['sound']['L2'].value:.2f}"
    write_long_csv(board, tmp_path / "long.csv")
    long = [
        row
        for row in csv.DictReader((tmp_path / "long.csv").open())
        if (row["run_id"], row["metric"], row["level"], row["domain"])
        == ("better", "reasoning_consistency", "L3", "all")
    ]
    assert [row["diff"] for row in long] == [repr(delta.value)]
    assert long[0]["baseline"] == "base"
    assert any("better" in line and shown in line for line in markdown(board).splitlines())
    assert any(line.startswith("better") and shown in line for line in latex(board).splitlines())


def test_diff_compares_consistency_too(folder, board):
    (l3,) = [item for item in compare_runs(board, "better", "base") if item.level == "L3"]
    assert l3.judged["consistency"].value == board.row("better").judged_deltas["consistency"]["L3"].value
    done = cli("leaderboard", "diff", folder / "better", folder / "base", cwd=folder, COLUMNS="80")
    delta = l3.judged["consistency"]
    wanted = f"{100 * delta.value:+.1f} [{100 * delta.lo:+.1f}, {100 * delta.hi:+.1f}]"
    assert any("consistency" in line and line.startswith("L3") and wanted in line for line in done.stdout.splitlines())
    assert max(len(line) for line in done.stdout.splitlines() if line.startswith(("L", "level"))) <= 80
    shown = json.loads(cli("leaderboard", "diff", folder / "better", folder / "base", "--json", cwd=folder).stdout)
    assert shown["levels"][2]["judged"]["sound"]["value"] == l3.judged["sound"].value
    other = cli("leaderboard", "diff", folder / "better", folder / "other-judge", cwd=folder)
    assert "consistency: not compared" in other.stdout


def test_the_paragraph_for_a_paper_has_this_boards_numbers(folder, board):
    delta = board.row("better").judged_deltas["consistency"]["L3"]
    text = methods_paragraph(board)
    assert f"{100 * delta.value:+.1f} [{100 * delta.lo:+.1f}, {100 * delta.hi:+.1f}] points of consistency" in text
    assert RULES in text
    assert "L1 60, L2 40, L3 80" in text
    paths = [folder / name for name in ("base", "better")]
    done = cli("leaderboard", "build", *paths, "--methods-paragraph", "-o", folder / "out" / "l.html", cwd=folder)
    assert done.stdout.splitlines()[-1].startswith("We asked 2 models the questions of SEED-Bench-R1")


def test_runs_that_missing_verdicts_could_turn_round_are_equal(folder, tmp_path):
    """Neither ranked one above the other, nor called a leader."""
    paths = [shutil.copytree(folder / name, tmp_path / name) for name in ("base", "better")]
    sure = build_board(paths, metric="l3.consistency", include_published=False)
    assert [row.tier for row in sure.rows] == ["A", "B"]
    assert "is best" in story(sure)[0]
    for path in paths:
        drop_verdicts(path, lambda question_id, _: not question_id.startswith("L3") or int(question_id[3:]) % 2 == 0)
    board = build_board(paths, metric="l3.consistency", include_published=False)
    delta = compare(
        board.measured["better"], board.measured["base"], board.bank.group("L3"), board.bank, measure="consistency"
    )
    assert delta.sign_is_open
    assert [row.tier for row in board.rows] == ["A", "A"]
    assert "no run is significantly below the highest" in story(board)[0]
