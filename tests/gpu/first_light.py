"""The first nine minutes on a real GPU: stages in order of worth, each bounded, in a process of its own.

python tests/gpu/first_light.py [--json FILE] [--minutes 9] [--only STAGE,...] [--device cuda|cpu] [--smoke]

Nothing is installed or downloaded; torch 2.11, transformers 5.17 and this source tree are enough for most stages, and
what needs another package says so. After every stage FILE holds all results; a second call takes the stages that have
none, then those that failed. A stage that runs over its time is ended, and what it had found is kept.
--smoke: every stage in miniature on a CPU, to see that the script runs.

HAS NOT BEEN RUN ON A GPU YET; only its --smoke form has, on CPUs.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.gpu.stage_process import write_json  # noqa: E402  # needs the source tree
from tests.gpu.summary import summary  # noqa: E402

_MEDIA = ("accelerate", "pebble", "torchvision")


@dataclass(frozen=True, slots=True)
class Stage:
    """What is run in a process of its own. Times are those of a GPU, by estimate."""

    name: str
    function: str  # "module:function"
    expected_s: float  # with less time left it is not begun
    most_s: float  # after which it is ended
    needs: tuple[str, ...] = ()  # packages; without one it is skipped


# In order of worth: whether it runs at all, whether it is right, how fast it is.
STAGES = (
    Stage("environment", "tests.gpu.environment:environment", 10, 60),
    Stage("tiny evaluation", "tests.gpu.tiny:evaluation", 25, 90, (*_MEDIA, "av")),
    Stage("tiny training", "tests.gpu.tiny:training", 40, 120, _MEDIA),
    Stage("numbers", "tests.gpu.numbers:numbers", 20, 60),
    Stage("decoding", "tests.gpu.decoding:decoding", 35, 90),
    Stage("kernels", "tests.gpu.kernels:kernels", 25, 75),
    Stage("3b care lora", "tests.gpu.steps:care_3b", 80, 150, ("peft",)),
    Stage("7b care lora", "tests.gpu.steps:care_7b", 90, 180, ("peft",)),
    Stage("3b evaluation", "tests.gpu.real_evaluation:evaluation", 25, 60, ("torchvision",)),
    Stage("3b grpo and sft", "tests.gpu.steps:other_trainings_3b", 35, 90, ("peft",)),
    Stage("adamw", "tests.gpu.adamw:adamw", 8, 30),
    Stage("3b care full", "tests.gpu.steps:care_3b_full", 100, 200),
)


@dataclass(frozen=True, slots=True)
class Options:
    """Of a call."""

    path: Path
    minutes: float
    device: str
    smoke: bool


class StageProcess:
    """A stage's process: it imports what it needs, and waits for `begin`."""

    def __init__(self, stage: Stage, options: Options, folder: Path) -> None:
        self.stage = stage
        self._result = folder / f"{stage.function.replace(':', '-')}.json"
        command = [sys.executable, "-m", "tests.gpu.stage_process", stage.function]
        command += ["--device", options.device, "--result", str(self._result), *["--smoke"] * options.smoke]
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._log = self._result.with_suffix(".log")
        with self._log.open("wb") as log:
            # A group of its own, so that what it has started ends with it.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"},
                start_new_session=True,
            )

    def begin(self) -> None:
        """Let it run."""
        assert self._process.stdin is not None
        # One that could not import what it needs has ended already, and its result says so.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()

    def end(self, most_s: float) -> dict[str, Any]:
        """Wait for it, at most so long, and return its result."""
        began, ended_by_us = time.monotonic(), False
        try:
            self._process.wait(most_s)
        except subprocess.TimeoutExpired:
            ended_by_us = True
        self.kill()
        result = {"status": "unfinished", "found": {}, "error": None, "complaints": []}
        if self._result.is_file():
            result = json.loads(self._result.read_text(encoding="utf-8"))
        # One that has finished may still hang at its end: what it found holds.
        if result["status"] == "unfinished":
            status = "timed out" if ended_by_us else f"crashed with exit code {self._process.returncode}"
            result |= {"status": status, "error": "\n".join(self._said().splitlines()[-30:])}
        return result | {"seconds": round(time.monotonic() - began, 1)}

    def kill(self) -> None:
        """End it and what it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _said(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")


def run_stages(stages: Sequence[Stage], options: Options) -> dict[str, Any]:
    """Run what is pending, as far as the time reaches. Returns all results, which options.path holds as well.

    Raises SystemExit if options.path holds results of another kind of call.
    """
    deadline = time.monotonic() + 60 * options.minutes
    whole = opened(options)
    results: dict[str, Any] = whole["stages"]
    waiting = pending(stages, results)
    with tempfile.TemporaryDirectory(prefix="first-light-", ignore_cleanup_errors=True) as name:
        ready: StageProcess | None = None
        try:
            while waiting:
                stage = waiting.pop(0)
                if (why := why_not(stage, options, deadline)) is not None:
                    if ready is not None and ready.stage is stage:
                        ready.kill()
                        ready = None
                    # What an earlier call has found stays.
                    if results.get(stage.name, {"status": "not begun"})["status"].startswith("not begun"):
                        results[stage.name] = {"status": why, "found": {}, "error": None, "complaints": []}
                    print(f"{stage.name}: {why}", flush=True)
                else:
                    if ready is not None and ready.stage is stage:
                        process, ready = ready, None
                    else:
                        process = StageProcess(stage, options, Path(name))
                    print(f"{stage.name} ...", end=" ", flush=True)
                    process.begin()
                    # The next one imports meanwhile.
                    ready = ready or following(waiting, options, deadline - stage.expected_s, Path(name))
                    try:
                        results[stage.name] = process.end(min(stage.most_s, max(1.0, deadline - time.monotonic())))
                    finally:
                        process.kill()
                    print(f"{results[stage.name]['status']}, {results[stage.name]['seconds']} s", flush=True)
                write_json(options.path, whole)
        finally:
            if ready is not None:
                ready.kill()
    return whole


def following(waiting: Sequence[Stage], options: Options, deadline: float, folder: Path) -> StageProcess | None:
    """The process of the next stage that will probably be begun."""
    runnable = (stage for stage in waiting if why_not(stage, options, deadline) is None)
    stage = next(runnable, None)
    return None if stage is None else StageProcess(stage, options, folder)


def pending(stages: Sequence[Stage], results: Mapping[str, Any]) -> list[Stage]:
    """Those without a result in their order, then those that failed: a second call goes on where the first ended."""
    known = {name: one["status"] for name, one in results.items()}
    new = [stage for stage in stages if known.get(stage.name, "not begun").startswith("not begun")]
    failed = [stage for stage in stages if stage not in new and known[stage.name] != "done"]
    return new + failed


def why_not(stage: Stage, options: Options, deadline: float) -> str | None:
    """Why a stage cannot be begun; None: it can."""
    if absent := [name for name in stage.needs if importlib.util.find_spec(name) is None]:
        return f"not begun: needs {', '.join(absent)}"
    left = deadline - time.monotonic()
    if left < (2 if options.smoke else stage.expected_s):
        return f"not begun: {max(0, round(left))} s were left"
    return None


def opened(options: Options) -> dict[str, Any]:
    """The results so far. Raises SystemExit if they are of another kind of call."""
    kind = {"device": options.device, "smoke": options.smoke}
    if not options.path.is_file():
        return {**kind, "stages": {}}
    stored: dict[str, Any] = json.loads(options.path.read_text(encoding="utf-8"))
    if {name: stored.get(name) for name in kind} != kind:
        raise SystemExit(f"{options.path} holds results of another device or form. Fix: --json with another file.")
    return stored


def chosen_stages(only: str | None) -> list[Stage]:
    """Raises SystemExit for a name that no stage has."""
    known = {stage.name: stage for stage in STAGES}
    names = list(known) if only is None else [name.strip() for name in only.split(",")]
    if strangers := [name for name in names if name not in known]:
        raise SystemExit(f"No stage {strangers[0]!r}. There are: {', '.join(known)}.")
    return [known[name] for name in names]


@contextlib.contextmanager
def ended_by_signal() -> Iterator[None]:
    """SIGTERM ends this process as Ctrl-C does, so that the stages' processes end too."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("first-light.json"), help="results, of earlier calls too")
    parser.add_argument("--minutes", type=float, default=9.0, help="of all stages together")
    parser.add_argument("--only", metavar="STAGE,...", help="these alone: " + ", ".join(one.name for one in STAGES))
    parser.add_argument("--device", choices=("cuda", "cpu"))
    parser.add_argument("--smoke", action="store_true", help="in miniature, on a CPU unless --device says otherwise")
    given = parser.parse_args()
    device = given.device or ("cpu" if given.smoke else "cuda")
    if device == "cpu" and not given.smoke:
        parser.error("at full size the stages take hours on a CPU. Fix: --smoke, or --device cuda")
    options = Options(given.json.resolve(), given.minutes, device, given.smoke)
    with ended_by_signal():
        whole = run_stages(chosen_stages(given.only), options)
    print(summary(whole))
    return int(any(one["status"] != "done" for one in whole["stages"].values()))


if __name__ == "__main__":
    sys.exit(main())
