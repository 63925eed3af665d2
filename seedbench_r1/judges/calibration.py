"""Human labels for a judge: a blinded sheet to fill in, and the table of agreement read back from it."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seedbench_r1.errors import ConfigError, DataError
from seedbench_r1.files import write_text
from seedbench_r1.judges.run import JudgeCase, blinded_id, judge_case
from seedbench_r1.runs.directory import Run
from seedbench_r1.scoring import lacks_reasoning
from seedbench_r1.types import LETTERS, Verdict

COLUMNS = ("row_id", "question", "A", "B", "C", "D", "reasoning", "answer", "supports_answer")
# What people type into spreadsheets, in any case.
YES, NO = {"yes", "y", "1", "true"}, {"no", "n", "0", "false"}


@dataclass(frozen=True, slots=True)
class Agreement:
    """Judge against human: first letter the judge, second the human (y: the reasoning supports the answer)."""

    yy: int
    yn: int
    ny: int
    nn: int
    unlabelled: int  # rows of the sheet without a label
    undecided: int  # labelled rows on which the judge gave no verdict

    @property
    def n(self) -> int:
        return self.yy + self.yn + self.ny + self.nn


def calibration_sheet(
    runs: Sequence[Run], verdicts: Sequence[dict[str, Verdict]], n: int, *, by_verdict: bool, seed: int = 0
) -> list[dict[str, str]]:
    """Rows to be labelled, shuffled: no run name, no gold answer, no verdict.

    `verdicts` are those of the judge to be calibrated, run by run. by_verdict: half of the rows from those judged
    consistent, half from the others; needed for predictive values. Raises ConfigError if there is nothing to label.
    """
    yes: list[tuple[Path, JudgeCase]] = []
    no: list[tuple[Path, JudgeCase]] = []
    rest: list[tuple[Path, JudgeCase]] = []
    for run, known in zip(runs, verdicts, strict=True):
        for record in run.records.values():
            # Such answers are inconsistent by definition: labels on them would flatter every judge.
            if not record.answered or lacks_reasoning(record):
                continue
            verdict = known.get(record.question_id)
            group = rest if verdict is None or verdict.consistent is None else yes if verdict.consistent else no
            group.append((run.path, judge_case(run, record)))
    rng = random.Random(seed)
    for group in (yes, no, rest):
        # A fixed order before shuffling, whatever the order of the runs' lines.
        group.sort(key=lambda item: blinded_id(item[0], item[1].question_id))
        rng.shuffle(group)
    everything = yes + no + rest
    chosen = yes[: n // 2] + no[: n - n // 2] if by_verdict else rng.sample(everything, min(n, len(everything)))
    if not chosen:
        raise ConfigError("There is nothing to label. With --strategy by-verdict the runs must be judged first.")
    # Or the first half would be the consistent one.
    rng.shuffle(chosen)
    return [_row(path, case) for path, case in chosen]


def _row(path: Path, case: JudgeCase) -> dict[str, str]:
    options: dict[str, str] = dict(zip(LETTERS, case.options, strict=True))
    return {
        "row_id": blinded_id(path, case.question_id),
        "question": case.question,
        **options,
        "reasoning": case.reasoning,
        "answer": case.answer,
        "supports_answer": "",
    }


def write_sheet(rows: Sequence[dict[str, str]], path: Path) -> None:
    """Write the CSV. Texts that a spreadsheet would take for a formula get a leading quote. Raises ResourceError."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS)
    writer.writeheader()
    # Model output may begin with "=": a spreadsheet would run it.
    writer.writerows({name: _harmless(text) for name, text in row.items()} for row in rows)
    write_text(path, stream.getvalue())


def read_labels(path: Path) -> dict[str, bool | None]:
    """row_id -> label; None where the cell is empty. Raises DataError for any other word, naming the line."""
    labels: dict[str, bool | None] = {}
    try:
        # Excel writes a byte order mark in front of the first column's name.
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            for row in reader:
                labels[row["row_id"]] = _label(row["supports_answer"], f"{path}:{reader.line_num}")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    except KeyError as error:
        raise DataError(f"{path} has no column {error}. It must be a sheet of `judge calibrate`, filled in.") from error
    return labels


def agreement(runs: Sequence[Run], verdicts: Sequence[dict[str, Verdict]], labels: dict[str, bool | None]) -> Agreement:
    """Count judge against labels. Raises DataError if a label belongs to none of the runs."""
    by_id = {
        # The sheet holds hashes only, so rows are found by hashing every answer again.
        blinded_id(run.path, q): known.get(q)
        for run, known in zip(runs, verdicts, strict=True)
        for q in run.records
    }
    unknown = [row_id for row_id in labels if row_id not in by_id]
    if unknown:
        raise DataError(f"{len(unknown)} labels, e.g. {unknown[0]}, are of none of these runs. Fix: name all of them.")
    cells = {(judge, human): 0 for judge in (True, False) for human in (True, False)}
    undecided = 0
    for row_id, human in labels.items():
        verdict = by_id[row_id]
        if human is None:
            continue
        if verdict is None or verdict.consistent is None:
            undecided += 1
        else:
            # (judge, human), so that the four cells give sensitivity and specificity directly.
            cells[verdict.consistent, human] += 1
    unlabelled = sum(label is None for label in labels.values())
    return Agreement(
        cells[True, True], cells[True, False], cells[False, True], cells[False, False], unlabelled, undecided
    )


def _label(text: str | None, where: str) -> bool | None:
    word = (text or "").strip().lower()
    if word in YES | NO:
        return word in YES
    if word:
        raise DataError(f"{where}: supports_answer is {text!r}, expected yes or no (or nothing).")
    return None


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
