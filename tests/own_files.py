"""Question files of a user's own, of any form, for tests."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from seedbench_r1.rows import BadRows
from seedbench_r1.suites.own import open_file
from seedbench_r1.types import Question
from tests.media import make_clip, make_image

ANSWERS = ("rain", "sun", "snow")


def row(number: int = 1, **changes: Any) -> dict[str, Any]:
    """A choice of three about a clip; a change to None takes the column away."""
    found = {
        "id": f"q{number}",
        "question": f"What is seen at {number} o'clock, roughly?",
        "options": list(ANSWERS),
        "answer": "ABC"[number % 3],
        "video": f"clips/{number % 4}.mp4",
    } | changes
    return {name: value for name, value in found.items() if value is not None}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A file of the form that its name says; a folder is written by `datasets`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix in (".csv", ".tsv"):
        names = list(dict.fromkeys(name for each in rows for name in each))
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            table.writerow(names)
            for each in rows:
                table.writerow([json.dumps(v) if isinstance(v := each.get(name), list) else v for name in names])
    else:
        _write_columns(path, rows)
    return path


def _write_columns(path: Path, rows: list[dict[str, Any]]) -> None:
    import datasets
    import pyarrow
    import pyarrow.parquet

    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        datasets.Dataset.from_list(rows).save_to_disk(str(path))


def read(path: Path, mapping: str | None = None, *, skip: bool = False) -> list[Question]:
    """The file's questions, with media below its folder."""
    return read_with_bad(path, mapping, skip=skip)[0]


def read_with_bad(path: Path, mapping: str | None = None, *, skip: bool = True) -> tuple[list[Question], list[str]]:
    """Its questions, and what is said of the rows that cannot be used."""
    bad = BadRows(skip=skip)
    _, questions = open_file(path, mapping, path.parent, bad)
    return list(questions), bad.messages


def make_media(folder: Path) -> Path:
    """The clips of `row`, and an image."""
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    for number in range(4):
        make_clip(folder / "clips" / f"{number}.mp4", n_frames=20)
    make_image(folder / "view.png")
    return folder
