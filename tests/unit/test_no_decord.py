"""Platforms without decord: processes from which it is hidden, on a machine that calls itself ARM."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

from seedbench_r1.media.decode import _no_decord
from seedbench_r1.runs.directory import load_run
from tests.command import cli, cli_process
from tests.small_benchmark import write_script

# Python runs a module of this name at its start, also in the decoding processes
SITE = """
import platform
from importlib.machinery import PathFinder

original = PathFinder.find_spec

def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] == "decord" else original(name, path, target)

PathFinder.find_spec = find_spec
platform.machine = lambda: "aarch64"
"""
CHOICE = "--reader pyav (frames are bit-equal, but the protocol id differs)"


@pytest.fixture
def arm(tmp_path) -> dict[str, str]:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SITE)
    return {"PYTHONPATH": str(folder)}


@pytest.fixture
def fake(data_root, tmp_path) -> list[object]:
    source = ["--model", write_script(tmp_path / "script.json"), "--data-root", data_root]
    return ["eval", "--backend", "fake", *source, "--workers", "1"]


@pytest.fixture
def arm_here(monkeypatch) -> None:
    """This process is such a one; its children are not."""
    monkeypatch.setitem(sys.modules, "decord", None)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")


@pytest.mark.usefixtures("arm_here")
def test_the_default_reader_is_refused_before_anything_runs(fake, tmp_path):
    done = cli(*fake, cwd=tmp_path)
    assert done.returncode == 3
    message = "decord, the default video reader, is not available for this platform (Linux aarch64)"
    assert done.stderr == f"{message}. Fix: {CHOICE}\n"
    assert not (tmp_path / "runs").exists()
    assert cli(*fake, "--dry-run", cwd=tmp_path).returncode == 3


def test_pyav_answers_everything_under_another_protocol(arm, fake, tmp_path):
    done = cli_process(*fake, "--reader", "pyav", cwd=tmp_path, **arm)
    assert done.returncode == 0, done.stderr
    with_decord = cli(*fake, cwd=tmp_path)
    assert with_decord.returncode == 0, with_decord.stderr
    loaded = [load_run(path) for path in sorted((tmp_path / "runs").iterdir())]
    assert len({run.manifest.protocol_id for run in loaded}) == 2
    readers = {run.manifest.video.reader: {r.reader for r in run.records.values()} - {None} for run in loaded}
    assert readers == {"pyav": {"pyav"}, "decord": {"decord"}}


def test_checking_the_data(arm, data_root, tmp_path):
    command = ["data", "verify", "--data-root", data_root]
    done = cli_process(*command, "--decode-sample", "3", "--reader", "pyav", cwd=tmp_path, **arm)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("arm_here")
def test_checking_the_data_names_the_other_reader(data_root, tmp_path):
    command = ["data", "verify", "--data-root", data_root]
    assert cli(*command, "--reader", "pyav", cwd=tmp_path).returncode == 0
    for options in ([], ["--decode-sample", "3"], ["--reader", "pyav", "--exact-frames"]):
        done = cli(*command, *options, cwd=tmp_path)
        assert done.returncode == 3
        assert CHOICE in done.stderr


def test_where_decord_could_be_installed_the_message_says_so():
    assert "pip install decord, or --reader pyav" in _no_decord("Linux", "x86_64")
    for system, machine in (("Darwin", "arm64"), ("Linux", "aarch64")):
        assert f"this platform ({system} {machine})" in _no_decord(system, machine)
        assert "pip install" not in _no_decord(system, machine)


def test_the_message_in_the_documentation_is_the_real_one():
    page = (Path(__file__).parents[2] / "docs" / "install.md").read_text(encoding="utf-8")
    assert f"\n{_no_decord('Darwin', 'arm64')}\n" in page
