"""What the documentation shows is what the code does."""

import ast
import re
import tomllib
from pathlib import Path

import yaml

from seedbench_r1.cli.app import app
from seedbench_r1.prompts import load_template
from tests.docs_tables import documents

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_tables_in_the_docs_follow_from_the_code():
    for document, content in documents().items():
        assert content == document.read_text(encoding="utf-8"), "run: python -m tests.docs_tables"


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            if not target.startswith("https://"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_command_in_the_docs_exists():
    import typer.main

    group = typer.main.get_command(app)
    for page in PAGES:
        for line in re.findall(
            r"^(?:\s*CUDA\S*\s+)?seedbench-r1 ([^\n#&]*)", page.read_text(encoding="utf-8"), re.MULTILINE
        ):
            words = line.split()
            command = group.commands.get(words[0])
            assert command is not None, f"{page.name}: seedbench-r1 {line}"
            if hasattr(command, "commands"):
                command = command.commands.get(words[1]) or command.commands["run"]  # `judge RUN` is `judge run RUN`
            known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
            used = {word for word in words if word.startswith("--")}
            assert used <= known | {"--help"}, f"{page.name}: {used - known} in seedbench-r1 {line}"


def test_the_prompt_file_in_the_docs_is_valid(tmp_path):
    text = (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8")
    block = re.search(r"```toml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "prompt.toml").write_text(block.group(1))
    assert load_template(tmp_path / "prompt.toml").system == "You are a helpful assistant."


def test_the_repository_names_no_machine_and_no_registry():
    hosts = re.compile(r"(/work/|/root/|/home/\w+/|pypi\.org|pythonhosted|registry\.npmjs)")
    for folder in ("seedbench_r1", "leaderboards", "trainers", "docs"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".md", ".toml", ".html", ".js"):
                assert not hosts.search(path.read_text(encoding="utf-8")), path


def test_files_and_functions_that_the_docs_name_exist():
    """`path/file.py:Class.method` in docs and CONTRIBUTING."""
    named = set()
    for page in PAGES:
        pattern = r"`((?:seedbench_r1|trainers|leaderboards|tests)/[\w/]*)(\.\w+)?(?::([\w.]+))?`"
        named |= set(re.findall(pattern, page.read_text(encoding="utf-8")))
    assert len(named) > 60
    for stem, suffix, symbol in named:
        path = ROOT / (stem + suffix)
        assert path.exists(), path
        nodes = [ast.parse(path.read_text(encoding="utf-8"))] if symbol else []
        for name in symbol.split(".") if symbol else ():
            nodes = [node for node in nodes[0].body if name in defined_names(node)]
            assert nodes, f"{path} has no {symbol}"


def defined_names(node: ast.stmt) -> set[str]:
    """What a statement defines: a function, a class, constants."""
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return {target.id for target in targets if isinstance(target, ast.Name)}
    return {getattr(node, "name", "")}


def test_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == project["version"]
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text()
