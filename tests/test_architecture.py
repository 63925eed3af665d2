"""The layers: a module imports from its own group or from groups before it. A new module must be placed here."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

GROUPS = (
    ("types", "errors"),
    (
        "parsing",
        "scoring",
        "judge_rules",
        "prompts",
        "questions",
        "config",
        "transfer_questions",
        "transfer_scoring",
        "transfer_prompts",
    ),
    (
        "dataset",
        "hub",
        "archives",
        "data_manifest",
        "download",
        "video",
        "clips",
        "packets",
        "frame_cache",
        "frame_loader",
        "qwen_vl",
        "models",
        "records",
        "append_file",
        "runs",
        "shards",
        "transfer_records",
        "verdicts",
        "training_snapshot",
        "interchange",
        "budget",
        "chat_client",
        "parallel",
        "backends",
    ),
    ("evaluate", "judge", "judge_models", "calibration", "trainers", "leaderboards"),
    (
        "lmms_process",
        "lmms_engine",
        "lmms_transfer",
        "transfer",
        "lmms_tasks",
        "ray_worker",
        "ray_engine",
        "demo",
        "doctor",
    ),
    ("cli",),
)
RANK = {name: rank for rank, group in enumerate(GROUPS) for name in group}
SIBLINGS = {"evaluate", "judge", "trainers", "leaderboards"}
LEADERBOARDS_MAY_USE = {"types", "errors", "scoring", "prompts", "append_file", "runs", "verdicts", "training_snapshot"}
TORCH_AT_MODULE_LEVEL = {"backends", "qwen_vl", "demo", "trainers"}
PACKAGES = ("seedbench_r1", "trainers", "leaderboards")

FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def unit(path: Path) -> str:
    """The name a file has in GROUPS: its module, or the package it belongs to."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] != "seedbench_r1" else parts[1]


def imported_units(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            first, *rest = name.split(".")
            if first == "seedbench_r1" and rest:
                found.add(rest[0])
            elif first in PACKAGES:
                found.add(first)
    return found & set(RANK) | {name for name in found if name not in RANK and (ROOT / "seedbench_r1" / name).exists()}


def module_level(tree: ast.Module) -> set[str]:
    """Top-level packages imported when the module is; not those under TYPE_CHECKING."""
    names = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_layers(path):
    me = unit(path)
    if me == "__init__":
        return
    assert me in RANK, f"{path.name}: place the new module {me!r} in tests/test_architecture.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for other in imported_units(tree) - {me, "__version__"}:
        assert other in RANK, f"{path}: imports {other!r}, which has no place in tests/test_architecture.py"
        assert RANK[other] <= RANK[me], f"{me} may not import {other}: it belongs to a later group"
        assert not {me, other} <= SIBLINGS, f"{me} and {other} are siblings: cli joins them"
        if me == "leaderboards":
            assert other in LEADERBOARDS_MAY_USE, f"leaderboards may not use {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_torch_stays_where_it_belongs(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if unit(path) not in TORCH_AT_MODULE_LEVEL:
        assert "torch" not in module_level(tree), f"{path}: import torch inside the function that needs it"
    if unit(path) == "leaderboards":
        everywhere = {n.name for node in ast.walk(tree) if isinstance(node, ast.Import) for n in node.names}
        assert "torch" not in everywhere


def test_there_are_no_cycles():
    edges: dict[str, set[str]] = {}
    for path in FILES:
        if unit(path) != "__init__":
            tree = ast.parse(path.read_text(encoding="utf-8"))
            edges.setdefault(unit(path), set()).update(imported_units(tree) - {unit(path)})
    finished: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"cycle: {' -> '.join((*trail, name))}"
        if name in finished:
            return
        for other in edges.get(name, ()):
            visit(other, (*trail, name))
        finished.add(name)

    for name in edges:
        visit(name, ())


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_budgets(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400, "split the file by noun"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and unit(path) != "cli":
            assert node.end_lineno - node.lineno < 60, f"{node.name} is longer than 60 lines"
            parameters = [a for a in node.args.args + node.args.kwonlyargs if a.arg not in ("self", "cls")]
            assert len(parameters) <= 8, f"{node.name} has more than 8 parameters"


def test_only_config_reads_the_environment():
    for path in FILES:
        if path.name == "config.py" or unit(path) == "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
                assert node.attr not in ("environ", "getenv"), (
                    f"{path}:{node.lineno}: only config.py reads the environment"
                )
