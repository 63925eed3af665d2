"""Several judges on the same answers: how far they agree with one another."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from leaderboards.stats import Estimate, clustered_kappa, krippendorff_alpha
from seedbench_r1.errors import ConfigError
from seedbench_r1.judges.run import is_case
from seedbench_r1.runs.directory import Run
from seedbench_r1.types import Verdict


@dataclass(frozen=True, slots=True)
class Rater:
    """One judge's words on the answers."""

    judge_id: str
    yes: int
    no: int
    silent: int  # undecided, failed, or not asked


@dataclass(frozen=True, slots=True)
class Pair:
    """Two judges on the answers that both said yes or no to."""

    first: str
    second: str
    n: int
    agree: float  # share; nan for n = 0
    kappa: Estimate


@dataclass(frozen=True, slots=True)
class Between:
    """Judges compared. Intervals are clustered by video."""

    n: int  # answers with reasoning; those without are inconsistent for every judge, and would flatter all of them
    n_rated: int  # of which at least two judges said yes or no to
    n_videos: int
    raters: tuple[Rater, ...]
    pairs: tuple[Pair, ...]
    alpha: Estimate


def compare_judges(
    runs: Sequence[Run], verdicts: Sequence[Mapping[str, Mapping[str, Verdict]]], judge_ids: Sequence[str]
) -> Between:
    """Compare judges on the answers of runs.

    Args:
        runs: whose answers were judged.
        verdicts: run by run, judge_id -> question_id -> verdict.
        judge_ids: two or more, each once.

    Raises:
        ConfigError: no answer has reasoning.
    """
    columns: list[list[float]] = []
    videos: list[str] = []
    for run, judges in zip(runs, verdicts, strict=True):
        for record in run.records.values():
            if is_case(run, record):
                columns.append([_word(judges.get(judge, {}).get(record.question_id)) for judge in judge_ids])
                videos.append(record.cluster)
    if not columns:
        raise ConfigError("No answer of these runs holds reasoning, so no judge was asked anything.")
    ratings = np.array(columns).T  # (R, n)
    given = ~np.isnan(ratings)
    return Between(
        n=len(columns),
        n_rated=int((given.sum(axis=0) > 1).sum()),
        n_videos=len(set(videos)),
        raters=tuple(
            Rater(judge, int((row == 1).sum()), int((row == 0).sum()), int(np.isnan(row).sum()))
            for judge, row in zip(judge_ids, ratings, strict=True)
        ),
        pairs=tuple(
            _pair(judge_ids[i], judge_ids[j], ratings[i], ratings[j], videos)
            for i, j in itertools.combinations(range(len(judge_ids)), 2)
        ),
        alpha=krippendorff_alpha(ratings, videos),
    )


def _pair(
    first: str, second: str, a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], videos: Sequence[str]
) -> Pair:
    both = ~np.isnan(a) & ~np.isnan(b)
    n = int(both.sum())
    return Pair(first, second, n, float((a == b)[both].mean()) if n else math.nan, clustered_kappa(a, b, videos))


def _word(verdict: Verdict | None) -> float:
    return math.nan if verdict is None or verdict.consistent is None else float(verdict.consistent)
