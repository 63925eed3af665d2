"""How a run ends: its exit code, and the error that says what is left to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seedbench_r1.errors import IncompleteRun, Interrupted

if TYPE_CHECKING:
    from seedbench_r1.engines.base import EvalResult, Plan


def exit_code(planned: Plan, result: EvalResult, signal_number: int) -> int:
    """0 if everything asked has an answer, or failures stay within --max-error-rate; 5 or 128 + signal otherwise."""
    if result.stopped and signal_number and result.unanswered:
        return 128 + signal_number
    only_failures = result.unanswered == result.failed
    tolerated = result.failed <= planned.config.max_error_rate * len(planned.questions)
    return 0 if only_failures and tolerated else 5


def raise_unless_done(planned: Plan, result: EvalResult, signal_number: int) -> None:
    """Raises IncompleteRun or Interrupted if not everything has an answer."""
    config = planned.config
    if result.stopped and signal_number:
        raise Interrupted(
            f"Stopped by a signal, {result.unanswered} questions left. Run it again to go on.", signal_number
        )
    if not exit_code(planned, result, signal_number):
        return
    if config.max_cost is not None and result.unanswered > result.failed:
        raise IncompleteRun(
            f"{result.unanswered - result.failed} questions were not asked: --max-cost {config.max_cost:g} does not "
            f"pay for them. Everything answered is saved; run the same command again to spend as much again."
        )
    raise IncompleteRun(
        f"{result.unanswered} questions have no answer ({result.failed} failed). "
        f"Why: seedbench-r1 show {planned.path} --failed. Fix it and run the same command again."
    )
