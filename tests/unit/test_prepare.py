"""`data prepare` as a user meets it, and runs that then decode nothing."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from seedbench_r1.media.cache import read_entry
from seedbench_r1.questions import load_questions
from tests.command import cli, cli_forked
from tests.forked import COMMANDS
from tests.small_benchmark import copy_of, write_script


def prepare(root: Path, folder: Path, *more: object) -> list[object]:
    return ["data", "prepare", "--data-root", root, "--frame-cache", folder, *more]


def cache_event(folder: Path) -> dict[str, object]:
    """What the one run in `folder` says of its frame cache."""
    [path] = folder.glob("runs/*/events.jsonl")
    return next(event for event in map(json.loads, path.read_text().splitlines()) if event["event"] == "frame_cache")


def counts(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    return json.loads(done.stdout)["cache"]


def test_a_run_with_the_same_settings_decodes_nothing(data_root, tmp_path):
    settings = ["--max-frames", "4", "--reader", "pyav"]
    done = cli_forked(*prepare(data_root, tmp_path / "cache", *settings), cwd=tmp_path)
    n = len(load_questions(data_root))
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stdout.startswith(f"{n} questions: ")
    assert done.stdout.endswith("stored, 0 bad\n")
    script = write_script(tmp_path / "script.json")
    command = ["eval", "--backend", "fake", "--model", script, "--data-root", data_root, *settings]
    assert cli(*command, "--frame-cache", tmp_path / "cache", cwd=tmp_path).returncode == 0
    event = cache_event(tmp_path)
    assert (event["read"], event.get("written", 0)) == (n, 0)


def test_bad_media_are_named_and_the_rest_is_stored(data_root, tmp_path):
    root = copy_of(data_root, tmp_path / "data")
    bad = next(q for q in load_questions(root) if q.video is not None)
    content = bad.video.read_bytes()
    users = {q.question_id for q in load_questions(root) if q.video == bad.video}
    bad.video.write_bytes(content[: len(content) // 2])
    done = cli(*prepare(root, tmp_path / "cache", "--workers", "1"), cwd=tmp_path)
    assert done.returncode == 4
    assert f"{bad.question_id}: {bad.video}" in done.stdout
    assert f"The media of {len(users)} of" in done.stderr
    bad.video.write_bytes(content)
    again = cli(*prepare(root, tmp_path / "cache", "--json", "--workers", "1"), cwd=tmp_path)
    assert again.returncode == 0
    assert counts(again)["written"] <= len(users)
    assert sum(counts(again).values()) == len(load_questions(root))


def test_killed_at_once_it_goes_on_where_it_was(data_root, tmp_path):
    command = prepare(data_root, tmp_path / "cache", "--workers", "1")
    first = COMMANDS.popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while len(stored := list((tmp_path / "cache").glob("*/*.frames"))) < 3 and time.monotonic() < end:
        time.sleep(0.01)
    first.kill()
    first.wait()
    assert len(stored) >= 3
    again = cli(*prepare(data_root, tmp_path / "cache", "--json", "--workers", "1"), cwd=tmp_path)
    assert counts(again)["read"] >= len(stored)
    assert sum(counts(again).values()) == len(load_questions(data_root))


def test_the_model_s_patch_grid_decides_the_sizes(data_root, tmp_path):
    (model := tmp_path / "model").mkdir()
    config = {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "vision_config": {"patch_size": 16, "spatial_merge_size": 2},
    }
    (model / "config.json").write_text(json.dumps(config))
    save_file({"weights": np.zeros(1)}, model / "model.safetensors")
    done = cli(*prepare(data_root, tmp_path / "cache", "--levels", "L1", "--model", model), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shapes = {
        side for path in (tmp_path / "cache").glob("*/*.frames") for side in read_entry(path, path.stem).image.shape[:2]
    }
    assert shapes
    assert np.all(np.array(sorted(shapes)) % 32 == 0)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--data-root", "DATA"], 3, "No frame cache given"),
        (["--data-root", "DATA", "--frame-cache", "file"], 7, "The frame cache file cannot be filled"),
        (["--data-root", "DATA", "--frame-cache", "c", "--frame-cache-gb", "0.001"], 7, "a sixteenth of"),
        (["--data-root", "DATA", "--frame-cache", "c", "--frame-cache-gb", "0"], 3, "--frame-cache-gb is 0.0"),
        (["--data-root", "DATA", "--frame-cache", "c", "--reader", "vlc"], 3, "--reader is 'vlc'"),
    ],
    ids=["no folder", "a file", "too small", "no room", "reader"],
)
def test_what_cannot_work_says_so(data_root, tmp_path, options, code, message):
    (tmp_path / "file").write_bytes(b"")
    done = cli("data", "prepare", *[data_root if value == "DATA" else value for value in options], cwd=tmp_path)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
