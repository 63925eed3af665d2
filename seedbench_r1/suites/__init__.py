"""Suites: sets of questions, each with its wording, its scores and its summary."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seedbench_r1.config import EVAL_TABLE, SEEDBENCH, EvalConfig, resolve_eval_config
from seedbench_r1.config_file import read_config_file
from seedbench_r1.errors import ConfigError
from seedbench_r1.row_files import folder_of
from seedbench_r1.suites.base import Suite

SUITES = ("seedbench-r1", "transfer", "own")


def find_suite(name: str) -> Suite:
    """The suite of that name. Raises ConfigError with the list of names."""
    match name:
        case "seedbench-r1":
            from seedbench_r1.suites.seedbench_r1 import SEEDBENCH_R1

            return SEEDBENCH_R1
        case "transfer":
            from seedbench_r1.suites.transfer import TRANSFER

            return TRANSFER
        case "own":
            from seedbench_r1.suites.own import OWN

            return OWN
        case "transfer-lmms":
            raise ConfigError(
                "The suite transfer-lmms holds lmms-eval's own tasks, which only the command line runs: "
                "seedbench-r1 eval --suite transfer-lmms."
            )
        case _:
            raise ConfigError(f"No suite {name!r}. There are: {', '.join(SUITES)}, and transfer-lmms by lmms-eval.")


def resolve(
    options: Mapping[str, Any],
    *,
    config_file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    working_dir: Path = Path(),
) -> EvalConfig:
    """As config.resolve_eval_config, with the named protocols and the wording of the suite that the settings name."""
    file = read_config_file(config_file, working_dir, EVAL_TABLE)
    name = options.get("suite") or file.get("suite", "seedbench-r1")
    defaults = SEEDBENCH if name == "transfer-lmms" else find_suite(name).defaults
    if name == "transfer-lmms":  # its videos are lmms-eval's
        options = {**options, "data_root": options.get("data_root") or Path()}
    if name == "own":
        options = {
            **options,
            "data_root": own_root(options, file, root="data_root", questions="questions", flag="--questions"),
        }
    return resolve_eval_config(
        options,
        config_file=config_file,
        working_dir=working_dir,
        defaults=defaults,
        **({} if environ is None else {"environ": environ}),
    )


def own_root(options: Mapping[str, Any], file: Mapping[str, Any], *, root: str, questions: str, flag: str) -> Path:
    """--data-root, else that of a config file which chooses the suite, else the folder of the questions.

    SBR1_DATA_ROOT, and a config file for other suites, name SEED-Bench-R1's folder: clips of one's own are not there.

    Args:
        options: the command line's.
        file: the config file's.
        root: what the command calls the folder.
        questions: what it calls the file.
        flag: the option of the file, for the message.
    """
    path = options.get(questions) or file.get(questions)
    if path is None:
        raise ConfigError(f"--suite own needs your questions. Fix: {flag} FILE.")
    given = options.get(root) or (file.get(root) if file.get("suite") == "own" else None)
    return Path(given) if given else folder_of(Path(path))
