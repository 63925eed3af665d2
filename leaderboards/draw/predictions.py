"""predictions.csv: a row an answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from string import ascii_uppercase

from leaderboards.board import Board
from leaderboards.draw.csv import safe_text, write_table
from leaderboards.outcomes import NO_LETTER, NO_VERDICT, OUTCOME_NAMES, UNKNOWN, Measured, Outcomes, QuestionBank

PREDICTIONS_SCHEMA = "sbr1.predictions/1"
PREDICTION_COLUMNS = (
    *("run_id", "sample_id", "level", "domain", "video_id", "gold", "pred", "correct", "consistent", "status"),
    *("n_tokens", "seed"),
)


def write_predictions_csv(board: Board, path: Path) -> None:
    """Every question of every run; of several samples every answer, with its seed."""
    lines = (
        line | {"seed": "" if seed is None else str(seed)}
        for run in board.measured.values()
        for seed, table in _tables(run)
        for line in _predictions(run.run_id, table, board.bank)
    )
    write_table(path, PREDICTION_COLUMNS, lines)


def _tables(measured: Measured) -> list[tuple[int | None, Outcomes]]:
    return list(zip(measured.seeds, measured.samples, strict=True)) if measured.samples else [(None, measured.outcomes)]


def _predictions(run_id: str, table: Outcomes, bank: QuestionBank) -> Iterator[dict[str, str]]:
    columns = (bank.level, table.outcome, table.picked, table.correct, table.consistent, table.n_tokens)
    values = zip(bank.questions, *(column.tolist() for column in columns), strict=True)
    for question, level, outcome, picked, correct, consistent, n_tokens in values:
        # Only other runs were asked this question.
        if OUTCOME_NAMES[outcome] == "absent":
            continue
        # A failure is neither right nor wrong: its cells stay empty.
        responded = OUTCOME_NAMES[outcome] in ("answered", "unparsed", "truncated")
        yield {
            "run_id": safe_text(run_id),
            "sample_id": safe_text(question.question_id.partition("/")[2]),
            "level": level,
            "domain": question.domain or "",
            "video_id": safe_text(question.cluster),
            "gold": question.gold,
            "pred": "" if picked == NO_LETTER else ascii_uppercase[picked],
            "correct": str(int(correct)) if responded else "",
            "consistent": "" if consistent == NO_VERDICT else str(consistent),
            "status": OUTCOME_NAMES[outcome],
            "n_tokens": "" if n_tokens == UNKNOWN else str(n_tokens),
        }
