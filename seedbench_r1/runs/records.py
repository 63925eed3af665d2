"""Question, RunRecord and RunManifest to and from JSON lines. Reading validates and names file and line.

Runs of version 0.1.0 are read too. There a split was called level or benchmark, a cluster video_id, a kind
problem_type; a score had only the credits, under the names correct and strict_correct.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from seedbench_r1.errors import DataError
from seedbench_r1.types import (
    Failure,
    Generation,
    Kind,
    ModelInfo,
    ParsedResponse,
    ProgressStep,
    Question,
    RunManifest,
    RunRecord,
    SamplingConfig,
    Score,
    Source,
    Template,
    VideoConfig,
    to_json,
)

T = TypeVar("T")
SCHEMA = "sbr1.run/2"
SUITE_OF_SCHEMA = {"sbr1.run/1": "seedbench-r1", "sbr1.transfer/1": "transfer"}  # version 0.1.0 named no suite
# What Video-R1's files and version 0.1.0 call the kinds; the other names are the same
KIND_OF_PROBLEM_TYPE: dict[str, Kind] = {"multiple choice": "choice", "OCR": "ocr"}

_DECODER = json.JSONDecoder()
_UNKNOWN: dict[str, Any] = {"n_prompt_tokens": None, "n_tokens": None, "latency_s": None}  # of imported answers
_N_GENERATION = 5  # fields of a record line's generation: those, text and finish_reason


def record_line(record: RunRecord) -> str:
    """One line of records.jsonl, newline included. Token ids and log-probabilities are not stored, their number is."""
    value = to_json(record)
    if record.generation is not None:
        for name in ("token_ids", "logprobs"):
            del value["generation"][name]
        if not record.generation.opened:
            del value["generation"]["opened"]
        if record.generation.latency_s is not None:
            value["generation"]["latency_s"] = round(record.generation.latency_s, 4)
    # `domain` is written even if null, for readers that take it for granted.
    compact = {name: item for name, item in value.items() if item is not None or name in ("domain",)}
    return _line(compact)


def record_from_json(value: dict[str, Any]) -> RunRecord:
    """The inverse of record_line. Raises KeyError, TypeError or ValueError if the value is not a record."""
    generation = value.get("generation")
    score = value.get("score")
    failure = value.get("failure")
    parsed = value.get("parsed")
    # Half a record would count as neither answered nor failed.
    if (score is None) == (failure is None) or (score is None) != (generation is None):
        raise ValueError("a record holds either generation, parsed and score, or a failure")
    split, cluster = _split_and_cluster(value)
    return RunRecord(
        question_id=value["question_id"],
        split=split,
        domain=value.get("domain"),
        cluster=cluster,
        generation=generation_from_json(generation) if generation else None,
        parsed=_parsed_from_json(parsed) if parsed else None,
        score=_score_from_json(score) if score else None,
        failure=Failure(**failure) if failure else None,
        reader=value.get("reader"),
        reader_note=value.get("reader_note"),
    )


def generation_from_json(value: dict[str, Any]) -> Generation:
    """The inverse of a record line's `generation`. Raises TypeError for unknown fields."""
    # Imported answers know neither tokens nor time.
    if len(value) < _N_GENERATION:
        value = _UNKNOWN | value
    return Generation(token_ids=(), **value)


def _parsed_from_json(value: dict[str, Any]) -> ParsedResponse:
    if not isinstance(value["answer"], str | None):
        raise ValueError(f"parsed.answer is {value['answer']!r}")
    return ParsedResponse(**value)


def _score_from_json(value: dict[str, Any]) -> Score:
    if value["outcome"] not in ("answered", "unparsed", "truncated"):
        raise ValueError(f"score.outcome is {value['outcome']!r}")
    # Version 0.1.0 wrote booleans named correct and strict_correct.
    if "credit" in value:
        credit, strict = value["credit"], value["strict_credit"]
    else:
        credit, strict = value["correct"], value["strict_correct"]
    if not (0 <= credit <= 1 and 0 <= strict <= 1):
        raise ValueError("a credit is not between 0 and 1")
    return Score(value["outcome"], float(credit), float(strict))


def _split_and_cluster(value: Mapping[str, Any]) -> tuple[str, str]:
    if "split" in value:
        return value["split"], value["cluster"]
    return value["level"] if "level" in value else value["benchmark"], value["video_id"]


def question_line(question: Question) -> str:
    """One line of questions.jsonl, newline included."""
    return _line(to_json(question))


def question_from_json(value: dict[str, Any]) -> Question:
    """The inverse of question_line. Raises KeyError or TypeError if the value is not a question."""
    split, cluster = _split_and_cluster(value)
    source = value.get("source")
    return Question(
        question_id=value["question_id"],
        split=split,
        text=value["text"],
        options=tuple(value["options"]),
        gold=value["gold"],
        video=_path(value["video"]),
        image=_path(value["image"]),
        cluster=cluster,
        domain=value.get("domain"),
        task_goal=value.get("task_goal"),
        kind=value["kind"] if "kind" in value else _kind(value.get("problem_type", "choice")),
        progress=tuple(ProgressStep(**step) for step in value.get("progress", ())),
        source=Source(**source) if source else None,
    )


def _path(value: str | None) -> Path | None:
    return None if value is None else Path(value)


def _kind(problem_type: str) -> Kind:
    return KIND_OF_PROBLEM_TYPE.get(problem_type) or cast(Kind, problem_type)


def template_from_json(value: Mapping[str, Any]) -> Template:
    """The inverse of Template.as_json. Raises KeyError or TypeError if the value is not a template."""
    if "wording" in value:
        return Template(dict(value["wording"]), value.get("system"))
    return Template({name: value[name] for name in ("with_video", "without_video")}, value.get("system"))


def manifest_from_json(value: dict[str, Any]) -> RunManifest:
    """The inverse of to_json(manifest). Raises KeyError or TypeError if the value is not a manifest."""
    fields = {field.name for field in dataclasses.fields(RunManifest)}
    # Unknown fields are of a later version of the same schema, which may add but not change.
    known = {name: item for name, item in value.items() if name in fields}
    if "suite" not in known:
        known["suite"] = SUITE_OF_SCHEMA[value["schema"]]
        sizes = value["n_total"]
        known["n_total"] = {
            split: {KIND_OF_PROBLEM_TYPE.get(name, name): n for name, n in sizes[split].items()} for split in sizes
        }
    return RunManifest(
        **known
        | {
            "template": template_from_json(value["template"]),
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
    # Every line is written with its newline in one call, so a line without it is torn.
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


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"


def _damaged(path: Path, number: int, error: Exception) -> DataError:
    return DataError(
        f"{path}:{number}: not a valid line ({type(error).__name__}: {error}). The file was edited or its disk "
        f"is damaged. Fix: delete that line; its question will be asked again."
    )


def _value(line: str) -> Any:  # noqa: ANN401  # JSON
    """json.loads, without its search for white space around the value: reports read a hundred thousand lines."""
    value, end = _DECODER.raw_decode(line)
    value = value if end == len(line) else json.loads(line)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value
