"""Carrying a plan out in this process, as most tests do."""

from __future__ import annotations

from seedbench_r1.engines.local import LocalEngine
from seedbench_r1.engines.run import run_plan


def evaluate(planned, open_backend, **options):
    """run_plan on the local engine, with a backend of the test's own."""
    with LocalEngine(open_backend) as engine:
        return run_plan(planned, engine, **options)
