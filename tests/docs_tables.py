"""Writes the golden table of docs/scoring.md from tests/golden/parsing_cases.jsonl: python -m tests.docs_tables"""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "scoring.md"
MARK = "<!-- golden table: python -m tests.docs_tables -->\n"


def golden_table() -> str:
    """Markdown rows: output, answer, format, rule."""
    lines = ["| output | answer | format | rule |", "|---|---|---|---|"]
    for text in (ROOT / "tests" / "golden" / "parsing_cases.jsonl").read_text(encoding="utf-8").splitlines():
        case = json.loads(text)
        shown = json.dumps(case["text"], ensure_ascii=False)[1:-1].replace("|", "\\|").replace("`", "\u02cb")
        note = "" if case["options"] else " (no options given)"
        if case["options"] and case["options"][0] != "open the fridge":
            note = f" (options: {', '.join(case['options'])})"
        answer = case["answer"] or "none"
        lines.append(f"| `{shown}`{note} | {answer} | {'ok' if case['format_ok'] else 'no'} | {case['source']} |")
    return "\n".join(lines) + "\n"


def document_with_table() -> str:
    """docs/scoring.md as it should be."""
    return DOCUMENT.read_text(encoding="utf-8").partition(MARK)[0] + MARK + "\n" + golden_table()


if __name__ == "__main__":
    DOCUMENT.write_text(document_with_table(), encoding="utf-8")
