"""The tiny models of the package, copied and made, on disks that refuse."""

import subprocess
import sys

import pytest

from seedbench_r1.demo.models import copy_shipped_model, shipped_model
from seedbench_r1.demo.tiny_model import write_miniature_model
from seedbench_r1.errors import ConfigError, ResourceError
from tests.command import cli


def test_an_unknown_name_is_refused():
    with pytest.raises(ConfigError, match="sft, grpo, care"):
        shipped_model("dapo")


def test_a_trained_model_of_the_package_is_copied_whole_and_over_nothing(tmp_path):
    done = cli("demo", "model", "--trained", "care", "--out", "base", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    copied = {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()}
    assert copied == {path.name: path.read_bytes() for path in shipped_model("care").iterdir()}
    again = cli("demo", "model", "--trained", "sft", "--out", "base", cwd=tmp_path)
    assert (again.returncode, "base holds a model already" in again.stderr) == (3, True)
    unknown = cli("demo", "model", "--trained", "dapo", "--out", "other", cwd=tmp_path)
    assert (unknown.returncode, "sft, grpo, care" in unknown.stderr) == (3, True)
    assert not (tmp_path / "other").exists()


MAKING = {
    "generate": ["--questions", "2", "--train", "0", "--traces", "0"],
    "random": ["--seed", "1"],
    "trained": ["--trained", "sft"],
}


@pytest.mark.parametrize("what", MAKING)
def test_a_disk_that_refuses_is_named_and_nothing_half_made_passes_for_whole(tmp_path, what):
    """The limit on file sizes stands for a full disk."""
    out = tmp_path / "made"
    limit = 500 if what == "generate" else 100_000
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY));"
        "from seedbench_r1.cli.app import main; main()"
    )
    words = ["demo", "generate" if what == "generate" else "model", *MAKING[what]]
    done = subprocess.run([sys.executable, "-Bc", code, *words, "--out", out], capture_output=True, text=True)
    assert done.returncode == 7, done.stderr
    assert str(out) in done.stderr
    assert "Fix: " in done.stderr
    assert not list(out.rglob(".*"))
    if what != "generate":
        assert cli(*words, "--out", out, cwd=tmp_path).returncode == 0  # once there is room


@pytest.mark.parametrize("make", [lambda folder: copy_shipped_model("sft", folder), write_miniature_model])
def test_a_file_where_the_folder_should_be(tmp_path, make):
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match=r"file/base cannot be written: Not a directory"):
        make(tmp_path / "file" / "base")
