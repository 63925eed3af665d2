"""Run directories -> Board: every row, every test and every answer that the tables, files, charts and the page show."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from leaderboards.loading import LeftOut, choose_judge, find_run, gc_paused, load_runs
from leaderboards.measuring import measure
from leaderboards.outcomes import Measured, QuestionBank, build_bank
from leaderboards.published import PublishedRow, load_published
from leaderboards.ranking import (
    JUDGED,
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
from leaderboards.rows import Delta, LeaderboardRow, build_row
from leaderboards.suites import BoardSuite
from seedbench_r1.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True)
class ProtocolGroup:
    """The rows that were measured by the same protocol."""

    protocol: str
    protocol_id: str
    frames: int | None  # None: not known
    run_ids: tuple[str, ...]  # in the order of rows
    ranked: bool  # its complete rows are ranked


@dataclass(frozen=True, slots=True)
class Board:
    """Everything a leaderboard shows. Rows: the ranked ones by score, then the others by score, then the unscored."""

    rows: tuple[LeaderboardRow, ...]
    measured: dict[str, Measured]  # run_id -> what was read, in the order of rows
    bank: QuestionBank  # all questions: text, level, domain, video
    metric: Metric
    ranking: LevelTests  # of the metric, between the ranked rows: ranks and tiers follow from it
    tests: dict[str, LevelTests]  # level -> accuracy of all pairs of comparable rows, in the order of rows
    baseline: str | None  # run_id
    judge_id: str | None  # the judge whose verdicts are compared; None: nothing was judged
    published: tuple[PublishedRow, ...]  # as printed: never ranked, never tested
    protocols: tuple[ProtocolGroup, ...]  # the ranked ones first
    force_mixed: bool
    left_out: tuple[LeftOut, ...]  # directories that cannot be used, with the reason
    warnings: tuple[str, ...]  # for a strip above the table
    judges: tuple[str, ...] = ()  # all whose verdicts the runs hold, in order of their names

    @property
    def suite(self) -> BoardSuite:
        """Whose questions the runs answer."""
        return self.bank.suite

    @property
    def title(self) -> str:
        """What the board is called: the benchmark, a toy world, or the files of a user's own questions."""
        if self.bank.is_toy:
            return "Miniature (a toy world, not SEED-Bench-R1)"
        if self.suite.title:
            return self.suite.title
        return ", ".join(dict.fromkeys(q.source.file for q in self.bank.questions if q.source is not None))

    @property
    def n_measured(self) -> int:
        """Rows of runs that were read."""
        return len(self.rows)

    @property
    def n_ranked(self) -> int:
        """Rows with a rank and a tier."""
        return sum(row.ranked for row in self.rows)

    @property
    def n_incomplete(self) -> int:
        """Rows of runs with questions that have no answer."""
        return sum(row.status == "incomplete" for row in self.rows)

    @property
    def n_reported(self) -> int:
        """Rows that papers print."""
        return len(self.published)

    @property
    def comparable(self) -> list[LeaderboardRow]:
        """The rows that share a chart, in the order of rows."""
        return comparable(self.rows, {group.protocol_id for group in self.protocols if group.ranked})

    def row(self, run_id: str) -> LeaderboardRow:
        """The row of a run. Raises StopIteration if it is not on the board."""
        return next(row for row in self.rows if row.run_id == run_id)

    def score(self, row: LeaderboardRow) -> float:
        """The row's value of the metric, as a fraction; nan if it has none."""
        return score_of(row, self.metric, self.judge_id)


def build_board(
    paths: Sequence[Path],
    *,
    baseline: str | None = None,
    metric: str | None = None,
    judge: str | None = None,
    include_published: bool = True,
    force_mixed: bool = False,
    rank_unparsed: bool = False,
) -> Board:
    """Read run directories and compare them.

    Args:
        paths: run directories. Those that cannot be used are in `left_out`, with the reason.
        baseline: a run's directory, its run_id, or its model's name: every other row gets its distance from it.
        metric: "<level>.<measure>", such as "l3.accuracy", "l1.sound", "l2.consistency": what rows are ranked by; of
            other suites "<split>.<measure>". By default accuracy on L3, or on their first split.
        judge: a judge id, or its beginning if only one starts so; by default the judge that judged most runs.
        include_published: add the papers' rows; never on a toy world's board.
        force_mixed: rank and test rows of different protocols together.
        rank_unparsed: rank a run however many of its answers could not be read.

    Raises:
        ConfigError: the metric or the baseline does not exist, or the judge judged none of the runs.
        DataError: none of the directories can be used.
    """
    with gc_paused():
        runs, left_out = load_runs(paths, baseline)
        if not runs:
            reasons = "\n".join(f"  {item.path}: {item.reason}" for item in left_out)
            raise DataError(f"None of the {len(left_out)} run directories can be used.\n{reasons}")
        reference = find_run(runs, baseline) if baseline is not None else None
        judge_id = choose_judge(runs, judge)
        # Over all runs' questions, so that one index means the same question in every run's arrays.
        bank = build_bank(loaded.run for loaded in runs.values())
        try:
            wanted = parse_metric(metric, bank.suite, bank.levels)
        except ConfigError as error:
            others = [item.path.name for item in left_out if " answers the suite " in item.reason]
            if not others:
                raise
            raise ConfigError(f"{error} Left out, as runs of another suite: {', '.join(others)}.") from error
        only = judge is not None
        read = {run_id: measure(run_id, loaded, judge_id, bank, only=only) for run_id, loaded in runs.items()}
        rows = [build_row(measured, bank, rank_unparsed=rank_unparsed) for measured in read.values()]
        board = _unranked(rows, read, bank, wanted, reference, judge_id, force_mixed=force_mixed)
        # A training snapshot that cannot be read costs its curve alone.
        problems = [f"No training curve of {name}: {item.problem}" for name, item in runs.items() if item.problem]
        warnings = (*board.warnings, *_warnings(board, left_out), *problems)
        board = _with_deltas(_with_ranks(replace(board, left_out=tuple(left_out), warnings=warnings)))
        # Papers' rows join last: nothing before may rank or test them.
        judges = sorted({judge for loaded in runs.values() for judge in loaded.verdicts})
        published = load_published(bank.suite) if include_published and not bank.is_toy else ()
        if not bank.suite.has_levels:  # a row without a number in any column would be an empty line
            published = tuple(row for row in published if row.accuracy.keys() & set(bank.levels))
        return replace(board, published=published, judges=tuple(judges))


def _unranked(
    rows: list[LeaderboardRow],
    read: dict[str, Measured],
    bank: QuestionBank,
    metric: Metric,
    baseline: str | None,
    judge_id: str | None,
    *,
    force_mixed: bool,
) -> Board:
    """The board with its rows in order and all tests, without ranks and deltas."""
    # Ties by name: equal runs give equal bytes, in whatever order they were given.
    rows.sort(key=lambda row: (*_descending(score_of(row, metric, judge_id)), row.run_id))
    protocols = _ranked_protocols(rows, metric, baseline, judge_id, force_mixed=force_mixed)
    compared = comparable(rows, protocols)
    scored = {row.run_id for row in compared if not math.isnan(score_of(row, metric, judge_id))}
    rows.sort(key=lambda row: row.run_id not in scored)  # stable: by score within both halves
    run_ids = [row.run_id for row in rows]
    # Ranks and tiers come from one family of tests: all pairs of ranked rows on the ranked metric.
    ranking = level_tests(run_ids, [read[run_id] for run_id in run_ids if run_id in scored], metric, bank)
    warnings = []
    if ranking is None:
        warnings.append(f"Nothing is ranked: the runs share too few questions with a value of {metric}.")
    elif not scored:
        warnings.append(f"Nothing is ranked: no complete run has a value of {metric}. Fix: another --metric.")
    # Accuracy is tested on every level, whatever is ranked: the page shows these differences too.
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
    # The same draws for all runs: one pass serves them all, and equal runs get equal intervals.
    drawn = {level: bootstrap_intervals(list(read.values()), level, bank) for level in bank.levels}
    # Last, since a flag may depend on what the other rows are.
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
    """Rows of these protocol ids that are fit: only these are ranked, tested against each other and drawn in one chart.

    A SUBSET has other questions, another protocol has other frames or another prompt: drawn together they would invite
    a comparison that no test supports.
    """
    return [row for row in rows if row.fit and row.protocol_id in protocols]


def score_of(row: LeaderboardRow, metric: Metric, judge_id: str | None) -> float:
    """The row's value of the metric; nan if it has none, or only by another judge."""
    # Judges err differently: ranking one's verdicts against another's would rank the judges.
    if metric.measure != "accuracy" and row.judge_id != judge_id:
        return math.nan
    cells = row.cells(metric.measure)
    return cells[metric.level].value if metric.level in cells else math.nan


def _descending(score: float) -> tuple[bool, float]:
    # nan compares false with everything: as a sort key it would leave rows where they were.
    return math.isnan(score), 0.0 if math.isnan(score) else -score


def _ranked_protocols(
    rows: list[LeaderboardRow], metric: Metric, baseline: str | None, judge_id: str | None, *, force_mixed: bool
) -> set[str]:
    """The protocol ids whose rows are ranked: the baseline's, else the one with most complete rows; if forced, all."""
    # Of an import nobody knows the settings: it is ranked with its like, never against what was measured.
    known = [row for row in rows if row.frames is not None]
    # The caller takes the responsibility; a warning on every output says so.
    if force_mixed:
        return {row.protocol_id for row in known or rows}
    for row in rows:
        # With a baseline the question is who differs from it.
        if row.run_id == baseline:
            return {row.protocol_id}
    # Else the protocol of most runs that could be ranked; of equals the first, which holds the best score.
    fit = [row.fit and not math.isnan(score_of(row, metric, judge_id)) for row in rows]
    sizes: dict[str, int] = {}
    for row, fits in zip(rows, fit, strict=True):
        if row.frames is not None or not known:
            sizes[row.protocol_id] = sizes.get(row.protocol_id, 0) + fits
    return {max(sizes, key=lambda protocol_id: sizes[protocol_id])}


def _with_ranks(board: Board) -> Board:
    """Rank those rows that `ranking` compares."""
    # A row that was tested against others has a number on the diagonal.
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
    # Incomplete and SUBSET rows too: on the questions shared with the baseline a difference is valid.
    others = [row.run_id for row in board.rows if row.run_id != board.baseline and row.protocol_id in protocols]
    read = board.measured
    reference, compared = read[board.baseline], [read[run_id] for run_id in others]
    found = {
        level: deltas(reference, compared, Metric(level, "accuracy"), board.bank, tests)
        for level, tests in board.tests.items()
    }
    judged = _judged_deltas(board, reference, compared)
    by_domain = domain_deltas(reference, compared, board.bank)
    rows = tuple(
        replace(
            row,
            deltas={level: by_run[row.run_id] for level, by_run in found.items() if row.run_id in by_run},
            domain_deltas=by_domain.get(row.run_id, {}),
            judged_deltas={
                measure: {level: by_run[row.run_id] for level, by_run in levels.items() if row.run_id in by_run}
                for measure, levels in judged.items()
            },
        )
        for row in board.rows
    )
    return replace(board, rows=rows)


def _judged_deltas(board: Board, baseline: Measured, others: list[Measured]) -> dict[str, dict[str, dict[str, Delta]]]:
    """Measure -> level -> run_id -> difference, of the rows that the board's judge has judged."""
    rated = {row.run_id: row.consistency for row in board.rows if row.judge_id == board.judge_id}
    if board.judge_id is None or baseline.run_id not in rated:
        return {}
    return {
        measure: {
            level: deltas(
                baseline,
                # Of a run without reasoning there is no consistency, and no difference.
                [one for one in others if level in rated.get(one.run_id, {}) and level in rated[baseline.run_id]],
                Metric(level, measure),
                board.bank,
                None,
            )
            for level in board.bank.levels
        }
        for measure in JUDGED
    }


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


def _frames(n: int | None) -> str:
    return "settings unknown" if n is None else f"{n} frames"


def _warnings(board: Board, left_out: Sequence[LeftOut]) -> list[str]:
    warnings = []
    if len(board.protocols) > 1:
        parts = [f"{len(g.run_ids)} of {g.protocol} ({g.protocol_id}, {_frames(g.frames)})" for g in board.protocols]
        mixed = "Ranked together by force: differences may come from the protocol."
        if any(not group.ranked for group in board.protocols):
            mixed += " Imports, whose settings are unknown, are not."
        separate = "Only the first are ranked; rows of different protocols are not compared."
        warnings.append(f"Mixed protocols: {', '.join(parts)}. {mixed if board.force_mixed else separate}")
    others = sum(row.judge_id not in (None, board.judge_id) for row in board.rows)
    if others:
        warnings.append(
            f"Judged by another judge, so not comparable in consistency: {others} of {len(board.rows)} rows."
        )
    edited = [row.run_id for row in board.rows if board.measured[row.run_id].run.edited]
    if edited:
        warnings.append(f"Edited after they were written, so not to be believed: {', '.join(edited)}.")
    doubtful = {row.run_id: board.measured[row.run_id].run.doubts for row in board.rows}
    warnings += [f"Edited, so not ranked: {name}: {doubt}." for name, doubts in doubtful.items() for doubt in doubts]
    if left_out:
        warnings.append(f"Left out, because they cannot be used: {', '.join(i.path.name for i in left_out)}.")
    return warnings
