"""How a run of several samples of each question is shown: avg@K with its spread, maj@K, pass@k."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leaderboards.sampled import SampleNumbers, sample_numbers
from leaderboards.stats import Proportion
from seedbench_r1.cli import console
from seedbench_r1.files import JsonObject
from seedbench_r1.runs.directory import Run

FEW_TOKENS = 0.1  # top_p below which hardly more than the likeliest token is left
FIX = "--temperature 1 --top-p 1 (another protocol id)"


def print_samples(folder: Path, runs: Sequence[Run]) -> None:
    """The table of splits, the probability of a right one among fewer samples, and what to type next."""
    screen, k = console.out(), len(runs)
    table = console.table(
        ["split"], ["n", f"avg@{k} %", "samples", "sd", f"maj@{k}", f"pass@{k}"], padding=(0, 1, 0, 0)
    )
    found = sample_numbers(runs)
    for split, numbers in found.items():
        table.add_row(split, *_cells(numbers, k))
    screen.print(table)
    screen.print(
        f" {k} samples of each question; avg: their mean, 95 % interval over questions, clustered by video; "
        "sd: between samples; maj: the answer of most; pass: any is right",
        soft_wrap=True,
    )
    for split, numbers in found.items():
        if len(numbers.passed) > 2:
            shown = ", ".join(f"pass@{k} {100 * share.value:.1f}" for k, share in numbers.passed.items())
            screen.print(f" {split}: {shown}", soft_wrap=True)
    if missing := sum(numbers.n - numbers.answered for numbers in found.values()):
        screen.print(f" INCOMPLETE: {missing} questions lack an answer in a sample; not to be ranked", soft_wrap=True)
    if all(len(set(numbers.by_sample)) == 1 for numbers in found.values()) and _hardly_sampled(runs[0]):
        screen.print(f" ! At this top_p all samples are nearly the same. Fix: {FIX}", soft_wrap=True)
    screen.print(f" saved {folder}; next: seedbench-r1 judge {folder}", soft_wrap=True)


def _hardly_sampled(run: Run) -> bool:
    sampling = run.manifest.sampling
    return sampling is not None and sampling.top_p < FEW_TOKENS


def average_cell(numbers: SampleNumbers) -> str:
    """ "57.0 [54.6, 59.4]", or how many questions are answered in every sample."""
    cell = numbers.average
    if cell is None:
        return f"{numbers.answered} answered"
    return f"{100 * cell.value:.1f} [{100 * cell.lo:.1f}, {100 * cell.hi:.1f}]"


def _cells(numbers: SampleNumbers, k: int) -> list[str]:
    n, mean = str(numbers.n), average_cell(numbers)
    if numbers.average is None:
        return [n, mean, "-", "-", "-", "-"]
    lo, hi = min(numbers.by_sample), max(numbers.by_sample)
    deviation = "-" if k < 2 else f"{100 * numbers.deviation:.1f}"
    last = numbers.passed[k]
    return [
        n,
        mean,
        f"{100 * lo:.1f}-{100 * hi:.1f}",
        deviation,
        "-" if numbers.majority is None else f"{100 * numbers.majority.value:.1f}",
        f"{100 * last.value:.1f}",
    ]


def samples_values(folder: Path, runs: Sequence[Run]) -> JsonObject:
    """The same for --json. Fractions; null while an answer is missing."""
    return {
        "schema": "sbr1.samples-eval/1",
        "run_dir": str(folder),
        "protocol_id": runs[0].manifest.protocol_id,
        "samples": [{"seed": run.manifest.seed, "run_dir": str(run.path)} for run in runs],
        "splits": {split: _values(numbers) for split, numbers in sample_numbers(runs).items()},
    }


def _values(numbers: SampleNumbers) -> JsonObject:
    return {
        "n": numbers.n,
        "answered": numbers.answered,
        "average": _share(numbers.average),
        "by_sample": list(numbers.by_sample),
        "deviation": numbers.deviation,
        "majority": _share(numbers.majority),
        "pass_at": {str(k): _share(share) for k, share in numbers.passed.items()},
    }


def _share(cell: Proportion | None) -> JsonObject | None:
    return None if cell is None else {"value": cell.value, "ci": [cell.lo, cell.hi], "deff": cell.deff}
