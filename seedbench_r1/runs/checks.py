"""Whether the files of a run directory agree with each other, beyond what every line says of itself."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from seedbench_r1.errors import DataError
from seedbench_r1.files import write_lines
from seedbench_r1.protocol import protocol_id
from seedbench_r1.runs.records import question_line
from seedbench_r1.typed_json import shown
from seedbench_r1.types import Question, RunManifest

# Of the suites, as their protocol ids have it (Suite.scorer).
_SCORERS = (None, 1)
# lmms-eval's own models: what stands in the id are arguments that no manifest keeps.
_NOT_RECOMPUTED = "lmms-eval"


def check_sizes(path: Path, manifest: RunManifest, questions: Mapping[str, Question]) -> None:
    """Raise DataError unless the manifest says of every split how many questions its file has, and no fewer than here.

    Shares are of these numbers: one that is too small would make a run complete that is not.
    """
    held = Counter(question.split for question in questions.values())
    for split, n in held.items():
        sizes = manifest.n_total.get(split, {})
        whole = sizes.get("all")
        if whole is None:
            raise DataError(f"{path}: manifest.json does not say how many questions {shown(split)} has. Edited?")
        if n > whole:
            raise DataError(f"{path}: questions.jsonl holds {n} of {shown(split)}, manifest.json says {whole}. Edited?")
        parts = sum(size for name, size in sizes.items() if name != "all")
        if parts > whole:
            raise DataError(
                f"{path}: the parts of {shown(split)} in manifest.json add up to {parts}, all to {whole}. Edited?"
            )


def doubts_of(path: Path, manifest: RunManifest) -> tuple[str, ...]:
    """What shows that files were edited after they were written, a sentence each that begins with the file's name."""
    found = []
    settings = manifest.settings
    if settings is not None and manifest.protocol != _NOT_RECOMPUTED:
        known = (settings.template, settings.video, settings.sampling, manifest.transport)
        if manifest.protocol_id not in [protocol_id(*known, scorer) for scorer in _SCORERS]:
            found.append(f"manifest.json: its settings are not those of protocol id {shown(manifest.protocol_id)}")
    if manifest.questions_sha256 is not None:
        file = path / "questions.jsonl"
        if _first_lines_sha256(file, manifest.n_questions) != manifest.questions_sha256:
            found.append("questions.jsonl: it is not what was written with manifest.json")
    return tuple(found)


def _first_lines_sha256(file: Path, n: int) -> str:
    digest = hashlib.sha256()
    if file.exists():
        with file.open("rb") as stream:
            for line in islice(stream, n):
                digest.update(line)
    return digest.hexdigest()


def write_questions(file: Path, questions: Iterable[Question]) -> str:
    """Write questions.jsonl, media by absolute paths; sha256 of its lines. Raises ResourceError."""
    digest = hashlib.sha256()

    def lines() -> Iterator[str]:
        for question in questions:
            line = question_line(question.with_absolute_paths())
            digest.update(line.encode("utf-8", "backslashreplace"))
            yield line

    write_lines(file, lines())
    return digest.hexdigest()
