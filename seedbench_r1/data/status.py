"""Is the data set there and sound? status counts files; verify opens them, in processes that can be killed."""

from __future__ import annotations

import multiprocessing
import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from pathlib import Path

from pebble import ProcessExpired, ProcessPool

from seedbench_r1.data.manifest import DataManifest, bytes_left, read_data_manifest, short_files
from seedbench_r1.errors import DataError
from seedbench_r1.media.decode import MediaError, decode_frames, probe_clip
from seedbench_r1.media.frames import choose_frames, exact_frames_differ, load_image
from seedbench_r1.media.loader import start_worker
from seedbench_r1.questions import annotation_path, load_annotations
from seedbench_r1.types import LEVELS, Question, VideoConfig

Check = Callable[[Path, VideoConfig], None]  # raises MediaError; run in a worker, so importable by name


@dataclass(frozen=True, slots=True)
class LevelStatus:
    """What is on disk for one level."""

    level: str
    annotations: Path
    questions: int
    videos: int  # different files that the annotations name
    images: int
    missing: tuple[Path, ...]
    short: tuple[Path, ...]  # present, with fewer bytes than the download expects
    n_bytes: int  # of the files that are there
    error: str | None  # why the annotations cannot be used


@dataclass(frozen=True, slots=True)
class Problem:
    """One file that is not as it should be."""

    path: Path
    message: str
    question_ids: tuple[str, ...]


def data_status(data_root: Path, levels: Sequence[str] = LEVELS) -> list[LevelStatus]:
    """Count annotations and media of each level. An absent or invalid annotation file is reported, not raised."""
    manifest = read_data_manifest(data_root)
    return [_level_status(data_root, level, manifest) for level in levels]


def download_left(data_root: Path) -> int:
    """Bytes that an unfinished download still has to fetch into this data root; 0 if none was begun."""
    return bytes_left(data_root, read_data_manifest(data_root))


def _level_status(data_root: Path, level: str, manifest: DataManifest) -> LevelStatus:
    path = annotation_path(data_root, level)
    try:
        questions = load_annotations(path, data_root, level)
    except DataError as error:
        # Zeros, so that the table still shows the other levels.
        return LevelStatus(level, path, 0, 0, 0, (), (), 0, str(error))
    videos = {question.video for question in questions if question.video is not None}
    images = {question.image for question in questions if question.image is not None}
    # Sets: several questions share a clip, which is one file on disk.
    files = videos | images
    present = {file for file in files if file.exists()}
    return LevelStatus(
        level=level,
        annotations=path,
        questions=len(questions),
        videos=len(videos),
        images=len(images),
        missing=tuple(sorted(files - present)),
        short=short_files(data_root, present, manifest),
        n_bytes=sum(file.stat().st_size for file in present),
        error=None,
    )


def verify(
    questions: Sequence[Question],
    config: VideoConfig,
    *,
    decode_sample: int = 0,
    exact_frames: bool = False,
    workers: int = 2,
    timeout_s: float = 60.0,
) -> Iterator[Problem]:
    """Open every file the questions name and yield those that are absent, cut short or undecodable.

    decode_sample: also decode the frames of so many clips, chosen by a fixed seed. exact_frames: also compare decord's
    frames of every clip with a sequential PyAV decode.
    """
    videos = _users(questions, lambda question: question.video)
    images = _users(questions, lambda question: question.image)
    for path in (*videos, *images):
        if not path.exists():
            yield Problem(path, "missing", (*videos.get(path, ()), *images.get(path, ())))
    # The seed is fixed, so that two machines check the same clips.
    clips = [path for path in videos if path.exists()]
    sample = random.Random(0).sample(clips, min(decode_sample, len(clips)))
    checks: list[tuple[Check, list[Path], dict[Path, tuple[str, ...]]]] = [
        (check_clip, clips, videos),
        (check_image, [path for path in images if path.exists()], images),
        (check_decoding, sample, videos),
        (check_exact_frames, clips if exact_frames else [], videos),
    ]
    # A file is reported once, by the cheapest check that it fails.
    bad: set[Path] = set()
    with ProcessPool(
        max_workers=workers,
        # Native decoders hang and crash on damaged files: each check runs where it can be killed.
        initializer=start_worker,
        initargs=(os.getpid(),),
        context=multiprocessing.get_context("spawn"),
    ) as pool:
        try:
            for check, paths, users in checks:
                sound = [path for path in paths if path not in bad]
                for path, message in _run(pool, check, sound, config, timeout_s):
                    bad.add(path)
                    yield Problem(path, message, users[path])
        finally:
            # Also when the consumer stops listening: no worker stays behind.
            pool.stop()  # type: ignore[no-untyped-call]


def check_clip(path: Path, config: VideoConfig) -> None:
    """Read a clip's container without decoding it."""
    probe_clip(path)


def check_image(path: Path, config: VideoConfig) -> None:
    """Decode and resize an image."""
    load_image(path, config)


def check_decoding(path: Path, config: VideoConfig) -> None:
    """Decode a clip's frames as an evaluation does."""
    clip = probe_clip(path)
    decode_frames(path, choose_frames(clip.n_frames, clip.native_fps, config), config.reader)


def check_exact_frames(path: Path, config: VideoConfig) -> None:
    """Compare decord's pixels of the chosen frames with a sequential PyAV decode."""
    if differing := exact_frames_differ(path, config):
        raise MediaError(f"decord's frames differ from a sequential decode at {differing}")


def _problem(check: Check, path: Path, config: VideoConfig) -> str | None:
    """Runs in a worker: what is wrong with a file; None: nothing."""
    try:
        check(path, config)
    except MediaError as error:
        return str(error)
    return None


def _run(
    pool: ProcessPool, check: Check, paths: list[Path], config: VideoConfig, timeout_s: float
) -> Iterator[tuple[Path, str]]:
    """(path, message) for every path that fails the check."""
    future = pool.map(_problem, [check] * len(paths), paths, [config] * len(paths), timeout=timeout_s)
    # In the order of the paths, whichever is ready first.
    results = future.result()
    for path in paths:
        try:
            message = next(results)
        except FutureTimeoutError:
            message = f"{path}: took longer than {timeout_s:g} s and was stopped"
        except ProcessExpired as error:
            message = f"{path}: the decoder crashed (exit code {error.exitcode})"
        if message is not None:
            yield path, message


def _users(questions: Iterable[Question], file: Callable[[Question], Path | None]) -> dict[Path, tuple[str, ...]]:
    users: dict[Path, tuple[str, ...]] = {}
    for question in questions:
        path = file(question)
        if path is not None:
            # In the order of the questions; the first id is shown.
            users[path] = (*users.get(path, ()), question.question_id)
    return users
