"""Processes of the command line by the dozen: forked from one that has imported everything, so that a start is cheap.

They are real processes with decoders of their own, to be killed at any moment. Only their imports are not tested.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing.context import ForkServerProcess
from pathlib import Path

__all__ = ["start"]

PRELOADED = (
    "tests.forked",
    "seedbench_r1.backends.fake",
    "seedbench_r1.backends.transformers",
    "seedbench_r1.cli.app",
    "seedbench_r1.engines.plan",
    "seedbench_r1.engines.run",
    "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl",
)


def start(words: list[str], *, stderr: Path) -> ForkServerProcess:
    """Run a command of seedbench-r1. Its standard output is dropped."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    process = context.Process(target=_run, args=(words, stderr))
    process.start()
    return process


def _run(words: list[str], stderr: Path) -> None:
    for descriptor, path in ((1, Path(os.devnull)), (2, stderr)):
        with path.open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    from seedbench_r1.cli.app import main

    sys.argv = ["seedbench-r1", *words]
    main()
