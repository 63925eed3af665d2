"""The answers of a run directory: which files count, which line of a question counts, and what its text says today."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from seedbench_r1.files import JsonObject
from seedbench_r1.kinds import LAW
from seedbench_r1.packed import QuestionsById
from seedbench_r1.runs.outcome_table import OutcomeTable
from seedbench_r1.runs.records import WITHOUT_IDENTITY, read_lines, record_from_json, run_identity
from seedbench_r1.scoring import reread
from seedbench_r1.typed_json import shown
from seedbench_r1.types import Question, RunManifest, RunRecord

KNOWN_LAWS = ("1.1", "2.2", LAW)  # those that this version can tell from newer ones
_NAME = re.compile(r"records(?:\.\d+-of-\d+)?\.jsonl")


@dataclass(slots=True)
class Answers:
    """The record that counts for each question, read by the present law, and how far the files can be believed."""

    records: Mapping[str, RunRecord] = field(default_factory=dict)
    rescored: int = 0  # answers that an earlier version of the law had read
    edited: list[str] = field(default_factory=list)  # questions whose record says otherwise than its text, by this law


def record_files(path: Path) -> list[Path]:
    """The files of a run directory that hold answers, sorted: records.jsonl and records.i-of-n.jsonl, no copies."""
    # Sorted, so that the same files give the same record on every machine.
    return sorted(file for file in path.glob("records*.jsonl") if _NAME.fullmatch(file.name))


def read_answers(
    path: Path, questions: Mapping[str, Question], manifest: RunManifest, *, texts: bool = True
) -> Answers:
    """Read a run's records; every answer is read and scored anew from its text.

    An answer beats a failure; among answers, and among failures, the last line counts.

    Args:
        path: the run directory.
        questions: those of the run, by id; without texts a QuestionsById.
        manifest: the run's, whose identity every record must carry, unless an earlier version wrote it.
        texts: False: an OutcomeTable.

    Raises:
        DataError: a line is no record, or belongs to another question or run; with its file and line.
    """
    found, run = Answers(), run_identity(manifest)
    nameless = run if manifest.schema in WITHOUT_IDENTITY else None
    edited: set[str] = set()

    def build(value: JsonObject) -> RunRecord:
        if value.get("run", nameless) != run:
            raise ValueError(f"it belongs to run {shown(value.get('run', 'of no name'))}; this one is {run!r}")
        stored: JsonObject = {name: value.pop(name) for name in ("parsed", "score") if name in value}
        record = record_from_json(value, scored=stored.get("score") is not None)
        question = questions.get(record.question_id)
        if question is None:
            raise ValueError(f"{record.question_id!r} is not in questions.jsonl. Are these files of two runs?")
        said, known = ((part.split, part.cluster, part.domain) for part in (record, question))
        if said != known:
            raise ValueError(f"split, cluster or domain of {record.question_id!r} are not those of questions.jsonl")
        record = reread(record, question)
        if record.answered:
            law = value.get("law")
            if law is not None and law not in KNOWN_LAWS:
                raise ValueError(f"a newer version read it (law {shown(law)}). Fix: upgrade")
            if law != LAW:
                found.rescored += 1
            # Of an earlier law, too, the same answer has the same score: else the gold letter has changed since.
            if not (_says(record, stored) if law == LAW else _scores_alike(record, stored)):
                edited.add(record.question_id)
        return record

    if texts or not isinstance(questions, QuestionsById):
        found.records = _counting(path, build)
    else:
        found.records = table = OutcomeTable(questions)
        for record in _all_records(path, build):
            table.add(record)
    found.edited = sorted(edited)
    return found


def _says(record: RunRecord, stored: JsonObject) -> bool:
    """Whether a stored line says of its answer what its text says."""
    parsed, score, said = record.parsed, record.score, stored.get("parsed")
    if parsed is None or score is None or not isinstance(said, dict):
        return False
    read = {"reasoning": parsed.reasoning, "answer": parsed.answer, "answer_text": parsed.answer_text}
    scored = {"outcome": score.outcome, "credit": score.credit, "strict_credit": score.strict_credit}
    return said == read | {"format_ok": parsed.format_ok} and stored.get("score") == scored


def _scores_alike(record: RunRecord, stored: JsonObject) -> bool:
    """False if an earlier law read the same answer, and gave it another score."""
    parsed, score = stored.get("parsed"), stored.get("score")
    if record.parsed is None or record.score is None or not isinstance(parsed, dict) or not isinstance(score, dict):
        return False
    # Version 0.1.0 called the credit `correct`.
    credit = score.get("credit", score.get("correct"))
    return parsed.get("answer") != record.parsed.answer or credit == record.score.credit


def recorded(path: Path) -> dict[str, RunRecord]:
    """The record that counts for each question, as written: for progress while a run goes on. Raises DataError."""
    return _counting(path, record_from_json)


def _counting(path: Path, build: Callable[[JsonObject], RunRecord]) -> dict[str, RunRecord]:
    found: dict[str, RunRecord] = {}
    for record in _all_records(path, build):
        if record.counts_over(found.get(record.question_id)):
            found[record.question_id] = record
    return found


def _all_records(path: Path, build: Callable[[JsonObject], RunRecord]) -> Iterator[RunRecord]:
    for file in record_files(path):
        yield from read_lines(file, build)
