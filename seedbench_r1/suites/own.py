"""Questions of one's own, from a file of any form and columns (docs/your-questions.md)."""

from __future__ import annotations

import difflib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from seedbench_r1 import scoring
from seedbench_r1.columns import parse_map
from seedbench_r1.config import PROTOCOLS, EvalConfig, SuiteDefaults
from seedbench_r1.errors import ConfigError, DataError
from seedbench_r1.packed import PackedQuestions
from seedbench_r1.row_files import FORMS, folder_of
from seedbench_r1.rows import BadRows
from seedbench_r1.suites.base import Questions, Suite
from seedbench_r1.suites.own_rows import SUITE, OwnReader, Reading, read_once
from seedbench_r1.suites.transfer import DEFAULT_TEMPLATE
from seedbench_r1.types import Question

T = TypeVar("T")


def load(config: EvalConfig) -> Questions:
    """Read and validate the questions of config.questions, split by split, each in the file's order.

    Raises:
        ConfigError: --map or --splits does not fit the file.
        DataError: the file is absent or a row is invalid; the message names file, line and field.
    """
    path, bad = config.questions, BadRows(skip=config.skip_bad_rows)
    if path is None:
        raise ConfigError("--suite own needs your questions. Fix: --questions FILE.")
    reading, questions = open_file(path, config.map, config.data_root, bad)
    packed = defaultdict[str, PackedQuestions](PackedQuestions)
    for question in questions:
        packed[question.split].append(question)
    splits = chosen_splits(path, packed, config.splits, bad)
    # The split may be what is bad in a row, so that all count with the first one.
    bad_rows = {next(iter(splits)): bad}
    read_as = json.dumps(reading.columns.identity())
    return Questions(splits, dict.fromkeys(splits, path), bad_rows, read_as, notes_of(path, reading))


def open_file(path: Path, mapping: str | None, data_root: Path, bad: BadRows) -> tuple[Reading, Iterator[Question]]:
    """How a file is read, and its questions, which are made one at a time. Raises ConfigError and DataError."""
    reader = open_reader(path, mapping, data_root, bad)
    return reader.reading, reader.questions()


def open_reader(
    path: Path, mapping: str | None, data_root: Path, bad: BadRows, *, flag: str = "--questions"
) -> OwnReader:
    """The reader of a file after the first reading. Raises ConfigError and DataError.

    flag: the option that names the file.
    """
    try:
        reading = read_once(path, parse_map(mapping))
    except FileNotFoundError as error:
        raise DataError(f"No questions at {path}. Fix: {flag} FILE; read are {FORMS}.") from error
    return OwnReader(path, reading, data_root, bad)


def trained_on(path: Path, settings: Mapping[str, Any]) -> Iterator[Question]:
    """The questions of a training file, by the settings in a checkpoint's training.json. Raises DataError."""
    wanted = settings.get("splits")
    try:
        # What the training has left out of the file, if it was told to, is left out here.
        _, questions = open_file(path, settings.get("map"), folder_of(path), BadRows(skip=True))
    except ConfigError as error:
        raise DataError(f"{path} cannot be read as it was for the training: {error}") from error
    return (q for q in questions if wanted is None or q.split in split_names(wanted))


def notes_of(path: Path, reading: Reading) -> tuple[str, ...]:
    """What the user is to be told of how a file was read."""
    # That rows with options are choices surprises nobody.
    return tuple(f"{path.name}: {n}." for n in reading.notes if reading.inferred != "options" or "kind" not in n)


def split_names(wanted: str) -> list[str]:
    """The names in --splits."""
    return [name.strip() for name in wanted.split(",") if name.strip()]


def chosen_splits(path: Path, splits: Mapping[str, T], wanted: str | None, bad: BadRows) -> dict[str, T]:
    """The splits that --splits names, in the file's order; all of them without it.

    Raises:
        ConfigError: there is none of such a name.
        DataError: the file holds no row that can be used.
    """
    if not splits:
        raise DataError(f"{path} holds no question that can be asked. {(bad.messages or [''])[0]}")
    if wanted is None:
        return dict(splits)
    names = split_names(wanted)
    for name in names:
        if name not in splits:
            nearest = difflib.get_close_matches(name, splits, n=1)
            meant = f" Did you mean {nearest[0]!r}?" if nearest else ""
            raise ConfigError(f"--splits: no split {name!r}.{meant} There are: {', '.join(splits)}.")
    if not names:
        raise ConfigError(f"--splits {wanted!r} names none. There are: {', '.join(splits)}.")
    return {name: splits[name] for name in splits if name in names}


OWN = Suite(
    name=SUITE,
    defaults=SuiteDefaults(PROTOCOLS, DEFAULT_TEMPLATE),
    load=load,
    group_of=scoring.by_domain_or_kind,
    scorer=1,
    path_prefix="own-",
    splits_option="--splits",
    where_media_go="put them where the file's paths lead, from its folder or --data-root (docs/your-questions.md)",
)
