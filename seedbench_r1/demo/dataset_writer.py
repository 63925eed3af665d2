"""Writes the miniature world as a data root in the benchmark's own schema and layout."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Literal, TypedDict, Unpack

import av
import numpy as np
from PIL import Image

from leaderboards.suites import TOY
from seedbench_r1.demo.render import ClipFormat, render_clip, render_image
from seedbench_r1.demo.traces import Kind, write_response
from seedbench_r1.demo.world import Situation, draw_situations
from seedbench_r1.errors import ConfigError
from seedbench_r1.files import JsonObject, make_folder, replacing, writing
from seedbench_r1.media.decode import Pixels
from seedbench_r1.prompts import DEFAULT_TEMPLATE, build_messages
from seedbench_r1.questions import ANNOTATION_FILES
from seedbench_r1.types import LETTERS, LEVELS, Question

Row = JsonObject  # a record of an annotation file

DEFAULT_QUESTIONS: Mapping[str, int] = {"L1": 12, "L2": 8, "L3": 8}
TRAINING_FILE = "training_6k.jsonl"
COT_FILE = "training_with_cot_6k.jsonl"
FIRST_TRAINING_ID = 100_000  # above any L1 sample_id: both keep their media in the same folder
GREY = 128  # of a medium that is left blank
LEAD_IN_FRAMES = 30  # frames of the imagined source recording before the first step


class ClipOptions(TypedDict, total=False):
    """Keyword arguments of write_benchmark that describe the pictures: the fields of render.ClipFormat."""

    frame_size: tuple[int, int]
    fps: int
    seconds: float


def write_benchmark(
    root: Path,
    *,
    seed: int = 0,
    questions: Mapping[str, int] = DEFAULT_QUESTIONS,
    train: int = 0,
    cot: int = 0,
    inconsistent: float = 0.0,
    wrong: float = 0.0,
    blank: Literal["clip", "image"] | None = None,
    **clip: Unpack[ClipOptions],
) -> None:
    """Write annotations, clips and images of a miniature benchmark under root.

    questions: how many of each level; a level that is absent gets no file. train, cot: rows of the two training
    files; the CoT rows are the first training rows with their options fixed, a prompt and a response. inconsistent,
    wrong: shares of the CoT responses of these kinds (see traces.write_response); the others are sound. blank: this
    medium is grey everywhere, to see what the other one is worth. clip: frame_size (width, height), fps, seconds (of
    every clip). The same arguments give the same annotation bytes and the same pixels.
    Every file is written under a temporary name and renamed, so that a second call replaces each file by an equal one
    and no reader finds half a file.

    Raises ConfigError for a level, number, share or clip format that makes no sense.
    """
    if unknown := sorted(set(questions) - set(LEVELS)):
        raise ConfigError(f"questions names level {unknown[0]!r}, expected some of {', '.join(LEVELS)}.")
    if min(inconsistent, wrong) < 0 or inconsistent + wrong > 1:
        raise ConfigError(f"inconsistent is {inconsistent} and wrong {wrong}, expected shares that leave some of 1.")
    clip_format = ClipFormat(**clip)
    if train < 0 or cot < 0:
        raise ConfigError(f"train is {train} and cot is {cot}, expected numbers of rows.")
    # Each split draws from its own seed, so that more rows of one change no other.
    splits = {level: draw_situations(level, n, seed) for level, n in questions.items()}
    splits["train"] = draw_situations("train", max(train, cot), seed)
    for split, situations in splits.items():
        rows = [annotation_row(s, split, index, clip_format) for index, s in enumerate(situations)]
        _write_media(root, situations, rows, clip_format, blank)
        # Training rows and traces share their media: a trace is a row with more in it.
        if split != "train":
            _write_rows(root / "annotations" / ANNOTATION_FILES[split], rows)
            continue
        if train:
            _write_rows(root / "annotations" / TRAINING_FILE, rows[:train])
        if cot:
            pairs = zip(situations[:cot], rows[:cot], strict=True)
            _write_rows(root / "annotations" / COT_FILE, _with_responses(pairs, seed, inconsistent, wrong))


def annotation_row(situation: Situation, split: str, index: int, clip: ClipFormat) -> Row:
    """One record in the benchmark's schema. split: "L1", "L2", "L3" (choices, gold letter) or "train" (negatives)."""
    recording, goal = situation.recording, situation.recording.goal
    # L3 ids are text in the benchmark too.
    sample_id: int | str = index
    if split == "L3":
        sample_id = f"{recording.video_id}_{situation.done}"
    elif split == "train":
        sample_id = FIRST_TRAINING_ID + index
    row: Row = {
        "sample_id": sample_id,
        "data_source": TOY,
        # As in the benchmark: L1 and the training set are of one source, L2 and L3 of the other.
        "video_source": "EpicKitchens" if split in ("train", "L1") else "Ego4D",
        "video_id": recording.video_id,
        "task_goal": goal.text,
        "question": situation.question,
        "answer": situation.answer,
        "task_progress_metadata": [
            {
                "narration_text": recording.step(step),
                # Frames of the imagined recording, of which the clip is a cut.
                "start_frame": LEAD_IN_FRAMES + clip.start(step, situation.done),
                "stop_frame": LEAD_IN_FRAMES + clip.start(step + 1, situation.done),
            }
            for step in range(situation.done)
        ],
        "current_observation_frame": LEAD_IN_FRAMES + (clip.n_frames if situation.done else 0),
        "video_basename": f"{sample_id}.mp4",
        "current_observation_basename": f"{sample_id}.png",
    }
    if split == "train":
        return row | {"negative_answers": list(situation.negatives)}
    if split == "L3":
        row |= {"domain": goal.domain, "scenario": goal.first.name, "task_start_frame": LEAD_IN_FRAMES}
    return row | _choices(situation) | {"task_level": split}


def _choices(situation: Situation) -> dict[str, str]:
    choices = {f"choice_{letter.lower()}": text for letter, text in zip(LETTERS, situation.options, strict=True)}
    return choices | {"golden_choice_idx": situation.gold}


def _with_responses(
    pairs: Iterable[tuple[Situation, Row]], seed: int, inconsistent: float, wrong: float
) -> Iterator[Row]:
    for situation, row in pairs:
        rng = Random(f"{seed}:response:{row['sample_id']}")
        # One draw for both shares, so that no response is of two kinds.
        drawn = rng.random()
        kind: Kind = "inconsistent" if drawn < inconsistent else "wrong" if drawn < inconsistent + wrong else "sound"
        response = write_response(situation, rng, kind)
        yield row | _choices(situation) | {"prompt": _chat_prompt(situation, row), "response": response}


def _chat_prompt(situation: Situation, row: Row) -> list[Row]:
    """Chat messages in the default wording; media are paths below the data root."""
    media = {
        "video": Path("videos", row["video_source"], row["video_basename"]),
        "image": Path("images", row["video_source"], row["current_observation_basename"]),
    }
    question = Question(
        question_id=f"train/{row['sample_id']}",
        split="train",
        text=situation.question,
        options=situation.options,
        gold=situation.gold,
        # At the very start there is nothing to show: the row has no clip.
        video=media["video"] if situation.done else None,
        image=media["image"],
        cluster=row["video_id"],
        domain=None,
        task_goal=row["task_goal"],
    )
    messages = [dict(message) for message in build_messages(question, DEFAULT_TEMPLATE)]
    for message in messages:
        message["content"] = [
            # The form of chat files that trainers of others read: the path stands under the medium's name.
            part | {part["type"]: media[part["type"]].as_posix()} if part["type"] in media else part
            for part in message["content"]
        ]
    return messages


def _write_media(
    root: Path,
    situations: Sequence[Situation],
    rows: Sequence[Row],
    clip: ClipFormat,
    blank: Literal["clip", "image"] | None,
) -> None:
    for situation, row in zip(situations, rows, strict=True):
        image = root / "images" / row["video_source"] / row["current_observation_basename"]
        with _replacing(image) as path:
            # PNG loses nothing: the state of an item must not depend on compression.
            pixels = render_image(situation, clip.frame_size)
            Image.fromarray(np.full_like(pixels, GREY) if blank == "image" else pixels).save(path, format="PNG")
        if situation.done:
            video = root / "videos" / row["video_source"] / row["video_basename"]
            with _replacing(video) as path:
                frames = render_clip(situation, clip)
                # Still encoded frame by frame, so that a blank clip has the same length and rate.
                hidden = (np.full_like(frame, GREY) for frame in frames)
                write_clip(path, hidden if blank == "clip" else frames, clip.fps)


def write_clip(path: Path, frames: Iterable[Pixels], fps: int) -> None:
    """Encode (height, width, 3) uint8 frames as H.264 in mp4: yuv420p, closed groups of at most two seconds.

    One thread and no macroblock tree, so that equal frames give equal bytes: with the tree, x264 core 165 encoded the
    same frames in up to 18 different ways in 50 trials.
    """
    with av.open(str(path), mode="w", format="mp4") as container:
        stream = None
        for index, pixels in enumerate(frames):
            if stream is None:
                stream = container.add_stream("libx264", rate=fps)
                # Known from the first frame only.
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.codec_context.thread_count = 1
                stream.time_base = Fraction(1, fps)
                stream.options = {
                    "preset": "veryfast",
                    "crf": "18",
                    "x264-params": f"open-gop=0:mbtree=0:keyint={2 * fps}",
                }
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            # Counted by us: without times, the muxer would guess them from the rate.
            frame.pts, frame.time_base = index, Fraction(1, fps)
            container.mux(stream.encode(frame))
        if stream is None:
            raise ConfigError(f"{path}: a clip needs at least one frame.")
        # Flush: the encoder holds back frames to look ahead.
        container.mux(stream.encode())


def _write_rows(path: Path, rows: Iterable[Row]) -> None:
    with _replacing(path) as temporary_path:
        temporary_path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """As files.replacing; makes the folder, and raises ResourceError for what the disk refuses."""
    make_folder(path.parent)
    with writing(path), replacing(path) as temporary_path:
        yield temporary_path
