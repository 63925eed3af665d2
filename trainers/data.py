"""Training rows -> a seeded, endless stream of questions -> the examples that this process trains on in a step.

The stream is the same for any number of processes and after any resume; its only state is how far it has been read.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Protocol, TypeVar

from seedbench_r1.errors import DataError
from seedbench_r1.kinds import parse
from seedbench_r1.media.cache import media_loader
from seedbench_r1.media.loader import FrameLoader
from seedbench_r1.models.qwen_vl import ModelInputs, QwenProcessor, prepare_inputs
from seedbench_r1.parsing import after_opening
from seedbench_r1.prompts import build_request
from seedbench_r1.questions import (
    RESPONSE_WITHOUT_CHOICES,
    TrainingData,
    TrainingRow,
    load_training_rows,
    training_question,
)
from seedbench_r1.rows import BadRows, read_rows
from seedbench_r1.suites.own import OWN
from seedbench_r1.types import Failure, Media, Question, Request
from trainers.config import TrainConfig
from trainers.own import read_own_rows
from trainers.video_r1 import FIELDS as VIDEO_R1_FIELDS
from trainers.video_r1 import load_video_r1_rows

T = TypeVar("T")

MediaKey = tuple[str, int]  # question id and epoch: near an epoch's end a step may hold the same question twice
DecodedMedia = dict[MediaKey, Media | Failure]


@dataclass(frozen=True, slots=True)
class DrawnQuestion:
    """One position of the stream: a question with its options drawn, and the epoch it belongs to."""

    question: Question
    response: str  # the target of SFT: the row's own response, or the gold letter in its tag
    epoch: int


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """A question that this process trains on, ready for the model."""

    question: Question
    response: str
    epoch: int
    inputs: ModelInputs
    request: Request | None = None  # with its frames; kept for --rollouts vllm only, which makes its own patches


@dataclass(frozen=True, slots=True)
class SkippedQuestion:
    """A question that could not be used, and why; the next one of the stream replaced it."""

    slot: int  # position in the step
    question_id: str
    reason: str


class QuestionStream:
    """Rows, shuffled anew in every epoch, without end.

    Attributes:
        position: how many questions have been read since the start of the training.
    """

    def __init__(self, rows: Sequence[TrainingRow], seed: int, position: int = 0) -> None:
        self.rows, self.seed, self.position = rows, seed, position
        self._order: tuple[int, list[int]] = (-1, [])  # of one epoch: (epoch, row numbers)

    def take(self, n: int) -> list[DrawnQuestion]:
        """Read the next n questions."""
        drawn = self.peek(n)
        self.position += n
        return drawn

    def peek(self, n: int) -> list[DrawnQuestion]:
        """The next n questions, without advancing the position."""
        return [self._at(position) for position in range(self.position, self.position + n)]

    def _at(self, position: int) -> DrawnQuestion:
        epoch, index = divmod(position, len(self.rows))
        if self._order[0] != epoch:
            order = list(range(len(self.rows)))
            # The seed names the epoch, so that a resumed training gets this order without replaying earlier ones.
            Random(f"{self.seed}:order:{epoch}").shuffle(order)
            self._order = (epoch, order)
        row = self.rows[self._order[1][index]]
        question = training_question(row, seed=self.seed, epoch=epoch)
        return DrawnQuestion(question, row.response or f"<answer>{question.gold}</answer>", epoch)


def read_data(config: TrainConfig, bad: BadRows | None = None) -> TrainingData:
    """The training rows. Raises DataError for absent media unless config.allow_missing, and for a row of no use.

    For SFT a response must come with the options that it speaks of: other options would make its letter wrong.

    bad: takes the rows that cannot be used; by default one that does as config.skip_bad_rows says.
    """
    bad, path, sft = bad or BadRows(skip=config.skip_bad_rows), config.questions_file, config.algo == "sft"
    if config.suite == "video-r1":
        found = load_video_r1_rows(path, config.data, bad, responses=sft)
        data, missing = TrainingData(found), found.missing_media()
        fix = "unpack Video-R1's archives below --data, as the rows' paths say"
    elif config.suite == "own":
        data, fix = read_own_rows(config, bad), OWN.where_media_go.replace("--data-root", "--data")
        missing = _missing_media(data.rows)
    else:
        data, fix = TrainingData(_benchmark_rows(config, bad)), "seedbench-r1 data download --only-missing"
        missing = _missing_media(data.rows)
        lost = next((row for row in data.rows if row.response is not None and not row.fixed_options), None)
        if sft and lost is not None:
            line = lost.question.source.line if lost.question.source else "?"
            raise DataError(f"{path}:{line}: {RESPONSE_WITHOUT_CHOICES} Nothing was trained.")
    if missing and not config.allow_missing:
        raise DataError(
            f"{len(missing)} media files of {path} missing, e.g. {missing[0]}. Nothing was trained. "
            f"Fix: {fix}. To train on the other rows: --allow-missing"
        )
    return data


def _missing_media(rows: Sequence[TrainingRow]) -> list[str]:
    paths = {path for row in rows for path in (row.question.video, row.question.image) if path is not None}
    return sorted(str(path) for path in paths if not path.exists())


def _benchmark_rows(config: TrainConfig, bad: BadRows) -> list[TrainingRow]:
    path = config.questions_file
    try:
        return load_training_rows(path, config.data, bad)
    except DataError as error:
        columns = _columns_of_first_row(path)
        if columns >= VIDEO_R1_FIELDS:
            raise DataError(f"{path} holds Video-R1's rows. Fix: --suite video-r1 --train-file {path}") from None
        if config.train_file is None or not path.exists() or "sample_id" in columns:
            raise
        raise DataError(f"{error} If the file has columns of your own: --suite own.") from error


def _columns_of_first_row(path: Path) -> set[str]:
    """Empty if there is no such row."""
    try:
        first = next(read_rows(path, BadRows()), None)
    except (OSError, DataError):
        return set()
    return set() if first is None else set(first[1])


def contradicting_rows(rows: Sequence[TrainingRow]) -> list[str]:
    """Ids of the rows whose response gives another answer than their gold letter, or none."""
    found = []
    for row in rows:
        # Without fixed options the letters are drawn per epoch, so a response cannot name the gold one.
        if row.response is None or not row.fixed_options:
            continue
        if parse(row.response, row.question).answer != row.question.gold:
            found.append(row.question.question_id)
    return found


class Gather(Protocol):
    """Joins the lists of all processes in the order of their ranks; called equally often in each."""

    def __call__(self, items: list[T], /) -> list[T]: ...


def alone(items: list[T]) -> list[T]:
    """The Gather of a single process."""
    return items


class StepData:
    """Decodes each step's questions, one step ahead. A context manager; open it in the main thread.

    Args:
        share: (rank, world size): slot j of a step belongs to process j % world size.
        gather: joins the lists of all processes.
        replaced: how many questions could not be used before this process began.

    Attributes:
        replaced: how many questions could not be used so far.
    """

    def __init__(
        self,
        config: TrainConfig,
        processor: QwenProcessor,
        stream: QuestionStream,
        *,
        questions_per_step: int,
        share: tuple[int, int] = (0, 1),
        gather: Gather = alone,
        replaced: int = 0,
    ) -> None:
        self._processor, self._template, self._stream = processor, config.template, stream
        self._sft_limit = config.max_completion_length if config.algo == "sft" else None
        self._keep_requests = config.rollouts == "vllm"
        self._questions_per_step, self._share, self._gather = questions_per_step, share, gather
        self.replaced = replaced
        self._loader = FrameLoader(
            config.video,
            workers=config.workers,
            timeout_s=config.decode_timeout_s,
            load=media_loader(config.frame_cache, config.frame_cache_gb),
        )
        # One thread, one step ahead: it waits for the loader's processes while this one trains.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="decode-ahead")
        self._prefetched: Future[DecodedMedia] | None = None

    def __enter__(self) -> StepData:
        self._loader.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._loader.close()
        self._thread.shutdown(wait=False, cancel_futures=True)

    @property
    def position(self) -> int:
        """How many questions have been read from the stream since the start of the training."""
        return self._stream.position

    def next_step(self) -> tuple[list[TrainingExample], list[SkippedQuestion]]:
        """This process's examples of the next step, in the order of their slots, and what any process skipped.

        Raises DataError when as many questions in a row as there are rows could not be used.
        """
        examples, skipped = self._fill(range(self._questions_per_step))
        return [examples[slot] for slot in sorted(examples)], skipped

    def replace(self, places: Sequence[int]) -> tuple[dict[int, TrainingExample], list[SkippedQuestion]] | None:
        """The next questions of the stream, place -> example, for places among this process's examples of the step.

        Every process calls it, and all read the same questions from the stream. None if no process has named a place.
        Raises as next_step.
        """
        rank, world_size = self._share
        slots = sorted(self._gather([rank + world_size * place for place in places]))
        if not slots:
            return None
        examples, skipped = self._fill(slots)
        return {slot // world_size: examples[slot] for slot in sorted(examples)}, skipped

    def _fill(self, slots: Sequence[int]) -> tuple[dict[int, TrainingExample], list[SkippedQuestion]]:
        """Read a question for each slot of all processes; this process's examples by slot, and what any skipped."""
        # What was prefetched is for a next step's slots as first drawn; all else is decoded below.
        media = {} if self._prefetched is None else self._prefetched.result()
        self._prefetched = None
        pending = list(zip(slots, self._stream.take(len(slots)), strict=True))
        examples: dict[int, TrainingExample] = {}
        skipped: list[SkippedQuestion] = []
        while pending:
            own = [(slot, drawn) for slot, drawn in pending if self._is_mine(slot)]
            media |= self._decode([drawn for _, drawn in own if _key(drawn) not in media])
            unusable = []
            for slot, drawn in own:
                example = self._prepare(drawn, media[_key(drawn)])
                if isinstance(example, TrainingExample):
                    examples[slot] = example
                else:
                    unusable.append(SkippedQuestion(slot, drawn.question.question_id, example.message))
            # Every process learns of all skipped slots, so that all read the same replacements from the stream.
            unusable = sorted(self._gather(unusable), key=lambda entry: entry.slot)
            skipped += unusable
            if len(skipped) >= len(self._stream.rows) + self._questions_per_step:
                raise DataError(f"No training question can be used. Last: {unusable[-1].reason}")
            pending = list(zip([s.slot for s in unusable], self._stream.take(len(unusable)), strict=True))
        self.replaced += len(skipped)
        upcoming = enumerate(self._stream.peek(self._questions_per_step))
        mine = [drawn for slot, drawn in upcoming if self._is_mine(slot)]
        # After a few slots have been refilled, some of the next step's questions are decoded already.
        kept = {_key(drawn): media[_key(drawn)] for drawn in mine if _key(drawn) in media}
        self._prefetched = self._thread.submit(self._decode_others, mine, kept)
        return examples, skipped

    def heldout_examples(self, rows: Sequence[TrainingRow]) -> list[TrainingExample]:
        """This process's share of held-out rows, their options drawn as in epoch 0; unusable ones are left out."""
        rank, world_size = self._share
        mine = QuestionStream(rows, self._stream.seed).take(len(rows))[rank::world_size]
        media = self._decode(mine)
        prepared = [self._prepare(drawn, media[_key(drawn)]) for drawn in mine]
        return [example for example in prepared if isinstance(example, TrainingExample)]

    def _is_mine(self, slot: int) -> bool:
        rank, world_size = self._share
        return slot % world_size == rank

    def _decode_others(self, drawn: Sequence[DrawnQuestion], kept: DecodedMedia) -> DecodedMedia:
        return kept | self._decode([entry for entry in drawn if _key(entry) not in kept])

    def _decode(self, drawn: Sequence[DrawnQuestion]) -> DecodedMedia:
        # A question that comes twice, in two epochs, is decoded once.
        media: DecodedMedia = {}
        by_id: dict[str, list[DrawnQuestion]] = {}
        for entry in drawn:
            by_id.setdefault(entry.question.question_id, []).append(entry)
        for question, result in self._loader.stream([entries[0].question for entries in by_id.values()]):
            media |= {_key(entry): result for entry in by_id[question.question_id]}
        return media

    def _prepare(self, drawn: DrawnQuestion, media: Media | Failure) -> TrainingExample | Failure:
        """The model's inputs, or why there are none: a clip that cannot be decoded or that the context cannot hold."""
        if isinstance(media, Failure):
            return media
        request = build_request(drawn.question, media, self._template)
        try:
            inputs = prepare_inputs(request, self._processor)
        except ValueError as error:
            return Failure("backend_error", str(error))
        # A template that opens the thoughts writes the tag itself: a response must not open them again.
        response = after_opening(drawn.response, self._processor.opened)
        if self._sft_limit is not None:
            # A response that does not fit is skipped, never cut: a cut one would teach to stop in mid-sentence.
            length = len(self._processor.tokenizer(response, add_special_tokens=False)["input_ids"]) + 1
            room = min(self._sft_limit, self._processor.context - len(inputs.input_ids))
            if length > room:
                return Failure("backend_error", f"the response has {length} tokens, there is room for {room}")
        kept = request if self._keep_requests else None
        return TrainingExample(drawn.question, response, drawn.epoch, inputs, kept)


def _key(drawn: DrawnQuestion) -> MediaKey:
    return drawn.question.question_id, drawn.epoch
