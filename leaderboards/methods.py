"""How the numbers of a board were made, in sentences: the footnote of every output, and leaderboard.meta.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from leaderboards.board import Board
from leaderboards.draw.csv import LONG_SCHEMA, WIDE_SCHEMA
from leaderboards.draw.numbers import p_text
from leaderboards.draw.predictions import PREDICTIONS_SCHEMA
from leaderboards.provenance import shareable
from leaderboards.ranking import MEASURES, WORDS
from leaderboards.rows import LeaderboardRow
from leaderboards.stats import ALPHA, EXACT_CLUSTERS, FEW_CLUSTERS, SEED
from seedbench_r1 import __version__
from seedbench_r1.files import write_json

META_SCHEMA = "sbr1.leaderboard-meta/1"


def methods(board: Board) -> list[str]:
    """Sentences for the reader of this board."""
    videos = len(set(board.bank.video.tolist()))
    # Every sentence states what the code does; numbers come from its constants, so that neither can drift.
    levels = board.suite.has_levels
    of = "level's annotation file" if levels else "split of the file"
    sentences = [
        f"Accuracy is correct / N of the {of}; unparsed and truncated answers are wrong; questions "
        "that failed leave the run INCOMPLETE, and its accuracy lies between the two bounds shown.",
        f"Intervals are 95 % Wilson intervals at n / design effect, clustered by source video ({videos} videos on "
        f"this board; CR1 variance); with fewer than {FEW_CLUSTERS} videos Student's t replaces the normal quantile.",
        "Differences are paired on the questions both runs have answered: CR1 t interval by video (if all videos agree "
        "or there is one only, the exact bounds of as many videos without another value); p from the cluster "
        f"sign-flip test (9,999 draws, seed {SEED}; all patterns up to {EXACT_CLUSTERS} videos), refused where both "
        "have answered fewer than 95 % of either run's questions.",
        f"Ranks and tiers follow from {board.metric}: Holm over all pairs of ranked runs, alpha {ALPHA}. Rank a-b: "
        "a - 1 runs are significantly better, and all but the first b significantly worse. A tier holds the runs not "
        "significantly worse than its first. Not overlap of intervals, which hides real differences.",
    ]
    if not board.bank.choice.all():
        sentences.append(
            "Credits between 0 and 1 (OCR, free-form, regression) count as they are: accuracy is their mean, its "
            "interval a CR1 t interval by video. Counts of right answers are of full credit. Judges decide on "
            "questions with options alone."
        )
    if any(row.n_samples > 1 for row in board.rows):
        sentences.append(
            "Runs marked AVG@K have K samples of each question: accuracy, consistency and soundness are means over "
            "them, with intervals over questions; consistency and soundness over those with a verdict. Letters, texts "
            "and what is right or wrong on a question's card are the first sample's. maj@K: the "
            "answer of most samples, ties shared; pass@k: 1 - C(n - c, k) / C(n, k)."
        )
    if levels:
        sentences.append(
            "The levels hold different questions: the gap from L1 to L3 mixes difficulty and shift. Compare gaps "
            "between models. No single domain supports a claim of less than 5 points."
        )
    if board.baseline is not None:
        exploratory = (
            " Differences on single domains are exploratory: Benjamini-Hochberg over all domains and runs, no stars."
            if any(row.domain_deltas for row in board.rows)
            else ""
        )
        sentences.append(
            f"Baseline {board.baseline}: Holm over all runs tested against it, level by level.{exploratory}"
        )
    # Only what this board shows: no sentence on judges where nothing was judged.
    if board.judge_id is not None:
        sentences.append(
            f"Consistency (judge {board.judge_id}): consistent / judged. No reasoning or no readable answer counts as "
            "judged and not consistent; undecided and failed verdicts are missing. Rates of different judges are "
            "never compared, and a judge errs: see its agreement with human labels."
        )
    if board.published:
        sentences.append(
            "Rows marked REPORTED are printed in the papers named, with their own prompts and settings: not ranked, "
            "not tested. IMPOSSIBLE: no count of correct answers gives the printed percentage."
        )
    return sentences


def methods_paragraph(board: Board) -> str:
    """A paragraph for a paper: what was asked, counted and compared on this board, with its numbers."""
    level, sizes = board.metric.level, {name: int((board.bank.level == name).sum()) for name in board.bank.levels}
    listed = ", ".join(f"{name} {n:,}" for name, n in sizes.items())
    videos = len(set(board.bank.video.tolist()))
    ranked = [group for group in board.protocols if group.ranked]
    frames = ", ".join(f"{group.protocol} ({group.protocol_id}, at most {group.frames} frames)" for group in ranked)
    parts = [
        f"We asked {board.n_measured} models the questions of {board.title} ({listed}; {videos:,} source videos) with "
        f"seedbench-r1 {__version__}, protocol {frames}. Accuracy is the share of correct answers among all questions "
        "of a level; answers that could not be read or were cut off count as wrong. Intervals are 95 % Wilson "
        "intervals at the effective sample size of questions clustered by source video.",
    ]
    if several := [row for row in board.rows if row.n_samples > 1]:
        listed = ", ".join(f"{row.model} {row.n_samples}" for row in several)
        parts.append(
            f"Of some models several samples of each question were drawn ({listed}): their rates are means over the "
            "samples, with t intervals over questions, clustered by source video."
        )
    if board.judge_id is not None:
        missing = [
            f"{bounds.n - bounds.answered:,} of {bounds.n:,} on {name} for {row.model}"
            for row in board.rows
            if row.judge_id == board.judge_id
            for name, bounds in row.verdict_bounds.items()
            if name in sizes
        ]
        lack = f"; undecided or failed verdicts ({'; '.join(missing)}) are left out, and bounded in the tables"
        parts.append(
            f"Consistency is the share of responses whose reasoning supports the answer given, judged by "
            f"{board.judge_id} from question, options, reasoning and answer, without clip, image or the right answer. "
            f"A response without reasoning or without a readable answer counts as not consistent"
            f"{lack if missing else ''}. Sound accuracy is the share of responses that are right and consistent."
        )
    parts += [_rates(row, board, level) for row in board.rows if level in row.accuracy]
    if board.baseline is not None:
        parts.append(
            "Differences are paired on the questions that both runs have a value for, with t intervals clustered by "
            "video and p-values of a sign-flip test that flips whole videos (9,999 draws), adjusted by Holm's method "
            "over all runs compared on a level."
        )
    return " ".join([*parts, *_found(board, level)])


def _rates(row: LeaderboardRow, board: Board, level: str) -> str:
    """A run's own numbers on the board's level."""
    judged = row.judge_id is not None and row.judge_id == board.judge_id
    rates = [
        f"{WORDS[measure]} {100 * cell.value:.1f} [{100 * cell.lo:.1f}, {100 * cell.hi:.1f}] %"
        for measure in MEASURES
        if (cell := row.cells(measure).get(level)) is not None and (judged or measure == "accuracy")
    ]
    picked = f" (picked as the best of {row.selected_from_k})" if (row.selected_from_k or 1) > 1 else ""
    return f"{row.model}{picked} on {level}: {', '.join(rates)}."


def _found(board: Board, level: str) -> list[str]:
    """A sentence for each run that is compared with the baseline."""
    base = None if board.baseline is None else board.row(board.baseline)
    if base is None:
        return []
    sentences = []
    for row in board.rows:
        differences = []
        for measure in MEASURES:
            delta = row.delta(measure, level)
            if delta is None:
                continue
            p = "not tested" if delta.p_adjusted is None else f"p {p_text(delta.p_adjusted)}"
            open_sign = ", its sign left open by missing verdicts" if delta.sign_is_open else ""
            interval = f"[{100 * delta.lo:+.1f}, {100 * delta.hi:+.1f}]"
            differences.append(f"{100 * delta.value:+.1f} {interval} points of {WORDS[measure]} ({p}){open_sign}")
        if differences:
            sentences.append(f"On {level}, {row.model} differs from {base.model} by {'; '.join(differences)}.")
    return sentences


def write_meta(board: Board, path: Path, *, command: str, built_utc: str, files: Sequence[str]) -> None:
    """leaderboard.meta.json: schemas, methods, what was compared and what was left out. Raises ResourceError."""
    value = {
        "schema": META_SCHEMA,
        # Sorted: equal boards give equal bytes.
        "files": sorted(files),
        "file_schemas": {
            "leaderboard.csv": WIDE_SCHEMA,
            "leaderboard_long.csv": LONG_SCHEMA,
            "predictions.csv": PREDICTIONS_SCHEMA,
        },
        "toolkit_version": __version__,
        "built_utc": built_utc,
        # Commands, paths and warnings may hold a home folder or a key.
        "command": shareable(command),
        "metric": str(board.metric),
        "baseline": board.baseline,
        "judge": board.judge_id,
        "force_mixed": board.force_mixed,
        "counts": {
            "measured": board.n_measured,
            "ranked": board.n_ranked,
            "incomplete": board.n_incomplete,
            "reported": board.n_reported,
        },
        "questions": {level: int((board.bank.level == level).sum()) for level in board.bank.levels},
        # In the order of the tables, which is that of the rows.
        "runs": [row.run_id for row in board.rows],
        "protocols": [asdict(group) for group in board.protocols],
        "left_out": [{"path": shareable(str(item.path)), "reason": shareable(item.reason)} for item in board.left_out],
        "warnings": [shareable(warning) for warning in board.warnings],
        "methods": methods(board),
        # What someone needs to get the same p-values and bootstrap intervals.
        "statistics": {"seed": SEED, "alpha": ALPHA, "sign_flip_draws": 9999, "bootstrap_draws": 10_000},
    }
    write_json(path, value)
