"""A stage in a process of its own: python -m tests.gpu.stage_process FUNCTION --device D --result FILE [--smoke]

It imports all that the stage needs, then waits for a line on its standard input, so that imports overlap with the stage
before. Where that input ends, whoever started the process is gone: it ends itself, and what it has started.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import json
import os
import signal
import sys
import threading
import time
import traceback
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(slots=True)
class Place:
    """Where a stage runs, and where it writes what it has found."""

    device: torch.device
    smoke: bool  # in miniature
    folder: Path  # for its files
    path: Path  # of the result
    found: dict[str, Any] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)

    def note(self, **values: Any) -> None:
        """Write results at once: those of a stage that is ended early are kept."""
        self.found |= values
        self._write("unfinished")

    def check(self, holds: bool, complaint: str) -> None:
        """Unless it holds the stage has failed, and goes on."""
        if not holds:
            self.complaints.append(complaint)

    def finish(self, status: str, error: str | None = None) -> None:
        """Write how the stage ended."""
        self._write(status, error)

    def _write(self, status: str, error: str | None = None) -> None:
        write_json(self.path, {"status": status, "found": self.found, "error": error, "complaints": self.complaints})


def write_json(path: Path, value: object) -> None:
    """In one move: the file is the former or the new one, whenever this process is killed."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(value, indent=1, default=str) + "\n", encoding="utf-8")
    draft.replace(path)


@contextlib.contextmanager
def explained(path: Path, place: Place | None = None) -> Iterator[None]:
    """Whatever is raised inside becomes the stage's result, with its traceback."""
    try:
        yield
    except BaseException:
        if place is None:
            write_json(path, {"status": "failed", "found": {}, "error": traceback.format_exc(), "complaints": []})
        else:
            place.finish("failed", traceback.format_exc())
        raise


def end_with_parent() -> None:
    """Wait for the end of standard input, then kill this process's group."""
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


def stand_in_for_pebble() -> None:
    """The trainers import it for the decoding of media, which the stages on ready pixels do not need."""
    if importlib.util.find_spec("pebble") is None:
        absent = types.ModuleType("pebble")
        vars(absent).update(ProcessPool=None, ProcessExpired=type("ProcessExpired", (RuntimeError,), {}))
        sys.modules["pebble"] = absent


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("function")
    parser.add_argument("--device", required=True)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--result", type=Path, required=True, help="files of the stage lie next to it")
    given = parser.parse_args()
    stand_in_for_pebble()
    began = time.monotonic()
    with explained(given.result):
        importlib.import_module(given.function.partition(":")[0])
        import torch

        from seedbench_r1.backends.loading import device_name, resolve_device
    imported = time.monotonic() - began
    if not os.read(0, 1):
        return  # never begun
    threading.Thread(target=end_with_parent, daemon=True).start()
    folder = given.result.with_suffix("")
    folder.mkdir()
    place = Place(torch.device(given.device), given.smoke, folder, given.result)
    with explained(given.result, place):
        # What is compared with a CPU is computed in float32 throughout; convolutions would take TF32 otherwise.
        torch.backends.cudnn.allow_tf32 = False
        switches = attention_switches()
        place.note(import_s=round(imported, 1), card=device_name(resolve_device(given.device)), attention=switches)
        module, _, name = given.function.partition(":")
        getattr(importlib.import_module(module), name)(place)
    place.finish("failed" if place.complaints else "done")


def attention_switches() -> dict[str, bool]:
    """Which of torch's attention kernels may be chosen. Read before cuDNN's is left out, as resolve_device does."""
    import torch

    kinds = ("flash", "mem_efficient", "math", "cudnn")
    return {kind: bool(getattr(torch.backends.cuda, f"{kind}_sdp_enabled")()) for kind in kinds}


if __name__ == "__main__":
    main()
