"""Shares of a group of answers, with their intervals: consistency, soundness, quadrants, and those next to them."""

from __future__ import annotations

from dataclasses import dataclass

from leaderboards.outcomes import TRUNCATED, UNPARSED, Bools, Measured, Outcomes, QuestionBank, Values
from leaderboards.stats import Proportion, credit_interval

NO_REASONING = 0.95  # share of responses without reasoning from which there is no consistency to speak of


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the accuracy of an incomplete group can still be: missing answers all wrong, and all right. Fractions."""

    lo: float
    hi: float
    answered: int
    n: int  # questions of the group that belong to the run


@dataclass(frozen=True, slots=True)
class Quadrants:
    """Accuracy x consistency: every question of a group in exactly one of these counts.

    The first four hold responses with reasoning, an answer and a verdict. `no_reasoning` is apart from them, although
    such a response counts as judged and not consistent in the rate.
    """

    correct_consistent: int
    correct_inconsistent: int  # "lucky": right, but not for the reason given
    wrong_consistent: int  # "honest error"
    wrong_inconsistent: int
    no_reasoning: int  # nothing to judge: no reasoning, or no answer that could be read
    undecided: int  # the judge did not decide, failed, or was not asked
    error: int  # no response

    @property
    def n(self) -> int:
        """Questions of the group."""
        answered = self.correct_consistent + self.correct_inconsistent + self.wrong_consistent + self.wrong_inconsistent
        return answered + self.no_reasoning + self.undecided + self.error


def has_consistency(table: Outcomes, group: Bools) -> bool:
    """Whether a group was judged, and had reasoning to judge: none at all is not a consistency of 0 %."""
    answered = group & table.responded
    return bool((answered & table.judged).any()) and (answered & table.bare).sum() < NO_REASONING * answered.sum()


def further_shares(
    measured: Measured, complete: list[str], rated: list[str], bank: QuestionBank
) -> dict[str, dict[str, Proportion]]:
    """Shares next to accuracy and consistency, by name, then level and domain. bank: of every response.

    Of the answered: unparsed, truncated, strict_accuracy (correct by the reference's rule), no_reasoning (nothing to
    judge), undecided (no verdict). Of the judged: reasoning_consistency_correct and _wrong (among correct and among
    wrong answers), reasoning_consistency_judged_only (where there was reasoning and an answer to judge).
    """
    table = measured.responses
    consistent, judged = table.consistent == 1, table.judged
    of_answered = {
        "unparsed": table.outcome == UNPARSED,
        "truncated": table.outcome == TRUNCATED,
        "strict_accuracy": table.strict,
        "no_reasoning": table.bare,
    }
    of_judged = {
        "reasoning_consistency_correct": judged & table.correct,
        "reasoning_consistency_wrong": judged & ~table.correct,
        "reasoning_consistency_judged_only": judged & ~table.bare,
    }
    found = {
        name: {group: share(hits, bank.group(group) & table.responded, bank) for group in complete}
        for name, hits in of_answered.items()
    }
    if rated:
        asked = table.responded & bank.choice
        found["undecided"] = {group: share(asked & ~judged, bank.group(group) & asked, bank) for group in rated}
    for name, within in of_judged.items():
        found[name] = {group: share(consistent, bank.group(group) & within, bank) for group in rated}
    k = measured.n_samples
    for level, numbers in measured.sampled.items():
        if numbers.majority is not None:
            found.setdefault(f"maj_at_{k}", {})[level] = numbers.majority
        for some, passed in numbers.passed.items():
            found.setdefault(f"pass_at_{some}", {})[level] = passed
    return found


def share(hits: Values, within: Bools, bank: QuestionBank) -> Proportion:
    """Share of hits, or mean of credits, among the questions `within`, clustered by video."""
    return credit_interval(hits[within], bank.video[within])


def consistency_of(table: Outcomes, group: Bools, bank: QuestionBank) -> Proportion:
    """Consistent / judged on the questions of `group`, an array over the bank."""
    return share(table.consistency, group & table.judged, bank)


def sound_of(table: Outcomes, group: Bools, bank: QuestionBank) -> Proportion:
    """Correct and consistent / judged on the questions of `group`."""
    return share(table.soundness, group & table.judged, bank)


def quadrants_of(table: Outcomes, group: Bools) -> Quadrants:
    """Count the questions of `group`."""
    judged = group & table.judged & ~table.bare
    yes, correct = table.consistent == 1, table.correct

    def count(mask: Bools) -> int:
        return int(mask.sum())

    return Quadrants(
        correct_consistent=count(judged & correct & yes),
        correct_inconsistent=count(judged & correct & ~yes),
        wrong_consistent=count(judged & ~correct & yes),
        wrong_inconsistent=count(judged & ~correct & ~yes),
        no_reasoning=count(group & table.responded & table.bare),
        undecided=count(group & table.responded & ~table.bare & ~table.judged),
        error=count(group & table.selected & ~table.responded),
    )


def verdict_bounds(table: Outcomes, group: Bools) -> Bounds | None:
    """What the consistency of a group can be: missing verdicts all "not consistent", and all "consistent"."""
    answered = int((group & table.responded).sum())
    judged, consistent = int((group & table.judged).sum()), int((group & (table.consistent == 1)).sum())
    if judged == answered:
        return None
    return Bounds(consistent / answered, (consistent + answered - judged) / answered, judged, answered)
