"""All runs together: who is compared with whom, who is ranked, and what is left out."""

import json
import shutil

import numpy as np
import pytest

from leaderboards.board import build_board
from leaderboards.ranking import compare
from leaderboards.stats import (
    benjamini_hochberg,
    holm,
    mcnemar,
    paired_interval,
    pairwise_tests,
    rank_intervals,
    sign_flip_test,
    tiers,
)
from leaderboards.versus import compare_runs
from seedbench_r1.errors import ConfigError, DataError
from seedbench_r1.runs.directory import load_run
from tests.boards import COMPLETE
from tests.command import cli
from tests.small_benchmark import write_script
from tests.synthetic_runs import RULES, RunSpec, make_benchmark, write_run, write_runs

OTHER_JUDGE = "openai:big/v1-0a1b2c3d"


def correct_by_id(folder, level):
    run = load_run(folder)
    return {r.question_id: r.score.correct for r in run.records.values() if r.split == level and r.score is not None}


def paths_of(on_disk, *names):
    return [on_disk.folder / name for name in names]


def test_only_complete_runs_of_one_protocol_are_ranked(on_disk):
    board = on_disk.board
    assert {row.run_id for row in board.rows if row.ranked} == set(COMPLETE)
    assert [row.ranked for row in board.rows] == [True] * len(COMPLETE) + [False] * 4
    values = [row.accuracy["L3"].value for row in board.rows if row.ranked]
    assert values == sorted(values, reverse=True)
    for row in board.rows:
        assert (row.rank_lo is None) == (row.rank_hi is None) == (row.tier is None) == (not row.ranked)
    assert (board.n_measured, board.n_ranked, board.n_incomplete) == (13, 9, 2)


def test_ranks_and_tiers_follow_from_the_tests_alone(on_disk):
    board = on_disk.board
    ranked = [row for row in board.rows if row.ranked]
    answers = [correct_by_id(on_disk.folder / row.run_id, "L3") for row in ranked]
    run = load_run(on_disk.folder / "base")
    ids = list(answers[0])
    tests = pairwise_tests(
        [[answer[question_id] for question_id in ids] for answer in answers],
        [run.questions[question_id].cluster for question_id in ids],
    )
    assert [(row.rank_lo, row.rank_hi) for row in ranked] == rank_intervals(tests.differences, tests.p_adjusted)
    scores = [row.accuracy["L3"].value for row in ranked]
    assert [row.tier for row in ranked] == tiers(scores, tests.differences, tests.p_adjusted)
    assert ranked[0].tier == "A"
    assert len({row.tier for row in ranked}) > 1, "this data must tell tiers apart"
    n = len(ranked)
    np.testing.assert_array_equal(board.ranking.p_holm[:n, :n], tests.p_adjusted)
    assert np.isnan(board.ranking.p[n:]).all()
    assert np.isnan(board.ranking.p[:, n:]).all()


def test_a_run_of_l3_alone_is_ranked_on_l3_and_compared_on_nothing_else(on_disk):
    board = on_disk.board
    place = [row.run_id for row in board.rows].index("only-l3")
    assert not np.isnan(board.tests["L3"].p[place, 0])
    assert np.isnan(board.tests["L1"].p[place]).all()


@pytest.mark.parametrize("level", ["L1", "L2", "L3"])
def test_the_distance_from_the_baseline_is_the_paired_test(on_disk, level):
    base, other = (correct_by_id(on_disk.folder / name, level) for name in ("base", "care-200"))
    run = load_run(on_disk.folder / "base")
    differences = [float(other[i]) - float(base[i]) for i in base]
    videos = [run.questions[i].cluster for i in base]
    delta = on_disk.board.row("care-200").deltas[level]
    expected = paired_interval(differences, videos)
    assert (delta.value, delta.lo, delta.hi) == pytest.approx((expected.mean, expected.lo, expected.hi), abs=1e-12)
    assert (delta.n, delta.n_clusters) == (len(base), len(set(videos)))
    assert delta.p == sign_flip_test(differences, videos)
    assert on_disk.board.row("base").deltas == {}


def test_holm_is_over_all_runs_tested_against_the_baseline(on_disk):
    deltas = [row.deltas["L3"] for row in on_disk.board.rows if "L3" in row.deltas]
    tested = [delta for delta in deltas if delta.p is not None]
    np.testing.assert_array_equal(holm([delta.p for delta in tested]), [delta.p_adjusted for delta in tested])
    assert len(tested) == 9  # 8 ranked ones, and the run that answered 98 %


def test_domains_are_exploratory(on_disk):
    """Benjamini and Hochberg over all domains and runs; each p as if the domain were tested alone; no stars."""
    board = on_disk.board
    found = {(row.run_id, name): delta for row in board.rows for name, delta in row.domain_deltas.items()}
    tested = {key: delta for key, delta in found.items() if delta.p is not None}
    expected = benjamini_hochberg([delta.p for delta in tested.values()])
    np.testing.assert_array_equal([delta.p_adjusted for delta in tested.values()], expected)
    assert {name for _, name in tested} == {"Daily life", "Hobbies", "Recreation", "Work"}
    assert len(tested) > 30
    alone = compare(board.measured["care-200"], board.measured["base"], board.bank.group("Work"), board.bank)
    assert tested["care-200", "Work"].p == alone.p
    assert found["limited", "Work"].p is None
    assert board.row("base").domain_deltas == {}
    assert all(row.stars(name) == "" for row in board.rows for name in row.domain_deltas)


def test_fewer_than_95_percent_shared_questions_show_a_difference_but_no_test(on_disk):
    stopped, limited = (on_disk.board.row(name).deltas["L3"] for name in ("stopped", "limited"))
    assert (stopped.n, stopped.p, stopped.p_adjusted) == (44, None, None)
    assert (limited.n, limited.p) == (20, None)
    assert on_disk.board.row("some-failed").deltas["L3"].p is not None
    a, b = correct_by_id(on_disk.folder / "base", "L3"), correct_by_id(on_disk.folder / "stopped", "L3")
    assert stopped.value == pytest.approx(np.mean([float(b[i]) - float(a[i]) for i in b]))


def test_the_last_percent_decides_whether_there_is_a_test(tmp_path):
    benchmark = make_benchmark({"L3": 100})
    paths = write_runs(tmp_path, [RunSpec("a", levels=("L3",)), RunSpec("b", levels=("L3",), seed=1)], benchmark)
    lines = (paths[1] / "records.jsonl").read_text().splitlines(keepends=True)
    for n, tested in ((95, True), (94, False)):
        (paths[1] / "records.jsonl").write_text("".join(lines[:n]))
        board = build_board(paths, baseline="a")
        delta = compare(board.measured["b"], board.measured["a"], board.bank.group("L3"), board.bank)
        assert (delta.n, delta.p is not None) == (n, tested)


def test_no_stars_for_a_checkpoint_picked_by_its_own_score(on_disk):
    picked = on_disk.board.row("best-of-5")
    assert picked.deltas["L3"].p_adjusted < 0.01
    assert picked.stars("L3") == ""
    assert on_disk.board.row("care-200").stars("L3") == "***"
    assert on_disk.board.row("base").stars("L3") == ""


def test_protocols_are_never_ranked_together_unless_forced(on_disk):
    paths = paths_of(on_disk, "base", "care-200", "frames-32")
    board = build_board(paths, baseline="base")
    assert not board.row("frames-32").ranked
    assert board.row("frames-32").deltas == {}
    assert [(group.protocol_id, group.ranked) for group in board.protocols] == [("5afd59b6", True), ("f0467b38", False)]
    assert "32 frames" in board.warnings[0]
    place = [row.run_id for row in board.rows].index("frames-32")
    assert all(np.isnan(tests.p[place]).all() for tests in board.tests.values())
    forced = build_board(paths, baseline="base", force_mixed=True)
    assert all(row.ranked for row in forced.rows)
    assert "L3" in forced.row("frames-32").deltas
    assert "by force" in forced.warnings[0]
    assert "PROTOCOL≠" not in forced.row("frames-32").flags


def test_the_baselines_protocol_is_the_one_that_is_ranked(on_disk):
    board = build_board(paths_of(on_disk, "base", "care-200", "frames-32"), baseline="frames-32")
    assert [row.run_id for row in board.rows if row.ranked] == ["frames-32"]


def test_consistency_is_compared_within_one_judge_only(on_disk):
    board = build_board(paths_of(on_disk, "base", "care-200", "other-judge", "not-judged"), metric="l3.consistency")
    assert board.judge_id == RULES
    assert {row.run_id for row in board.rows if row.ranked} == {"base", "care-200"}
    assert board.rows[0].run_id == "care-200"
    assert "JUDGE≠" in board.row("other-judge").flags
    assert board.row("other-judge").consistency["L3"].n > 0
    chosen = build_board(paths_of(on_disk, "base", "other-judge"), judge="openai:big")
    assert chosen.judge_id == OTHER_JUDGE
    assert chosen.row("base").consistency == {}
    assert chosen.row("base").judge_id is None
    with pytest.raises(ConfigError, match=r"judged none of the runs.*openai:big.*rules/v1"):
        build_board(paths_of(on_disk, "base", "other-judge"), judge="gpt")


def test_a_consistency_metric_needs_enough_verdicts_in_common(tmp_path):
    paths = write_runs(tmp_path, [RunSpec("a"), RunSpec("b", seed=1)], make_benchmark({"L3": 60}))
    file = paths[1] / "verdicts.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:50]))
    board = build_board(paths, metric="l3.consistency")
    assert board.n_ranked == 0
    assert any("too few questions" in warning for warning in board.warnings)
    file.write_text("".join(lines[:58]))
    assert build_board(paths, metric="l3.consistency").n_ranked == 2


def test_a_metric_nobody_has_ranks_nobody(on_disk):
    board = build_board(paths_of(on_disk, "only-l3"), metric="l1.accuracy")
    assert board.n_ranked == 0
    assert "Nothing is ranked" in board.warnings[0]
    with pytest.raises(ConfigError, match=r"l9.accuracy"):
        build_board(paths_of(on_disk, "base"), metric="l9.accuracy")
    with pytest.raises(ConfigError, match=r"l3.speed"):
        build_board(paths_of(on_disk, "base"), metric="l3.speed")


def damaged(folder, kind):
    """A run directory spoilt in one way."""
    path = write_run(folder, RunSpec(kind), make_benchmark())
    manifest, questions, records = (path / name for name in ("manifest.json", "questions.jsonl", "records.jsonl"))
    if kind == "no-manifest":
        manifest.unlink()
    elif kind == "newer":
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"schema": "sbr1.run/9"}))
    elif kind == "half-manifest":
        manifest.write_text(manifest.read_text()[:300])
    elif kind == "no-questions":
        questions.unlink()
    elif kind == "repeated":
        questions.write_text(questions.read_text() + questions.read_text().splitlines()[0] + "\n")
    elif kind == "no-records":
        records.unlink()
    elif kind == "torn-inside":
        lines = records.read_text().splitlines(keepends=True)
        records.write_text("".join([*lines[:4], lines[4][:50] + "\n", *lines[5:]]))
    elif kind == "not-utf8":
        lines = records.read_bytes().splitlines(keepends=True)
        records.write_bytes(b"".join([*lines[:6], lines[6].replace(b"L1", b"\xff1"), *lines[7:]]))
    elif kind == "two-values":
        lines = records.read_text().splitlines(keepends=True)
        records.write_text("".join([lines[0], lines[1].strip() + lines[2], *lines[3:]]))
    elif kind == "bad-verdict":
        (path / "verdicts.jsonl").write_text('{"question_id": "L1/0"}\n')
    elif kind == "foreign-question":
        line = records.read_text().splitlines()[0].replace("L1/0", "L1/99999")
        records.write_text(records.read_text() + line + "\n")
    elif kind == "empty":
        shutil.rmtree(path)
        path.mkdir()
    elif kind == "file":
        shutil.rmtree(path)
        path.write_text("not a directory")
    return path


REASONS = {
    "no-manifest": "no manifest.json",
    "newer": "upgrade",
    "half-manifest": "not a valid manifest",
    "no-questions": "missing or empty",
    "repeated": "161 lines for 160 questions",
    "no-records": "no answers yet",
    "torn-inside": "records.jsonl:5",
    "not-utf8": "records.jsonl:7",
    "two-values": "records.jsonl:2",
    "bad-verdict": "verdicts.jsonl:1",
    "foreign-question": "L1/99999",
    "empty": "is empty",
    "file": "is a file",
}


@pytest.mark.parametrize("kind", REASONS)
def test_a_bad_directory_is_named_explained_and_left_out(tmp_path, on_disk, kind):
    bad = damaged(tmp_path, kind)
    board = build_board([on_disk.folder / "base", bad])
    assert [row.run_id for row in board.rows] == ["base"]
    assert [item.path for item in board.left_out] == [bad]
    assert REASONS[kind] in board.left_out[0].reason
    assert bad.name in board.warnings[-1]
    with pytest.raises(DataError, match=r"None of the 1 run directories can be used(?s:.*)" + REASONS[kind]):
        build_board([bad])
    with pytest.raises((ConfigError, DataError), match=REASONS[kind]):
        build_board([on_disk.folder / "base", bad], baseline=str(bad))


def test_a_torn_last_line_costs_one_answer_not_the_run(tmp_path):
    path = write_run(tmp_path, RunSpec("torn"), make_benchmark())
    data = (path / "records.jsonl").read_bytes()
    (path / "records.jsonl").write_bytes(data[:-20] + "é".encode()[:1])  # within a character, too
    row = build_board([path]).rows[0]
    assert row.status == "incomplete"
    assert row.answered == 159


def test_another_version_of_the_data_set_is_left_out(tmp_path):
    benchmark = make_benchmark()
    specs = [RunSpec("a"), RunSpec("b", seed=1), RunSpec("newer-data", seed=2, data_version="b")]
    paths = write_runs(tmp_path, specs, benchmark)
    board = build_board(paths)
    assert [item.path.name for item in board.left_out] == ["newer-data"]
    assert "another version of the data set" in board.left_out[0].reason
    other = build_board(paths, baseline="newer-data")
    assert [row.run_id for row in other.rows] == ["newer-data"]
    assert len(other.left_out) == 2


def test_a_run_given_twice_counts_once_and_names_are_told_apart(tmp_path):
    benchmark = make_benchmark({"L3": 30})
    first = write_run(tmp_path / "x", RunSpec("same"), benchmark)
    second = write_run(tmp_path / "y", RunSpec("same", seed=1), benchmark)
    board = build_board([first, second, tmp_path / "y" / ".." / "x" / "same"])
    assert {row.run_id for row in board.rows} == {"x/same", "y/same"}


def test_a_baseline_is_found_by_directory_name_or_model(on_disk):
    runs = paths_of(on_disk, "grpo-100", "care-200")
    assert build_board(runs, baseline=str(on_disk.folder / "care-200")).baseline == "care-200"
    assert build_board(runs, baseline="grpo-100").baseline == "grpo-100"
    added = build_board(runs, baseline=str(on_disk.folder / "base"))
    assert added.baseline == "base"
    assert len(added.rows) == 3
    with pytest.raises(ConfigError, match=r"none of the usable runs.*grpo-100, care-200"):
        build_board(runs, baseline="base")


def test_the_order_of_the_arguments_does_not_matter(on_disk):
    names = ["base", "stopped", "care-200", "only-l3", "limited", "frames-32", "best-of-5"]
    one = build_board(paths_of(on_disk, *names), baseline="base")
    two = build_board(paths_of(on_disk, *reversed(names)), baseline="base")
    assert {r.run_id: r for r in one.rows} == {r.run_id: r for r in two.rows}
    assert [row.run_id for row in one.rows] == [row.run_id for row in two.rows]
    assert [q.question_id for q in one.bank.questions] == [q.question_id for q in two.bank.questions]


def test_the_bank_holds_every_question_once_in_level_order(on_disk):
    bank = on_disk.board.bank
    ids = [question.question_id for question in bank.questions]
    assert len(set(ids)) == len(ids) == 160
    assert bank.levels == ("L1", "L2", "L3")
    assert ids[0] == "L1/0"
    assert ids[-1] == "L3/59"
    assert [ids[place] for place in np.flatnonzero(bank.group("L2"))][:2] == ["L2/0", "L2/1"]
    same_video = bank.video == bank.video[bank.index["L1/0"]]
    assert {q.cluster for q, same in zip(bank.questions, same_video, strict=True) if same} == {"L1-P0000"}


def test_the_bootstrap_interval_is_near_the_other_one(on_disk):
    row = on_disk.board.row("only-l3")
    cell, (lo, hi) = row.accuracy["L3"], row.bootstrap["L3"]
    assert lo < cell.value < hi
    assert lo == pytest.approx(cell.lo, abs=0.04)
    assert hi == pytest.approx(cell.hi, abs=0.04)
    assert "L3" not in on_disk.board.row("stopped").bootstrap


def test_two_runs_question_by_question(on_disk):
    board = build_board(paths_of(on_disk, "base", "care-200"))
    a, b = (correct_by_id(on_disk.folder / name, "L3") for name in ("base", "care-200"))
    found = {item.level: item for item in compare_runs(board, "base", "care-200")}["L3"]
    only_a, only_b = sum(a[i] and not b[i] for i in a), sum(b[i] and not a[i] for i in a)
    assert (found.both, found.only_first, found.only_second) == (sum(a[i] and b[i] for i in a), only_a, only_b)
    assert found.n == 60
    assert found.mcnemar == mcnemar(only_a, only_b)
    assert found.difference.value == pytest.approx((only_a - only_b) / 60)
    assert [item.question_id for item in found.discordant] == [i for i in a if a[i] != b[i]]
    for item in found.discordant:
        assert (item.first == item.gold) != (item.second == item.gold)


def test_a_toy_world_says_so_and_no_paper_stands_beside_it(data_root, tmp_path):
    model = write_script(tmp_path / "s.json")
    done = cli("eval", "--backend", "fake", "--model", model, "--data-root", data_root, "--json", cwd=tmp_path)
    run = tmp_path / json.loads(done.stdout)["run_dir"]
    board = build_board([run])
    assert (board.title, board.published) == ("Miniature (a toy world, not SEED-Bench-R1)", ())
    built = cli("leaderboard", "build", run, "-o", "b.html", "--include-reported", cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "b.md").read_text().startswith("# Miniature (a toy world, not SEED-Bench-R1) leaderboard")
    assert "Miniature (a toy world, not SEED-Bench-R1) accuracy" in (tmp_path / "b.tex").read_text()
    page = (tmp_path / "b.html").read_text()
    assert "<title>Miniature (a toy world, not SEED-Bench-R1) leaderboard</title>" in page
    assert "arxiv.org" not in page
    assert "reported" not in (tmp_path / "b.csv").read_text()
