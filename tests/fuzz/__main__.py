"""Run the targets one after another. See CONTRIBUTING.md."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.fuzz import TARGETS
from tests.fuzz.process import Plan, watch


def main() -> int:
    """Returns 1 if anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=900.0, help="for all targets, in equal shares")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(TARGETS), help="targets, joined by commas")
    parser.add_argument("--start", type=int, default=0, help="number of the first input")
    parser.add_argument("--count", type=int, help="inputs of each target; by default as many as the time allows")
    parser.add_argument("--out", type=Path, default=Path("fuzz-found"), help="where findings are kept")
    options = parser.parse_args()
    names = options.only.split(",")
    if unknown := set(names) - set(TARGETS):
        parser.error(f"no target {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    stop = None if options.count is None else options.start + options.count
    print(f"seed {options.seed}", flush=True)
    n_found = 0
    for name in names:
        began = time.monotonic()
        plan = Plan(name, options.seed, options.start, stop, options.seconds / len(names), options.out)
        counts = watch(plan)
        n_found += sum(n for outcome, n in counts.items() if outcome.startswith("FOUND"))
        print(f"{name}: {sum(counts.values())} inputs in {time.monotonic() - began:.0f} s", flush=True)
        for outcome, n in counts.most_common():
            print(f"  {n:6} {outcome}", flush=True)
    return int(n_found > 0)


if __name__ == "__main__":
    sys.exit(main())
