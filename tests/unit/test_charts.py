"""The chart files: same board, same bytes; valid, self-contained, readable on light and dark."""

import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from matplotlib.figure import Figure

from leaderboards.board import build_board
from leaderboards.draw.charts import (
    consistency_chart,
    drawn_trainings,
    level_chart,
    quadrant_chart,
    step_chart,
    training_chart,
)
from leaderboards.draw.page import write_html
from leaderboards.draw.page_figures import slope_view
from leaderboards.draw.page_training import training_section
from leaderboards.draw.svg import FEATURED, INK, PALETTE, _end_labels, draw, write_charts
from tests.synthetic_runs import RunSpec, make_benchmark, sweep, write_run, write_runs

NAMES = ("levels", "consistency", "quadrants", "steps", "steps_consistency", "training")


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


def metric_quadrants(board):
    return quadrant_chart(board, board.metric.level)


@pytest.mark.parametrize("describe", [consistency_chart, metric_quadrants, training_chart])
def test_legends_of_long_names_stay_inside(on_disk, describe):
    long = "qwen2.5-vl-7b-instruct-a-name-of-quite-some-length"
    rows = [replace(row, model=f"{row.algo or 'base'}/{long}/{row.run_id}") for row in on_disk.board.rows]
    figure = draw(describe(replace(on_disk.board, rows=rows)))
    figure.draw_without_rendering()
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    assert legends
    for extent in [*(legend.get_window_extent() for legend in legends), *(axes.bbox for axes in figure.axes)]:
        assert -1 <= extent.x0 < extent.x1 <= figure.bbox.width + 1
        assert -1 <= extent.y0 < extent.y1 <= figure.bbox.height + 1


def test_points_stand_where_the_numbers_are(on_disk):
    axes = draw(level_chart(on_disk.board)).axes[0]
    shown = [c.get_label() for c in axes.containers]
    assert shown == [r.run_id for r in on_disk.board.rows if r.ranked and r.run_id != "only-l3"]
    line = axes.containers[shown.index("care-200")].lines[0]
    row = on_disk.board.row("care-200")
    assert line.get_ydata().tolist() == pytest.approx([100 * row.accuracy[level].value for level in ("L1", "L2", "L3")])


def names_in(page, section):
    """Who is drawn in the page's section: in its SVG and in its tables."""
    found = re.search(rf'(?s)<section id="{section}".*?</section>', page)[0]
    svg = set(re.findall(r"<title>([^:<]*):", found))
    tables = [
        set(re.findall(r'<th scope="row">([^<]*)</th>', table)) for table in re.findall("(?s)<table.*?</table>", found)
    ]
    return svg, tables


@pytest.fixture(scope="module")
def unequal(tmp_path_factory):
    """Two runs that compare, a checkpoint of each kind that does not, and the same as a page."""
    folder = tmp_path_factory.mktemp("unequal")
    specs = [
        RunSpec("good", ability=1.0, seed=1, step=200, training="t"),
        RunSpec("half-way", ability=0.2, seed=2, step=100, training="t"),
        RunSpec("short", ability=0.4, seed=3, limit=20, step=150, training="t"),
        RunSpec("other-frames", ability=2.0, seed=4, frames=32, step=50, training="t"),
        RunSpec("stopped", ability=0.4, seed=5, answered=0.9, step=250, training="t"),
    ]
    board = build_board(write_runs(folder, specs, make_benchmark()), baseline="half-way")
    write_html(board, folder / "page.html")
    return board, (folder / "page.html").read_text(encoding="utf-8")


def test_only_comparable_runs_share_a_chart(unequal):
    """A SUBSET and a run of another protocol would look like rivals of the others; no test compares them."""
    board, page = unequal
    expected = ["good", "half-way"]
    assert [row.run_id for row in board.comparable] == expected
    assert [row.status for row in board.rows if row.run_id not in expected] == ["complete", "subset", "incomplete"]
    for chart in (level_chart(board), consistency_chart(board)):
        assert [series.name for series in chart.panels[0].series if not series.look.reported] == expected
    for level in ("L1", "L2", "L3"):
        assert [bar.name for bar in quadrant_chart(board, level).bars] == expected
    for panel in step_chart(board).panels:
        assert [[mark.x.value for mark in series.marks] for series in panel.series] == [[100, 200]]
    for section in ("generalisation", "consistency"):
        drawn, tables = names_in(page, section)
        assert {name for name in drawn if not name.endswith("†")} == set(expected)
        if section == "consistency":
            assert tables == [set(expected)] * 3
    forced = build_board([board.measured[name].run.path for name in ("good", "other-frames")], force_mixed=True)
    assert len(level_chart(forced).panels[0].series) == 2


def test_a_board_of_subsets_has_tables_and_no_charts(tmp_path):
    board = build_board(write_runs(tmp_path, [RunSpec("short", limit=20)], make_benchmark()))
    charts = [level_chart(board), consistency_chart(board), metric_quadrants(board), step_chart(board)]
    assert charts == [None] * 4
    write_html(board, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert '<svg class="chart"' not in page
    assert names_in(page, "generalisation") == (set(), [{"short"}])  # its gap is still stated
    assert "No comparable run was judged." in page


def test_page_and_file_draw_the_same_points(on_disk):
    """One description: every mark of the page lies where the file's axes have it, up to the scale."""
    chart = level_chart(on_disk.board)
    placed, axes = slope_view(chart), draw(chart).axes[0]
    ticks = {float(tick.text): tick.at for tick in placed.y_ticks}
    low, high = min(ticks), max(ticks)
    assert [series.name for series in placed.series] == [container.get_label() for container in axes.containers]
    for series, container in zip(placed.series, axes.containers, strict=True):
        percents = [low + (point.y - ticks[low]) / (ticks[high] - ticks[low]) * (high - low) for point in series.points]
        assert percents == pytest.approx(container.lines[0].get_ydata().tolist(), abs=0.05)


def test_a_training_has_one_colour_in_page_and_files(on_disk):
    """Its key: the place among all trainings that are drawn, whichever of the charts it is in."""
    names = [training.name for training in drawn_trainings(on_disk.board)]
    section = training_section(on_disk.board)
    assert [names[entry.key] for entry in section.legend] == [entry.name for entry in section.legend]
    for chart in (step_chart(on_disk.board), training_chart(on_disk.board)):
        figure = draw(chart)
        for panel, axes in zip(chart.panels, figure.axes, strict=False):
            assert all(names[series.key] == series.name for series in panel.series)
            colours = {label: line for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
            for series in panel.series:
                handle = colours[series.name]
                line = handle.lines[0] if hasattr(handle, "lines") else handle
                assert line.get_color() == PALETTE[series.look.colour][0]
    steps = step_chart(on_disk.board).panels[0].series
    assert [series.key for series in steps] == [names.index(series.name) for series in steps] != [0]


def test_an_algorithm_has_one_colour_everywhere_and_its_steps_are_shades(tmp_path):
    specs = [
        RunSpec("c1", ability=1.0, step=100, seed=1, algorithm="care", training="c"),
        RunSpec("c2", ability=1.2, step=200, seed=2, algorithm="care", training="c"),
        RunSpec("g", ability=0.6, step=200, seed=3, algorithm="grpo", training="g"),
        RunSpec("mine", ability=0.5, step=200, seed=4, algorithm="my-algo", training="m"),
        RunSpec("base", ability=-0.5, seed=5, algorithm=None),
    ]
    board = build_board(write_runs(tmp_path, specs, make_benchmark()))
    looks = {series.name: series.look for series in level_chart(board).panels[0].series}
    assert {name: look.colour for name, look in looks.items()} == {"c1": 0, "c2": 0, "g": 1, "mine": 3, "base": None}
    assert (looks["c1"].shade, looks["c2"].shade, looks["g"].shade) == (0.5, 1.0, 1.0)
    for series in consistency_chart(board).panels[0].series:
        assert series.look.reported or series.look == looks[series.name]
    curves = {series.look.colour for series in training_chart(board).panels[0].series}
    assert curves == {0, 1, 3}
    # The baseline is plain, in the files too.
    with_baseline = build_board(write_runs(tmp_path / "again", specs, make_benchmark()), baseline="g")
    for chart in (level_chart(with_baseline), consistency_chart(with_baseline)):
        (axes,) = draw(chart).axes
        drawn = {c.get_label(): c.lines[0].get_color() for c in axes.containers}
        assert (drawn["g"], drawn["c1"], drawn["mine"]) == (INK, PALETTE[0][0], PALETTE[3][0])
    assert looks["c1"].css == "color-mix(in srgb,var(--c0) 50%,var(--paper))"


def test_the_papers_consistency_stands_beside_the_runs(on_disk):
    printed = {s.name: s for s in consistency_chart(on_disk.board).panels[0].series if s.look.reported}
    assert {name: round(100 * s.marks[0].y.value, 1) for name, s in printed.items()} == {
        "GRPO †": 57.9,
        "GRPO-CARE †": 82.4,
    }
    assert (printed["GRPO †"].look.colour, printed["GRPO-CARE †"].look.colour) == (1, 0)
    assert printed["GRPO-CARE †"].marks[0].x.value == pytest.approx(0.534)
    assert all(s.places == () for s in printed.values())


def test_a_quadrant_bar_fills_a_hundred_percent(on_disk):
    axes = draw(metric_quadrants(on_disk.board)).axes[0]
    widths = [sum(c.patches[i].get_width() for c in axes.containers) for i in range(len(axes.containers[0].patches))]
    assert widths == pytest.approx([100.0] * len(widths))
    styles = {(c.patches[0].get_facecolor(), c.patches[0].get_hatch()) for c in axes.containers}
    assert len(styles) == len(axes.containers), "parts differ by colour or pattern"


def test_many_runs_stay_readable_and_keep_the_baseline(tmp_path):
    paths = write_runs(tmp_path, sweep(FEATURED + 3), make_benchmark({"L1": 20, "L3": 20}))
    board = build_board(paths, baseline="run-00")
    labels = [container.get_label() for container in draw(level_chart(board, at_most=FEATURED)).axes[0].containers]
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
