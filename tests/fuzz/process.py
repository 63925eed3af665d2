"""One target in a process of its own, which may crash, hang and take memory; what it does then is a finding."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, replace
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from tests.fuzz import open_target

HANG_S = 90.0  # without a new input; the slowest one that is right takes a tenth
MOST_BYTES, RENEWED_AT = 4 << 30, 2 << 30  # of memory, with the processes below; of a process between two inputs
MOST_DEATHS = 5  # and nothing else: the target itself is at fault
PRINTED = "stderr.txt"
CURRENT = "current"  # below a target's folder: the input that is being checked


@dataclass(frozen=True)
class Plan:
    """What one process does."""

    target: str
    seed: int
    start: int
    stop: int | None  # number of the first input that is not checked
    seconds: float
    found: Path


def work(plan: Plan, folder: Path, pipe: Connection) -> None:
    """Check inputs until the time or the numbers end. Sends (number, outcome) for each."""
    with (folder / PRINTED).open("wb") as file:
        os.dup2(file.fileno(), 2)  # libraries in C print a line for each oddity
    target = open_target(plan.target, folder)
    seen: set[str] = set()
    try:
        target.make(random.Random(0))  # imports, and writes the seeds: these seconds come on top
        ends = time.monotonic() + plan.seconds
        for number in count(plan.start):
            # At least one. Caches of other packages grow with each: a new process follows.
            enough = time.monotonic() > ends or psutil.Process().memory_info().rss > RENEWED_AT
            if number == plan.stop or (number > plan.start and enough):
                break
            name, data = target.make(random.Random(f"{plan.seed}:{plan.target}:{number}"))
            current = folder / CURRENT
            shutil.rmtree(current, ignore_errors=True)
            current.mkdir()
            (current / name).write_bytes(data)
            try:
                outcome = target.check(name, data)
            except Exception as error:  # noqa: BLE001  # whatever it is, it was not expected
                outcome = f"FOUND {type(error).__name__} {traceback.extract_tb(error.__traceback__)[-1].line}"
                # The same place found again is only counted.
                if outcome not in seen:
                    keep(plan, folder, number, traceback.format_exc())
                seen.add(outcome)
            pipe.send((number, outcome))
    finally:
        target.close()


def keep(plan: Plan, folder: Path, number: int, text: str) -> None:
    """Save the input that is being checked, with what became of it; one line on the terminal."""
    place = plan.found / plan.target / f"{plan.seed}-{number}"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder / CURRENT, place) if (folder / CURRENT).exists() else place.mkdir(parents=True)
    (place / "traceback.txt").write_text(text, encoding="utf-8", errors="backslashreplace")
    last = ascii(text.strip().rpartition("\n")[2])[1:-1]
    print(f"{plan.target}: {place}: {last[:300]}", flush=True)


def watch(plan: Plan) -> Counter[str]:
    """Run the target, in a new process after each one that died. Returns how many inputs ended how."""
    counts: Counter[str] = Counter()
    ends, number = time.monotonic() + plan.seconds, plan.start
    while plan.stop is None or number < plan.stop:
        left = replace(plan, start=number, seconds=ends - time.monotonic())
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            number, death = _one_process(left, Path(folder), counts)
            if death is not None:
                printed = (Path(folder) / PRINTED).read_text(errors="replace")[-4000:]
                keep(plan, Path(folder), number, f"{printed}\n{death}")
                counts[f"FOUND {death}"] += 1
                number += 1
        if time.monotonic() > ends or counts.total() == MOST_DEATHS == counts[f"FOUND {death}"]:
            break
    return counts


def _one_process(plan: Plan, folder: Path, counts: Counter[str]) -> tuple[int, str | None]:
    """The number of the input at which it ended, and what killed it; None: it came to its end."""
    context = multiprocessing.get_context("spawn")
    pipe, other = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(plan, folder, other))
    process.start()
    other.close()
    number, since = plan.start, time.monotonic()
    try:
        while True:
            if pipe.poll(0.5):
                try:
                    done, outcome = pipe.recv()
                except EOFError:
                    process.join()
                    return number, f"the process died: exit code {process.exitcode}" if process.exitcode else None
                counts[outcome] += 1
                number, since = done + 1, time.monotonic()
            elif time.monotonic() - since > HANG_S:
                return number, f"it hung for {HANG_S:g} s"
            elif (n_bytes := _memory(process.pid)) > MOST_BYTES:
                return number, f"it took {n_bytes / 1e9:.1f} GB"
    finally:
        process.kill()
        process.join()


def _memory(pid: int | None) -> int:
    try:
        process = psutil.Process(pid)
        return sum(each.memory_info().rss for each in (process, *process.children(recursive=True)))
    except psutil.NoSuchProcess:
        return 0
