"""Is the data set there and sound? status counts files; verify opens them, in processes that can be killed."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from seedbench_r1.data.manifest import DataManifest, bytes_left, read_data_manifest, short_files
from seedbench_r1.errors import DataError
from seedbench_r1.media.container import MediaError
from seedbench_r1.media.frames import exact_frames_differ, load_media, why_in_sequence
from seedbench_r1.media.layout import in_another_case
from seedbench_r1.media.loader import FrameLoader
from seedbench_r1.media.probe import probe_clip
from seedbench_r1.questions import annotation_path, load_annotations
from seedbench_r1.types import LEVELS, Failure, Media, Question, VideoConfig


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
class Finding:
    """One file of which there is something to say."""

    path: Path
    message: str
    question_ids: tuple[str, ...]
    usable: bool  # an evaluation shows it, with this note; else its questions fail


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
    decode_sample: int | None = None,
    exact_frames: bool = False,
    workers: int = 2,
    timeout_s: float = 60.0,
) -> Iterator[Finding]:
    """Open every file as an evaluation does, and yield those of which there is something to say.

    Args:
        questions: whose clips and images are opened.
        config: which frames are decoded, by which reader.
        decode_sample: decode the frames of so many clips, chosen by a fixed seed, and read only the packets of the
            others; None: decode all.
        exact_frames: also compare decord's frames of every clip with a sequential PyAV decode.
        workers: checking processes.
        timeout_s: seconds for one file.
    """
    videos = _users(questions, lambda question: question.video)
    images = _users(questions, lambda question: question.image)
    asked: list[Question] = []
    renamed = in_another_case(path for path in (*videos, *images) if not path.exists())
    for path, users in (videos | images).items():
        if path.exists():
            asked.append(
                replace(users[0], video=path if path in videos else None, image=path if path in images else None)
            )
        else:
            named = f"; {renamed[path].name} is there, in another case. Fix: rename it" if path in renamed else ""
            yield Finding(path, f"{path}: missing{named}", _ids(users), usable=False)
    # The seed is fixed, so that two machines check the same clips.
    clips = [path for path in videos if path.exists()]
    sample = clips if decode_sample is None else random.Random(0).sample(clips, min(decode_sample, len(clips)))
    check = functools.partial(check_files, decoded=frozenset(sample), exact_frames=exact_frames)
    with FrameLoader(config, workers=workers, timeout_s=timeout_s, load=check) as loader:
        for question, result in loader.stream(asked):
            file = question.video or question.image
            note = result.message if isinstance(result, Failure) else result.reader_note
            if file is not None and note is not None:
                users = videos.get(file) or images[file]
                yield Finding(file, note, _ids(users), usable=not isinstance(result, Failure))


def check_files(
    video: Path | None, image: Path | None, config: VideoConfig, *, decoded: frozenset[Path], exact_frames: bool
) -> Media:
    """What an evaluation would say of these files, without the pixels. Raises MediaError like load_media."""
    # Of clips that an evaluation gives to PyAV, decord's frames do not matter.
    exact_frames = exact_frames and video is not None and why_in_sequence(probe_clip(video), "decord") is None
    if video is not None and exact_frames and (differing := exact_frames_differ(video, config)):
        raise MediaError(f"{video}: decord's frames differ from a sequential decode at {differing}")
    if video is not None and video not in decoded:
        probe_clip(video)
        video = None
    if video is None and image is None:
        return Media(None, (), None, None, None, None)
    return replace(load_media(video, image, config), frames=None, image=None)


def _users(questions: Iterable[Question], file: Callable[[Question], Path | None]) -> dict[Path, list[Question]]:
    users: dict[Path, list[Question]] = {}
    for question in questions:
        path = file(question)
        if path is not None:
            # In the order of the questions; the first id is shown.
            users.setdefault(path, []).append(question)
    return users


def _ids(users: Iterable[Question]) -> tuple[str, ...]:
    return tuple(question.question_id for question in users)
