"""The trained tiny models that come with the package."""

from __future__ import annotations

import shutil
from importlib.resources import files
from pathlib import Path

from seedbench_r1.errors import ConfigError
from seedbench_r1.files import make_folder, writing

SHIPPED = ("sft", "grpo", "care")


def shipped_model(name: str) -> Path:
    """Folder of "sft", "grpo" or "care". Raises ConfigError for another name, or if it is not in this installation."""
    if name not in SHIPPED:
        raise ConfigError(f"No model {name!r} in the package. There are: {', '.join(SHIPPED)}.")
    folder = Path(str(files("seedbench_r1.demo").joinpath("checkpoints", name)))
    if not (folder / "config.json").is_file():
        raise ConfigError(f"The package has no {folder}. Fix: install seedbench-r1 again.")
    return folder


def copy_shipped_model(name: str, out: Path) -> None:
    """Copy a model of the package to `out`, config.json last: half a copy has none.

    Raises as `shipped_model` does, and ResourceError for what the disk refuses.
    """
    source = shipped_model(name)
    make_folder(out)
    for path in sorted(source.iterdir(), key=lambda path: path.name == "config.json"):
        with writing(out / path.name):
            shutil.copyfile(path, out / path.name)
