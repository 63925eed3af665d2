"""`eval --model A B C`: several checkpoints one after the other, and a table of them all."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seedbench_r1.cli import console
from seedbench_r1.errors import ConfigError, Interrupted, SeedBenchError

if TYPE_CHECKING:
    from seedbench_r1.engines.base import EvalResult, Plan

PATTERN = re.compile(r"[*?\[]")
FLATTERED = (
    " ! The best of {n} checkpoints is flattered by having been picked: its score on these questions is higher than on "
    "others. Pick by held-out training questions (train --eval-every), or report all of them."
)


@dataclass(frozen=True, slots=True)
class Done:
    """What became of one checkpoint."""

    model: str
    planned: Plan | None
    result: EvalResult | None
    error: SeedBenchError | None

    @property
    def exit_code(self) -> int:
        return 0 if self.error is None else self.error.exit_code


def models_of(given: Iterable[str]) -> list[str]:
    """The models asked for, patterns replaced by the folders that fit, in the order of their numbers, each once.

    Raises ConfigError for a pattern that fits nothing.
    """
    found: dict[str, None] = {}
    for model in given:
        if not PATTERN.search(model) or Path(model).exists():
            found[model] = None
            continue
        # checkpoint-900 before checkpoint-1000.
        fitting = sorted((path for path in glob.glob(model) if Path(path).is_dir()), key=_by_numbers)
        if not fitting:
            raise ConfigError(
                f"--model {model!r} fits no folder. Fix: check the pattern, e.g. 'out/care/checkpoint-*'."
            )
        found |= dict.fromkeys(fitting)
    return list(found)


def _by_numbers(path: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", path)]


def evaluate_many(plans: Sequence[tuple[str, Plan | SeedBenchError]], *, as_json: bool, quiet: bool) -> None:
    """Carry the plans out one after the other; what one of them raises does not stop the rest.

    A signal stops all. Raises the first error at the end, with its exit code.
    """
    from seedbench_r1.cli.carry_out import carry_out
    from seedbench_r1.cli.outcome import raise_unless_done
    from seedbench_r1.engines.kept_backend import KeptBackend

    kept, done, screen = KeptBackend(), [], console.err()
    try:
        for number, (model, planned) in enumerate(plans, start=1):
            if not (quiet or as_json):
                screen.print(f"\n{number} of {len(plans)}: {model}", soft_wrap=True)
            if isinstance(planned, SeedBenchError):
                screen.print(f"{model}: {planned}", soft_wrap=True)
                done.append(Done(model, None, None, planned))
                continue
            result, error = None, None
            try:
                # Processes of their own load each checkpoint themselves.
                here = kept.open if planned.config.data_parallel == 1 else None
                result, signal_number = carry_out(planned, quiet=quiet or as_json, open_backend=here)
                raise_unless_done(planned, result, signal_number)
            except SeedBenchError as problem:
                screen.print(f"{model}: {problem}", soft_wrap=True)
                error = problem
            done.append(Done(model, planned, result, error))
            if isinstance(error, Interrupted):
                break
    finally:
        kept.close()
    if as_json:
        console.print_json(_json(done))
    else:
        _print(done)
    _raise_first(done, len(plans))


def _raise_first(done: Sequence[Done], n_plans: int) -> None:
    failed = [one for one in done if one.error is not None]
    if not failed:
        return
    first = failed[0].error
    assert first is not None
    if isinstance(first, Interrupted):
        raise first
    left = f", {n_plans - len(done)} not begun" if len(done) < n_plans else ""
    names = ", ".join(one.model for one in failed)
    raise type(first)(f"{len(failed)} of {n_plans} checkpoints are not done{left}: {names}. Why: see above.")


def _print(done: Sequence[Done]) -> None:
    levels = list(dict.fromkeys(level for one in done if one.result for level in one.result.summary.splits))
    table = console.table(["checkpoint"], [*(f"{level} %" for level in levels), ""], padding=(0, 1, 0, 0))
    for one in done:
        name = one.planned.manifest.model.name if one.planned else one.model
        if one.planned is None or one.result is None:
            table.add_row(name, *("-" for _ in levels), "failed")
            continue
        cells = _cells(one.planned, one.result)
        table.add_row(
            name,
            *(cells.get(level, "-") for level in levels),
            "" if one.result.summary.status == "complete" else one.result.summary.status,
        )
    screen = console.out()
    screen.print(table)
    good = [one.planned.path for one in done if one.planned is not None and one.result is not None]
    if len(good) > 1:
        screen.print(FLATTERED.format(n=len(good)), soft_wrap=True)
        listed = " ".join(map(str, good))
        screen.print(f" next, with accuracy by step: seedbench-r1 leaderboard build {listed}", soft_wrap=True)


def _cells(planned: Plan, result: EvalResult) -> dict[str, str]:
    """Split -> accuracy with its interval; of several samples avg@K."""
    from leaderboards.sampled import sample_numbers
    from seedbench_r1.cli.results import Scored, accuracy_cell, counted_run
    from seedbench_r1.cli.samples_results import average_cell
    from seedbench_r1.runs.samples import load_samples

    if seeds := planned.config.sampled_seeds:
        found = sample_numbers(load_samples(planned.path, seeds))
        return {split: average_cell(numbers) for split, numbers in found.items()}
    run = counted_run(planned)
    return {
        split: accuracy_cell(group, Scored.of(r for r in run.records.values() if r.split == split))
        for split, group in result.summary.splits.items()
    }


def _json(done: Sequence[Done]) -> dict[str, object]:
    from seedbench_r1.cli.results import counted_run, summary_values
    from seedbench_r1.cli.samples_results import samples_values
    from seedbench_r1.runs.samples import load_samples

    runs: list[dict[str, object]] = []
    for one in done:
        value: dict[str, object] = {"model": one.model, "exit_code": one.exit_code}
        if one.error is not None:
            value["error"] = str(one.error)
        if one.planned is not None and one.result is not None:
            value["run_dir"] = str(one.planned.path)
            if seeds := one.planned.config.sampled_seeds:
                value |= samples_values(one.planned.path, load_samples(one.planned.path, seeds))
            else:
                value |= summary_values(counted_run(one.planned), one.result.summary)
        runs.append(value)
    return {"schema": "sbr1.eval-many/1", "runs": runs, "exit_code": max(one.exit_code for one in done)}
