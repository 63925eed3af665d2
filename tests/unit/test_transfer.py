"""The transfer suite: files in Video-R1's format, real clips, the scripted backend, and the command line."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path

import pytest

from leaderboards.loading import load_runs
from seedbench_r1.backends import open_backend
from seedbench_r1.backends.fake import FakeBackend
from seedbench_r1.demo.tiny_model import write_tiny_checkpoint
from seedbench_r1.engines.plan import plan
from seedbench_r1.errors import ConfigError, DataError
from seedbench_r1.kinds import SCORER_VERSION
from seedbench_r1.prompts import WORDING_OF_KIND, build_messages, build_prompt, load_template
from seedbench_r1.protocol import protocol_id
from seedbench_r1.runs.directory import load_run
from seedbench_r1.suites import resolve, transfer
from seedbench_r1.suites.transfer import BENCHMARKS, DEFAULT_TEMPLATE, load_transfer_file, parse_benchmarks
from seedbench_r1.types import Failure, SamplingConfig
from tests.command import cli, cli_forked
from tests.evaluation import evaluate
from tests.forked import COMMANDS
from tests.media import truncate
from tests.small_transfer import CLIP, IMAGE, choice_row, default_files, row_of, write_transfer
from tests.waiting import wait_for_records

pytestmark = pytest.mark.usefixtures("shared_decoders")

SAID = {  # question -> what the scripted model says
    "vsibench/0": "B",
    "vsibench/1": "B",
    "vsibench/2": "10",
    "vsibench/3": "2.5 meters",
    "vsibench/4": "75",
    "videommmu/0": "J",
    "mmvu/0": "B.",
    "mmvu/2": "neither",
    "mvbench/0": "C",
    "mvbench/1": "4.0",
    "tempcompass/0": "red cat",
    "videomme/0": "A",
    "videomme/1": "EXIT",
}
OURS = {  # by hand: sums of credits and numbers of questions
    "vsibench": (1 + 0 + 1 + 1 + 0.5, 5),
    "videommmu": (1, 1),
    "mmvu": (1, 2),
    "mvbench": (2, 2),
    "tempcompass": ((0.8 + 2 / 3 + 0.8) / 3, 1),
    "videomme": (1.5, 2),
}
REFERENCE = {"vsibench": 1 + 1 + 0.5, "videommmu": 1, "mmvu": 0, "mvbench": 1, "tempcompass": 0, "videomme": 1}


def response(content: str) -> str:
    return f"<think>looked at it</think><answer>{content}</answer>"


def script(path: Path, seconds: float = 0.0) -> Path:
    answers = {question: response(content) for question, content in SAID.items()}
    path.write_text(json.dumps({"answers": answers, "seconds": seconds}), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def transfer_root(tmp_path_factory) -> Path:
    return write_transfer(tmp_path_factory.mktemp("transfer"))


def configure(root: Path, folder: Path, **options):
    file = folder / "script.json"
    if not file.exists():
        script(file)
    given = {"model": str(file), "backend": "fake", "data_root": root, "runs_dir": folder / "runs", **options}
    return resolve({"suite": "transfer", **given}, environ={}, working_dir=folder)


def run(config, answer=None):
    backend = FakeBackend.from_file(Path(config.model)) if answer is None else FakeBackend(answer)
    return evaluate(plan(config), lambda _: backend)


def every_question(root, folder):
    """benchmark -> its questions, as a run reads them."""
    return transfer.load(configure(root, folder)).splits


# ---- files


def test_rows_become_questions(transfer_root, tmp_path):
    every = every_question(transfer_root, tmp_path)
    assert list(every) == list(BENCHMARKS)
    ten = every["videommmu"][0]
    assert (ten.question_id, ten.gold, ten.letters) == ("videommmu/0", "J", "ABCDEFGHIJ")
    assert ten.options == tuple("0123456789"), "letters are not part of the texts"
    assert ten.video == transfer_root / CLIP
    assert (ten.image, ten.source.row_id, ten.source.origin) == (None, "7", "small")
    assert (ten.cluster, ten.kind) == (CLIP.removeprefix("./"), "choice")
    image = every["videomme"][1]
    assert (image.video, image.image, image.options) == (None, transfer_root / IMAGE, ())
    assert [q.question_id for q in every["mmvu"]] == ["mmvu/0", "mmvu/2"], "multiple choice only, places kept"


def test_the_data_root_may_be_the_evaluation_folder_itself(transfer_root):
    (question,) = load_transfer_file(
        transfer_root / "Evaluation" / "eval_tempcompass.json", transfer_root / "Evaluation", "tempcompass"
    )
    assert question.video == transfer_root / "Evaluation" / "clips" / "a.mp4"


def test_absolute_paths_are_taken_as_they_are(tmp_path):
    root = write_transfer(tmp_path / "root", {"mmvu": [choice_row("A", path="/elsewhere/clips/1.mp4")]})
    (question,) = load_transfer_file(root / "Evaluation" / "eval_mmvu.json", root, "mmvu")
    assert (str(question.video), question.cluster) == ("/elsewhere/clips/1.mp4", "/elsewhere/clips/1.mp4")
    row = choice_row("A", path="/elsewhere/../../1.mp4")
    write_transfer(root, {"mmvu": [row]})
    with pytest.raises(DataError, match="expected one inside the data root"):
        load_transfer_file(root / "Evaluation" / "eval_mmvu.json", root, "mmvu")


def test_options_without_letters_and_other_brackets(tmp_path):
    rows = [
        choice_row("B", options=["yes", "no"], path="x.mp4"),
        choice_row("B", options=["(A) yes", "(B) no: B. is it"], path="x.mp4"),
        choice_row("A", options=["A.", "B: x"], path="x.mp4"),
    ]
    (tmp_path / "f.json").write_text(json.dumps(rows))
    loaded = load_transfer_file(tmp_path / "f.json", tmp_path, "mvbench")
    assert [q.options for q in loaded] == [("yes", "no"), ("yes", "no: B. is it"), ("", "x")]
    assert loaded[0].video == tmp_path / "x.mp4"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("text", "expected a JSON object, found str"),
        (choice_row(problem_type="essay"), "problem_type is 'essay', expected 'multiple choice' or"),
        (choice_row(data_type="audio"), "data_type is 'audio'"),
        (choice_row(problem=" "), "problem is ' '"),
        (choice_row(path="/abs/../a.mp4"), "path is '/abs/../a.mp4'"),
        (choice_row(path="./Evaluation/../../a.mp4"), "expected one inside the data root"),
        (choice_row(path=None), "path is None"),
        (choice_row(options=None), "options is None"),
        (choice_row(options=["A. x"]), "options holds 1 texts"),
        (choice_row(options=["A. x", 3]), "expected a list of texts"),
        (choice_row(options=["A. x", "C. y"]), "options have the letters 'AC', expected 'AB'"),
        (choice_row(options=["A. x", "y"]), "options have the letters 'A-'"),
        (choice_row("D"), "expected a letter from A to C"),
        (choice_row("b"), "expected a letter from A to C"),
        (choice_row(solution="B"), "solution is 'B', expected '<answer>"),
        (choice_row(solution="<answer> </answer>"), "expected '<answer>"),
        (row_of("regression", "many"), "expected a number"),
        (row_of("numerical", "3 or 4"), "expected a number"),
    ],
)
def test_an_invalid_row_is_named_with_file_and_index(tmp_path, row, message):
    path = tmp_path / "eval_mvbench.json"
    path.write_text(json.dumps([choice_row(), row]))
    with pytest.raises(DataError) as error:
        load_transfer_file(path, tmp_path, "mvbench")
    assert str(error.value).startswith(f"{path}: index 1: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[{", "not valid JSON"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"\xff\xfe", "not UTF-8 text"),
        (b'{"results": []}', "problem_type is None"),
        (b"[]", "holds no questions of MVBench"),
    ],
)
def test_an_invalid_file_is_named(tmp_path, content, message):
    path = tmp_path / "eval_mvbench.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        load_transfer_file(path, tmp_path, "mvbench")
    assert str(path) in str(error.value)


def test_an_absent_file_says_what_to_type(transfer_root, tmp_path):
    with pytest.raises(DataError, match=r"eval_vsibench\.json\. Fix: --transfer-files DIR.*--benchmarks"):
        transfer.load(configure(transfer_root, tmp_path, transfer_files=tmp_path))


def test_benchmarks_by_either_name():
    assert parse_benchmarks("videomme, VSI-Bench") == ("vsibench", "videomme")
    for wrong in ("", ",", "vsi", "mmvu,L1"):
        with pytest.raises(ConfigError, match="--benchmarks"):
            parse_benchmarks(wrong)


# ---- prompt and protocol


def test_the_prompt_shows_the_medium_then_the_question(transfer_root, tmp_path):
    every = every_question(transfer_root, tmp_path)
    (message,) = build_messages(every["vsibench"][0], DEFAULT_TEMPLATE)
    video, text = message["content"]
    assert (video, text["type"]) == ({"type": "video"}, "text")
    assert text["text"].startswith("What happens first?\n\nA. rain\nB. sun\nC. snow\n\n")
    (message,) = build_messages(every["videomme"][1], DEFAULT_TEMPLATE)
    assert message["content"][0] == {"type": "image"}
    assert "the image shows" in message["content"][1]["text"]
    for group in every.values():
        for question in group:
            prompt = build_prompt(question, DEFAULT_TEMPLATE)
            assert "{" not in prompt
            assert all(tag in prompt for tag in ("<think>", "</think>", "<answer>", "</answer>"))
            assert ("A. " in prompt) == bool(question.options)


def test_a_prompt_file_replaces_the_wording_and_the_protocol(transfer_root, tmp_path):
    kinds = ("numerical", "OCR", "free-form", "regression")
    lines = [
        '"multiple choice" = "{question} {options} {medium} {x}"',
        *(f'"{kind}" = "Q: {{question}}"' for kind in kinds),
    ]
    file = tmp_path / "prompt.toml"
    file.write_text("\n".join(lines))
    own = configure(transfer_root, tmp_path, prompt_file=file)
    assert own.protocol == "custom"
    question = every_question(transfer_root, tmp_path)["vsibench"][0]
    assert (
        build_prompt(question, load_template(file, DEFAULT_TEMPLATE))
        == "What happens first? A. rain\nB. sun\nC. snow video {x}"
    )
    ids = {plan(config).manifest.protocol_id for config in (own, configure(transfer_root, tmp_path))}
    assert len(ids) == 2
    for damaged in (lines[1:], [*lines, 'extra = "x"'], ['"multiple choice" = "{question}"', *lines[1:]], ["x ="]):
        file.write_text("\n".join(damaged))
        with pytest.raises(ConfigError, match=r"prompt\.toml"):
            load_template(file, DEFAULT_TEMPLATE)


def test_the_protocol_is_the_papers(transfer_root, tmp_path):
    config = configure(transfer_root, tmp_path)
    assert config.protocol == "transfer"
    assert (config.video.max_frames, config.video.min_pixels, config.video.max_pixels) == (32, 128 * 28 * 28, 105_369)
    assert config.sampling == SamplingConfig(temperature=0.1, top_p=0.001, max_new_tokens=1024)
    planned = plan(config)
    assert planned.path.name == f"fake-script--transfer-{planned.manifest.protocol_id}"
    parts = (config.template, config.video, config.sampling)
    assert planned.manifest.protocol_id == protocol_id(*parts, scorer=1) != protocol_id(*parts)
    assert planned.manifest.versions["scorer"] == str(SCORER_VERSION)
    fewer = configure(transfer_root, tmp_path, max_frames=16)
    assert (fewer.protocol, fewer.video.max_frames) == ("custom", 16)
    with pytest.raises(ConfigError, match=r"No protocol 'greedy'\. There are: transfer\."):
        configure(transfer_root, tmp_path, protocol="greedy")
    assert planned.manifest.n_total["vsibench"] == {"all": 5, "choice": 2, "regression": 3}
    assert planned.manifest.n_total["mmvu"] == {"all": 2, "choice": 2}


def test_the_examples_in_the_docs_are_valid(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "transfer.md").read_text(encoding="utf-8")
    (tmp_path / "prompt.toml").write_text(re.search(r"```toml\n(.*?)```", text, re.DOTALL).group(1))
    assert set(load_template(tmp_path / "prompt.toml", DEFAULT_TEMPLATE).wording) == set(WORDING_OF_KIND.values())
    row = json.loads(re.search(r"```json\n(.*?)```", text, re.DOTALL).group(1))
    (tmp_path / "eval.json").write_text(json.dumps([row]))
    (question,) = load_transfer_file(tmp_path / "eval.json", tmp_path, "vsibench")
    assert (question.kind, question.gold) == ("regression", "4")


# ---- runs


def check_summary(path: Path) -> None:
    summary = json.loads((path / "summary.json").read_text())
    assert summary["status"] == "complete"
    for name, (credit, n) in OURS.items():
        group = summary["splits"][name]
        assert (group["n"], group["answered"]) == (n, n)
        assert group["correct"] == pytest.approx(credit, abs=1e-12)
        assert group["strict_correct"] == pytest.approx(REFERENCE[name], abs=1e-12)
    kinds = summary["groups"]["vsibench"]
    assert (kinds["choice"]["correct"], kinds["choice"]["n"]) == (1, 2)
    assert (kinds["regression"]["correct"], kinds["regression"]["n"]) == (2.5, 3)
    assert summary["splits"]["mmvu"]["unparsed"] == 1


def test_a_run_is_scored_by_both_rules_and_survives_the_disk(transfer_root, tmp_path):
    requests = []

    def answer(request, _):
        requests.append(request)
        return response(SAID[request.question_id])

    config = configure(transfer_root, tmp_path)
    result = run(config, answer)
    assert (result.summary.status, result.unanswered) == ("complete", 0)
    path = plan(config).path
    check_summary(path)
    for request in requests:
        is_image = request.question_id == "videomme/1"
        assert (request.image is None, request.frames is None) == (not is_image, is_image)
        assert (request.image if is_image else request.frames).dtype == "uint8"
    loaded = load_run(path)
    every = every_question(transfer_root, tmp_path)
    assert list(loaded.questions.values()) == [q for group in every.values() for q in group]
    assert loaded.manifest.template == DEFAULT_TEMPLATE
    assert loaded.manifest.completed_utc is not None
    assert loaded.records["vsibench/4"].score.credit == 0.5
    assert loaded.records["videomme/1"].reader is None
    runs, left_out = load_runs([path], None)  # what a leaderboard reads
    assert (list(runs), left_out) == ([path.name], [])


def test_a_real_model_takes_clips_alone_and_images_alone_also_from_the_frame_cache(transfer_root, tmp_path):
    small = {"max_pixels": 3136, "min_pixels": 784, "image_max_pixels": 3136, "image_min_pixels": 784}
    options = {"model": str(write_tiny_checkpoint(tmp_path / "model")), "backend": "transformers", "device": "cpu"}
    said = []
    for name in ("decoded", "cached"):
        config = configure(
            transfer_root,
            tmp_path,
            **options,
            **small,
            max_frames=4,
            benchmarks="mvbench,videomme",
            max_new_tokens=8,
            run_name=name,
            frame_cache=tmp_path / "cache",
        )
        planned = plan(config)
        assert evaluate(planned, open_backend).summary.status == "complete"
        said.append({i: r.generation.text for i, r in load_run(planned.path).records.items()})
    assert said[0] == said[1]
    assert set(said[0]) == {"mvbench/0", "mvbench/1", "videomme/0", "videomme/1"}
    events = [json.loads(line) for line in (planned.path / "events.jsonl").read_text().splitlines()]
    (counts,) = (event for event in events if event["event"] == "frame_cache")
    assert counts["read"] == 4


def test_a_long_clip_shows_32_frames(tmp_path):
    from tests.media import make_clip

    root = write_transfer(tmp_path / "data", {"mvbench": [choice_row()]})
    make_clip(root / CLIP, n_frames=400, fps=20)
    seen = []
    run(
        configure(root, tmp_path, benchmarks="mvbench"),
        lambda request, _: (seen.append(request), response("A"))[1],
    )
    assert len(seen[0].frames) == 32
    assert seen[0].frame_indices[0] == 0
    assert seen[0].frame_indices[-1] == 399


def test_a_bad_clip_fails_alone_and_heals(tmp_path):
    files = {"mvbench": [choice_row(), choice_row(path="./Evaluation/clips/bad.mp4")]}
    root = write_transfer(tmp_path / "data", files)
    bad = truncate(root / CLIP, root / "Evaluation/clips/bad.mp4", 0.5)
    config = configure(root, tmp_path, benchmarks="mvbench")
    answer = lambda request, _: response("A")  # noqa: E731
    result = run(config, answer)
    assert (result.summary.status, result.failed, result.summary.pending) == ("incomplete", 1, 1)
    assert result.summary.splits["mvbench"].is_complete is False
    path = plan(config).path
    record = load_run(path).records["mvbench/1"]
    assert record.failure.kind == "media_error"
    assert str(bad) in record.failure.message
    bad.write_bytes((root / CLIP).read_bytes())
    asked = []
    result = run(config, lambda r, _: (asked.append(r.question_id), response("A"))[1])
    assert (asked, result.summary.status) == (["mvbench/1"], "complete")


def test_a_failing_backend_leaves_the_run_incomplete(transfer_root, tmp_path):
    poison = lambda r, _: Failure("backend_error", "x") if r.question_id == "mmvu/2" else response("A")  # noqa: E731
    result = run(configure(transfer_root, tmp_path), poison)
    assert (result.summary.status, result.unanswered) == ("incomplete", 1)
    assert result.summary.splits["mmvu"].failed == 1


def test_benchmarks_one_after_the_other_are_one_run(transfer_root, tmp_path):
    for names in ("tempcompass,vsibench", "videommmu,mmvu,mvbench,videomme"):
        run(configure(transfer_root, tmp_path, benchmarks=names))
    check_summary(plan(configure(transfer_root, tmp_path)).path)


def test_shards_and_subsets(transfer_root, tmp_path):
    subset = run(configure(transfer_root, tmp_path, limit=6))
    assert subset.summary.status == "subset"
    assert sum(group.answered for group in subset.summary.splits.values()) == 6
    for i in (1, 2):
        run(configure(transfer_root, tmp_path, shard=(i, 2)))
    check_summary(plan(configure(transfer_root, tmp_path)).path)


def test_absent_media_and_edited_files_are_refused(tmp_path):
    root = write_transfer(tmp_path / "data")
    config = configure(root, tmp_path)
    run(config)
    file = root / "Evaluation" / "eval_mmvu.json"
    file.write_text(file.read_text() + "\n")
    with pytest.raises(ConfigError, match="dataset_hash"):
        run(config)
    (root / IMAGE).unlink()
    with pytest.raises(
        DataError, match=r"1 media files missing.*videomme: 1.*docs/transfer\.md.*--benchmarks vsibench,"
    ):
        plan(config)


# ---- command line


def command(root: Path, folder: Path, **extra: float) -> list[object]:
    model = script(folder / "script.json", **extra)
    return ["eval", "--suite", "transfer", "--backend", "fake", "--model", model, "--data-root", root]


def test_the_command_line_prints_table_4(transfer_root, tmp_path):
    done = cli(*command(transfer_root, tmp_path), cwd=tmp_path, COLUMNS="50")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["VSI-Bench", "VideoMMMU", "MMVU", "MVBench", "TempCompass", "VideoMME"]
    assert lines[1].split() == ["score", "%", "70.0", "100.0", "50.0", "100.0", "75.6", "75.0"]
    assert lines[2].split() == ["reference", "rule", "%", "50.0", "100.0", "0.0", "50.0", "0.0", "50.0"]
    assert lines[3].split() == ["questions", "5", "1", "2", "2", "1", "2"]
    assert " VSI-Bench: choice 50.0 (n 2), regression (MRA) 83.3 (n 3), all questions 70.0, mean of types 66.7" in lines
    (path,) = (tmp_path / "runs").iterdir()
    assert path.name.startswith("fake-script--transfer-")
    again = cli(*command(transfer_root, tmp_path), "--json", cwd=tmp_path)
    value = json.loads(again.stdout)
    assert (value["schema"], value["status"], value["exit_code"]) == ("sbr1.transfer-eval/1", "complete", 0)
    assert value["benchmarks"]["vsibench"]["mean"] == 0.7
    shown = cli("show", path, "--question", "vsibench/4", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "gold      100" in shown.stdout
    assert "credit 0.5" in shown.stdout
    assert "<- gold answered" in cli("show", path, "--question", "videommmu/0", cwd=tmp_path).stdout


def test_a_bad_clip_exits_5_and_show_says_why(tmp_path):
    root = write_transfer(tmp_path / "data", {"mmvu": [choice_row(), choice_row(path="./Evaluation/clips/bad.mp4")]})
    (root / "Evaluation/clips/bad.mp4").write_bytes(b"no video")
    done = cli(*command(root, tmp_path), "--benchmarks", "mmvu", cwd=tmp_path, COLUMNS="160")
    assert done.returncode == 5
    assert "INCOMPLETE" in done.stdout
    assert "50.0" not in done.stdout.splitlines()[1].split()
    (path,) = (tmp_path / "runs").iterdir()
    failed = cli("show", path, "--failed", cwd=tmp_path)
    assert "mmvu/1  media_error" in failed.stdout
    assert "bad.mp4" in failed.stdout


def test_resume_after_a_kill_and_a_signal_equals_an_undisturbed_run(transfer_root, tmp_path):
    arguments = [*command(transfer_root, tmp_path, seconds=0.25), "--quiet"]
    for number, wanted in ((signal.SIGKILL, 2), (signal.SIGINT, 6)):
        process = COMMANDS.popen(arguments, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for_records(tmp_path / "runs", wanted)
        process.send_signal(number)
        assert process.wait(timeout=120) == (-9 if number == signal.SIGKILL else 130)
    (path,) = (tmp_path / "runs").iterdir()
    assert 6 <= len(load_run(path).records) < len(SAID)
    done = cli(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    check_summary(path)
    asked = [json.loads(line)["question_id"] for line in (path / "records.jsonl").read_text().splitlines()]
    assert sorted(asked) == sorted(SAID), "every question once"


def test_two_processes_at_once_are_one_run(transfer_root, tmp_path):
    done = cli_forked(*command(transfer_root, tmp_path), "--data-parallel", "2", "--workers", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "runs").iterdir()
    check_summary(path)
    assert {file.name for file in path.glob("records.*.jsonl")} == {f"records.{i}-of-2.jsonl" for i in (0, 1, 2)}


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--benchmarks", "vsi"], 3, "--benchmarks 'vsi' is not understood"),
        (["--levels", "L1"], 3, "--levels belongs to --suite seedbench-r1"),
        (["--engine", "lmms-eval"], 3, "--suite transfer does not run on --engine lmms-eval"),
        (["--protocol", "greedy"], 3, "No protocol 'greedy'"),
        (["--suite", "seedbench-r1", "--benchmarks", "mmvu"], 3, "--benchmarks belongs to --suite transfer"),
        (["--suite", "transfers"], 3, "No suite 'transfers'"),
        (["--transfer-files", "nowhere"], 4, "eval_vsibench.json"),
    ],
)
def test_what_cannot_work_is_said_before_anything_runs(transfer_root, tmp_path, options, code, message):
    done = cli(*command(transfer_root, tmp_path), *options, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert not (tmp_path / "runs").exists()


def test_dry_run_shows_a_prompt_of_each_type(transfer_root, tmp_path):
    done = cli(*command(transfer_root, tmp_path), "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    types = {row["problem_type"] for rows in default_files().values() for row in rows}
    assert all(f"({transfer.KIND_OF[kind]}):" in done.stdout for kind in types)
    value = json.loads(cli(*command(transfer_root, tmp_path), "--dry-run", "--json", cwd=tmp_path).stdout)
    assert (value["asked"], value["missing_files"]) == (13, 0)
    assert not (tmp_path / "runs").exists()


def test_the_suite_named_by_its_default_name_is_the_benchmark(data_root, tmp_path):
    model = script(tmp_path / "script.json")
    arguments = ["eval", "--backend", "fake", "--model", model, "--data-root", data_root, "--limit", 3, "--json"]
    done = cli(*arguments, "--suite", "seedbench-r1", cwd=tmp_path)
    assert json.loads(done.stdout)["schema"] == "sbr1.eval/1"
