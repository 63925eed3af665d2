"""Annotation rows -> validated Questions. An error names file and line.

The schema is that of huggingface.co/datasets/TencentARC/SEED-Bench-R1 (docs/data.md).
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase
from typing import Any

from seedbench_r1.errors import DataError
from seedbench_r1.media.layout import MediaFolder
from seedbench_r1.rows import BadRows, Interned, RowReader, read_rows
from seedbench_r1.types import DOMAINS, LETTERS, LEVELS, ProgressStep, Question, Source

ANNOTATION_FILES = {level: f"validation_{level}.jsonl" for level in LEVELS}
_ALL_CHOICES = tuple(f"choice_{letter}" for letter in ascii_lowercase)
_CHOICES = _ALL_CHOICES[:4]
RESPONSE_WITHOUT_CHOICES = (
    "a response without choices: its letter belongs to options that are neither in choice_a to choice_d nor in its "
    "prompt, as lines from 'A. ' on. Fix: give the row its choices and golden_choice_idx, or take its response out."
)
_DOMAIN_NAMES = {name.casefold(): name for name in DOMAINS}
_OPTION_LINE = re.compile(r"\s*\(?(?P<letter>[A-Z])[.):]\s*(?P<text>\S.*?)\s*")


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One row of a training file. Its options are drawn anew for every epoch, unless it brings them."""

    question: Question  # options are placeholders (the answer and the first three negatives) unless fixed_options
    answer: str
    negatives: tuple[str, ...]
    fixed_options: bool  # the row brings its own options, in choice_a to choice_d or in its prompt
    response: str | None  # chain of thought and answer, in the CoT file only
    prompt: tuple[dict[str, Any], ...] | None  # chat messages, in the CoT file only


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What is trained on, and how it was read."""

    rows: Sequence[TrainingRow]
    read_as: str = ""  # what besides the file's bytes decides what its rows are, such as which columns were read
    notes: tuple[str, ...] = ()  # what the user is to be told of how they were read
    left_out: tuple[str, ...] = ()  # splits of the file that are not trained on


def load_questions(data_root: Path, levels: Sequence[str] = LEVELS) -> list[Question]:
    """Read and validate the annotation files of the levels, in file order.

    Raises:
        DataError: a file is absent or a row is invalid; the message names file and line.
    """
    questions: list[Question] = []
    for level in levels:
        questions += load_annotations(annotation_path(data_root, level), data_root, level)
    return questions


def annotation_path(data_root: Path, level: str) -> Path:
    return data_root / "annotations" / ANNOTATION_FILES[level]


def load_annotations(path: Path, data_root: Path, level: str, bad: BadRows | None = None) -> list[Question]:
    """Read one evaluation file: rows with choices and a gold letter.

    Args:
        path: JSON lines, or a JSON list of rows.
        data_root: folder of the media.
        level: L1, L2, L3, or "custom" for a file of one's own, which may have 2 to 26 options in a row, and rows
            without task_goal, video_id or domain.
        bad: takes the rows that cannot be used; None: the first one is an error.

    Raises:
        DataError: as load_questions does.
    """
    return [question for _, question in _unique(path, level, data_root, bad or BadRows(), training=False)]


def load_training_rows(path: Path, data_root: Path, bad: BadRows | None = None) -> list[TrainingRow]:
    """Read one training file (`training_6k.jsonl`, `training_with_cot_6k.jsonl`). Raises DataError as above."""
    # The options of `eval`, which the message for annotations names, say nothing to one who trains.
    if not path.exists():
        raise DataError(
            f"No training file at {path}. Fix: point --data at the dataset folder (seedbench-r1 data download --levels "
            f"train fetches its rows), or --train-file at a file of your own."
        )
    rows = []
    for row, question in _unique(path, "train", data_root, bad or BadRows(), training=True):
        rows.append(
            TrainingRow(
                question=question,
                answer=question.gold_text,
                negatives=distinct_negatives(row.get("negative_answers"), question.gold_text),
                fixed_options=own_options(row) is not None,
                response=row.get("response"),
                prompt=tuple(row["prompt"]) if isinstance(row.get("prompt"), list) and row["prompt"] else None,
            )
        )
    return rows


def training_question(row: TrainingRow, *, seed: int, epoch: int) -> Question:
    """The row's question with options drawn and shuffled by Random(f"{seed}:{question_id}:{epoch}").

    The same seed, row and epoch give the same question in any process and after any resume. Rows that bring their own
    choices keep them.
    """
    question = row.question
    if row.fixed_options:
        return question
    # A string seed, so that neighbouring rows and epochs share nothing.
    rng = random.Random(f"{seed}:{question.question_id}:{epoch}")
    options = [row.answer, *rng.sample(row.negatives, 3)]
    rng.shuffle(options)
    return replace(question, options=tuple(options), gold=LETTERS[options.index(row.answer)])


def distinct_negatives(negatives: object, answer: str) -> tuple[str, ...]:
    """The different texts of a row's negative_answers, in their order, without the answer."""
    texts = negatives if isinstance(negatives, list) else []
    return tuple(dict.fromkeys(text for text in texts if isinstance(text, str) and text.strip() and text != answer))


def choose_subset(questions: Sequence[Question], limit: int, *, seed: int) -> list[Question]:
    """A seeded subset of `limit` questions in which every split's domains keep their shares, in file order.

    Each split and domain has one question before any has a second, as far as the limit goes. The order within a group
    depends on the seed and the question ids alone, and a larger limit extends a smaller one's choice.
    """
    groups: dict[tuple[str, str | None], list[str]] = {}
    for question in questions:
        groups.setdefault((question.split, question.domain), []).append(question.question_id)
    # A place between 0 and 1 for each question, evenly spaced in its group: the first of all groups come first.
    places: list[tuple[bool, float, str]] = []
    for group in groups.values():
        # Hashes rather than a shuffle: the first 10 of 20 are the 10 of --limit 10.
        ranked = sorted(group, key=lambda one: hashlib.sha256(f"{seed}:{one}".encode()).digest())
        places += [(rank > 0, (rank + 0.5) / len(group), one) for rank, one in enumerate(ranked)]
    chosen = {question_id for *_, question_id in sorted(places)[:limit]}
    return [question for question in questions if question.question_id in chosen]


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _unique(
    path: Path, level: str, data_root: Path, bad: BadRows, *, training: bool
) -> Iterator[tuple[dict[str, Any], Question]]:
    """Rows with their questions. Raises DataError for a bad row unless it is skipped, and for a file without any."""
    media, interned = MediaFolder(data_root), Interned()
    seen: set[str] = set()
    name = path.name
    try:
        for (where, line), row in read_rows(path, bad):
            origin = row.get("data_source")
            source = Source("seedbench-r1", name, line, origin=interned(origin) if isinstance(origin, str) else None)
            reader = _RowReader(where, source, row, media, interned)
            try:
                question = reader.question(level, training=training)
                # Answers are found by id again: a second row of the same id would be answered by the first.
                if question.question_id in seen:
                    raise reader.fail(_repeated(path, reader.sample_id()))
                seen.add(question.question_id)
            except DataError as error:
                bad.refuse(error)
                continue
            yield row, question
    except FileNotFoundError as error:
        what = "training file" if training else "annotation file"
        raise DataError(f"No {what} at {path}. {_where_it_should_be(path, training=training)}") from error
    if not seen:
        raise DataError(f"{path} holds no questions. Fix: fetch the file again (seedbench-r1 data status).")


def _repeated(path: Path, sample_id: str) -> str:
    # Read again: a million lines are not remembered for an error.
    rows = read_rows(path, BadRows(skip=True))
    line = next((line for (_, line), row in rows if str(row.get("sample_id")) == sample_id), None)
    return f"sample_id {sample_id} stands already on line {line}."


def _where_it_should_be(path: Path, *, training: bool) -> str:
    if training:
        return "Fix: seedbench-r1 data download, or check the path given with --data or --train-file."
    if path.name not in ANNOTATION_FILES.values():
        return "Fix: check the path given with --annotations."
    return (
        f"Expected <data root>/annotations/{path.name}. "
        f"Fix: point --data-root at the dataset folder, or leave the level out with --levels."
    )


class _RowReader(RowReader):
    """A row of SEED-Bench-R1."""

    def __init__(self, where: str, source: Source, row: dict[str, Any], media: MediaFolder, interned: Interned) -> None:
        self.where, self.source, self.row = where, source, row
        self.media, self.interned = media, interned

    def question(self, level: str, *, training: bool) -> Question:
        sample_id = self.sample_id()
        source = self.name("video_source")
        progress = self.progress()
        own = level == "custom"
        options, gold = self.options(training=training, most=len(ascii_uppercase) if own else len(_CHOICES))
        view = self.name("current_observation_basename", f"{sample_id}.png")
        clip = self.name("video_basename", f"{sample_id}.mp4")
        return Question(
            question_id=f"{self.checked_level(level)}/{sample_id}",
            split=level,
            text=self.interned(self.text("question")),
            options=options,
            gold=gold,
            video=self.media.locate("videos", source, clip) if progress else None,
            image=self.media.locate("images", source, view),
            # A row of one's own that names no recording is a recording by itself.
            cluster=self.interned(self.text("video_id") if not own or self.has("video_id") else sample_id),
            domain=self.domain() if level == "L3" or (own and self.has("domain")) else None,
            task_goal=self.interned(self.text("task_goal")) if not own or self.has("task_goal") else None,
            progress=progress,
            source=self.source,
        )

    def has(self, key: str) -> bool:
        return self.row.get(key) is not None

    def name(self, key: str, default: str | None = None) -> str:
        """A relative path inside its folder."""
        # A name that is left out follows from sample_id.
        value = default if default is not None and self.row.get(key) is None else self.text(key)
        # Nearly all are plain names, which need no look at their parts.
        if len(value) > 60 or "/" in value or ".." in value or "\x00" in value:
            self.inside(key, value, "a path inside its folder")
        return value

    def sample_id(self) -> str:
        value = self.row.get("sample_id")
        # JSON's true is an int in Python.
        if isinstance(value, bool) or not isinstance(value, int | str) or str(value).strip() == "":
            raise self.fail(f"sample_id is {value!r}, expected a number or a text.")
        return str(value)

    def checked_level(self, level: str) -> str:
        stated = self.row.get("task_level")
        if level in LEVELS and stated is not None and stated != level:
            raise self.fail(f"task_level is {stated!r} in a file of level {level}.")
        return level

    def domain(self) -> str:
        value = self.text("domain")
        # Spellings may differ in case and underscores; tables need one.
        return _DOMAIN_NAMES.get(value.strip().replace("_", " ").casefold(), value.strip())

    def progress(self) -> tuple[ProgressStep, ...]:
        steps = self.row.get("task_progress_metadata")
        if not isinstance(steps, list):
            raise self.fail(f"task_progress_metadata is {steps!r}, expected a list (empty: no video).")
        return self.interned(tuple(self.step(step) for step in steps))

    def step(self, step: object) -> ProgressStep:
        if not isinstance(step, dict) or not isinstance(step.get("narration_text"), str):
            raise self.fail(f"task_progress_metadata holds {step!r}, expected an object with narration_text.")
        start, stop = step.get("start_frame"), step.get("stop_frame")
        # JSON readers take NaN, Infinity and a thousand digits for numbers.
        if not all(frame is None or (isinstance(frame, int | float) and abs(frame) < 2**63) for frame in (start, stop)):
            raise self.fail(f"start_frame and stop_frame are {start!r} and {stop!r}, expected numbers.")
        frames = [None if frame is None else int(frame) for frame in (start, stop)]
        return ProgressStep(self.interned(step["narration_text"]), *frames)

    def options(self, *, training: bool, most: int) -> tuple[tuple[str, ...], str]:
        own = own_options(self.row) if training else None
        if training and own is None and "golden_choice_idx" not in self.row:
            return self.drawn_options()
        options = own or self.choices(most)
        if training and "golden_choice_idx" not in self.row:
            return options, self.letter_of_answer(options)
        gold, letters = self.row.get("golden_choice_idx"), ascii_uppercase[: len(options)]
        if not isinstance(gold, str) or gold not in tuple(letters):
            raise self.fail(f"golden_choice_idx is {gold!r}, expected {', '.join(letters[:-1])} or {letters[-1]}.")
        return options, gold

    def choices(self, most: int) -> tuple[str, ...]:
        """The texts of choice_a, choice_b and so on: 4 in the benchmark, 2 to 26 in a file of one's own."""
        given = [key for key in self.row if key[:7].lower() == "choice_" and self.has(key)]
        n = len(_CHOICES) if most == len(_CHOICES) else max(len(given), 2)
        wanted = _ALL_CHOICES[:n]
        if extra := sorted(set(given).difference(wanted)):
            raise self.fail(f"{extra[0]} is {self.row[extra[0]]!r}, expected {wanted[-1]} to be the last option.")
        return self.interned(self.without_letters([self.interned(self.text(key)) for key in wanted]))

    def letter_of_answer(self, options: tuple[str, ...]) -> str:
        answer = " ".join(self.text("answer").split())
        letters = [
            letter for letter, text in zip(ascii_uppercase, options, strict=False) if " ".join(text.split()) == answer
        ]
        if len(letters) != 1:
            raise self.fail(f"the answer {answer!r} is {len(letters)} of the row's own options {list(options)}, not 1.")
        return letters[0]

    def drawn_options(self) -> tuple[tuple[str, ...], str]:
        answer = self.text("answer")
        negatives = distinct_negatives(self.row.get("negative_answers"), answer)
        if len(negatives) < 3:
            if self.row.get("response"):
                raise self.fail(RESPONSE_WITHOUT_CHOICES)
            raise self.fail(
                f"negative_answers is {self.row.get('negative_answers')!r}, expected a list of at least 3 different "
                f"texts besides the answer."
            )
        return (answer, negatives[0], negatives[1], negatives[2]), "A"


def own_options(row: dict[str, Any]) -> tuple[str, ...] | None:
    """The options that a training row brings: its choices, else those in its prompt if a response speaks of them.

    None for a row whose options are to be drawn, and for a response to options that cannot be read.
    """
    choices = tuple(row[key] for key in _CHOICES if isinstance(row.get(key), str) and row[key].strip())
    if len(choices) == len(_CHOICES):
        return choices
    return _options_in_prompt(row.get("prompt")) if row.get("response") and not choices else None


def _options_in_prompt(prompt: object) -> tuple[str, ...] | None:
    """The texts behind "A. ", "B. " and so on of a prompt in chat messages or as a text, one option a line.

    None unless there is exactly one such list, of two options or more, with nothing between its lines.
    """
    messages = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    # A system message may show a list as an example.
    contents = [m.get("content") for m in messages if isinstance(m, dict) and m.get("role") == "user"]
    parts = [part for content in contents for part in (content if isinstance(content, list) else [{"text": content}])]
    texts = [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
    lists: list[list[str]] = []
    going = False  # whether the line before belongs to the last list
    for line in filter(str.strip, "\n".join(texts).split("\n")):
        found = _OPTION_LINE.fullmatch(line)
        place = ascii_uppercase.index(found["letter"]) if found else -1
        if found and place == 0:
            lists.append([])
        going = found is not None and (place == 0 or (going and place == len(lists[-1])))
        if found and going:
            lists[-1].append(found["text"])
        elif found:
            return None  # a letter out of its order: which list is meant cannot be known
    return tuple(lists[0]) if len(lists) == 1 and len(lists[0]) > 1 else None
