"""The samples of a run together, split by split: avg@K, its spread, maj@K and pass@k, clustered by video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from leaderboards.stats import Proportion, average_credits, credit_interval, majority_credit, pass_at_k, shown_k
from seedbench_r1.kinds import read_number
from seedbench_r1.runs.directory import Run
from seedbench_r1.types import Question, RunRecord

VOTED = ("choice", "numerical", "regression")  # kinds of questions whose answers can be equal


@dataclass(frozen=True, slots=True)
class SampleNumbers:
    """K samples of one split. Fractions; no number but the counts while an answer is missing."""

    n: int  # questions
    answered: int  # those with an answer in every sample
    by_sample: tuple[float, ...] = ()  # accuracy of each, in the order of the seeds
    average: Proportion | None = None  # avg@K
    majority: Proportion | None = None  # maj@K; None also where a question asks for a text: nearly every one is its own
    passed: dict[int, Proportion] = field(default_factory=dict)  # k -> pass@k

    @property
    def deviation(self) -> float:
        """Standard deviation of the samples' accuracies (K - 1): what another seed alone changes. nan for one."""
        return float(np.std(self.by_sample, ddof=1)) if len(self.by_sample) > 1 else float("nan")

    @property
    def spread(self) -> str:
        """ "54.0 to 60.0 % (sd 2.1); maj@4 61.2, pass@4 80.1", in percent; "" while an answer is missing."""
        if not self.by_sample:
            return ""
        k, lo, hi = len(self.by_sample), min(self.by_sample), max(self.by_sample)
        voted = "" if self.majority is None else f"maj@{k} {100 * self.majority.value:.1f}, "
        deviation = f"(sd {100 * self.deviation:.1f})"
        return f"{100 * lo:.1f} to {100 * hi:.1f} % {deviation}; {voted}pass@{k} {100 * self.passed[k].value:.1f}"


def sample_numbers(runs: Sequence[Run]) -> dict[str, SampleNumbers]:
    """Split -> its numbers. runs: the samples of one run, whose questions are the same."""
    by_split: dict[str, list[Question]] = {}
    for question in runs[0].questions.values():
        by_split.setdefault(question.split, []).append(question)
    records = [run.records for run in runs]
    return {split: numbers_of(records, questions) for split, questions in by_split.items()}


def numbers_of(samples: Sequence[Mapping[str, RunRecord]], questions: Sequence[Question]) -> SampleNumbers:
    """The numbers of some questions. samples: of each sample question_id -> its record."""
    ids = [question.question_id for question in questions]
    complete = [i for i in ids if all(i in records and records[i].answered for records in samples)]
    if len(complete) < len(ids) or not ids:
        return SampleNumbers(len(ids), len(complete))
    credits = np.array([[_credit(records[i]) for i in ids] for records in samples])
    videos = [question.cluster for question in questions]
    right = (credits == 1).sum(axis=0)
    k_samples = len(samples)
    majority = None
    if all(question.kind in VOTED for question in questions):
        answers = [[vote_of(q, records[q.question_id]) for records in samples] for q in questions]
        voted = [majority_credit(said, credits[:, place].tolist()) for place, said in enumerate(answers)]
        majority = credit_interval(voted, videos)
    return SampleNumbers(
        len(ids),
        len(ids),
        by_sample=tuple(credits.mean(axis=1).tolist()),
        average=credit_interval(average_credits(credits), videos),
        majority=majority,
        passed={
            k: credit_interval([pass_at_k(k_samples, int(c), k) for c in right], videos) for k in shown_k(k_samples)
        },
    )


def _credit(record: RunRecord) -> float:
    return record.score.credit if record.score is not None else 0.0


def vote_of(question: Question, record: RunRecord) -> str | None:
    """What a sample votes for: a letter, or a number, however it is written; as exactly as it is scored."""
    answer = record.parsed.answer if record.parsed is not None else None
    if answer is None or question.kind == "choice":
        return answer
    number = read_number(answer)
    if number is None:
        return None
    return str(round(number, 2) if question.kind == "numerical" else number)
