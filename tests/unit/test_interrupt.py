"""Ctrl-C in the middle of a command: our message and 130, not an exit without a word."""

import sys

import pytest

import seedbench_r1.suites
from seedbench_r1.cli.app import main


def test_ctrl_c_is_answered_with_what_to_do_next(monkeypatch, capsys):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(seedbench_r1.suites, "resolve", interrupt)
    monkeypatch.setattr(sys, "argv", ["seedbench-r1", "eval", "--backend", "fake", "--model", "m"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 130
    assert "the same command continues" in capsys.readouterr().err


def test_other_exits_stay_as_they_are(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["seedbench-r1", "--version"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert "continues" not in capsys.readouterr().err
