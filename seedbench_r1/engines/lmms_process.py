"""lmms-eval in a process of its own. It exits with 0 whatever happens, so callers count what it wrote."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seedbench_r1.errors import ConfigError, DataError
from seedbench_r1.files import read_json_object
from seedbench_r1.typed_json import parse_json

TASK_FOLDER = Path(__file__).parents[1] / "lmms_tasks"
OWN_MODEL = "seedbench_r1"  # lmms_tasks/manifest.py
POLL_S = 0.5  # how often a stop is looked for
GRACE_S = 20.0  # from asking the process to stop until it is killed


@dataclass(frozen=True, slots=True)
class LmmsModel:
    """A model as lmms-eval names it."""

    name: str  # --model
    args: str  # --model_args

    @property
    def is_ours(self) -> bool:
        return self.name == OWN_MODEL


@dataclass(frozen=True, slots=True)
class LmmsJob:
    """One call of lmms-eval."""

    model: LmmsModel
    tasks: tuple[str, ...]
    folder: Path  # its output goes to out/, its messages to log.txt
    include_path: Path | None = None  # tasks in addition to lmms-eval's own
    batch_size: int = 1
    seed: int = 0
    limit: int | None = None  # questions per task
    device: str | None = None

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    def command(self) -> list[str]:
        """The command line, with this Python."""
        words = [sys.executable, "-m", "lmms_eval", "--model", self.model.name, "--model_args", self.model.args]
        words += ["--tasks", ",".join(self.tasks), "--output_path", str(self.out.absolute()), "--log_samples"]
        words += ["--batch_size", str(self.batch_size), "--seed", str(self.seed)]
        if self.include_path is not None:
            words += ["--include_path", str(self.include_path.absolute())]
        if self.limit is not None:
            words += ["--limit", str(self.limit)]
        if self.device is not None:
            words += ["--device", self.device]
        return words


def lmms_eval_version() -> str:
    """The installed version. Raises ConfigError if there is none."""
    try:
        return importlib.metadata.version("lmms-eval")
    except importlib.metadata.PackageNotFoundError as error:
        raise ConfigError("lmms-eval is not installed. Fix, in the checkout: pip install '.[lmms]'.") from error


def join_model_args(options: dict[str, Any]) -> str:
    """key=value,key=value without the options that are None.

    Raises:
        ConfigError: a value holds a comma, a quote or a brace, which lmms-eval would split or keep.
    """
    pairs = []
    for name, value in options.items():
        if value is None:
            continue
        text = str(value)
        if set(text) & set(",'\"{}[]"):
            raise ConfigError(f"{name} is {text!r}: lmms-eval's --model_args cannot carry commas, quotes or brackets.")
        pairs.append(f"{name}={text}")
    return ",".join(pairs)


def run_job(job: LmmsJob, *, stop: threading.Event) -> None:
    """Run to the end, or until `stop` is set: then it is stopped, and its unfinished answers are lost.

    Nothing is known of success afterwards: read_samples() and last_words() tell.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab") as log:
        process = subprocess.Popen(job.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None and not stop.wait(POLL_S):
                pass
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def read_samples(job: LmmsJob, task: str) -> list[dict[str, Any]]:
    """The lines of a task's samples file; [] if there is none. Raises DataError for a line that is not JSON."""
    samples = []
    for path in sorted(job.out.rglob(f"*_samples_{task}.jsonl")):
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
            if not line:
                continue
            try:
                samples.append(parse_json(line))
            except ValueError as error:
                raise DataError(f"{path}:{number}: not valid JSON ({error}); lmms-eval wrote it.") from error
    return samples


def read_results(job: LmmsJob) -> dict[str, Any] | None:
    """lmms-eval's results file, or None if it wrote none. Raises DataError if it is not JSON."""
    files = sorted(job.out.rglob("*_results.json"))
    return read_json_object(files[-1], DataError) if files else None


def last_words(log: Path) -> str:
    """What the log says of the end: lmms-eval's own error line, else its last line."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    reasons = [line for line in lines if "Error during evaluation:" in line]
    chosen = lines[-1] if lines else "(nothing)"
    if reasons:  # without the advice that follows them
        chosen = reasons[-1].partition("Error during evaluation:")[2].partition(". Please set `--verbosity")[0].strip()
    return chosen if len(chosen) <= 600 else chosen[:600] + " ..."
