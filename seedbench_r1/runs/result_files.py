"""Result files of other evaluators, and plain predictions: who answered what, and what the file itself claims."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from seedbench_r1.errors import ConfigError, DataError
from seedbench_r1.files import JsonObject
from seedbench_r1.parsing import first_block
from seedbench_r1.row_files import read_csv
from seedbench_r1.rows import BadRows, Place, read_rows
from seedbench_r1.typed_json import parse_json
from seedbench_r1.types import LEVELS

# "..._L1_results.json" and "...-l1.jsonl": the level is set off by separators.
_LEVEL = re.compile(r"(?:^|[_-])(L[123])(?=[_.-]|$)", re.IGNORECASE)
_FRAMES = re.compile(r"(\d+)frames")
_CHOICES = ("choice_a", "choice_b", "choice_c", "choice_d")
# As the reference's general evaluation files are called, and the split that each belongs to
GENERAL = re.compile(r"(vsibench|videommmu|mmvu|mvbench|tempcompass|videomme)", re.IGNORECASE)
_CHOICE_ONLY = ("mmvu",)  # as in suites.transfer

Content = tuple[str, str]  # of a question: its text, and its recording


@dataclass(frozen=True, slots=True)
class ImportedAnswer:
    """One answer of another evaluator."""

    question_id: str | None  # None: found by content
    text: str
    where: str  # file and place in it
    options: tuple[str, ...] | None = None  # as the file has them; None: it does not say
    gold: str | None = None
    claimed_correct: bool | None = None  # what the file says; None: nothing
    content: Content | None = None


@dataclass(frozen=True, slots=True)
class ImportedFile:
    """A file's answers and what is known of how they were made."""

    path: Path
    answers: tuple[ImportedAnswer, ...]
    max_frames: int | None = None
    split: str | None = None  # of all its answers, for files that name no question


def read_grpo_care(path: Path, level: str | None = None) -> ImportedFile:
    """Read the JSON of GRPO-CARE's evaluator: {"results": [annotation row + output, prediction, reward]}.

    Args:
        path: one of its result files, of SEED-Bench-R1 or of a general benchmark (eval_32frames_mvbench_results.json).
        level: by default the L1, L2 or L3 in the file's name.

    Raises:
        ConfigError: neither a level nor a benchmark is known.
        DataError: not such a file; the message names the entry.
    """
    benchmark = None if level or _LEVEL.search(path.stem) else GENERAL.search(path.stem)
    split = benchmark.group(1).lower() if benchmark else _level_of(path, level)
    try:
        value = parse_json(_read_text(path))
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON: {error}. Was it cut off?") from error
    results = value.get("results") if isinstance(value, dict) else None
    if not isinstance(results, list):
        raise DataError(f'{path}: expected {{"results": [...]}}, as the reference evaluator writes it.')
    # The only setting that the file's name gives away.
    frames = _FRAMES.search(path.stem)
    answers = []
    for place, entry in enumerate(results):
        # Named in every error: such files have thousands of entries.
        where = f"{path}: results[{place}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("output"), str):
            raise DataError(f"{where}: expected an object with output.")
        if split not in _CHOICE_ONLY or entry.get("problem_type") == "multiple choice":
            answers.append(_general_answer(entry, where) if benchmark else _level_answer(entry, split, where, "output"))
    return ImportedFile(path, tuple(answers), int(frames.group(1)) if frames else None, split)


def read_seed_bench_r1(path: Path, level: str | None = None) -> ImportedFile:
    """Read the lines of SEED-Bench-R1's own infer script: sample_id, problem, solution, response, reward.

    Raises:
        ConfigError, DataError: as read_grpo_care does.
    """
    split = _level_of(path, level)
    answers = []
    for (where, _), row in _rows(path):
        if not isinstance(row.get("response"), str):
            raise DataError(f"{where}: expected an object with sample_id and response.")
        answers.append(_level_answer(row, split, where, "response"))
    return ImportedFile(path, tuple(answers), split=split)


def read_predictions(path: Path, level: str | None = None) -> ImportedFile:
    """Read JSON lines, a JSON list or CSV with a header: question_id ("L1/115"), or level and id; and response.

    Args:
        path: the file; CSV if its name ends so.
        level: of rows that name none.

    Raises:
        ConfigError, DataError: as read_grpo_care does.
    """
    answers = []
    for (where, _), row in _rows(path):
        text, question_id = row.get("response"), row.get("question_id")
        if not isinstance(text, str):
            raise DataError(f"{where}: response is {text!r}, expected a text (columns: {', '.join(row)}).")
        number, of = row.get("id", row.get("sample_id")), row.get("level") or level
        named = None if number is None or of is None else f"{of}/{number}"
        if question_id is None and named is None:
            raise DataError(f"{where}: expected question_id, or level and id. Fix: --level gives all rows' level.")
        if None not in (question_id, named) and question_id != named:
            raise DataError(f"{where}: question_id is {question_id!r}, level and id say {named!r}.")
        question_id = question_id or named
        answers.append(ImportedAnswer(str(question_id), text, where))
    return ImportedFile(path, tuple(answers))


def read_lmms_eval(path: Path, level: str | None = None) -> ImportedFile:
    """Read lmms-eval's <date>_samples_<task>.jsonl. The question is named by question_id (our tasks) or doc.sample_id.

    Raises:
        ConfigError: the level is not known. DataError: not such a file; the message names the line.
    """
    found = _LEVEL.search(path.stem)
    level = level or (found.group(1).upper() if found else None)
    answers = []
    for (where, _), sample in _rows(path):
        try:
            answers.append(_lmms_answer(sample, level, where))
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise DataError(f"{where}: not a line of an lmms-eval samples file ({type(error).__name__}).") from error
    return ImportedFile(path, tuple(answers))


# By the source's name in the protocol id and on the command line.
READERS: dict[str, Callable[[Path, str | None], ImportedFile]] = {
    "grpo-care": read_grpo_care,
    "seed-bench-r1": read_seed_bench_r1,
    "lmms-eval": read_lmms_eval,
    "predictions": read_predictions,
}


def _level_of(path: Path, level: str | None) -> str:
    found = _LEVEL.search(path.stem)
    level = level or (found.group(1).upper() if found else None)
    if level not in LEVELS:
        raise ConfigError(f"{path}: the name does not say L1, L2 or L3. Fix: --level L1.")
    return level


def _level_answer(entry: JsonObject, level: str, where: str, text: str) -> ImportedAnswer:
    """Of a row that names its question by sample_id."""
    if not isinstance(entry.get("sample_id"), int | str):
        raise DataError(f"{where}: sample_id is {entry.get('sample_id')!r}, expected a number or a text.")
    options = tuple(str(entry[key]) for key in _CHOICES) if all(key in entry for key in _CHOICES) else None
    gold = entry.get("golden_choice_idx")
    if gold is None and isinstance(entry.get("solution"), str):
        # "<answer>A.</answer>"
        gold = (first_block(entry["solution"], "answer") or "").strip().rstrip(".") or None
    return ImportedAnswer(f"{level}/{entry['sample_id']}", entry[text], where, options, gold, _claim(entry))


def _general_answer(entry: JsonObject, where: str) -> ImportedAnswer:
    """Of a row of Video-R1's evaluation files, which is known by its text and its file."""
    problem, path, solution = entry.get("problem"), entry.get("path"), entry.get("solution")
    if not (isinstance(problem, str) and isinstance(path, str) and isinstance(solution, str)):
        raise DataError(f"{where}: expected an object with problem, path and solution.")
    content = (problem, str(PurePosixPath(path)))
    gold = first_block(solution, "answer")
    return ImportedAnswer(None, entry["output"], where, None, gold, _claim(entry), content)


def _claim(entry: JsonObject) -> bool | None:
    """The reference's reward is 1 for a right answer and 0 for a wrong one; one in between claims neither."""
    reward = entry.get("reward")
    return {0.0: False, 1.0: True}.get(reward) if isinstance(reward, int | float) else None


def _lmms_answer(sample: JsonObject, level: str | None, where: str) -> ImportedAnswer:
    doc: JsonObject = sample["doc"] if isinstance(sample.get("doc"), dict) else {}
    question_id = sample.get("question_id") or doc.get("question_id")
    if question_id is None:
        level = level or doc.get("task_level")
        if level not in LEVELS:
            raise ConfigError(f"{where}: neither the line nor the file's name says L1, L2 or L3. Fix: --level L1.")
        question_id = f"{level}/{doc['sample_id']}"
    text = sample.get("raw_text")
    if not isinstance(text, str):
        # Other people's tasks have no raw_text; resps nests once for each repeat.
        response = sample["resps"][0]
        text = response[0] if isinstance(response, list) else response
    if not isinstance(text, str):
        raise TypeError
    options = tuple(str(doc[key]) for key in _CHOICES) if all(key in doc for key in _CHOICES) else None
    return ImportedAnswer(question_id, text, where, options, doc.get("golden_choice_idx"))


def _rows(path: Path) -> Iterator[tuple[Place, dict[str, Any]]]:
    try:
        # An empty answer is one; other empty cells are no values.
        is_csv = path.suffix.lower() == ".csv"
        yield from read_csv(path, BadRows(), keep=("response",)) if is_csv else read_rows(path, BadRows())
    except FileNotFoundError as error:
        raise DataError(f"{path} cannot be read: {error}.") from error


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
