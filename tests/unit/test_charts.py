"""The chart files: same board, same bytes; valid, self-contained, readable on light and dark."""

import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from matplotlib.figure import Figure

from leaderboards.board import build_board
from leaderboards.draw.svg import (
    FEATURED,
    _end_labels,
    consistency_chart,
    level_chart,
    quadrant_chart,
    training_chart,
    write_charts,
)
from tests.synthetic_runs import RunSpec, make_benchmark, sweep, write_run, write_runs

NAMES = ("levels", "consistency", "quadrants", "steps", "training")


@pytest.fixture(scope="module")
def written(on_disk, tmp_path_factory):
    folder = tmp_path_factory.mktemp("charts")
    paths = write_charts(on_disk.board, folder)
    assert sorted(path.name for path in paths) == sorted(f"{name}.{kind}" for name in NAMES for kind in ("svg", "pdf"))
    return folder


def test_the_same_board_gives_the_same_bytes(written, on_disk, tmp_path):
    write_charts(on_disk.board, tmp_path)
    for name in NAMES:
        for kind in ("svg", "pdf"):
            assert (tmp_path / f"{name}.{kind}").read_bytes() == (written / f"{name}.{kind}").read_bytes(), name


@pytest.mark.parametrize("name", NAMES)
def test_an_svg_is_valid_small_and_needs_nothing_else(written, name):
    text = (written / f"{name}.svg").read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"]
    assert len(text) < (250_000 if name == "training" else 100_000)
    links = re.findall(r'(?:href|src)="([^"]*)"|url\(([^)]*)\)', text)
    assert all((a or b).startswith("#") for a, b in links)
    assert "2026" not in text
    assert "Date" not in text
    assert "/CreationDate" not in (written / f"{name}.pdf").read_bytes().decode("latin-1")


@pytest.mark.parametrize("name", NAMES)
def test_ink_and_colours_follow_the_page(written, name):
    text = (written / f"{name}.svg").read_text(encoding="utf-8")
    body = text.partition("</style>")[2]
    assert "currentColor" in body
    assert "var(--chart-" in body
    assert "prefers-color-scheme: dark" in text
    fixed = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", body)) - {"#ffffff"}
    assert fixed == set(), "every colour is a variable"


def test_ids_do_not_meet_when_two_charts_stand_on_one_page(written):
    ids = [set(re.findall(r'\bid="([^"]+)"', (written / f"{name}.svg").read_text())) for name in NAMES]
    for i, one in enumerate(ids):
        for other in ids[i + 1 :]:
            assert not one & other


@pytest.mark.parametrize("draw", [consistency_chart, quadrant_chart, training_chart])
def test_legends_of_long_names_stay_inside(on_disk, draw):
    long = "qwen2.5-vl-7b-instruct-a-name-of-quite-some-length"
    rows = [replace(row, model=f"{row.algo or 'base'}/{long}/{row.run_id}") for row in on_disk.board.rows]
    figure = draw(replace(on_disk.board, rows=rows))
    figure.draw_without_rendering()
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    assert legends
    for extent in [*(legend.get_window_extent() for legend in legends), *(axes.bbox for axes in figure.axes)]:
        assert -1 <= extent.x0 < extent.x1 <= figure.bbox.width + 1
        assert -1 <= extent.y0 < extent.y1 <= figure.bbox.height + 1


def test_points_stand_where_the_numbers_are(on_disk):
    axes = level_chart(on_disk.board).axes[0]
    shown = [c.get_label() for c in axes.containers]
    assert shown == [r.run_id for r in on_disk.board.rows if r.ranked and r.run_id != "only-l3"]
    line = axes.containers[shown.index("care-200")].lines[0]
    row = on_disk.board.row("care-200")
    assert line.get_ydata().tolist() == pytest.approx([100 * row.accuracy[level].value for level in ("L1", "L2", "L3")])


def test_a_quadrant_bar_fills_a_hundred_percent(on_disk):
    axes = quadrant_chart(on_disk.board).axes[0]
    widths = [sum(c.patches[i].get_width() for c in axes.containers) for i in range(len(axes.containers[0].patches))]
    assert widths == pytest.approx([100.0] * len(widths))
    styles = {(c.patches[0].get_facecolor(), c.patches[0].get_hatch()) for c in axes.containers}
    assert len(styles) == len(axes.containers), "parts differ by colour or pattern"


def test_many_runs_stay_readable_and_keep_the_baseline(tmp_path):
    paths = write_runs(tmp_path, sweep(FEATURED + 3), make_benchmark({"L1": 20, "L3": 20}))
    board = build_board(paths, baseline="run-00")
    labels = [container.get_label() for container in level_chart(board).axes[0].containers]
    assert len(labels) == FEATURED
    assert "run-00" in labels


def test_end_labels_stay_apart_and_inside():
    axes = Figure().subplots()
    axes.set_ylim(0, 100)
    _end_labels(axes, [(2.0, "a", "red"), (1.0, "b", "blue"), (1.0, "c", "green"), (90.0, "d", "black")], 1.0)
    heights = {text.get_text(): text.get_position()[1] for text in axes.texts}
    assert heights == pytest.approx({"d": 90, "a": 10, "c": 5, "b": 0})


def test_charts_without_numbers_are_not_drawn(tmp_path):
    path = write_run(tmp_path, RunSpec("x", judges=(), levels=("L3",)), make_benchmark())
    assert write_charts(build_board([path]), tmp_path / "charts") == []
    assert not (tmp_path / "charts").exists()


def test_a_hostile_name_is_text(tmp_path):
    path = write_run(tmp_path, RunSpec("x"), make_benchmark())
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["model"]["name"] = "<script>alert(1)</script> $x_1$ \\frac{"
    (path / "manifest.json").write_text(json.dumps(manifest))
    write_charts(build_board([path]), tmp_path / "charts")
    text = (tmp_path / "charts" / "levels.svg").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    ElementTree.fromstring(text)
