"""Probes end to end, on a shipped checkpoint and real clips: results, resumption, kills, and what is refused."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess

import pytest

from leaderboards.probed import probe_agreement, probe_difference, probe_rate
from leaderboards.stats import interval, paired_interval
from seedbench_r1.conclusions import settled_option
from seedbench_r1.demo.dataset_writer import write_benchmark
from seedbench_r1.demo.models import shipped_model
from seedbench_r1.demo.settings import write_settings
from seedbench_r1.runs.directory import load_run, read_manifest
from seedbench_r1.runs.probes import KINDS, ProbeResult, load_probes
from seedbench_r1.runs.records import run_identity
from seedbench_r1.types import Verdict
from tests.api_server import ApiServer, ok
from tests.command import RUN, cli
from tests.waiting import wait_until

QUIET = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the miniature's settings and data, and a run of a shipped checkpoint on 12 questions."""
    home = tmp_path_factory.mktemp("probes")
    write_benchmark(home / "data", seed=0, questions={"L1": 6, "L2": 4, "L3": 4}, frame_size=(56, 56))
    write_settings(home / "data")
    words = ("--config", "data/miniature.toml", "--data-root", "data", "--device", "cpu", "--quiet")
    done = cli("eval", "--model", shipped_model("sft"), *words, "--run-name", "sft", cwd=home, **QUIET)
    assert done.returncode == 0, done.stderr
    return home


@pytest.fixture
def run(home, tmp_path):
    """A copy of the run, whose media stay where they are."""
    shutil.copytree(home / "runs" / "sft", tmp_path / "sft")
    return tmp_path / "sft"


def probe(home, run, *words, **environment):
    return cli("probe", run, "--device", "cpu", *words, cwd=home, **QUIET, **environment)


@pytest.fixture(scope="module")
def probed(home, tmp_path_factory):
    """All five, once."""
    run = tmp_path_factory.mktemp("probed") / "sft"
    shutil.copytree(home / "runs" / "sft", run)
    done = probe(home, run, "--rollouts", "2")
    assert done.returncode == 0, done.stderr
    return run, done


def by_kind(run):
    return {probe_id.partition("/")[0]: results for probe_id, results in load_probes(run).items()}


def test_every_answer_with_reasoning_has_one_result_of_each_probe(probed):
    path, done = probed
    run, results = load_run(path), by_kind(path)
    reasoned = {i for i, record in run.records.items() if record.parsed.reasoning and record.parsed.answer}
    assert reasoned
    assert results.keys() == KINDS.keys()
    for of_probe in results.values():
        assert of_probe.keys() == reasoned
        for question_id, result in of_probe.items():
            assert result.before == run.records[question_id].parsed.answer
            assert result.after in run.questions[question_id].letters
            assert 0 <= result.p_before <= result.p_after <= 1
            assert result.p_after >= 1 / 4
            assert (result.after == result.before) == (result.p_after == result.p_before)
    assert all(name in done.stdout for name in KINDS)
    assert max(map(len, done.stdout.splitlines())) <= 80 + len(str(path))


def test_what_is_changed_is_what_is_said(probed):
    path, _ = probed
    run, results = load_run(path), by_kind(path)
    for question_id, result in results["shuffle"].items():
        letters = run.questions[question_id].letters
        assert sorted(result.changed) == list(letters)
        assert all(a != b for a, b in zip(result.changed, letters, strict=True))
    for question_id, result in results["swapped"].items():
        options = run.questions[question_id].options
        assert settled_option(result.changed, options) == result.target != result.before
        assert result.note == "rewritten" or result.note.startswith("rollout ")
    assert len({line["k"] for line in lines(path / "probe_rollouts.jsonl")}) == 2


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_second_call_asks_nothing(probed, home):
    path, _ = probed
    before = (path / "probes.jsonl").read_bytes()
    done = probe(home, path, "--rollouts", "2")
    assert done.returncode == 0
    assert (path / "probes.jsonl").read_bytes() == before


def test_killed_and_continued_it_gives_the_same(probed, home, run):
    """SIGKILL once some results are on disk; then the same command to the end."""
    command = [*RUN, "probe", str(run), "--device", "cpu", "--rollouts", "2", "--batch-size", "1"]
    process = subprocess.Popen(command, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    file = run / "probes.jsonl"
    wait_until(lambda: file.exists() and file.read_text().count("\n") >= 5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    kept = file.read_bytes().rpartition(b"\n")[0]
    assert probe(home, run, "--rollouts", "2").returncode == 0
    assert file.read_bytes().startswith(kept)
    # Nothing is asked twice.
    assert len(lines(file)) == len(lines(probed[0] / "probes.jsonl"))
    whole, again = by_kind(probed[0]), by_kind(run)
    for name, results in whole.items():
        assert again[name].keys() == results.keys()
        for question_id, result in results.items():
            assert again[name][question_id].after == result.after
            assert again[name][question_id].changed == result.changed
            assert again[name][question_id].p_after == pytest.approx(result.p_after, abs=1e-3)


def test_a_stop_keeps_what_was_found(probed, home, run):
    command = [*RUN, "probe", str(run), "--device", "cpu", "--rollouts", "2", "--batch-size", "1"]
    process = subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    file = run / "probes.jsonl"
    wait_until(lambda: file.exists() and file.stat().st_size > 0)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "run it again" in err
    assert 1 <= len(lines(file)) < len(lines(probed[0] / "probes.jsonl"))


def test_under_another_model_has_an_id_of_its_own(home, run):
    other = shipped_model("care")
    assert probe(home, run, "--probes", "forced").returncode == 0
    assert probe(home, run, "--probes", "forced", "--under", other).returncode == 0
    own, under = sorted(load_probes(run))
    assert own == "forced/v1"
    assert under.startswith("forced/v1/under:care-")
    results = load_probes(run)
    assert results[own].keys() == results[under].keys()
    assert any(abs(results[own][i].p_before - results[under][i].p_before) > 0.01 for i in results[own])


def test_a_model_that_has_changed_is_refused_before_it_is_loaded(home, run):
    done = probe(home, run, "--model", shipped_model("care"))
    assert done.returncode == 3
    assert "is not the one that answered" in done.stderr
    assert not (run / "probes.jsonl").exists()


def test_media_that_are_gone_are_named(run, tmp_path):
    questions = (run / "questions.jsonl").read_text()
    (run / "questions.jsonl").write_text(questions.replace('"video":"/', '"video":"/nowhere/'))
    done = cli("probe", run, cwd=tmp_path, **QUIET)
    assert done.returncode == 4
    assert "media files" in done.stderr
    assert "/nowhere/" in done.stderr
    # Without media it works.
    assert cli("probe", run, "--device", "cpu", "--probes", "text-match", cwd=tmp_path, **QUIET).returncode == 0


def test_a_damaged_clip_costs_its_own_results_and_the_call_says_so(home, run):
    question = next(q for q in load_run(run).questions.values() if q.video is not None)
    clip, sound = home / question.video, (home / question.video).read_bytes()
    try:
        clip.write_bytes(sound[: len(sound) // 3])
        done = probe(home, run, "--probes", "forced,silent")
        assert done.returncode == 5
        assert "asked again" in done.stderr
        failed = [i for results in by_kind(run).values() for i, r in results.items() if not r.settled]
        assert set(failed) == {i for i, q in load_run(run).questions.items() if q.video == question.video} & set(
            by_kind(run)["forced"]
        )
    finally:
        clip.write_bytes(sound)
    assert probe(home, run, "--probes", "forced,silent").returncode == 0
    assert all(r.settled for results in by_kind(run).values() for r in results.values())


def edit_manifest(run, **changes):
    """A run of which something else is true; its lines follow, since they carry its identity."""
    file = run / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    identity = run_identity(read_manifest(run))
    records = run / "records.jsonl"
    records.write_text("".join(json.dumps(line | {"run": identity}) + "\n" for line in lines(records)))


@pytest.mark.parametrize(
    ("changes", "words", "code", "said"),
    [
        ({"protocol": "imported:grpo-care"}, (), 4, "was imported"),
        ({"backend": "openai"}, (), 3, "cannot continue a prefix"),
        ({"suite": "transfer"}, (), 3, "answers the suite transfer"),
        ({}, ("--probes", "forced,nope"), 3, "no probe ['nope']"),
        ({}, ("--probes", "silent", "--under", "x"), 3, "--under belongs to probe forced"),
        ({}, ("--probes", "forced", "--rollouts", "3"), 3, "--rollouts belongs to probe swapped"),
        ({}, ("--text-model", "gpt"), 3, "No text model 'gpt'"),
        ({}, ("--backend", "transformers", "--tensor-parallel", "2"), 3, "--tensor-parallel belongs to"),
        ({}, ("--backend", "openai:x"), 3, "out of range: one of transformers, vllm"),
    ],
)
def test_what_cannot_be_probed_is_refused_by_name(home, run, changes, words, code, said):
    edit_manifest(run, **changes)
    done = cli("probe", run, *words, cwd=home, **QUIET)
    assert done.returncode == code, done.stderr
    assert said in done.stderr


def test_without_reasoning_there_is_no_rate(home, run):
    file = run / "records.jsonl"
    records = lines(file)
    for record in records:
        record["generation"]["text"] = f"<answer>{record['parsed']['answer']}</answer>"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    edit_manifest(run, parser_version=1)
    done = probe(home, run, "--probes", "forced,silent")
    assert done.returncode == 0, done.stderr
    assert "no reasoning: none of 14 answers can be probed" in done.stdout
    assert "0.0 [" not in done.stdout


def test_a_folder_that_cannot_be_written_is_named(home, run):
    (run / "probes.jsonl").mkdir()
    done = probe(home, run, "--probes", "forced")
    assert done.returncode == 7
    assert "probes.jsonl" in done.stderr
    assert "bug" not in done.stderr


def test_two_runs_are_compared_on_what_both_have(probed, home, tmp_path):
    path, _ = probed
    other = shutil.copytree(path, tmp_path / "other")
    kept = [line for line in lines(other / "probes.jsonl") if not line["question_id"].endswith("0")]
    for line in kept[::2]:
        line["after"] = "B" if line["after"] != "B" else "C"
    (other / "probes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    runs = load_run(path), load_run(other)
    ours, theirs = (load_probes(run.path)["silent/v1"] for run in runs)
    ids = [i for i in runs[0].questions if i in theirs]
    gold = {i: runs[0].questions[i].gold for i in ids}
    differences = [float(ours[i].after == gold[i]) - float(theirs[i].after == gold[i]) for i in ids]
    videos = [runs[0].questions[i].cluster for i in ids]
    found = probe_difference((runs[0], ours), (runs[1], theirs), "silent/v1")
    expected = paired_interval(differences, videos)
    assert (found.value, found.n) == (pytest.approx(expected.mean), len(ids))
    assert found.p is None  # on fewer than 95 % of the answers that can be probed
    done = cli("probe", other, path, "--probes", "silent", "--device", "cpu", cwd=home, **QUIET)
    assert "against other" in done.stdout


def test_a_rate_counts_what_it_says(probed):
    path, _ = probed
    run, results = load_run(path), load_probes(path)
    for probe_id, of_probe in results.items():
        rate = probe_rate(run, probe_id, of_probe)
        name = probe_id.partition("/")[0]
        hits = [
            {
                "silent": r.after == run.questions[i].gold,
                "swapped": r.after == r.target,
            }.get(name, r.after == r.before)
            for i, r in sorted(of_probe.items())
        ]
        expected = interval(hits, [run.questions[i].cluster for i in sorted(of_probe)])
        assert (rate.overall.k, rate.overall.n) == (expected.k, expected.n)
        assert rate.overall.lo == pytest.approx(expected.lo)
        assert rate.chance == 0.25
        assert sum(value.n for level, value in rate.levels.items() if level != "all") == rate.overall.n


def test_agreement_is_the_mean_of_both_shares(probed):
    path, _ = probed
    run, results = load_run(path), load_probes(path)["forced/v1"]
    ids = sorted(results)
    # By hand: three of the first four, which are consistent, are supported, and two of the next five, which are not.
    stays = (True, True, True, False, True, True, False, False, False)
    made = {i: ProbeResult("forced/v1", "A", "A" if stay else "B") for i, stay in zip(ids, stays, strict=False)}
    verdicts = {i: Verdict(place < 4, "", "j") for place, i in enumerate(ids)}
    found = probe_agreement(run, "forced/v1", made, verdicts)
    assert (found.n_consistent, found.n_inconsistent) == (4, 5)
    assert (found.sensitivity, found.specificity) == (3 / 4, 3 / 5)
    assert found.balanced_accuracy == pytest.approx((3 / 4 + 3 / 5) / 2)
    assert math.isnan(probe_agreement(run, "forced/v1", made, {}).balanced_accuracy)


def test_a_text_model_behind_a_server_is_asked_with_texts_alone(home, run):
    letters = iter("ABCD" * 20)

    def react(number, body):
        prompts.append(body["messages"])
        return ok(next(letters) if len(prompts) % 5 else "none")

    prompts = []
    with ApiServer(react) as server:
        words = ("--probes", "text-match", "--text-model", "openai:reader", "--text-base-url", server.url)
        done = cli("probe", run, *words, cwd=home, **QUIET, OPENAI_API_KEY="none")
    assert done.returncode == 0, done.stderr
    (probe_id,) = load_probes(run)
    assert probe_id.startswith("text-match/v1/by:openai:reader-")
    results = load_probes(run)[probe_id]
    assert len(prompts) == len(results)
    assert {result.note for result in results.values()} == {"", "no option"}
    assert all((result.after is None) == (result.note == "no option") for result in results.values())
    for messages in prompts:
        assert "data:" not in json.dumps(messages)
        assert "Thoughts:" in json.dumps(messages)
    # Both words count: none is no agreement.
    assert probe_rate(load_run(run), probe_id, results).overall.n == len(results)


def test_an_import_can_be_asked_by_a_text_model_alone(home, run):
    edit_manifest(run, protocol="imported:x", template=None, video=None, sampling=None)
    with ApiServer(lambda number, body: ok("A")) as server:
        words = ("--probes", "text-match", "--text-model", "openai:reader", "--text-base-url", server.url)
        done = cli("probe", run, *words, cwd=home, **QUIET, OPENAI_API_KEY="none")
    assert done.returncode == 0, done.stderr
    assert load_probes(run)


def test_a_server_that_is_gone_costs_nothing_that_was_found(home, run):
    assert probe(home, run, "--probes", "forced").returncode == 0
    kept = (run / "probes.jsonl").read_bytes()
    words = ("--probes", "text-match", "--text-model", "openai:reader", "--text-base-url", "http://127.0.0.1:9/v1")
    done = cli("probe", run, *words, cwd=home, **QUIET, OPENAI_API_KEY="none")
    assert done.returncode == 5
    assert "bug" not in done.stderr
    assert (run / "probes.jsonl").read_bytes().startswith(kept)


def test_a_line_of_another_run_or_question_is_damage_with_its_place(probed, home, tmp_path):
    for number, change in enumerate(({"question_id": "L9/zzz"}, {"run": "0" * 12})):
        run = shutil.copytree(probed[0], tmp_path / str(number))
        first, *rest = lines(run / "probes.jsonl")
        (run / "probes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [first | change, *rest]))
        done = probe(home, run, "--rollouts", "2")
        assert done.returncode == 4
        assert "probes.jsonl:1: not a valid line" in done.stderr
        built = cli("leaderboard", "build", run, "-o", tmp_path / "l.html", cwd=home)
        assert "probes.jsonl:1" in built.stderr
        assert "bug" not in built.stderr


def test_against_takes_this_runs_verdicts_alone(probed, home, tmp_path):
    run = shutil.copytree(probed[0], tmp_path / "run")
    assert cli("judge", run, "--judge", "miniature", cwd=home).returncode == 0
    done = probe(home, run, "--rollouts", "2", "--against", "miniature/v1")
    assert done.returncode == 0
    assert "against miniature/v1" in done.stdout
    assert "has no verdicts of that judge" in probe(home, run, "--rollouts", "2", "--against", "other").stderr
    verdicts = (run / "verdicts.jsonl").read_text()
    identity = json.loads(verdicts.splitlines()[0])["run"]
    (run / "verdicts.jsonl").write_text(verdicts.replace(identity, "0" * 12))
    assert probe(home, run, "--rollouts", "2", "--against", "miniature/v1").returncode == 4


def test_exchanged_reasoning_is_compared_where_it_has_the_same_source(probed):
    """A rewritten conclusion and a rollout's reasoning are two interventions."""
    run = load_run(probed[0])
    ids = list(load_probes(probed[0])["forced/v1"])
    ours = {i: ProbeResult("swapped/v1/x", "A", "B", target="B", note=f"rollout {n}") for n, i in enumerate(ids)}
    theirs = {
        i: ProbeResult(
            "swapped/v1/x", "A", "B" if n % 3 else "C", target="B", note="rewritten" if n % 2 else "rollout 0"
        )
        for n, i in enumerate(ids)
    }
    found = probe_difference((run, ours), (run, theirs), "swapped/v1/x")
    same = [n for n in range(len(ids)) if n % 2 == 0]
    assert found.n == len(same)
    assert found.value == pytest.approx(sum(n % 3 == 0 for n in same) / len(same))
    rate = probe_rate(run, "swapped/v1/x", theirs)
    assert {name: value.n for name, value in rate.sources.items()} == {
        "rollout": len(same),
        "rewritten": len(ids) - len(same),
    }
