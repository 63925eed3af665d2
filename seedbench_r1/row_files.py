"""Rows of files of any form: JSON lines, a JSON list, CSV, Parquet, Arrow, and data set folders of Hugging Face."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from seedbench_r1.errors import DataError
from seedbench_r1.questions import file_sha256
from seedbench_r1.rows import BadRows, Place, begins_a_list, read_rows

BATCH = 1024  # rows of a columnar file that are Python objects at once
FORMS = "JSON lines (.jsonl), a JSON list (.json), CSV (.csv, .tsv), Parquet (.parquet), Arrow (.arrow), or a folder"
_COLUMNAR = (".parquet", ".arrow")
_DELIMITERS = (",", ";", "\t")  # German and French spreadsheets write semicolons
_LONGEST_CELL = 2**31 - 1  # csv's own limit of 131,072 characters is below long responses
# "train-00000-of-00003.parquet", "validation.parquet"
_SHARD = re.compile(r"(?P<split>[A-Za-z]\w*?)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?")
_SPLITS = re.compile(r"train|training|test|testing|eval|validation|valid|val|dev", re.IGNORECASE)


def form_of(path: Path) -> str:
    """What a file is, in words. Raises FileNotFoundError, or DataError for a form that is not read."""
    if path.is_dir():
        return "data set folder" if _is_saved(path) else f"folder of {len(data_files(path))} files"
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return "CSV"
    if suffix in _COLUMNAR:
        return {".parquet": "Parquet", ".arrow": "Arrow"}[suffix]
    with path.open("rb") as file:
        head = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    if suffix in (".json", ".jsonl", ".ndjson") or head[:1] in (b"[", b"{"):
        return "JSON list" if begins_a_list(head) else "JSON lines"
    raise DataError(f"{path} is of a form that is not read. Fix: {FORMS}.")


def read_any(path: Path, bad: BadRows) -> Iterator[tuple[Place, dict[str, Any]]]:
    """The rows of a file or folder with where they stand, one at a time.

    A folder saved by `datasets` as several splits, or of files named after them, gives rows without a column `split`
    one. Empty cells of CSV are absent.

    Raises:
        FileNotFoundError: for the caller to say where it should be.
        DataError: it cannot be read, or a row is bad and not to be skipped.
    """
    form = form_of(path)
    if form == "CSV":
        return read_csv(path, bad)
    if form in ("Parquet", "Arrow"):
        return _columnar_rows(path, str(path), 0)
    if form == "data set folder":
        return _saved_rows(path)
    return _folder_rows(path) if path.is_dir() else read_rows(path, bad)


def read_csv(path: Path, bad: BadRows, keep: Container[str] = ()) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Rows of a CSV file with a header: cells as texts, empty ones left out but for the columns `keep`.

    Cells are set off by commas or, where the header has none, by semicolons or tabs. A row of another length than the
    header's is a bad row.
    """
    csv.field_size_limit(_LONGEST_CELL)
    number = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            file.seek(0)
            delimiter = max(_DELIMITERS, key=lambda sign: ("," not in header or sign == ",", header.count(sign)))
            table = csv.reader(file, delimiter=delimiter, strict=True)
            names = [name.strip() for name in next(table, [])]
            if repeated := sorted({name for name in names if name and names.count(name) > 1}):
                raise DataError(f"{path}:1: the column {repeated[0]!r} is there more than once.")
            number = table.line_num + 1
            for cells in table:
                place, number = (f"{path}:{number}", number), table.line_num + 1
                if len(cells) == len(names):
                    pairs = zip(names, cells, strict=True)
                    yield place, {name: cell for name, cell in pairs if name and (cell != "" or name in keep)}
                elif cells:
                    more = "more" if len(cells) > len(names) else "fewer"
                    bad.refuse(
                        DataError(
                            f"{place[0]}: {more} cells ({len(cells)}) than the header has columns ({len(names)}). A "
                            f"text with the delimiter {delimiter!r} in it stands in double quotes."
                        )
                    )
    except csv.Error as error:
        raise DataError(f"{path}:{number}: not valid CSV ({error}).") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 text, from line {number} on or a little later. Fix: save it as CSV UTF-8."
        ) from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def folder_of(path: Path) -> Path:
    """What relative paths in a file's rows are below: the file's folder, or the folder itself."""
    return path if path.is_dir() else path.parent


def data_files(path: Path) -> list[Path]:
    """The files whose bytes are the rows: the file itself or, of a folder, its columnar files, sorted."""
    if not path.is_dir():
        return [path]
    found = sorted(file for suffix in _COLUMNAR for file in path.rglob(f"*{suffix}") if not file.name.startswith("."))
    if not found:
        raise DataError(f"{path} holds no .parquet and no .arrow file. Fix: a file, or a folder with such files.")
    return found


def content_sha256(path: Path) -> str:
    """sha256 of a file's bytes, as 64 hex digits; of a folder, of its data files' names and hashes."""
    if not path.is_dir():
        return file_sha256(path)
    parts = [f"{file.relative_to(path)} {file_sha256(file)}\n" for file in data_files(path)]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def _is_saved(folder: Path) -> bool:
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def _saved_rows(path: Path) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Rows of what `save_to_disk` wrote, one data set or several splits. Media stay as they are stored."""
    import datasets

    try:
        found = datasets.load_from_disk(str(path))
        splits = dict(found.items()) if isinstance(found, datasets.DatasetDict) else {"": found}
        for split, data in splits.items():
            # As Arrow, so that features of clips and images are not decoded.
            batches = data.with_format("arrow").iter(BATCH)
            rows = (row for batch in batches for row in batch.to_pylist())
            for number, row in enumerate(rows, start=1):
                yield (f"{path}{f' ({split})' if split else ''}: row {number}", number), _with_split(row, split)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a data set folder: {error}. Was it copied whole?") from error


def _folder_rows(path: Path) -> Iterator[tuple[Place, dict[str, Any]]]:
    before: dict[str, int] = {}  # rows of earlier files of a split, so that a row's place is its own
    for file in data_files(path):
        shard = _SHARD.fullmatch(file.stem)
        split = shard["split"] if shard else file.stem if _SPLITS.fullmatch(file.stem) else ""
        for place, row in _columnar_rows(file, str(file), before.get(split, 0)):
            before[split] = place[1]
            yield place, _with_split(row, split)


def _with_split(row: dict[str, Any], split: str) -> dict[str, Any]:
    return {"split": split} | row if split else row


def _columnar_rows(path: Path, name: str, before: int) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Rows of one Parquet or Arrow file; in the message their place in the file, else that in all files."""
    import pyarrow

    try:
        number = 0
        for batch in _batches(path):
            for row in batch.to_pylist():
                number += 1
                yield (f"{name}: row {number}", before + number), row
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}. Is it a Git LFS pointer or a half download?") from error


def _batches(path: Path) -> Iterator[Any]:
    import pyarrow
    import pyarrow.parquet

    if path.suffix.lower() == ".parquet":
        yield from pyarrow.parquet.ParquetFile(path).iter_batches(BATCH)
        return
    # `datasets` writes streams, other programs files of the same ending.
    with pyarrow.memory_map(str(path)) as source:
        try:
            reader = pyarrow.ipc.open_stream(source)
        except pyarrow.ArrowInvalid:
            reader = pyarrow.ipc.open_file(source)
            yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
            return
        yield from reader
