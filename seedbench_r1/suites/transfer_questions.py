"""Video-R1's evaluation files -> validated questions of the transfer suite. An error names file and index.

A file is a JSON list of objects: problem, problem_type, data_type, options, solution, path and more (docs/transfer.md).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from string import ascii_uppercase
from typing import Any, Literal, cast, get_args

from seedbench_r1.errors import ConfigError, DataError
from seedbench_r1.parsing import first_block
from seedbench_r1.suites.transfer_scoring import read_number

ProblemType = Literal["multiple choice", "numerical", "OCR", "free-form", "regression"]
PROBLEM_TYPES: tuple[ProblemType, ...] = get_args(ProblemType)
NUMBER_TYPES = ("numerical", "regression")

# in the order of the columns of GRPO-CARE, Table 4 (arXiv 2506.16141): name on the command line -> name in tables
BENCHMARKS = {
    "vsibench": "VSI-Bench",
    "videommmu": "VideoMMMU",
    "mmvu": "MMVU",
    "mvbench": "MVBench",
    "tempcompass": "TempCompass",
    "videomme": "VideoMME",
}
CHOICES_ONLY = ("mmvu",)  # GRPO-CARE, section 4: MMVU's multiple-choice questions only

_LETTERED = re.compile(r"\(?([A-Z])[.):](?:\s+|$)(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class TransferQuestion:
    """One validated row. Options are in the order of the file, without their letters."""

    question_id: str  # "mmvu/17": benchmark, slash, the row's place in its file, from 0
    benchmark: str  # a key of BENCHMARKS
    problem_type: ProblemType
    text: str
    options: tuple[str, ...]  # 2 to 26 for multiple choice, else none
    gold: str  # a letter for multiple choice, else the content of the solution's answer tag
    video: Path | None  # either a clip
    image: Path | None  # or an image
    cluster: str  # the path in the file
    problem_id: str | None  # as in the file; need not be unique
    data_source: str | None

    @property
    def split(self) -> str:
        """The benchmark, under the name that subsets and progress know."""
        return self.benchmark

    @property
    def domain(self) -> str:
        """The problem type, under the name that counts know."""
        return self.problem_type

    @property
    def letters(self) -> str:
        """ "ABC" for three options; empty if there are none."""
        return ascii_uppercase[: len(self.options)]


def transfer_file(folder: Path, benchmark: str) -> Path:
    """Where a benchmark's evaluation file stands."""
    return folder / f"eval_{benchmark}.json"


def parse_benchmarks(value: str) -> tuple[str, ...]:
    """ "mmvu,VSI-Bench" in the order of BENCHMARKS. Raises ConfigError for anything else."""
    known = {re.sub(r"[^a-z]", "", name.casefold()): key for key, name in BENCHMARKS.items()}
    wanted = [re.sub(r"[^a-z]", "", name.casefold()) for name in value.split(",") if name.strip()]
    if not wanted or any(name not in known for name in wanted):
        raise ConfigError(f"--benchmarks {value!r} is not understood. Give one or more of {','.join(BENCHMARKS)}.")
    return tuple(key for name, key in known.items() if name in wanted)


def load_transfer_questions(
    folder: Path, data_root: Path, benchmarks: Sequence[str] = tuple(BENCHMARKS)
) -> dict[str, list[TransferQuestion]]:
    """Read and validate the files of the benchmarks, in file order.

    Args:
        folder: holds eval_vsibench.json and the others.
        data_root: the rows' paths ("./Evaluation/...") are relative to it; a root that is itself the folder
            "Evaluation" serves too.

    Raises:
        DataError: a file is absent or a row is invalid; the message names file and index.
    """
    return {name: load_transfer_file(transfer_file(folder, name), data_root, name) for name in benchmarks}


def load_transfer_file(path: Path, data_root: Path, benchmark: str) -> list[TransferQuestion]:
    """Read one evaluation file. Of MMVU only the multiple-choice questions are taken, as in GRPO-CARE's Table 4."""
    questions = []
    for index, row in enumerate(_rows(path)):
        question = _RowReader(path, index, row).question(data_root, benchmark)
        if benchmark not in CHOICES_ONLY or question.problem_type == "multiple choice":
            questions.append(question)
    if not questions:
        raise DataError(f"{path} holds no questions of {BENCHMARKS[benchmark]}. Fix: fetch the file again.")
    return questions


def _rows(path: Path) -> list[Any]:
    try:
        value = json.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError as error:
        raise DataError(
            f"No evaluation file at {path}. Fix: --transfer-files DIR, where DIR holds Video-R1's eval_*.json, or "
            f"leave the benchmark out with --benchmarks."
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} is not valid JSON ({error}). Is it a Git LFS pointer or a half download?") from error
    if not isinstance(value, list):
        raise DataError(f"{path}: expected a JSON list of questions, found {type(value).__name__}.")
    return value


class _RowReader:
    """Reads the fields of one row, and knows where it stands for the error message."""

    def __init__(self, path: Path, index: int, row: Any) -> None:
        self.where = f"{path}: index {index}"
        self.index = index
        if not isinstance(row, dict):
            raise DataError(f"{self.where}: expected a JSON object, found {type(row).__name__}.")
        self.row = row

    def question(self, data_root: Path, benchmark: str) -> TransferQuestion:
        problem_type = cast(ProblemType, self.one_of("problem_type", PROBLEM_TYPES))
        medium = self.one_of("data_type", ("video", "image"))
        relative = self.path()
        file = _locate(data_root, relative)
        options = self.options() if problem_type == "multiple choice" else ()
        return TransferQuestion(
            question_id=f"{benchmark}/{self.index}",
            benchmark=benchmark,
            problem_type=problem_type,
            text=self.text("problem"),
            options=options,
            gold=self.gold(problem_type, options),
            video=file if medium == "video" else None,
            image=file if medium == "image" else None,
            cluster=str(relative),
            problem_id=None if self.row.get("problem_id") is None else str(self.row["problem_id"]),
            data_source=self.row.get("data_source"),
        )

    def fail(self, message: str) -> DataError:
        return DataError(f"{self.where}: {message}")

    def text(self, key: str) -> str:
        value = self.row.get(key)
        if not isinstance(value, str) or not value.strip():
            raise self.fail(f"{key} is {value!r}, expected a text.")
        return value

    def one_of(self, key: str, allowed: Sequence[str]) -> str:
        value = self.row.get(key)
        if value not in allowed:
            raise self.fail(f"{key} is {value!r}, expected {' or '.join(map(repr, allowed))}.")
        return cast(str, value)

    def path(self) -> PurePosixPath:
        value = self.text("path")
        relative = PurePosixPath(value)
        if relative.is_absolute() or ".." in relative.parts or "\x00" in value:
            raise self.fail(f"path is {value!r}, expected one inside the data root, like './Evaluation/...'.")
        return relative

    def options(self) -> tuple[str, ...]:
        """The options' texts: "A. text" loses its letter if every option has its own."""
        values = self.row.get("options")
        if not isinstance(values, list) or not all(isinstance(option, str) for option in values):
            raise self.fail(f"options is {values!r}, expected a list of texts.")
        if not 2 <= len(values) <= len(ascii_uppercase):
            raise self.fail(f"options holds {len(values)} texts, expected 2 to {len(ascii_uppercase)}.")
        matches = [_LETTERED.fullmatch(option.strip()) for option in values]
        stated = "".join(match.group(1) if match else "-" for match in matches)
        wanted = ascii_uppercase[: len(values)]
        if stated == wanted:
            return tuple(match.group(2).strip() for match in matches if match)
        if stated.strip("-"):
            raise self.fail(f"options have the letters {stated!r}, expected {wanted!r} or none at all.")
        return tuple(option.strip() for option in values)

    def gold(self, problem_type: str, options: tuple[str, ...]) -> str:
        solution = self.text("solution")
        content = first_block(solution, "answer")
        if not content:
            raise self.fail(f"solution is {solution!r}, expected '<answer>...</answer>'.")
        letters = ascii_uppercase[: len(options)]
        if problem_type == "multiple choice" and content not in tuple(letters):
            raise self.fail(f"solution is {solution!r}, expected a letter from A to {letters[-1]}.")
        if problem_type in NUMBER_TYPES and read_number(content) is None:
            raise self.fail(f"solution is {solution!r}, expected a number.")
        return content


def _locate(data_root: Path, relative: PurePosixPath) -> Path:
    """The file under the root or, where the root is the first folder of the path, in it; else where it should be."""
    expected = data_root / relative
    inside = data_root.joinpath(*relative.parts[1:])
    return inside if len(relative.parts) > 1 and not expected.exists() and inside.is_file() else expected
