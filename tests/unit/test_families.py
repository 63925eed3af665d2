"""Every cell of the table of model families, on a tiny random checkpoint of the real class."""

import pytest

from seedbench_r1.errors import SeedBenchError
from tests.family_table import COLUMNS, DOCUMENT, NAMES, TABLE, WHY_NOT, document

CELLS = [(family, column) for family in TABLE for column, (_, check) in COLUMNS.items() if check is not None]


@pytest.mark.parametrize(("family", "column"), CELLS)
def test_a_cell(family, column):
    check = COLUMNS[column][1]
    assert check is not None
    if (family, column) not in WHY_NOT:
        check(family)
        return
    with pytest.raises((AssertionError, SeedBenchError)):
        check(family)


def test_every_family_has_a_name_and_every_reason_a_cell():
    assert set(NAMES) == set(TABLE)
    assert {family for family, _ in WHY_NOT} <= set(TABLE)
    assert {column for _, column in WHY_NOT} <= set(COLUMNS)


def test_the_page_holds_the_table():
    assert DOCUMENT.read_text(encoding="utf-8") == document()
