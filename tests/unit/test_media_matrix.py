"""Every codec, container and condition of docs/data.md by both readers: right, right with a note, or refused. 15 s."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.media_matrix import CODECS, MARK, SIGNS, matrix, table

DOCUMENT = Path(__file__).parents[2] / "docs" / "data.md"


@pytest.mark.parametrize("codec", CODECS)
def test_no_frame_is_wrong_without_a_word(tmp_path: Path, codec: str) -> None:
    cells = list(matrix(tmp_path, [codec]))
    assert {(condition, reader) for _, _, condition, reader, _ in cells} >= {("whole", "decord"), ("whole", "pyav")}
    for _, container, condition, reader, found in cells:
        assert set(found) <= set(SIGNS), (container, condition, reader, found)
        assert condition == "bit flipped" or not found["unnoticed"]
        if codec.startswith("H.264") and container in ("mp4", "mkv", "mov"):
            # One in a few dozen flips says nothing, and what is then shown depends on what the memory held before.
            assert found["unnoticed"] <= 1, (container, reader)
    # Which flips a decoder notices is its version's affair: the last column is not compared.
    published = [line.rsplit("|", 2)[0] for line in DOCUMENT.read_text(encoding="utf-8").split(MARK)[1].splitlines()]
    for line in table(iter(cells)).splitlines()[2:]:
        assert line.rsplit("|", 2)[0] in published, "run: python -m tests.media_matrix"
