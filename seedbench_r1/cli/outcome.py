"""How a run ends: its exit code, and the error that says what is left to do."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from seedbench_r1.config import environment_value
from seedbench_r1.errors import IncompleteRun, Interrupted, SeedBenchError

if TYPE_CHECKING:
    from seedbench_r1.engines.base import EvalResult, Plan

# What torch.distributed raises in a process whose peer is gone: DistBackendError or DistNetworkError, or a RuntimeError
# that names gloo or NCCL. Each is also raised for other reasons, so the text has to say that a connection ended.
_FROM_DISTRIBUTED = re.compile(r"gloo|nccl", re.IGNORECASE)
_CONNECTION_ENDED = re.compile(
    r"connection (was )?(likely )?(closed|reset)|broken pipe|closed by peer|remote process exited|timed? ?out|timeout",
    re.IGNORECASE,
)


def exit_code(planned: Plan, result: EvalResult, signal_number: int) -> int:
    """0 if everything asked has an answer, or failures stay within --max-error-rate; 5 or 128 + signal otherwise."""
    if result.stopped and signal_number and result.unanswered:
        return 128 + signal_number
    only_failures = result.unanswered == result.failed
    asked = len(planned.questions) * max(1, len(planned.config.sampled_seeds))
    tolerated = result.failed <= planned.config.max_error_rate * asked
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


# torchrun ends all of a node's processes a tenth of a second after one of them has ended.
WAIT_FOR_THE_FIRST_S = 30.0


@contextlib.contextmanager
def refusals_said_once() -> Iterator[None]:
    """What all processes of a node refuse alike is said by the first of them."""
    try:
        yield
    except SeedBenchError:
        wait_for_the_first_process()
        raise


def wait_for_the_first_process() -> None:
    """Called with an error to say, in a process that torchrun has started next to others of the same command line.

    If the node's first process has the same error, torchrun ends this one while it waits; if this one alone has it, it
    is said WAIT_FOR_THE_FIRST_S later.
    """
    if environment_value("TORCHELASTIC_RUN_ID", "") and environment_value("LOCAL_RANK", "0") != "0":
        time.sleep(WAIT_FOR_THE_FIRST_S)


def lost_peer(error: Exception) -> str | None:
    """What to say of an error that another process's end has caused in this one; None of any other error."""
    if not isinstance(error, RuntimeError):
        return None
    # By name: torch need not be imported to tell.
    distributed = any(kind.__module__ == "torch.distributed" for kind in type(error).__mro__)
    if not (distributed or _FROM_DISTRIBUTED.search(str(error))) or not _CONNECTION_ENDED.search(str(error)):
        return None
    return (
        f"Another process has ended (killed, out of memory, or a lost node): torchrun's last lines name it under Root "
        f"Cause; -9 is usually main memory. Steps since the last checkpoint are lost; the same command continues. "
        f"Here it showed as: {str(error).splitlines()[0]}"
    )
