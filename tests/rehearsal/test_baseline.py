"""No stage of a training step takes more arithmetic, memory or host synchronisations than stored.

CONTRIBUTING.md says when tests/rehearsal/baseline.json is changed.
"""

import json

import pytest

from tests.rehearsal.baseline import CASES, PATH, TESTED, read, rehearse_apart, worse


@pytest.mark.parametrize("case", TESTED, ids=lambda case: case.name)
def test_a_step_is_not_worse_than_stored(case):
    assert not worse(rehearse_apart(case), read()[case.name])


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case not in TESTED], ids=lambda case: case.name)
def test_the_other_stored_steps_are_not_worse(case):
    assert not worse(rehearse_apart(case), read()[case.name])


def test_the_baseline_holds_the_cases_each_with_a_reason():
    stored = json.loads(PATH.read_text(encoding="utf-8"))
    assert list(stored) == [case.name for case in CASES]
    assert all(entry["reason"].strip() for entry in stored.values())
