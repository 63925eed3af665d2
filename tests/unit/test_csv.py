"""The CSV files: their columns are an API, their numbers are the board's."""

import csv
import io
import json
import math
import re

import pytest

from leaderboards.board import build_board
from leaderboards.draw.csv import (
    LONG_COLUMNS,
    WIDE_COLUMNS,
    percent,
    safe_text,
    write_long_csv,
    write_wide_csv,
)
from leaderboards.draw.predictions import PREDICTION_COLUMNS, write_predictions_csv
from leaderboards.methods import methods, write_meta
from seedbench_r1.runs.directory import load_run
from seedbench_r1.types import DOMAINS
from tests.boards import GOLDEN, long_board
from tests.synthetic_runs import RunSpec, make_benchmark, write_run

ACCURACY = "{0}_acc,{0}_acc_lo,{0}_acc_hi,{0}_n"
# The promised order, written out: new columns go last.
DIFFERENCE = "d_{0},d_{0}_lo,d_{0}_hi,p_{0},p_{0}_holm,d_{0}_min,d_{0}_max,d_{0}_n"
WIDE = ",".join(
    [
        "run_id,model,base_model,algo,step,source,protocol_id,status,coverage,frames",
        *(ACCURACY.format(c) for c in ["l1", "l2", "l3", "l3_daily", "l3_hobbies", "l3_recreation", "l3_work"]),
        "l1_cons,l1_cons_lo,l1_cons_hi,l2_cons,l2_cons_lo,l2_cons_hi,l3_cons,l3_cons_lo,l3_cons_hi,l3_sound",
        "gap_l1_l3,gap_lo,gap_hi,rank_lo,rank_hi,tier,baseline,d_l3,d_l3_lo,d_l3_hi,p_l3,p_l3_holm",
        "unparsed,truncated,errors,judge,judge_prompt_sha,model_sha,dataset_rev,prompt_sha,commit,date_utc",
        "selected_from_k,flags",
        "l1_sound,l2_sound,l1_cons_min,l1_cons_max,l2_cons_min,l2_cons_max,l3_cons_min,l3_cons_max",
        *(DIFFERENCE.format(f"{level}_{measure}") for measure in ("cons", "sound") for level in ("l1", "l2", "l3")),
        "samples",
        *(f"{level}_acc_min,{level}_acc_max,{level}_acc_sd,{level}_maj,{level}_pass" for level in ("l1", "l2", "l3")),
    ]
)
LONG = (
    "run_id,level,domain,metric,value,lo,hi,se,n,n_clusters,deff,ci_method,"
    "baseline,diff,diff_lo,diff_hi,p,p_adj,test,source,diff_min,diff_max,diff_n"
)
PREDICTIONS = "run_id,sample_id,level,domain,video_id,gold,pred,correct,consistent,status,n_tokens,seed"


def read(path):
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")), strict=True))


def test_the_order_of_columns_is_the_promised_one():
    assert ",".join(WIDE_COLUMNS) == WIDE
    assert ",".join(LONG_COLUMNS) == LONG
    assert ",".join(PREDICTION_COLUMNS) == PREDICTIONS


def test_the_tables_are_the_golden_ones(on_disk, tmp_path):
    write_wide_csv(on_disk.board, tmp_path / "leaderboard.csv")
    write_long_csv(long_board(on_disk.folder), tmp_path / "leaderboard_long.csv")
    for name in ("leaderboard.csv", "leaderboard_long.csv"):
        assert lines_of(tmp_path / name) == lines_of(GOLDEN / name), "meant? then: python -m tests.boards"


def lines_of(path):
    """A CSV file's lines, numbers to 10 digits: the last ones are the processor's."""
    text = path.read_text(encoding="utf-8")
    return re.sub(r"(?<![\w.])-?\d+\.\d{11,}(e-?\d+)?(?!\w)", lambda found: f"{float(found[0]):.10g}", text).split("\n")


def test_a_wide_row_holds_the_boards_numbers(on_disk, tmp_path):
    write_wide_csv(on_disk.board, tmp_path / "w.csv")
    rows = {row["run_id"]: row for row in read(tmp_path / "w.csv")}
    assert list(rows) == [row.run_id for row in on_disk.board.rows]
    line, row = rows["care-200"], on_disk.board.row("care-200")
    run = load_run(on_disk.folder / "care-200")
    right = sum(r.score.correct for r in run.records.values() if r.split == "L3")
    assert line["l3_acc"] == f"{100 * right / 60:.2f}"
    assert (line["l3_n"], line["tier"], line["rank_lo"], line["step"]) == ("60", "A", "1", "200")
    assert line["d_l3"] == f"{100 * row.deltas['L3'].value:.2f}"
    assert line["p_l3"] == "0.0001"
    assert (line["judge"], line["judge_prompt_sha"]) == ("rules/v1", "v1")
    assert (rows["other-judge"]["judge"], rows["other-judge"]["judge_prompt_sha"]) == (
        "openai:big/v1-0a1b2c3d",
        "v1-0a1b2c3d",
    )


def test_no_number_is_invented(on_disk, tmp_path):
    write_wide_csv(on_disk.board, tmp_path / "w.csv")
    rows = {row["run_id"]: row for row in read(tmp_path / "w.csv")}
    consistency = [column for column in WIDE_COLUMNS if "_cons" in column] + ["l3_sound", "judge"]
    assert {rows["not-judged"][column] for column in consistency} == {""}
    stopped = rows["stopped"]
    assert {stopped[c] for c in ("l3_acc", "l3_acc_lo", "l3_acc_hi", "l3_n", "gap_l1_l3", "rank_lo", "tier")} == {""}
    assert stopped["coverage"] == "90.00"
    assert rows["base"]["d_l3"] == rows["base"]["p_l3"] == ""
    assert rows["only-l3"]["l1_acc"] == ""


def test_reported_rows_appear_only_when_asked_for_and_as_printed(on_disk, tmp_path):
    write_wide_csv(on_disk.board, tmp_path / "w.csv")
    assert {row["source"] for row in read(tmp_path / "w.csv")} == {"measured"}
    write_wide_csv(on_disk.board, tmp_path / "w.csv", include_reported=True)
    reported = {row["run_id"]: row for row in read(tmp_path / "w.csv") if row["source"] == "reported"}
    care = reported["care-t2-care"]
    assert (care["l1_acc"], care["l3_acc"], care["l3_acc_lo"], care["rank_lo"], care["p_l3"]) == (
        *("57.0", "53.4"),
        *("", "", ""),
    )
    write_long_csv(on_disk.board, tmp_path / "l.csv", include_reported=True)
    long = [row for row in read(tmp_path / "l.csv") if row["run_id"] == "care-t2-care"]
    assert {row["value"] for row in long if row["level"] == "L1"} == {"57.0%"}


def test_long_values_are_exact_fractions(on_disk, tmp_path):
    write_long_csv(on_disk.board, tmp_path / "l.csv")
    lines = read(tmp_path / "l.csv")
    seen = {(row["run_id"], row["level"], row["domain"], row["metric"], row["ci_method"]) for row in lines}
    assert len(seen) == len(lines), "each number once"
    domains = dict.fromkeys(DOMAINS, 0)
    for line in lines:
        if line["run_id"] == "messy" and line["metric"] == "accuracy" and "wilson" in line["ci_method"]:
            group = line["level"] if line["domain"] == "all" else line["domain"]
            cell = on_disk.board.row("messy").accuracy[group]
            assert float(line["value"]) == cell.value == cell.k / cell.n
            assert float(line["lo"]) == cell.lo
            domains |= {group: cell.n} if group in domains else {}
    assert sum(domains.values()) == 60
    unparsed = {line["level"]: line for line in lines if (line["run_id"], line["metric"]) == ("messy", "unparsed")}
    assert float(unparsed["L1"]["value"]) > 0
    bounds = [line for line in lines if line["run_id"] == "stopped" and "missing" in line["ci_method"]]
    assert bounds
    assert {line["value"] for line in bounds} == {""}
    metrics = {line["metric"] for line in lines}
    assert {"accuracy", "reasoning_consistency", "sound_accuracy", "unparsed", "accuracy_gap"} <= metrics
    assert "consistency_rate" not in metrics


def test_predictions_are_the_records(on_disk, tmp_path):
    write_predictions_csv(on_disk.board, tmp_path / "p.csv")
    lines = {(row["run_id"], f"{row['level']}/{row['sample_id']}"): row for row in read(tmp_path / "p.csv")}
    assert len(lines) == 11 * 160 + 60 + 60  # all questions of each run, the unanswered too
    for name in ("messy", "some-failed", "stopped"):
        run = load_run(on_disk.folder / name)
        for question_id, question in run.questions.items():
            line, record = lines[name, question_id], run.records.get(question_id)
            assert line["gold"] == question.gold
            if record is None:
                assert (line["status"], line["correct"], line["pred"]) == ("unanswered", "", "")
            elif record.failure is not None:
                assert (line["status"], line["correct"], line["pred"]) == ("failed", "", "")
            else:
                assert line["pred"] == (record.parsed.answer or "")
                assert line["correct"] == str(int(record.score.correct))
                assert line["status"] == record.score.outcome
                assert line["n_tokens"] == str(record.generation.n_tokens)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", '=HYPERLINK("x","y")'])
def test_a_spreadsheet_takes_no_name_for_a_formula(text, tmp_path):
    assert safe_text(text) == f"'{text}"
    path = write_run(tmp_path, RunSpec("x"), make_benchmark({"L3": 20}))
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["model"] |= {"name": text, "base_model": text, "algorithm": text}
    (path / "manifest.json").write_text(json.dumps(manifest))
    write_wide_csv(build_board([path]), tmp_path / "w.csv")
    (row,) = read(tmp_path / "w.csv")
    assert row["model"] == row["base_model"] == row["algo"] == f"'{text}"


@pytest.mark.parametrize("text", ["a\rb", "a\r\nb", "a\u2028b"])
def test_no_name_splits_a_row(text, tmp_path):
    """A reader that knows no quotation marks, or only CR as a line's end, sees one line for each run."""
    path = write_run(tmp_path, RunSpec("x"), make_benchmark({"L3": 20}))
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["model"] |= {"name": text}
    manifest["versions"] = {"commit": f"=HYPERLINK({text})"}
    (path / "manifest.json").write_text(json.dumps(manifest))
    write_wide_csv(build_board([path]), tmp_path / "w.csv")
    assert len((tmp_path / "w.csv").read_bytes().decode().splitlines()) == 2
    (row,) = read(tmp_path / "w.csv")
    assert row["model"] == "a b"
    assert row["commit"] == "'=HYPERLINK(a b)"


def test_numbers_as_text():
    assert [percent(x) for x in (0.5703, 0.0, 1.0, math.nan)] == ["57.03", "0.00", "100.00", ""]
    assert safe_text("a-b") == "a-b"


def test_the_meta_file_says_how_and_what(on_disk, tmp_path):
    write_meta(
        on_disk.board,
        tmp_path / "m.json",
        command="seedbench-r1 leaderboard build /home/ann/runs/a --judge rules",
        built_utc="2026-01-02T00:00:00Z",
        files=["leaderboard.csv"],
    )
    meta = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))
    assert meta["file_schemas"]["leaderboard.csv"] == "sbr1.leaderboard-wide/1"
    assert meta["command"] == "seedbench-r1 leaderboard build ~/runs/a --judge rules"
    assert meta["counts"] == {"measured": 13, "ranked": 9, "incomplete": 2, "reported": len(on_disk.board.published)}
    assert meta["questions"] == {"L1": 60, "L2": 40, "L3": 60}
    assert meta["methods"] == methods(on_disk.board)
    text = " ".join(meta["methods"])
    assert "clustered by source video" in text
    assert "rules/v1" in text
    assert "Baseline base" in text
