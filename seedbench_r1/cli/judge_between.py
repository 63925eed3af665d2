"""How the agreement of judges with one another is shown."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING

from seedbench_r1.cli import console
from seedbench_r1.judges.wording import asked_with

if TYPE_CHECKING:
    from leaderboards.stats import Estimate
    from seedbench_r1.judges.between import Between
    from seedbench_r1.runs.directory import Run


def between_json(found: Between, runs: list[Run]) -> dict[str, object]:
    """Everything as fractions; nan where there is no number."""
    return {
        "schema": "sbr1.between-judges/1",
        "runs": [str(run.path) for run in runs],
        "n": found.n,
        "n_rated": found.n_rated,
        "n_videos": found.n_videos,
        "judges": [asdict(rater) for rater in found.raters],
        "pairs": [
            {
                "first": pair.first,
                "second": pair.second,
                "n": pair.n,
                "agree": pair.agree,
                "kappa": estimate_json(pair.kappa),
            }
            for pair in found.pairs
        ],
        "krippendorff_alpha": estimate_json(found.alpha),
    }


def estimate_json(estimate: Estimate) -> dict[str, float]:
    """Value and interval."""
    return {"value": estimate.value, "lo": estimate.lo, "hi": estimate.hi}


def print_between(found: Between, runs: list[Run]) -> None:
    """The block of lines for a person; judges get a number, since their ids fill a line."""
    screen = console.out()
    of_runs = f"{len(runs)} runs" if len(runs) > 1 else str(runs[0].path)
    screen.print(f"{len(found.raters)} judges on {found.n} answers with reasoning of {of_runs}", soft_wrap=True)
    numbers = {rater.judge_id: place for place, rater in enumerate(found.raters, start=1)}
    for rater in found.raters:
        asked = rater.yes + rater.no
        share = f"yes {100 * rater.yes / asked:.1f} % of {asked}" if asked else "no verdict"
        silent = f", none on {rater.silent}" if rater.silent else ""
        screen.print(f"  {numbers[rater.judge_id]}  {rater.judge_id}", soft_wrap=True)
        screen.print(f"     {share}{silent}")
    for pair in found.pairs:
        agree = "-" if math.isnan(pair.agree) else f"{100 * pair.agree:.1f} %"
        names = f"{numbers[pair.first]}, {numbers[pair.second]}"
        screen.print(f"  {names}: agree {agree} of {pair.n}, kappa {shown(pair.kappa)}")
    screen.print(f"  Krippendorff's alpha (nominal) {shown(found.alpha)}, {found.n_rated} answers")
    screen.print(f"  95 % intervals: jackknife over {found.n_videos} videos")
    # An interval of no width is no certainty.
    if any(e.lo == e.hi for e in (found.alpha, *(pair.kappa for pair in found.pairs))):
        screen.print("  where nobody disagreed, the interval says nothing of what was not seen")
    versions = {version for rater in found.raters if (version := asked_with(rater.judge_id))}
    if len({name for name, _ in versions}) < len(versions):
        screen.print("  Prompt versions of one model are different judges: never compare runs")
        screen.print("  of which one was judged by one and another by the other.")


def shown(estimate: Estimate) -> str:
    """ "0.812 [0.741, 0.883]"; "-" without a value."""
    if math.isnan(estimate.value):
        return "-"
    ends = "" if math.isnan(estimate.lo) else f" [{estimate.lo:.3f}, {estimate.hi:.3f}]"
    return f"{estimate.value:.3f}{ends}"
