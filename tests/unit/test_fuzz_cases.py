"""Inputs that once broke something, kept as files: tests/fuzz_cases/TARGET/WHAT/FILE, as the fuzz suite leaves them."""

from __future__ import annotations

import itertools
import os
import random
from pathlib import Path

import pytest

from tests.fuzz import TARGETS, open_target
from tests.fuzz.process import Plan, watch

CASES = sorted(path for path in (Path(__file__).parents[1] / "fuzz_cases").glob("*/*/*") if path.is_file())

READ = {"number-beyond-any-float": "opened"}  # what costs one number of a curve, not the checkpoint


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    opened = {}

    def target(name):
        if name not in opened:
            opened[name] = open_target(name, tmp_path_factory.mktemp(name))
        return opened[name]

    yield target
    for each in opened.values():
        each.close()


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parts[-3]}-{path.parts[-2]}")
def test_what_once_broke_is_refused_or_read(path, targets):
    outcome = targets(path.parts[-3]).check(path.name, path.read_bytes())
    expected = READ.get(path.parts[-2], ("refused", "left out", "flagged", "RequestFailed"))
    assert outcome.startswith(expected), outcome


def test_every_target_has_a_case():
    assert {path.parts[-3] for path in CASES} == set(TARGETS)


def test_an_input_follows_from_seed_target_and_number(tmp_path):
    made = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        target = open_target("annotations", tmp_path / folder)
        made.append([target.make(random.Random(f"0:annotations:{n}")) for n in range(50)])
    assert made[0] == made[1]
    assert len(set(made[0])) > 40


class Broken:
    """Breaks on its second input, and takes its process down with the fourth."""

    def __init__(self, folder):
        self.numbers = itertools.count(-1)  # one is made before the first that is checked

    def make(self, rng):
        return "x.txt", str(next(self.numbers)).encode()

    def check(self, name, data):
        if data == b"1":
            raise KeyError("lost")
        if data == b"3":
            os.abort()
        return "fine"

    def close(self):
        pass


def test_a_finding_is_kept_with_its_traceback(tmp_path, capfd):
    counts = watch(Plan(f"{__name__}:Broken", 0, 0, 4, 60.0, tmp_path))
    assert counts["fine"] == 2
    (first, second) = sorted(tmp_path.glob("*/*"))
    assert (first.name, second.name) == ("0-1", "0-3")
    assert (first / "x.txt").read_bytes() == b"1"
    assert "KeyError: 'lost'" in (first / "traceback.txt").read_text()
    assert "exit code -6" in (second / "traceback.txt").read_text()
    printed = capfd.readouterr().out.splitlines()
    assert [line.rpartition(": ")[2] for line in printed] == ["'lost'", "exit code -6"]
