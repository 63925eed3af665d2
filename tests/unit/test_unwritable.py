"""Folders that cannot be written, disks without room: exit 7, one sentence that names the place, nothing lost."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from unittest import mock

import pytest

from seedbench_r1.errors import ResourceError
from seedbench_r1.files import AppendFile
from seedbench_r1.runs.directory import RunDir, load_run
from tests.command import cli
from tests.small_benchmark import write_script

pytestmark = pytest.mark.usefixtures("shared_decoders")


@pytest.fixture(scope="module")
def answered(data_root, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("answered")
    script = write_script(folder / "script.json")
    words = ("eval", "--backend", "fake", "--model", script, "--data-root", data_root, "--levels", "L1", "--workers", 1)
    assert cli(*words, "--run-name", "r", cwd=folder).returncode == 0
    return folder


@pytest.fixture
def refused(answered):
    """Every attempt to open something in the run, or to make something there, for writing, as a read-only disk does.

    A file's mode would not stop root, under whom tests may run.
    """
    real_open, real_mkdir = os.open, os.mkdir

    def open_(path, flags, *more, **options):
        if os.path.abspath(path).startswith(str(answered)) and flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real_open(path, flags, *more, **options)

    def mkdir(path, *more, **options):
        if os.path.abspath(path).startswith(str(answered)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real_mkdir(path, *more, **options)

    with mock.patch.object(os, "open", open_), mock.patch.object(os, "mkdir", mkdir):
        yield answered


def test_judging_a_run_that_cannot_be_written(refused):
    done = cli("judge", refused / "runs" / "r", cwd=refused)
    assert done.returncode == 7
    assert "verdicts.jsonl cannot be written: Read-only file system" in done.stderr
    assert "judge a copy" in done.stderr
    assert "bug" not in done.stderr


@pytest.mark.parametrize("fresh", [(), ("--fresh",), ("--shard", "1/2")])
def test_evaluating_where_nothing_can_be_written(refused, data_root, fresh):
    words = ("eval", "--backend", "fake", "--model", refused / "script.json", "--data-root", data_root)
    done = cli(*words, "--levels", "L1", "--run-name", "r", *fresh, cwd=refused)
    assert done.returncode == 7, done.stderr
    assert "cannot be written: Read-only file system. Fix:" in done.stderr


def test_what_nobody_has_said_better_is_no_bug(answered, tmp_path):
    """An OSError of the disk that reaches the end of the command line."""
    broken = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "x"))
    with mock.patch("seedbench_r1.cli.show.load_run", side_effect=broken):
        done = cli("show", answered / "runs" / "r", cwd=tmp_path)
    assert done.returncode == 7
    assert done.stderr.startswith(f"{tmp_path / 'x'}: No space left on device. What was finished is saved. Fix: free")
    assert len(done.stderr.splitlines()) == 1
    with mock.patch("seedbench_r1.cli.show.load_run", side_effect=OSError(errno.EINVAL, "odd")):
        done = cli("show", answered / "runs" / "r", cwd=tmp_path)
    assert done.returncode == 1
    assert "This is a bug; the traceback is in" in done.stderr


def test_a_bug_on_a_disk_without_room_for_its_traceback(answered, tmp_path):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with (
        mock.patch("seedbench_r1.cli.show.load_run", side_effect=ZeroDivisionError("oops")),
        mock.patch("tempfile.mkstemp", side_effect=full),
    ):
        done = cli("show", answered / "runs" / "r", cwd=tmp_path)
    assert done.returncode == 1
    assert "Unexpected ZeroDivisionError: oops. This is a bug; -vv shows the traceback" in done.stderr


def test_locks_are_given_back_where_the_file_cannot_be_opened(tmp_path):
    (tmp_path / "x.jsonl").mkdir()
    with pytest.raises(ResourceError, match=r"x\.jsonl cannot be written: Is a directory"):
        AppendFile(tmp_path, "x.jsonl", alone=True)
    (tmp_path / "x.jsonl").rmdir()
    AppendFile(tmp_path, "x.jsonl", alone=True).close()


def test_fresh_on_a_full_disk_leaves_the_run_as_it_was(answered, tmp_path):
    run = shutil.copytree(answered / "runs" / "r", tmp_path / "r")
    before = load_run(run)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with mock.patch("shutil.copyfile", side_effect=full), pytest.raises(ResourceError, match="No space left"):
        RunDir.open(run, before.manifest, [*before.questions.values()], fresh=True)
    assert load_run(run).records == before.records
    assert not list(run.glob("old-*"))
