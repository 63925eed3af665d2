"""The samples of a run together, split by split: avg@K, its spread, maj@K and pass@k, clustered by video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from leaderboards.stats import Proportion, average_credits, credit_interval, majority_credit, pass_at_k, shown_k
from seedbench_r1.runs.directory import Run
from seedbench_r1.types import RunRecord


@dataclass(frozen=True, slots=True)
class SampleNumbers:
    """K samples of one split. Fractions; no number but the counts while an answer is missing."""

    n: int  # questions
    answered: int  # those with an answer in every sample
    by_sample: tuple[float, ...] = ()  # accuracy of each, in the order of the seeds
    average: Proportion | None = None  # avg@K
    majority: Proportion | None = None  # maj@K
    passed: dict[int, Proportion] = field(default_factory=dict)  # k -> pass@k

    @property
    def deviation(self) -> float:
        """Standard deviation of the samples' accuracies (K - 1): what another seed alone changes. nan for one."""
        return float(np.std(self.by_sample, ddof=1)) if len(self.by_sample) > 1 else float("nan")


def sample_numbers(runs: Sequence[Run]) -> dict[str, SampleNumbers]:
    """Split -> its numbers. runs: the samples of one run, whose questions are the same."""
    by_split: dict[str, list[str]] = {}
    for question in runs[0].questions.values():
        by_split.setdefault(question.split, []).append(question.question_id)
    records = [run.records for run in runs]
    clusters = {question_id: question.cluster for question_id, question in runs[0].questions.items()}
    return {split: numbers_of(records, ids, clusters) for split, ids in by_split.items()}


def numbers_of(
    samples: Sequence[Mapping[str, RunRecord]], ids: Sequence[str], clusters: Mapping[str, str]
) -> SampleNumbers:
    """The numbers of some questions. samples: of each sample question_id -> its record."""
    complete = [i for i in ids if all(i in records and records[i].answered for records in samples)]
    if len(complete) < len(ids) or not ids:
        return SampleNumbers(len(ids), len(complete))
    credits = np.array([[_credit(records[i]) for i in ids] for records in samples])
    answers = [[_answer(records[i]) for records in samples] for i in ids]
    videos = [clusters[i] for i in ids]
    right = (credits == 1).sum(axis=0)
    k_samples = len(samples)
    voted = [majority_credit(said, credits[:, place].tolist()) for place, said in enumerate(answers)]
    return SampleNumbers(
        len(ids),
        len(ids),
        by_sample=tuple(credits.mean(axis=1).tolist()),
        average=credit_interval(average_credits(credits), videos),
        majority=credit_interval(voted, videos),
        passed={
            k: credit_interval([pass_at_k(k_samples, int(c), k) for c in right], videos) for k in shown_k(k_samples)
        },
    )


def _credit(record: RunRecord) -> float:
    return record.score.credit if record.score is not None else 0.0


def _answer(record: RunRecord) -> str | None:
    return record.parsed.answer if record.parsed is not None else None
