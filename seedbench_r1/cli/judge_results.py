"""How verdicts are shown: progress, the table of rates and quadrants, agreement with human labels."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.console import Console

from leaderboards.outcomes import build_bank, outcomes_of
from leaderboards.shares import Quadrants, consistency_of, has_consistency, quadrants_of, sound_of
from leaderboards.stats import Proportion
from seedbench_r1.cli import console
from seedbench_r1.judges.run import failure_of, flip_rate
from seedbench_r1.runs.directory import Run
from seedbench_r1.scoring import ReasoningProfile, reasoning_profile
from seedbench_r1.types import LETTERS, Verdict

LINE_EVERY_S = 5.0


class JudgeProgress:
    """A line on standard error every few seconds."""

    def __init__(self, run: Run, judge_id: str, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._console = console.err()
        self._seen = self._consistent = self._judged = 0
        self._last = time.monotonic()
        if not quiet:
            total = sum(record.answered for record in run.records.values())
            self._console.print(f"judge {judge_id} on {run.path}: {total} answers", soft_wrap=True)

    def observe(self, question_id: str, verdict: Verdict) -> None:
        """Take note of a verdict that was just written."""
        self._seen += 1
        self._judged += verdict.consistent is not None
        self._consistent += verdict.consistent is True
        if self._quiet or time.monotonic() - self._last < LINE_EVERY_S:
            return
        self._last = time.monotonic()
        # Of the new verdicts alone: a sign that the judge works, not a result.
        share = 100 * self._consistent / self._judged if self._judged else math.nan
        self._console.print(f" {self._seen} new verdicts, consistent {share:.1f} %", soft_wrap=True)


@dataclass(frozen=True, slots=True)
class JudgedLevel:
    """One judge's verdicts on the answers of a level, counted as the leaderboard counts them."""

    n: int  # answers
    consistency: Proportion
    sound: Proportion  # correct and consistent
    quadrants: Quadrants
    has_reasoning: bool  # False: nearly no response holds any, so that the rate says nothing

    @property
    def cell(self) -> str:
        """ "82.4 [80.8, 83.9]": the rate in percent, clustered by video; "-" if nothing was judged."""
        rate = self.consistency
        if rate.n and not self.has_reasoning:
            return "no reasoning"
        return f"{100 * rate.value:.1f} [{100 * rate.lo:.1f}, {100 * rate.hi:.1f}]" if rate.n else "-"


def judged_levels(run: Run, verdicts: dict[str, Verdict]) -> dict[str, JudgedLevel]:
    """The levels that have an answer; then, if these are several, all of them together."""
    bank = build_bank([run])
    table = outcomes_of(run, verdicts, bank)
    asked = table.responded & bank.choice
    groups = {level: bank.group(level) & bank.choice for level in bank.levels if (bank.group(level) & asked).any()}
    # Together they weigh questions, not levels: L1 is more than half of them.
    if len(groups) > 1:
        groups["all"] = table.selected & bank.choice
    return {
        level: JudgedLevel(
            n=int((group & table.responded).sum()),
            consistency=consistency_of(table, group, bank),
            sound=sound_of(table, group, bank),
            quadrants=quadrants_of(table, group),
            has_reasoning=has_consistency(table, group),
        )
        for level, group in groups.items()
    }


def print_consistency(screen: Console, run: Run, judge_id: str, verdicts: dict[str, Verdict]) -> None:
    """Whose they are, rates with intervals, the four quadrants, and the marks of collapsed reasoning."""
    from seedbench_r1.demo.exact_judge import ExactJudge

    numbers = ("judged", "consistent %", "right+", "right-", "wrong+", "wrong-", "none", "missing")
    table = console.table(["level"], numbers, padding=(0, 1, 0, 0))
    for name, level in judged_levels(run, verdicts).items():
        q = level.quadrants
        # The counts of a row add up to the level's answers: none of them overlap.
        four = (q.correct_consistent, q.correct_inconsistent, q.wrong_consistent, q.wrong_inconsistent)
        table.add_row(name, str(level.consistency.n), level.cell, *map(str, (*four, q.no_reasoning, q.undecided)))
    # Of several runs in one file each table must say whose it is.
    screen.print(f"{run.path}, judged by {judge_id}", soft_wrap=True)
    screen.print(table)
    screen.print(" right/wrong: the answer; +/-: consistent or not")
    screen.print(" none: no reasoning or no answer, judged not consistent")
    if failures := [why for verdict in verdicts.values() if (why := failure_of(verdict)) is not None]:
        screen.print(f" {failure_message(failures)}", soft_wrap=True)
    profile = _profile(run)
    median = "-" if math.isnan(profile.median_words) else f"{profile.median_words:.0f}"
    screen.print(
        f" reasoning: median {median} words, empty {profile.empty} of {profile.n}, "
        f"nothing but a letter {profile.letter_only}",
        soft_wrap=True,
    )
    # How often repeated votes disagree: noise of the judge that no interval shows.
    flipped, voted = flip_rate(verdicts.values())
    if voted:
        screen.print(f" votes disagree in {flipped} of {voted} cases ({100 * flipped / voted:.1f} %)")
    # Only a judge that knows the truth needs no labels.
    note = "exact" if judge_id == ExactJudge.judge_id else "uncalibrated until `judge agreement` shows human labels"
    screen.print(f" judge {judge_id}: {note}", soft_wrap=True)


def _profile(run: Run) -> ReasoningProfile:
    """With the letters that the run's questions have, of which benchmarks have four."""
    letters = max((question.letters for question in run.questions.values()), key=len, default="")
    return reasoning_profile(run.records.values(), letters or LETTERS)


def failure_message(failures: Sequence[str]) -> str:
    """How many verdicts failed, and why; the commonest reason first."""
    counts = Counter(failures).most_common()
    why, n = counts[0]
    some = f"{n} of them: {why}; {len(failures) - n} for other reasons" if len(counts) > 1 else why
    return f"{len(failures)} verdicts failed and are missing from the rates: {some}"


def run_json(run: Run, judge_id: str, verdicts: dict[str, Verdict]) -> dict[str, object]:
    """The JSON object of --json: counts and fractions; null where there is no number."""
    flipped, voted = flip_rate(verdicts.values())
    profile = _profile(run)
    return {
        "schema": "sbr1.judge/1",
        "run_dir": str(run.path),
        "judge_id": judge_id,
        "levels": {name: _level_json(level) for name, level in judged_levels(run, verdicts).items()},
        "failed": sum(failure_of(verdict) is not None for verdict in verdicts.values()),
        "flips": {"flipped": flipped, "voted": voted},
        "reasoning": asdict(profile) | {"median_words": _number(profile.median_words)},
    }


def _level_json(level: JudgedLevel) -> dict[str, object]:
    rate = level.consistency
    return {
        "n": level.n,
        "judged": rate.n,
        "consistent": rate.k,
        **asdict(level.quadrants),
        "missing": level.n - rate.n,
        "reasoning_consistency": _number(rate.value),
        "sound": _number(level.sound.value),
        "lo": _number(rate.lo),
        "hi": _number(rate.hi),
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
