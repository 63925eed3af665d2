"""Trainings on the board: who belongs together, what the page draws of them, and what the flags say."""

import re
from importlib import resources

import pytest

from leaderboards.board import build_board
from leaderboards.draw.charts import training_chart
from leaderboards.draw.numbers import MINUS
from leaderboards.draw.page import write_html
from leaderboards.draw.page_scales import round_scale
from leaderboards.draw.page_training import training_section
from leaderboards.draw.svg import PALETTE, draw
from leaderboards.trainings import smooth, trainings
from seedbench_r1.runs.training_snapshot import FILE
from tests.synthetic_runs import RunSpec, make_benchmark, write_runs

BUILT = "2026-01-02T03:04:05Z"
SPECS = [
    RunSpec("base", ability=-0.5, algorithm=None, seed=1),
    RunSpec("care-400", ability=0.4, step=400, seed=2, algorithm="care", training="care"),
    RunSpec("care-900", ability=1.4, step=900, seed=3, algorithm="care", training="care"),
    RunSpec("sft-300", ability=0.2, step=300, seed=4, algorithm="sft", training="sft", seen=4),
    RunSpec("old-100", ability=-1.4, step=100, seed=5),  # without a snapshot: told by base model and algorithm
    RunSpec("old-200", ability=-1.2, step=200, seed=6),
]


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return write_runs(tmp_path_factory.mktemp("runs"), SPECS, make_benchmark())


@pytest.fixture(scope="module")
def board(paths):
    return build_board(paths)


def test_checkpoints_of_one_training_belong_together(board):
    found = {training.name: training for training in trainings(board)}
    runs = {name: [board.rows[place].run_id for place in training.places] for name, training in found.items()}
    assert runs == {"care": ["care-400", "care-900"], "sft-300": ["sft-300"], "old": ["old-100", "old-200"]}
    assert found["care"].steps == (400, 900)
    assert found["care"].curves["reward"][-1][0] == 900.0
    assert found["old"].curves == {}


def test_the_section_draws_each_training_once(board):
    section = training_section(board)
    assert [entry.name for entry in section.legend] == ["care", "sft-300", "old"]
    titles = [panel.title for panel in section.panels]
    assert titles == [
        *("Reward", "Accuracy reward", "Consistency bonus", "Completion length, tokens", "Gradient norm"),
        *("Policy loss", "Loss per token, supervised", "Accuracy, held-out questions"),
    ]
    gradient = section.panels[4]
    assert [line.name for line in gradient.lines] == ["care", "sft-300"]
    assert gradient.text.startswith("Gradient norm by step: care ")
    assert [line.name for line in section.steps[0].lines] == ["care", "old"]
    care = section.steps[0].lines[0]
    assert len(care.marks) == 2
    assert care.places == " ".join(str([row.run_id for row in board.rows].index(f"care-{n}")) for n in (400, 900))
    cell = board.row("care-900").accuracy["L1"]
    assert f"step 900: {100 * cell.value:.1f} [{100 * cell.lo:.1f}, {100 * cell.hi:.1f}]" in section.steps[0].text


def points_of(path):
    """A path of relative moves as absolute points, in drawing units."""
    x = y = 0
    found = []
    for dx, dy in re.findall(r"[Ml](-?\d+) ?(-?\d+)", path):
        x, y = x + int(dx), y + int(dy)
        found.append((x / 10, y / 10))
    return found


def test_a_curve_stands_where_its_numbers_are(board):
    section = training_section(board)
    held = next(panel for panel in section.panels if panel.title.startswith("Accuracy, held-out"))
    (line,) = held.lines
    curve = next(t for t in trainings(board) if t.name == "care").curves["heldout_accuracy"]
    at = points_of(line.path)
    assert len(at) == len(curve) == 9
    x_ticks = {float(tick.text.replace(",", "")): tick.at for tick in held.x_ticks}
    y_ticks = {float(tick.text): tick.at for tick in held.y_ticks}
    (x0, x1), (y0, y1) = ((min(ticks), max(ticks)) for ticks in (x_ticks, y_ticks))
    for (step, value), (x, y) in zip(curve, at, strict=True):
        assert x == pytest.approx(x_ticks[x0] + (step - x0) / (x1 - x0) * (x_ticks[x1] - x_ticks[x0]), abs=0.15)
        assert y == pytest.approx(y_ticks[y0] + (value - y0) / (y1 - y0) * (y_ticks[y1] - y_ticks[y0]), abs=0.15)
    assert line.faint == ""  # too few points to smooth


@pytest.mark.parametrize("scale", [4e-8, 1.2e-7, 3e-5, 7e-4, 0.02, 3.0, 40_000.0])
def test_ticks_are_short_and_say_where_they_stand(scale):
    place = round_scale([-scale, 0.3 * scale, scale], 0.0, 100.0)
    assert len({tick.text for tick in place.ticks}) == len(place.ticks) >= 3
    for tick in place.ticks:
        assert len(tick.text) <= 7
        assert place(float(tick.text.replace(MINUS, "-").replace(",", ""))) == pytest.approx(tick.at, abs=0.1)


def test_one_odd_step_has_a_scale_without_ticks():
    place = round_scale([401], 0.0, 100.0, whole=True)
    assert (place(401), place.ticks) == (0.0, ())


def test_smoothing_is_a_running_mean():
    short = tuple((float(i), float(i % 2)) for i in range(19))
    assert smooth(short) == short
    points = tuple((float(i), float(i)) for i in range(200))
    smoothed = smooth(points)
    assert [step for step, _ in smoothed] == [step for step, _ in points]
    assert smoothed[100] == (100.0, 100.0)
    assert smoothed[0] == (0.0, sum(range(6)) / 6)
    assert smooth(tuple((step, 7.0) for step, _ in points)) == tuple((step, 7.0) for step, _ in points)


def test_the_page_has_the_section_only_where_there_is_something_to_show(board, paths, tmp_path):
    write_html(board, tmp_path / "with.html", built_utc=BUILT)
    page = (tmp_path / "with.html").read_text(encoding="utf-8")
    assert 'id="training"' in page
    assert page.count('class="chart curves"') == 8 + 3 + 3  # accuracy and consistency by step
    assert "means over the first and over the last tenth" in page.lower()
    without = build_board([paths[0], paths[4]])
    write_html(without, tmp_path / "without.html", built_utc=BUILT)
    assert 'id="training"' not in (tmp_path / "without.html").read_text(encoding="utf-8")
    assert training_chart(without) is None


def test_a_run_adds_at_most_30_kb_of_curves(tmp_path):
    specs = [RunSpec(f"care-{i}", step=1500, seed=i, algorithm="care", training=f"t{i}") for i in range(4)]
    benchmark = make_benchmark({"L3": 20})
    sizes = []
    for name, changes in (("with", {}), ("without", {"training": None})):
        from dataclasses import replace

        runs = write_runs(tmp_path / name, [replace(spec, **changes) for spec in specs], benchmark)
        sizes.append(write_html(build_board(runs), tmp_path / f"{name}.html", built_utc=BUILT).n_bytes)
    assert 0 < sizes[0] - sizes[1] < 4 * 30_000 + 10_000


def test_page_and_files_have_the_same_colours():
    style = resources.files("leaderboards.draw").joinpath("static", "report.css").read_text(encoding="utf-8")
    found = re.findall(r"--c(\d): (#[0-9a-f]{6})", style)
    light, dark = found[:6], found[6:]  # paper is light
    assert [colour for _, colour in light] == [pair[0] for pair in PALETTE]
    assert [colour for _, colour in dark] == [pair[1] for pair in PALETTE]


def test_the_chart_file_holds_the_same_lines(board):
    figure = draw(training_chart(board))
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert len(titles) == 8
    care = next(t for t in trainings(board) if t.name == "care").curves["reward"]
    line = next(line for line in figure.axes[0].lines if line.get_label() == "care")
    assert line.get_ydata().tolist() == [value for _, value in smooth(care)]


def test_what_was_trained_on_is_flagged(board):
    assert "CONTAM? 4/160" in board.row("sft-300").flags
    assert not any("CONTAM" in flag for flag in board.row("care-900").flags)
    assert board.row("care-900").provenance["seen in training"] == "0 of 160 questions are in the training file"
    assert "seen in training" not in board.row("base").provenance


def test_a_damaged_snapshot_costs_the_curve_alone(tmp_path):
    paths = write_runs(tmp_path, SPECS[:3], make_benchmark())
    (paths[1] / FILE).write_text("{")
    board = build_board(paths)
    assert board.left_out == ()
    assert board.row("care-400").ranked
    assert any("care-400" in warning and FILE in warning for warning in board.warnings)
