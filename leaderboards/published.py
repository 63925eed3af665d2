"""Rows that papers print, kept as printed: never ranked, never tested, each with its source."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from leaderboards.stats import grim_counts, wilson_interval
from leaderboards.suites import BoardSuite
from seedbench_r1.errors import DataError
from seedbench_r1.types import DOMAINS

# Questions of each level and L3 domain. L1 and L2: the data set's description; the domains are the only sizes with sum
# 1,321 that give whole counts for every cell of GRPO-CARE's Table 2 (arXiv 2506.16141).
SIZES = {
    "L1": 2432,
    "L2": 923,
    "L3": 1321,
    "Daily life": 439,
    "Hobbies": 295,
    "Recreation": 183,
    "Work": 404,
}
COLUMNS = {
    "l1": "L1",
    "l2": "L2",
    "l3_daily": "Daily life",
    "l3_hobbies": "Hobbies",
    "l3_recreation": "Recreation",
    "l3_work": "Work",
    "l3": "L3",
}
BEFORE = ("row_id", "method", "base_model", "train_data", "frames")  # columns of every file: these, the numbers, those
AFTER = ("average", "consistency", "source", "table", "note")


@dataclass(frozen=True, slots=True)
class PublishedCell:
    """One printed percentage."""

    printed: str  # as in the source, "44.89"
    # The counts of correct answers that give it; none: the percentage is impossible. None: how many questions stand
    # behind it is not stated, or their credits are no counts.
    counts: tuple[int, ...] | None
    lo: float | None  # Wilson's interval, from the smallest to the largest count, as a fraction; None without a count.
    hi: float | None  # Not clustered: the answers behind it are not published.

    @property
    def possible(self) -> bool:
        """False if no count of correct answers gives the printed percentage."""
        return self.counts is None or bool(self.counts)

    @property
    def value(self) -> float:
        """For placing a mark on a chart, as a fraction. Tables show `printed`."""
        return float(self.printed) / 100


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One row of a paper's table. Numbers are the printed strings."""

    row_id: str
    method: str
    base_model: str
    train_data: str
    frames: str
    accuracy: dict[str, PublishedCell]  # by column: level, L3 domain or benchmark; only what is printed
    average: str  # a printed average over levels, or a score whose levels are not stated; "" if none
    consistency: str  # printed; how it was measured differs between sources
    source: str  # "arXiv 2506.16141"
    table: str  # "Table 2"
    note: str
    flags: tuple[str, ...]  # REPORTED, and one for each cell that cannot be


def load_published(suite: BoardSuite) -> tuple[PublishedRow, ...]:
    """The papers' rows of a suite. Raises DataError, with the line, for a row that is not as it should be."""
    if not suite.published:
        return ()
    text = resources.files("leaderboards").joinpath(suite.published).read_text(encoding="utf-8")
    return parse_published(text, suite.published, COLUMNS if suite.has_levels else suite.names)


def parse_published(text: str, name: str, columns: Mapping[str, str] = COLUMNS) -> tuple[PublishedRow, ...]:
    """Rows of a CSV. `name` is for error messages. Raises DataError.

    columns: of numbers -> the level, domain or benchmark; the file has the columns BEFORE, these, and AFTER.
    """
    reader = csv.DictReader(text.splitlines(), strict=True)
    fields = [*BEFORE, *columns, *AFTER]
    if list(reader.fieldnames or ()) != fields:
        raise DataError(f"{name}:1: the columns are {reader.fieldnames}, expected {fields}")
    rows: dict[str, PublishedRow] = {}
    for values in reader:
        if None in values or None in values.values() or not values["source"] or values["row_id"] in rows:
            raise DataError(f"{name}:{reader.line_num}: needs {len(fields)} cells, a source, and a row_id of its own")
        try:
            rows[values["row_id"]] = _row(values, columns)
        except ValueError as error:
            raise DataError(f"{name}:{reader.line_num}: {error}") from error
    return tuple(rows.values())


def _row(values: dict[str, str], columns: Mapping[str, str]) -> PublishedRow:
    cells = {
        group: published_cell(values[column], SIZES.get(group)) for column, group in columns.items() if values[column]
    }
    flags = [f"IMPOSSIBLE {group} {cell.printed}" for group, cell in cells.items() if not cell.possible]
    if not overall_fits(cells):
        flags.append(f"IMPOSSIBLE L3 {cells['L3'].printed} from its domains")
    texts = {name: values[name] for name in (*BEFORE, *AFTER)}
    return PublishedRow(accuracy=cells, flags=("REPORTED", *flags), **texts)


def published_cell(printed: str, n: int | None) -> PublishedCell:
    """The GRIM test of one percentage of n questions; of an unknown number, none. ValueError for no decimal number."""
    counts = grim_counts(printed, n or 1)
    if n is None or not counts:
        return PublishedCell(printed, None if n is None else (), None, None)
    return PublishedCell(printed, tuple(counts), wilson_interval(counts[0], n)[0], wilson_interval(counts[-1], n)[1])


def overall_fits(cells: dict[str, PublishedCell]) -> bool:
    """False if no counts behind the four domains add up to one behind the printed L3; True where one is not printed.

    For a domain whose percentage no count gives, the counts next to it are tried.
    """
    if "L3" not in cells or any(name not in cells for name in DOMAINS):
        return True
    sums = {0}
    for name in DOMAINS:
        nearest = cells[name].value * SIZES[name]
        counts = grim_counts(cells[name].printed, SIZES[name]) or [math.floor(nearest), math.ceil(nearest)]
        sums = {total + k for total in sums for k in counts}
    return bool(sums & set(grim_counts(cells["L3"].printed, SIZES["L3"])))
