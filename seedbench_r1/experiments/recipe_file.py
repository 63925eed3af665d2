"""A recipe's TOML file: tables merged with --set, paths taken from the file's folder, errors with the line."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seedbench_r1.config import EVAL_TABLE
from seedbench_r1.config_file import READERS, ConfigTable
from seedbench_r1.errors import ConfigError
from seedbench_r1.judges.config import JUDGE_TABLE
from seedbench_r1.judges.probe_config import PROBE_TABLE
from trainers.config import TRAIN_TABLE

Place = tuple[str | int, ...]  # of a value in the file: keys, and numbers from 0 where there is a list
Table = dict[str, Any]

# Tables of a command's options -> whose they are. Below "variants" and "suites" each name has a table of them.
COMMANDS: dict[str, ConfigTable] = {
    "train": TRAIN_TABLE,
    "variants": TRAIN_TABLE,
    "eval": EVAL_TABLE,
    "suites": EVAL_TABLE,
    "judges": JUDGE_TABLE,
    "probes": PROBE_TABLE,
}
_NAMED = ("variants", "suites")
_LISTED = ("judges", "probes")


@dataclass(frozen=True, slots=True)
class RecipeFile:
    """A recipe as it was read, and where its keys stand."""

    path: Path
    text: str
    table: Table  # of the file, with the changes of --set

    def error(self, place: Place, message: str) -> ConfigError:
        """The message, behind file and line; behind --set for what stands there and not in the file."""
        line = line_of(self.text, place)
        where = f"--set {'.'.join(map(str, place))}" if _has(self.table, place) else str(self.path)
        where = where if line is None else f"{self.path}:{line}"
        return ConfigError(f"{where}: {message}")

    def at(self, place: Place) -> Table:
        """The table there; {} where there is none."""
        value: Any = self.table
        for key in place:
            there = isinstance(value, list) or (isinstance(value, dict) and key in value)
            value = value[key] if there else {}
        return value if isinstance(value, dict) else {}

    def only(self, place: Place, table: Mapping[str, object], known: Collection[str]) -> None:
        """Raise ConfigError, with its line and the nearest name, for a key that is not known."""
        for key in table:
            if key not in known:
                nearest = difflib.get_close_matches(key, known, n=1)
                meant = f" Did you mean {nearest[0]!r}?" if nearest else ""
                inside = f" of [{'.'.join(map(str, place))}]" if place else ""
                raise self.error((*place, key), f"unknown key {key!r}{inside}.{meant} Known: {', '.join(known)}.")


def read_recipe_file(path: Path, changes: Sequence[str] = ()) -> RecipeFile:
    """Read a file and merge the changes into it. Raises ConfigError: not readable, not TOML, a change without sense.

    changes: `TABLE.KEY=VALUE` of --set. A value that is not TOML is a text, so that shells need no quotes in quotes.
    """
    try:
        text = path.read_text(encoding="utf-8")
        table = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from error
    table = _with_paths(table, path.parent)
    for change in changes:
        table = _merged(table, _with_paths(_change(change), Path()))
    return RecipeFile(path, text, table)


def line_of(text: str, place: Place) -> int | None:
    """The line, from 1, at which the statement begins that brings the key; None if there is none.

    The file is read again up to each line. What ends inside a statement is no TOML, so the first part that is read and
    has the key ends with the key's statement, which begins behind the last part that was read without it.
    """
    lines, before = text.split("\n"), 0
    for end in range(1, len(lines) + 1):
        try:
            table = tomllib.loads("\n".join(lines[:end]))
        except tomllib.TOMLDecodeError:
            continue
        if _has(table, place):
            return before + 1
        before = end
    return None


def _has(table: Table, place: Place) -> bool:
    value: Any = table
    for key in place:
        if isinstance(value, dict) and key not in value:  # written with hyphens, as on a command line
            key = next((name for name in value if name.replace("-", "_") == key), key)
        there = range(len(value)) if isinstance(value, list) else value if isinstance(value, dict) else ()
        if key not in there:
            return False
        value = value[key]
    return True


def _change(text: str) -> Table:
    key, equals, value = text.partition("=")
    if not (equals and key.strip()):
        raise ConfigError(f"--set {text!r} is not understood. Give TABLE.KEY=VALUE, such as train.max_steps=10.")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        pass  # a text without its quotes, as shells hand it on
    try:
        return tomllib.loads(f"{key} = {json.dumps(value.strip(), ensure_ascii=False)}")
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"--set {text!r} is not understood: {error}.") from error


def _merged(table: Table, change: Table) -> Table:
    """Tables are joined; any other value takes the place of the one that was there."""
    made = dict(table)
    for key, value in change.items():
        there = made.get(key)
        made[key] = _merged(there, value) if isinstance(there, dict) and isinstance(value, dict) else value
    return made


def _with_paths(table: Table, folder: Path) -> Table:
    """The options' values as commands take them, with relative paths taken from the folder. Others stay."""
    made = dict(table)
    for name, of in COMMANDS.items():
        found = table.get(name)
        if name in _NAMED and isinstance(found, dict):
            made[name] = {key: _options(value, of, folder) for key, value in found.items()}
        elif name in _LISTED and isinstance(found, list):
            made[name] = [_options(value, of, folder) for value in found]
        elif name not in (*_NAMED, *_LISTED) and found is not None:
            made[name] = _options(found, of, folder)
    return made


def _options(table: object, of: ConfigTable, folder: Path) -> object:
    if not isinstance(table, dict):
        return table  # refused where the recipe is made, with its place
    made: Table = {}
    for key, value in table.items():
        name = str(key).replace("-", "_")
        if name not in of.table and name not in of.also:
            name = str(key)  # unknown: refused under the name that stands in the file
        elif name in of.table and of.table[name].type is Path and isinstance(value, str):
            value = folder / value
        elif name in READERS:
            value = READERS[name](value)
            value = tuple(str(folder / text) for text in value) if name == "reward" else value
        made[name] = value
    return made
