"""The script for a GPU: a stage that fails, hangs or dies, or a call that is killed, costs itself alone.

In miniature on a CPU; what it does on a GPU only a GPU can show.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time

import psutil
import pytest

from tests.gpu.first_light import ROOT, STAGES, Options, Stage, pending, run_stages
from tests.gpu.summary import summary

SCRIPT = ROOT / "tests" / "gpu" / "first_light.py"
SOME = ("environment", "numbers", "adamw")


def fails(place):
    place.note(half=1)
    raise ValueError("broken on purpose")


def hangs(place):
    place.note(half=2)
    time.sleep(600)


def dies(place):
    place.note(half=3)
    os._exit(9)


def lingers(place):
    place.note(half=5)
    threading.Thread(target=time.sleep, args=(600,)).start()


def complains(place):
    place.check(False, "numbers differ")
    place.note(measured=4)


def works(place):
    place.note(pid=os.getpid())


def stage(function, most_s=30.0, **options):
    return Stage(function.__name__, f"{__name__}:{function.__name__}", 1.0, most_s, **options)


def test_a_stage_that_fails_hangs_or_dies_does_not_stop_the_next(tmp_path):
    options = Options(tmp_path / "light.json", 5.0, "cpu", True)
    stages = [stage(fails), stage(hangs, 20.0), stage(dies), stage(lingers, 20.0), stage(complains), stage(works)]
    stages.insert(2, Stage("absent", f"{__name__}:works", 1.0, 30.0, ("no_such_package",)))
    first = run_stages(stages, options)["stages"]
    assert json.loads(options.path.read_text())["stages"] == first
    assert {name: one["status"] for name, one in first.items()} == {
        "fails": "failed",
        "hangs": "timed out",
        "absent": "not begun: needs no_such_package",
        "dies": "crashed with exit code 9",
        "lingers": "done",
        "complains": "failed",
        "works": "done",
    }
    assert [first[name]["found"].get("half") for name in ("fails", "hangs", "dies")] == [1, 2, 3]
    assert "ValueError: broken on purpose" in first["fails"]["error"]
    assert "in fails" in first["fails"]["error"]
    assert first["complains"]["complaints"] == ["numbers differ"]
    assert first["complains"]["found"]["measured"] == 4
    # what has never been tried comes before what failed, and what is done is not done again
    assert [one.name for one in pending(stages, first)] == ["absent", "fails", "hangs", "dies", "complains"]
    again = run_stages([stage(works), stage(complains)], options)["stages"]
    assert again["works"] == first["works"]
    shown = summary({"smoke": True, "stages": again})
    assert "broken on purpose" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_without_time_nothing_is_begun_and_nothing_forgotten(tmp_path):
    options = Options(tmp_path / "light.json", 0.0, "cpu", True)
    assert run_stages([stage(works)], options)["stages"]["works"]["status"] == "not begun: 0 s were left"
    kept = {"device": "cpu", "smoke": True, "stages": {"fails": {"status": "failed", "found": {"half": 1}}}}
    options.path.write_text(json.dumps(kept))
    assert run_stages([stage(fails)], options) == kept
    with pytest.raises(SystemExit, match="--json"):
        run_stages([stage(works)], Options(options.path, 1.0, "cuda", False))


def start(path, *options):
    command = [sys.executable, str(SCRIPT), "--smoke", "--json", str(path), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_killed_call_is_continued_and_leaves_no_process(tmp_path):
    path = tmp_path / "light.json"
    process = start(path, "--only", ",".join(SOME))
    deadline = time.monotonic() + 120
    while not path.is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    before = json.loads(path.read_text())["stages"]
    begun = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    assert list(before) == ["environment"]
    assert begun
    _, alive = psutil.wait_procs(begun, timeout=30)
    assert not alive
    process = start(path, "--only", ",".join(SOME))
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said
    after = json.loads(path.read_text())["stages"]
    assert after["environment"] == before["environment"]
    assert {name: one["status"] for name, one in after.items()} == dict.fromkeys(SOME, "done")
    assert after["numbers"]["found"]["packed_against_repeated"]["logprobs"] < 1e-4


@pytest.mark.slow
def test_every_stage_runs_in_miniature(tmp_path):
    process = start(tmp_path / "light.json")
    said, _ = process.communicate(timeout=500)
    results = json.loads((tmp_path / "light.json").read_text())["stages"]
    assert process.returncode == 0, said
    assert {name: one["status"] for name, one in results.items()} == {one.name: "done" for one in STAGES}
    with contextlib.suppress(StopIteration):
        longest = next(line for line in said.splitlines()[len(STAGES) :] if len(line) > 80)
        pytest.fail(f"wider than 80 columns: {longest}")
