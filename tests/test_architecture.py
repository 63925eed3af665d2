"""The layers, file by file: a file imports from its own floor or from one below. Every file has its floor."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("seedbench_r1", "trainers", "leaderboards")

# From data over pure functions and files to engines, edges and the command line: rooms (packages) and single files.
FLOORS = (
    (
        "seedbench_r1.types",
        "seedbench_r1.options",
        "seedbench_r1.errors",
        "seedbench_r1.files",
        "seedbench_r1.terminal",
        "seedbench_r1.typed_json",
        "seedbench_r1",
    ),
    (
        "seedbench_r1.questions",
        "seedbench_r1.packed",
        "seedbench_r1.rows",
        "seedbench_r1.row_files",
        "seedbench_r1.columns",
        "seedbench_r1.prompts",
        "seedbench_r1.parsing",
        "seedbench_r1.statements",
        "seedbench_r1.conclusions",
        "seedbench_r1.kinds",
        "seedbench_r1.scoring",
        "seedbench_r1.media.*",
        "seedbench_r1.api.*",
    ),
    (
        "seedbench_r1.config",
        "seedbench_r1.config_file",
        "seedbench_r1.protocol",
        "seedbench_r1.data.*",
        "seedbench_r1.models.*",
    ),
    ("seedbench_r1.runs.*",),
    ("seedbench_r1.backends.*", "seedbench_r1.suites.*", "leaderboards.*"),
    ("seedbench_r1.engines.*", "seedbench_r1.judges.*", "trainers.*"),
    (
        "seedbench_r1.lmms_tasks.*",
        "seedbench_r1.demo.*",
        "seedbench_r1.experiments.*",
        "seedbench_r1.window.*",
        "seedbench_r1.interface",
    ),
    ("seedbench_r1.cli.*", "seedbench_r1.__main__"),
)
FLOOR_OF = {place: number for number, floor in enumerate(FLOORS) for place in floor}
TORCH_AT_MODULE_LEVEL = ("seedbench_r1.backends", "seedbench_r1.models.qwen_vl", "seedbench_r1.demo", "trainers")


def module_name(path: Path) -> str:
    """The dotted name of a file; a package's own for its __init__.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(p): p for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def imported_files(name: str) -> set[str]:
    """The files of ours that a file imports anywhere, inside functions too."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno}: imports are absolute"
            modules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {module if module in FILES else node.module or "" for module in modules}
    return (found & set(FILES)) - {name}


def floor_of(name: str) -> int | None:
    """The floor of a file, by its own name or its room's; None: it has no place yet."""
    room = ".".join(name.split(".")[:2]) if name.startswith("seedbench_r1.") else name.split(".")[0]
    return FLOOR_OF.get(name, FLOOR_OF.get(f"{room}.*"))


@pytest.mark.parametrize("name", FILES)
def test_a_file_imports_from_its_own_floor_or_one_below(name):
    mine = floor_of(name)
    assert mine is not None, f"{name}: place the new file in FLOORS"
    for other in imported_files(name):
        assert (floor_of(other) or 0) <= mine, f"{name} may not import {other}: it lives on a higher floor"
        pair = {name.split(".")[0], other.split(".")[0]}
        assert pair != {"trainers", "leaderboards"}, f"{name} imports {other}: the two are joined by cli alone"


@pytest.mark.parametrize("name", FILES)
def test_torch_stays_where_it_belongs(name):
    tree = TREES[name]
    at_top = {a.name.split(".")[0] for node in tree.body if isinstance(node, ast.Import) for a in node.names}
    at_top |= {(node.module or "").split(".")[0] for node in tree.body if isinstance(node, ast.ImportFrom)}
    if not name.startswith(TORCH_AT_MODULE_LEVEL):
        assert "torch" not in at_top, f"{name}: import torch inside the function that needs it"
    if name.startswith("leaderboards"):
        everywhere = {n.name for node in ast.walk(tree) if isinstance(node, ast.Import) for n in node.names}
        assert "torch" not in everywhere


def test_there_are_no_circles():
    finished: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"circle: {' -> '.join((*trail, name))}"
        if name in finished:
            return
        for other in imported_files(name):
            visit(other, (*trail, name))
        finished.add(name)

    for name in FILES:
        visit(name, ())


@pytest.mark.parametrize("name", FILES)
def test_budgets(name):
    assert FILES[name].read_text(encoding="utf-8").count("\n") <= 400, "split the file by noun"
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.FunctionDef) and not name.startswith("seedbench_r1.cli"):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{node.name} is longer than 60 lines"
            parameters = [a for a in node.args.args + node.args.kwonlyargs if a.arg not in ("self", "cls")]
            assert len(parameters) <= 8, f"{node.name} has more than 8 parameters"


@pytest.mark.parametrize("name", FILES)
def test_only_config_reads_the_environment(name):
    if name.endswith(".config") or name.startswith("seedbench_r1.cli"):
        return
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            assert node.attr not in ("environ", "getenv"), f"{name}:{node.lineno}: only config.py reads the environment"
