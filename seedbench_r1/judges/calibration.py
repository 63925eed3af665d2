"""Human labels for a judge: blinded sheets to fill in, and the table of agreement read back from them."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase

from leaderboards.stats import Judged, interval
from seedbench_r1.errors import ConfigError, DataError
from seedbench_r1.files import write_text
from seedbench_r1.judges.run import JudgeCase, blinded_id, is_case, judge_case
from seedbench_r1.runs.directory import Run
from seedbench_r1.scoring import lacks_reasoning
from seedbench_r1.types import LETTERS, RunRecord, Verdict

BEFORE, AFTER = ("row_id", "question"), ("reasoning", "answer", "supports_answer")  # the options' columns
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

    @property
    def table(self) -> tuple[int, int, int, int]:
        """yy, yn, ny, nn: as leaderboards.stats takes it."""
        return self.yy, self.yn, self.ny, self.nn


Case = tuple[Path, JudgeCase]  # of the run in this directory


def calibration_sheet(
    runs: Sequence[Run], verdicts: Sequence[dict[str, Verdict]], n: int, *, by_verdict: bool, seed: int = 0
) -> list[dict[str, str]]:
    """Rows to be labelled, shuffled: no run name, no gold answer, no verdict.

    Args:
        runs: whose answers are drawn from.
        verdicts: of the judge to be calibrated, run by run.
        by_verdict: half of the rows from those judged consistent, half from the others; needed for predictive values.
        n: rows.
        seed: of the draw.

    Raises:
        ConfigError: there is nothing to label.
    """
    rng = random.Random(seed)
    yes, no, rest = _by_verdict(runs, verdicts, rng)
    everything = yes + no + rest
    chosen = yes[: n // 2] + no[: n - n // 2] if by_verdict else rng.sample(everything, min(n, len(everything)))
    if not chosen:
        raise ConfigError("There is nothing to label. With --strategy by-verdict the runs must be judged first.")
    return _shuffled_rows(chosen, rng)


def next_sheet(
    runs: Sequence[Run],
    verdicts: Sequence[dict[str, Verdict]],
    labels: Mapping[str, bool | None],
    counts: tuple[int, int],
    *,
    seed: int = 0,
) -> list[dict[str, str]]:
    """Rows as calibration_sheet gives them, of so many judge-yes and judge-no cases that have no label yet."""
    rng = random.Random(seed)
    groups = _by_verdict(runs, verdicts, rng)[:2]
    # The order does not depend on the labels, so what is drawn is random among what is left.
    left = [[case for case in group if labels.get(_row_id(case)) is None] for group in groups]
    return _shuffled_rows(left[0][: counts[0]] + left[1][: counts[1]], rng)


def judged_counts(run: Run, verdicts: Mapping[str, Verdict]) -> Judged:
    """A run's answers by one judge's verdicts, undecided and failed ones left out; design effect by video."""
    answered = [record for record in run.records.values() if record.answered]
    said = [(verdict.consistent, record.cluster) for record in answered if (verdict := _asked(record, verdicts))]
    share = interval([float(bool(word)) for word, _ in said], [cluster for _, cluster in said])
    # Those, too, have a verdict once the run was judged.
    by_definition = sum(lacks_reasoning(record) and record.question_id in verdicts for record in answered)
    return Judged(int(share.k), share.n - int(share.k), by_definition, share.deff)


def _asked(record: RunRecord, verdicts: Mapping[str, Verdict]) -> Verdict | None:
    """The verdict of an answer that a judge said yes or no to."""
    verdict = None if lacks_reasoning(record) else verdicts.get(record.question_id)
    return None if verdict is None or verdict.consistent is None else verdict


def _by_verdict(
    runs: Sequence[Run], verdicts: Sequence[dict[str, Verdict]], rng: random.Random
) -> tuple[list[Case], list[Case], list[Case]]:
    """Cases judged consistent, not consistent, and without a verdict, each in random order."""
    yes: list[Case] = []
    no: list[Case] = []
    rest: list[Case] = []
    for run, known in zip(runs, verdicts, strict=True):
        for record in run.records.values():
            # Others are inconsistent by definition, or not judged: labels on them would flatter every judge.
            if not is_case(run, record):
                continue
            verdict = _asked(record, known)
            group = rest if verdict is None else yes if verdict.consistent else no
            group.append((run.path, judge_case(run, record)))
    for group in (yes, no, rest):
        # A fixed order before shuffling, whatever the order of the runs' lines.
        group.sort(key=_row_id)
        rng.shuffle(group)
    return yes, no, rest


def _shuffled_rows(chosen: list[Case], rng: random.Random) -> list[dict[str, str]]:
    # Or the first half would be the consistent one.
    rng.shuffle(chosen)
    return [_row(path, case) for path, case in chosen]


def _row_id(case: Case) -> str:
    return blinded_id(case[0], case[1].question_id)


def _row(path: Path, case: JudgeCase) -> dict[str, str]:
    options = dict(zip(case.letters, case.options, strict=True))
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
    # Four at least, as the benchmark's; more where a question has more.
    options = [letter for letter in ascii_uppercase if letter in LETTERS or any(letter in row for row in rows)]
    writer = csv.DictWriter(stream, (*BEFORE, *options, *AFTER))
    writer.writeheader()
    # Model output may begin with "=": a spreadsheet would run it.
    writer.writerows({name: _harmless(text) for name, text in row.items()} for row in rows)
    write_text(path, stream.getvalue())


def read_labels(*paths: Path) -> dict[str, bool | None]:
    """row_id -> label of all sheets; None where the cell is empty. An empty file holds no labels.

    Raises DataError for any other word, a row without row_id and labels that contradict each other, naming the line.
    """
    labels: dict[str, bool | None] = {}
    places: dict[str, str] = {}
    for path in paths:
        for where, row_id, label in _lines(path):
            if label is None:
                labels.setdefault(row_id, None)
                continue
            if labels.get(row_id, label) not in (label, None):
                raise DataError(
                    f"{where}: row {row_id} is labelled {_word(label)}, and {_word(not label)} in {places[row_id]}. "
                    f"Fix: keep one of the two."
                )
            labels[row_id], places[row_id] = label, where
    return labels


def _lines(path: Path) -> Iterator[tuple[str, str, bool | None]]:
    """(where, row_id, label) of a sheet's rows. Raises DataError."""
    try:
        # Excel writes a byte order mark in front of the first column's name.
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            for row in reader:
                where = f"{path}:{reader.line_num}"
                row_id, label = row["row_id"], _label(row["supports_answer"], where)
                if not row_id:
                    raise DataError(f"{where} has no row_id. It must be a sheet of `judge calibrate`, filled in.")
                yield where, row_id, label
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    except KeyError as error:
        raise DataError(f"{path} has no column {error}. It must be a sheet of `judge calibrate`, filled in.") from error


def _word(label: bool) -> str:
    return "yes" if label else "no"


def labels_by_run(runs: Sequence[Run], labels: Mapping[str, bool | None]) -> list[dict[str, bool | None]]:
    """Each run's own part of the labels."""
    return [{r: labels[r] for q in run.records if (r := blinded_id(run.path, q)) in labels} for run in runs]


def agreement(
    runs: Sequence[Run], verdicts: Sequence[dict[str, Verdict]], labels: Mapping[str, bool | None]
) -> Agreement:
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
