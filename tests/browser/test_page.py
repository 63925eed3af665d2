"""The page in a real browser: what a reader does, what it must never do."""

import base64
import json
import re
from pathlib import Path

import pytest

from leaderboards.board import build_board
from leaderboards.draw.numbers import points
from leaderboards.draw.page import write_html
from leaderboards.ranking import compare
from seedbench_r1.runs.directory import load_run
from tests.browser.conftest import BUILT, HOSTILE, HOSTILE_QUESTION, SPECS, serious_barriers, wait_for
from tests.synthetic_runs import RunSpec, make_benchmark, write_runs

PLACES = """return [...document.querySelectorAll('#board tbody.measured tr')]
    .filter(row => !row.hidden).map(row => +row.dataset.place)"""


def click(browser, selector):
    browser.execute_script("document.querySelector(arguments[0]).click()", selector)


def choose(browser, element_id, value):
    browser.execute_script(
        "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
        "e.dispatchEvent(new Event('input', {bubbles: true})); e.dispatchEvent(new Event('change', {bubbles: true}));",
        element_id,
        value,
    )


def differences(browser, page: Path, baseline: str | None = None) -> list[list[str]]:
    """Text and title of each cell of differences, row by row; to a baseline chosen in the page, or to its own."""
    browser.get("about:blank")
    browser.get(page.as_uri())
    wait_for(browser, "return document.documentElement.dataset.ready === 'yes'")
    if baseline is not None:
        choose(browser, "base", baseline)
        wait_for(browser, f"return document.documentElement.dataset.baseline === '{baseline}'")
    return browser.execute_script("""
    const heads = [...document.querySelectorAll('#board thead th')].map(th => th.dataset.key);
    return [...document.querySelectorAll('#board tbody.measured tr')]
        .sort((x, y) => x.dataset.text.localeCompare(y.dataset.text))
        .flatMap(row => [...row.cells].filter((_, i) => heads[i].startsWith('d')))
        .map(cell => [cell.textContent.trim(), cell.title.trim()]);""")


def press(browser, *keys):
    from selenium.webdriver import ActionChains

    for key in keys:
        ActionChains(browser).send_keys(key).perform()


def text_of(browser, selector):
    return browser.execute_script("return document.querySelector(arguments[0]).textContent", selector)


def test_sorting(open_page, board):
    browser = open_page()
    for key, cells in (
        ("L1", [row.accuracy.get("L1") for row in board.rows]),
        ("gap", [row.gap for row in board.rows]),
    ):
        click(browser, f'th[data-key="{key}"] button')
        known = [place for place, cell in enumerate(cells) if cell is not None]
        unknown = [place for place, cell in enumerate(cells) if cell is None]
        assert unknown == [[row.run_id for row in board.rows].index("broken")]
        assert browser.execute_script(PLACES) == sorted(known, key=lambda place: -cells[place].value) + unknown
        assert browser.execute_script(f"return document.querySelector('[data-key={key}]').ariaSort") == "descending"
        click(browser, f'th[data-key="{key}"] button')
        assert browser.execute_script(PLACES) == sorted(known, key=lambda place: cells[place].value) + unknown
    assert "sort=gap&dir=ascending" in browser.current_url


def test_filters(open_page, board):
    browser = open_page()
    ids = [row.run_id for row in board.rows]
    choose(browser, "f-text", "GRPO qwen")
    assert {ids[place] for place in browser.execute_script(PLACES)} == {"grpo", "broken", "many-frames"}
    visible = "return [...document.querySelectorAll('.series[data-place]:not([hidden])')].map(s => +s.dataset.place)"
    assert set(browser.execute_script(visible)) == {ids.index("grpo")}  # the others are not comparable: not drawn
    choose(browser, "f-frames", "32")
    assert [ids[place] for place in browser.execute_script(PLACES)] == ["many-frames"]
    assert browser.execute_script(visible) == []
    click(browser, "#reset")
    assert len(browser.execute_script(PLACES)) == len(SPECS)
    click(browser, "#f-complete")
    assert "broken" not in {ids[place] for place in browser.execute_script(PLACES)}
    click(browser, "#f-measured")
    assert browser.execute_script("return document.getElementById('reported').hidden")


def test_another_baseline_gives_what_python_gives(open_page, run_paths, page, browser, tmp_path):
    """Every text of the difference columns and of the gap table, switched to in the page and written by Python."""
    content = """
        const cells = [...document.querySelectorAll('#board tbody.measured tr')]
            .sort((x, y) => x.dataset.text.localeCompare(y.dataset.text))
            .flatMap(row => [...row.cells].filter((_, i) => heads[i].startsWith('d_')));
        const text = (cell) => [cell.textContent.trim(), cell.title.trim(), cell.querySelector('svg')?.outerHTML
            .replace(/ xmlns="[^"]*"/, '').replace(/(\\d)\\.0(?=\\D)/g, '$1') ?? ''];
        const gaps = [...document.querySelectorAll('#gaps tbody tr')]
            .map(row => row.textContent.replace(/\\s+/g, ' ').trim());
        return [cells.map(text), gaps.sort()];"""
    content = "const heads = [...document.querySelectorAll('#board thead th')].map(th => th.dataset.key);" + content
    for baseline in ("sft", "broken", "many-frames"):
        browser = open_page()
        choose(browser, "base", baseline)
        wait_for(browser, f"return document.documentElement.dataset.baseline === '{baseline}'")
        switched = browser.execute_script(content)
        path = tmp_path / f"{baseline}.html"
        board = build_board(run_paths, baseline=baseline)
        write_html(board, path, built_utc=BUILT)
        browser.get(path.as_uri())
        wait_for(browser, "return document.documentElement.dataset.ready === 'yes'")
        written = browser.execute_script(content)
        assert switched == written
        titles = [title for _, title, _ in written[0]]
        assert sum(title.endswith("(Holm)") for title in titles) == (0 if baseline == "many-frames" else 12)
        domains = [delta for row in board.rows for delta in row.domain_deltas.values() if delta.p is not None]
        assert sum(title.endswith("(Benjamini-Hochberg, exploratory)") for title in titles) == len(domains)
        assert bool(domains) == (baseline != "many-frames")


def test_open_a_question_with_the_keyboard(open_page, board):
    browser = open_page()
    press(browser, "j", "j", "k")
    wait_for(browser, "return document.querySelector('#card h3')")
    first = text_of(browser, "#questions li b")
    assert text_of(browser, "#card h3") == first
    place = board.bank.index[first]
    assert all(option in text_of(browser, "#card") for option in board.bank.questions[place].options)
    # What is not there (pictures, steps) is not written out.
    assert not {"null", "false"} & {line.strip() for line in text_of(browser, "#card").splitlines()}
    press(browser, "\ue00c")  # Escape
    wait_for(browser, "return !document.querySelector('#card h3')")
    assert browser.execute_script("return document.activeElement.dataset.q") == str(place)
    press(browser, "g")
    browser.execute_script("document.getElementById('goto-id').value = 'l2/3'")
    press(browser, "\ue007")  # Enter
    wait_for(browser, "return document.querySelector('#card h3')?.textContent === 'L2/3'")
    assert browser.execute_script("return document.activeElement.id") == "card"
    press(browser, "?")
    assert browser.execute_script("return document.getElementById('help').open")
    press(browser, "\ue00c")
    assert not browser.execute_script("return document.getElementById('help').open")
    press(browser, "/")
    assert browser.execute_script("return document.activeElement.id") == "q-find"


def test_compare_counts(open_page, board):
    browser = open_page("#a=care&b=sft")
    ours, theirs = (board.measured[name].outcomes for name in ("care", "sft"))
    table = browser.execute_script(
        "return [...document.querySelectorAll('#counts tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
    )
    for level, *cells in table:
        group = board.bank.group(level)
        x, y = ours.correct & group, theirs.correct & group
        counts = [int((x & y).sum()), int((x & ~y).sum()), int((~x & y & group).sum())]
        assert [int(cell) for cell in cells[:4]] == [*counts, int(group.sum()) - sum(counts)]
    # First what is right although the reasoning says otherwise, in either.
    lucky = [table.correct & (table.consistent == 0) & ~table.bare for table in (ours, theirs)]
    assert text_of(browser, "#q-shown") == f"{int((lucky[0] | lucky[1]).sum())} questions"
    choose(browser, "q-relation", "aConsistent")
    assert text_of(browser, "#q-shown") == f"{int(((ours.consistent == 1) & (theirs.consistent == 0)).sum())} questions"
    choose(browser, "q-relation", "bConsistent")
    assert text_of(browser, "#q-shown") == f"{int(((ours.consistent == 0) & (theirs.consistent == 1)).sum())} questions"
    choose(browser, "q-relation", "apart")
    apart = int((ours.correct != theirs.correct).sum())
    assert text_of(browser, "#q-shown") == f"{apart} questions"
    choose(browser, "q-relation", "a")
    assert text_of(browser, "#q-shown") == f"{int((ours.correct & ~theirs.correct & theirs.responded).sum())} questions"
    choose(browser, "q-relation", "b")
    assert text_of(browser, "#q-shown") == f"{int((theirs.correct & ~ours.correct).sum())} questions"
    choose(browser, "q-group", "Work")
    work = board.bank.group("Work")
    assert text_of(browser, "#q-shown").startswith(f"{int((theirs.correct & ~ours.correct & work).sum())} question")
    click(browser, "#swap")
    wait_for(browser, "return document.getElementById('pair-a').value === 'sft'")
    assert "a=sft&b=care" in browser.current_url


def test_consistency_is_compared_as_python_does(open_page, board):
    """The table of two runs, and the table's column once another baseline is chosen."""
    browser = open_page("#a=care&b=sft")
    rows = browser.execute_script(
        "return [...document.querySelectorAll('#judged tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
    )
    assert [row[:2] for row in rows] == [[level, m] for level in ("L1", "L2", "L3") for m in ("consistency", "sound")]
    for level, measure, n, difference, p, _ in rows:
        a, b = (board.measured[name] for name in ("care", "sft"))
        delta = compare(a, b, board.bank.group(level), board.bank, measure=measure)
        assert n == str(delta.n)
        assert difference.startswith(points(delta.value))
        assert f"[{points(delta.lo)}, {points(delta.hi)}]" in difference
        assert p == ("< 0.0001" if delta.p < 0.0001 else f"{delta.p:.4f}")
    choose(browser, "base", "sft")
    wait_for(browser, "return document.documentElement.dataset.baseline === 'sft'")
    again = build_board([measured.run.path for measured in board.measured.values()], baseline="sft")
    shown = browser.execute_script(
        "return Object.fromEntries([...document.querySelectorAll('#board tr[data-place]')].map("
        "r => [r.querySelector('button').textContent, r.cells[columnAtOf('dc_L3')].textContent]));".replace(
            "columnAtOf('dc_L3')",
            "[...document.querySelectorAll('#board th')].findIndex(h => h.dataset.key === 'dc_L3')",
        )
    )
    for row in again.rows:
        delta = row.delta("consistency", "L3")
        if delta is not None:
            mark = "‡" if delta.sign_is_open else row.stars("L3", "consistency")
            assert shown[row.model].startswith(points(delta.value) + mark)
        elif row.model != "sft":
            assert shown[row.model] == "–"
    assert sum(row.delta("consistency", "L3") is not None for row in again.rows) > 0
    assert shown["sft"] == "baseline"


def test_the_sentence_that_settles_is_marked(browser, tmp_path):
    """Counted as a script counts: the sign before it is two units of UTF-16."""
    (path,) = write_runs(tmp_path, [RunSpec("care")], make_benchmark())
    records = [json.loads(line) for line in (path / "records.jsonl").read_text(encoding="utf-8").splitlines()]
    run = load_run(path)
    first = next(r for r in records if r["parsed"]["reasoning"] and r["parsed"]["answer"])
    option = run.questions[first["question_id"]].options[2]
    first["generation"]["text"] = f"<think>😀 It is dirty. So I should {option}. Yes.</think><answer>C</answer>"
    (path / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    write_html(build_board([path]), tmp_path / "page.html", built_utc=BUILT)
    browser.get(f"{(tmp_path / 'page.html').as_uri()}#rel=all&q={first['question_id']}")
    wait_for(browser, "return document.querySelector('#card .reply mark')")
    assert text_of(browser, "#card .reply mark") == f"So I should {option}."


def test_a_deep_link_shows_the_same_again(open_page):
    address = "#sort=L2&base=sft&show=intervals,domains&a=care&b=base&rel=all&group=L2&find=tea&q=L2/5"
    browser = open_page(address)
    assert text_of(browser, "#card h3") == "L2/5"
    assert browser.execute_script("return document.getElementById('base').value") == "sft"
    assert browser.execute_script("return document.getElementById('board').className") == "show-intervals show-domains"
    assert text_of(browser, "#q-shown") == "40 questions"
    assert browser.execute_script("return document.querySelector('[data-key=L2]').ariaSort") == "descending"
    browser.execute_script("location.hash = 'q=L3/2&rel=all'")
    wait_for(browser, "return document.querySelector('#card h3')?.textContent === 'L3/2'")
    assert browser.execute_script("return document.getElementById('base').value") == "grpo"
    assert browser.execute_script("location.hash = 'methods'; return document.getElementById('methods') !== null")


def test_nonsense_in_the_address_is_ignored(open_page):
    browser = open_page("#sort=%3Cb%3E&base=nobody&a=nobody&q=nothing&rel=zzz&group=L9&show=x&bars=L9&dir=up")
    assert len(browser.execute_script(PLACES)) == len(SPECS)
    assert text_of(browser, "#q-shown") == "0 questions"
    assert browser.execute_script("return document.querySelector('[data-key=rank]').ariaSort") == "ascending"


def test_a_section_in_the_address_changes_nothing_else(open_page):
    browser = open_page("#rel=all&find=tea")
    browser.execute_script("location.hash = 'methods'")
    click(browser, "#swap")
    wait_for(browser, "return location.hash.includes('a=')")
    assert "rel=all&find=tea" in browser.current_url


def test_a_browser_that_cannot_unpack_says_so(open_page, browser):
    name = "Page.addScriptToEvaluateOnNewDocument"
    script = browser.execute_cdp_cmd(name, {"source": "delete window.DecompressionStream"})
    page = open_page("#q=L3/1")
    assert "cannot unpack" in text_of(page, "main .strip")
    click(page, '[data-key="L1"] button')
    press(page, "j", "g")
    assert len(page.execute_script(PLACES)) == len(SPECS)
    assert not page.find_element("id", "compare").is_displayed()
    browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)


def test_hostile_output_is_text(open_page):
    browser = open_page(f"#a=care&b=grpo&rel=all&q={HOSTILE_QUESTION}")
    wait_for(browser, "return document.querySelector('#card .reply')")
    assert HOSTILE in text_of(browser, "#card .reply")
    assert browser.execute_script("return document.querySelectorAll('img, #card script').length") == 0
    assert "<img src=x" in text_of(browser, "#board [data-run='0']")
    click(browser, "#board [data-run='0']")
    assert "<img src=x" in text_of(browser, "#drawer-title")


def test_provenance_opens_and_gives_the_focus_back(open_page, board):
    browser = open_page()
    button = browser.find_element("css selector", "#board [data-run='1']")
    button.click()
    text = text_of(browser, "#drawer-body")
    assert all(value in text for value in board.rows[1].provenance.values())
    press(browser, "\ue00c")
    assert browser.execute_script("return document.activeElement") == button
    button.click()
    click(browser, "#drawer-base")
    wait_for(
        browser,
        "return document.getElementById('base').value === arguments[0]".replace(
            "arguments[0]", f"'{board.rows[1].run_id}'"
        ),
    )


def test_copy_as_markdown(open_page, board):
    browser = open_page("#a=sft&b=grpo&rel=all&q=L1/4")
    wait_for(browser, "return document.querySelector('#card button')")
    browser.execute_script(
        "Object.defineProperty(navigator, 'clipboard', {value: {writeText: async () => { throw new Error('denied') }},"
        "configurable: true}); document.execCommand = () => false;"
    )
    click(browser, "#card .card-head button")
    wait_for(browser, "return document.getElementById('copied').open")
    text = browser.execute_script("return document.getElementById('copied-text').value")
    question = board.bank.questions[board.bank.index["L1/4"]]
    assert text.startswith(f"### L1/4\n\n{question.text}\n\n- A. ")
    assert f"{question.gold}. {question.gold_text} **(gold)**" in text
    assert board.measured["sft"].run.records["L1/4"].parsed.reasoning in text


def test_no_request_leaves_the_page(open_page):
    browser = open_page()
    click(browser, "#board [data-run='0']")
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    log = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in log if m["method"] == "Network.requestWillBeSent"]
    assert urls
    assert all(url.startswith(("file:", "about:", "data:")) for url in urls)
    refused = "return fetch('https://example.org').then(() => 'sent', () => 'refused')"
    assert browser.execute_script(refused) == "refused"
    browser.get_log("browser")  # the refusal above


def test_colours_follow_the_system(open_page):
    browser = open_page()
    seen = {}
    for scheme in ("light", "dark"):
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        seen[scheme] = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    light, dark = (sum(int(part) for part in re.findall(r"\d+", seen[name])[:3]) for name in ("light", "dark"))
    assert light > 600 > 150 > dark


@pytest.mark.parametrize("width", [390, 1440])
def test_the_page_itself_never_scrolls_sideways(open_page, width):
    browser = open_page("#q=L3/1&rel=all&show=intervals,domains,levels,run")
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_table_fits_a_small_laptop(open_page):
    """With its flags, before more columns are asked for."""
    browser = open_page()
    size = {"width": 1280, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    table, seen = browser.execute_script(
        "const box = document.querySelector('.scroll'); return [box.scrollWidth, box.clientWidth]"
    )
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert table <= seen


def test_print_holds_every_row_and_column(open_page, board, tmp_path):
    browser = open_page()
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    hidden = browser.execute_script(
        "return [...document.querySelectorAll('#board tr, #board th, #board td, #board .ci')]"
        ".filter(e => !e.closest('.unprinted') && !e.checkVisibility()).length"
    )
    wide = browser.execute_script(
        "document.body.style.width = '1047px';"  # A4 landscape less its margins, at 96 dpi
        "const width = document.getElementById('board').getBoundingClientRect().width;"
        "document.body.style.width = ''; return width"
    )
    citation = browser.execute_script("return document.querySelector('.cite').checkVisibility()")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert hidden == 0  # unprinted: base model and step, which stand under the name, and exploratory differences
    assert wide <= 1047
    assert citation
    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"])
    assert pdf.startswith(b"%PDF")
    assert re.search(rb"/MediaBox \[0 0 841\.?\d* 59[45]", pdf), "A4 landscape"


def test_training_curves_follow_the_table(start_browser, browser, tmp_path):
    """A training's curve is lit with any of its checkpoints, and goes only when all of them are filtered out."""
    specs = [
        RunSpec("base", ability=-0.5, algorithm=None, seed=1),
        RunSpec("care-400", ability=0.4, step=400, seed=2, algorithm="care", training="care"),
        RunSpec("care-900", ability=0.9, step=900, seed=3, algorithm="care", training="care"),
        RunSpec("grpo-900", ability=0.6, step=900, seed=4, training="grpo"),
    ]
    board = build_board(write_runs(tmp_path, specs, make_benchmark()))
    write_html(board, tmp_path / "page.html", built_utc=BUILT)
    address = (tmp_path / "page.html").as_uri()
    browser.get(address)
    wait_for(browser, "return document.documentElement.dataset.ready === 'yes'")
    places = {row.run_id: str(place) for place, row in enumerate(board.rows)}
    care = " ".join((places["care-400"], places["care-900"]))
    shown = (
        "return [...new Set([...document.querySelectorAll('#training .series')].filter(s => !s.hasAttribute('hidden'))"
    )
    shown += ".map(s => s.dataset.places))].sort()"
    assert browser.execute_script(shown) == sorted([care, places["grpo-900"]])
    choose(browser, "f-text", "care-400")
    assert browser.execute_script(shown) == [care]
    choose(browser, "f-text", "base")
    assert browser.execute_script(shown) == []
    choose(browser, "f-text", "")
    lit = "return [...new Set([...document.querySelectorAll('#training .lit')].map(s => s.dataset.places))]"
    over = "document.querySelector(arguments[0]).dispatchEvent(new MouseEvent('mouseover', {bubbles: true}))"
    browser.execute_script(over, f"#board tr[data-place='{places['care-900']}']")
    assert browser.execute_script(lit) == [care]
    browser.execute_script(over, f"#training .lines [data-places='{care}']")
    rows = "return [...document.querySelectorAll('#gaps .lit')].map(r => r.dataset.place).sort()"
    assert browser.execute_script(rows) == sorted(care.split())
    click(browser, 'nav a[href="#training"]')
    plain = start_browser(scripts=False)
    plain.get(address)
    charts = plain.find_elements("css selector", "#training svg.chart")
    assert len(charts) == 8 + 3 + 3  # curves; accuracy and consistency by step, on three levels
    assert all(chart.is_displayed() and "by step" in chart.get_attribute("aria-label") for chart in charts)


def test_scripts_off(start_browser, page, board):
    browser = start_browser(scripts=False)
    browser.get(page)
    rows = browser.find_elements("css selector", "#board tbody tr")
    assert len(rows) == len(board.rows) + 1 + sum(bool(row.accuracy) for row in board.published)
    lines = browser.find_elements("css selector", ".averages li")
    assert len(lines) == sum(not row.accuracy for row in board.published) > 10
    assert all(row.is_displayed() for row in rows)
    assert browser.find_element("tag name", "noscript").text.startswith("Scripts are off")
    assert not browser.find_element("id", "tools").is_displayed()
    assert not browser.find_element("id", "compare").is_displayed()
    assert browser.find_element("id", "methods").is_displayed()


@pytest.mark.parametrize(
    ("specs", "options"),
    [
        ([RunSpec("alone")], {"include_published": False}),
        ([RunSpec("x", levels=("L3",), judges=()), RunSpec("y", levels=("L3",), judges=(), seed=1)], {}),
        ([RunSpec("x"), RunSpec("y", seed=1, judges=("other/v1",))], {"metric": "l1.sound", "baseline": "y"}),
        (SPECS[-2:], {"force_mixed": True, "baseline": "broken"}),
        ([RunSpec("torn", answered=0.3, judges=())], {}),
    ],
    ids=["one run", "one level, not judged", "two judges", "mixed protocols", "nothing complete"],
)
def test_other_boards(browser, tmp_path, specs, options):
    """Whatever a board lacks, the page opens without an error and every control can be used."""
    path = tmp_path / "page.html"
    board = build_board(write_runs(tmp_path, specs, make_benchmark()), **options)
    write_html(board, path, built_utc=BUILT)
    browser.get_log("browser")
    browser.get(path.as_uri())
    wait_for(browser, "return document.documentElement.dataset.ready === 'yes'")
    assert len(browser.execute_script(PLACES)) == len(specs)
    for head in browser.find_elements("css selector", "#board thead button"):
        browser.execute_script("arguments[0].click()", head)
    for run_id in ["", *board.measured]:
        choose(browser, "base", run_id)
        choose(browser, "pair-b", run_id)
    choose(browser, "q-relation", "all")
    wait_for(browser, "return document.querySelector('#questions [data-q]')")
    click(browser, "#questions [data-q]")
    wait_for(browser, "return document.querySelector('#card .reply')")
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert "NaN" not in text_of(browser, "main")
    assert "undefined" not in text_of(browser, "main")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(open_page, scheme):
    browser = open_page("#q=L3/1&rel=all&show=intervals,domains,levels,run,reported")
    assert serious_barriers(browser, scheme) == {}
    click(browser, "#board [data-run='0']")
    assert serious_barriers(browser, scheme, "'#drawer'") == {}
