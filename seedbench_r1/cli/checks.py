"""Checks of the machine, each with what to type if it fails."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from seedbench_r1.config import find_data_root
from seedbench_r1.data.status import data_status
from seedbench_r1.errors import ConfigError

Status = Literal["pass", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's report."""

    status: Status
    text: str
    fix: str | None = None


def examine(data_root: Path | None, runs_dir: Path, environ: Mapping[str, str]) -> Iterator[Finding]:
    """All checks, cheap ones first. Imports torch."""
    # A generator, so that the first lines are on the screen while torch is still being imported.
    yield _packages()
    yield from _torch()
    yield _decord()
    yield _optional("vllm", "vllm", "faster generation on GPUs")
    yield _optional("peft", "train", "LoRA adapters and training")
    yield _data(data_root, environ)
    yield _disk("runs", runs_dir, 1.0, "--runs-dir")
    hub = Path(environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    yield _disk("hub cache", hub, 17.0, "export HF_HOME=/big/disk")


def _packages() -> Finding:
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "av")}
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return Finding("pass", f"python {platform.python_version()}, {listed}")


def _torch() -> Iterator[Finding]:
    # Compiled parts that do not fit each other raise other errors than ImportError.
    try:
        import torch
        import torchvision  # a broken torchvision takes transformers' processors with it
    except (ImportError, RuntimeError, OSError) as error:
        yield Finding("fail", f"torch or torchvision does not import: {error}", "pip install -U torch torchvision")
        return
    yield Finding("pass", f"torchvision {torchvision.__version__} imports")
    if not torch.cuda.is_available():
        from seedbench_r1.backends.loading import why_no_gpu

        said = f"no GPU ({why_no_gpu()}): {os.cpu_count()} CPU cores will do, slowly"
        yield Finding("warn", said, "needed only for real checkpoints")
        return
    for index in range(torch.cuda.device_count()):
        # What other processes hold counts: a full GPU is the most common reason for a failure.
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        yield Finding("pass", f"GPU {index}: {name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free")


def _decord() -> Finding:
    if importlib.util.find_spec("decord") is not None:
        return Finding("pass", f"decord {importlib.metadata.version('decord')}")
    return Finding("fail", "decord is not installed", "pip install decord  (Linux x86-64), or  --reader pyav")


def _optional(module: str, extra: str, purpose: str) -> Finding:
    if importlib.util.find_spec(module) is not None:
        return Finding("pass", f"{module} {importlib.metadata.version(module)}")
    return Finding("warn", f"{module} is not installed ({purpose})", f"in the checkout: pip install '.[{extra}]'")


def _data(data_root: Path | None, environ: Mapping[str, str]) -> Finding:
    try:
        # Not an error here: doctor is run before any data is fetched.
        root = find_data_root(data_root, environ)
    except ConfigError as error:
        return Finding("warn", "no data root", str(error).partition("Fix: ")[2])
    levels = data_status(root)
    counted = ", ".join(f"{level.level} {level.questions}" for level in levels)
    # Absent files are a warning: some levels may be complete, and only those be wanted.
    missing = sum(len(level.missing) for level in levels)
    errors = [level.error for level in levels if level.error]
    if errors:
        return Finding("fail", f"data root {root}: {errors[0]}", "seedbench-r1 data status")
    if missing:
        return Finding(
            "warn", f"data root {root}: {counted}; {missing} media files missing", "seedbench-r1 data status"
        )
    return Finding("pass", f"data root {root}: {counted}, all media present")


def _disk(name: str, path: Path, needed_gb: float, fix: str) -> Finding:
    # A folder that does not exist yet will lie on the disk of its nearest existing parent.
    existing = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    if not os.access(existing, os.W_OK):
        return Finding("fail", f"{name}: {existing} is not writable", fix)
    free = shutil.disk_usage(existing).free / 1e9
    if free < needed_gb:
        return Finding("warn", f"{name}: {free:.1f} GB free at {existing}, {needed_gb:g} GB wanted", fix)
    return Finding("pass", f"{name}: {free:.0f} GB free at {existing}")
