"""Several trainings of each variant, measured on the same questions: the table of the miniature's experiment.

A question's value is its mean over the trainings' seeds; intervals and tests are over questions, clustered by video.
They say how sure one can be of these trainings, not of others with other seeds: those show in the spread over seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from leaderboards.draw.markdown import markdown_row
from leaderboards.stats.paired import paired_interval, sign_flip_test
from seedbench_r1.demo.exact_judge import ExactJudge
from seedbench_r1.demo.traces import concluded_action
from seedbench_r1.errors import DataError
from seedbench_r1.judges.run import RulesJudge
from seedbench_r1.runs.directory import load_run
from seedbench_r1.runs.verdicts import load_verdicts
from seedbench_r1.types import LEVELS

Values = npt.NDArray[np.float64]
DETAILS = ("sound", "right conclusion", "no conclusion", "right after a wrong one", "rules judge agrees", "words")


@dataclass(frozen=True, slots=True)
class Measured:
    """One run, question by question in the order of the ids. All arrays (n,)."""

    levels: npt.NDArray[np.str_]
    videos: npt.NDArray[np.str_]  # clusters
    # Measure -> 0 or 1. accuracy, consistency; sound: right, and the reasoning concludes it; conclusion: the reasoning
    # concludes the right option, whatever the answer; silent: it concludes nothing.
    values: dict[str, Values]
    agreement: float  # share of the decided verdicts of the rules judge that are the exact judge's
    words: float  # of reasoning, mean


@dataclass(frozen=True, slots=True)
class Cell:
    """A mean as a fraction, its 95 % interval over questions, and the means of the single trainings."""

    mean: float
    lo: float
    hi: float
    seeds: tuple[float, ...]


def measure(path: Path) -> Measured:
    """Read a complete run that both judges have judged. Raises DataError if something is missing."""
    run, verdicts = load_run(path), load_verdicts(path)
    exact, rules = (verdicts.get(judge.judge_id, {}) for judge in (ExactJudge, RulesJudge))
    ids = sorted(run.questions)
    if missing := [i for i in ids if i not in run.records or i not in exact or i not in rules]:
        raise DataError(f"{path}: {len(missing)} questions lack an answer or a verdict, e.g. {missing[0]}.")
    correct = np.array([bool(score and score.correct) for score in (run.records[i].score for i in ids)], dtype=float)
    consistent = np.array([exact[i].consistent is True for i in ids], dtype=float)
    # Undecided verdicts are no disagreement: the rules judge says so itself.
    decided = [i for i in ids if rules[i].consistent is not None]
    reasoning = [(parsed.reasoning or "") if parsed else "" for parsed in (run.records[i].parsed for i in ids)]
    concluded = [concluded_action(text) for text in reasoning]
    conclusion = [action == run.questions[i].gold_text for i, action in zip(ids, concluded, strict=True)]
    return Measured(
        levels=np.array([run.questions[i].split for i in ids]),
        videos=np.array([run.questions[i].cluster for i in ids]),
        values={
            "accuracy": correct,
            "consistency": consistent,
            "sound": correct * consistent,
            "conclusion": np.array(conclusion, dtype=float),
            "silent": np.array([action is None for action in concluded], dtype=float),
        },
        agreement=float(np.mean([rules[i].consistent == exact[i].consistent for i in decided])) if decided else np.nan,
        words=float(np.mean([len(text.split()) for text in reasoning])),
    )


def cell(runs: Sequence[Measured], measure_name: str, level: str) -> Cell:
    """A variant's measure on a level, or on "all"."""
    # All runs have the same questions in the same order, so one mask serves all.
    inside = _inside(runs[0], level)
    rows = np.stack([run.values[measure_name][inside] for run in runs])
    return _cell(rows, runs[0].videos[inside])


def difference(
    ours: Sequence[Measured], theirs: Sequence[Measured], measure_name: str, level: str
) -> tuple[Cell, float]:
    """Ours minus theirs on the same questions, and the p-value of the cluster sign-flip test."""
    inside = _inside(ours[0], level)
    rows = np.stack(
        [a.values[measure_name][inside] - b.values[measure_name][inside] for a, b in zip(ours, theirs, strict=True)]
    )
    videos = ours[0].videos[inside]
    p = sign_flip_test(rows.sum(axis=0), videos)  # the sum over seeds is a whole number, as the test likes it
    return _cell(rows, videos), p


def _cell(rows: Values, videos: npt.NDArray[np.str_]) -> Cell:
    """Of one row of values for each training."""
    interval = paired_interval(rows.mean(axis=0), videos)
    return Cell(interval.mean, interval.lo, interval.hi, tuple(rows.mean(axis=1).tolist()))


def markdown(variants: Mapping[str, Sequence[Measured]], base: str = "grpo") -> str:
    """The experiment's tables: means with intervals; the single trainings and how they reason; differences to `base`.

    There are no differences if `base` is absent, or for variants with another number of trainings.
    """
    columns = [("accuracy", level) for level in LEVELS] + [("consistency", "all")]
    titles = [f"{level} accuracy" for level in LEVELS] + ["consistency"]
    means, singles, gains = [], [], []
    for name, runs in variants.items():
        cells = [cell(runs, measure_name, level) for measure_name, level in columns]
        means.append([name, str(len(runs)), *map(_interval, cells)])
        shares = [float(np.mean([run.values[kind] for run in runs])) for kind in ("sound", "conclusion", "silent")]
        shares += [_right_after_wrong(runs), float(np.mean([run.agreement for run in runs]))]
        details = [*(f"{100 * share:.1f}" for share in shares), f"{np.mean([run.words for run in runs]):.1f}"]
        singles.append([name, *(" ".join(f"{100 * seed:.1f}" for seed in c.seeds) for c in cells), *details])
        # Pairs go by seed, so both need the same number.
        if name != base and base in variants and len(runs) == len(variants[base]):
            pairs = [difference(runs, variants[base], measure_name, level) for measure_name, level in columns]
            gains.append([name, *(f"{_interval(c, sign='+')}, {_probability(p)}" for c, p in pairs)])
    tables = [
        _table(["", "runs", *titles], means),
        _table(["", *titles, *DETAILS], singles),
    ]
    return "\n".join(tables + ([_table([f"minus {base}", *titles], gains)] if gains else []))


def _right_after_wrong(runs: Sequence[Measured]) -> float:
    """Of the answers whose reasoning concludes a wrong action, the share that is right all the same. NaN: none."""
    right, conclusion, silent = (
        np.concatenate([run.values[name] for run in runs]) for name in ("accuracy", "conclusion", "silent")
    )
    # Neither right nor silent: another action was concluded.
    wrong = conclusion + silent == 0
    return float(right[wrong].mean()) if wrong.any() else np.nan


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "".join(f"{markdown_row(row)}\n" for row in [head, ["---"] * len(head), *rows])


def _inside(run: Measured, level: str) -> npt.NDArray[np.bool_]:
    return np.ones(len(run.levels), dtype=bool) if level == "all" else run.levels == level


def _interval(value: Cell, sign: str = "") -> str:
    mean, lo, hi = (f"{100 * number:{sign}.1f}" for number in (value.mean, value.lo, value.hi))
    return f"{mean} [{lo}, {hi}]"


def _probability(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
