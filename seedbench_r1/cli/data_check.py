"""seedbench-r1 data check: what is understood of a file of your own questions, before anything runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from seedbench_r1.cli import console
from seedbench_r1.cli.options import PlainJson, plain_option
from seedbench_r1.errors import DataError
from seedbench_r1.media.layout import in_another_case
from seedbench_r1.prompts import build_prompt
from seedbench_r1.row_files import folder_of
from seedbench_r1.rows import BadRows
from seedbench_r1.suites.own import OWN, open_file
from seedbench_r1.suites.own_rows import Reading
from seedbench_r1.types import Question

EXAMPLES = 5  # questions that are shown as the model will see them
MOST_LINES = 1000  # bad rows that are printed; --json has all
MOST_MISSING = 5  # absent files that are printed


@dataclass(slots=True)
class Found:
    """What a file holds, counted row by row."""

    n: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    options: Counter[int] = field(default_factory=Counter)
    media: dict[str, set[Path]] = field(default_factory=lambda: {"videos": set(), "images": set()})
    clusters: set[str] = field(default_factory=set)
    examples: dict[tuple[str, int, bool, bool], Question] = field(default_factory=dict)  # the first of each sort
    more: list[Question] = field(default_factory=list)  # the first ones, to have enough of them

    def add(self, question: Question) -> None:
        self.n += 1
        self.kinds[question.kind] += 1
        self.splits[question.split] += 1
        self.clusters.add(question.cluster)
        if question.options:
            self.options[len(question.options)] += 1
        for kind, path in (("videos", question.video), ("images", question.image)):
            if path is not None:
                self.media[kind].add(path)
        sort = (question.kind, len(question.options), question.video is None, question.image is None)
        self.examples.setdefault(sort, question)
        if len(self.more) < EXAMPLES:
            self.more.append(question)

    @property
    def shown(self) -> list[Question]:
        """One question of each kind, number of options and media, then the first ones, five at most."""
        every = {q.question_id: q for q in (*self.examples.values(), *self.more)}
        return list(every.values())[:EXAMPLES]

    def missing(self) -> list[Path]:
        """Files that are not there, sorted."""
        return sorted(path for paths in self.media.values() for path in paths if not path.exists())


def check_command(
    file: Annotated[Path, typer.Argument(help="Your questions: a file or data set folder.", show_default=False)],
    *,
    columns: Annotated[
        str | None, plain_option("--map", help="Its columns: text=COLUMN,options=COLUMN,... (as `eval --map`).")
    ] = None,
    data_root: Annotated[
        Path | None, plain_option("--data-root", help="Folder of clips and images. Default: the file's.")
    ] = None,
    as_json: PlainJson = False,
) -> None:
    """Say what is understood of a file of your own questions, and show five of them. Exit 4 if a row is bad."""
    bad, found = BadRows(skip=True), Found()
    reading, questions = open_file(file, columns, data_root or folder_of(file), bad)
    for question in questions:
        found.add(question)
    missing = found.missing()
    if as_json:
        console.print_json(_as_json(file, reading, found, missing, bad))
    else:
        _print(file, reading, found, missing, bad)
    problems = "\n".join(_problems(reading, missing, bad))
    if problems and as_json:
        # One object on standard output: it holds them already.
        console.err().print(problems, soft_wrap=True)
        raise typer.Exit(DataError.exit_code)
    if problems:
        raise DataError(problems)


def _problems(reading: Reading, missing: list[Path], bad: BadRows) -> list[str]:
    problems = []
    if bad.messages:
        problems.append(
            f"{len(bad.messages)} of {reading.n_rows} rows cannot be used. Fix: mend them, or eval --skip-bad-rows, "
            f"which leaves them out (the run is flagged BAD ROWS)."
        )
    if missing:
        problems.append(f"{len(missing)} media files missing, e.g. {missing[0]}. Fix: {OWN.where_media_go}.")
    return problems


def _print(file: Path, reading: Reading, found: Found, missing: list[Path], bad: BadRows) -> None:
    screen = console.out()
    lines = [f"{file}: {reading.form}, {reading.n_rows} rows, {found.n} questions"]
    taken = [f"{name}={'+'.join(columns)}" for name, columns in reading.columns.taken.items()]
    lines.append(f" columns    {', '.join(taken)}")
    lines.append(f" left over  {', '.join(reading.columns.left) or 'none'}")
    lines.append(f" kinds      {_counts(found.kinds)}")
    lines += [f" understood {note}" for note in reading.notes]
    if found.options:
        lines.append(
            f" options    {_counts({f'{n} options': k for n, k in sorted(found.options.items())}, 'questions')}"
        )
    lines.append(f" splits     {_counts(found.splits)}")
    lines.append(f" clusters   {len(found.clusters)}")
    absent = set(missing)
    for kind, paths in found.media.items():
        if paths:
            lines.append(f" {kind:<10} {len(paths) - len(paths & absent)} found, {len(paths & absent)} missing")
    lines += [f"bad row: {message}" for message in bad.messages[:MOST_LINES]]
    if len(bad.messages) > MOST_LINES:
        lines.append(f"... and {len(bad.messages) - MOST_LINES} more bad rows: --json lists all")
    renamed = in_another_case(missing[:MOST_MISSING])
    for path in missing[:MOST_MISSING]:
        alike = f"; {renamed[path].name} is there, in another case: rename it" if path in renamed else ""
        lines.append(f"missing: {path}{alike}")
    for line in lines:
        screen.print(line, soft_wrap=True)
    for question in found.shown:
        screen.print(f"\n--- {question.question_id} ({question.kind}; {_media(question)}; right: {_right(question)})")
        screen.print(build_prompt(question, OWN.defaults.template), soft_wrap=True)


def _counts(counts: Counter[str] | dict[str, int], noun: str = "") -> str:
    return ", ".join(f"{name}: {n}{f' {noun}' if noun else ''}" for name, n in counts.items()) or "none"


def _media(question: Question) -> str:
    return " and ".join(str(path) for path in (question.video, question.image) if path is not None)


def _right(question: Question) -> str:
    return f"{question.gold}, {question.gold_text}" if question.options else question.gold


def _as_json(file: Path, reading: Reading, found: Found, missing: Iterable[Path], bad: BadRows) -> dict[str, object]:
    absent = sorted(map(str, missing))
    failed = bool(absent or bad.messages)
    return {
        "schema": "sbr1.data-check/1",
        "file": str(file),
        "form": reading.form,
        "rows": reading.n_rows,
        "questions": found.n,
        "columns": {name: list(columns) for name, columns in reading.columns.taken.items()},
        "left_over": list(reading.columns.left),
        "understood": list(reading.notes),
        "kinds": dict(found.kinds),
        "options": {str(n): k for n, k in sorted(found.options.items())},
        "splits": dict(found.splits),
        "clusters": len(found.clusters),
        "media": {kind: len(paths) for kind, paths in found.media.items()},
        "missing": absent,
        "bad_rows": bad.messages,
        "examples": [
            {"question_id": q.question_id, "prompt": build_prompt(q, OWN.defaults.template)} for q in found.shown
        ],
        "exit_code": DataError.exit_code if failed else 0,
    }
