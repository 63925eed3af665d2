"""What `experiment` prints: the arithmetic of a recipe, and how far its jobs are."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

from seedbench_r1.cli import console
from seedbench_r1.cli.train_results import size
from seedbench_r1.experiments.folder import Folder
from seedbench_r1.experiments.recipe import Recipe
from seedbench_r1.experiments.states import JobState
from seedbench_r1.files import existing_folder

if TYPE_CHECKING:
    from seedbench_r1.experiments.checks import Arithmetic


def print_arithmetic(recipe: Recipe, folder: Folder, found: Sequence[Arithmetic], jobs: int) -> None:
    """Steps, memory, disk and hours, variant by variant and in all."""
    from seedbench_r1.experiments.checks import disk_need

    table = console.table(["variant"], ["runs", "steps", "each GPU", "main memory", "disk", "GPU hours"])
    for name in recipe.variants:
        if of := [one for one in found if one.job.variant is not None and one.job.variant.name == name]:
            memory = size(max(one.device for one in of)), size(max(one.main_memory for one in of))
            hours = sum(one.gpu_hours for one in of)
            table.add_row(
                name, str(len(of)), f"{of[0].steps:,}", *memory, size(sum(one.kept for one in of)), f"{hours:,.1f}"
            )
    screen = console.out()
    screen.print(table)
    free = shutil.disk_usage(existing_folder(folder.root)).free
    hours = sum(one.gpu_hours for one in found)
    n = recipe.launch.processes
    each = "one process" if n == 1 else f"{n} processes, whose main memory stands together, with a GPU for each"
    lines = (
        f"{len(found)} trainings, {jobs} at once, of {each}.",
        f"{hours:,.1f} GPU hours are left, on H100s, and at most {size(disk_need(found, jobs))} of disk are taken at "
        f"once; {size(free)} are free.",
        "By arithmetic, not measured. Evaluations, verdicts and probes come on top. No model was loaded.",
    )
    for line in lines:
        screen.print(f" {line}", soft_wrap=True)


def print_states(folder: Folder, found: Sequence[JobState]) -> None:
    """A line for each job, at most 80 characters wide as long as their names are; then why some have failed."""
    table = console.table(["job", "state", "", "log"], [])
    for one in found:
        share = "" if one.total is None else f"{one.done:,} of {one.total:,}"
        table.add_row(one.job, one.state, f"{one.doing} {share}".strip(), one.log.name if one.log.exists() else "")
    screen = console.out()
    screen.print(table)
    screen.print(f" logs in {folder.logs}", soft_wrap=True)
    for one in found:
        if one.why:
            screen.print(f" {one.job}: {one.why}", soft_wrap=True)
