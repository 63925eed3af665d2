"""Run directories that can be compared on one board, and the judge whose verdicts count."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from leaderboards.agreement import copies, with_doubts
from leaderboards.suites import SUITES
from seedbench_r1.errors import ConfigError, DataError
from seedbench_r1.runs.answers import record_files
from seedbench_r1.runs.directory import Run, load_run
from seedbench_r1.runs.probes import ProbeResult, load_probes
from seedbench_r1.runs.records import run_identity
from seedbench_r1.runs.samples import FILE as SAMPLES
from seedbench_r1.runs.samples import other_sample, read_seeds, runs_of, sample_folder
from seedbench_r1.runs.training_snapshot import TrainingSnapshot, load_snapshot
from seedbench_r1.runs.verdicts import load_verdicts
from seedbench_r1.types import Question, Verdict

Verdicts = dict[str, dict[str, Verdict]]  # judge_id -> question_id -> verdict


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A run directory that is not on the board."""

    path: Path
    reason: str  # sentences that say what is wrong and what to do


@dataclass(frozen=True, slots=True)
class Loaded:
    """A run directory that was read."""

    run: Run
    verdicts: Verdicts
    snapshot: TrainingSnapshot | None  # of its checkpoint's training
    probes: dict[str, dict[str, ProbeResult]]  # probe_id -> question_id -> result
    problem: str = ""  # why there is no snapshot though there is a file for it
    samples: tuple[Loaded, ...] = ()  # of a folder of several samples: each one; `run` is the first, in the folder


def load_runs(paths: Sequence[Path], baseline: str | None) -> tuple[dict[str, Loaded], list[LeftOut]]:
    """Read run directories: run_id -> what is in it, and those that cannot be used.

    A directory given twice is read once. All that remain hold the same data set: level by level the baseline's version
    of it, else the one most runs have. A baseline that is a directory but not among the paths is read too. Raises
    ConfigError for a baseline that is not among the usable runs.
    """
    wanted = list(paths)
    if baseline is not None and any((Path(baseline) / name).exists() for name in ("manifest.json", SAMPLES)):
        wanted.append(Path(baseline))
    # A directory given twice, or once more through a link, must not be compared with itself.
    distinct: dict[Path, Path] = {}
    for path in wanted:
        distinct.setdefault(path.resolve(), path)
    loaded, left_out = _load_all(list(distinct.values()))
    left_out += _take_out_other_suites(loaded, baseline)
    left_out += _take_out_copies(loaded, baseline)
    runs = {name: loaded[path] for path, name in _names(list(loaded)).items()}
    if not runs:
        return {}, left_out
    # A board without the baseline that was asked for would compare with nothing, and not say so.
    for item in left_out:
        if baseline is not None and item.path.resolve() == Path(baseline).resolve():
            raise ConfigError(f"The baseline cannot be used: {item.reason}")
    chosen = find_run(runs, baseline) if baseline is not None else None
    runs, others = _one_data_set(runs, chosen)
    doubted = with_doubts({name: item.run for name, item in runs.items()})
    return {name: replace(item, run=doubted[name]) for name, item in runs.items()}, left_out + others


def _load_all(paths: list[Path]) -> tuple[dict[Path, Loaded], list[LeftOut]]:
    # Runs of one data set in one place have equal questions.jsonl: each content is parsed once.
    loaded: dict[Path, Loaded] = {}
    left_out = []
    known: dict[bytes, Mapping[str, Question]] = {}
    for path in paths:
        try:
            # One unreadable run must not cost the board of all the others.
            loaded[path] = _load(path, known)
        except (DataError, OSError) as error:
            left_out.append(LeftOut(path, str(error)))
    return loaded, left_out


def _take_out_other_suites(loaded: dict[Path, Loaded], baseline: str | None) -> list[LeftOut]:
    """One board answers one suite: the baseline's, else SEED-Bench-R1 where a run does, else that of most runs."""
    suites = {path: item.run.manifest.suite for path, item in loaded.items()}
    wanted = {suite for path, suite in suites.items() if baseline and path.resolve() == Path(baseline).resolve()}
    usable = Counter(suite for suite in suites.values() if suite in SUITES)
    # Ties by name, so that the order of the arguments does not matter.
    most = min(usable, key=lambda suite: (suite != "seedbench-r1", -usable[suite], suite), default="seedbench-r1")
    chosen = (wanted & set(SUITES)).pop() if wanted & set(SUITES) else most
    left_out = [
        LeftOut(path, f"{path} answers the suite {suite}: not to be mixed with {SUITES[chosen].called} results.")
        for path, suite in suites.items()
        if suite != chosen
    ]
    for item in left_out:
        del loaded[item.path]
    return left_out


def _take_out_copies(loaded: dict[Path, Loaded], baseline: str | None) -> list[LeftOut]:
    """Of runs with the same answers, byte for byte, one stays: the baseline, else an unedited one, else the oldest."""

    def later(path: Path) -> tuple[bool, bool, bool, float]:
        run = loaded[path].run
        files = [file for part in runs_of([path]) for file in record_files(part)]
        written = max((file.stat().st_mtime for file in files), default=0.0)
        named = path.resolve() == (baseline and Path(baseline).resolve())
        # Of a folder of samples and one of them, given next to each other, the folder says more.
        return not named, not loaded[path].samples, bool(run.doubts or run.edited), written

    left_out = []
    owner: dict[Path, Path] = {}
    within: dict[Path, Path] = {}  # a sample that was given next to its folder
    for path in sorted(loaded, key=later):
        for part in runs_of([path]):
            if owner.setdefault(part.resolve(), path) != path:
                within[path] = owner[part.resolve()]
    found = within | {
        owner[copy]: owner[original] for copy, original in copies(owner).items() if owner[copy] != owner[original]
    }
    for copy, original in found.items():
        names = [loaded[path].run.manifest.model.name for path in (copy, original)]
        said = f" One of them has a wrong name: {names[0]} there, {names[1]} here." if names[0] != names[1] else ""
        left_out.append(
            LeftOut(copy, f"its answers are those of {original} byte for byte: a copy, not a second run.{said}")
        )
    for item in left_out:
        del loaded[item.path]
    return left_out


@contextmanager
def gc_paused() -> Iterator[None]:
    """Without garbage collection: everything that a board reads is kept, and searching it takes a third longer."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _load(path: Path, known: dict[bytes, Mapping[str, Question]]) -> Loaded:
    """A run's directory, or a folder of several samples of one run."""
    seeds = read_seeds(path)
    if not seeds:
        return _load_one(path, known)
    begun = {seed: sample_folder(path, seed) for seed in sorted(seeds) if _has_answers(sample_folder(path, seed))}
    if not begun:
        raise DataError(f"{path} has no answers yet. Fix: run the same `eval` command again.")
    found = {seed: _load_one(folder, known) for seed, folder in begun.items()}
    first = next(iter(found.values()))
    for seed, one in found.items():
        if one.run.manifest.seed != seed:
            raise DataError(f"{one.run.path} holds answers with seed {one.run.manifest.seed}. Fix: copy it again.")
        if different := other_sample(first.run, one.run):
            raise DataError(f"{one.run.path} and {first.run.path} are no samples of one run: {different}.")
    if same := copies(begun.values()):
        copy, original = next(iter(same.items()))
        raise DataError(f"the answers of {copy} are those of {original} byte for byte: a copy, not a sample.")
    # A sample that has not begun, or was lost, leaves its questions without an answer.
    samples = tuple(found.get(seed) or _unanswered(first, sample_folder(path, seed), seed) for seed in sorted(seeds))
    judges = {judge for one in samples for judge in one.verdicts}
    verdicts = {judge: samples[0].verdicts.get(judge, {}) for judge in judges}
    return replace(samples[0], run=_together(path, [one.run for one in samples]), verdicts=verdicts, samples=samples)


def _has_answers(path: Path) -> bool:
    return (path / "manifest.json").is_file() and any(file.stat().st_size for file in record_files(path))


def _unanswered(like: Loaded, path: Path, seed: int) -> Loaded:
    """A sample of the same run of which there is no answer."""
    manifest = replace(like.run.manifest, seed=seed, completed_utc=None)
    return replace(like, run=Run(path, manifest, like.run.questions, {}), verdicts={}, probes={})


def _together(path: Path, runs: list[Run]) -> Run:
    """The first sample, in the folder of all; what is to be said of any of them is to be said of all."""
    manifests = [run.manifest for run in runs]
    mixed = next((manifest.mixed_weights for manifest in manifests if manifest.mixed_weights), None)
    dirty = next((m.versions for m in manifests if "dirty" in m.versions.get("commit", "")), manifests[0].versions)
    bad = max((manifest.bad_rows for manifest in manifests), key=lambda rows: sum(rows.values()))
    return replace(
        runs[0],
        path=path,
        manifest=replace(manifests[0], mixed_weights=mixed, versions=dirty, bad_rows=bad),
        rescored=sum(run.rescored for run in runs),
        edited=tuple(dict.fromkeys(question for run in runs for question in run.edited)),
        doubts=tuple(dict.fromkeys(doubt for run in runs for doubt in run.doubts)),
    )


def _load_one(path: Path, known: dict[bytes, Mapping[str, Question]]) -> Loaded:
    """Read one directory. `known` holds the questions of earlier ones by the content of questions.jsonl."""
    if not path.exists():
        raise DataError(f"{path} does not exist.")
    if not path.is_dir():
        raise DataError(f"{path} is a file. Fix: give the run's directory.")
    if not any(path.iterdir()):
        raise DataError(f"{path} is empty: no run was started there.")
    file = path / "questions.jsonl"
    lines = file.read_bytes() if file.exists() else b""
    # load_run would name the missing file only; this is what a copy cut short looks like.
    if not lines and (path / "manifest.json").exists():
        raise DataError(f"{file} is missing or empty: the run was stopped before it began, or was not copied whole.")
    run = load_run(path, questions=known.get(lines))
    # load_run keeps one of two equal ids, which would hide that every share counts a question twice.
    n_lines = len(lines.splitlines())
    if n_lines != len(run.questions):
        raise DataError(
            f"{file} has {n_lines} lines for {len(run.questions)} questions: some are repeated. "
            f"Fix: evaluate again into a fresh directory."
        )
    # Nothing to bound and nothing to draw.
    if not run.records:
        raise DataError(f"{path} has no answers yet. Fix: run the same `eval` command again.")
    known[lines] = run.questions
    identity = run_identity(run.manifest)
    snapshot, problem = _snapshot(path)
    return Loaded(run, load_verdicts(path, identity), snapshot, load_probes(path, identity, run.questions), problem)


def _snapshot(path: Path) -> tuple[TrainingSnapshot | None, str]:
    """The training's snapshot, or why it cannot be read: no answer depends on it, so the run is used anyway."""
    try:
        return load_snapshot(path), ""
    except DataError as error:
        return None, str(error)


def _names(paths: list[Path]) -> dict[Path, str]:
    """The directory's name; with its parents', as many as it takes, where two runs share it."""
    absolute = {path: path.resolve() for path in paths}
    # The folder's name is what people chose; parents are added to all runs whose names collide.
    for depth in range(1, 1 + max((len(path.parts) for path in absolute.values()), default=0)):
        names = {path: "/".join(full.parts[-depth:]) for path, full in absolute.items()}
        counts = Counter(full.name for full in absolute.values())
        names = {path: name if counts[absolute[path].name] > 1 else absolute[path].name for path, name in names.items()}
        if len(set(names.values())) == len(names):
            break
    return names if paths else {}


def find_run(runs: dict[str, Loaded], wanted: str) -> str:
    """The run_id of a run named by its run_id, its directory, or the name of its model. Raises ConfigError."""
    # From exact to loose: a run_id always wins over a model that is called the same.
    if wanted in runs:
        return wanted
    folder = Path(wanted).resolve()
    found = [run_id for run_id, loaded in runs.items() if loaded.run.path.resolve() == folder]
    found = found or [run_id for run_id, loaded in runs.items() if loaded.run.path.name == wanted]
    found = found or [run_id for run_id, loaded in runs.items() if loaded.run.manifest.model.name == wanted]
    if len(found) != 1:
        problem = "is none of the usable runs" if not found else f"could be {' or '.join(found)}"
        raise ConfigError(f"{wanted!r} {problem}. Fix: one of {', '.join(runs) or '(there are none)'}.")
    return found[0]


def _one_data_set(runs: dict[str, Loaded], baseline: str | None) -> tuple[dict[str, Loaded], list[LeftOut]]:
    # Level by level, since a run of L3 alone agrees with runs of all levels.
    votes: dict[str, Counter[str]] = {}
    for run_id, loaded in runs.items():
        for level, digest in loaded.run.manifest.dataset_hash.items():
            # The baseline outvotes all others: whoever names one wants it on the board.
            weight = len(runs) + 1 if run_id == baseline else 1
            votes.setdefault(level, Counter())[digest] += weight
    kept, left_out = {}, []
    for run_id, loaded in runs.items():
        digests = loaded.run.manifest.dataset_hash
        other = [level for level, digest in digests.items() if votes[level].most_common(1)[0][0] != digest]
        if not other:
            kept[run_id] = loaded
            continue
        level = other[0]
        there, here = digests[level][:12], votes[level].most_common(1)[0][0][:12]
        left_out.append(
            LeftOut(
                loaded.run.path,
                f"another version of the data set: the {level} annotations have hash {there}, those of the other "
                f"runs {here}. Fix: evaluate again on the same annotations, or build its own leaderboard.",
            )
        )
    return kept, left_out


def choose_judge(runs: dict[str, Loaded], wanted: str | None) -> str | None:
    """The judge whose verdicts are compared: the one asked for (its id or the beginning of it), else the most used.

    Raises ConfigError if none or several of the judges answer to `wanted`.
    """
    used = Counter(judge for loaded in runs.values() for judge in loaded.verdicts)
    if wanted is None:
        # Ties by name, so that the order of the arguments does not matter.
        return min(used, key=lambda judge: (-used[judge], judge), default=None)
    return find_judge(used, wanted)


def find_judge(used: Collection[str], wanted: str) -> str:
    """The judge id that is `wanted`, or the only one that begins with it. Raises ConfigError if none or several do."""
    # An id that is also the beginning of a longer one must stay reachable.
    found = [judge for judge in used if judge == wanted] or sorted(judge for judge in used if judge.startswith(wanted))
    if len(found) != 1:
        problem = "judged none of the runs" if not found else f"could be {' or '.join(found)}"
        raise ConfigError(
            f"Judge {wanted!r} {problem}. Fix: one of {', '.join(sorted(used)) or '(none was used yet)'}."
        )
    return found[0]
