"""`seedbench-r1` and `python -m seedbench_r1`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def main() -> None:
    """Run the command line, unless another package stands in front of one of ours. Exit codes: docs/cli.md."""
    if problem := shadowed_package():
        from seedbench_r1.terminal import printable

        print(printable(problem), file=sys.stderr)
        raise SystemExit(3)
    from seedbench_r1.cli.app import main as run

    run()


def shadowed_package() -> str | None:
    """What is wrong if `trainers` or `leaderboards` would be imported from elsewhere; None if nothing is."""
    home = Path(__file__).resolve().parents[1]
    for name in ("trainers", "leaderboards"):
        spec = importlib.util.find_spec(name)
        places = [*(spec.submodule_search_locations or ()), spec.origin] if spec is not None else []
        found = [Path(place).resolve() for place in places if place is not None]
        if found and not any(place.is_relative_to(home) for place in found):
            return (
                f"The package {name!r} would be imported from {found[0]}, which stands in front of the one in {home}. "
                f"Fix: run from another folder, take it off PYTHONPATH, or rename it."
            )
    return None


if __name__ == "__main__":
    main()
