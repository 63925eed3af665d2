"""Several trainings of each variant, measured on the same questions: means over seeds, and differences to a baseline.

A question's value is its mean over the trainings' seeds; intervals and tests are over questions, clustered by video.
They say how sure one can be of these trainings, not of others with other seeds: those show in the spread over seeds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from leaderboards.stats import paired_interval, sign_flip_test
from seedbench_r1.demo.exact_judge import ExactJudge
from seedbench_r1.demo.traces import concluded_action
from seedbench_r1.errors import DataError
from seedbench_r1.experiments.recipe import Settings
from seedbench_r1.judges.run import RulesJudge
from seedbench_r1.judges.wording import asked_with
from seedbench_r1.runs.directory import load_run
from seedbench_r1.runs.samples import read_seeds, sample_folder
from seedbench_r1.runs.verdicts import load_verdicts

Values = npt.NDArray[np.float64]
Runs = Mapping[int | None, "Measured"]  # of one variant, by seed; None: of a model that was there


@dataclass(frozen=True, slots=True)
class Measured:
    """One run, question by question in the order of the ids. All arrays (n,)."""

    columns: tuple[str, ...]  # the splits, in their file's order
    splits: npt.NDArray[np.str_]
    videos: npt.NDArray[np.str_]  # clusters
    # Measure -> 0 to 1; of several samples their mean. accuracy: credit. Where a judge was asked, consistency, and
    # sound: right, and the reasoning concludes it. In the miniature, conclusion: the reasoning concludes the right
    # option, whatever the answer; silent: nothing; lucky: another option, and the answer is right.
    values: dict[str, Values]
    agreement: dict[str, float]  # further judge -> share of its decided verdicts that are the first judge's
    words: float  # of reasoning, mean


@dataclass(frozen=True, slots=True)
class Cell:
    """A mean as a fraction, its 95 % interval over questions, and the means of the single trainings."""

    mean: float
    lo: float
    hi: float
    seeds: tuple[float, ...]


def measure(path: Path, judges: Sequence[Settings] = (), *, miniature: bool = False) -> Measured:
    """Read a complete run, or all samples of one, that all judges have judged.

    judges: the recipe's; the first one's verdicts are the consistency. Raises DataError if something is missing.
    """
    samples = [_measure(sample_folder(path, seed), judges, miniature=miniature) for seed in read_seeds(path)]
    return _mean(samples) if samples else _measure(path, judges, miniature=miniature)


def _mean(samples: Sequence[Measured]) -> Measured:
    first = samples[0]
    return replace(
        first,
        values={name: np.mean([sample.values[name] for sample in samples], axis=0) for name in first.values},
        agreement={name: float(np.mean([sample.agreement[name] for sample in samples])) for name in first.agreement},
        words=float(np.mean([sample.words for sample in samples])),
    )


def _measure(path: Path, judges: Sequence[Settings], *, miniature: bool) -> Measured:
    run, found = load_run(path), load_verdicts(path)
    names = [judge_id(judge, found) for judge in judges]
    verdicts = [found.get(name, {}) for name in names]
    ids = sorted(run.questions)
    lacking = [i for i in ids if not (i in run.records and run.records[i].score) or any(i not in of for of in verdicts)]
    if lacking or not ids:
        raise DataError(f"{path}: {len(lacking)} of its questions lack an answer or a verdict.")
    scores = [run.records[i].score for i in ids]
    values = {"accuracy": np.array([score.credit for score in scores if score], dtype=float)}
    reasoning = [(parsed.reasoning or "") if parsed else "" for parsed in (run.records[i].parsed for i in ids)]
    agreement: dict[str, float] = {}
    if verdicts:
        values["consistency"] = np.array([verdicts[0][i].consistent is True for i in ids], dtype=float)
        values["sound"] = values["accuracy"] * values["consistency"]
        for name, theirs in zip(names[1:], verdicts[1:], strict=True):
            # Undecided verdicts are no disagreement: the judge says so itself.
            decided = [i for i in ids if theirs[i].consistent is not None]
            same = [theirs[i].consistent == verdicts[0][i].consistent for i in decided]
            agreement[name.rpartition("/")[0]] = float(np.mean(same)) if same else np.nan
    if miniature:
        concluded = [concluded_action(text) for text in reasoning]
        right = [action == run.questions[i].gold_text for i, action in zip(ids, concluded, strict=True)]
        values["conclusion"] = np.array(right, dtype=float)
        values["silent"] = np.array([action is None for action in concluded], dtype=float)
        values["lucky"] = values["accuracy"] * (1 - values["conclusion"] - values["silent"])
    return Measured(
        columns=tuple(split for split in run.manifest.n_total if any(q.split == split for q in run.questions.values())),
        splits=np.array([run.questions[i].split for i in ids]),
        videos=np.array([run.questions[i].cluster for i in ids]),
        values=values,
        agreement=agreement,
        words=float(np.mean([len(text.split()) for text in reasoning])),
    )


def judge_id(judge: Settings, known: Collection[str]) -> str:
    """The id under which a recipe's judge has given verdicts; its name if it has given none.

    known: the ids of the judges of a run. A language model's depends on its server and wording.
    """
    name = str(judge.get("judge", "rules"))
    if name in ("rules", "miniature"):
        return RulesJudge.judge_id if name == "rules" else ExactJudge.judge_id
    kind, _, model = name.partition(":")
    names = (name, f"{kind}:{Path(model).name}")
    return next((known_id for known_id in known if (asked := asked_with(known_id)) and asked[0] in names), name)


def cell(runs: Runs, measure_name: str, split: str) -> Cell:
    """A variant's measure on a split, or on "all"."""
    # All runs have the same questions in the same order, so one mask serves all.
    first = next(iter(runs.values()))
    inside = _inside(first, split)
    return _cell(np.stack([run.values[measure_name][inside] for run in runs.values()]), first.videos[inside])


def pairs(ours: Runs, theirs: Runs) -> list[tuple[Measured, Measured]]:
    """Runs of the same seed; a model that was there is paired with every training. Empty: nothing to compare."""
    if set(theirs) == {None}:
        return [(run, theirs[None]) for run in ours.values()]
    return [(run, theirs[seed]) for seed, run in ours.items() if seed is not None and seed in theirs]


def difference(paired: Sequence[tuple[Measured, Measured]], measure_name: str, split: str) -> tuple[Cell, float]:
    """Ours minus theirs on the same questions, and the p-value of the cluster sign-flip test."""
    first = paired[0][0]
    inside = _inside(first, split)
    rows = np.stack([a.values[measure_name][inside] - b.values[measure_name][inside] for a, b in paired])
    videos = first.videos[inside]
    p = sign_flip_test(rows.sum(axis=0), videos)  # of one answer to each question the sum over seeds is a whole number
    return _cell(rows, videos), p


def right_after_wrong(runs: Runs) -> float:
    """Of the answers whose reasoning concludes a wrong action, the share that is right all the same. NaN: none."""
    lucky, conclusion, silent = (
        np.concatenate([run.values[name] for run in runs.values()]) for name in ("lucky", "conclusion", "silent")
    )
    astray = (1 - conclusion - silent).sum()
    return float(lucky.sum() / astray) if astray > 0 else np.nan


def _cell(rows: Values, videos: npt.NDArray[np.str_]) -> Cell:
    """Of one row of values for each training."""
    interval = paired_interval(rows.mean(axis=0), videos)
    return Cell(interval.mean, interval.lo, interval.hi, tuple(rows.mean(axis=1).tolist()))


def _inside(run: Measured, split: str) -> npt.NDArray[np.bool_]:
    return np.ones(len(run.splits), dtype=bool) if split == "all" else run.splits == split
