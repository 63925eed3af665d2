"""Settings written once: a field of a frozen dataclass with its default, help, range, group and owner.

From such fields come the command line, --config TOML, the environment's paths, docs/cli.md and the messages for values
that do not fit (cli/options.py, config.py). Nothing here knows a command.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from seedbench_r1.errors import ConfigError

T = TypeVar("T")
OPTION = "option"  # the key in a field's metadata


@dataclass(frozen=True, slots=True)
class Option:
    """What is known of a setting besides its type and default."""

    help: str
    group: str  # the panel of --help
    flag: str | None = None  # None: the name with hyphens
    alias: str | None = None  # an older flag that is still taken
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()  # of a Literal they follow from the type
    owners: tuple[str, ...] = ()  # "backend vllm", "engine ray", ...: refused unless one of them is chosen; empty: all
    needs: str | None = None  # another setting without which this one does nothing
    negatable: bool = False  # --flag/--no-flag
    several: bool = False  # of a tuple: the option may be given several times, an entry each
    env: str | None = None  # a variable that holds a path


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table: a field and its option."""

    name: str
    type: Any  # int, float, str, bool, Path or tuple; without None
    default: Any
    option: Option

    @property
    def flag(self) -> str:
        return self.option.flag or f"--{self.name.replace('_', '-')}"

    @property
    def range(self) -> str:
        """The allowed values in words; empty if all of the type are."""
        option = self.option
        if option.choices:
            return "one of " + ", ".join(option.choices)
        limits = {"at least": option.at_least, "above": option.above, "at most": option.at_most, "below": option.below}
        return " and ".join(f"{word} {limit:g}" for word, limit in limits.items() if limit is not None)

    @property
    def help(self) -> str:
        """The option's help with its choices and its default."""
        choices = f" One of {', '.join(self.option.choices)}." if self.option.choices else ""
        shown = self.default_text
        return self.option.help + choices + (f" Default: {shown}." if shown else "")

    @property
    def default_text(self) -> str:
        """The default in words; empty for None, off and lists."""
        if self.default is None or self.default is False or self.default is dataclasses.MISSING:
            return ""
        if isinstance(self.default, tuple):
            return ""
        if isinstance(self.default, bool):
            return "on"
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)


def setting(default: T, help: str, group: str, **more: Any) -> T:  # noqa: ANN401  # fields of Option
    """A dataclass field that is an option; `more` are the other fields of Option."""
    return dataclasses.field(default=default, metadata={OPTION: Option(help, group, **more)})


def settings_of(*classes: type) -> dict[str, Setting]:
    """name -> row, of all fields of the dataclasses that are options."""
    found = {}
    for cls in classes:
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            if option := field.metadata.get(OPTION):
                kind, choices = _type_and_choices(hints[field.name])
                option = dataclasses.replace(option, choices=choices) if choices else option
                found[field.name] = Setting(field.name, kind, field.default, option)
    return found


def _type_and_choices(hint: Any) -> tuple[Any, tuple[str, ...]]:  # noqa: ANN401  # a type form
    """int | None -> int; tuple[str, ...] -> tuple; Literal["a", "b"] -> str, of which only these are allowed."""
    if isinstance(hint, types.UnionType):
        hint = next(part for part in hint.__args__ if part is not type(None))
    origin = typing.get_origin(hint)
    return (str, typing.get_args(hint)) if origin is Literal else (origin or hint, ())


def typed(values: Mapping[str, Any], table: Mapping[str, Setting]) -> dict[str, Any]:
    """Python values as the table's types: texts of paths become paths, lists become tuples.

    Raises ConfigError for a name that is not in the table, with the nearest one.
    """
    made = {}
    for name, value in values.items():
        if name not in table:
            nearest = difflib.get_close_matches(name, table, n=1)
            meant = f" Did you mean {nearest[0]!r}?" if nearest else ""
            raise ConfigError(f"There is no setting {name!r}.{meant} All of them: docs/cli.md.")
        kind = table[name].type
        if value is not None and kind is Path:
            value = Path(value)
        elif kind is tuple and isinstance(value, list):
            value = tuple(value)
        made[name] = value
    return made


def check_values(values: Mapping[str, Any], table: Mapping[str, Setting]) -> None:
    """Types and ranges of the values that are not None. Raises ConfigError naming the option, its value and its range.

    A value that is None is not given; where it may not be, the dataclass has no None in its type.
    """
    for name, value in values.items():
        if value is not None and name in table:
            _check_type(table[name], value)
            _check_range(table[name], value)


def _check_type(row: Setting, value: object) -> None:
    expected: tuple[type, ...] = {float: (int, float), Path: (Path, str), tuple: (tuple, list)}.get(
        row.type, (row.type,)
    )
    if not isinstance(value, expected) or (isinstance(value, bool) and row.type is not bool):
        raise ConfigError(f"{row.name} is {value!r}, expected {row.type.__name__}.")


def _check_range(row: Setting, value: Any) -> None:  # noqa: ANN401  # any comparable value
    option = row.option
    holds = (
        (not option.choices or value in option.choices)
        and (option.at_least is None or value >= option.at_least)
        and (option.above is None or value > option.above)
        and (option.at_most is None or value <= option.at_most)
        and (option.below is None or value < option.below)
    )
    if not holds:
        raise ConfigError(f"{row.flag} is {value!r}, which is out of range: {row.range}.")


def refuse_strangers(
    given: Iterable[str], table: Mapping[str, Setting], chosen: Mapping[str, str], also: Mapping[str, str] | None = None
) -> None:
    """Raise ConfigError for a given option that belongs to what was not chosen: it would be ignored.

    Args:
        given: names of settings.
        table: the command's rows.
        chosen: "backend", "engine" and the like -> what was chosen.
        also: a second choice whose options are let through.
    """
    has = {f"{kind} {name}" for choice in (chosen, also or {}) for kind, name in choice.items()}
    for name in given:
        owners = table[name].option.owners if name in table else ()
        if owners and not has & {owner.partition(":")[0] for owner in owners}:
            kind = owners[0].partition(" ")[0]
            wanted = " or ".join(_as_option(owner) for owner in owners)
            raise ConfigError(
                f"{table[name].flag} belongs to {wanted}, and this is {_as_option(f'{kind} {chosen[kind]}')}. "
                f"Fix: leave it out, or add {_as_option(owners[0])}."
            )


def _as_option(owner: str) -> str:
    kind, _, name = owner.partition(" ")
    return f"--{kind} {name}"


def refuse_needless(given: Iterable[str], table: Mapping[str, Setting], values: Mapping[str, Any]) -> None:
    """Raise ConfigError for a given option that does nothing without another one."""
    for name in given:
        needed = table[name].option.needs if name in table else None
        if needed is not None and not values.get(needed):
            raise ConfigError(f"{table[name].flag} does nothing without {table[needed].flag}. Fix: give both, or none.")


def in_groups(table: Mapping[str, Setting], groups: Iterable[str]) -> Iterator[Setting]:
    """The rows in the order of the groups; within a group, as they stand."""
    order = list(groups)
    yield from sorted(table.values(), key=lambda row: order.index(row.option.group))
