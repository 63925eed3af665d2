"""Several samples of each question: a folder with an ordinary run for each seed, and a file that says which.

samples.json    the seeds        seed-0/, seed-1/, ...   runs, each what `eval --seed S` alone would have written
"""

from __future__ import annotations

from pathlib import Path

from seedbench_r1.errors import ConfigError, DataError
from seedbench_r1.files import make_folder, write_json
from seedbench_r1.typed_json import parse_json

FILE = "samples.json"
SCHEMA = "sbr1.samples/1"


def sample_folder(folder: Path, seed: int) -> Path:
    """The run directory of a seed."""
    return folder / f"seed-{seed}"


def read_seeds(folder: Path) -> tuple[int, ...]:
    """The seeds of a folder of samples, in their order; () for anything else. Raises DataError for a damaged file."""
    file = folder / FILE
    try:
        value = parse_json(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read: {error}. Fix: copy it again.") from error
    seeds = value.get("seeds") if isinstance(value, dict) and value.get("schema") == SCHEMA else None
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise DataError(f"{file} is no list of seeds of schema {SCHEMA!r}. Fix: copy it again.")
    return tuple(seeds)


def keep_seeds(folder: Path, seeds: tuple[int, ...]) -> None:
    """Write which samples the folder holds, those of earlier calls too. Raises ConfigError for a run's directory."""
    if (folder / "manifest.json").exists():
        raise ConfigError(
            f"{folder} holds a run with one answer to each question. Nothing was changed. Fix: another --run-name."
        )
    make_folder(folder)
    known = read_seeds(folder)
    wanted = (*known, *(seed for seed in seeds if seed not in known))
    if wanted != known:
        write_json(folder / FILE, {"schema": SCHEMA, "seeds": list(wanted)})


def runs_of(paths: list[Path]) -> list[Path]:
    """Every folder of samples replaced by its runs."""
    return [run for path in paths for run in (sample_runs(path) or [path])]


def sample_runs(folder: Path) -> list[Path]:
    """The runs of a folder of samples that have begun, in the order of their seeds; [] for anything else."""
    found = (sample_folder(folder, seed) for seed in sorted(read_seeds(folder)))
    return [path for path in found if (path / "manifest.json").is_file()]
