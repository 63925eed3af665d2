"""What probes found: a rate for each with its interval, differences between runs, and agreement with verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from leaderboards import stats
from leaderboards.stats import Proportion
from seedbench_r1.runs.directory import Run
from seedbench_r1.runs.probes import NO_OPTION, ProbeKind, ProbeResult, kind_of
from seedbench_r1.scoring import lacks_reasoning
from seedbench_r1.types import LEVELS, Verdict

MOSTLY = 0.95  # share of answers without reasoning from which no rate is shown
ALL = "all"
Results = Mapping[str, ProbeResult]  # by question_id


@dataclass(frozen=True, slots=True)
class ProbeRate:
    """One probe on one run."""

    probe_id: str
    kind: ProbeKind
    levels: dict[str, Proportion]  # by level, then "all" where there are several; clustered by video
    chance: float  # what an answer drawn at random would give: the mean of 1 / options
    no_reasoning: int  # answers that could not be probed: no reasoning, or no answer that could be read
    missing: int  # answers with reasoning and without a result
    sources: dict[str, Proportion]  # of exchanged reasoning: "rollout" and "rewritten", which are two interventions

    @property
    def overall(self) -> Proportion:
        """Over all levels."""
        return self.levels.get(ALL) or next(iter(self.levels.values()))

    @property
    def says_nothing(self) -> bool:
        """Whether nearly no answer has reasoning: then there is no rate, and not one of 0 %."""
        return self.no_reasoning > MOSTLY * (self.no_reasoning + self.missing + self.overall.n)


@dataclass(frozen=True, slots=True)
class ProbeDifference:
    """The rate of one run minus another's, on the answers that both have a result for. Fractions."""

    value: float
    lo: float  # paired, clustered by video
    hi: float
    n: int
    p: float | None  # cluster sign-flip test; None: refused, below 95 % of the answers of either that could be probed


@dataclass(frozen=True, slots=True)
class ProbeAgreement:
    """How well a probe tells answers that a judge calls consistent from others. Fractions."""

    n_consistent: int
    n_inconsistent: int
    sensitivity: float  # of the consistent ones, those that the probe supports
    specificity: float  # of the others, those that it does not

    @property
    def balanced_accuracy(self) -> float:
        """Mean of both: 0.5 for a probe that says nothing, however many answers are consistent."""
        return (self.sensitivity + self.specificity) / 2

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, by the normal approximation of two independent shares."""
        parts = ((self.sensitivity, self.n_consistent), (self.specificity, self.n_inconsistent))
        if not self.n_consistent or not self.n_inconsistent:
            return math.nan, math.nan
        half = stats.Z * math.sqrt(sum(share * (1 - share) / n for share, n in parts)) / 2
        return max(0.0, self.balanced_accuracy - half), min(1.0, self.balanced_accuracy + half)


def has_outcome(result: ProbeResult) -> bool:
    """Whether a result counts: there is an answer, or a text model has said that there is none."""
    return result.after is not None or result.note == NO_OPTION


def source_of(result: ProbeResult) -> str:
    """Where exchanged reasoning is from: "rollout" or "rewritten"; "" where none is exchanged."""
    return result.note.partition(" ")[0] if result.target is not None else ""


def probe_rate(run: Run, probe_id: str, results: Results) -> ProbeRate | None:
    """The probe's rate; None for no result at all."""
    kind = kind_of(probe_id)
    valued = {i: kind.counts(result, run.questions[i]) for i, result in results.items() if has_outcome(result)}
    if not valued:
        return None
    ids = [question_id for question_id in run.questions if question_id in valued]
    levels = [level for level in LEVELS if any(run.questions[i].split == level for i in ids)]
    levels += sorted({run.questions[i].split for i in ids} - set(LEVELS))
    groups = {level: [i for i in ids if run.questions[i].split == level] for level in levels}
    if len(groups) > 1:
        groups[ALL] = ids
    answered = [record for record in run.records.values() if record.answered]
    lacking = sum(map(lacks_reasoning, answered))
    return ProbeRate(
        probe_id,
        kind,
        {
            name: stats.interval([valued[i] for i in some], [run.questions[i].cluster for i in some])
            for name, some in groups.items()
        },
        chance=float(np.mean([1 / len(run.questions[i].options) for i in ids])),
        no_reasoning=lacking,
        missing=len(answered) - lacking - len(valued),
        sources={
            name: stats.interval([valued[i] for i in some], [run.questions[i].cluster for i in some])
            for name in ("rollout", "rewritten")
            if (some := [i for i in ids if source_of(results[i]) == name])
        },
    )


def probe_difference(first: tuple[Run, Results], second: tuple[Run, Results], probe_id: str) -> ProbeDifference | None:
    """first - second on the questions for which both have a result; None if there are none.

    Of exchanged reasoning on those where both got it from the same source: a rewritten conclusion is followed less.
    """
    (run, ours), (other, theirs) = first, second
    kind = kind_of(probe_id)
    ids = [
        i
        for i in run.questions
        if i in other.questions and i in ours and i in theirs and has_outcome(ours[i]) and has_outcome(theirs[i])
        if source_of(ours[i]) == source_of(theirs[i])
    ]
    if not ids:
        return None
    differences = np.array(
        [float(kind.counts(ours[i], run.questions[i])) - float(kind.counts(theirs[i], other.questions[i])) for i in ids]
    )
    clusters = [run.questions[i].cluster for i in ids]
    found = stats.paired_interval(differences, clusters)
    lo, hi = (float(end) for end in np.clip((found.lo, found.hi), -1.0, 1.0))
    enough = all(len(ids) >= MOSTLY * n for n in (_probable(run), _probable(other))) or kind.name == "swapped"
    p = stats.sign_flip_test(differences, clusters) if enough else None
    return ProbeDifference(found.mean, lo, hi, len(ids), p)


def _probable(run: Run) -> int:
    """Answers that can be probed."""
    return sum(record.answered and not lacks_reasoning(record) for record in run.records.values())


def probe_agreement(run: Run, probe_id: str, results: Results, verdicts: Mapping[str, Verdict]) -> ProbeAgreement:
    """Against one judge's verdicts, on the answers for which both have said something. nan where there is no case."""
    kind = kind_of(probe_id)
    pairs = [
        (verdicts[i].consistent is True, kind.supports(result, run.questions[i]))
        for i, result in results.items()
        if has_outcome(result) and i in verdicts and verdicts[i].consistent is not None
    ]
    yes = [supported for consistent, supported in pairs if consistent]
    no = [not supported for consistent, supported in pairs if not consistent]
    return ProbeAgreement(
        n_consistent=len(yes),
        n_inconsistent=len(no),
        sensitivity=float(np.mean(yes)) if yes else math.nan,
        specificity=float(np.mean(no)) if no else math.nan,
    )
