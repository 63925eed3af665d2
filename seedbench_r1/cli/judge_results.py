"""How verdicts are shown: progress, the table of rates and quadrants, agreement with human labels."""

from __future__ import annotations

import math
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.table import Table

from seedbench_r1.cli import console
from seedbench_r1.scoring import consistency_counts, reasoning_profile
from seedbench_r1.types import ConsistencyCounts, RunRecord, Verdict, to_json

if TYPE_CHECKING:
    from rich.console import Console

    from seedbench_r1.runs.directory import Run

LINE_EVERY_S = 5.0


class JudgeProgress:
    """A line on standard error every few seconds. A context manager."""

    def __init__(self, run: Run, judge_id: str, *, quiet: bool = False) -> None:
        self._run, self._judge_id, self._quiet = run, judge_id, quiet
        self._console = console.err()
        self._total = sum(record.answered for record in run.records.values())
        self._seen = self._consistent = self._judged = 0
        self._last = time.monotonic()

    def __enter__(self) -> JudgeProgress:
        if not self._quiet:
            self._console.print(f"judge {self._judge_id} on {self._run.path}: {self._total} answers", soft_wrap=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def observe(self, question_id: str, verdict: Verdict) -> None:
        """Take note of a verdict that was just written."""
        self._seen += 1
        self._judged += verdict.consistent is not None
        self._consistent += verdict.consistent is True
        if self._quiet or time.monotonic() - self._last < LINE_EVERY_S:
            return
        self._last = time.monotonic()
        share = 100 * self._consistent / self._judged if self._judged else math.nan
        self._console.print(f" {self._seen} new verdicts, consistent {share:.1f} %", soft_wrap=True)


def levels_of(run: Run) -> dict[str, list[RunRecord]]:
    """Answered records by level, then all."""
    levels: dict[str, list[RunRecord]] = {}
    for record in run.records.values():
        if record.answered:
            levels.setdefault(record.split, []).append(record)
    return levels | ({"all": [r for group in levels.values() for r in group]} if len(levels) > 1 else {})


def print_consistency(screen: Console, run: Run, judge_id: str, verdicts: dict[str, Verdict]) -> None:
    """Rates with intervals, the four quadrants, and the marks of collapsed reasoning."""
    from seedbench_r1.demo.exact_judge import ExactJudge
    from seedbench_r1.judges.run import flip_rate

    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("level", no_wrap=True)
    for name in ("judged", "consistent %", "right+", "right-", "wrong+", "wrong-", "none", "missing"):
        table.add_column(name, justify="right", no_wrap=True)
    for level, records in levels_of(run).items():
        counts = consistency_counts(records, verdicts)
        table.add_row(
            level,
            str(counts.judged),
            rate_cell(counts, records, verdicts),
            *(str(getattr(counts, name)) for name in ("correct_consistent", "correct_inconsistent")),
            *(str(getattr(counts, name)) for name in ("wrong_consistent", "wrong_inconsistent")),
            str(counts.no_reasoning),
            str(counts.missing),
        )
    screen.print(table)
    screen.print(" right/wrong: the answer; +/-: consistent or not")
    screen.print(" none: no reasoning or no answer, counted as -")
    profile = reasoning_profile(run.records.values())
    median = "-" if math.isnan(profile.median_words) else f"{profile.median_words:.0f}"
    screen.print(
        f" reasoning: median {median} words, empty {profile.empty} of {profile.n}, "
        f"nothing but a letter {profile.letter_only}",
        soft_wrap=True,
    )
    flipped, voted = flip_rate(verdicts.values())
    if voted:
        screen.print(f" votes disagree in {flipped} of {voted} cases ({100 * flipped / voted:.1f} %)")
    note = "exact" if judge_id == ExactJudge.judge_id else "uncalibrated until `judge agreement` shows human labels"
    screen.print(f" judge {judge_id}: {note}", soft_wrap=True)


def rate_cell(counts: ConsistencyCounts, records: list[RunRecord], verdicts: dict[str, Verdict]) -> str:
    """ "82.4 [80.8, 83.9]", clustered by video; "-" if nothing was judged."""
    low, high = rate_interval(records, verdicts)
    return "-" if not counts.judged else f"{100 * counts.rate:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def rate_interval(records: list[RunRecord], verdicts: dict[str, Verdict]) -> tuple[float, float]:
    """95 % interval of the consistency rate: Wilson with the effective sample size of the video clusters."""
    from leaderboards.stats import design_effect, wilson_interval

    judged = [(record, verdicts[record.question_id]) for record in records if record.question_id in verdicts]
    values = [float(verdict.consistent) for _, verdict in judged if verdict.consistent is not None]
    clusters = [record.cluster for record, verdict in judged if verdict.consistent is not None]
    if not values:
        return math.nan, math.nan
    return wilson_interval(sum(values), len(values), deff=design_effect(values, clusters))


def run_json(run: Run, judge_id: str, verdicts: dict[str, Verdict]) -> dict[str, Any]:
    """The JSON object of --json: counts and fractions; null where there is no number."""
    from seedbench_r1.judges.run import flip_rate

    levels = {}
    for level, records in levels_of(run).items():
        counts = consistency_counts(records, verdicts)
        low, high = rate_interval(records, verdicts)
        numbers = {"reasoning_consistency": counts.rate, "sound": counts.sound, "lo": low, "hi": high}
        levels[level] = to_json(counts) | {k: None if math.isnan(v) else round(v, 6) for k, v in numbers.items()}
    flipped, voted = flip_rate(verdicts.values())
    profile = to_json(reasoning_profile(run.records.values()))
    profile["median_words"] = None if math.isnan(profile["median_words"]) else profile["median_words"]
    return {
        "schema": "sbr1.judge/1",
        "run_dir": str(run.path),
        "judge_id": judge_id,
        "levels": levels,
        "flips": {"flipped": flipped, "voted": voted},
        "reasoning": profile,
    }
