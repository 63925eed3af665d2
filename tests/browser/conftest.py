"""A headless Chromium, and pages for it to open. The tests are skipped, with the reason, where there is no browser."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from leaderboards.board import Board, build_board
from leaderboards.draw.page import write_html
from tests.synthetic_runs import RunSpec, make_benchmark, write_runs

HOSTILE = "</script><img src=x onerror=\"window.harmed='image'\"><script>window.harmed='script'</script>"
BUILT = "2026-01-02T03:04:05Z"

# Six runs: four of one protocol, one with holes and failures, one of another protocol.
SPECS = [
    RunSpec(
        "care", ability=1.2, step=1500, seed=1, consistent=0.85, algorithm="care", reasoning_chars=900, training="c"
    ),
    RunSpec("grpo", ability=0.5, step=1500, seed=2, selected_from_k=10, training="g"),
    RunSpec("sft", ability=0.1, step=1200, seed=3, algorithm="sft", unparsed=0.05, training="s"),
    RunSpec("base", ability=-0.7, seed=4, algorithm=None, judges=()),
    RunSpec("broken", ability=0.9, seed=5, failed=0.03, truncated=0.02),
    RunSpec("many-frames", ability=0.9, seed=6, frames=32),
]
HOSTILE_QUESTION = "L3/7"


@pytest.fixture(scope="session")
def run_paths(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    paths = write_runs(folder, SPECS, make_benchmark())
    _poison(paths[0])
    return paths


@pytest.fixture(scope="session")
def board(run_paths) -> Board:
    return build_board(run_paths, baseline="grpo")


@pytest.fixture(scope="session")
def page(board, tmp_path_factory) -> str:
    """The address of a page over SPECS with grpo as its baseline."""
    path = tmp_path_factory.mktemp("page") / "leaderboard.html"
    write_html(board, path, built_utc=BUILT)
    return path.as_uri()


def _poison(path: Path) -> None:
    """Make a run say markup: in its reasoning, in its answer, and in its own name."""
    lines = [json.loads(line) for line in (path / "records.jsonl").read_text(encoding="utf-8").splitlines()]
    for record in lines:
        if record["question_id"] == HOSTILE_QUESTION:
            text = record["generation"]["text"]
            record["generation"]["text"] = text.replace("<think>", f"<think>{HOSTILE}", 1)
            record["parsed"]["reasoning"] = HOSTILE + record["parsed"]["reasoning"]
    (path / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    manifest["model"]["name"] = 'care<img src=x onerror="window.harmed=1">'
    (path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


@pytest.fixture(scope="session")
def start_browser(tmp_path_factory) -> Iterator[Callable[..., Any]]:
    """start_browser(scripts=True) -> a driver with an empty profile; closed at the end."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install -e '.[dev]'")
    from selenium.webdriver.chrome.service import Service

    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("Chromium is not installed: apt-get install chromium chromium-driver")
    started = []

    def start(*, scripts: bool = True) -> Any:
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        flags = "headless=new no-sandbox disable-gpu no-first-run disable-background-networking "
        flags += "disable-component-update disable-sync disable-quic window-size=1440,1000"
        for flag in [*flags.split(), f"user-data-dir={tmp_path_factory.mktemp('profile')}"]:
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        if not scripts:
            options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
        browser = webdriver.Chrome(options=options, service=Service(driver))
        started.append(browser)
        return browser

    yield start
    for browser in started:
        browser.quit()


@pytest.fixture(scope="session")
def browser(start_browser) -> Any:
    return start_browser()


@pytest.fixture
def open_page(browser, page) -> Iterator[Callable[..., Any]]:
    """open_page(hash) -> the driver once the page is complete. Afterwards: no error was logged, nothing was harmed."""

    def open_at(fragment: str = "") -> Any:
        browser.get("about:blank")
        browser.get(page + fragment)
        wait_for(browser, "return document.documentElement.dataset.ready === 'yes'")
        return browser

    browser.get_log("browser")
    browser.get_log("performance")
    yield open_at
    errors = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []
    assert browser.execute_script("return window.harmed ?? null") is None


def wait_for(browser: Any, condition: str, seconds: float = 60.0) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, seconds, poll_frequency=0.02).until(lambda b: b.execute_script(condition))


def serious_barriers(browser: Any, scheme: str, element: str = "document") -> dict[str, list[str]]:
    """What axe finds serious or worse on the page, by rule; in the dark scheme contrast alone: nothing else differs."""
    package = pytest.importorskip("axe_core_python", reason="axe-core-python is not installed")
    features = [
        {"name": "prefers-color-scheme", "value": scheme},
        {"name": "prefers-reduced-motion", "value": "reduce"},
    ]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.execute_script((Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
    rules = {"runOnly": ["color-contrast"]} if scheme == "dark" else {}
    found = browser.execute_async_script(
        f"const [rules, done] = arguments; axe.run({element}, rules).then(done)", rules
    )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert found["passes"]
    return {
        violation["id"]: [node["html"][:160] + node["failureSummary"] for node in violation["nodes"]][:3]
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
    }
