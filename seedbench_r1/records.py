"""RunRecord, Question and RunManifest to and from JSON lines. Reading validates and names file and line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from seedbench_r1.errors import DataError
from seedbench_r1.types import (
    LETTERS,
    Failure,
    Generation,
    ModelInfo,
    ParsedResponse,
    ProgressStep,
    Question,
    RunManifest,
    RunRecord,
    SamplingConfig,
    Score,
    Template,
    VideoConfig,
    to_json,
)

T = TypeVar("T")
SCHEMA = "sbr1.run/1"


def record_line(record: RunRecord) -> str:
    """One line of records.jsonl, newline included. Token ids and log-probabilities are not stored, their number is."""
    value = to_json(record)
    if record.generation is not None:
        for name in ("token_ids", "logprobs"):
            del value["generation"][name]
        value["generation"]["latency_s"] = round(record.generation.latency_s, 4)
    compact = {name: item for name, item in value.items() if item is not None or name in ("domain",)}
    return json.dumps(compact, ensure_ascii=False, separators=(",", ":")) + "\n"


def record_from_json(value: dict[str, Any]) -> RunRecord:
    """The inverse of record_line. Raises KeyError, TypeError or ValueError if the value is not a record."""
    generation = value.get("generation")
    score = value.get("score")
    failure = value.get("failure")
    parsed = value.get("parsed")
    if (score is None) == (failure is None) or (score is None) != (generation is None):
        raise ValueError("a record holds either generation, parsed and score, or a failure")
    if score is not None and score["outcome"] not in ("answered", "unparsed", "truncated"):
        raise ValueError(f"score.outcome is {score['outcome']!r}")
    if parsed is not None and parsed["answer"] not in (None, *LETTERS):
        raise ValueError(f"parsed.answer is {parsed['answer']!r}")
    return RunRecord(
        question_id=value["question_id"],
        level=value["level"],
        domain=value["domain"],
        video_id=value["video_id"],
        generation=Generation(token_ids=(), **generation) if generation else None,
        parsed=ParsedResponse(**parsed) if parsed else None,
        score=Score(**score) if score else None,
        failure=Failure(**failure) if failure else None,
        reader=value.get("reader"),
        reader_note=value.get("reader_note"),
    )


def question_line(question: Question) -> str:
    """One line of questions.jsonl, newline included."""
    return json.dumps(to_json(question), ensure_ascii=False, separators=(",", ":")) + "\n"


def question_from_json(value: dict[str, Any]) -> Question:
    """The inverse of question_line. Raises KeyError or TypeError if the value is not a question."""
    a, b, c, d = value["options"]
    rest = {name: value[name] for name in ("question_id", "level", "text", "gold", "video_id", "domain", "task_goal")}
    return Question(
        **rest,
        options=(a, b, c, d),
        video=None if value["video"] is None else Path(value["video"]),
        image=Path(value["image"]),
        progress=tuple(ProgressStep(**step) for step in value.get("progress", ())),
    )


def manifest_from_json(value: dict[str, Any]) -> RunManifest:
    """The inverse of to_json(manifest). Raises KeyError or TypeError if the value is not a manifest."""
    fields = {field.name for field in dataclasses.fields(RunManifest)}
    known = {name: item for name, item in value.items() if name in fields}
    return RunManifest(
        **known
        | {
            "template": Template(**value["template"]),
            "video": VideoConfig(**value["video"]),
            "sampling": SamplingConfig(**value["sampling"]),
            "model": ModelInfo(**value["model"]),
        }
    )


def read_lines(path: Path, build: Callable[[dict[str, Any]], T]) -> Iterator[T]:
    """Every line of a JSONL file, built. A last line without its newline was torn by a kill and is dropped.

    Raises:
        DataError: a line that is not what it should be, with file and line.
    """
    if not path.exists():
        return
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            yield build(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}:{number}: not a valid line ({type(error).__name__}: {error}). The file was edited or its disk "
                f"is damaged. Fix: delete that line; its question will be asked again."
            ) from error
