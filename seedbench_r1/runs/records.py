"""RunRecord, Question and RunManifest to and from JSON lines. Reading validates and names file and line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from seedbench_r1.errors import DataError
from seedbench_r1.parsing import parse_response
from seedbench_r1.scoring import score
from seedbench_r1.types import (
    LETTERS,
    Failure,
    Generation,
    Media,
    ModelInfo,
    ParsedResponse,
    ProgressStep,
    Question,
    Request,
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
_DECODER = json.JSONDecoder()
_UNKNOWN: dict[str, Any] = {"n_prompt_tokens": None, "n_tokens": None, "latency_s": None}  # of imported answers
_N_GENERATION = 5  # fields of a record line's generation: those, text and finish_reason


def to_record(question: Question, result: Generation | Failure, media: Request | Media | None = None) -> RunRecord:
    """Parse and score a result."""
    common: dict[str, Any] = {
        "question_id": question.question_id,
        "split": question.split,
        "domain": question.domain,
        "cluster": question.cluster,
        "reader": media.reader if media else None,
        "reader_note": media.reader_note if media else None,
    }
    if isinstance(result, Failure):
        return RunRecord(failure=result, **common)
    parsed = parse_response(result.text, question.options)
    return RunRecord(generation=result, parsed=parsed, score=score(question, parsed, result.finish_reason), **common)


def record_line(record: RunRecord) -> str:
    """One line of records.jsonl, newline included. Token ids and log-probabilities are not stored, their number is."""
    value = to_json(record)
    if record.generation is not None:
        for name in ("token_ids", "logprobs"):
            del value["generation"][name]
        if record.generation.latency_s is not None:
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
        split=value["split"] if "split" in value else value["level"],  # "level", "video_id": as 0.1.0 wrote them
        domain=value["domain"],
        cluster=value["cluster"] if "cluster" in value else value["video_id"],
        generation=generation_from_json(generation) if generation else None,
        parsed=ParsedResponse(**parsed) if parsed else None,
        score=Score(**score) if score else None,
        failure=Failure(**failure) if failure else None,
        reader=value.get("reader"),
        reader_note=value.get("reader_note"),
    )


def generation_from_json(value: dict[str, Any]) -> Generation:
    """The inverse of a record line's `generation`. Raises TypeError for unknown fields."""
    if len(value) < _N_GENERATION:
        value = _UNKNOWN | value
    return Generation(token_ids=(), **value)


def question_line(question: Question) -> str:
    """One line of questions.jsonl, newline included."""
    return json.dumps(to_json(question), ensure_ascii=False, separators=(",", ":")) + "\n"


def question_from_json(value: dict[str, Any]) -> Question:
    """The inverse of question_line. Raises KeyError or TypeError if the value is not a question."""
    a, b, c, d = value["options"]
    rest = {name: value[name] for name in ("question_id", "text", "gold", "domain", "task_goal")}
    return Question(
        **rest,
        split=value["split"] if "split" in value else value["level"],
        cluster=value["cluster"] if "cluster" in value else value["video_id"],
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
    data = path.read_bytes()
    data = data[: data.rfind(b"\n") + 1]
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise _damaged(path, data.count(b"\n", 0, error.start) + 1, error) from error
    for number, line in enumerate(lines[:-1], start=1):
        try:
            yield build(_value(line))
        except (ValueError, KeyError, TypeError) as error:
            raise _damaged(path, number, error) from error


def _damaged(path: Path, number: int, error: Exception) -> DataError:
    return DataError(
        f"{path}:{number}: not a valid line ({type(error).__name__}: {error}). The file was edited or its disk "
        f"is damaged. Fix: delete that line; its question will be asked again."
    )


def _value(line: str) -> Any:
    """json.loads, without its search for white space around the value: reports read a hundred thousand lines."""
    value, end = _DECODER.raw_decode(line)
    return value if end == len(line) else json.loads(line)
