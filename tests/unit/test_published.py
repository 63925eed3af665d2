"""The papers' rows: as printed, each with its source, the impossible ones flagged."""

import pytest

from leaderboards.published import (
    AFTER,
    BEFORE,
    COLUMNS,
    SIZES,
    load_published,
    overall_fits,
    parse_published,
    published_cell,
)
from leaderboards.stats import wilson_interval
from leaderboards.suites import SUITES
from seedbench_r1.errors import DataError
from seedbench_r1.suites.transfer import BENCHMARKS

ROWS = {row.row_id: row for row in load_published(SUITES["seedbench-r1"])}
FIELDS = (*BEFORE, *COLUMNS, *AFTER)
HEADER = ",".join(FIELDS)


def line(**values):
    return ",".join(values.get(name, "") for name in FIELDS)


def printed(row_id):
    return {name: cell.printed for name, cell in ROWS[row_id].accuracy.items()}


def test_every_row_has_a_source_and_is_reported():
    assert len(ROWS) == 60
    for row in ROWS.values():
        assert row.source.startswith("arXiv ")
        assert row.table
        assert row.flags[0] == "REPORTED"
        assert row.accuracy or row.average


@pytest.mark.parametrize(
    ("row_id", "cells", "consistency"),
    [
        ("care-t2-care", ("57.0", "57.0", "57.6", "51.2", "57.4", "48.5", "53.4"), "82.4"),
        ("care-t2-grpo", ("52.3", "53.2", "51.9", "43.7", "55.2", "39.4", "46.7"), "57.9"),
        ("sbr1-grpo", ("46.01", "50.16", "48.52", "45.08", "43.72", "41.34", "44.89"), ""),
        ("dv-t1-qwen2-vl-7b-deepvideo-r1", ("56.4", "59.8", "57.6", "52.5", "50.0", "55.2", "53.8"), ""),
    ],
)
def test_cells_are_the_printed_strings(row_id, cells, consistency):
    names = ("L1", "L2", "Daily life", "Hobbies", "Recreation", "Work", "L3")
    assert printed(row_id) == dict(zip(names, cells, strict=True))
    assert ROWS[row_id].consistency == consistency


def test_exactly_these_rows_hold_cells_that_cannot_be():
    impossible = {row_id: set(row.flags[1:]) for row_id, row in ROWS.items() if len(row.flags) > 1}
    assert impossible == {
        "sbr1-vanilla": {"IMPOSSIBLE Hobbies 32.30"},
        "dv-t1-qwen2-vl-7b-deepvideo-r1": {"IMPOSSIBLE Recreation 50.0", "IMPOSSIBLE L3 53.8 from its domains"},
        "dv-t1-qwen2.5-vl-7b-grpo": {"IMPOSSIBLE Work 35.2"},
        "dv-t1-qwen2-vl-2b-deepvideo-r1": {
            "IMPOSSIBLE Recreation 41.1",
            "IMPOSSIBLE Work 49.2",
            "IMPOSSIBLE L3 46.3 from its domains",
        },
        "dv-t1-internvl3-8b": {"IMPOSSIBLE L3 34.8 from its domains"},
    }


@pytest.mark.parametrize(
    ("text", "n", "counts"),
    [
        ("32.30", 295, ()),  # 95/295 is 32.20 and 96/295 is 32.54
        ("50.0", 183, ()),  # 91/183 is 49.7 and 92/183 is 50.3
        ("35.2", 404, ()),  # 142/404 is 35.15, printed 35.1; 143/404 is 35.4
        ("44.89", 1321, (593,)),
        ("57.6", 439, (253,)),
        ("31.3", 1321, (413, 414)),
    ],
)
def test_counts_behind_a_percentage(text, n, counts):
    assert [k for k in range(n + 1) if f"{100 * k / n:.{len(text.partition('.')[2])}f}" == text] == list(counts)
    cell = published_cell(text, n)
    assert cell.counts == counts
    assert cell.possible == bool(counts)
    if counts:
        assert (cell.lo, cell.hi) == (wilson_interval(counts[0], n)[0], wilson_interval(counts[-1], n)[1])
    else:
        assert cell.lo is cell.hi is None


def test_the_domains_of_the_reference_table_add_up_exactly():
    counts = {"care-t2-vanilla": 413, "care-t2-sft": 564, "care-t2-grpo": 617, "care-t2-care": 705}
    for row_id, total in counts.items():
        cells = ROWS[row_id].accuracy
        domains = [cells[name].counts for name in ("Daily life", "Hobbies", "Recreation", "Work")]
        assert sum(count[0] for count in domains) == total
        assert total in cells["L3"].counts
    assert sum(SIZES[name] for name in ("Daily life", "Hobbies", "Recreation", "Work")) == SIZES["L3"] == 1321


def test_an_overall_that_does_not_follow_from_its_domains():
    names = ("Daily life", "Hobbies", "Recreation", "Work")
    cells = {
        name: published_cell(text, SIZES[name])
        for name, text in zip(names, ("57.6", "51.2", "57.4", "48.5"), strict=True)
    }
    assert overall_fits(cells | {"L3": published_cell("53.4", 1321)})
    assert not overall_fits(cells | {"L3": published_cell("53.5", 1321)})
    assert overall_fits(cells)  # nothing to check


@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1,2\n",
        f"{HEADER}\n{line(row_id='x', l1='50.0')}\n",  # no source
        f"{HEADER}\n{line(row_id='x', l1='5O.0', source='s')}\n",
        f"{HEADER}\n{line(row_id='x', l1='50.0%', source='s')}\n",
        f"{HEADER}\n{line(row_id='x', source='s')},more\n",
        f"{HEADER}\n{line(row_id='x', source='s')}\n{line(row_id='x', source='s')}\n",
        f"{HEADER}\nx,y\n",
    ],
)
def test_a_broken_table_is_refused_with_its_line(text):
    with pytest.raises(DataError, match=r"table\.csv:\d"):
        parse_published(text, "table.csv")


def test_table_4_is_as_printed_and_nothing_is_claimed_of_numbers_of_questions_that_nobody_states():
    rows = {row.row_id: row for row in load_published(SUITES["transfer"])}
    names = tuple(BENCHMARKS.values())
    printed = {row_id: tuple(cell.printed for cell in row.accuracy.values()) for row_id, row in rows.items()}
    assert printed["care-t4-care-video-r1"] == ("35.8", "50.4", "65.8", "65.1", "73.5", "59.6")
    assert printed["care-t4-vanilla"] == ("30.1", "48.1", "60.0", "59.0", "72.6", "56.6")
    assert tuple(rows["care-t4-gpt-4o"].accuracy) == (*names[:3], names[5])
    assert len(rows) == 10
    for row in rows.values():
        assert row.flags == ("REPORTED",)
        assert all(cell.possible and cell.counts is None and cell.lo is None for cell in row.accuracy.values())
    assert load_published(SUITES["own"]) == ()


def test_reported_rows_are_never_ranked_and_have_no_p_value():
    row = ROWS["care-t2-care"]
    assert not any(hasattr(row, name) for name in ("tier", "rank_lo", "deltas", "p"))
