"""Run directories -> Board: every row, every test and every answer that the tables, files, charts and the page show."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from leaderboards.loading import LeftOut, Loaded, choose_judge, find_run, load_runs, uncollected
from leaderboards.outcomes import Measured, QuestionBank, build_bank, outcomes_of
from leaderboards.published import PublishedRow, load_published
from leaderboards.ranking import (
    LevelTests,
    Metric,
    bootstrap_intervals,
    deltas,
    domain_deltas,
    level_tests,
    no_tests,
    parse_metric,
    rank,
)
from leaderboards.rows import LeaderboardRow, build_row
from seedbench_r1.errors import DataError


@dataclass(frozen=True, slots=True)
class ProtocolGroup:
    """The rows that were measured by the same protocol."""

    protocol: str
    protocol_id: str
    frames: int
    run_ids: tuple[str, ...]  # in the order of rows
    ranked: bool  # its complete rows are ranked


@dataclass(frozen=True, slots=True)
class Board:
    """Everything a leaderboard shows. Rows: the ranked ones by score, then the others by score, then the unscored."""

    rows: tuple[LeaderboardRow, ...]
    measured: dict[str, Measured]  # run_id -> what was read, in the order of rows
    bank: QuestionBank
    metric: Metric
    ranking: LevelTests  # of the metric, between the ranked rows: ranks and tiers follow from it
    tests: dict[str, LevelTests]  # level -> accuracy of all pairs of comparable rows, in the order of rows
    baseline: str | None  # run_id
    judge_id: str | None  # the judge whose verdicts are compared; None: nothing was judged
    published: tuple[PublishedRow, ...]
    protocols: tuple[ProtocolGroup, ...]  # the ranked ones first
    force_mixed: bool
    left_out: tuple[LeftOut, ...]
    warnings: tuple[str, ...]  # for a strip above the table

    @property
    def n_measured(self) -> int:
        return len(self.rows)

    @property
    def n_ranked(self) -> int:
        return sum(row.ranked for row in self.rows)

    @property
    def n_incomplete(self) -> int:
        return sum(row.status == "incomplete" for row in self.rows)

    @property
    def n_reported(self) -> int:
        return len(self.published)

    @property
    def comparable(self) -> list[LeaderboardRow]:
        """The rows that share a chart, in the order of rows."""
        return comparable(self.rows, {group.protocol_id for group in self.protocols if group.ranked})

    def row(self, run_id: str) -> LeaderboardRow:
        return next(row for row in self.rows if row.run_id == run_id)

    def score(self, row: LeaderboardRow) -> float:
        """The row's value of the metric, as a fraction; nan if it has none."""
        return score_of(row, self.metric, self.judge_id)


def build_board(
    paths: Sequence[Path],
    *,
    baseline: str | None = None,
    metric: str = "l3.accuracy",
    judge: str | None = None,
    include_published: bool = True,
    force_mixed: bool = False,
) -> Board:
    """Read run directories and compare them.

    Args:
        paths: run directories. Those that cannot be used are in `left_out`, with the reason.
        baseline: a run's directory, its run_id, or its model's name: every other row gets its distance from it.
        metric: "<level>.<measure>", such as "l3.accuracy", "l1.sound", "l2.consistency": what rows are ranked by.
        judge: a judge id, or its beginning if only one starts so; by default the judge that judged most runs.
        include_published: add the papers' rows.
        force_mixed: rank and test rows of different protocols together.

    Raises:
        ConfigError: the metric or the baseline does not exist, or the judge judged none of the runs.
        DataError: none of the directories can be used.
    """
    wanted = parse_metric(metric)
    with uncollected():
        runs, left_out = load_runs(paths, baseline)
        if not runs:
            reasons = "\n".join(f"  {item.path}: {item.reason}" for item in left_out)
            raise DataError(f"None of the {len(left_out)} run directories can be used.\n{reasons}")
        reference = find_run(runs, baseline) if baseline is not None else None
        judge_id = choose_judge(runs, judge)
        bank = build_bank(loaded.run for loaded in runs.values())
        only = judge is not None
        read = {run_id: measure(run_id, loaded, judge_id, bank, only=only) for run_id, loaded in runs.items()}
        board = _unranked(read, bank, wanted, reference, judge_id, force_mixed=force_mixed)
        problems = [f"No training curve of {name}: {item.problem}" for name, item in runs.items() if item.problem]
        warnings = (*board.warnings, *_warnings(board, left_out), *problems)
        board = _with_deltas(_with_ranks(replace(board, left_out=tuple(left_out), warnings=warnings)))
        return replace(board, published=load_published() if include_published else ())


def _unranked(
    read: dict[str, Measured],
    bank: QuestionBank,
    metric: Metric,
    baseline: str | None,
    judge_id: str | None,
    *,
    force_mixed: bool,
) -> Board:
    """The board with its rows in order and all tests, without ranks and deltas."""
    rows = [build_row(measured, bank) for measured in read.values()]
    rows.sort(key=lambda row: _descending(score_of(row, metric, judge_id)))
    protocols = _ranked_protocols(rows, metric, baseline, judge_id, force_mixed=force_mixed)
    compared = comparable(rows, protocols)
    scored = {row.run_id for row in compared if not math.isnan(score_of(row, metric, judge_id))}
    rows.sort(key=lambda row: row.run_id not in scored)  # stable: by score within both halves
    run_ids = [row.run_id for row in rows]
    ranking = level_tests(run_ids, [read[run_id] for run_id in run_ids if run_id in scored], metric, bank)
    warnings = []
    if ranking is None:
        warnings.append(f"Nothing is ranked: the runs share too few questions with a value of {metric}.")
    elif not scored:
        warnings.append(f"Nothing is ranked: no complete run has a value of {metric}. Fix: another --metric.")
    tests = {
        level: level_tests(
            run_ids,
            [read[row.run_id] for row in comparable(rows, protocols) if level in row.accuracy],
            Metric(level, "accuracy"),
            bank,
        )
        or no_tests(run_ids)
        for level in bank.levels
    }
    drawn = {level: bootstrap_intervals(list(read.values()), level, bank) for level in bank.levels}
    rows = [_with_flags(row, judge_id, protocols) for row in rows]
    return Board(
        rows=tuple(
            replace(row, bootstrap={level: found[row.run_id] for level, found in drawn.items() if row.run_id in found})
            for row in rows
        ),
        measured={run_id: read[run_id] for run_id in run_ids},
        bank=bank,
        metric=metric,
        ranking=ranking or no_tests(run_ids),
        tests=tests,
        baseline=baseline,
        judge_id=judge_id,
        published=(),
        protocols=_protocol_groups(rows, protocols),
        force_mixed=force_mixed,
        left_out=(),
        warnings=tuple(warnings),
    )


def comparable(rows: Iterable[LeaderboardRow], protocols: Container[str]) -> list[LeaderboardRow]:
    """Complete rows of these protocol ids: only these are ranked, tested against each other and drawn in one chart.

    A SUBSET has other questions, another protocol other frames or another prompt: a line beside the others would invite
    a comparison that no test stands behind.
    """
    return [row for row in rows if row.status == "complete" and row.protocol_id in protocols]


def measure(run_id: str, loaded: Loaded, judge_id: str | None, bank: QuestionBank, *, only: bool) -> Measured:
    """A run with one judge's verdicts: those of judge_id; without them and unless `only`, its own busiest judge's."""
    own = judge_id
    if judge_id not in loaded.verdicts:
        own = None if only else max(loaded.verdicts, key=lambda j: (len(loaded.verdicts[j]), j), default=None)
    verdicts = loaded.verdicts[own] if own is not None else {}
    return Measured(run_id, loaded.run, own, verdicts, outcomes_of(loaded.run, verdicts, bank), loaded.snapshot)


def score_of(row: LeaderboardRow, metric: Metric, judge_id: str | None) -> float:
    """The row's value of the metric; nan if it has none, or only by another judge."""
    if metric.measure != "accuracy" and row.judge_id != judge_id:
        return math.nan
    cells = {"accuracy": row.accuracy, "sound": row.sound, "consistency": row.consistency}[metric.measure]
    return cells[metric.level].value if metric.level in cells else math.nan


def _descending(score: float) -> tuple[bool, float]:
    return math.isnan(score), 0.0 if math.isnan(score) else -score


def _ranked_protocols(
    rows: list[LeaderboardRow], metric: Metric, baseline: str | None, judge_id: str | None, *, force_mixed: bool
) -> set[str]:
    """The protocol ids whose rows are ranked: the baseline's, else the one with most complete rows; if forced, all."""
    if force_mixed:
        return {row.protocol_id for row in rows}
    for row in rows:
        if row.run_id == baseline:
            return {row.protocol_id}
    fit = [row.status == "complete" and not math.isnan(score_of(row, metric, judge_id)) for row in rows]
    sizes: dict[str, int] = {}
    for row, fits in zip(rows, fit, strict=True):
        sizes[row.protocol_id] = sizes.get(row.protocol_id, 0) + fits
    return {max(sizes, key=lambda protocol_id: sizes[protocol_id])}


def _with_ranks(board: Board) -> Board:
    """Rank those rows that `ranking` compares."""
    compared = ~np.isnan(board.ranking.p.diagonal())
    scores = {row.run_id: board.score(row) for row, yes in zip(board.rows, compared, strict=True) if yes}
    if not scores:
        return board
    ranks, tiers = rank(board.ranking, scores)
    rows = tuple(
        replace(row, rank_lo=ranks[row.run_id][0], rank_hi=ranks[row.run_id][1], tier=tiers[row.run_id])
        if row.run_id in scores
        else row
        for row in board.rows
    )
    return replace(board, rows=rows)


def _with_deltas(board: Board) -> Board:
    """Distances from the baseline, of the rows of its own protocol (of all, if protocols are mixed)."""
    if board.baseline is None:
        return board
    protocols = {group.protocol_id for group in board.protocols if group.ranked}
    others = [row.run_id for row in board.rows if row.run_id != board.baseline and row.protocol_id in protocols]
    read = board.measured
    found = {
        level: deltas(read[board.baseline], [read[run_id] for run_id in others], level, board.bank, tests)
        for level, tests in board.tests.items()
    }
    by_domain = domain_deltas(read[board.baseline], [read[run_id] for run_id in others], board.bank)
    rows = tuple(
        replace(
            row,
            deltas={level: by_run[row.run_id] for level, by_run in found.items() if row.run_id in by_run},
            domain_deltas=by_domain.get(row.run_id, {}),
        )
        for row in board.rows
    )
    return replace(board, rows=rows)


def _with_flags(row: LeaderboardRow, judge_id: str | None, ranked_protocols: set[str]) -> LeaderboardRow:
    flags = list(row.flags)
    if row.protocol_id not in ranked_protocols:
        flags.append("PROTOCOL≠")
    if row.judge_id is not None and row.judge_id != judge_id:
        flags.append("JUDGE≠")
    return replace(row, flags=tuple(flags))


def _protocol_groups(rows: list[LeaderboardRow], ranked_protocols: set[str]) -> tuple[ProtocolGroup, ...]:
    groups = [
        ProtocolGroup(
            protocol=row.protocol,
            protocol_id=row.protocol_id,
            frames=row.frames,
            run_ids=tuple(other.run_id for other in rows if other.protocol_id == row.protocol_id),
            ranked=row.protocol_id in ranked_protocols,
        )
        for row in {row.protocol_id: row for row in rows}.values()
    ]
    return tuple(sorted(groups, key=lambda group: (not group.ranked, -len(group.run_ids))))


def _warnings(board: Board, left_out: Sequence[LeftOut]) -> list[str]:
    warnings = []
    if len(board.protocols) > 1:
        parts = [f"{len(g.run_ids)} of {g.protocol} ({g.protocol_id}, {g.frames} frames)" for g in board.protocols]
        mixed = "Ranked together by force: differences may come from the protocol."
        apart = "Only the first are ranked; rows of different protocols are not compared."
        warnings.append(f"Mixed protocols: {', '.join(parts)}. {mixed if board.force_mixed else apart}")
    foreign = sum(row.judge_id not in (None, board.judge_id) for row in board.rows)
    if foreign:
        warnings.append(
            f"Judged by another judge, so not comparable in consistency: {foreign} of {len(board.rows)} rows."
        )
    if left_out:
        warnings.append(f"Left out, because they cannot be used: {', '.join(i.path.name for i in left_out)}.")
    return warnings
