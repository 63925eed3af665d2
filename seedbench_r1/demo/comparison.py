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

from leaderboards.paired import paired_interval, sign_flip_test
from seedbench_r1.demo.exact_judge import ExactJudge
from seedbench_r1.errors import DataError
from seedbench_r1.judge import RulesJudge
from seedbench_r1.runs import load_run
from seedbench_r1.types import LEVELS
from seedbench_r1.verdicts import load_verdicts

MEASURES = ("accuracy", "consistency", "sound")
Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measured:
    """One run, question by question in the order of the ids. All arrays (n,)."""

    levels: npt.NDArray[np.str_]
    videos: npt.NDArray[np.str_]  # clusters
    values: dict[str, Values]  # measure -> 0 or 1
    agreement: float  # share of the decided verdicts of the rules judge that are the exact judge's
    undecided: float  # share of the rules judge's verdicts
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
    decided = [i for i in ids if rules[i].consistent is not None]
    reasoning = [(parsed.reasoning or "") if parsed else "" for parsed in (run.records[i].parsed for i in ids)]
    return Measured(
        levels=np.array([run.questions[i].level for i in ids]),
        videos=np.array([run.questions[i].video_id for i in ids]),
        values={"accuracy": correct, "consistency": consistent, "sound": correct * consistent},
        agreement=float(np.mean([rules[i].consistent == exact[i].consistent for i in decided])) if decided else np.nan,
        undecided=1 - len(decided) / len(ids),
        words=float(np.mean([len(text.split()) for text in reasoning])),
    )


def cell(runs: Sequence[Measured], measure_name: str, level: str) -> Cell:
    """A variant's measure on a level, or on "all"."""
    inside = _inside(runs[0], level)
    rows = np.stack([run.values[measure_name][inside] for run in runs])
    interval = paired_interval(rows.mean(axis=0), runs[0].videos[inside])
    return Cell(interval.mean, interval.lo, interval.hi, tuple(rows.mean(axis=1).tolist()))


def difference(
    ours: Sequence[Measured], theirs: Sequence[Measured], measure_name: str, level: str
) -> tuple[Cell, float]:
    """Ours minus theirs on the same questions, and the p-value of the cluster sign-flip test."""
    inside = _inside(ours[0], level)
    rows = np.stack(
        [a.values[measure_name][inside] - b.values[measure_name][inside] for a, b in zip(ours, theirs, strict=True)]
    )
    videos = ours[0].videos[inside]
    interval = paired_interval(rows.mean(axis=0), videos)
    p = sign_flip_test(rows.sum(axis=0), videos)  # the sum over seeds is a whole number, as the test likes it
    return Cell(interval.mean, interval.lo, interval.hi, tuple(rows.mean(axis=1).tolist())), p


def markdown(variants: Mapping[str, Sequence[Measured]], base: str = "grpo") -> str:
    """The experiment's two tables: every variant, and every other one against `base` if it is there."""
    lines = [
        "| | runs | "
        + " | ".join(f"{level} accuracy" for level in LEVELS)
        + " | consistency | sound | rules judge agrees | words |"
    ]
    lines.append("|" + "---|" * 9)
    for name, runs in variants.items():
        cells = [_shown(cell(runs, "accuracy", level)) for level in LEVELS]
        cells += [_shown(cell(runs, measure_name, "all")) for measure_name in ("consistency", "sound")]
        agreement = f"{100 * np.mean([run.agreement for run in runs]):.1f}"
        words = f"{np.mean([run.words for run in runs]):.1f}"
        lines.append(f"| {name} | {len(runs)} | " + " | ".join([*cells, agreement, words]) + " |")
    others = [name for name in variants if name != base and len(variants[name]) == len(variants.get(base, ()))]
    if base not in variants or not others:
        return "\n".join(lines) + "\n"
    lines += [
        "",
        f"| minus {base} | " + " | ".join(f"{level} accuracy" for level in LEVELS) + " | consistency |",
        "|---" * 5 + "|",
    ]
    for name in others:
        pairs = [difference(variants[name], variants[base], "accuracy", level) for level in LEVELS]
        pairs.append(difference(variants[name], variants[base], "consistency", "all"))
        lines.append(f"| {name} | " + " | ".join(f"{_signed(c)}, {_probability(p)}" for c, p in pairs) + " |")
    return "\n".join(lines) + "\n"


def _inside(run: Measured, level: str) -> npt.NDArray[np.bool_]:
    return np.ones(len(run.levels), dtype=bool) if level == "all" else run.levels == level


def _shown(value: Cell) -> str:
    seeds = " ".join(f"{100 * seed:.1f}" for seed in value.seeds)
    text = f"{100 * value.mean:.1f} [{100 * value.lo:.1f}, {100 * value.hi:.1f}]"
    return text if len(value.seeds) == 1 else f"{text} ({seeds})"


def _signed(value: Cell) -> str:
    return f"{100 * value.mean:+.1f} [{100 * value.lo:+.1f}, {100 * value.hi:+.1f}]"


def _probability(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
