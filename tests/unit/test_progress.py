"""What is shown while a run is running: before the first answer, the speed, and the time left."""

from __future__ import annotations

import dataclasses

import pytest

from seedbench_r1.cli import progress
from seedbench_r1.cli.progress import EvalProgress, Speed
from seedbench_r1.engines.local import LocalEngine
from seedbench_r1.engines.plan import plan
from seedbench_r1.engines.run import run_plan
from seedbench_r1.suites import resolve
from tests.command import cli
from tests.small_benchmark import write_script

pytestmark = pytest.mark.usefixtures("shared_decoders")


def batches(speed: Speed, times: list[float], size: int) -> None:
    for now in times:
        for _ in range(size):
            speed.note(now, answered=True, tokens=50)


def test_a_model_that_loads_for_long_does_not_slow_the_answers_down():
    speed = Speed()
    batches(speed, [600.0], 8)  # ten minutes of loading
    assert (speed.rates(), speed.seconds_left(600.5, 100)) == (None, None)
    batches(speed, [604.0, 608.0], 8)
    assert speed.rates() == (2.0, 100.0)
    assert speed.seconds_left(608.0, 100) == 50.0
    # Between batches time goes down; when a batch stays out it goes up again.
    assert speed.seconds_left(611.0, 100) == 47.0
    assert speed.seconds_left(628.0, 8) == pytest.approx(8 * 28 / 16)


def test_failures_before_the_first_answer_are_no_speed():
    speed = Speed()
    for second in range(5):
        speed.note(float(second), answered=False, tokens=0)
    assert not speed.begun
    batches(speed, [100.0, 102.0], 1)
    assert speed.rates() == (0.5, 25.0)


@pytest.fixture
def clock(monkeypatch):
    """clock[0] is what the progress takes for the time."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def planned(data_root, tmp_path):
    script = write_script(tmp_path / "script.json")
    options = {"backend": "fake", "model": str(script), "data_root": data_root, "runs_dir": tmp_path / "runs"}
    return plan(resolve(options))


def records_of(planned):
    seen = []
    run_plan(planned, LocalEngine(), observe=seen.append)
    return {record.question_id: record for record in seen}


def test_only_what_is_asked_in_this_call_counts_for_the_time_left(planned, clock):
    """A shard with three questions left of a run of which others answer the rest."""
    records = records_of(planned)
    pending = planned.questions[:3]
    left = {question.question_id for question in pending}
    shown = EvalProgress(planned, quiet=True)
    shown.opened({i: record for i, record in records.items() if i not in left}, pending)
    assert "asking, no answer yet" in shown._status()
    shown.observe(records[pending[0].question_id])
    assert shown._status() == "first answers, ETA unknown yet"
    clock[0] += 4
    shown.observe(records[pending[1].question_id])
    assert shown._status().endswith("ETA 00:00:04")


def test_the_words_before_the_first_answer_say_what_takes_the_time(planned):
    def words(**changes):
        config = dataclasses.replace(planned.config, **{"backend": "transformers", **changes})
        shown = EvalProgress(dataclasses.replace(planned, config=config), quiet=True)
        shown.opened({}, planned.questions)
        return shown._status()

    assert words() == "loading the model, no answer yet"
    assert words(data_parallel=4) == "loading the model in 4 processes, no answer yet"
    assert words(engine="ray").startswith("Ray's workers load the model")
    assert words(engine="lmms-eval").startswith("lmms-eval starts")
    assert words(backend="openai").startswith("asking")


@pytest.mark.parametrize(("split", "unparsed"), [("L1", 0), ("L3", 999)])
def test_a_bar_fits_into_80_columns(planned, split, unparsed):
    shown = EvalProgress(planned, quiet=True)
    shown.opened(records_of(planned), [])
    assert len(shown._bar(split).plain) + len(str(unparsed)) - 1 <= 80


def test_a_refused_run_is_not_said_to_be_resumed(data_root, tmp_path):
    script = write_script(tmp_path / "script.json")
    command = ["eval", "--backend", "fake", "--model", script, "--data-root", data_root, "--run-name", "one"]
    first = cli(*command, cwd=tmp_path)
    assert "writing runs/one\nasking\n" in first.stderr
    refused = cli(*command, "--seed", "3", cwd=tmp_path)
    assert refused.returncode == 3
    assert refused.stderr.startswith("runs/one holds another run.")
    again = cli(*command, cwd=tmp_path)
    assert "resuming runs/one: " in again.stderr
    assert "asking" not in again.stderr
    shard = cli(*command, "--shard", "1/2", cwd=tmp_path)
    assert ", 0 asked in this shard" in shard.stderr
