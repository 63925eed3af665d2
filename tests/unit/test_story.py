"""The sentences on top of a board: who leads, who is not significantly below, and nothing that the tests do not say."""

from leaderboards.board import build_board
from leaderboards.draw.csv import write_wide_csv
from leaderboards.draw.markdown import markdown
from leaderboards.draw.page import write_html
from leaderboards.ranking import Metric, compare, level_tests, rank
from leaderboards.story import story
from tests.synthetic_runs import RunSpec, make_benchmark, write_runs


def board_of(folder, *specs, **options):
    benchmark = make_benchmark({"L1": 60, "L2": 40, "L3": 200}, seed=5)
    return build_board(write_runs(folder, specs, benchmark), include_published=False, **options)


def test_a_leader_is_named_with_the_next_and_the_distance(tmp_path):
    board = board_of(
        tmp_path,
        RunSpec("best", ability=4.0, seed=1, consistent=0.5),
        RunSpec("other", ability=-1.0, seed=2, consistent=0.97),
        RunSpec("third", ability=-1.1, seed=3, consistent=0.5),
    )
    accuracy, consistency = story(board)
    gap = compare(board.measured["best"], board.measured["other"], board.bank.group("L3"), board.bank)
    best, other = (100 * board.row(name).accuracy["L3"].value for name in ("best", "other"))
    assert accuracy == (
        f"L3 accuracy: best ({best:.1f} %) is best. Next: other ({other:.1f} %), "
        f"{100 * gap.value:.1f} points [{100 * gap.lo:.1f}, {100 * gap.hi:.1f}] below best."
    )
    assert consistency.startswith("L3 consistency: other (")
    assert " below other." in consistency


def test_runs_that_no_test_separates_are_called_equal(tmp_path):
    board = board_of(tmp_path, RunSpec("a", seed=1), RunSpec("b", ability=0.05, seed=2))
    assert all(": no run is significantly below the highest: " in sentence for sentence in story(board))
    assert not any("Next" in sentence or "best" in sentence for sentence in story(board))
    both = board_of(
        tmp_path / "more", RunSpec("a", 3.0, seed=1), RunSpec("b", 3.1, seed=2), RunSpec("low", -2.0, seed=3)
    )
    values = {name: f"{name} ({100 * both.row(name).accuracy['L3'].value:.1f} %)" for name in ("a", "b", "low")}
    first, second = (row.model for row in both.rows[:2])
    said = f"L3 accuracy: {values[first]} and {values[second]} lead, without a significant difference. "
    assert story(both)[0].startswith(f"{said}Next: {values['low']}, ")
    assert story(both)[0].endswith(f"] below {first}.")


def test_it_follows_from_the_same_tiers_as_the_table(tmp_path):
    board = board_of(tmp_path, *(RunSpec(f"r{i}", ability=0.5 * i, seed=i) for i in range(5)))
    tests = level_tests(list(board.measured), list(board.measured.values()), Metric("L3", "accuracy"), board.bank)
    _, tiers = rank(tests, {row.run_id: row.accuracy["L3"].value for row in board.rows})
    first = [row.model for row in board.rows if tiers[row.run_id] == "A"]
    head = story(board)[0].partition(" Next:")[0]
    assert all(name in head for name in first[:4])
    assert not any(row.model in head for row in board.rows if row.model not in first)


def test_nothing_is_said_of_one_run_or_of_what_was_not_judged(tmp_path):
    assert story(board_of(tmp_path / "one", RunSpec("a"))) == ()
    unjudged = board_of(tmp_path / "two", RunSpec("a", judges=()), RunSpec("b", 2.0, judges=(), seed=1))
    assert [sentence.partition(":")[0] for sentence in story(unjudged)] == ["L3 accuracy"]


def test_it_stands_on_the_page_and_in_markdown(tmp_path):
    board = board_of(tmp_path, RunSpec("a", 2.0, seed=1), RunSpec("<b>", -1.0, seed=2))
    write_html(board, tmp_path / "page.html", built_utc="2026-01-02T03:04:05Z")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert 'class="story"' in page
    assert "Chance: 25 %" in page
    assert "Next: &lt;b&gt; (" in page
    assert "L3 accuracy: a " in markdown(board)


def test_equal_runs_give_equal_bytes_in_any_order(tmp_path):
    benchmark = make_benchmark(seed=5)
    specs = [RunSpec(name, seed=7) for name in ("b", "a", "c")]
    paths = []
    for spec in specs:  # the same answers under three names, which differ in one character of their texts
        (path,) = write_runs(tmp_path, [spec], benchmark)
        records = (path / "records.jsonl").read_text(encoding="utf-8")
        (path / "records.jsonl").write_text(records.replace("</think>", f" {spec.name}</think>"), encoding="utf-8")
        paths.append(path)
    written = set()
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):
        board = build_board([paths[i] for i in order], include_published=False)
        assert [row.run_id for row in board.rows] == ["a", "b", "c"]
        write_html(board, tmp_path / "page.html", built_utc="2026-01-02T03:04:05Z")
        write_wide_csv(board, tmp_path / "wide.csv")
        files = ((tmp_path / name).read_bytes() for name in ("page.html", "wide.csv"))
        written.add((*files, markdown(board)))
    assert len(written) == 1
