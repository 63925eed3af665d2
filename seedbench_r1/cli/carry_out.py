"""A plan carried out in front of a person: progress on standard error, signals handled."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from seedbench_r1.backends.base import sample_id
from seedbench_r1.config import EvalConfig

if TYPE_CHECKING:
    from seedbench_r1.backends.base import Backend
    from seedbench_r1.engines.base import Engine, EvalResult, Plan


def carry_out(
    planned: Plan, *, quiet: bool, open_backend: Callable[[EvalConfig], Backend] | None = None
) -> tuple[EvalResult, int]:
    """Evaluate with progress on standard error and signals handled. Returns the result and the signal, 0 if none.

    Of several samples: their numbers of unanswered questions together, and the counts of one of them.

    open_backend: for an engine in this process, instead of loading the model anew.
    """
    from seedbench_r1.cli.console import silence_weight_bars
    from seedbench_r1.cli.progress import EvalProgress
    from seedbench_r1.cli.signals import draining_signals
    from seedbench_r1.engines.local import LocalEngine
    from seedbench_r1.engines.plan import open_engine
    from seedbench_r1.engines.run import run_plan

    if planned.checkpoint is not None:
        silence_weight_bars()
    with (
        open_engine(planned.config) if open_backend is None else LocalEngine(open_backend) as engine,
        draining_signals(engine.stop_message) as (stop, received),  # inside: Ray sets a handler of its own
        EvalProgress(_with_samples(planned), quiet=quiet) as progress,
    ):
        run = functools.partial(
            _run_samples if planned.config.sampled_seeds else run_plan, planned, engine, stop=stop, say=progress.say
        )
        # Where nothing is shown, a million records need not be held for showing.
        result = run() if quiet else run(observe=progress.observe, opened=progress.opened)
    return result, received[0] if received else 0


def _run_samples(planned: Plan, engine: Engine, **told: Any) -> EvalResult:  # noqa: ANN401  # as run_samples takes them
    from seedbench_r1.engines.run import run_samples

    results = list(run_samples(planned, engine, **told).values())
    unanswered, failed = (sum(getattr(result, name) for result in results) for name in ("unanswered", "failed"))
    # What is incomplete in one sample is incomplete.
    counted = next((result for result in results if result.summary.status == "incomplete"), results[0])
    return replace(counted, unanswered=unanswered, failed=failed)


def _with_samples(planned: Plan) -> Plan:
    """With every sample of a question for one to be asked, as progress counts them."""
    seeds = planned.config.sampled_seeds
    if not seeds:
        return planned
    asked = [replace(q, question_id=sample_id(q.question_id, seed)) for seed in seeds for q in planned.questions]
    return replace(planned, questions=asked)
