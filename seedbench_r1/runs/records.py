"""Question, RunRecord and RunManifest to and from JSON lines. Reading validates and names file and line.

Runs of version 0.1.0 are read too. There a split was called level or benchmark, a cluster video_id, a kind
problem_type; a score had only the credits, under the names correct and strict_correct.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from seedbench_r1.errors import DataError
from seedbench_r1.files import JsonObject, is_record
from seedbench_r1.kinds import LAW
from seedbench_r1.typed_json import MOST_DEPTH, from_json, refuse_deep
from seedbench_r1.types import Generation, Kind, Question, RunManifest, RunRecord, Template, to_json

T = TypeVar("T")
IMPORTED = "imported"  # how the names of protocols begin whose settings nobody wrote down
SCHEMA = "sbr1.run/3"
WITHOUT_IDENTITY = ("sbr1.run/2", "sbr1.run/1", "sbr1.transfer/1")  # their records do not say which run they are of
SUITE_OF_SCHEMA = {"sbr1.run/1": "seedbench-r1", "sbr1.transfer/1": "transfer"}  # version 0.1.0 named no suite
# What Video-R1's files and version 0.1.0 call the kinds; the other names are the same
KIND_OF_PROBLEM_TYPE: dict[str, Kind] = {"multiple choice": "choice", "OCR": "ocr"}

_LONGEST_REASON = 400  # characters of what is wrong with a line
_DECODER = json.JSONDecoder()
# Of a generation, what is not stored, and what imported answers do not know.
_NOT_STORED: JsonObject = {"token_ids": [], "n_prompt_tokens": None, "n_tokens": None, "latency_s": None}


def record_line(record: RunRecord, run: str | None = None) -> str:
    """One line of records.jsonl, newline included. Token ids and log-probabilities are not stored, their number is.

    run: the run's identity (run_identity); with it goes the law that read and scored the answer.
    """
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
    if run is not None:
        compact |= {"run": run, "law": LAW}
    return _line(compact)


def record_from_json(value: JsonObject, *, scored: bool | None = None) -> RunRecord:
    """The inverse of record_line. Raises ValueError if the value is not a record; the message names the field.

    value: of a line that was just read; it is completed in place.
    scored: whether the line held a score, where its caller has taken that out.
    """
    score, generation = value.get("score"), value.get("generation")
    if scored is None:
        scored = score is not None
    # Half a record would count as neither answered nor failed.
    if scored == (value.get("failure") is not None) or scored != (generation is not None):
        raise ValueError("a record holds either generation, parsed and score, or a failure")
    value = _with_present_names(value)
    if isinstance(generation, dict):
        for name, absent in _NOT_STORED.items():
            generation.setdefault(name, absent)
    # Version 0.1.0 wrote booleans named correct and strict_correct.
    if isinstance(score, dict) and "credit" not in score:
        credits = {"credit": score.get("correct"), "strict_credit": score.get("strict_correct")}
        numbers = {name: float(known) if isinstance(known, bool) else known for name, known in credits.items()}
        value["score"] = {"outcome": score.get("outcome")} | numbers
    return from_json(RunRecord, value)


def generation_from_json(value: JsonObject) -> Generation:
    """The inverse of a record line's `generation`. Raises ValueError."""
    return from_json(Generation, _NOT_STORED | value)


def run_identity(manifest: RunManifest) -> str:
    """12 hex digits that every record of a run carries: what was asked of which model, and how."""
    model = [manifest.model.fingerprint, sorted(manifest.model.files.items())]
    parts = [manifest.suite, manifest.protocol_id, model, manifest.backend, manifest.dtype, manifest.seed]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _with_present_names(value: JsonObject) -> JsonObject:
    """With the names that version 0.1.0 had for split and cluster."""
    if "split" in value:
        return value
    split = value.get("level", value.get("benchmark"))
    return {"domain": None} | value | {"split": split, "cluster": value.get("video_id")}


def question_line(question: Question) -> str:
    """One line of questions.jsonl, newline included."""
    return _line(to_json(question))


def question_from_json(value: JsonObject) -> Question:
    """The inverse of question_line. Raises ValueError if the value is not a question; the message names the field."""
    value = _with_present_names(value)
    if "kind" not in value:
        problem_type = value.get("problem_type", "choice")
        value = value | {"kind": KIND_OF_PROBLEM_TYPE.get(problem_type, problem_type)}
    question = from_json(Question, value)
    if question.kind == "choice" and question.gold not in tuple(question.letters):
        raise ValueError(f"gold is {question.gold!r}, expected a letter from A to {question.letters[-1:] or 'none'}")
    return question


def template_from_json(value: object) -> Template:
    """The inverse of Template.as_json. Raises ValueError if the value is not a template."""
    if isinstance(value, dict) and "wording" not in value:
        names = ("with_video", "without_video")
        others = {name: item for name, item in value.items() if name in ("system", "thinking")}
        value = {"wording": {name: value.get(name) for name in names}, **others}
    return from_json(Template, value)


def manifest_from_json(value: JsonObject) -> RunManifest:
    """The inverse of to_json(manifest). Raises ValueError if the value is not a manifest; the message names the field.

    Unknown fields are of a later version of the same schema, which may add but not change.
    """
    value = dict(value)
    if "suite" not in value:
        value["suite"] = SUITE_OF_SCHEMA.get(value.get("schema", ""))
        sizes = from_json(dict[str, dict[str, int]], value.get("n_total"))
        value["n_total"] = {
            split: {KIND_OF_PROBLEM_TYPE.get(name, name): n for name, n in sizes[split].items()} for split in sizes
        }
    if str(value.get("protocol")).startswith(f"{IMPORTED}:"):
        # Earlier versions filled in the settings of the standard protocol.
        value |= {"template": None, "video": None, "sampling": None}
    else:
        template = template_from_json(value.get("template"))
        value["template"] = dataclasses.asdict(template)
    return from_json(RunManifest, value)


def read_lines(path: Path, build: Callable[[dict[str, Any]], T]) -> Iterator[T]:
    """Every line of a JSONL file, built. A last line without its newline counts if it is complete, else it is dropped.

    Raises:
        DataError: a line that is not what it should be, with file and line.
    """
    if not path.exists():
        return
    # Line by line: a million records are a gigabyte.
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            # Written in one call with its newline, so torn without it; but editors and copies leave it off, too.
            if not line.endswith(b"\n") and not is_record(line):
                return
            try:
                value = build(_value(line.removesuffix(b"\n").decode("utf-8")))
            # UnicodeDecodeError is one, too.
            except ValueError as error:
                raise _damaged(path, number, error) from error
            yield value


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"


def _damaged(path: Path, number: int, error: Exception) -> DataError:
    reason = str(error)
    if len(reason) > _LONGEST_REASON:  # it may quote an id as long as a book
        reason = f"{reason[: _LONGEST_REASON // 2]} ... {reason[-_LONGEST_REASON // 2 :]}"
    return DataError(
        f"{path}:{number}: not a valid line ({reason}). The file was edited, copied from another run, or its disk is "
        f"damaged. Fix: delete that line; its question will be asked again."
    )


def _value(line: str) -> Any:  # noqa: ANN401  # JSON
    """json.loads, without its search for white space around the value: reports read a hundred thousand lines."""
    try:
        value, end = _DECODER.raw_decode(line)
        value = value if end == len(line) else json.loads(line)
        if line.count("[") + line.count("{") > MOST_DEPTH:
            refuse_deep(value)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value
