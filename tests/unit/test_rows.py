"""One run becomes one row: every cell against another way to count it."""

import io
import math
from dataclasses import asdict

import pytest
from rich.console import Console

from leaderboards.board import build_board
from leaderboards.draw.csv import wide_fields
from leaderboards.draw.page_table import table_view
from leaderboards.provenance import shareable
from leaderboards.stats import Proportion, design_effect, wilson_interval
from seedbench_r1.cli.judge_results import print_consistency, run_json
from seedbench_r1.runs.directory import load_run
from seedbench_r1.runs.records import record_line, run_identity
from seedbench_r1.runs.verdicts import load_verdicts, verdict_line
from seedbench_r1.scoring import summarise
from seedbench_r1.types import DOMAINS, LEVELS
from tests.boards import SPECS
from tests.synthetic_runs import RULES, RunSpec, make_benchmark, write_run


@pytest.mark.parametrize("name", [spec.name for spec in SPECS])
def test_the_row_counts_what_the_evaluation_counts(on_disk, name):
    run, row = load_run(on_disk.folder / name), on_disk.board.row(name)
    summary = summarise(run.records, run.questions.values(), run.manifest.n_total)
    assert row.status == summary.status
    assert row.answered == sum(group.answered for group in summary.splits.values())
    assert row.n == sum(group.n for group in summary.splits.values())
    assert row.unparsed == sum(group.unparsed for group in summary.splits.values())
    assert row.truncated == sum(group.truncated for group in summary.splits.values())
    assert row.errors == sum(group.failed for group in summary.splits.values())
    for group_name, group in (
        summary.splits | {n: g for some in summary.groups.values() for n, g in some.items()}
    ).items():
        if group.answered == group.selected:
            cell = row.accuracy[group_name]
            assert (cell.k, cell.n) == (group.correct, group.selected)
            assert row.shares["strict_accuracy"][group_name].k == group.strict_correct
            assert group_name not in row.bounds
        else:
            bounds = row.bounds[group_name]
            assert group_name not in row.accuracy
            assert bounds.lo == group.correct / group.selected
            assert bounds.hi == (group.correct + group.selected - group.answered) / group.selected


@pytest.mark.parametrize(
    ("spec", "short", "status"),
    [
        (RunSpec("limited", limit=50), {"L1", "L3"}, "subset"),  # L2 has 40 questions: it was asked whole
        (RunSpec("stopped", answered=0.9), {"L3"}, "incomplete"),
        (RunSpec("whole"), set(), "complete"),
    ],
    ids=lambda value: value.name if isinstance(value, RunSpec) else None,
)
def test_one_short_level_is_enough(tmp_path, spec, short, status):
    path = write_run(tmp_path, spec, make_benchmark())
    run = load_run(path)
    summary = summarise(run.records, run.questions.values(), run.manifest.n_total)
    assert {name for name, level in summary.splits.items() if level.answered < level.n} == short
    row = build_board([path]).rows[0]
    assert summary.status == row.status == status
    assert any(flag.startswith(("SUBSET", "INCOMPLETE")) for flag in row.flags) == bool(short)


def counted(records, verdicts):
    """Judged, consistent and the six counts of the answers, one answer at a time."""
    found = dict.fromkeys(["judged", "consistent", "bare", "undecided", "++", "+-", "-+", "--"], 0)
    for record in records:
        verdict = verdicts.get(record.question_id)
        said = verdict.consistent if verdict is not None else None
        found["judged"] += said is not None
        found["consistent"] += said is True
        if not record.parsed.reasoning or record.parsed.answer is None:
            found["bare"] += 1
        elif said is None:
            found["undecided"] += 1
        else:
            found[("+" if record.score.correct else "-") + ("+" if said else "-")] += 1
    return found


@pytest.mark.parametrize("name", ["base", "messy", "care-200", "other-judge"])
def test_consistency_is_what_one_counts_by_hand(on_disk, name):
    run, row = load_run(on_disk.folder / name), on_disk.board.row(name)
    verdicts = load_verdicts(run.path)[row.judge_id]
    for group in (*LEVELS, *DOMAINS):
        records = [r for r in run.records.values() if group in (r.split, r.domain)]
        counts = counted(records, verdicts)
        cell, sound = row.consistency[group], row.sound[group]
        assert (cell.k, cell.n) == (counts["consistent"], counts["judged"])
        assert (sound.k, sound.n) == (counts["++"], counts["judged"])
        assert row.shares["no_reasoning"][group].k == counts["bare"]
        if group in LEVELS:
            bare = [r for r in records if r.score.correct and not r.parsed.reasoning]  # judged, and not consistent
            right, wrong = row.consistency_by_correctness[group]
            assert (right.k, right.n) == (counts["++"], counts["++"] + counts["+-"] + len(bare))
            assert (wrong.k, right.n + wrong.n) == (counts["-+"], counts["judged"])
            six = row.quadrants[group]
            assert (six.correct_consistent, six.correct_inconsistent) == (counts["++"], counts["+-"])
            assert (six.wrong_consistent, six.wrong_inconsistent) == (counts["-+"], counts["--"])
            assert (six.no_reasoning, six.undecided, six.error) == (counts["bare"], counts["undecided"], 0)
            assert six.n == len(records)


@pytest.mark.parametrize("name", ["base", "messy", "care-200", "other-judge", "limited"])
def test_the_judges_table_states_the_numbers_of_the_page(on_disk, name):
    """Levels with fewer than 30 videos included: both widen their intervals by Student's t."""
    run, row = load_run(on_disk.folder / name), on_disk.board.row(name)
    verdicts = load_verdicts(run.path)[row.judge_id]
    screen = Console(file=io.StringIO(), width=120)
    print_consistency(screen, run, row.judge_id, verdicts)
    lines = {line.split()[0]: line.split() for line in screen.file.getvalue().splitlines() if line.strip()}
    columns = [column.key for column in table_view(on_disk.board).columns]
    cells = next(view for view in table_view(on_disk.board).rows if view.row_id == name).cells
    exported = wide_fields(row, None)
    written = run_json(run, row.judge_id, verdicts)["levels"]
    assert row.consistency["L2"].n_clusters < 30
    for level in LEVELS:
        cell, quadrants = cells[columns.index(f"c_{level}")], row.quadrants[level]
        assert " ".join(lines[level][2:5]) == f"{cell.text} {cell.interval}"
        assert [int(number) for number in lines[level][5:]] == list(asdict(quadrants).values())[:-1]
        assert written[level].items() >= asdict(quadrants).items()
        low, high = (f"{100 * written[level][end]:.2f}" for end in ("lo", "hi"))
        assert (low, high) == tuple(exported[f"{level.lower()}_cons_{end}"] for end in ("lo", "hi"))


def test_an_interval_uses_the_videos_and_students_t_when_they_are_few(on_disk):
    run = load_run(on_disk.folder / "care-200")
    records = [r for r in run.records.values() if r.split == "L2"]
    values, videos = [float(r.score.correct) for r in records], [r.cluster for r in records]
    deff = design_effect(values, videos)
    cell = on_disk.board.row("care-200").accuracy["L2"]
    assert cell.n_clusters == len(set(videos)) == 13
    assert cell.deff == deff
    assert (cell.lo, cell.hi) == wilson_interval(sum(values), len(values), deff=deff, n_clusters=13)
    assert cell.hi - cell.lo > wilson_interval(sum(values), len(values), deff=deff)[1] - cell.lo


def test_a_cell_by_hand():
    cell = Proportion(k=30, n=100, lo=0.2, hi=0.4, deff=4.0, n_clusters=40)
    assert cell.value == 0.3
    assert cell.se == pytest.approx(math.sqrt(0.3 * 0.7 * 4 / 100))
    assert math.isnan(Proportion(0, 0, math.nan, math.nan, 1.0, 0).value)


def test_flags_say_what_a_reader_must_know(on_disk):
    flags = {row.run_id: set(row.flags) - {"FEW VIDEOS"} for row in on_disk.board.rows}
    messy = on_disk.board.row("messy")
    assert flags["base"] == flags["care-200"] == set()
    assert flags["messy"] == {
        f"UNPARSED {100 * messy.unparsed / 160:.1f}%",
        f"TRUNCATED {100 * messy.truncated / 160:.1f}%",
        "DIRTY",
        "CONTAM? 3/160",
    }
    assert flags["best-of-5"] == {"SELECTED 1/5"}
    assert flags["other-judge"] == {"JUDGE≠"}
    assert flags["frames-32"] == {"PROTOCOL≠"}
    assert flags["stopped"] == {"INCOMPLETE 144/160"}
    assert flags["limited"] == {"SUBSET 60/160"}
    failed = on_disk.board.row("some-failed")
    assert flags["some-failed"] == {f"INCOMPLETE {160 - failed.errors}/160", f"ERRORS {failed.errors}"}
    assert "FEW VIDEOS" in on_disk.board.row("base").flags
    assert "FEW VIDEOS" not in on_disk.board.row("only-l3").flags  # 51 videos


def test_a_row_without_verdicts_has_no_consistency_at_all(on_disk):
    row = on_disk.board.row("not-judged")
    assert row.judge_id is None
    assert row.consistency == row.sound == row.quadrants == row.consistency_by_correctness == {}


def test_missing_verdicts_are_flagged_and_not_counted(tmp_path):
    path = write_run(tmp_path, RunSpec("half", bare=0.0), make_benchmark())
    file = path / "verdicts.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:80]))
    row = build_board([path]).rows[0]
    assert "JUDGED 50.0%" in row.flags
    assert row.consistency["L1"].n == 60
    assert row.consistency["L2"].n == 20
    assert row.quadrants["L2"].undecided == 20
    assert "L3" not in row.consistency
    assert row.shares["undecided"]["L2"].k == 20


def test_nothing_secret_and_no_home_folder_is_shown(on_disk):
    shown = on_disk.board.row("base").provenance
    assert shown["command"] == "seedbench-r1 eval --model ~/checkpoints/base"
    assert shown["model"] == "~/checkpoints/base"
    assert shown["machine (hashed)"] == "c0ffee"
    text = shareable("run --api-key abc --hub-token=hf_0123456789 OPENAI_API_KEY=sk-0123456789 /home/ann/x --seed 3")
    assert text == "run --api-key *** --hub-token=*** OPENAI_API_KEY=*** ~/x --seed 3"
    assert shareable("Bearer sk-abcdefghijkl") == "Bearer sk-***"
    assert shareable("8 max_new_tokens 1024") == "8 max_new_tokens 1024"


def test_the_synthetic_runs_are_written_as_the_real_ones_are(tmp_path):
    spec = RunSpec("x", unparsed=0.1, truncated=0.1, failed=0.1)
    path = write_run(tmp_path, spec, make_benchmark())
    run = load_run(path)
    assert (
        "".join(record_line(record, run_identity(run.manifest)) for record in run.records.values())
        == (path / "records.jsonl").read_text()
    )
    lines = [verdict_line(question_id, verdict) for question_id, verdict in load_verdicts(path)[RULES].items()]
    assert "".join(lines) == (path / "verdicts.jsonl").read_text()
