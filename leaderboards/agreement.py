"""Runs against each other: copies of one another, and runs of one data set that say different things of it."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from seedbench_r1.runs.answers import record_files
from seedbench_r1.runs.directory import Run
from seedbench_r1.types import Question


def copies(paths: Iterable[Path]) -> dict[Path, Path]:
    """copy -> the directory before it whose answers are the same, byte for byte: latencies too, so by no chance."""
    sizes: dict[int, list[Path]] = defaultdict(list)
    for path in paths:
        sizes[sum(file.stat().st_size for file in record_files(path))].append(path)
    found: dict[Path, Path] = {}
    for size, alike in sizes.items():
        # Only equal sizes are read: a run's answers are megabytes.
        if size == 0 or len(alike) < 2:
            continue
        first: dict[bytes, Path] = {}
        for path in alike:
            digest = hashlib.sha256(b"".join(file.read_bytes() for file in record_files(path))).digest()
            if first.setdefault(digest, path) != path:
                found[path] = first[digest]
    return found


def with_doubts(runs: Mapping[str, Run]) -> dict[str, Run]:
    """The runs, with a doubt for each that says otherwise of a data set than most runs of the same hash.

    Where as many say the one as the other, all of them are doubted: nobody can say which was edited.
    """
    doubts: dict[str, dict[str, None]] = {name: {} for name in runs}
    for (level, _), alike in _by_data_set(runs).items():
        sizes = {name: tuple(sorted(runs[name].manifest.n_total.get(level, {}).items())) for name in alike}
        for name in _outvoted(sizes):
            doubts[name][f"manifest.json: other runs of the same data set have another number of {level} questions"] = (
                None
            )
        # Runs with equal files share one object.
        if len({id(runs[name].questions) for name in alike}) > 1:
            for name, question_id in _other_questions({name: runs[name].questions for name in alike}, level):
                doubts[name][f"questions.jsonl: {question_id} is not what other runs of the same data set asked"] = None
    return {name: replace(run, doubts=(*run.doubts, *doubts[name])) for name, run in runs.items()}


def _by_data_set(runs: Mapping[str, Run]) -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, run in runs.items():
        for split, digest in run.manifest.dataset_hash.items():
            found[split, digest].append(name)
    return {key: names for key, names in found.items() if len(names) > 1}


def _outvoted(said: Mapping[str, Hashable]) -> list[str]:
    """The names of those that do not say what more of them say than anything else."""
    votes = Counter(said.values()).most_common(2)
    if len(votes) < 2:
        return []
    winner = votes[0][0] if votes[0][1] > votes[1][1] else None
    return [name for name, value in said.items() if value != winner]


def _other_questions(asked: Mapping[str, Mapping[str, Question]], split: str) -> Iterable[tuple[str, str]]:
    """Run and first question of each run that asked a question otherwise than most did."""
    said: dict[str, dict[str, Hashable]] = defaultdict(dict)
    for name, questions in asked.items():
        for question_id, q in questions.items():
            if q.split == split:
                said[question_id][name] = (q.text, q.options, q.gold, q.kind, q.cluster, q.domain)
    named = set()
    for question_id, by_run in said.items():
        for name in _outvoted(by_run):
            if name not in named:
                named.add(name)
                yield name, question_id
