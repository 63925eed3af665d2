"""Several samples of each question: a folder with an ordinary run for each seed, and a file that says which.

samples.json    the seeds        seed-0/, seed-1/, ...   runs, each what `eval --seed S` alone would have written
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from seedbench_r1.errors import ConfigError, DataError
from seedbench_r1.files import exclusive, folder_for_old, make_folder, write_json, writing
from seedbench_r1.runs.directory import Run, load_run, read_manifest, refuse_differences
from seedbench_r1.runs.records import question_from_json, read_lines
from seedbench_r1.typed_json import parse_json
from seedbench_r1.types import Question, RunManifest

FILE = "samples.json"
BEGINNINGS = ("manifest.json", FILE)  # what a run, and a folder of samples, begins with
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


def open_samples(folder: Path, plans: Mapping[int, RunManifest], questions: Iterable[Question], *, fresh: bool) -> None:
    """Note which samples the folder holds, those of earlier calls too, once all of them fit together.

    plans: the manifests that the samples of this call will have. fresh: what is there moves to old-<time>/.

    Raises:
        ConfigError: the folder is a run's own; a sample of it, asked for now or not, is of another model, data set or
            protocol, or of other questions than the others would be. Nothing was changed.
    """
    if (folder / "manifest.json").exists():
        raise ConfigError(
            f"{folder} holds a run with one answer to each question. Nothing was changed. Fix: another --run-name."
        )
    make_folder(folder)
    # Two calls may begin at once, each with seeds of its own.
    with exclusive(folder / ".samples.lock"):
        if fresh:
            _set_aside(folder)
        known = read_seeds(folder)
        _refuse_others(folder, known, plans, {question.question_id for question in questions})
        wanted = (*known, *(seed for seed in plans if seed not in known))
        if wanted != known:
            write_json(folder / FILE, {"schema": SCHEMA, "seeds": list(wanted)})


def _refuse_others(folder: Path, known: Sequence[int], plans: Mapping[int, RunManifest], asked: set[str]) -> None:
    like = next(iter(plans.values()))
    final: dict[int, set[str]] = {seed: set(asked) for seed in plans}
    for seed in {*known, *plans}:
        path = sample_folder(folder, seed)
        there = read_manifest(path)
        if there is None:
            continue
        refuse_differences(path, there, replace(like, seed=seed, sampling=there.sampling))
        lines = read_lines(path / "questions.jsonl", question_from_json)
        final[seed] = final.get(seed, set()) | {question.question_id for question in lines}
    if len(set(map(frozenset, final.values()))) > 1:
        sizes = ", ".join(f"seed {seed} {len(ids)}" for seed, ids in sorted(final.items()))
        raise ConfigError(
            f"The samples in {folder} would not have the same questions ({sizes}). Nothing was changed. Fix: the same "
            f"--limit, --seed and splits for all of them, or another --run-name."
        )


def _set_aside(folder: Path) -> None:
    old = [path for path in folder.iterdir() if path.name == FILE or path.name.startswith("seed-")]
    if old:
        with writing(folder):
            target = folder_for_old(folder)
            for path in old:
                path.replace(target / path.name)


def other_sample(first: Run, second: Run) -> str:
    """What two runs must have in common to be samples of one, and have not; "" if they have all of it."""
    a, b = first.manifest, second.manifest
    if list(first.questions) != list(second.questions):
        return "other questions"
    for name in ("suite", "protocol_id", "dataset_hash", "backend", "dtype"):
        if getattr(a, name) != getattr(b, name):
            return f"another {name}"
    if a.model.fingerprint != b.model.fingerprint:
        return "another model"
    if a.weight_files and b.weight_files and a.weight_files != b.weight_files:
        return "other bytes of the weights"
    return ""


def runs_of(paths: list[Path]) -> list[Path]:
    """Every folder of samples replaced by its runs."""
    return [run for path in paths for run in samples_or_itself(path)]


def has_begun(path: Path) -> bool:
    """True for a run, or a folder of samples."""
    return any((path / name).is_file() for name in BEGINNINGS)


def samples_or_itself(path: Path) -> list[Path]:
    """The runs of a folder of samples that have begun; anything else alone."""
    return sample_runs(path) or [path]


def sample_runs(folder: Path) -> list[Path]:
    """The runs of a folder of samples that have begun, in the order of their seeds; [] for anything else."""
    found = (sample_folder(folder, seed) for seed in sorted(read_seeds(folder)))
    return [path for path in found if (path / "manifest.json").is_file()]


def load_samples(folder: Path, seeds: Sequence[int] | None = None) -> list[Run]:
    """The runs of a folder of samples, for counting: all that it holds, or some; one that has not begun is empty.

    Raises DataError: none has begun, or they are no samples of one run.
    """
    wanted = sorted(read_seeds(folder)) if seeds is None else list(seeds)
    begun = {
        seed: load_run(sample_folder(folder, seed), texts=False)
        for seed in wanted
        if (sample_folder(folder, seed) / "manifest.json").is_file()
    }
    if not begun:
        raise DataError(f"{folder} has no answers yet. Fix: run the same `eval` command again.")
    first = next(iter(begun.values()))
    for run in begun.values():
        if different := other_sample(first, run):
            raise DataError(f"{run.path} and {first.path} are no samples of one run: {different}.")
    empty = {seed: replace(first.manifest, seed=seed) for seed in wanted if seed not in begun}
    lacking = {seed: Run(sample_folder(folder, seed), m, first.questions, {}) for seed, m in empty.items()}
    return [begun[seed] if seed in begun else lacking[seed] for seed in wanted]
