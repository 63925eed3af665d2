"""A plan carried out in front of a person: progress on standard error, signals handled."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from seedbench_r1.config import EvalConfig

if TYPE_CHECKING:
    from seedbench_r1.backends.base import Backend
    from seedbench_r1.engines.base import EvalResult, Plan


def carry_out(
    planned: Plan, *, quiet: bool, open_backend: Callable[[EvalConfig], Backend] | None = None
) -> tuple[EvalResult, int]:
    """Evaluate with progress on standard error and signals handled. Returns the result and the signal, 0 if none.

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
        EvalProgress(planned, quiet=quiet) as progress,
    ):
        # Where nothing is shown, a million records need not be held for showing.
        run = functools.partial(run_plan, planned, engine, stop=stop, say=progress.say)
        result = run() if quiet else run(observe=progress.observe, opened=progress.opened)
    return result, received[0] if received else 0
