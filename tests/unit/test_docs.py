"""What the documentation shows is what the code does."""

import ast
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer.main
import yaml

from seedbench_r1.backends import BACKENDS
from seedbench_r1.cli.app import app
from seedbench_r1.config import EVAL_TABLE, resolve_eval_config
from seedbench_r1.judges.config import JUDGE_TABLE, resolve_judge_config
from seedbench_r1.judges.probe_config import PROBE_TABLE, resolve_probe_config
from seedbench_r1.prompts import load_template
from tests.docs_tables import documents
from trainers.config import TRAIN_TABLE
from trainers.resolve import resolve_train_config

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def read_eval(given: dict[str, object]) -> None:
    """Settings of `eval`; it refuses an unknown backend together with an unknown model, which here need not exist."""
    named = {} if str(given.get("backend", "")).startswith("openai:") else {"model": "m"}
    backend = resolve_eval_config({**named, **given}, environ={}).backend
    assert backend in {name.partition(":")[0] for name in BACKENDS}, f"no backend {backend}"


# What these commands refuse by value: their settings, what is needed besides, and who reads them.
TABLES = {
    "eval": (EVAL_TABLE.table, {"data_root": Path()}, read_eval),
    "train": (
        TRAIN_TABLE.table,
        {"model": "m", "data": Path(), "out": Path("o")},
        lambda given: resolve_train_config(given if "preset" in given else {"algo": "care"} | given, environ={}),
    ),
    "run": (JUDGE_TABLE.table, {}, resolve_judge_config),
    "probe": (PROBE_TABLE.table, {}, resolve_probe_config),
}


def test_tables_in_the_docs_follow_from_the_code():
    for document, content in documents().items():
        assert content == document.read_text(encoding="utf-8"), "run: python -m tests.docs_tables"


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            if not target.startswith("https://"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def documented_commands() -> list[tuple[str, list[str]]]:
    """Page and words behind `seedbench-r1`, of each line of a shell block, behind a launcher and in a loop, too."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
            for line in re.findall(r"(?:^|\s)seedbench-r1 ([^\n|;&]*)", block):
                words = shlex.split(line, comments=True)
                if words and words[0] != "COMMAND":
                    found.append((page.name, words))
    return found


def parsed(words: list[str]) -> tuple[str, dict[str, object]]:
    """The command's name, and its options and arguments by name, as the command line reads them. Runs nothing."""
    command, name = typer.main.get_command(app), ""
    while hasattr(command, "commands"):
        default = "run" if "run" in command.commands else ""  # `judge RUN` is `judge run RUN`
        known = bool(words) and words[0] in command.commands
        assert known or default, f"no command {' '.join(words)}"
        name = words[0] if known else default
        command, words = command.commands[name], words[1:] if known else words
    return name, command.make_context(name, list(words)).params


def test_every_command_in_the_docs_is_understood():
    """Commands, options, and what stands behind an option: numbers, choices and names of judges."""
    commands = documented_commands()
    assert len(commands) > 100
    for page, words in commands:
        where = f"{page}: seedbench-r1 {' '.join(words)}"
        if not {"-h", "--help"} & set(words):
            try:
                check_values_of(*parsed(words))
            except Exception as error:
                raise AssertionError(f"{where}: {error}") from error


def test_every_judge_in_the_docs_exists():
    """In prose, too; ID stands for a judge's id, as `leaderboard` and `export` take it."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    names = set(re.findall(r"--judge\s+([\w:./-]*\w)", text)) - {"ID"}
    assert len(names) > 5
    for name in names:
        assert resolve_judge_config({"judge": name}).judge == name


def check_values_of(name: str, params: dict[str, object]) -> None:
    """Raise ConfigError for a value that `eval`, `train` or `judge` would refuse. Files need not exist."""
    given = {key: value for key, value in params.items() if value is not None}
    if name not in TABLES:
        return
    table, needed, resolve = TABLES[name]
    if any("$" in str(value) for value in given.values()):
        return  # the shell's
    settings = {key: value for key, value in given.items() if key in table and key != "prompt_file"}
    resolve({**needed, **settings})


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("judge runs/* --judge vllm:JUDGE", "No judge 'vllm:JUDGE'"),
        ("eval --backend vlm --model m", "no backend vlm"),
        ("train --algo ppo", "--algo is 'ppo'"),
        ("train --algo care --beta many", "valid number"),
        ("train --algo care --beta -1", "--beta is -1"),
        ("eval --temperatur 1", "--temperatur"),
        ("judged runs/*", "no command judged"),
        ("probe runs/* --probes forced,other", "no probe"),
    ],
)
def test_a_wrong_line_would_be_noticed(line, said):
    with pytest.raises(Exception, match=said):
        check_values_of(*parsed(line.split()))


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
