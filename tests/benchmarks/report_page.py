"""The page at full size: 20 runs of 4,676 questions. How long it takes to write, to open, and to answer a click.

    python tests/benchmarks/report_page.py [--runs 20] [--keep FOLDER]

Reasoning is words drawn at random from a vocabulary of 3,000, 1,100 characters a response: it compresses less well
than prose, so sizes are upper bounds. Times in the browser are of headless Chromium on this machine; each is the
median of five, from the event until the layout that follows it is done.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from leaderboards.board import build_board  # noqa: E402
from leaderboards.draw.page import write_html  # noqa: E402
from tests.synthetic_runs import FULL, make_benchmark, sweep, write_run  # noqa: E402

CHARS = 1100  # of reasoning
LIMITS_MS = {"first table": 500, "sort": 100, "filter": 100, "baseline": 100}

# Runs an event and reads a layout, so that the time holds style and layout too; the baseline's work ends later.
TIMED = """
const [kind, done] = arguments, root = document.documentElement, start = performance.now();
const finish = () => { root.getBoundingClientRect(); document.getElementById('board').offsetHeight;
                       done(performance.now() - start); };
if (kind === 'sort') { document.querySelector('th[data-key=L2] button').click(); finish(); }
if (kind === 'filter') {
  const field = document.getElementById('f-text');
  field.value = field.value ? '' : 'run-1';
  field.dispatchEvent(new Event('input')); finish();
}
if (kind === 'baseline') {
  const list = document.getElementById('base');
  list.selectedIndex = list.selectedIndex % (list.options.length - 1) + 1;
  new MutationObserver((_, watch) => { watch.disconnect(); finish(); })
    .observe(root, {attributes: true, attributeFilter: ['data-baseline']});
  list.dispatchEvent(new Event('change'));
}
if (kind === 'question') { document.querySelector('#questions button:not([aria-current])').click(); finish(); }
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--keep", type=Path, help="Leave the page here.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = [write_prose_run(Path(folder), spec) for spec in sweep(options.runs)]
        started = time.process_time()
        board = build_board(paths, baseline="run-05")
        print(f"read, count, test {len(paths)} runs: {time.process_time() - started:.2f} CPU-s")
        page = (options.keep or Path(folder)) / "leaderboard.html"
        for detail in ("none", "auto"):
            started = time.process_time()
            report = write_html(board, page, detail=detail)
            seconds = time.process_time() - started
            print(
                f"write the page, detail {detail}: {seconds:.2f} CPU-s, {report.n_bytes:,} bytes, {report.allocation}"
            )
        twelve = write_html(build_board(paths[:12], baseline="run-05"), Path(folder) / "12.html")
        print(f"12 runs: {twelve.n_bytes:,} bytes (limit 10,000,000), {twelve.allocation}")
        measure(page)


def write_prose_run(folder: Path, spec) -> Path:
    """A synthetic run whose reasoning compresses as little as words do."""
    path = write_run(folder, spec, make_benchmark(FULL))
    source = random.Random(spec.seed)
    letters = "etaoinshrdlucmfwypvbgk"
    words = ["".join(source.choices(letters, k=source.randint(2, 10))) for _ in range(3000)]
    lines = []
    for line in (path / "records.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if record.get("parsed", {}).get("reasoning"):
            text = " ".join(source.choices(words, k=CHARS // 7))
            record["parsed"]["reasoning"] = text
            record["generation"]["text"] = f"<think>{text}</think><answer>{record['parsed']['answer']}</answer>"
        lines.append(json.dumps(record, separators=(",", ":")))
    (path / "records.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def measure(page: Path) -> None:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        print("not measured in a browser: Chromium is not installed")
        return
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    with tempfile.TemporaryDirectory() as profile:
        flags = "headless=new no-sandbox disable-gpu no-first-run disable-background-networking "
        flags += "disable-component-update disable-sync disable-quic window-size=1440,1000"
        for flag in [*flags.split(), f"user-data-dir={profile}"]:
            options.add_argument(f"--{flag}")
        browser = webdriver.Chrome(options=options, service=Service(driver))
        try:
            report(browser, page)
        finally:
            browser.quit()


def report(browser, page: Path) -> None:
    paints, ready = [], []
    for _ in range(5):
        browser.get("about:blank")
        browser.get(page.as_uri())
        while not browser.execute_script("return document.documentElement.dataset.ready"):
            time.sleep(0.01)
        paints.append(
            browser.execute_script("return performance.getEntriesByName('first-contentful-paint')[0].startTime")
        )
        ready.append(browser.execute_script("return performance.now()"))
    show("first table", paints)
    show("all panels drawn", ready)
    show("baseline, at once", [browser.execute_async_script(TIMED, "baseline")])
    time.sleep(3)  # the random signs are drawn while the page idles
    for kind in ("sort", "filter", "baseline", "question"):
        show(kind, [browser.execute_async_script(TIMED, kind) for _ in range(5)])


def show(name: str, milliseconds: list[float]) -> None:
    limit = f" (limit {LIMITS_MS[name]})" if name in LIMITS_MS else ""
    print(f"{name}: {statistics.median(milliseconds):.0f} ms, slowest {max(milliseconds):.0f}{limit}")


if __name__ == "__main__":
    main()
