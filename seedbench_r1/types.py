"""The data that flows through the project: frozen, slotted, validated where it enters.

One question goes Question -> Request -> Generation | Failure -> ParsedResponse -> Score -> RunRecord.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Annotated, Any, Literal

from seedbench_r1.options import setting
from seedbench_r1.typed_json import Range

if TYPE_CHECKING:
    import numpy as np

Letter = Literal["A", "B", "C", "D"]
Kind = Literal["choice", "numerical", "regression", "ocr", "free-form"]
Outcome = Literal["answered", "unparsed", "truncated"]
FinishReason = Literal["stop", "length"]
FailureKind = Literal["media_error", "backend_error", "timeout"]
Reader = Literal["decord", "pyav", "torchcodec"]
Preprocess = Literal["ours", "processor", "images"]
ApiVideo = Literal["images", "video"]
Thinking = Literal["auto", "on", "off"]
Count = Annotated[int, Range(0, 2**31 - 1)]
Credit = Annotated[float, Range(0, 1)]
Seconds = Annotated[float, Range(0, 1e9)]

LETTERS: tuple[Letter, ...] = ("A", "B", "C", "D")
LEVELS: tuple[str, ...] = ("L1", "L2", "L3")
PIXELS = "Decoding (changes the protocol id)"  # the panel of --help
DOMAINS: tuple[str, ...] = ("Daily life", "Hobbies", "Recreation", "Work")


@dataclass(frozen=True, slots=True)
class ProgressStep:
    """One finished step of the task, as narrated in the annotation."""

    narration: str
    start_frame: int | None  # in frames of the source recording, not of the cut clip
    stop_frame: int | None


@dataclass(frozen=True, slots=True)
class Source:
    """Where a question was read."""

    suite: str
    file: str  # its name, without folders
    line: int | None  # 1-based; of a JSON list, the place in it
    row_id: str | None = None  # as the row names itself, where that is not the question's id; need not be unique
    origin: str | None = None  # the data set that the row was taken from, if it says so


@dataclass(frozen=True, slots=True)
class Question:
    """One validated row of any suite. Options are in the order shown to the model."""

    question_id: str  # "L1/115": split, slash, the row's id; "train/..." for training rows
    split: str  # "L1", "L2", "L3", a benchmark's name, "train", or "custom" for a user's own file
    text: str
    options: tuple[str, ...]  # 2 to 26 for choices, else none
    gold: str  # the right option's letter, else the answer as the file states it
    video: Path | None  # at least one of clip and image is there
    image: Path | None  # the current observation
    cluster: str  # the source recording: questions that share it are no independent observations
    domain: str | None = None  # SEED-Bench-R1: L3 only
    task_goal: str | None = None
    kind: Kind = "choice"
    progress: tuple[ProgressStep, ...] = ()
    source: Source | None = None  # None: of a run written by version 0.1.0

    @property
    def letters(self) -> str:
        """ "ABCD" for four options; empty if there are none."""
        return ascii_uppercase[: len(self.options)]

    def with_absolute_paths(self) -> Question:
        """For a process that may start in another folder."""
        video = None if self.video is None else self.video.absolute()
        return dataclasses.replace(self, video=video, image=None if self.image is None else self.image.absolute())

    @property
    def gold_text(self) -> str:
        """The right option's text; for other kinds, the answer."""
        return self.options[self.letters.index(self.gold)] if self.options else self.gold


@dataclass(frozen=True, slots=True)
class VideoConfig:
    """How media become pixels. Every field changes numbers, so every field is part of the protocol id.

    The defaults are GRPO-CARE's evaluation settings (its `vision_process.py` at b0628fc).
    """

    fps: float = setting(2.0, "Frames per second of clip time, before clamping.", PIXELS, above=0)
    min_frames: int = setting(4, "At least so many frames.", PIXELS, at_least=2)
    max_frames: int = setting(16, "At most so many frames.", PIXELS, at_least=2)
    min_pixels: int = setting(128 * 28 * 28, "Per video frame.", PIXELS, above=0)
    max_pixels: int = setting(105_369, "Per video frame.", PIXELS, above=0)  # int(1.05 * 128 * 28 * 28)
    image_min_pixels: int = setting(4 * 28 * 28, "Of the current view.", PIXELS, above=0)
    image_max_pixels: int = setting(256 * 28 * 28, "Of the current view.", PIXELS, above=0)
    size_multiple: int = 28  # patch size x merge size: 28 for Qwen2-VL and Qwen2.5-VL, 32 for Qwen3-VL
    reader: Reader = setting("decord", "What decodes clips.", PIXELS)
    preprocess: Preprocess = "ours"  # who sizes what the model sees, and whether a clip is one (models/families.py)


@dataclass(frozen=True, slots=True)
class SamplingConfig:
    """How tokens are drawn. All but the seed is part of the protocol id."""

    temperature: float = setting(0.1, "0: greedy.", PIXELS, at_least=0)
    top_p: float = setting(0.001, "Nucleus sampling; 1: off.", PIXELS, above=0, at_most=1)
    top_k: int = setting(0, "0: off.", PIXELS, at_least=0)
    repetition_penalty: float = setting(1.0, "1: off.", PIXELS, above=0)
    max_new_tokens: int = setting(1024, "Of one response.", PIXELS, at_least=1)
    n: int = 1  # generations per question
    seed: int = setting(0, "Of sampling and of --limit.", "Runtime")
    logprobs: bool = False  # return the log-probability of each generated token


@dataclass(frozen=True, slots=True)
class Template:
    """Prompt wording: a text for each situation that the suite tells apart. Everything but placeholders is literal."""

    wording: Mapping[str, str]  # by the suite's own names, e.g. "with_video"; placeholders: see prompts.PLACEHOLDERS
    system: str | None = None
    thinking: Thinking = setting(
        "auto",
        "Tell the model's chat template to think or not to; auto: it decides.",
        PIXELS,
        owners=("backend transformers", "backend vllm", "backend openai:MODEL"),
    )

    def as_json(self) -> dict[str, object]:
        """The form that manifests hold and protocol ids hash. SEED-Bench-R1's has no level in between."""
        flat = "with_video" in self.wording
        shown: dict[str, object] = {**self.wording} if flat else {"wording": dict(self.wording)}
        # Younger than the protocol ids of runs whose template decided.
        thinking = {} if self.thinking == "auto" else {"thinking": self.thinking}
        return {**shown, "system": self.system, **thinking}


@dataclass(frozen=True, slots=True)
class Media:
    """Decoded and resized pixels of one question."""

    frames: np.ndarray | None  # (T, H, W, 3) uint8; None: no clip
    frame_indices: tuple[int, ...]
    native_fps: float | None
    n_total: int | None  # frames in the clip
    image: np.ndarray | None  # (H, W, 3) uint8; None: no image
    reader: str | None  # what really decoded the clip
    reader_note: str | None = None  # why it is not the reader that was asked for, and what is odd about the clip
    frame_times: tuple[float, ...] | None = None  # seconds after the first frame; None: frame_indices / native_fps


@dataclass(frozen=True, slots=True)
class Request:
    """What a backend is asked: messages hold the order of video, image and text; pixels travel next to them."""

    question_id: str
    messages: tuple[dict[str, Any], ...]
    frames: np.ndarray | None  # (T, H, W, 3) uint8
    frame_indices: tuple[int, ...]
    native_fps: float | None
    n_total: int | None
    image: np.ndarray | None  # (H, W, 3) uint8
    reader: str | None = None
    reader_note: str | None = None
    frame_times: tuple[float, ...] | None = None  # where the frame rate varies
    thinking: Thinking = "auto"  # what the model's chat template is told
    prefix: str = ""  # assistant text that the completion continues, after what the template opened
    continuations: tuple[str, ...] = ()  # texts after the prefix whose log-probabilities are asked for (Scorer)
    seeds: tuple[int, ...] = ()  # a completion with each, instead of sampling.n with sampling.seed

    @property
    def clock_indices(self) -> tuple[float, ...]:
        """Where the frames stand in time, in units of 1 / native_fps: their indices, if they are evenly spaced."""
        if self.frame_times is None or not self.native_fps:
            return self.frame_indices
        return tuple(time * self.native_fps for time in self.frame_times)

    @classmethod
    def of(cls, question_id: str, messages: tuple[dict[str, Any], ...], media: Media) -> Request:
        """Messages and the pixels next to them, which have the same names in Media."""
        return cls(question_id, messages, **{f.name: getattr(media, f.name) for f in dataclasses.fields(media)})


@dataclass(frozen=True, slots=True)
class Generation:
    """One completion."""

    text: str
    token_ids: tuple[int, ...]  # without the end-of-text token; empty when read back from a run directory
    finish_reason: FinishReason
    n_prompt_tokens: Count | None  # None here and below: an imported answer whose source does not say
    n_tokens: Count | None  # generated, the end-of-text token not counted
    latency_s: Seconds | None  # from handing the request to the model until its last token
    logprobs: tuple[float, ...] | None = None  # natural log, of token_ids, before temperature and filters
    opened: str = ""  # what the prompt had opened in the assistant's turn, e.g. "<think>\n"; no part of the text


@dataclass(frozen=True, slots=True)
class Failure:
    """No answer exists, and this is why. Never counted as wrong, never dropped."""

    kind: FailureKind
    message: str


@dataclass(frozen=True, slots=True)
class ParsedResponse:
    """What the model said, read by the parsing law (docs/scoring.md)."""

    reasoning: str | None  # inside the first <think>...</think>, stripped, <think> of the prompt included; None: none
    answer: str | None  # a letter, a number as written, or the tag's text; None: nothing could be read
    answer_text: str  # content of the first answer tag, stripped; the whole output if no tag or an empty one
    format_ok: bool


@dataclass(frozen=True, slots=True)
class Score:
    """Judgement of one response against the annotation, by our rule and by the reference's. Credits are 0 to 1."""

    outcome: Outcome
    credit: Credit  # 0 or 1 for choices and numbers, in between for OCR, free-form and regression
    strict_credit: Credit  # by the reference evaluator's rule; a choice must equal the gold letter exactly

    @property
    def correct(self) -> bool:
        """Full credit."""
        return self.credit == 1.0

    @property
    def strict_correct(self) -> bool:
        """Full credit by the reference's rule."""
        return self.strict_credit == 1.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's word on whether the reasoning supports the answer. consistent None: undecided or failed."""

    consistent: bool | None
    reason: str  # the judge's own words; one of the constants of seedbench_r1.runs.verdicts where no judge was asked
    judge_id: str  # judge, prompt version and a hash of all that changes verdicts; only equal ids are compared
    votes: tuple[bool, ...] = ()  # single votes where several were asked for


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One line of records.jsonl: an attempt at one question. The last good line of a question counts."""

    question_id: str
    split: str
    domain: str | None
    cluster: str
    generation: Generation | None = None
    parsed: ParsedResponse | None = None
    score: Score | None = None
    failure: Failure | None = None
    reader: str | None = None
    reader_note: str | None = None

    @property
    def answered(self) -> bool:
        """True if the model produced a response, right or wrong."""
        return self.score is not None

    def counts_over(self, earlier: RunRecord | None) -> bool:
        """Whether this line counts after an earlier one: an answer beats a failure, otherwise the last one counts."""
        return earlier is None or self.answered or not earlier.answered


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is known of a checkpoint without loading it."""

    path: str
    name: str  # short, for tables
    fingerprint: str  # names and sizes of the weight files, and a hash of each one's first and last MiB
    base_model: str | None = None
    algorithm: str | None = None  # from training.json
    step: int | None = None
    architecture: str | None = None
    selected_from_k: int | None = None  # this checkpoint was picked as the best of k
    quantisation: str | None = None  # "gptq-4bit"; None: none
    files: dict[str, str] = field(default_factory=dict)  # template, tokenizer, processor ...: name -> sha256[:16]


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What decides the answers, besides model and data."""

    template: Template
    video: VideoConfig
    sampling: SamplingConfig


@dataclass(frozen=True, slots=True)
class RunManifest:
    """manifest.json: what was run, on what, with what. Two runs compare if protocol id and dataset hashes agree."""

    schema: str
    protocol: str
    protocol_id: str
    template: Template | None  # None here and in the next two: an import, whose settings nobody wrote down
    video: VideoConfig | None
    sampling: SamplingConfig | None
    parser_version: int
    n_total: dict[str, dict[str, int]]  # split -> {"all": N, domain or kind: N}, N from the annotation file
    dataset_hash: dict[str, str]  # split -> sha256 of its annotation file
    model: ModelInfo
    backend: str
    dtype: str
    seed: int | None
    versions: dict[str, str]
    command: str
    machine: str  # hashed host name
    created_utc: str
    updated_utc: str
    weights_sha256: str | None = None  # hash of sorted (file, sha256); None until the run is complete
    weight_files: dict[str, str] = field(default_factory=dict)  # name -> sha256; empty until every byte was read once
    completed_utc: str | None = None
    transport: dict[str, Any] | None = None  # how pixels travel to an API model; part of the protocol id
    suite: str = "seedbench-r1"
    bad_rows: dict[str, int] = field(default_factory=dict)  # split -> rows of the file that were left out
    free_media: bool = False  # whoever ran it says that the questions' pictures may be shown
    mixed_weights: str | None = None  # a weight file whose bytes were not the same in all calls that gave answers
    questions_sha256: str | None = None  # of the first n_questions lines of questions.jsonl; None: an earlier version's
    n_questions: int = 0

    @property
    def settings(self) -> RunSettings | None:
        """None for an import: nobody wrote them down, and none are invented."""
        if self.template is None or self.video is None or self.sampling is None:
            return None
        return RunSettings(self.template, self.video, self.sampling)


def to_json(value: object) -> Any:  # noqa: ANN401  # JSON
    """Dataclasses, paths and tuples as plain JSON values."""
    # Most values are leaves, and every record passes here.
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Template):
        return value.as_json()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    return [to_json(item) for item in value] if isinstance(value, list | tuple) else value
