"""What came out of an experiment: experiment.md with its tables, and the boards of its runs."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from leaderboards.suites import SUITES
from seedbench_r1.demo import rollout_log
from seedbench_r1.errors import ConfigError, DataError, IncompleteRun
from seedbench_r1.experiments.comparison import Measured, judge_id, measure
from seedbench_r1.experiments.folder import Folder
from seedbench_r1.experiments.jobs import Job, Run, is_judged, jobs_of, runs_of, suite_of
from seedbench_r1.experiments.launch import PROGRAM, as_typed
from seedbench_r1.experiments.recipe import Recipe
from seedbench_r1.experiments.tables import comparison_tables
from seedbench_r1.files import make_folder, write_text, writing
from seedbench_r1.runs.samples import has_begun, samples_or_itself
from seedbench_r1.runs.verdicts import load_verdicts

STEP = ", step "  # between a variant and the step, where several checkpoints of it are measured
HOW = (
    "Percent: means over the runs, in brackets the 95 % interval over questions, clustered by video. Differences are "
    "paired by seed and question, with p of the cluster sign-flip test, not adjusted for their number. Intervals and p "
    "say how sure one can be of these trainings; how much others would differ shows in the single trainings' values."
)


@dataclass(slots=True)
class Found:
    """The complete runs of a suite, and why others are not in its tables."""

    rows: dict[str, dict[int | None, Measured]] = field(default_factory=dict)  # variant -> seed -> run
    paths: list[Path] = field(default_factory=list)
    unmeasured: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)  # sentences


def all_jobs(recipe: Recipe, folder: Folder) -> list[Job]:
    """The recipe's jobs, and those of other seeds that the folder holds."""
    there = {int(match[1]) for path in folder.jobs.glob("*.json") if (match := re.search(r"-seed(\d+)$", path.stem))}
    return jobs_of(recipe, seeds=[*recipe.seeds, *sorted(there - set(recipe.seeds))])


def collect(recipe: Recipe, folder: Folder, suite: str) -> Found:
    """Read the runs of a suite, in the recipe's order."""
    found, judges = Found(), recipe.judges if is_judged(recipe, suite) else ()
    order = [*recipe.models, *recipe.variants]
    jobs = all_jobs(recipe, folder)
    for job in sorted(jobs, key=lambda job: order.index(job.variant.name if job.variant else job.name)):
        for run in (run for run in runs_of(recipe, folder, job) if run.suite == suite):
            _add(found, job, run, recipe, judges)
    return found


def _add(found: Found, job: Job, run: Run, recipe: Recipe, judges: Sequence[dict[str, object]]) -> None:
    if not has_begun(run.path):
        found.unmeasured.append(run.path.name)
        return
    try:
        measured = measure(run.path, judges, miniature=bool(recipe.miniature and judges))
    except DataError as error:
        found.left_out.append(f"{run.path.name}: {error}")
        return
    row = job.variant.name if job.variant else job.name
    row = row if run.step is None else f"{row}{STEP}{run.step}"
    found.rows.setdefault(row, {})[job.seed] = measured
    found.paths.append(run.path)


def write_report(recipe: Recipe, folder: Folder) -> str:
    """Write experiment.md and the boards; the text of experiment.md. Raises DataError if no run is complete."""
    sections = []
    for suite in recipe.suites:
        found = collect(recipe, folder, suite)
        lines = [f"## {suite}"] if len(recipe.suites) > 1 else []
        if found.rows:
            lines += comparison_tables(found.rows, _baseline(recipe, found))
            board = make_board(recipe, folder, suite, found)
            lines += [] if board is None else [f"Every answer, and the curves of the trainings: {board.name}\n"]
        lines += [f"Not measured yet: {', '.join(found.unmeasured)}.\n"] if found.unmeasured else []
        lines += [f"Not in the tables: {line}\n" for line in found.left_out]
        sections.append("\n".join(lines))
        if recipe.miniature is not None and found.rows and is_judged(recipe, suite):
            sections.append(_likelihoods(recipe, folder, found))
    if not any(has_begun(run.path) for job in all_jobs(recipe, folder) for run in runs_of(recipe, folder, job)):
        raise DataError(f"{folder.root} holds no runs yet. Fix: seedbench-r1 experiment run {recipe.file.path}")
    text = "\n".join(part for part in [f"# {recipe.title}\n", f"{HOW}\n", *sections] if part)
    write_text(folder.root / "experiment.md", text)
    return text


def _baseline(recipe: Recipe, found: Found) -> str | None:
    """Its row; of several checkpoints the last."""
    rows = [row for row in found.rows if row == recipe.baseline or row.startswith(f"{recipe.baseline}{STEP}")]
    return rows[-1] if rows else None


def _likelihoods(recipe: Recipe, folder: Folder, found: Found) -> str:
    """Of the miniature alone, where it is known what a reasoning concludes; of the trainings in the tables."""
    trainings: dict[str, list[Path]] = {}
    measured = {(row.partition(STEP)[0], seed) for row, runs in found.rows.items() for seed in runs}
    for job in all_jobs(recipe, folder):
        if job.variant is not None and (job.variant.name, job.seed) in measured:
            trainings.setdefault(job.variant.name, []).append(folder.trainings / job.name)
    return rollout_log.markdown(trainings)


def make_board(recipe: Recipe, folder: Folder, suite: str, found: Found) -> Path | None:
    """`leaderboard build` of a suite's runs; None for a suite that has no board. Raises ConfigError if it fails."""
    if suite_of(recipe, suite) not in SUITES:
        return None
    first = suite == next(iter(recipe.suites))
    out, log = folder.root / ("leaderboard.html" if first else f"leaderboard-{suite}.html"), folder.log("leaderboard")
    words = ["leaderboard", "build", *map(str, found.paths), "-o", str(out)]
    # The page compares runs, not variants: a model that was there is one run.
    start = next((path.name for path in found.paths if path.name in recipe.models), None)
    words += [] if start is None else ["--baseline", start]
    if recipe.judges and is_judged(recipe, suite):
        words += ["--judge", judge_id(recipe.judges[0], load_verdicts(samples_or_itself(found.paths[0])[0]))]
    # Published rows are of the benchmark.
    words += ["--no-published"] if recipe.miniature is not None else []
    make_folder(log.parent)
    command = (*PROGRAM, *words)
    with writing(log), log.open("a", encoding="utf-8") as stream:
        stream.write(f"$ {as_typed(command)}\n")
        stream.flush()
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT)
    if done.returncode not in (0, IncompleteRun.exit_code):
        raise ConfigError(f"leaderboard build ended with exit code {done.returncode}; see {log}.")
    return out
