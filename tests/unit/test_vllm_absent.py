"""Asking for vLLM where it is not installed, or does not work, before any model is loaded."""

from __future__ import annotations

import sys

import pytest

from seedbench_r1.backends.vllm_engine import check_vllm
from seedbench_r1.errors import ConfigError


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """check_vllm sets defaults for vLLM; this takes them away again."""
    for name in ("LOGGING_STREAM", "LOGGING_LEVEL", "NO_USAGE_STATS", "WORKER_MULTIPROC_METHOD"):
        monkeypatch.setenv(f"VLLM_{name}", "as it was")


def test_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError) as raised:
        check_vllm()
    assert str(raised.value) == (
        f"Backend 'vllm' requested but not installed (python {sys.executable}). "
        "Fix, in the checkout: pip install '.[vllm]'  or  --backend transformers"
    )
    assert raised.value.exit_code == 3


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("", "cannot import name 'LLM'"),  # the package is there, its compiled parts are not
        ("raise OSError('libcudart.so.13: cannot open shared object file')", "libcudart.so.13"),
        ("import no_such_module", "No module named 'no_such_module'"),
    ],
)
def test_installed_but_broken(monkeypatch, tmp_path, source, reason):
    (tmp_path / "vllm.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    with pytest.raises(ConfigError, match=reason) as raised:
        check_vllm()
    assert "--backend transformers" in str(raised.value)
    sys.modules.pop("vllm", None)
