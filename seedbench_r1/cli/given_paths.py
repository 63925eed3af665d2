"""Paths that were given: folders of runs taken for runs, and where a data root came from."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from seedbench_r1.config import EVAL_TABLE, configured_data_root, environment_value
from seedbench_r1.config_file import CONFIG_FILE, read_config_file
from seedbench_r1.errors import DataError
from seedbench_r1.runs.samples import read_seeds


def refuse_folders_of_runs(paths: Sequence[Path], *, several: bool = True) -> None:
    """Raise DataError, with the line to type, for a folder of run directories that is none itself; also for a file.

    several: the command takes more than one run.
    """
    for path in paths:
        if not path.exists():
            raise DataError(f"{path} does not exist.")
        if path.is_file():
            raise DataError(f"{path} is a file. Fix: give the run's directory, such as {path.parent}.")
        if (path / "manifest.json").exists():
            continue
        runs = sorted(item for item in path.iterdir() if (item / "manifest.json").is_file())
        if runs:
            # A folder of samples holds more than runs.
            all_of_them = f"{shlex.quote(str(path))}/{'seed-*' if read_seeds(path) else '*'}"
            instead = all_of_them if several else shlex.quote(str(runs[0]))
            raise DataError(
                f"{path} holds {len(runs)} run directories and is none itself. "
                f"Fix: {'' if several else 'one of them, '}{_command_with(path, instead)}"
            )


def _command_with(path: Path, instead: str) -> str:
    """The command that was typed, with other words for a path."""
    words = [instead if Path(word) == path else shlex.quote(word) for word in sys.argv[1:]]
    return " ".join(["seedbench-r1", *words])


@contextmanager
def data_root_explained(given: Mapping[str, object], config_file: Path | None = None) -> Iterator[None]:
    """A DataError that names the data root says where that path was given: nobody may have typed it."""
    try:
        yield
    except DataError as error:
        root, origin = _data_root_and_origin(given, config_file)
        if root is None or str(root) not in str(error):
            raise
        raise DataError(f"{error}\nThe data root {root} comes from {origin}.") from error


def _data_root_and_origin(given: Mapping[str, object], config_file: Path | None) -> tuple[Path | None, str]:
    """In the order of config.resolve_eval_config; None where none of them is set."""
    if given.get("data_root"):
        return Path(str(given["data_root"])), "--data-root"
    if root := environment_value("SBR1_DATA_ROOT", ""):
        return Path(root), "the environment: SBR1_DATA_ROOT"
    if config_file is not None:
        return read_config_file(config_file, Path(), EVAL_TABLE).get("data_root"), f"data_root in {config_file}"
    return configured_data_root(), f"data_root in {CONFIG_FILE}"
