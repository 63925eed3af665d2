"""Runs in other projects' formats: valid by their schemas, with the board's own numbers, nothing private in them."""

import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from huggingface_hub import parse_eval_result_entries
from typer.testing import CliRunner

from leaderboards.exports.common import hub_id, load_exported
from leaderboards.exports.every_eval_ever import Source, every_eval_ever_files, reported_files
from leaderboards.exports.hub_results import hub_files
from leaderboards.exports.lmms_results import lmms_files
from leaderboards.published import load_published
from leaderboards.suites import SUITES
from seedbench_r1.cli.app import app
from seedbench_r1.errors import ConfigError, DataError, IncompleteRun, ResourceError
from seedbench_r1.questions import annotation_path, load_annotations
from seedbench_r1.runs.directory import load_run
from seedbench_r1.runs.imports import ImportTarget, import_files
from seedbench_r1.runs.result_files import ImportedAnswer, ImportedFile, read_lmms_eval
from seedbench_r1.scoring import by_domain
from seedbench_r1.types import LEVELS
from tests.every_eval_ever_schema import AGGREGATE, INSTANCE, originals
from tests.rows import evaluation_row, write_rows
from tests.synthetic_runs import RunSpec, make_benchmark, write_runs

NOW = "2026-02-03T04:05:06Z"
SPECS = [
    RunSpec("whole", ability=0.6, seed=1, step=200, unparsed=0.05, truncated=0.05, bare=0.1),
    RunSpec("judged-by-model", seed=2, judges=("openai:org/big/v1-0a1b2c3d",)),
    RunSpec("not-judged", seed=3, judges=()),
    RunSpec("holes", seed=4, failed=0.05, answered=0.9),
    RunSpec("few", seed=5, limit=10),
    RunSpec("only-l3", seed=6, levels=("L3",)),
]
INCOMPLETE = ("holes", "few")


@pytest.fixture(scope="module")
def benchmark():
    return make_benchmark()


@pytest.fixture(scope="module")
def runs(tmp_path_factory, benchmark):
    paths = write_runs(tmp_path_factory.mktemp("runs"), SPECS, benchmark)
    manifest = json.loads((paths[0] / "manifest.json").read_text(encoding="utf-8"))
    manifest["command"] += " --api-key sk-abcdefghijklmnop"
    (paths[0] / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return {path.name: path for path in paths}


def read(runs, name):
    return load_exported(runs[name], allow_incomplete=True)


def every_eval_ever(exported, tmp_path):
    """(aggregate, samples, relative paths), checked against our writing of the schema and theirs, if it is here."""
    files = every_eval_ever_files(exported, tmp_path, source=Source("us", "first_party"), now_utc=NOW)
    paths = [path.relative_to(tmp_path).as_posix() for path in files]
    first, second = files.values()
    aggregate, samples = json.loads(first), [json.loads(line) for line in second.splitlines()]
    for schemas in filter(None, ((AGGREGATE, INSTANCE), originals())):
        jsonschema.Draft7Validator(schemas[0]).validate(aggregate)
        for sample in samples:
            jsonschema.Draft7Validator(schemas[1]).validate(sample)
    assert aggregate["detailed_evaluation_results"]["checksum"] == hashlib.sha256(second.encode()).hexdigest()
    return aggregate, samples, paths


@pytest.mark.parametrize("name", [spec.name for spec in SPECS])
def test_every_eval_ever_is_valid_and_hangs_together(runs, tmp_path, name):
    exported = read(runs, name)
    aggregate, samples, (first, second) = every_eval_ever(exported, tmp_path)
    detail = aggregate["detailed_evaluation_results"]
    assert detail["file_path"] == second == first.replace(".json", "_samples.jsonl")
    assert detail["total_rows"] == len(samples) == len(exported.measured.run.questions)
    assert {sample["evaluation_id"] for sample in samples} == {aggregate["evaluation_id"]}
    assert {sample["model_id"] for sample in samples} == {aggregate["model_info"]["id"]} == {f"local/{name}"}
    assert first.startswith(f"data/seed-bench-r1/local/{name}/")
    results = {result["evaluation_result_id"]: result for result in aggregate["evaluation_results"]}
    assert len(results) == len(aggregate["evaluation_results"])
    for level in exported.bank.levels:  # the aggregate's score is the mean of its samples
        mine = [s["evaluation"]["score"] for s in samples if s["evaluation_result_id"] == f"{level}/accuracy"]
        assert results[f"{level}/accuracy"]["score_details"]["score"] == pytest.approx(sum(mine) / len(mine), abs=1e-12)
    assert "consistency_rate" not in json.dumps([aggregate, samples])


def test_every_eval_ever_has_the_boards_numbers(runs, tmp_path):
    exported = read(runs, "whole")
    row = exported.row
    aggregate, samples, _ = every_eval_ever(exported, tmp_path)
    results = {result["evaluation_result_id"]: result for result in aggregate["evaluation_results"]}
    assert len(results) == 3 * (3 + 4)
    for name, cells in (
        ("accuracy", row.accuracy),
        ("reasoning_consistency", row.consistency),
        ("sound_accuracy", row.sound),
    ):
        for group, key in (("L1", "L1"), ("Work", "L3/Work")):
            found = results[f"{key}/{name}"]["score_details"]
            interval = found["uncertainty"]["confidence_interval"]
            assert (found["score"], interval["lower"], interval["upper"]) == (
                cells[group].value,
                cells[group].lo,
                cells[group].hi,
            )
            assert "clustered by video" in interval["method"]
            assert found["uncertainty"]["standard_error"]["value"] == cells[group].se
            assert found["uncertainty"]["num_samples"] == cells[group].n
    records, verdicts = exported.measured.run.records, exported.measured.verdicts
    outcomes = set()
    for sample in samples:
        record = records[sample["sample_id"]]
        assert sample["output"]["raw"] == [record.generation.text]
        assert sample["output"]["reasoning_trace"] == [record.parsed.reasoning]
        assert [a["extracted_value"] for a in sample["answer_attribution"]] == (
            [] if record.parsed.answer is None else [record.parsed.answer]
        )
        assert sample["metadata"]["consistent"] == str(verdicts[sample["sample_id"]].consistent).lower()
        outcomes.add(sample["metadata"]["outcome"])
    assert outcomes == {"answered", "unparsed", "truncated"}
    assert {sample["metadata"].get("domain") for sample in samples} >= {None, "Work"}


def test_the_judge_is_told_apart_from_rules(runs, tmp_path):
    found = {}
    for name in ("whole", "judged-by-model", "not-judged"):
        aggregate, _, _ = every_eval_ever(read(runs, name), tmp_path)
        rated = [
            r["metric_config"]
            for r in aggregate["evaluation_results"]
            if r["metric_config"]["metric_name"] != "accuracy"
        ]
        found[name] = rated
    assert found["not-judged"] == []
    assert all("llm_scoring" not in metric for metric in found["whole"])
    assert {m["additional_details"]["judge"] for m in found["whole"]} == {"rules/v1"}
    judges = [metric["llm_scoring"]["judges"][0]["model_info"]["name"] for metric in found["judged-by-model"]]
    assert set(judges) == {"org/big"}


def test_incomplete_runs_are_refused_or_say_so(runs, tmp_path):
    for name, word, counts in (("holes", "INCOMPLETE", "139 of 160"), ("few", "SUBSET", "30 of 160")):
        with pytest.raises(IncompleteRun, match=rf"{word} \({counts}") as caught:
            load_exported(runs[name])
        assert caught.value.exit_code == 5
        exported = read(runs, name)
        aggregate, samples, _ = every_eval_ever(exported, tmp_path)
        assert word in aggregate["source_metadata"]["additional_details"]["caveat"]
        for result in aggregate["evaluation_results"]:
            assert word in result["score_details"]["details"]["caveat"]
        (text,) = hub_files(exported, tmp_path, dataset="org/name").values()
        assert all(word in entry.notes for entry in parse_eval_result_entries(yaml.safe_load(text)))
        assert word in json.loads(next(iter(lmms_files(exported, tmp_path).values())))["seedbench_r1"]["caveat"]
    holes = read(runs, "holes")
    aggregate, samples, _ = every_eval_ever(holes, tmp_path)
    l3 = next(r for r in aggregate["evaluation_results"] if r["evaluation_result_id"] == "L3/accuracy")
    bounds = holes.row.bounds["L3"]
    interval = l3["score_details"]["uncertainty"]["confidence_interval"]
    assert (l3["score_details"]["score"], interval["lower"], interval["upper"]) == (bounds.lo, bounds.lo, bounds.hi)
    assert "confidence_level" not in interval
    errors = [sample["error"] for sample in samples if "error" in sample]
    assert len(errors) == 160 - holes.row.answered
    assert {error.partition(":")[0] for error in errors} == {"media_error", "not answered"}


def test_nothing_private_leaves_the_house(runs, tmp_path):
    exported = read(runs, "whole")
    files = every_eval_ever_files(exported, tmp_path, source=Source(), now_utc=NOW)
    files |= hub_files(exported, tmp_path, dataset="org/name") | lmms_files(exported, tmp_path)
    text = "\n".join(files.values())
    assert "~/checkpoints/whole" in text
    assert not re.search(r"/home/|/root/|sk-abc", text)


def test_exporting_again_replaces(runs, tmp_path):
    exported = read(runs, "whole")
    options = {"source": Source(), "model_id": "org/name"}
    first = every_eval_ever_files(exported, tmp_path, now_utc=NOW, **options)
    later = every_eval_ever_files(exported, tmp_path, now_utc="2027-01-01T00:00:00Z", **options)
    assert list(first) == list(later)
    assert list(first.values()) != list(later.values())
    others = [every_eval_ever_files(read(runs, n), tmp_path, now_utc=NOW, **options) for n in ("few", "not-judged")]
    assert len({path for files in (first, *others) for path in files}) == 6


def test_the_papers_rows_are_documentation(tmp_path):
    rows = load_published(SUITES["seedbench-r1"])
    files = reported_files(rows, tmp_path, now_utc=NOW)
    assert len(files) == sum(bool(row.accuracy) for row in rows)
    logs = [json.loads(text) for text in files.values()]
    for schemas in filter(None, ((AGGREGATE, INSTANCE), originals())):
        for log in logs:
            jsonschema.Draft7Validator(schemas[0]).validate(log)
    assert {log["source_metadata"]["source_type"] for log in logs} == {"documentation"}
    by_id = {log["model_info"]["id"]: log for log in logs}
    care = {r["evaluation_result_id"]: r for r in by_id["reported/care-t2-care"]["evaluation_results"]}
    assert care["L3/accuracy"]["score_details"]["score"] == 53.4
    assert care["L3/accuracy"]["metric_config"]["metric_unit"] == "percent"
    impossible = {r["evaluation_result_id"]: r for r in by_id["reported/sbr1-vanilla"]["evaluation_results"]}
    details = impossible["L3/Hobbies/accuracy"]["score_details"]
    assert details["details"]["printed"] == "32.30"
    assert "no count of 295" in details["details"]["impossible"]
    assert "uncertainty" not in details


def test_hub_yaml_is_what_the_hub_reads(runs, tmp_path):
    exported = read(runs, "whole")
    with pytest.raises(ConfigError, match="--dataset"):
        hub_files(exported, tmp_path)
    ((path, text),) = hub_files(exported, tmp_path, dataset="org/name", source_url="u").items()
    assert path.relative_to(tmp_path).as_posix() == "whole/.eval_results/seedbench-r1--5afd59b6.yaml"
    entries = parse_eval_result_entries(yaml.safe_load(text))
    assert [entry.task_id for entry in entries] == ["l1", "l2", "l3"]
    for entry, level in zip(entries, ("L1", "L2", "L3"), strict=True):
        cell = exported.row.accuracy[level]
        assert entry.value == round(100 * cell.value, 2)
        assert f"95 % CI {100 * cell.lo:.1f}-{100 * cell.hi:.1f}" in entry.notes
        assert f"reasoning_consistency {100 * exported.row.consistency[level].value:.1f}" in entry.notes
        assert (entry.dataset_id, entry.source_url, entry.date) == ("org/name", "u", "2026-01-01T01:00:00Z")
        assert entry.verify_token is None


def test_the_real_size_needs_no_other_name(tmp_path):
    sizes = {"L1": 2432, "L2": 923, "L3": 1321}
    (path,) = write_runs(tmp_path, [RunSpec("full", reasoning_chars=20)], make_benchmark(sizes))
    ((_, text),) = hub_files(load_exported(path), tmp_path).items()
    assert {e.dataset_id for e in parse_eval_result_entries(yaml.safe_load(text))} == {"TencentARC/SEED-Bench-R1"}


def annotations(folder, benchmark):
    """The benchmark as annotation files, so that an import has its questions."""
    for level in ("L1", "L2", "L3"):
        rows = []
        for question in benchmark.questions:
            if question["split"] == level:
                letters = dict(zip(("choice_a", "choice_b", "choice_c", "choice_d"), question["options"], strict=True))
                number = int(question["question_id"].partition("/")[2])
                made = {"golden_choice_idx": question["gold"], "video_id": question["cluster"]}
                if question["domain"] is not None:
                    made["domain"] = question["domain"]
                rows.append(evaluation_row(number, **letters, **made))
        write_rows(folder / "annotations" / f"validation_{level}.jsonl", rows)


@pytest.mark.parametrize("model", ["..", "../..", ".", "/", "..\\.."])
def test_no_model_name_leads_out_of_the_folder(runs, tmp_path, model):
    copy = shutil.copytree(next(iter(runs.values())), tmp_path / "run")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["model"] |= {"name": model, "path": model}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    exported = load_exported(copy, allow_incomplete=True)
    out = tmp_path / "out"
    own = every_eval_ever_files(exported, out, source=Source("us", "first_party"), now_utc=NOW)
    made = [*lmms_files(exported, out), *hub_files(exported, out, dataset="o/n"), *own]
    for path in made:
        assert Path(os.path.normpath(path)).is_relative_to(out)
        assert ".." not in path.parts


@pytest.mark.parametrize("name", ["whole", "holes"])
def test_lmms_eval_round_trip(runs, benchmark, tmp_path, name):
    """What `import lmms-eval` reads of an export scores as the run did, question by question."""
    exported = read(runs, name)
    files = lmms_files(exported, tmp_path / "out")
    assert [path.name for path in files] == [
        "20260101_010000_results.json",
        *(f"20260101_010000_samples_seedbench_r1_l{i}.jsonl" for i in (1, 2, 3)),
    ]
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    annotations(tmp_path, benchmark)
    read_back = [read_lmms_eval(path) for path in files if path.suffix == ".jsonl"]
    paths = {level: annotation_path(tmp_path, level) for level in LEVELS}
    splits = {level: load_annotations(path, tmp_path, level) for level, path in paths.items()}
    target = ImportTarget("seedbench-r1", splits, paths, by_domain)
    report = import_files(read_back, target, tmp_path / "runs", source="lmms-eval", model_name=name)
    before, after = exported.measured.run.records, load_run(report.run_path).records
    answered = {question_id: record for question_id, record in before.items() if record.answered}
    assert after.keys() == answered.keys()
    for question_id, record in answered.items():
        score = after[question_id].score
        assert (score.correct, score.strict_correct) == (record.score.correct, record.score.strict_correct)
        assert after[question_id].parsed == record.parsed
    assert sum(map(len, report.gaps.values())) == 160 - len(answered)
    results = json.loads(next(iter(files.values())))
    for level, group in report.summary.splits.items():
        task = f"seedbench_r1_{level.lower()}"
        assert results["results"][task]["accuracy,none"] == pytest.approx(group.correct / group.n)
        assert results["n-samples"][task] == {"original": group.n, "effective": group.answered}
        assert results["results"][task]["format_kept,none"] == pytest.approx(group.format_ok / group.n)
    rated = results["results"]["seedbench_r1_l3"].get("reasoning_consistency,none")
    assert rated == (exported.row.consistency["L3"].value if name == "whole" else None)
    assert not any("consistency_rate" in text for text in files.values())


def test_which_model_ids_are_the_hubs(runs, tmp_path, monkeypatch):
    from dataclasses import replace

    manifest = replace(read(runs, "whole").manifest, backend="transformers")
    untrained = replace(manifest.model, algorithm=None, path="Qwen/Qwen2.5-VL-7B-Instruct@main")
    assert hub_id(replace(manifest, model=untrained)) == "Qwen/Qwen2.5-VL-7B-Instruct"
    assert hub_id(replace(manifest, model=replace(untrained, algorithm="care"))) is None
    assert hub_id(replace(manifest, model=replace(untrained, path="/data/ckpt"))) is None
    assert hub_id(replace(manifest, model=untrained, backend="openai")) is None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Qwen" / "Qwen2.5-VL-7B-Instruct").mkdir(parents=True)
    assert hub_id(replace(manifest, model=untrained)) is None


def test_a_directory_that_is_no_run(tmp_path):
    with pytest.raises(DataError, match="is empty"):
        load_exported(tmp_path)


def command(*words, limit=None):
    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    script = "import sys; from seedbench_r1.cli.app import main; sys.argv[0] = 'seedbench-r1'; main()"
    return subprocess.run(
        [sys.executable, "-c", script, "export", *map(str, words)],
        capture_output=True,
        text=True,
        preexec_fn=small_files if limit else None,
    )


def refusal(error, *words):
    """What the command says before it writes anything, without a process of its own."""
    result = CliRunner().invoke(app, ["export", *map(str, words)])
    assert isinstance(result.exception, error), result.exception
    return str(result.exception)


def test_the_command(runs, tmp_path):
    done = command("every-eval-ever", runs["whole"], runs["only-l3"], "--out", tmp_path / "new" / "out", "--json")
    assert done.returncode == 0, done.stderr
    written = json.loads(done.stdout)["written"]
    assert len(written) == 4
    assert not any("reported" in path for path in written)
    found = sorted(path for path in (tmp_path / "new").rglob("*") if path.is_file())
    assert [str(path) for path in found] == sorted(written)  # and nothing half-written next to them
    assert IncompleteRun.exit_code == 5
    said = refusal(IncompleteRun, "lmms-eval", runs["whole"], runs["holes"], "--out", tmp_path / "none")
    assert "--allow-incomplete" in said
    assert not (tmp_path / "none").exists()


def test_two_runs_never_share_a_file(runs, tmp_path):
    twin = tmp_path / "twin"
    twin.mkdir()
    for file in runs["whole"].iterdir():
        (twin / file.name).write_bytes(file.read_bytes())
    assert ConfigError.exit_code == 3
    out = ("--out", tmp_path / "out")
    assert "would both be written to" in refusal(ConfigError, "lmms-eval", runs["whole"], twin, *out)
    assert "one by one" in refusal(ConfigError, "every-eval-ever", runs["whole"], twin, *out, "--model-id", "org/name")
    assert not (tmp_path / "out").exists()


def test_a_disk_that_takes_nothing(runs, tmp_path):
    (tmp_path / "file").write_text("in the way")
    out = tmp_path / "file" / "out"
    assert "--out" in refusal(ResourceError, "hub", runs["whole"], "--dataset", "org/name", "--out", out)
    done = command("every-eval-ever", runs["whole"], "--out", tmp_path / "small", limit=30_000)
    assert done.returncode == 7, done.stderr
    assert "cannot be written" in done.stderr
    left = [path.name for path in (tmp_path / "small").rglob("*") if path.is_file()]
    assert not any(name.endswith((".tmp", ".jsonl")) for name in left)


def test_an_import_is_not_exported_with_settings_that_nobody_knows(runs, benchmark, tmp_path):
    path = tmp_path / "p_L1.jsonl"
    path.write_text('{"question_id": "L1/0", "response": "A"}\n')
    annotations(tmp_path, benchmark)
    file = annotation_path(tmp_path, "L1")
    target = ImportTarget("seedbench-r1", {"L1": load_annotations(file, tmp_path, "L1")}, {"L1": file}, by_domain)
    answer = ImportedAnswer(target.splits["L1"][0].question_id, "A", "here")
    report = import_files([ImportedFile(path, (answer,))], target, tmp_path / "runs", source="x", model_name="m")
    with pytest.raises(DataError, match="was imported: its settings are unknown"):
        load_exported(report.run_path, allow_incomplete=True)
