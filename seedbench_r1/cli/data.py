"""seedbench-r1 data: is the data set there, and is it sound?"""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from seedbench_r1.cli import console
from seedbench_r1.cli.data_check import check_command
from seedbench_r1.cli.given_paths import data_root_explained
from seedbench_r1.cli.options import plain_option
from seedbench_r1.cli.prepare import prepare_command
from seedbench_r1.config import configured_data_root, find_data_root, resolve_eval_config
from seedbench_r1.config_file import parse_levels
from seedbench_r1.errors import DataError, Interrupted
from seedbench_r1.media.layout import in_another_case
from seedbench_r1.questions import load_questions
from seedbench_r1.types import to_json

if TYPE_CHECKING:
    from seedbench_r1.data.status import Finding, LevelStatus

app = typer.Typer(help="Fetch the data set, and look at it on disk.", no_args_is_help=True)
app.command("prepare")(prepare_command)
app.command("check")(check_command)

Root = Annotated[Path | None, plain_option("--data-root", help="Folder of annotations/, videos/, images/.")]
Levels = Annotated[str, typer.Option(help="Levels to look at.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]


@app.command("download")
def download_command(
    *,
    to: Annotated[
        Path | None, plain_option("--to", help="Data root to fill; default: the configured one, else ./data.")
    ] = None,
    only_missing: Annotated[
        bool, typer.Option("--only-missing", help="Leave media alone that are there and not too short.")
    ] = False,
    levels: Annotated[str, typer.Option(help="Levels to fetch; `train` adds the training set.")] = "L1,L2,L3",
    revision: Annotated[str, typer.Option(help="Branch, tag or commit of the data set.")] = "main",
    repo_id: Annotated[
        str | None, plain_option("--repo-id", help="ORG/NAME; default: the authors' repository.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Files and archives fetched at once.", min=1)] = 8,
    as_json: AsJson = False,
) -> None:
    """Fetch annotations and the media they name from the hub, out of archives too. Call again to continue."""
    from seedbench_r1.data.download import REPO_ID, DownloadConfig, download

    # Modules are imported inside commands: `--help` must not wait for the hub's client.
    config = DownloadConfig(
        data_root=to or configured_data_root() or Path("data"),
        repo_id=repo_id or REPO_ID,
        revision=revision,
        levels=_download_levels(levels),
        only_missing=only_missing,
        workers=workers,
    )
    try:
        with DownloadProgress() as progress:
            result = download(config, progress)
    # The download has stopped its threads and saved its manifest by now.
    except KeyboardInterrupt as error:
        raise Interrupted("Stopped. What has arrived is kept; the same command continues.", signal.SIGINT) from error
    if as_json:
        console.print_json({"schema": "sbr1.download/1", "status": "complete", **to_json(result), "exit_code": 0})
        return

    console.out().print(
        f"{', '.join(result.levels)} complete in {result.data_root}: {result.fetched} files and archives fetched "
        f"({result.fetched_bytes / 1e9:.2f} GB), {result.kept} were there, {result.unpacked} unpacked from archives; "
        f"{result.repo_id} at {result.commit}",
        soft_wrap=True,
    )


def _download_levels(value: str) -> tuple[str, ...]:
    """As parse_levels, and `train`."""
    from seedbench_r1.data.download import TRAIN

    names = [name for name in value.split(",") if name.strip()]
    levels = [name for name in names if name.strip().lower() != TRAIN]
    # "train" is no level of the benchmark, so parse_levels does not know it.
    training = (TRAIN,) if len(levels) < len(names) else ()
    # An empty value is parse_levels' to refuse; `train` alone needs no level.
    return (parse_levels(",".join(levels)) if levels or not training else ()) + training


class DownloadProgress:
    """Bytes on standard error: a bar on a terminal, a line now and then elsewhere. May be called from any thread."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

        self._console = console.err()
        # Worker threads report bytes; the bar and the counts are shared.
        self._guard = threading.Lock()
        self._moved = self._expected = 0
        self._pace = console.LinePace()
        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        # A terminal is redrawn; a log file gets a line now and then.
        self._bar = Progress(*columns, console=self._console) if console.is_live(self._console) else None
        self._task = self._bar.add_task("", total=0) if self._bar else None

    def __enter__(self) -> DownloadProgress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)

    def expect(self, n_bytes: int) -> None:
        with self._guard:
            self._expected += n_bytes
            # A new estimate begins a new measure of speed: hashing came before it.
            self._pace.restart(self._moved)
            if self._bar and self._task is not None:
                self._bar.update(self._task, total=self._expected)

    def moved(self, n_bytes: int) -> None:
        with self._guard:
            self._moved += n_bytes
            if self._bar and self._task is not None:
                self._bar.update(self._task, completed=self._moved)
                return
            # Inside the lock, so that two threads do not both find a line due.
            speed = self._pace.speed_if_due(self._moved, self._expected)
        if speed is not None:
            self.say(f"{self._moved / 1e9:.2f} of {self._expected / 1e9:.2f} GB, {speed / 1e6:.1f} MB/s")


@app.command("status")
def status_command(*, data_root: Root = None, levels: Levels = "L1,L2,L3", as_json: AsJson = False) -> None:
    """Count annotations and media files of each level. Exit 4 if something is absent."""
    from seedbench_r1.data.status import data_status, download_left

    root = find_data_root(data_root)
    # The table comes even if something is absent: the error only says what to type.
    levels_found = data_status(root, parse_levels(levels))
    if as_json:
        console.print_json({"schema": "sbr1.data/1", "data_root": str(root), "levels": to_json(levels_found)})
    else:
        _print_status(root, levels_found)
    problems = [level.error for level in levels_found if level.error]
    problems += [text for level in levels_found for text in _level_problems(level)]
    if not problems:
        return
    # Only a download that was begun knows sizes.
    left = f" ({n / 1e9:.3g} GB left)" if (n := download_left(root)) else ""
    complete = [level.level for level in levels_found if not (level.error or level.missing or level.short)]
    other = f" Or evaluate complete levels only: --levels {','.join(complete)}." if complete else ""
    problems.append(f"Fix: seedbench-r1 data download --only-missing --to {root}{left}.{other}")
    # One line for each problem, the fix last, where the eye stops.
    with data_root_explained({"data_root": data_root}):
        raise DataError("\n".join(problems))


def _level_problems(level: LevelStatus) -> list[str]:
    """One line for each kind of media that is not complete."""
    lines = []
    for kind, total in (("videos", level.videos), ("images", level.images)):
        # A path says by its suffix which kind it is: the status does not keep them apart.
        missing = sum(_is_image(path) == (kind == "images") for path in level.missing)
        short = sum(_is_image(path) == (kind == "images") for path in level.short)
        interrupted = f", {short} files shorter than expected (interrupted download?)" if short else ""
        if missing or short:
            lines.append(f"{level.level} {kind}: {total - missing}/{total} present{interrupted}.")
    return lines


def _is_image(path: Path) -> bool:
    # Clips and images share no suffix.
    return path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp")


def _print_status(root: Path, levels: list[LevelStatus]) -> None:
    table = Table(box=None, header_style="bold")
    table.add_column("level")
    for name in ("questions", "videos", "images", "missing", "short", "MB"):
        table.add_column(name, justify="right")
    for level in levels:
        lost = set(level.missing)
        videos = sum(not _is_image(path) for path in lost)
        table.add_row(
            level.level,
            str(level.questions),
            f"{level.videos - videos}/{level.videos}",
            f"{level.images - (len(lost) - videos)}/{level.images}",
            str(len(lost)),
            str(len(level.short)),
            f"{level.n_bytes / 1e6:.1f}",
        )
    screen = console.out()
    screen.print(f"data root {root}", soft_wrap=True)
    screen.print(table)
    # Five examples of each show a pattern; --json has all.
    missing = [path for level in levels for path in level.missing][:5]
    renamed = in_another_case(missing)
    for path in missing:
        alike = f"; {renamed[path].name} is there, in another case: rename it" if path in renamed else ""
        screen.print(f"missing: {path}{alike}", soft_wrap=True)
    for path in [path for level in levels for path in level.short][:5]:
        screen.print(f"shorter than expected: {path}", soft_wrap=True)


@app.command("verify")
def verify_command(
    *,
    data_root: Root = None,
    levels: Levels = "L1,L2,L3",
    decode_sample: Annotated[
        int | None,
        typer.Option(
            help="Decode the frames of N clips only, and read the packets of the others. Default: all.", min=0
        ),
    ] = None,
    exact_frames: Annotated[
        bool, typer.Option("--exact-frames", help="Also compare decord's frames with a sequential PyAV decode.")
    ] = False,
    reader: Annotated[
        str | None, plain_option(help="decord, pyav, torchcodec. Default: the one that `eval` would use.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Checking processes.", min=1)] = 2,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds for one file.", min=0.1)] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Open every file as `eval` does, and name what is absent, cut short, damaged or undecodable. Exit 4 if any is."""
    from seedbench_r1.data.status import verify
    from seedbench_r1.media.decode import check_reader

    # Before hours of checking, not after.
    root = find_data_root(data_root)
    given = {} if reader is None else {"reader": reader}
    # No model is opened; the settings of `eval` are read without one.
    video = resolve_eval_config({"model": "none", "backend": "transformers", "data_root": root, **given}).video
    check_reader(video.reader)
    if exact_frames:
        check_reader("decord")
    with data_root_explained({"data_root": data_root}):
        questions = load_questions(root, parse_levels(levels))
    found = []
    for finding in verify(
        questions,
        video,
        decode_sample=decode_sample,
        exact_frames=exact_frames,
        workers=workers,
        timeout_s=timeout_s,
    ):
        found.append(finding)
        if not as_json:
            _print_finding(finding)
    unusable = sum(not finding.usable for finding in found)
    if as_json:
        problems = to_json([finding for finding in found if not finding.usable])
        notes = to_json([finding for finding in found if finding.usable])
        console.print_json({"schema": "sbr1.verify/2", "checked": len(questions), "problems": problems, "notes": notes})
    if unusable:
        raise DataError(f"{unusable} files are not sound, of {len(questions)} questions.")
    # Not a result, so not on standard output.
    console.err().print(f"all media of {len(questions)} questions can be shown")


def _print_finding(finding: Finding) -> None:
    # A clip may serve several questions; the first id is enough to find it.
    asked = f"{finding.question_ids[0]}" + (f" and {n} more" if (n := len(finding.question_ids) - 1) else "")
    # Decoding errors name the file already; a note does not.
    named = str(finding.path) in finding.message
    text = finding.message if named else f"{finding.path}: {finding.message}"
    kind = "" if finding.usable else "NOT SOUND  "
    console.out().print(f"{kind}{text} ({asked})", soft_wrap=True)
