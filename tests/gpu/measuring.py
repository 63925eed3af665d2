"""Seconds, memory, kernels and host synchronisations of what runs on a GPU; on a CPU seconds alone."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

GB = 1e9
ATTENTION_WORDS = ("fmha", "flash", "attention", "sdpa", "mha")  # in the names of attention kernels
SYNCHRONISING = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


def now(device: torch.device) -> float:
    """Seconds on the host's clock, once the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds(device: torch.device, work: Callable[[], object]) -> float:
    """That one call takes, until the device has finished."""
    began = now(device)
    work()
    return now(device) - began


def device_peaks(device: torch.device, peaks: dict[str, tuple[float, float]]) -> tuple[float, float] | None:
    """Of the data sheet: bfloat16 FLOP/s and bytes/s; None for a card that is not listed."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((numbers for key, numbers in peaks.items() if key in name), None)


@dataclass(slots=True)
class Measured:
    """A stage of a step, without the stages inside it."""

    s: float = 0.0
    peak_gb: float = 0.0  # allocated, everything that was there before included
    reserved_gb: float = 0.0  # by torch's allocator: more than was allocated by what is fragmented


class Meter:
    """Takes time and peak memory by stage; inner stages are not counted in the outer ones."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stages: dict[str, Measured] = {}
        self.synchronisations: dict[str, Counter[str]] = {}  # by stage, "file:line" -> how often
        self._open: list[str] = []
        self._since = 0.0

    @property
    def current(self) -> str:
        """The innermost open stage."""
        return self._open[-1] if self._open else "outside"

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count towards `name` until it is left."""
        self._switch()
        self._open.append(name)
        try:
            yield
        finally:
            self._switch()
            self._open.pop()

    def begin_again(self) -> None:
        """Forget what was measured, and give unused memory back, so that peaks are those of what comes."""
        self.stages.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def numbers(self) -> dict[str, dict[str, float]]:
        """For JSON."""
        return {name: {key: round(value, 4) for key, value in asdict(one).items()} for name, one in self.stages.items()}

    @contextlib.contextmanager
    def watching_synchronisations(self) -> Iterator[None]:
        """Count by stage where the host waits for the device: torch's own warnings. Copies to it are among them."""
        if self.device.type != "cuda":
            yield
            return

        def count(message: Warning | str, category: type[Warning], file: str, line: int, *rest: Any) -> None:
            if "called a synchronizing" in str(message) and not file.endswith("torch/cuda/__init__.py"):
                place = f"{'/'.join(file.split('/')[-3:])}:{line}"
                self.synchronisations.setdefault(self.current, Counter())[place] += 1

        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = count
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield
            finally:
                torch.cuda.set_sync_debug_mode("default")

    def _switch(self) -> None:
        reached = now(self.device)
        if self._open:
            one = self.stages.setdefault(self._open[-1], Measured())
            one.s += reached - self._since
            if self.device.type == "cuda":
                one.peak_gb = max(one.peak_gb, torch.cuda.max_memory_allocated(self.device) / GB)
                one.reserved_gb = max(one.reserved_gb, torch.cuda.max_memory_reserved(self.device) / GB)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self._since = time.perf_counter()


def kernels_of(device: torch.device, work: Callable[[], object]) -> dict[str, Any]:
    """Profile one call: kernels, those of attention by name, those that took longest, and waits of the host.

    Called once before, so that nothing is initialised or chosen while it is watched.
    """
    cuda = device.type == "cuda"
    work()
    now(device)
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as found:
        work()
        now(device)
    events = found.events() or []
    on_device = [e for e in events if e.device_type == torch.autograd.DeviceType.CUDA]
    copies = [e for e in on_device if e.name.startswith(("Memcpy", "Memset"))]
    # Spans of record_function are shown on the device as well, under names that no kernel has.
    kernels = [e for e in on_device if not e.name.startswith(("Memcpy", "Memset", "ProfilerStep", "aten::"))]
    spent: Counter[str] = Counter()
    for event in kernels:
        spent[event.name] += event.time_range.elapsed_us()
    attention = Counter(e.name for e in kernels if any(word in e.name.lower() for word in ATTENTION_WORDS))
    waits = Counter(e.name for e in events if e.name in SYNCHRONISING)
    return {
        "kernels": len(kernels),
        "copies": len(copies),
        "host operations": sum(e.name.startswith("aten::") for e in events),
        "busy_ms": round(sum(spent.values()) / 1e3, 3),
        "attention kernels": {name[:160]: count for name, count in attention.most_common(8)},
        "longest_ms": {name[:120]: round(us / 1e3, 3) for name, us in spent.most_common(6)},
        "host waits": dict(waits),
    }
