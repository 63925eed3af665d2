"""The console script. Commands import what is slow when they run, so that --help is immediate."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from typing import Annotated, Any

import typer
import typer.core

from seedbench_r1 import __version__
from seedbench_r1.cli import (
    console,
    data,
    demo,
    doctor,
    eval,
    experiment,
    export,
    imports,
    judge,
    leaderboard,
    lmms_benchmarks,
    probe,
    show,
    train,
    view,
)
from seedbench_r1.cli.outcome import lost_peer, wait_for_the_first_process
from seedbench_r1.errors import ResourceError, SeedBenchError, refuse_to_start_in_a_worker
from seedbench_r1.files import REFUSED
from seedbench_r1.terminal import inert_streams, make_streams_inert, printable


class _Commands(typer.core.TyperGroup):
    """Typer draws usage errors itself, in colours: what was typed is made inert before."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401  # click's, or Typer's copy of it
        with _inert_usage_errors():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401
        with _inert_usage_errors():
            return super().invoke(ctx)


@contextlib.contextmanager
def _inert_usage_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "message"):  # a ClickException of either
            error.message = printable(str(error.message))
            wait_for_the_first_process()
        raise


app = typer.Typer(
    name="seedbench-r1",
    cls=_Commands,
    help="Evaluate, train and compare video multimodal LLMs on SEED-Bench-R1. Unofficial.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("eval", rich_help_panel="Measure")(eval.evaluate_command)
app.command("lmms-path", rich_help_panel="Measure")(lmms_benchmarks.lmms_path_command)
app.command("probe", rich_help_panel="Measure")(probe.probe_command)
app.command("show", rich_help_panel="Measure")(show.show_command)
app.command("train", rich_help_panel="Train")(train.train_command)
app.add_typer(experiment.app, name="experiment", rich_help_panel="Train")
app.add_typer(demo.app, name="demo", rich_help_panel="Try")
app.command("doctor", rich_help_panel="Try")(doctor.doctor_command)
app.add_typer(data.app, name="data", rich_help_panel="Data")
app.add_typer(judge.app, name="judge", rich_help_panel="Measure")
app.command("view", rich_help_panel="Measure")(view.view_command)
app.add_typer(leaderboard.app, name="leaderboard", rich_help_panel="Measure")
app.add_typer(imports.app, name="import", rich_help_panel="Data")
app.add_typer(export.app, name="export", rich_help_panel="Data")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def common(
    *,
    verbose: Annotated[
        int, typer.Option("-v", "--verbose", count=True, help="More messages; -vv shows tracebacks.")
    ] = 0,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before the command."""
    make_streams_inert()  # for those who call `app` itself, too
    level = [logging.WARNING, logging.INFO, logging.DEBUG][min(verbose, 2)]
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)


def main() -> None:
    """Run the command line. Exit codes: docs/cli.md."""
    with inert_streams():
        _run()


def _run() -> None:
    console.begin_json()
    try:
        refuse_to_start_in_a_worker()
        app()
    except SeedBenchError as error:
        _report(error, str(error), error.exit_code)
    except SystemExit as end:
        if _interrupted(end):
            _report(end, "Stopped. What was finished is saved; the same command continues.", 130)
        raise
    except OSError as error:
        if error.errno not in REFUSED:
            _report(error, _bug_message(error), 1)
        _report(error, _disk_message(error), ResourceError.exit_code)
    except Exception as error:  # noqa: BLE001 - a bug: the traceback is kept in a file, and the process exits with 1
        _report(error, lost_peer(error) or _bug_message(error), 1)


def _interrupted(end: SystemExit) -> bool:
    """Whether a Ctrl-C is behind the exit: Typer turns KeyboardInterrupt into one without a word."""
    cause: BaseException | None = end
    while cause is not None and not isinstance(cause, KeyboardInterrupt):
        cause = cause.__cause__ or cause.__context__
    return cause is not None


def _report(error: BaseException, message: str, code: int) -> None:
    if "--json" in sys.argv and not console.has_printed_json():
        with contextlib.suppress(OSError):  # standard output may be what is full; standard error says it below
            console.print_json({"schema": "sbr1.error/1", "status": "error", "errors": [message], "exit_code": code})
    if "-vv" in sys.argv:
        traceback.print_exception(error)
    print(message, file=sys.stderr)
    sys.stderr.flush()
    raise SystemExit(code) from error


def _disk_message(error: OSError) -> str:
    """Of a disk that refuses where nobody has said it better."""
    place = error.filename or "Standard output, or a file that was being written"
    return (
        f"{place}: {error.strerror}. What was finished is saved. Fix: free some space there, or make it readable and "
        f"writable, or choose another place (--runs-dir for runs, --out for what is made from them)."
    )


def _bug_message(error: Exception) -> str:
    where = "-vv shows the traceback"
    # A bug may come of a full disk, which has no room for its traceback either.
    with contextlib.suppress(OSError):
        descriptor, path = tempfile.mkstemp(prefix="seedbench-r1-", suffix=".traceback.txt")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as stream:
            traceback.print_exception(error, file=stream)
        where = f"the traceback is in {path}"
    return f"Unexpected {type(error).__name__}: {error}. This is a bug; {where}. Please report it."
