"""Files as the reference evaluator and lmms-eval write them, with their known accidents."""

import json

import pytest

from leaderboards.board import build_board
from seedbench_r1.errors import ConfigError, DataError
from seedbench_r1.questions import load_annotations
from seedbench_r1.runs.directory import load_run
from seedbench_r1.runs.imports import ImportTarget, import_files
from seedbench_r1.runs.records import manifest_from_json, run_identity
from seedbench_r1.runs.result_files import read_grpo_care, read_lmms_eval, read_predictions, read_seed_bench_r1
from seedbench_r1.scoring import by_domain, by_kind
from seedbench_r1.suites.transfer import load_transfer_file
from tests.rows import evaluation_row, write_rows
from tests.synthetic_runs import RunSpec, make_benchmark, write_runs

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
    path = tmp_path / "annotations" / "validation_L1.jsonl"
    target = ImportTarget("seedbench-r1", {"L1": load_annotations(path, tmp_path, "L1")}, {"L1": path}, by_domain)
    return import_files(files, target, tmp_path / "runs", source=source, model_name="theirs")


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
    manifest = run.manifest
    assert (manifest.settings, manifest.video, manifest.seed, manifest.dtype) == (None, None, None, "unknown")
    assert manifest.protocol == "imported:grpo-care, 16 frames"  # all that the file's name says
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


def test_lines_of_the_benchmark_s_own_infer_script(tmp_path, rows):
    lines = [
        {
            "sample_id": i,
            "prompt": [],
            "problem": "p",
            "solution": "<answer>A.</answer>",
            "response": f"<think>r</think><answer>{OUTPUTS[i]}</answer>",
            "reward": float(OUTPUTS[i] == "A"),
        }
        for i in range(6)
    ]
    path = write_rows(tmp_path / "eval_results_for_validation_L1.jsonl", lines)
    report = bring_in(tmp_path, read_seed_bench_r1(path), source="seed-bench-r1")
    assert (report.imported, report.summary.splits["L1"].correct, report.claimed_correct) == (6, 4, 1)
    assert report.claim_differs == []
    other = write_rows(tmp_path / "b_L1.jsonl", [lines[0] | {"solution": "<answer>C.</answer>"}])
    with pytest.raises(DataError, match="options or gold letter of L1/0 differ"):
        bring_in(tmp_path, read_seed_bench_r1(other))
    with pytest.raises(DataError, match=r"b_L1\.jsonl:1: expected an object with sample_id and response"):
        read_seed_bench_r1(write_rows(tmp_path / "b_L1.jsonl", [{"sample_id": 1}]))


LONG = '"<think>a, ""quoted""\nline</think><answer>A</answer>"'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.csv", f"question_id,response,extra\nL1/0,{LONG},x\nL1/2,B,\n"),
        ("p.csv", f"\ufefflevel,id,response\r\nL1,0,{LONG}\r\nL1,2,B\r\n"),
        ("p.csv", f"sample_id,response\n0,{LONG}\n2,B\n"),
        ("p.jsonl", '{"question_id": "L1/0", "response": "A"}\n{"question_id": "L1/2", "response": "B"}\n'),
        ("p.jsonl", '{"level": "L1", "id": 0, "response": "A"}\n{"id": "2", "response": "B"}\n'),
        ("p.json", '[{"question_id": "L1/0", "response": "A"}, {"question_id": "L1/2", "response": "B"}]'),
    ],
)
def test_plain_predictions(tmp_path, rows, name, content):
    (tmp_path / name).write_text(content, newline="")
    report = bring_in(tmp_path, read_predictions(tmp_path / name, "L1"), source="predictions")
    assert (report.imported, report.summary.splits["L1"].correct) == (2, 1)
    assert report.gaps == {"L1": ["L1/1", "L1/3", "L1/4", "L1/5"]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", "id,response\n0,A\n", r"p\.csv:2: expected question_id, or level and id. Fix: --level"),
        ("p.csv", "question_id,answer\nL1/0,A\n", None),  # no column `response`: an empty answer, not a made-up one
        ("p.csv", 'question_id,response\nL1/0,"A\n', r"p\.csv:\d: not valid CSV"),
        ("p.jsonl", '{"question_id": "L1/0", "response": 3}\n', r"p\.jsonl:1: response is 3, expected a text"),
        ("p.jsonl", '{"question_id": "L1/77", "response": "A"}\n', "L1/77 is not in the annotations"),
    ],
)
def test_predictions_that_cannot_be_used(tmp_path, rows, name, content, message):
    (tmp_path / name).write_text(content)
    if message is None:
        message = r"p\.csv:2: response is None, expected a text"
    with pytest.raises(DataError, match=message):
        bring_in(tmp_path, read_predictions(tmp_path / name), source="predictions")


def test_a_general_benchmark_of_grpo_care(tmp_path):
    rows = [
        {
            "problem_id": i,
            "problem": f"How many cups? {i // 2}",
            "data_type": "video",
            "problem_type": kind,
            "options": ["A. one", "B. two"] if kind == "multiple choice" else [],
            "solution": f"<answer>{gold}</answer>",
            "path": f"./Evaluation/MMVU/{i // 2}.mp4",
        }
        for i, (kind, gold) in enumerate(
            [("multiple choice", "A"), ("multiple choice", "A"), ("multiple choice", "B"), ("free-form", "two")]
        )
    ]
    file = tmp_path / "eval_mmvu.json"
    file.write_text(json.dumps(rows))
    done = [row | {"output": f"<answer>{'AB'[i % 2]}</answer>", "reward": float(i == 0)} for i, row in enumerate(rows)]
    path = write(tmp_path, done, name="eval_32frames_mmvu_results.json")
    target = ImportTarget("transfer", {"mmvu": load_transfer_file(file, tmp_path, "mmvu")}, {"mmvu": file}, by_kind)
    report = import_files([read_grpo_care(path)], target, tmp_path / "runs", source="grpo-care", model_name="m")
    # Two questions share text and clip, and are taken in their order; MMVU's other kinds are not asked.
    run = load_run(report.run_path)
    assert [(r.question_id, r.parsed.answer) for r in run.records.values()] == [
        ("mmvu/0", "A"),
        ("mmvu/1", "B"),
        ("mmvu/2", "A"),
    ]
    assert (report.summary.status, report.claim_differs, run.manifest.suite) == ("complete", [], "transfer")
    assert run.manifest.protocol == "imported:grpo-care, 32 frames"


def test_an_import_of_an_earlier_version_has_no_settings_either(tmp_path, rows):
    report = bring_in(tmp_path, read_grpo_care(write(tmp_path, [entry(row) for row in rows])))
    path = report.run_path / "manifest.json"
    manifest = json.loads(path.read_text())
    invented = {"video": {"fps": 2.0, "max_frames": 16}, "sampling": {"temperature": 0.1}}
    path.write_text(json.dumps(manifest | invented | {"template": {"with_video": "{question}"}}))
    run = load_run(report.run_path)
    assert (run.manifest.settings, run.manifest.video, run.doubts) == (None, None, ())


@pytest.mark.parametrize("forced", [False, True])
def test_an_import_is_never_ranked_against_what_was_measured(tmp_path, forced):
    names = ("m1", "m2", "i1", "i2", "i3")  # more imports than measured runs
    specs = [RunSpec(name, seed=seed) for seed, name in enumerate(names)]
    paths = write_runs(tmp_path, specs, make_benchmark({"L1": 40}))
    for path in paths[2:]:
        file = path / "manifest.json"
        unknown = {"protocol": "imported:lmms-eval", "protocol_id": "1234abcd"}
        unknown |= dict.fromkeys(("template", "video", "sampling", "seed"))
        before = json.loads(file.read_text())
        file.write_text(json.dumps(before | unknown))
        # Answers and verdicts carry the identity of their run.
        old, new = (run_identity(manifest_from_json(value)) for value in (before, before | unknown))
        for lines in path.glob("*.jsonl"):
            lines.write_text(lines.read_text().replace(old, new))
    board = build_board(paths, metric="l1.accuracy", force_mixed=forced)
    assert {row.run_id for row in board.rows} == set(names)
    ranked = {row.run_id for row in board.rows if row.rank_lo is not None}
    assert ranked == {"m1", "m2"}
    assert {row.run_id for row in board.rows if "SETTINGS UNKNOWN" in row.flags} == {"i1", "i2", "i3"}
    assert any("Imports, whose settings are unknown, are not." in text for text in board.warnings) == forced
    # Among themselves, and with one of them as the baseline, they are compared.
    assert sum(row.rank_lo is not None for row in build_board(paths[2:], metric="l1.accuracy").rows) == 3
    by_import = build_board(paths, metric="l1.accuracy", baseline="i1")
    assert {row.run_id for row in by_import.rows if row.rank_lo is not None} == {"i1", "i2", "i3"}
