"""General video benchmarks (GRPO-CARE, Table 4), asked from Video-R1's evaluation files.

A file is a JSON list of objects: problem, problem_type, data_type, options, solution, path and more (docs/transfer.md).
An error names file and index.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from string import ascii_uppercase
from typing import Any, cast

from seedbench_r1 import scoring
from seedbench_r1.config import EvalConfig, SuiteDefaults
from seedbench_r1.errors import ConfigError, DataError
from seedbench_r1.kinds import read_number
from seedbench_r1.parsing import first_block
from seedbench_r1.prompts import WORDING_OF_KIND
from seedbench_r1.rows import BadRows, RowReader, read_rows
from seedbench_r1.suites.base import Questions, Suite
from seedbench_r1.types import Kind, Question, Source, Template

KIND_OF = {name: kind for kind, name in WORDING_OF_KIND.items()}  # problem_type of a row -> kind

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


# GRPO-CARE, section 4 and its `eval_bench.py` at 03c3a7c: 32 frames at most, 1,024 new tokens, T 0.1, top_p 0.001; all
# but the frames are the package's own defaults
PROTOCOLS: dict[str, dict[str, object]] = {"transfer": {"max_frames": 32}}


def _wording(task: str, content: str, example: str) -> str:
    return (
        f"{task}\n\nFirst reason step by step inside <think> </think>: what the {{medium}} shows that matters here, "
        f"and what follows from it. Then write {content} inside <answer> </answer>. "
        f"Example of the form: <think> your reasoning </think><answer>{example}</answer>"
    )


DEFAULT_TEMPLATE = Template(
    {
        "multiple choice": _wording(
            "{question}\n\n{options}\n\nExactly one option is right.",
            "the letter of the right option, and nothing more,",
            "A",
        ),
        "numerical": _wording(
            "{question}\n\nThe answer is a number.",
            "that number in digits, with decimals only if the question needs them, and nothing more,",
            "12",
        ),
        "OCR": _wording(
            "{question}\n\nThe answer is text that can be read in the {medium}.",
            "that text exactly as it stands there, and nothing more,",
            "EXIT",
        ),
        "free-form": _wording(
            "{question}\n\nAnswer in your own words.",
            "the answer, as short as it can be complete,",
            "your answer",
        ),
        "regression": _wording(
            "{question}\n\nThe answer is a number; give your best estimate.",
            "that number in digits, without its unit, and nothing more,",
            "3.5",
        ),
    }
)


def transfer_file(folder: Path, benchmark: str) -> Path:
    """Where a benchmark's evaluation file stands."""
    return folder / f"eval_{benchmark}.json"


def parse_benchmarks(value: str | None) -> tuple[str, ...]:
    """ "mmvu,VSI-Bench" in the order of BENCHMARKS; None: all. Raises ConfigError for anything else."""
    if value is None:
        return tuple(BENCHMARKS)
    # Names are taken without case, hyphens and spaces: VSI-Bench and vsibench are one.
    known = {re.sub(r"[^a-z0-9]", "", name.casefold()): key for key, name in BENCHMARKS.items()}
    wanted = [re.sub(r"[^a-z0-9]", "", name.casefold()) for name in value.split(",") if name.strip()]
    if not wanted or any(name not in known for name in wanted):
        raise ConfigError(f"--benchmarks {value!r} is not understood. Give one or more of {','.join(BENCHMARKS)}.")
    return tuple(key for name, key in known.items() if name in wanted)


def load(config: EvalConfig) -> Questions:
    """Read and validate the files of the benchmarks, in file order.

    config.transfer_files holds eval_vsibench.json and the others, by default <data root>/Evaluation. The rows' paths
    ("./Evaluation/...") are relative to the data root; a root that is itself the folder "Evaluation" serves too.

    Raises:
        DataError: a file is absent or a row is invalid; the message names file and index.
    """
    folder = config.transfer_files or config.data_root / "Evaluation"
    files = {name: transfer_file(folder, name) for name in parse_benchmarks(config.benchmarks)}
    bad = {name: BadRows(skip=config.skip_bad_rows) for name in files}
    splits = {name: load_transfer_file(path, config.data_root, name, bad[name]) for name, path in files.items()}
    return Questions(splits, files, bad)


def load_transfer_file(path: Path, data_root: Path, benchmark: str, bad: BadRows | None = None) -> list[Question]:
    """Read one evaluation file. Of MMVU only the multiple-choice questions are taken, as in GRPO-CARE's Table 4."""
    bad = bad or BadRows()
    questions = []
    try:
        for (where, place), row in read_rows(path, bad):
            try:
                question = VideoR1RowReader(where, path.name, place - 1, row).question(data_root, benchmark)
            except DataError as error:
                bad.refuse(error)
                continue
            if benchmark not in CHOICES_ONLY or question.kind == "choice":
                questions.append(question)
    except FileNotFoundError as error:
        raise DataError(
            f"No evaluation file at {path}. Fix: --transfer-files DIR, where DIR holds Video-R1's eval_*.json, or "
            f"leave the benchmark out with --benchmarks."
        ) from error
    if not questions:
        raise DataError(f"{path} holds no questions of {BENCHMARKS[benchmark]}. Fix: fetch the file again.")
    return questions


class VideoR1RowReader(RowReader):
    """A row of Video-R1's evaluation files."""

    def __init__(self, where: str, file: str, index: int, row: dict[str, Any]) -> None:
        self.where, self.file, self.index, self.row = where, file, index, row

    def question(self, data_root: Path, benchmark: str) -> Question:
        kind = KIND_OF[self.one_of("problem_type", tuple(KIND_OF))]
        medium = self.one_of("data_type", ("video", "image"))
        relative = self.path()
        file = _locate(data_root, relative)
        options = self.options() if kind == "choice" else ()
        row_id = self.row.get("problem_id")
        return Question(
            question_id=f"{benchmark}/{self.index}",
            split=benchmark,
            kind=kind,
            text=self.text("problem"),
            options=options,
            gold=self.gold(kind, options),
            video=file if medium == "video" else None,
            image=file if medium == "image" else None,
            cluster=str(relative),
            source=Source(
                "transfer",
                self.file,
                self.index + 1,
                row_id=None if row_id is None else str(row_id),
                origin=self.row.get("data_source"),
            ),
        )

    def one_of(self, key: str, allowed: Sequence[str]) -> str:
        value = self.row.get(key)
        if value not in allowed:
            raise self.fail(f"{key} is {value!r}, expected {' or '.join(map(repr, allowed))}.")
        return cast(str, value)

    def path(self) -> PurePosixPath:
        """Below the data root, or absolute: what a user's own copy of the files names."""
        value, expected = self.text("path"), "one inside the data root, like './Evaluation/...', or an absolute one"
        if PurePosixPath(value).is_absolute() and ".." not in PurePosixPath(value).parts:
            return self.possible("path", value, expected)
        return self.inside("path", value, expected)

    def options(self) -> tuple[str, ...]:
        """The options' texts: "A. text" loses its letter if every option has its own."""
        # Options may come lettered or not; shown, every option has exactly one letter.
        values = self.row.get("options")
        if not isinstance(values, list) or not all(isinstance(option, str) for option in values):
            raise self.fail(f"options is {values!r}, expected a list of texts.")
        if not 2 <= len(values) <= len(ascii_uppercase):
            raise self.fail(f"options holds {len(values)} texts, expected 2 to {len(ascii_uppercase)}.")
        return self.without_letters([option.strip() for option in values])

    def gold(self, kind: Kind, options: tuple[str, ...]) -> str:
        solution = self.text("solution")
        # The files wrap every gold answer in the tag.
        content = first_block(solution, "answer")
        if not content:
            raise self.fail(f"solution is {solution!r}, expected '<answer>...</answer>'.")
        letters = ascii_uppercase[: len(options)]
        if kind == "choice" and content not in tuple(letters):
            raise self.fail(f"solution is {solution!r}, expected a letter from A to {letters[-1]}.")
        # A gold that cannot be read would mark every answer wrong.
        if kind in ("numerical", "regression") and read_number(content) is None:
            raise self.fail(f"solution is {solution!r}, expected a number.")
        return content


def _locate(data_root: Path, relative: PurePosixPath) -> Path:
    """The file under the root or, where the root is the first folder of the path, in it; else where it should be."""
    expected = data_root / relative
    inside = data_root.joinpath(*relative.parts[1:])
    return inside if len(relative.parts) > 1 and not expected.exists() and inside.is_file() else expected


TRANSFER = Suite(
    name="transfer",
    defaults=SuiteDefaults(PROTOCOLS, DEFAULT_TEMPLATE),
    load=load,
    group_of=scoring.by_kind,
    scorer=1,
    path_prefix="transfer-",
    splits_option="--benchmarks",
    where_media_go="put them where the evaluation files' paths lead from --data-root (docs/transfer.md)",
)
