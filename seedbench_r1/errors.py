"""Everything that can go wrong and be named. Each class carries the exit code of the command line.

A message says what, where, why (if likely) and the exact fix. Anything that is not a SeedBenchError is a bug: exit 1.
"""

from __future__ import annotations

import sys


class SeedBenchError(Exception):
    """Base of all errors that a user can cause or cure."""

    # A subclass without a code of its own counts as a bug, never as success.
    exit_code = 1


class ConfigError(SeedBenchError):
    """An option, a path, a package or an existing run directory does not fit what was asked."""

    exit_code = 3


class DataError(SeedBenchError):
    """Annotations or media are absent, incomplete or invalid; the message names file and line."""

    exit_code = 4


class IncompleteRun(SeedBenchError):
    """The run ended, but some questions have no answer."""

    exit_code = 5


class JudgeUnavailable(SeedBenchError):
    """The consistency judge cannot be reached or has no key. Answers are untouched."""

    exit_code = 6


class ResourceError(SeedBenchError):
    """Memory or disk ran out. What was computed is saved."""

    exit_code = 7


# By the convention of shells: 128 + 2 for Ctrl-C, 128 + 15 for SIGTERM.
class Interrupted(SeedBenchError):
    """Stopped by a signal after everything in flight was saved; the same command continues."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def refuse_to_start_in_a_worker() -> None:
    """Raise ConfigError in a decoding worker that imports the script that was started, and that script starts a run.

    In a training it would take its own parent's place among the processes, and all would wait for ever; in a run it
    would fail when it starts workers of its own, with multiprocessing's message.
    """
    multiprocessing = sys.modules.get("multiprocessing.process")  # a worker has it, `--help` need not
    if multiprocessing and getattr(multiprocessing.current_process(), "_inheriting", False):  # as spawn.py asks it
        raise ConfigError(
            "A decoding worker imports the script that was started, and this script runs or trains when it is "
            'imported. Fix: call main(), evaluate() or train() below `if __name__ == "__main__":`'
        )


LONGEST_CAUSE = 300  # characters


def one_line(error: Exception) -> str:
    """Another package's message, which may hold a file's content, as one line that can be read."""
    return (" ".join(str(error).split()) or type(error).__name__).rstrip(".")[:LONGEST_CAUSE]
