"""Attempts at transfer questions, as JSON lines and as counts."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from seedbench_r1.runs.directory import Lines
from seedbench_r1.runs.records import generation_from_json, manifest_from_json, record_line
from seedbench_r1.suites.transfer_prompts import TransferTemplate
from seedbench_r1.suites.transfer_questions import PROBLEM_TYPES, ProblemType, TransferQuestion
from seedbench_r1.suites.transfer_scoring import TransferParsed, TransferScore, parse_transfer, score_transfer
from seedbench_r1.types import Failure, Generation, Media, Request, RunManifest, Template, to_json

SCHEMA = "sbr1.transfer/1"


@dataclass(frozen=True, slots=True)
class TransferRecord:
    """One line of records.jsonl: an attempt at one question. The last good line of a question counts."""

    question_id: str
    benchmark: str
    problem_type: str
    cluster: str
    generation: Generation | None = None
    parsed: TransferParsed | None = None
    score: TransferScore | None = None
    failure: Failure | None = None
    reader: str | None = None
    reader_note: str | None = None

    @property
    def split(self) -> str:
        """The benchmark, under the name that progress knows."""
        return self.benchmark

    @property
    def answered(self) -> bool:
        """True if the model produced a response, right or wrong."""
        return self.score is not None


@dataclass(frozen=True, slots=True)
class TransferGroup:
    """Counts of one benchmark or one problem type of it."""

    n: int  # questions in the evaluation file, whatever was run
    selected: int  # questions that belong to this run: n, or fewer under --limit
    answered: int
    correct: float  # sum of the credits by our rule; unparsed and truncated responses have none
    strict_correct: float  # the same by the reference evaluator's rule
    unparsed: int
    truncated: int
    failed: int
    format_ok: int
    mean: float | None  # correct / selected; None while a question has no answer
    strict_mean: float | None


@dataclass(frozen=True, slots=True)
class TransferSummary:
    """Counts of a whole run. A benchmark's mean takes every question once, whatever its type."""

    status: Literal["complete", "incomplete", "subset"]
    benchmarks: dict[str, TransferGroup]
    problem_types: dict[str, dict[ProblemType, TransferGroup]]  # benchmark -> type -> counts
    mean_of_types: dict[str, float | None]  # benchmark -> unweighted mean of its types' means

    @property
    def pending(self) -> int:
        return sum(group.selected - group.answered for group in self.benchmarks.values())


def to_transfer_record(
    question: TransferQuestion, result: Generation | Failure, media: Request | Media | None = None
) -> TransferRecord:
    """Parse and score a result."""
    common: dict[str, Any] = {
        "question_id": question.question_id,
        "benchmark": question.benchmark,
        "problem_type": question.problem_type,
        "cluster": question.cluster,
        "reader": media.reader if media else None,
        "reader_note": media.reader_note if media else None,
    }
    if isinstance(result, Failure):
        return TransferRecord(failure=result, **common)
    parsed = parse_transfer(result.text, question.problem_type, question.options, question.letters)
    score = score_transfer(parsed, question.problem_type, question.gold, result.finish_reason)
    return TransferRecord(generation=result, parsed=parsed, score=score, **common)


def transfer_record_from_json(value: dict[str, Any]) -> TransferRecord:
    """The inverse of a record's line. Raises KeyError, TypeError or ValueError if the value is not a record."""
    generation, score, failure = value.get("generation"), value.get("score"), value.get("failure")
    if (score is None) == (failure is None) or (score is None) != (generation is None):
        raise ValueError("a record holds either generation, parsed and score, or a failure")
    if score is not None and score["outcome"] not in ("answered", "unparsed", "truncated"):
        raise ValueError(f"score.outcome is {score['outcome']!r}")
    if score is not None and not (0 <= score["correct"] <= 1 and 0 <= score["strict_correct"] <= 1):
        raise ValueError("a credit is not between 0 and 1")
    return TransferRecord(
        question_id=value["question_id"],
        benchmark=value["benchmark"],
        problem_type=value["problem_type"],
        cluster=value["cluster"],
        generation=generation_from_json(generation) if generation else None,
        parsed=TransferParsed(**value["parsed"]) if value.get("parsed") else None,
        score=TransferScore(**score) if score else None,
        failure=Failure(**failure) if failure else None,
        reader=value.get("reader"),
        reader_note=value.get("reader_note"),
    )


def transfer_question_line(question: TransferQuestion) -> str:
    """One line of questions.jsonl, newline included."""
    return json.dumps(to_json(question), ensure_ascii=False, separators=(",", ":")) + "\n"


def transfer_question_from_json(value: dict[str, Any]) -> TransferQuestion:
    """The inverse of transfer_question_line. Raises KeyError or TypeError if the value is not a question."""
    paths = {name: None if value[name] is None else Path(value[name]) for name in ("video", "image")}
    return TransferQuestion(**value | paths | {"options": tuple(value["options"])})


def transfer_manifest_from_json(value: dict[str, Any]) -> RunManifest:
    """As manifest_from_json; the manifest's template is a TransferTemplate."""
    template: Any = TransferTemplate(**value["template"])
    empty = to_json(Template(with_video="", without_video=""))
    return dataclasses.replace(manifest_from_json(value | {"template": empty}), template=template)


TRANSFER_LINES = Lines(
    schema=SCHEMA,
    manifest_from_json=transfer_manifest_from_json,
    question_line=transfer_question_line,
    question_from_json=transfer_question_from_json,
    record_line=record_line,
    record_from_json=transfer_record_from_json,
)


def summarise_transfer(
    records: Mapping[str, TransferRecord],
    questions: Iterable[TransferQuestion],
    n_total: Mapping[str, Mapping[str, int]] | None = None,
) -> TransferSummary:
    """Count a run.

    Args:
        records: the record that counts, by question_id.
        questions: the questions that belong to the run.
        n_total: benchmark -> {"all": N, problem type: N} of the files; without it the questions are all there are.
    """
    by_benchmark: dict[str, list[TransferQuestion]] = {}
    for question in questions:
        by_benchmark.setdefault(question.benchmark, []).append(question)
    totals = n_total or {}
    groups, types = {}, {}
    for name, group in by_benchmark.items():
        sizes = totals.get(name, {})
        groups[name] = _count(group, records, sizes.get("all", len(group)))
        of_type = {kind: [q for q in group if q.problem_type == kind] for kind in PROBLEM_TYPES}
        types[name] = {kind: _count(qs, records, sizes.get(kind, len(qs))) for kind, qs in of_type.items() if qs}
    means = {name: _mean_of(kinds) for name, kinds in types.items()}
    status: Literal["complete", "incomplete", "subset"] = "complete"
    if any(group.answered < group.selected for group in groups.values()):
        status = "incomplete"
    elif any(group.selected < group.n for group in groups.values()):
        status = "subset"
    return TransferSummary(status, groups, types, means)


def _mean_of(kinds: Mapping[ProblemType, TransferGroup]) -> float | None:
    means = [group.mean for group in kinds.values() if group.mean is not None]
    return math.fsum(means) / len(means) if len(means) == len(kinds) else None


def _count(questions: list[TransferQuestion], records: Mapping[str, TransferRecord], n: int) -> TransferGroup:
    present = [records[question.question_id] for question in questions if question.question_id in records]
    scores = [record.score for record in present if record.score is not None]
    correct = math.fsum(score.correct for score in scores)
    strict = math.fsum(score.strict_correct for score in scores)
    whole = len(scores) == len(questions)
    return TransferGroup(
        n=n,
        selected=len(questions),
        answered=len(scores),
        correct=correct,
        strict_correct=strict,
        unparsed=sum(score.outcome == "unparsed" for score in scores),
        truncated=sum(score.outcome == "truncated" for score in scores),
        failed=sum(record.failure is not None for record in present),
        format_ok=sum(record.parsed.format_ok for record in present if record.parsed is not None),
        mean=correct / len(questions) if whole else None,
        strict_mean=strict / len(questions) if whole else None,
    )
