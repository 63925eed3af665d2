"""The command line of a table of settings: a row becomes an option, the values that were given come back by name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

from seedbench_r1.config_file import READERS
from seedbench_r1.options import Setting

Given = dict[str, object]  # name -> value, of the options that were given

# Options of the panel "Output", and options that show no default, or say it in their help.
output_option = functools.partial(typer.Option, rich_help_panel="Output")
plain_option = functools.partial(typer.Option, show_default=False)

ConfigFile = Annotated[Path | None, output_option("--config", help="TOML file, by default ./seedbench-r1.toml.")]
PrintConfig = Annotated[bool, output_option("--print-config", help="Print the resolved settings and stop.")]
DryRun = Annotated[bool, output_option("--dry-run", help="Check everything, load no model, and stop.")]
AsJson = Annotated[bool, output_option("--json", help="One JSON object on stdout.")]
PlainJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
RunPaths = Annotated[list[Path], typer.Argument(help="Run directories.", show_default=False)]
Quiet = Annotated[bool, output_option("--quiet", help="No progress.")]


def with_settings(rows: Iterable[Setting]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator: the function's first argument becomes one option for each row; its others stay as they are."""
    table = list(rows)

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        first, *others = inspect.signature(function, eval_str=True).parameters.values()
        options = [_parameter(row) for row in table]

        @functools.wraps(function)
        def command(**values: object) -> None:
            given = {row.name: values.pop(row.name) for row in table}
            function({name: _read(name, value) for name, value in given.items() if value is not None}, **values)

        own = [other.replace(kind=inspect.Parameter.KEYWORD_ONLY) for other in others]
        positional = [other for other in own if "ArgumentInfo" in str(other.annotation)]
        rest = [other for other in own if other not in positional]
        command.__signature__ = inspect.Signature([*positional, *options, *rest])  # type: ignore[attr-defined]
        command.__annotations__ = {}
        del first
        return command

    return decorate


def _parameter(row: Setting) -> inspect.Parameter:
    kind = (list[str] if row.option.several else str) if row.type is tuple else row.type
    flag = f"{row.flag}/--no-{row.flag.removeprefix('--')}" if row.option.negatable else row.flag
    flags = [flag] if row.option.alias is None else [flag, row.option.alias]
    option = typer.Option(*flags, rich_help_panel=row.option.group, help=row.help, show_default=False)
    annotation = Annotated[kind | None, option]  # type: ignore[valid-type]
    return inspect.Parameter(row.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _read(name: str, value: object) -> object:
    return READERS[name](value) if name in READERS else value
