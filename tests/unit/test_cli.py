"""The command line as a user meets it: its output and its exit codes."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys

import pytest

from seedbench_r1.cli import console
from seedbench_r1.demo.tiny_model import write_tiny_checkpoint
from seedbench_r1.questions import load_questions
from seedbench_r1.runs.directory import load_run
from tests.command import RUN, cli, cli_forked, cli_process
from tests.small_benchmark import copy_of, write_script

pytestmark = pytest.mark.usefixtures("shared_decoders")


@pytest.fixture
def fake(data_root, tmp_path) -> list[object]:
    return ["eval", "--backend", "fake", "--model", write_script(tmp_path / "script.json"), "--data-root", data_root]


def test_a_script_that_runs_when_it_is_imported_is_told_so(fake, tmp_path):
    """The decoding workers import it; and a worker that starts a run of its own is no bug to report."""
    (tmp_path / "script.py").write_text("from seedbench_r1.cli.app import main; main()")
    command = [sys.executable, tmp_path / "script.py", *fake, "--workers", "1"]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300, check=False
    )
    assert done.returncode == 7, done.stderr
    assert 'Fix: call main(), evaluate() or train() below `if __name__ == "__main__":`' in done.stderr
    assert "This is a bug" not in done.stderr


def test_help_is_immediate_and_light(tmp_path):
    """Next to what Typer and Rich alone take to start: seconds would measure the machine."""
    libraries = [sys.executable, "-c", "import typer, typer.rich_utils"]

    def cpu_seconds(command: list[str]) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert ("eval" in done.stdout) == (command is not libraries)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    seconds = [(cpu_seconds([*RUN, "--help"]), cpu_seconds(libraries)) for _ in range(5)]
    ours, theirs = map(min, zip(*seconds, strict=True))
    assert ours < 3 * theirs  # 0.27 s of 0.5 s where the libraries take 0.12 s
    heavy = ("torch", "pandas", "transformers", "numpy", "av")
    code = f"import sys, seedbench_r1.cli.app; print(*(name for name in {heavy} if name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_a_run_from_the_command_line(fake, data_root, tmp_path):
    done = cli_process(*fake, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert "\r" not in done.stdout + done.stderr
    assert "clustered by video" in done.stdout
    again = cli(*fake, "--json", cwd=tmp_path)
    value = json.loads(again.stdout)
    assert (value["schema"], value["status"], value["exit_code"]) == ("sbr1.eval/1", "complete", 0)
    level = value["levels"]["L1"]
    assert level["accuracy"] == pytest.approx(level["correct"] / level["n"], abs=1e-6)
    assert level["ci"][0] <= level["accuracy"] <= level["ci"][1]
    assert level["deff"] >= 1


def test_show_prints_a_question_and_obeys_no_control_character(data_root, tmp_path):
    hostile = "<think>\x1b[2J[red]gone[/red]\x07</think><answer>A</answer>"
    first = load_questions(data_root)[0].question_id
    script = write_script(tmp_path / "script.json", **{first: hostile})
    cli("eval", "--backend", "fake", "--model", script, "--data-root", data_root, cwd=tmp_path)
    (run,) = (tmp_path / "runs").iterdir()
    shown = cli_forked("show", run, "--question", first, cwd=tmp_path)
    assert shown.returncode == 0
    assert "\x1b" not in shown.stdout
    assert "\x07" not in shown.stdout
    assert "\\x1b[2J[red]gone[/red]\\x07" in shown.stdout
    assert cli("show", run, "--question", "L1/none", cwd=tmp_path).returncode == 3


def test_no_name_and_no_error_moves_the_terminal(data_root, tmp_path):
    escape = "\x1b]0;title\x07\x1b[2J\u202e"
    script = write_script(tmp_path / f"script{escape}.json")
    fake = ("eval", "--backend", "fake", "--data-root", data_root, "--levels", "L1", "--run-name", f"run{escape}")
    outputs = [
        cli(*fake, "--model", script, cwd=tmp_path),
        cli(*fake, "--model", tmp_path / f"absent{escape}", cwd=tmp_path),
        cli("leaderboard", "build", tmp_path / "runs" / f"run{escape}", cwd=tmp_path),
        cli("show", tmp_path / "runs" / f"run{escape}", "--question", f"L1/{escape}", cwd=tmp_path),
        cli("data", "status", "--data-root", tmp_path / escape, cwd=tmp_path),
        cli("judge", tmp_path / "runs" / f"run{escape}", cwd=tmp_path),
        cli("-vv", "judge", tmp_path / f"absent{escape}", cwd=tmp_path),
    ]
    assert "Traceback" in outputs[-1].stderr
    assert [done.returncode for done in outputs] == [0, 3, 0, 3, 4, 0, 4]
    for done in outputs:
        assert not {"\x1b", "\x07", "\u202e"} & set(done.stdout + done.stderr), done.args
        assert "\\x1b[2J" in done.stdout + done.stderr, done.args


def test_a_warning_of_a_library_moves_no_terminal():
    script = "import logging; from seedbench_r1.cli.app import common; common(); logging.warning('a\\x1b[2J')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=True)
    assert done.stderr == "WARNING root: a\\x1b[2J\n"


def test_a_table_shows_control_characters_as_text(capsys):
    cells = console.table(["id"], ())
    cells.add_row("\x1b[31mL1/1\x9b")
    console.out().print(cells)
    assert capsys.readouterr().out.split() == ["id", r"\x1b[31mL1/1\u009b"]


def test_json_is_readable_and_moves_no_terminal():
    value = {"名": "ä 💡", "moved": "\x1b[2J\x7f\x9b\u202e\ud83d\U000e0001\n"}
    text = console.json_text(value)
    assert json.loads(text) == value
    assert text.startswith('{"名": "ä 💡", ')
    assert text.isprintable()
    # What is escaped once is not escaped again.
    assert console.printable(text) == text


def test_no_data_root(tmp_path):
    done = cli("eval", "--backend", "fake", "--model", write_script(tmp_path / "s.json"), cwd=tmp_path)
    assert done.returncode == 3
    assert "Looked at --data-root, SBR1_DATA_ROOT, seedbench-r1.toml, ./data." in done.stderr
    assert "Traceback" not in done.stderr


def test_the_data_root_may_come_from_environment_or_file(data_root, tmp_path):
    script = write_script(tmp_path / "s.json")
    assert (
        cli("eval", "--backend", "fake", "--model", script, cwd=tmp_path, SBR1_DATA_ROOT=str(data_root)).returncode == 0
    )
    (tmp_path / "seedbench-r1.toml").write_text(f'data_root = "{data_root}"\n[eval]\nbackend = "fake"\nlevels = "L1"\n')
    done = cli("eval", "--model", script, "--json", "--run-name", "x", cwd=tmp_path)
    assert list(json.loads(done.stdout)["levels"]) == ["L1"]


def test_an_unknown_key_in_the_config_file(tmp_path):
    (tmp_path / "seedbench-r1.toml").write_text("frames = 8\n")
    done = cli("eval", "--model", "x", cwd=tmp_path)
    assert done.returncode == 3
    assert "unknown key 'frames'" in done.stderr


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--no-such-option"], 2, "No such option"),
        (["--temperature", "-1"], 3, "--temperature is -1.0"),
        (["--levels", "L4"], 3, "--levels 'L4'"),
        (["--shard", "3/2"], 3, "--shard '3/2'"),
        (["--protocol", "best"], 3, "No protocol 'best'"),
        (["--max-frames", "1"], 3, "--max-frames is 1"),
        (["--reader", "vlc"], 3, "--reader is 'vlc'"),
        (["--reader", "torchcodec"], 3, "torchcodec"),
        (["--prompt-file", "none.toml"], 3, "none.toml"),
        (["--model", "nowhere"], 3, "nowhere"),
    ],
)
def test_what_cannot_work_is_said_before_anything_runs(fake, tmp_path, options, code, message):
    done = cli(*fake, *options, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_model_path_suggests_the_right_one(data_root, tmp_path):
    write_tiny_checkpoint(tmp_path / "ckpt" / "checkpoint-1500")
    done = cli("eval", "--model", "./ckpt/checkpoint-150", "--data-root", data_root, cwd=tmp_path)
    assert done.returncode == 3
    assert "Did you mean ckpt/checkpoint-1500?" in done.stderr
    done = cli("eval", "--model", "./ckpt", "--data-root", data_root, cwd=tmp_path)
    assert "checkpoint-1500" in done.stderr


def test_missing_media_exit_4_before_the_model_and_5_when_allowed(fake, data_root, tmp_path):
    root = copy_of(data_root, tmp_path / "copy")
    next(q.image for q in load_questions(root)).unlink()
    command = [*fake[:-1], root]
    done = cli(*command, cwd=tmp_path)
    assert (done.returncode, "--allow-missing" in done.stderr) == (4, True)
    done = cli(*command, "--allow-missing", cwd=tmp_path)
    assert done.returncode == 5
    assert "INCOMPLETE" in done.stdout
    assert cli(*command, "--allow-missing", "--max-error-rate", "0.5", cwd=tmp_path).returncode == 0
    (run,) = (path for path in (tmp_path / "runs").iterdir())
    failed = cli("show", run, "--failed", cwd=tmp_path)
    assert "media_error" in failed.stdout


def test_errors_with_json_are_json(tmp_path):
    done = cli("eval", "--model", "x", "--json", cwd=tmp_path)
    value = json.loads(done.stdout)
    assert (value["status"], value["exit_code"]) == ("error", 3)


def test_json_is_one_object_whatever_happened(data_root, tmp_path):
    """An incomplete run has its result; why it ended so stands on standard error."""
    root = tmp_path / "data"
    shutil.copytree(data_root, root)
    next(root.rglob("*.mp4")).write_bytes(b"no clip")
    script = write_script(tmp_path / "s.json")
    done = cli("eval", "--backend", "fake", "--model", script, "--data-root", root, "--json", cwd=tmp_path)
    value = json.loads(done.stdout)  # one object: nothing stands behind it
    assert (done.returncode, value["exit_code"], value["status"]) == (5, 5, "incomplete")
    assert value["errors"]
    assert "questions have no answer" in done.stderr
    missing = cli("data", "status", "--data-root", tmp_path / "none", "--json", cwd=tmp_path)
    assert json.loads(missing.stdout)
    assert missing.returncode == 4


def test_dry_run_and_print_config_touch_nothing(data_root, tmp_path):
    model = write_tiny_checkpoint(tmp_path / "model")
    command = ["eval", "--model", model, "--data-root", data_root]
    done = cli(*command, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for word in ("frames", "vision tokens", "memory gb about", "<answer>"):
        assert word in done.stdout
    value = json.loads(cli(*command, "--dry-run", "--json", cwd=tmp_path).stdout)
    assert value["frames"] >= 4
    config = json.loads(cli(*command, "--max-frames", "8", "--print-config", cwd=tmp_path).stdout)
    assert config["video"]["max_frames"] == 8
    assert not (tmp_path / "runs").exists()


def test_an_unwritable_runs_folder(fake, tmp_path):
    (tmp_path / "file").write_text("")
    done = cli(*fake, "--runs-dir", tmp_path / "file", cwd=tmp_path)
    assert done.returncode == 7
    assert "--runs-dir" in done.stderr


def test_bad_rows_and_odd_files_leave_the_rest_of_a_run_standing(fake, data_root, tmp_path):
    """Half a row, a clip whose metadata are not UTF-8, a clip and an image that are none: the run goes on."""
    root = copy_of(data_root, tmp_path / "copy")
    annotations = root / "annotations" / "validation_L1.jsonl"
    n = len(annotations.read_text().splitlines())
    with annotations.open("a") as file:
        file.write('{"sample_id": 9')
    with_clip = [q for q in load_questions(data_root, ["L1"]) if q.video]
    latin, broken = (root / q.video.relative_to(data_root) for q in with_clip[:2])
    latin.write_bytes(latin.read_bytes().replace(b"VideoHandler", b"Vid\xe9oHandler"))
    broken.write_bytes(b"\x00\x00\x00\x18ftypmp42" + os.urandom(4000))
    (root / with_clip[2].image.relative_to(data_root)).write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    command = [*fake[:-1], root, "--levels", "L1"]
    refused = cli(*command, cwd=tmp_path)
    assert refused.returncode == 4
    assert f"validation_L1.jsonl:{n + 1}: not valid JSON" in refused.stderr
    assert "--skip-bad-rows" in refused.stderr
    done = cli(*command, "--skip-bad-rows", cwd=tmp_path)
    assert done.returncode == 5, done.stderr  # two questions failed
    assert f"1 rows of {annotations} are left out" in done.stderr
    run = load_run(next((tmp_path / "runs").iterdir()))
    assert (run.manifest.bad_rows, run.manifest.n_total["L1"]["all"]) == ({"L1": 1}, n)
    failed = {record.question_id: record.failure.message for record in run.records.values() if record.failure}
    assert set(failed) == {with_clip[1].question_id, with_clip[2].question_id}
    assert all("a bug" not in message and "Error:" not in message for message in failed.values())


def test_a_dry_run_over_damaged_media_is_no_bug(fake, data_root, tmp_path):
    root = copy_of(data_root, tmp_path / "copy")
    clips = sorted({q.video for q in load_questions(root) if q.video})
    clips[0].write_bytes(bytes(50))
    done = cli(*fake[:-1], root, "--dry-run", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["frames"] > 0  # of the next question
    for clip in clips:
        clip.write_bytes(bytes(50))
    done = cli(*fake[:-1], root, "--dry-run", "--json", cwd=tmp_path)
    assert (done.returncode, json.loads(done.stdout)["frames"]) == (0, 0)


def test_data_status_and_verify(data_root, tmp_path):
    assert cli_forked("data", "status", "--data-root", data_root, cwd=tmp_path).returncode == 0
    done = cli_forked("data", "verify", "--data-root", data_root, "--decode-sample", 3, "--exact-frames", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    root = copy_of(data_root, tmp_path / "copy")
    videos = sorted({q.video for q in load_questions(root) if q.video})
    images = sorted({q.image for q in load_questions(root)})
    videos[0].unlink()
    videos[1].write_bytes(videos[1].read_bytes()[:800])
    videos[2].write_bytes(b"")
    images[0].write_bytes(b"no image")
    done = cli("data", "verify", "--data-root", root, cwd=tmp_path)
    assert done.returncode == 4
    for path in (*videos[:3], images[0]):
        assert done.stdout.count(str(path)) == 1
    assert "4 files" in done.stderr
    status = cli("data", "status", "--data-root", root, "--json", cwd=tmp_path)
    assert status.returncode == 4
    assert sum(len(level["missing"]) for level in json.loads(status.stdout)["levels"]) == 1


def test_doctor(data_root, tmp_path):
    done = cli_process("doctor", "--data-root", data_root, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all media present" in done.stdout
    assert cli("doctor", "--strict", cwd=tmp_path).returncode == 3  # no GPU or no vLLM here
