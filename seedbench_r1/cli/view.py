"""seedbench-r1 view: a window on runs and trainings, on this machine alone, with every text, clip and view."""

from __future__ import annotations

import contextlib
import logging
import secrets
import sys
import threading
import webbrowser
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from seedbench_r1.cli import console
from seedbench_r1.cli.given_paths import refuse_folders_of_runs
from seedbench_r1.errors import ConfigError, DataError, SeedBenchError
from seedbench_r1.runs.samples import has_begun
from seedbench_r1.runs.training_snapshot import METRICS

if TYPE_CHECKING:
    import uvicorn

    from seedbench_r1.window.server import Window

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

    window = Window(Given(paths), Runs(baseline, metric, judge))
    _refuse_or_warn(window)
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
    # A clip that is half sent must not keep the window open.
    config = uvicorn.Config(
        application(window, token), log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=1
    )
    # Ctrl-C is how a window is closed, and loses nothing.
    with contextlib.suppress(KeyboardInterrupt):
        _server(config).run(sockets=[listening])


def _server(config: uvicorn.Config) -> uvicorn.Server:
    """uvicorn's, which says nothing of what it cuts off once it is told to end."""
    import uvicorn

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)
            super().handle_exit(sig, frame)

    return Server(config)


def _refuse_or_warn(window: Window) -> None:
    """Before anything is served: what is wrong with the runs is said, and ends it where there are no trainings either.

    Raises what build_board raises, and DataError for folders that hold nothing.
    """
    runs, trainings = window.given.runs(), window.trainings()[1]
    folders = [path for path in runs if path.is_dir() and not has_begun(path)]
    for path in [*folders, *([] if runs else window.given.paths)]:
        within = sorted(log.parent for log in path.glob(f"*/{METRICS}"))
        if within and not trainings:
            raise DataError(f"{path} holds {len(within)} trainings and is none itself. Fix: seedbench-r1 view {path}/*")
        if (path.parent / METRICS).is_file():
            raise DataError(f"{path} lies in a training. Fix: seedbench-r1 view {path.parent}")
    if not runs and not trainings:
        raise DataError(
            f"{window.given.paths[0]} holds neither a run nor a training yet. Fix: start it first, or give the folder "
            f"of a run (manifest.json), of a training (metrics.jsonl) or of an experiment."
        )
    try:
        if len(folders) == len(runs):
            refuse_folders_of_runs(folders)
        window.page()
    except (SeedBenchError, OSError) as error:
        if not trainings:
            raise
        console.err().print(f" the runs cannot be shown, the trainings can: {error}", soft_wrap=True)
