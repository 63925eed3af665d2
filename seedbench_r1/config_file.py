"""TOML files of settings: read with relative paths taken from the file's folder, and written for child processes."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seedbench_r1.errors import ConfigError
from seedbench_r1.options import Setting
from seedbench_r1.types import LEVELS

CONFIG_FILE = "seedbench-r1.toml"


@dataclass(frozen=True, slots=True)
class ConfigTable:
    """A command's table in the config file."""

    name: str
    table: Mapping[str, Setting]
    also: frozenset[str] = frozenset()  # keys that are in the file only
    top_level: bool = False  # keys above all tables are its own too


def read_config_file(path: Path | None, working_dir: Path, section: ConfigTable) -> dict[str, Any]:
    """The section's settings, with relative paths taken from the file's folder. {} if there is no file.

    Raises ConfigError: not readable, not TOML, an unknown or renamed key, or a named file without the section.
    """
    chosen = path or working_dir / CONFIG_FILE
    if path is None and not chosen.is_file():
        return {}
    try:
        table = tomllib.loads(chosen.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Config file {chosen} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"Config file {chosen} is not valid TOML: {error}.") from error
    above = {name: value for name, value in table.items() if not isinstance(value, dict)}
    own = table.get(section.name, {})
    if not isinstance(own, dict) or (path and not section.top_level and section.name not in table):
        raise ConfigError(f"{chosen} has no table [{section.name}]. Fix: put the settings under [{section.name}].")
    settings: dict[str, Any] = {}
    for key, value in ({**above, **own} if section.top_level else own).items():
        name = _known_key(key, chosen, section)
        is_path = name in section.table and section.table[name].type is Path
        if is_path and not isinstance(value, str):
            raise ConfigError(f"{chosen}: {key} is {value!r}, expected a path as text.")
        settings[name] = chosen.parent / value if is_path else value
    for name, read in READERS.items():
        if name in settings:
            settings[name] = read(settings[name])
    return settings


def _known_key(key: str, file: Path, section: ConfigTable) -> str:
    """The key as an option's name. Raises ConfigError naming the nearest one."""
    name = key.replace("-", "_")
    if name in section.table or name in section.also:
        return name
    names = sorted({*section.table, *section.also})
    nearest = difflib.get_close_matches(name, names, n=1)
    meant = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise ConfigError(f"{file}: unknown key {key!r} of [{section.name}].{meant} Known: {', '.join(names)}.")


def parse_levels(value: object) -> tuple[str, ...]:
    """ "L1,L3" or ["L1", "L3"] in the order of the benchmark. Raises ConfigError for anything else."""
    names = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    wanted = {str(name).strip().upper() for name in names if str(name).strip()}
    unknown = sorted(wanted - set(LEVELS))
    if unknown or not wanted:
        raise ConfigError(f"--levels {value!r} is not understood. Give one or more of {','.join(LEVELS)}.")
    return tuple(level for level in LEVELS if level in wanted)


def parse_shard(value: object) -> tuple[int, int]:
    """ "2/8" or (2, 8) -> (2, 8). Raises ConfigError unless 1 <= i <= n."""
    text = "/".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    first, _, second = text.partition("/")
    if first.isdigit() and second.isdigit() and 1 <= int(first) <= int(second):
        return int(first), int(second)
    raise ConfigError(f"--shard {value!r} is not understood. Give i/n with 1 <= i <= n, e.g. 2/8.")


def parse_seeds(value: object) -> tuple[int, ...]:
    """ "0,1,2" or [0, 1, 2] -> (0, 1, 2). Raises ConfigError for anything else."""
    seeds = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    texts = [str(seed).strip() for seed in seeds]
    if not texts or not all(text.isascii() and text.isdigit() for text in texts):
        raise ConfigError(f"--seeds {value!r} is not understood. Give whole numbers from 0 on, such as 0,1,2.")
    found = tuple(map(int, texts))
    if len(found) > MOST_SEEDS:
        raise ConfigError(f"--seeds names {len(found)} seeds, at most {MOST_SEEDS} are taken.")
    if len(set(found)) < len(found):
        raise ConfigError(f"--seeds {value!r} names a seed twice: its answers would count twice.")
    return found


def parse_texts(value: object) -> tuple[str, ...]:
    """One text, or a list of them. Raises ConfigError for anything else."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"{value!r} is not understood. Give a text, or a list of texts.")
    return tuple(texts)


MOST_SEEDS = 250  # the page counts samples in bytes
# texts -> tuples
READERS: dict[str, Callable[[Any], Any]] = {
    "levels": parse_levels,
    "shard": parse_shard,
    "seeds": parse_seeds,
    "reward": parse_texts,
}


def toml_lines(values: Mapping[str, object]) -> str:
    """`name = value` lines. JSON strings and lists are TOML's, but for the character 127."""
    lines = []
    for name, value in values.items():
        plain = str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        key = name if re.fullmatch(r"[\w-]+", name, re.ASCII) else json.dumps(name)
        lines.append(f"{key} = {json.dumps(plain, ensure_ascii=False)}")
    return "".join(f"{line}\n" for line in lines).replace("\x7f", "\\u007f")
