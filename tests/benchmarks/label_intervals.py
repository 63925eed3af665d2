"""Which interval of a corrected rate covers? Prints a table of docs/consistency.md."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

from leaderboards import stats
from tests.unit.test_calibration import COVERED, label_adaptively

REPEATS = 2000


def with_whole_labels(yes: int, no: int, table: tuple[int, int, int, int]) -> tuple[float, float]:
    """Normal interval after one label of either word was added to each side."""
    yy, yn, ny, nn = (count + 1 for count in table)
    p, confirmed, missed = yes / (yes + no), yy / (yy + yn), ny / (ny + nn)
    rate = p * confirmed + (1 - p) * missed
    spread = (confirmed - missed) ** 2 * p * (1 - p) / (yes + no)
    spread += p**2 * confirmed * (1 - confirmed) / (yy + yn) + (1 - p) ** 2 * missed * (1 - missed) / (ny + nn)
    return rate - stats.Z * spread**0.5, rate + stats.Z * spread**0.5


def main() -> None:
    """One row of Markdown for each case."""
    for case in COVERED:
        n, truth, sensitivity, specificity, labels, *target = case
        rng = np.random.default_rng(17)
        held, taken = [], []
        for _ in range(REPEATS):
            done = label_adaptively(rng, *case)
            plain = stats.predictive_value_rate(done.run.yes, n, done.table)
            ends = ((plain.lo, plain.hi), with_whole_labels(done.run.yes, done.run.no, done.table))
            ends = (*ends, (done.estimate.lo, done.estimate.hi))
            held.append([lo <= truth <= hi for lo, hi in ends])
            taken.append(sum(done.table))
        spent = f"{labels}" if labels else f"to +-{100 * target[0]:g}: {np.mean(taken):.0f}"
        shares = " | ".join(f"{100 * share:.1f}" for share in np.mean(held, axis=0))
        print(f"| {100 * truth:g} % | {sensitivity:g}, {specificity:g} | {n:,} | {spent} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
