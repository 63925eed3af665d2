"""seedbench-r1 leaderboard as a user meets it: files, tables, exit codes."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from leaderboards.board import build_board
from leaderboards.draw.page import HtmlReport
from leaderboards.draw.page_pictures import Pictures
from leaderboards.stats import mcnemar, sign_flip_test
from seedbench_r1.cli.app import app
from seedbench_r1.cli.board_tables import print_board
from seedbench_r1.cli.console import without_nan
from seedbench_r1.cli.leaderboard import parse_size
from seedbench_r1.errors import ConfigError, DataError, IncompleteRun
from seedbench_r1.runs.directory import load_run
from tests.command import cli, cli_process
from tests.synthetic_runs import RunSpec, make_benchmark, write_run


@pytest.fixture(scope="module")
def built(on_disk, tmp_path_factory):
    """`build` in a real process over good runs only."""
    out = tmp_path_factory.mktemp("report")
    runs = [on_disk.folder / name for name in ("base", "care-200", "stopped", "best-of-5")]
    done = cli_process("leaderboard", "build", *runs, "-o", out / "leaderboard.html", "--baseline", "base", cwd=out)
    return out, done


def test_everything_is_written_and_the_exit_code_is_zero(built):
    out, done = built
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    expected = {"leaderboard.html", "leaderboard.csv", "leaderboard_long.csv", "leaderboard.md", "leaderboard.tex"}
    expected |= {"leaderboard_narrow.tex"}
    assert {path.name for path in out.iterdir()} == expected | {"leaderboard.meta.json", "charts"}
    meta = json.loads((out / "leaderboard.meta.json").read_text())
    named = set(meta["files"]) | {"leaderboard.meta.json"}
    assert named == {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    assert meta["baseline"] == "base"


def test_the_terminal_shows_tiers_and_what_was_written(built):
    out, done = built
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["tier", "rank", "run", "l3.accuracy", "%", "L3", "vs", "baseline"]
    assert lines[1].split()[:3] == ["A", "1-2", "care-200"]
    assert any(line.split()[:3] == ["-", "-", "stopped"] and "between" in line for line in lines)
    assert "baseline" in next(line for line in lines if " base " in line)
    assert "INCOMPLETE 144/160" in done.stdout
    assert "4 measured, 3 ranked, 1 incomplete" in done.stdout
    assert str(out / "leaderboard.html") in done.stdout
    assert "\x1b" not in done.stdout
    assert max(len(line) for line in lines[:5]) <= 80


@pytest.fixture
def terminal(capsys, monkeypatch, tmp_path):
    """terminal(board, width) -> what `build` prints of it in so many columns, line by line."""
    page = tmp_path / "page.html"
    page.write_text("")

    def printed(board, width):
        monkeypatch.setenv("COLUMNS", str(width))
        capsys.readouterr()
        print_board(board, [page], HtmlReport(page, 0, (), Pictures({}, {}, 0, "")))
        return capsys.readouterr().out.splitlines()

    return printed


def test_consistency_is_shown_and_compared_in_80_columns(on_disk, terminal):
    board = build_board([on_disk.folder / name for name in ("base", "care-200")], baseline="base")
    lines = terminal(board, 80)
    first = next(place for place, line in enumerate(lines) if "consistency %" in line)
    assert lines[first].split() == ["run", "L3", "consistency", "%", "vs", "baseline", "sound", "%"]
    row, delta = board.row("care-200"), board.row("care-200").judged_deltas["consistency"]["L3"]
    shown = next(line for line in lines[first + 1 :] if line.startswith("care-200"))
    assert f"{100 * row.consistency['L3'].value:.1f} [" in shown
    assert (
        f"{100 * delta.value:+.1f} [{100 * delta.lo:+.1f}, {100 * delta.hi:+.1f}]{row.stars('L3', 'consistency')}"
        in shown
    )
    assert f"{100 * row.sound['L3'].value:.1f} [" in shown
    assert max(map(len, lines[: first + 3])) <= 80
    # Ranked by it, it stands in the first table, once.
    by_consistency = build_board([on_disk.folder / name for name in ("base", "care-200")], metric="l3.consistency")
    assert sum("consistency %" in line for line in terminal(by_consistency, 80)) == 1
    assert not any("consistency %" in line for line in terminal(build_board([on_disk.folder / "not-judged"]), 80))


def test_the_judge_is_named_and_of_equals_is_the_first_by_name(on_disk, terminal, tmp_path):
    both = Path(shutil.copytree(on_disk.folder / "base", tmp_path / "base"))
    verdicts = both / "verdicts.jsonl"
    text = verdicts.read_text()
    verdicts.write_text(text + text.replace('"rules/v1"', '"miniature/v1"'))
    assert " judge: rules/v1" in terminal(build_board([on_disk.folder / "base"]), 80)
    assert " judge: miniature/v1; there are verdicts of rules/v1 too: --judge ID" in terminal(build_board([both]), 80)
    # More runs, not more verdicts: the other run has the rules judge's alone.
    more = build_board([both, on_disk.folder / "care-200"])
    assert " judge: rules/v1; there are verdicts of miniature/v1 too: --judge ID" in terminal(more, 80)
    assert " judge: miniature/v1; there are verdicts of rules/v1 too: --judge ID" in terminal(
        build_board([both, on_disk.folder / "care-200"], judge="miniature"), 80
    )
    assert not any("judge:" in line for line in terminal(build_board([on_disk.folder / "not-judged"]), 80))


def test_a_long_name_is_folded_to_make_room(on_disk, terminal, tmp_path):
    long = tmp_path / ("care-" * 20 + "200")
    shutil.copytree(on_disk.folder / "care-200", long)
    lines = terminal(build_board([long]), 80)
    assert max(map(len, lines[:4])) <= 80
    first = lines[0].index("run")
    assert long.name in "".join(line[first:].split(" ")[0] for line in lines[1:])


@pytest.fixture
def without_charts(monkeypatch):
    """Charts are a second of every build, and are drawn in `built`."""
    monkeypatch.setattr("leaderboards.draw.svg.write_charts", lambda board, folder: [])


def run(*arguments):
    return CliRunner().invoke(app, ["leaderboard", *map(str, arguments)])


@pytest.mark.usefixtures("without_charts")
def test_a_run_that_cannot_be_used_costs_exit_5_and_the_rest_is_written(on_disk, tmp_path):
    (tmp_path / "empty").mkdir()
    result = run("build", on_disk.folder / "base", tmp_path / "empty", tmp_path / "nowhere", "-o", tmp_path / "l.html")
    assert isinstance(result.exception, IncompleteRun)
    assert result.exception.exit_code == 5
    assert "2 of 3 runs were left out" in str(result.exception)
    assert f"{tmp_path / 'empty'}: {tmp_path / 'empty'} is empty" in str(result.exception)
    assert {"l.html", "l.csv", "l_long.csv", "l.meta.json"} <= {path.name for path in tmp_path.iterdir()}


def test_no_usable_run_is_exit_4_and_nothing_is_written(tmp_path):
    result = run("build", tmp_path / "nowhere", "-o", tmp_path / "out" / "l.html")
    assert isinstance(result.exception, DataError)
    assert result.exception.exit_code == 4
    assert not (tmp_path / "out").exists()


def test_exit_codes_and_json_of_the_whole_command(on_disk, tmp_path):
    done = cli("leaderboard", "build", "nowhere", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (4, "")
    assert "nowhere does not exist" in done.stderr
    done = cli("leaderboard", "build", on_disk.folder / "base", "nowhere", "--json", cwd=tmp_path)
    assert done.returncode == 5
    value = json.loads(done.stdout)
    assert (value["schema"], value["status"], value["exit_code"]) == ("sbr1.leaderboard/1", "partial", 5)
    assert [item["path"] for item in value["left_out"]] == ["nowhere"]


@pytest.mark.usefixtures("without_charts")
def test_json_has_null_where_there_is_no_number(on_disk, tmp_path):
    runs = [on_disk.folder / name for name in ("base", "stopped")]
    result = run("build", *runs, "-o", tmp_path / "l.html", "--json", "--no-published")
    assert result.exit_code == 0
    value = json.loads(result.stdout, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    rows = {row["run_id"]: row for row in value["rows"]}
    assert rows["stopped"]["value"] is None
    assert rows["stopped"]["rank"] is None
    assert rows["base"]["rank"] == [1, 1]
    assert rows["base"]["value"] == rows["base"]["accuracy"]["L3"]
    assert without_nan({"a": [float("nan"), 1.0, (float("inf"),)]}) == {"a": [None, 1.0, [None]]}


@pytest.mark.usefixtures("without_charts")
def test_options_choose_what_is_written(on_disk, tmp_path):
    out, wide = tmp_path / "a" / "page.html", tmp_path / "b" / "table.csv"
    runs = [on_disk.folder / "base", on_disk.folder / "care-200"]
    result = run(
        "build", *runs, "-o", out, "--csv", wide, "--predictions", "--include-reported", "--metric", "l2.sound"
    )
    assert result.exit_code == 0, result.exception
    assert {path.name for path in wide.parent.iterdir()} == {"table.csv", "table_long.csv", "predictions.csv"}
    rows = list(csv.DictReader(wide.open()))
    assert {row["source"] for row in rows} == {"measured", "reported"}
    assert "l2.sound %" in result.stdout
    assert (out.parent / "page.tex").read_text().count(r"$\dagger$") > 10
    assert (out.parent / "page.html").exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--metric", "l3.speed"), "l3.speed"),
        (("--detail", "some"), "some"),
        (("--max-size", "big"), "big"),
        (("--baseline", "unknown"), "unknown"),
        (("--judge", "unknown"), "unknown"),
    ],
)
def test_a_wrong_option_is_named_before_anything_is_written(on_disk, tmp_path, options, word):
    result = run("build", on_disk.folder / "base", "-o", tmp_path / "out" / "l.html", *options)
    assert isinstance(result.exception, ConfigError)
    assert word in str(result.exception)
    assert "Fix:" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_sizes():
    assert [parse_size(text) for text in ("10MB", "1.5 mb", "300kb", "12", "2GB", "7B")] == [
        *(10_000_000, 1_500_000, 300_000),
        *(12, 2_000_000_000, 7),
    ]
    for text in ("", "MB", "-1MB", "1TB", "1,5MB"):
        with pytest.raises(ConfigError):
            parse_size(text)


def test_two_runs_in_the_terminal(on_disk):
    result = run("diff", on_disk.folder / "base", on_disk.folder / "care-200", "--list")
    assert result.exit_code == 0, result.exception
    a, b = (load_run(on_disk.folder / name) for name in ("base", "care-200"))
    ids = [q for q in a.records if a.records[q].split == "L3"]
    right = [(a.records[q].score.correct, b.records[q].score.correct) for q in ids]
    counts = [right.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))]
    p = sign_flip_test([float(x) - float(y) for x, y in right], [a.questions[q].cluster for q in ids])
    mc = mcnemar(counts[1], counts[2])
    line, *judged = [line for line in result.stdout.splitlines() if line.startswith("L3 ")]
    assert [line.split()[1] for line in judged] == ["consistency", "sound"]
    cells = line.split()
    assert cells[:6] == ["L3", "60", *map(str, counts)]
    assert cells[6] == f"{100 * (counts[1] - counts[2]) / 60:+.1f}"
    assert cells[-3:] == [f"{p:.4f}", f"{mc.exact:.4f}", f"{mc.mid_p:.4f}"]
    listed = [line.split()[0] for line in result.stdout.splitlines() if "gold" in line]
    differing = [q for q in a.records if a.records[q].score.correct != b.records[q].score.correct]
    assert listed == differing
    assert max(map(len, result.stdout.splitlines()[2:7])) <= 80


def test_the_order_of_the_two_gives_the_sign(on_disk):
    one, two = on_disk.folder / "base", on_disk.folder / "care-200"
    forward, back = (json.loads(run("diff", *pair, "--json").stdout) for pair in ((one, two), (two, one)))
    for a, b in zip(forward["levels"], back["levels"], strict=True):
        assert a["difference"]["value"] == -b["difference"]["value"]
        assert (a["only_first"], a["only_second"]) == (b["only_second"], b["only_first"])
        assert a["difference"]["p"] == b["difference"]["p"]


def test_diff_refuses_a_test_on_too_few_questions_and_says_so(on_disk):
    result = run("diff", on_disk.folder / "base", on_disk.folder / "limited")
    assert result.stdout.count("no test") == 3 + 6 + 1  # levels; consistency and sound on each; the explanation
    assert "fewer than 95 %" in result.stdout


def test_diff_of_what_cannot_be_compared(on_disk, tmp_path):
    base = on_disk.folder / "base"
    same = run("diff", base, base)
    assert isinstance(same.exception, ConfigError)
    absent = run("diff", base, tmp_path / "nowhere")
    assert isinstance(absent.exception, DataError)
    assert "nowhere does not exist" in str(absent.exception)
    other = write_run(tmp_path, RunSpec("other-data", data_version="b"), make_benchmark())
    assert isinstance(run("diff", base, other).exception, DataError)
    mixed = run("diff", base, on_disk.folder / "frames-32")
    assert mixed.exit_code == 0
    assert "differences may come from the protocol" in mixed.stdout


def test_runs_that_never_differ_or_always_do_have_an_interval_in_every_output(tmp_path):
    benchmark = make_benchmark({"L3": 12})
    levels = {"levels": ("L3",), "bare": 0.0}
    for seed, (name, ability) in enumerate({"base": 99, "same": 99, "lost": -99}.items()):
        write_run(tmp_path, RunSpec(name, ability=ability, seed=seed, **levels), benchmark)
    done = cli("leaderboard", "build", "base", "same", "lost", "--baseline", "base", cwd=tmp_path)
    videos = len({question["cluster"] for question in benchmark.questions})
    assert videos == 10
    # 10 of 12 questions have a video of their own: worth 144 / 16 = 9 videos; 0.025 ** (1 / 9) = 0.6637.
    texts = done.stdout, (tmp_path / "leaderboard.md").read_text()
    assert "+0.0 [-33.6, +33.6]" in texts[0]
    assert "-100.0 [-100.0, -32.7]" in texts[0]
    assert "[-33.6, 33.6]" in texts[1]
    with (tmp_path / "leaderboard_long.csv").open() as stream:
        compared = [row for row in csv.DictReader(stream) if row["run_id"] == "same" and row["diff_lo"]]
        lines = [row for row in compared if row["metric"] == "accuracy"]
    assert {row["test"].split("; ")[1] for row in lines} == {"interval exact: no spread between videos"}
    shown = cli("leaderboard", "diff", "base", "same", cwd=tmp_path).stdout
    assert "+0.0 [-33.6, +33.6]" in shown
