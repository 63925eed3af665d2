"""Trainings in the window of `view`, in a browser: they go on by themselves, and no text becomes markup."""

from __future__ import annotations

import pytest

from seedbench_r1.window.training_log import question_key as key
from tests.browser.conftest import HOSTILE, serious_barriers, wait_for
from tests.unit.test_view import start
from tests.unit.test_view_trainings import completion, metrics, rollout, write

THOUGHT = "<think>The cup is {}. So I should {} it.</think><answer>A</answer>"


@pytest.fixture
def window(tmp_path, data_root):
    folder = tmp_path / "care"
    media = {"video": str(next(data_root.rglob("*.mp4"))), "image": str(next(data_root.rglob("*.png")))}
    write(folder, "metrics.jsonl", *(metrics(step, likelihood=0.9) for step in range(1, 41)))
    for step in (1, 11):
        texts = [THOUGHT.format("full", "empty"), THOUGHT.format("empty", "fill")]
        write(folder, "rollouts.jsonl", *(rollout("train/1", step, text=text, **media) for text in texts))
    write(folder, "rollouts.jsonl", rollout(HOSTILE, 21, text=HOSTILE, options=[HOSTILE, "b"], question=HOSTILE))
    for step, text in ((20, THOUGHT.format("full", "empty")), (40, THOUGHT.format("full", "drain"))):
        write(folder, "heldout.jsonl", completion("train/7", step, text, consistent=step == 20, **media))
    address, process = start(folder)
    yield address, folder
    process.kill()
    process.wait()


def shown(browser, address: str) -> None:
    browser.get("about:blank")
    browser.get(address)
    wait_for(browser, "return document.documentElement.dataset.ready === 'yes'")


def texts(browser, selector: str) -> list[str]:
    return browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map(node => node.textContent)", selector
    )


def test_curves_go_on_by_themselves(window, browser):
    address, folder = window
    shown(browser, f"{address}trainings/")
    titles = ["Reward", "Answer likelihood under the reference", "Seconds a step"]
    assert texts(browser, "#panels figcaption") == titles
    assert texts(browser, "#list .state")[0].startswith("step 40 · epoch 4.00 · 71 s a step · written ")
    label = "return document.querySelector('#panels svg').getAttribute('aria-label')"
    assert browser.execute_script(label) == "Reward by step: care 1.1 to 5"
    write(folder, "metrics.jsonl", metrics(41, alarms=["zero_std 50 %"]))
    wait_for(browser, "return document.querySelector('#list .state').textContent.startsWith('step 41')")
    assert texts(browser, "#list .alarm") == ["step 41: zero_std 50 %"]
    assert browser.execute_script(label) == "Reward by step: care 1.1 to 5.1"


def test_a_group_with_what_it_earned_and_differences(window, browser):
    address, _ = window
    shown(browser, f"{address}trainings/#g=11/{key('train/1')}")
    wait_for(browser, "return document.querySelectorAll('#group-card .reply').length === 2")
    wait_for(browser, "return document.querySelector('#group-card video').readyState > 0")
    wait_for(browser, "return document.querySelector('#group-card img').naturalWidth > 0")
    assert texts(browser, "#group option")[1] == "step 11 · train/1 · reward 2.50 · 2 of 2 right"
    facts = texts(browser, "#group-card .reply:first-child .parts li")
    assert facts[:4] == ["reward 2.50", "accuracy 1.00", "format 1", "bonus 0.50"]
    assert facts[4:] == ["likelihood 0.900", "advantage +1.00", "tokens 5"]
    bases = texts(browser, "#against option")
    assert bases == ["nothing", "the same place at step 1", "rollout 1", "rollout 2"]
    browser.execute_script(
        "const list = document.getElementById('against'); list.value = 'r0'; list.dispatchEvent(new Event('change'))"
    )
    wait_for(browser, "return document.querySelectorAll('#group-card ins').length > 0")
    second = "#group-card .reply:nth-child(2)"
    assert texts(browser, f"{second} ins") == ["empty.", "fill"]
    assert texts(browser, f"{second} del") == ["full.", "empty"]
    assert texts(browser, "#group-card .reply:first-child ins") == []
    assert "against=r0" in browser.current_url


def test_held_out_answers_by_step(window, browser):
    address, _ = window
    shown(browser, f"{address}trainings/")
    assert texts(browser, "#answers thead th") == ["Question", "20", "40"]
    assert texts(browser, "#answers tbody button") == ["✓", "✓≠"]
    browser.execute_script("document.querySelectorAll('#answers tbody button')[1].click()")
    wait_for(browser, "return document.querySelectorAll('#answer-card .reply').length === 2")
    assert texts(browser, "#answer-card .reply h4") == ["Step 20", "Step 40, against step 20"]
    assert (texts(browser, "#answer-card ins"), texts(browser, "#answer-card del")) == (["drain"], ["empty"])
    assert browser.execute_script("return document.querySelector('#answers [aria-pressed=true]').dataset.step") == "40"


def test_what_a_model_writes_is_never_markup(window, browser):
    address, _ = window
    shown(browser, f"{address}trainings/#g=21/{key(HOSTILE)}")
    wait_for(browser, "return document.querySelectorAll('#group-card .reply').length === 1")
    assert texts(browser, "#group-card h3") == [HOSTILE]
    assert texts(browser, "#group-card .reply pre") == [HOSTILE]
    assert browser.execute_script("return window.harmed") is None
    assert browser.execute_script("return document.querySelectorAll('#group-card script, #group-card img').length") == 0
    assert browser.get_log("browser") == []


def test_a_training_that_begins_anew_takes_the_place_of_the_old_one(window, browser):
    address, folder = window
    shown(browser, f"{address}trainings/#q={key('train/7')}&s=40")
    wait_for(browser, "return document.querySelectorAll('#answer-card .reply').length === 2")
    for name, line in (
        ("metrics.jsonl", metrics(1)),
        ("rollouts.jsonl", rollout("train/1", 1, text="<think>new</think>")),
        ("heldout.jsonl", completion("train/7", 40, "<think>anew</think>", consistent=None)),
    ):
        write(folder, name, line, mode="w")
    wait_for(browser, "return document.querySelector('#group-card .reply pre')?.textContent === '<think>new</think>'")
    wait_for(browser, "return document.querySelectorAll('#answer-card .reply').length === 1")
    assert texts(browser, "#answer-card .reply pre") == ["<think>anew</think>"]
    assert texts(browser, "#answers thead th") == ["Question", "40"]


def test_the_group_that_was_chosen_last_is_shown(window, browser):
    """Whichever texts come first."""
    address, folder = window
    write(folder, "rollouts.jsonl", rollout("train/2", 31, text="<think>slow</think>"))
    shown(browser, f"{address}trainings/#g=1/{key('train/1')}")
    wait_for(browser, "return document.querySelector('#group-card h3')?.textContent === 'train/1'")
    browser.execute_script(
        """
        const [slow] = arguments, plain = window.fetch;
        window.fetch = async (address) => {
          if (address.includes(slow)) await new Promise((done) => setTimeout(done, 1500));
          return plain(address);
        };
        const list = document.getElementById("group");
        for (const value of [`31/${slow}`, list.value]) {
          list.value = value;
          list.dispatchEvent(new Event("change"));
        }
        """,
        key("train/2"),
    )
    wait_for(browser, "return performance.getEntriesByType('resource').some((e) => e.name.includes('texts'))")
    browser.execute_async_script("setTimeout(arguments[0], 2500)")
    assert texts(browser, "#group-card h3") == ["train/1"]
    assert f"g=1%2F{key('train/1')}" in browser.current_url


VALUES = (
    [1.0, 1.0000000000000002],
    [0.3, 0.30000000000000004],
    [0.0, 5e-324],
    [1e-6, 1e-6],
    [-1.0, -1.0],
    [0.0, 0.0],
    [1e-7, 2e-6],
    [100.41, 100.44],
    [78.51, 78.53],
    [1e6, 1000300.0],
    [1.0, 1.0001],
    [1e299, -1e299],
)


def test_curves_of_any_numbers_are_drawn(tmp_path, browser):
    """A curve each, as of rewards of one's own."""
    of_step = [{f"v{n:02}": values[k] for n, values in enumerate(VALUES)} for k in (0, 1)]
    lines = [{"step": 1, "reward": 0.5, "rewards": of_step[0]}, {"step": 2, "rewards": of_step[1]}]
    write(tmp_path / "care", "metrics.jsonl", *lines)
    address, process = start(tmp_path / "care")
    try:
        shown(browser, f"{address}trainings/")
        titles = texts(browser, "#panels figcaption")
        drawn = browser.execute_script("return document.getElementById('panels').innerHTML")
        labels = [
            texts(browser, f"#panels figure:nth-child({n + 1}) text:not([text-anchor=middle])")
            for n in range(len(titles))
        ]
    finally:
        process.kill()
    assert titles == ["Reward", *(f"Reward v{n:02}" for n in range(len(VALUES)))]
    assert "NaN" not in drawn
    assert "Infinity" not in drawn
    for values, written in zip([[0.5], *VALUES], labels, strict=True):
        ticks = [float(label) for label in written]
        assert len(set(ticks)) == len(ticks) >= 2  # no two lines have one label
        low, high = min(ticks), max(ticks)
        assert low - abs(low) * 0.01 <= min(values)
        assert max(values) <= high + abs(high) * 0.01


def test_logs_of_earlier_versions_and_bad_addresses(tmp_path, browser):
    """They held less of a rollout; an address may say anything."""
    folder = tmp_path / "care"
    write(folder, "metrics.jsonl", {"step": 1, "alarms": "x", "epoch": "late"})
    write(folder, "rollouts.jsonl", {"step": 1, "question_id": "t/1", "text": "old", "reward": 1.0, "accuracy": 1.0})
    address, process = start(folder)
    try:
        for hash_ in (
            "",
            "#g=abc",
            "#t=1.5",
            "#t=-1&q=x&s=y",
            "#t=99",
            "#against=r7",
            "#t=length",
            "#q=constructor&s=1",
        ):
            shown(browser, f"{address}trainings/{hash_}")
            wait_for(browser, "return document.querySelector('#group-card .reply pre')?.textContent === 'old'")
            assert texts(browser, "#trouble") == [""]
            assert "undefined" not in browser.execute_script("return document.querySelector('main').textContent")
        process.kill()
        process.wait()
        wait_for(browser, "return !document.getElementById('trouble').hidden", seconds=15)
        assert "does not answer" in texts(browser, "#trouble")[0]
        assert texts(browser, "#group-card .reply pre") == ["old"]
        browser.get("about:blank")
        browser.get_log("browser")  # what Chromium says of a window that does not answer
    finally:
        process.kill()


def test_differences_of_words(window, browser):
    shown(browser, f"{window[0]}trainings/#g=11/{key('train/1')}&against=s1")
    # The same texts at both steps: nothing stands out.
    wait_for(browser, "return document.querySelectorAll('#group-card .reply pre span').length === 2")
    assert texts(browser, "#group-card ins, #group-card del") == []


def test_a_phone_shows_it_without_scrolling_sideways(window, browser):
    size = browser.get_window_size()
    try:
        metrics_of_a_phone = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics_of_a_phone)
        shown(browser, f"{window[0]}trainings/#g=11/{key('train/1')}&q={key('train/7')}&s=40")
        wait_for(browser, "return document.querySelectorAll('#answer-card .reply').length === 2")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.set_window_size(size["width"], size["height"])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(window, browser, scheme):
    shown(browser, f"{window[0]}trainings/#g=11/{key('train/1')}&q={key('train/7')}&s=40&against=r0")
    wait_for(browser, "return document.querySelectorAll('#group-card ins').length > 0")
    assert serious_barriers(browser, scheme) == {}
