"""Writes the tables of docs that follow from code and golden files: python -m tests.docs_tables"""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Callable
from pathlib import Path

import seedbench_r1
from seedbench_r1 import config
from seedbench_r1.judges import config as judging
from seedbench_r1.judges import probe_config as probing
from seedbench_r1.options import in_groups
from trainers import config as training

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


OPTIONS_MARK = "<!-- options: python -m tests.docs_tables -->\n"


def options_tables() -> str:
    """Markdown: one table for each command whose options are a table of settings."""
    commands = {
        "eval": in_groups(config.TABLE, config.GROUPS),
        "train": in_groups(training.TABLE, training.GROUPS),
        "judge": in_groups(judging.TABLE, judging.GROUPS),
        "probe": in_groups(probing.TABLE, probing.GROUPS),
    }
    text = ""
    for name, rows in commands.items():
        text += f"\n### {name}\n\n| option | key | default | | of |\n|---|---|---|---|---|\n"
        for row in rows:
            flag = f"{row.flag}/--no-{row.flag[2:]}" if row.option.negatable else row.flag
            about = row.option.help + (f" ({row.range})" if row.range else "")
            owners = ", ".join(f"`--{owner}`" for owner in row.option.owners)
            if row.option.needs:
                owners = f"needs `--{row.option.needs.replace('_', '-')}`"
            default = f"`{row.default_text}`" if row.default_text else ""
            text += f"| `{flag}` | `{row.name}` | {default} | {about} | {owners} |\n".replace("||", "| |")
    return text


REFERENCE_MARK = "<!-- reference: python -m tests.docs_tables -->\n"


def reference() -> str:
    """Markdown: every public name with its signature, its docstring and, for a class, its fields and methods."""
    text = ""
    for name in seedbench_r1.__all__:
        found = getattr(seedbench_r1, name)
        if isinstance(found, str):
            continue
        text += f"\n## {name}\n\n```python\n{_signature(name, found)}\n```\n\n{inspect.getdoc(found)}\n"
        for method in vars(found).values() if inspect.isclass(found) else ():
            if inspect.isfunction(method) and not method.__name__.startswith("_"):
                text += f"\n### {name}.{method.__name__}\n\n```python\n{_signature(method.__name__, method)}\n```\n"
                text += f"\n{inspect.getdoc(method)}\n"
    return text


def _signature(name: str, found: Callable[..., object]) -> str:
    """As it stands in the code: one line, or a line a parameter where they are many."""
    signature = inspect.signature(found)
    parameters: list[str] = []
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in parameters:
            parameters.append("*")
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        parameters.append(f"{stars}{parameter.name}{_annotation(': ', parameter.annotation)}{default}")
    line = f"{name}({', '.join(parameters)}){_annotation(' -> ', signature.return_annotation)}"
    if len(line) <= 100:
        return line
    body = "".join(f"    {parameter},\n" for parameter in parameters)
    return f"{name}(\n{body}){_annotation(' -> ', signature.return_annotation)}"


def _annotation(before: str, found: object) -> str:
    if found is inspect.Signature.empty:
        return ""
    return before + (found if isinstance(found, str) else inspect.formatannotation(found))


MAP_MARK = "<!-- map: python -m tests.docs_tables -->\n"


def file_map() -> str:
    """Markdown: every file of the packages with the first sentence of its docstring, room by room."""
    text = ""
    for package in ("seedbench_r1", "trainers", "leaderboards"):
        for folder in sorted({path.parent for path in (ROOT / package).rglob("*.py")}):
            text += f"\n**{folder.relative_to(ROOT)}/**\n\n| file | |\n|---|---|\n"
            for path in sorted(folder.glob("*.py")):
                said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
                first = " ".join(said.split("\n\n")[0].split()).replace("|", "\\|")
                if first:
                    text += f"| `{path.name}` | {first} |\n"
    return text


def documents() -> dict[Path, str]:
    """The documents that hold tables, as they should be."""
    tables = {
        DOCUMENT: (MARK, golden_table()),
        ROOT / "docs" / "cli.md": (OPTIONS_MARK, options_tables()),
        ROOT / "docs" / "reference.md": (REFERENCE_MARK, reference()),
        ROOT / "docs" / "architecture.md": (MAP_MARK, file_map()),
    }
    return {
        path: path.read_text(encoding="utf-8").partition(mark)[0] + mark + "\n" + table
        for path, (mark, table) in tables.items()
    }


if __name__ == "__main__":
    # These import transformers, which the other tables do without.
    from tests import family_table
    from tests.rehearsal import hardware

    heavy = {hardware.DOCUMENT: hardware.document(), family_table.DOCUMENT: family_table.document()}
    for document, content in (documents() | heavy).items():
        document.write_text(content, encoding="utf-8")
