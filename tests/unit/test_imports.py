"""Files as the reference evaluator and lmms-eval write them, with their known accidents."""

import json

import pytest

from seedbench_r1.errors import ConfigError, DataError
from seedbench_r1.runs.directory import load_run
from seedbench_r1.runs.imports import import_files, read_grpo_care, read_lmms_eval
from tests.rows import evaluation_row, write_rows

OUTPUTS = {0: "A", 1: "A.", 2: "B", 3: "(A)", 4: "boil water", 5: "no idea"}


@pytest.fixture
def rows(tmp_path):
    rows = [evaluation_row(i) for i in range(6)]
    write_rows(tmp_path / "annotations" / "validation_L1.jsonl", rows)
    return rows


def entry(row, **changes):
    text = f"<think>r</think><answer>{OUTPUTS[row['sample_id']]}</answer>"
    strict = OUTPUTS[row["sample_id"]] == row["golden_choice_idx"]
    made = {
        "problem_type": "multiple choice",
        "solution": "<answer>A</answer>",
        "output": text,
        "reward": float(strict),
    }
    return row | made | {"prediction": OUTPUTS[row["sample_id"]], "correct": strict} | changes


def write(folder, entries, name="eval_16frames_seed_bench_r1_L1_results.json"):
    path = folder / name
    path.write_text(json.dumps({"results": entries, "final_acc": [{"mean_acc": 0.5}]}))
    return path


def bring_in(tmp_path, *files, source="grpo-care"):
    return import_files(files, tmp_path, tmp_path / "runs", source=source, model_name="theirs")


def test_both_rules_and_the_claims(tmp_path, rows):
    file = read_grpo_care(write(tmp_path, [entry(row) for row in rows]))
    report = bring_in(tmp_path, file)
    level = report.summary.splits["L1"]
    assert (level.correct, level.strict_correct, report.claimed_correct) == (4, 1, 1)  # A, A., (A), the text
    assert report.claim_differs == report.duplicates == []
    assert report.summary.status == "complete"
    run = load_run(report.run_path)
    assert run.manifest.backend == "import:grpo-care"
    assert run.doubts == ()
    assert run.manifest.video.max_frames == 16
    assert run.records["L1/3"].parsed.answer == "A"
    assert run.records["L1/3"].generation.n_tokens is None


def test_a_resumed_file_with_a_dropped_batch(tmp_path, rows):
    """The reference drops a failed batch and, resuming by position, asks other questions again."""
    entries = [entry(row) for row in (rows[0], rows[1], rows[4], rows[5], rows[4], rows[5])]
    entries[4]["output"] = "<answer>C</answer>"
    report = bring_in(tmp_path, read_grpo_care(write(tmp_path, entries)))
    assert report.duplicates == ["L1/4", "L1/5"]
    assert report.gaps == {"L1": ["L1/2", "L1/3"]}
    assert report.summary.status == "incomplete"
    assert load_run(report.run_path).records["L1/4"].parsed.answer == "A"  # the first answer counts


def test_a_claim_that_the_strict_rule_does_not_bear_out(tmp_path, rows):
    entries = [entry(row) for row in rows]
    entries[1]["reward"] = 1.0
    report = bring_in(tmp_path, read_grpo_care(write(tmp_path, entries)))
    assert report.claim_differs == ["L1/1"]


def test_importing_again_replaces_nothing_silently(tmp_path, rows):
    path = write(tmp_path, [entry(row) for row in rows])
    first = bring_in(tmp_path, read_grpo_care(path))
    second = bring_in(tmp_path, read_grpo_care(path))
    assert first.run_path == second.run_path
    assert len(list(second.run_path.glob("old-*/records.jsonl"))) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample_id": 99}, "L1/99 is not in the annotations"),
        ({"choice_a": "something else"}, "options or gold letter of L1/0 differ"),
        ({"golden_choice_idx": "B"}, "options or gold letter of L1/0 differ"),
        ({"output": None}, r"results\[0\]"),
    ],
)
def test_a_file_of_another_data_set_is_refused(tmp_path, rows, changes, message):
    with pytest.raises(DataError, match=message):
        bring_in(tmp_path, read_grpo_care(write(tmp_path, [entry(rows[0], **changes)])))


def test_the_level_must_be_known(tmp_path, rows):
    path = write(tmp_path, [entry(rows[0])], name="results.json")
    with pytest.raises(ConfigError, match="--level"):
        read_grpo_care(path)
    assert read_grpo_care(path, "L1").answers[0].question_id == "L1/0"


@pytest.mark.parametrize(
    "content", ["", '{"results": [', "[]", '{"results": 3}', "\ud800".encode("utf-8", "surrogatepass")]
)
def test_a_damaged_file_is_named(tmp_path, rows, content):
    path = tmp_path / "eval_L1.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=r"eval_L1\.json"):
        read_grpo_care(path)


def test_lmms_eval_samples_of_our_tasks_and_of_others(tmp_path, rows):
    ours = [
        {"doc_id": i, "target": "A", "question_id": f"L1/{i}", "raw_text": f"<answer>{OUTPUTS[i]}</answer>"}
        for i in range(3)
    ]
    theirs = [
        {"doc_id": i, "doc": rows[i], "target": "A", "resps": [[f"<answer>{OUTPUTS[i]}</answer>"]]} for i in range(3, 6)
    ]
    path = tmp_path / "20260101_samples_seedbench_r1_l1.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in ours + theirs))
    report = bring_in(tmp_path, read_lmms_eval(path), source="lmms-eval")
    assert (report.imported, report.summary.splits["L1"].correct) == (6, 4)
    path.write_text('{"doc_id": 0, "doc": {"sample_id": 0}, "resps": []}\n')
    with pytest.raises(DataError, match=r"samples_seedbench_r1_l1\.jsonl:1"):
        read_lmms_eval(path)
