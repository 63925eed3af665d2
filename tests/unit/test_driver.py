"""A driver whose commands are pretended: order, failures, stops, locks, and whose folder it is."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from seedbench_r1.errors import ConfigError, DataError
from seedbench_r1.experiments import driver as driving
from seedbench_r1.experiments.driver import Driver, settled
from seedbench_r1.experiments.folder import Folder, JobRecord
from seedbench_r1.experiments.jobs import jobs_of, training_step
from seedbench_r1.experiments.launch import Share, Start, SubmititLauncher
from seedbench_r1.experiments.recipe import Launch, read_recipe
from seedbench_r1.experiments.states import state_of
from tests.unit.test_recipe_files import SMALL, written
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def looking_often(monkeypatch):
    monkeypatch.setattr(driving, "POLL_S", 0.01)


class Pretended:
    """A command that ends at the next look, unless it is to hang; what ends well has made its file."""

    submitted = None

    def __init__(self, words, code):
        self.words, self.code, self.signals = words, code, []

    def poll(self):
        if self.code is None and self.signals:
            return 128 + 15
        if self.code == 0:
            make(self.words)
        return self.code

    def stop(self, number):
        self.signals.append(number)


def make(words):
    kind, options = words[0], dict(itertools.pairwise(words))
    if kind == "train":
        file = Path(options["--out"]) / "checkpoint-2" / "training.json"
    elif kind == "eval":
        file = Path(options["--runs-dir"]) / options["--run-name"] / "manifest.json"
    else:
        file = Path(words[1]) / "verdicts.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()


class PretendedLauncher:
    """Starts nothing. ends: (job, kind) -> exit code, None: it hangs until it is stopped."""

    def __init__(self, ends=()):
        self.ends, self.started, self.running = dict(ends), [], []

    def start(self, start, lock):
        job, words = start.log.stem, start.words[3:]  # behind the interpreter
        os.fstat(lock)  # it is open
        self.started.append((job, words[0]))
        self.running.append(Pretended(words, self.ends.get((job, words[0]), 0)))
        return self.running[-1]

    def find(self, submitted):
        return None


CHAINED = SMALL.replace('algo = "care"', 'algo = "care"\nmodel = "grpo"').replace("seeds = [0, 1]", "seeds = [0]")


def drive(folder: Path, launcher, text=CHAINED, *, slots=1, stop=None, **chosen):
    recipe = read_recipe(written(folder, text))
    said: list[str] = []
    driver = Driver(recipe, Folder(folder / "out"), launcher, [Share(1, ())] * slots, n_steps={}, say=said.append)
    driver.run(jobs_of(recipe, **chosen), stop=stop or threading.Event())
    return driver, said


def test_every_command_in_its_order_and_nothing_twice(tmp_path):
    launcher = PretendedLauncher()
    driver, _ = drive(tmp_path, launcher)
    assert (driver.failed, driver.unfinished) == ({}, [])
    of_training = [(job, kind) for job in ("grpo-seed0", "care-seed0") for kind in ("train", "eval", "judge")]
    assert launcher.started == [("start", "eval"), ("start", "judge"), *of_training]
    again = PretendedLauncher()
    drive(tmp_path, again)
    assert again.started == []
    # What was removed is done again, and what follows from it; another seed is new.
    (tmp_path / "out" / "runs" / "seedbench-r1" / "start" / "verdicts.jsonl").unlink()
    drive(tmp_path, again, only=["grpo"], seeds=[0, 5])
    assert again.started == [("start", "judge"), *[("grpo-seed5", kind) for kind in ("train", "eval", "judge")]]


def test_a_training_starts_from_the_newest_checkpoint_of_the_variant_before(tmp_path):
    launcher = PretendedLauncher()
    drive(tmp_path, launcher)
    words = next(run.words for run in launcher.running if run.words[0] == "train" and "care" in run.words)
    assert words[words.index("--model") + 1] == str(tmp_path / "out/trainings/grpo-seed0/checkpoint-2")


def test_what_fails_stops_nothing_but_what_starts_from_it(tmp_path):
    launcher = PretendedLauncher({("grpo-seed0", "eval"): 7, ("start", "judge"): 137})
    driver, said = drive(tmp_path, launcher, CHAINED.replace("seeds = [0]", "seeds = [0, 1]"))
    assert list(driver.failed) == ["start", "grpo-seed0", "care-seed0"]
    assert "eval ended with exit code 7, see " in driver.failed["grpo-seed0"]
    assert "signal 9, as where main memory has run out" in driver.failed["start"]
    assert driver.failed["care-seed0"] == "grpo-seed0 failed, from which it starts"
    assert "grpo-seed1: done" in said
    assert "care-seed1: done" in said
    # The training of the failed job had ended well.
    mended = PretendedLauncher()
    driver, _ = drive(tmp_path, mended, CHAINED.replace("seeds = [0]", "seeds = [0, 1]"))
    assert not driver.failed
    left = [("start", "judge"), ("grpo-seed0", "eval"), ("grpo-seed0", "judge"), ("care-seed0", "train")]
    assert mended.started[:4] == left


def test_a_command_that_ends_well_and_makes_nothing_is_not_begun_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.unit.test_driver.make", lambda words: None)
    driver, _ = drive(tmp_path, PretendedLauncher(), only=[])
    assert "eval made no " in driver.failed["start"]


def test_a_stop_is_handed_on_once_and_names_what_is_left(tmp_path):
    launcher, stop = PretendedLauncher({("start", "eval"): None}), threading.Event()
    threading.Timer(0.5, stop.set).start()
    driver, _ = drive(tmp_path, launcher, stop=stop)
    assert launcher.started == [("start", "eval")]
    assert launcher.running[0].signals == [signal.SIGTERM]
    assert driver.failed == {}
    assert sorted(driver.unfinished) == ["care-seed0", "grpo-seed0", "start"]


def test_an_exception_ends_what_runs_before_it_goes_on(tmp_path, monkeypatch):
    launcher = PretendedLauncher({("start", "eval"): None})

    def interrupt(seconds):
        if launcher.running and not launcher.running[0].signals:
            raise KeyboardInterrupt

    monkeypatch.setattr(driving.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        drive(tmp_path, launcher)
    assert launcher.running[0].signals == [signal.SIGINT]


def test_what_an_earlier_driver_has_started_is_waited_for(tmp_path):
    folder = Folder(tmp_path / "out")
    lock = folder.claim_job("start")
    assert folder.is_running("start")
    assert folder.claim_job("start") is None
    threading.Timer(0.5, os.close, [lock]).start()
    launcher = PretendedLauncher()
    _, said = drive(tmp_path, launcher, only=[])
    assert said[:2] == ["start: waiting for what an earlier call has started", "start: eval"]
    assert not folder.is_running("start")


def test_a_folder_is_one_recipes_and_one_drivers(tmp_path):
    recipe, folder = read_recipe(written(tmp_path)), Folder(tmp_path / "out")
    folder.open(recipe)
    folder.open(read_recipe(written(tmp_path, SMALL + '\n[variants.more]\nalgo = "care"\n')))  # may be added
    for before, after, named in (
        ("max_steps = 2", "max_steps = 3", "variants.grpo"),
        ("questions = 4", "questions = 5", "data.miniature"),
        ('start = "demo:sft"', 'start = "demo:care"', "models.start"),
        ("[train]", "[eval]\nseed = 1\n[train]", "suites.seedbench-r1"),
        ('[variants."care"]', '[variants.more]\nalgo = "grpo"\n\n[variants."care"]', "variants.more"),
    ):
        with pytest.raises(ConfigError, match=f"was made by another recipe: {named} was"):
            folder.open(read_recipe(written(tmp_path, SMALL.replace(before, after, 1))))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(ConfigError, match="holds something else"):
        Folder(tmp_path / "mine").open(recipe)
    with folder.locked(), pytest.raises(ConfigError, match=rf"Another process \(pid {os.getpid()}\)"), folder.locked():
        pass
    with folder.locked():
        pass


def test_every_checkpoint_is_measured_under_its_step(tmp_path, monkeypatch):
    real = make

    def make_two(words):
        real(words)
        if words[0] == "train":
            file = Path(words[words.index("--out") + 1]) / "checkpoint-1" / "training.json"
            file.parent.mkdir()
            file.touch()

    monkeypatch.setattr("tests.unit.test_driver.make", make_two)
    for checkpoints, steps in (('"all"', (1, 2)), ("[1]", (1,)), ('"newest"', (None,))):
        folder = tmp_path / checkpoints.strip('"[]')
        folder.mkdir()
        launcher = PretendedLauncher()
        driver, _ = drive(folder, launcher, f"checkpoints = {checkpoints}\n{CHAINED}", only=["grpo"])
        assert not driver.failed
        runs = [run.words for run in launcher.running if run.words[0] == "eval"][1:]
        names = ["grpo-seed0" if step is None else f"grpo-seed0-step{step}" for step in steps]
        assert [words[words.index("--run-name") + 1] for words in runs] == names
        models = [Path(words[words.index("--model") + 1]).name for words in runs]
        assert models == [f"checkpoint-{step or 2}" for step in steps]
    driver, _ = drive(tmp_path / "1", PretendedLauncher(), f"checkpoints = [9]\n{CHAINED}", only=["grpo"])
    assert "has no checkpoint-9 to be measured" in driver.failed["grpo-seed0"]


TWICE = """
import pathlib, signal, sys, time
marks = pathlib.Path(sys.argv[1])
begun = marks.exists()
def save(number, frame):
    marks.write_text("saved")
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
if not begun:
    marks.write_text("begun")
    time.sleep(60)
print("to the end")
"""


@pytest.mark.slow  # submitit warns 30 s before the end, and counts minutes
def test_a_submitted_job_saves_before_its_time_is_over_and_goes_on(tmp_path):
    pytest.importorskip("submitit")
    launch = Launch(slurm={"timeout_min": 1}, cluster="local")
    launcher, folder = SubmititLauncher(tmp_path / "submitit", launch), Folder(tmp_path)
    lock = folder.claim_job("job")
    words = (sys.executable, "-c", TWICE, str(tmp_path / "marks"))
    running = launcher.start(Start(words, folder.log("job"), folder.lock("job"), {}), lock)
    assert running.poll() is None
    os.close(lock)  # the job waits for it
    wait_until(lambda: running.poll() is not None)
    assert running.poll() == 0
    assert (tmp_path / "marks").read_text() == "saved"
    assert folder.log("job").read_text().endswith("to the end\n")


def test_a_parameter_that_submitit_refuses(tmp_path):
    pytest.importorskip("submitit")
    for wrong in ({"partitoin": "gpu"}, {"timeout_min": "1h"}):
        with pytest.raises(ConfigError, match=rf"launch.slurm: submitit says .*{next(iter(wrong))}"):
            SubmititLauncher(tmp_path, Launch(slurm=wrong, cluster="local"))


def test_what_still_runs_is_waited_for_here_and_left_alone_elsewhere(tmp_path):
    recipe, folder = read_recipe(written(tmp_path)), Folder(tmp_path / "out")
    jobs, said = jobs_of(recipe, ["grpo"], [0]), []
    launcher = PretendedLauncher()
    lock = folder.claim_job("start")
    threading.Timer(0.3, os.close, [lock]).start()
    assert settled(jobs, folder, launcher, stop=threading.Event(), say=said.append) == jobs
    assert said == ["waiting for what an earlier call has started"]
    folder.write_record("grpo-seed0", JobRecord(submitted="17", steps=9))
    launcher.find = lambda submitted: Pretended(("train",), None) if submitted == "17" else None
    assert settled(jobs, folder, launcher, stop=threading.Event(), say=said.append) == jobs[:1]
    launcher.find = lambda submitted: None
    assert settled(jobs, folder, launcher, stop=threading.Event(), say=said.append) == jobs


def test_the_state_of_a_job_from_its_record_its_lock_and_the_file_that_grows(tmp_path):
    recipe, folder = read_recipe(written(tmp_path)), Folder(tmp_path / "out")
    job = jobs_of(recipe, ["grpo"], [0])[1]

    def state(**record):
        folder.write_record(job.name, JobRecord(**record))
        found = state_of(recipe, folder, job)
        return found.state, found.doing, found.done, found.total, found.why

    assert state_of(recipe, folder, job).state == "waiting"
    train = training_step(recipe, folder, job).words
    metrics = folder.trainings / job.name / "metrics.jsonl"
    metrics.parent.mkdir(parents=True)
    metrics.write_text('{"step": 1}\n{"step": 2}\n{"st')  # it is being written
    assert state(doing=train, steps=9) == ("stopped", "train", 2, 9, "")
    assert state(doing=train, steps=9, submitted="17") == ("queued", "train", 2, 9, "")
    assert state(doing=train, steps=9, failed="why") == ("failed", "train", 2, 9, "why")
    lock = folder.claim_job(job.name)
    assert state(doing=train, steps=9, submitted="17")[0] == "running"
    os.close(lock)
    assert state(done=(train,))[0] == "waiting"  # to be measured
    (folder.jobs / f"{job.name}.json").write_text('{"done": 3}')
    with pytest.raises(DataError, match=r"grpo-seed0.json is no job's record"):
        state_of(recipe, folder, job)
