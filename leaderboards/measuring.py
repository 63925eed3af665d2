"""A run that was loaded, as arrays over the board's questions, with one judge's verdicts."""

from __future__ import annotations

from dataclasses import replace

from leaderboards.loading import Loaded
from leaderboards.outcomes import Measured, QuestionBank, outcomes_of, together
from leaderboards.sampled import sample_numbers


def measure(run_id: str, loaded: Loaded, judge_id: str | None, bank: QuestionBank, *, only: bool) -> Measured:
    """A run with one judge's verdicts: judge_id's; without these, unless `only`, those of the judge that judged most.

    Verdicts of another judge than the board's are shown and flagged JUDGE≠, and compared with nothing.
    """
    own = judge_id
    if judge_id not in loaded.verdicts:
        # Ties by name, so that the order of lines in the file does not matter.
        own = None if only else max(loaded.verdicts, key=lambda j: (len(loaded.verdicts[j]), j), default=None)
    verdicts = loaded.verdicts.get(own or "", {})
    found = Measured(
        run_id, loaded.run, own, verdicts, outcomes_of(loaded.run, verdicts, bank), loaded.snapshot, loaded.probes
    )
    if not loaded.samples:
        return found
    tables = tuple(outcomes_of(one.run, one.verdicts.get(own or "", {}), bank) for one in loaded.samples)
    numbers = sample_numbers([one.run for one in loaded.samples])
    by_level = {bank.suite.column(split): values for split, values in numbers.items()}
    seeds = tuple(one.run.manifest.seed or 0 for one in loaded.samples)
    return replace(found, outcomes=together(tables), samples=tables, seeds=seeds, sampled=by_level)
