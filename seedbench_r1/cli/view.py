"""seedbench-r1 view: a window on runs and trainings, on this machine alone, with every text, clip and view."""

from __future__ import annotations

import contextlib
import secrets
import sys
import threading
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from seedbench_r1.cli import console
from seedbench_r1.cli.given_paths import refuse_folders_of_runs
from seedbench_r1.errors import ConfigError, DataError
from seedbench_r1.runs.samples import read_seeds

HOST = "127.0.0.1"  # other machines see nothing; over ssh: -L PORT:127.0.0.1:PORT


def view_command(
    paths: Annotated[list[Path], typer.Argument(help="Folders of runs, trainings, experiments.", show_default=False)],
    *,
    port: Annotated[int, typer.Option(help="0: any that is free.", min=0, max=65535)] = 0,
    baseline: Annotated[str | None, typer.Option(help="A run: directory, name, or model.")] = None,
    metric: Annotated[str | None, typer.Option(help="As for leaderboard build.")] = None,
    judge: Annotated[str | None, typer.Option(help="Judge id. Default: the one that judged most runs.")] = None,
    show: Annotated[bool, typer.Option("--open/--no-open", help="In the browser.")] = True,
) -> None:
    """Look at runs and trainings, also those in progress: all texts, the clips themselves, curves, rollouts.

    Only this machine reaches it, with the token in the address. Reload to see new answers; trainings go on by
    themselves. Ctrl-C ends it.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise ConfigError("The window needs starlette and uvicorn. Fix: pip install '.[view]'") from error
    from seedbench_r1.window.given import Given
    from seedbench_r1.window.runs import Runs
    from seedbench_r1.window.server import Window, application, open_socket

    given = Given(paths)
    runs = given.runs()
    if not any((run / "manifest.json").is_file() or read_seeds(run) for run in runs):
        refuse_folders_of_runs([run for run in runs if run.is_dir()])
    window = Window(given, Runs(baseline, metric, judge))
    # Before anything is served: what is wrong with the runs or a log is said here.
    window.page()
    if not window.trainings()[1] and not runs:
        raise DataError(f"{paths[0]} holds neither a run nor a training yet.")
    token = secrets.token_urlsafe(16)
    listening = open_socket(HOST, port)
    address = f"http://{HOST}:{listening.getsockname()[1]}/{token}/"
    # On standard output, so that a script can take it.
    typer.echo(address)
    console.err().print(" only this machine reaches it; Ctrl-C ends it", soft_wrap=True)
    sys.stdout.flush()
    if show:
        # A browser may take its time, and the server must not wait for it.
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    config = uvicorn.Config(application(window, token), log_level="warning", access_log=False, lifespan="off")
    # Ctrl-C is how a window is closed, and loses nothing.
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])
