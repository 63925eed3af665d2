"""Questions of one's own -> training rows: the file, columns and splits of the suite own (docs/your-questions.md)."""

from __future__ import annotations

import json
from pathlib import Path

from seedbench_r1.columns import NAMES, TARGETS
from seedbench_r1.errors import DataError
from seedbench_r1.questions import TrainingData, TrainingRow
from seedbench_r1.rows import BadRows
from seedbench_r1.suites.own import chosen_splits, notes_of, open_reader, split_names
from seedbench_r1.suites.own_cells import target_of
from seedbench_r1.suites.own_rows import OwnReader
from trainers.config import TrainConfig


def read_own_rows(config: TrainConfig, bad: BadRows) -> TrainingData:
    """The rows of config.questions_file; for SFT with what each teaches.

    Options stand in the order of the file in every epoch, as in evaluation.

    Raises:
        ConfigError: --map or --splits does not fit the file.
        DataError: the file is absent, has no column of targets for SFT, or a row cannot be used and is not skipped.
    """
    path, sft = config.questions_file, config.algo == "sft"
    reader = open_reader(path, config.map, config.data, bad, flag="--train-file")
    if sft:
        _refuse_without_targets(path, reader)
    wanted = None if config.splits is None else split_names(config.splits)
    splits: dict[str, list[TrainingRow]] = {}
    for cells, question in reader.rows():
        rows = splits.setdefault(question.split, [])
        # A split that is left out may have nothing to teach.
        taught = sft and (wanted is None or question.split in wanted)
        try:
            response = target_of(cells, question.gold) if taught else None
        except DataError as error:
            bad.refuse(error)
            continue
        rows.append(TrainingRow(question, question.gold_text, (), True, response, None))
    chosen = chosen_splits(path, {name: rows for name, rows in splits.items() if rows}, config.splits, bad)
    return TrainingData(
        rows=[row for rows in chosen.values() for row in rows],
        read_as=json.dumps(reader.reading.columns.identity(targets=sft)),
        notes=_notes(path, reader, tuple(chosen), sft=sft),
        left_out=tuple(name for name in splits if name not in chosen),
    )


def _refuse_without_targets(path: Path, reader: OwnReader) -> None:
    columns = reader.reading.columns
    if not any(columns.of(field) for field in TARGETS):
        names = ", ".join(NAMES["response"] + NAMES["reasoning"])
        raise DataError(
            f"{path}: no column is known to hold what SFT teaches ({names}). There are: "
            f"{', '.join([name for names in columns.taken.values() for name in names] + list(columns.left))}. "
            f"Fix: --map response=COLUMN for whole responses, --map reasoning=COLUMN for reasoning alone, to which the "
            f"right answer is added; or --algo grpo or care, which need neither. Nothing was trained."
        )


def _notes(path: Path, reader: OwnReader, chosen: tuple[str, ...], *, sft: bool) -> tuple[str, ...]:
    """How the file was read, and what one who did not say it may not mean."""
    columns, said = reader.reading.columns, list(notes_of(path, reader.reading))
    if sft and columns.of("reasoning"):
        said.append(f"{path.name}: the responses are {columns.name('reasoning')} in its tag and the right answer.")
    if len(chosen) > 1:
        said.append(f"{path.name}: trained on the splits {', '.join(chosen)}; --splits takes some of them.")
    return tuple(said)
