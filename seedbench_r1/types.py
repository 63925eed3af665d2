"""The data that flows through the project: frozen, slotted, validated where it enters.

One question goes Question -> Request -> Generation | Failure -> ParsedResponse -> Score -> RunRecord.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

Letter = Literal["A", "B", "C", "D"]
Outcome = Literal["answered", "unparsed", "truncated"]
FinishReason = Literal["stop", "length"]
FailureKind = Literal["media_error", "backend_error", "timeout"]
Reader = Literal["decord", "pyav", "torchcodec"]
ApiVideo = Literal["images", "video"]

LETTERS: tuple[Letter, ...] = ("A", "B", "C", "D")
LEVELS: tuple[str, ...] = ("L1", "L2", "L3")
DOMAINS: tuple[str, ...] = ("Daily life", "Hobbies", "Recreation", "Work")


@dataclass(frozen=True, slots=True)
class ProgressStep:
    """One finished step of the task, as narrated in the annotation."""

    narration: str
    start_frame: int | None  # in frames of the source recording, not of the cut clip
    stop_frame: int | None


@dataclass(frozen=True, slots=True)
class Question:
    """One validated annotation row. Options are in the order shown to the model."""

    question_id: str  # "L1/115": split, slash, sample_id; "train/..." for training rows
    split: str  # "L1", "L2", "L3", "train", or "custom" for a user's own file
    text: str
    options: tuple[str, str, str, str]
    gold: Letter
    video: Path | None  # None: the row has no progress clip
    image: Path  # the current observation
    cluster: str  # the source recording: questions that share it are no independent observations
    domain: str | None  # L3 only
    task_goal: str
    progress: tuple[ProgressStep, ...] = ()

    @property
    def gold_text(self) -> str:
        return self.options[LETTERS.index(self.gold)]


@dataclass(frozen=True, slots=True)
class VideoConfig:
    """How media become pixels. Every field changes numbers, so every field is part of the protocol id.

    The defaults are GRPO-CARE's evaluation settings (its `vision_process.py` at b0628fc).
    """

    fps: float = 2.0  # frames per second of clip time, before clamping
    min_frames: int = 4
    max_frames: int = 16
    min_pixels: int = 128 * 28 * 28  # per video frame
    max_pixels: int = 105_369  # per video frame: int(1.05 * 128 * 28 * 28)
    image_min_pixels: int = 4 * 28 * 28
    image_max_pixels: int = 256 * 28 * 28
    size_multiple: int = 28  # patch size x merge size: 28 for Qwen2-VL and Qwen2.5-VL, 32 for Qwen3-VL
    reader: Reader = "decord"


@dataclass(frozen=True, slots=True)
class SamplingConfig:
    """How tokens are drawn. All but the seed is part of the protocol id."""

    temperature: float = 0.1  # 0: greedy
    top_p: float = 0.001
    top_k: int = 0  # 0: off
    repetition_penalty: float = 1.0
    max_new_tokens: int = 1024
    n: int = 1  # generations per question
    seed: int = 0
    logprobs: bool = False  # return the log-probability of each generated token


@dataclass(frozen=True, slots=True)
class Template:
    """Prompt wording. Placeholders: {question} and {options}; everything else is literal."""

    with_video: str
    without_video: str
    system: str | None = None


@dataclass(frozen=True, slots=True)
class EvalConfig:
    """Everything `eval` needs, resolved: defaults < TOML file < environment < command line."""

    model: str  # folder or hub id
    data_root: Path
    video: VideoConfig
    sampling: SamplingConfig
    template: Template
    protocol: str = "standard"
    levels: tuple[str, ...] = LEVELS
    annotations: Path | None = None  # a user's own questions in the same schema
    backend: str = "transformers"
    base_model: str | None = None  # for a LoRA folder whose config does not name it
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    batch_size: int = 8
    workers: int = 2  # decoding processes
    decode_timeout_s: float = 60.0
    tensor_parallel: int = 1  # vllm: GPUs that share one copy of the model
    data_parallel: int = 1  # processes on this machine, each with a shard and GPUs of its own
    max_in_flight: int = 128  # vllm: generations in the engine at once
    gpu_memory_utilization: float = 0.9  # vllm: share of each GPU's memory
    max_model_len: int | None = None  # vllm: prompt and completion in tokens; None: what the model and memory allow
    frame_cache: Path | None = None  # folder of decoded frames; None: decode every time
    frame_cache_gb: float = 50.0  # its limit, in 1e9 bytes
    runs_dir: Path = Path("runs")
    run_name: str | None = None
    shard: tuple[int, int] | None = None  # (i, n), 1-based
    limit: int | None = None
    fresh: bool = False
    allow_missing: bool = False
    retry_errors: bool = True
    max_error_rate: float = 0.0
    base_url: str | None = None  # of an API model's server, version included; None: OpenAI's
    concurrency: int = 16  # requests in flight
    api_video: ApiVideo = "images"  # frames as images in front of the current view, or as one video (vLLM)
    api_timeout_s: float = 120.0  # for one try
    api_tries: int = 6
    max_completion_tokens: bool = False  # the server wants the limit under this name instead of max_tokens
    price_in: float | None = None  # per million prompt tokens
    price_out: float | None = None  # per million generated tokens
    max_cost: float | None = None  # of one call, in the currency of the prices


@dataclass(frozen=True, slots=True)
class Media:
    """Decoded and resized pixels of one question."""

    frames: np.ndarray | None  # (T, H, W, 3) uint8; None: no clip
    frame_indices: tuple[int, ...]
    native_fps: float | None
    n_total: int | None  # frames in the clip
    image: np.ndarray  # (H, W, 3) uint8
    reader: str | None  # what really decoded the clip
    reader_note: str | None = None  # why it is not the reader that was asked for


@dataclass(frozen=True, slots=True)
class Request:
    """What a backend is asked: messages hold the order of video, image and text; pixels travel beside them."""

    question_id: str
    messages: tuple[dict[str, Any], ...]
    frames: np.ndarray | None  # (T, H, W, 3) uint8
    frame_indices: tuple[int, ...]
    native_fps: float | None
    n_total: int | None
    image: np.ndarray | None  # (H, W, 3) uint8
    reader: str | None = None
    reader_note: str | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """One completion."""

    text: str
    token_ids: tuple[int, ...]  # without the end-of-text token; empty when read back from a run directory
    finish_reason: FinishReason
    n_prompt_tokens: int | None  # None here and below: an imported answer whose source does not say
    n_tokens: int | None  # generated, the end-of-text token not counted
    latency_s: float | None  # from handing the request to the model until its last token
    logprobs: tuple[float, ...] | None = None  # natural log, of token_ids, before temperature and filters


@dataclass(frozen=True, slots=True)
class Failure:
    """No answer exists, and this is why. Never counted as wrong, never dropped."""

    kind: FailureKind
    message: str


@dataclass(frozen=True, slots=True)
class ParsedResponse:
    """What the model said, read by the parsing law (docs/scoring.md)."""

    reasoning: str | None  # inside the first <think>...</think>, stripped; None: no such block
    answer: Letter | None
    answer_text: str  # content of the first answer tag, stripped; the whole output if no tag or an empty one
    format_ok: bool


@dataclass(frozen=True, slots=True)
class Score:
    """Judgement of one response against the annotation."""

    outcome: Outcome
    correct: bool
    strict_correct: bool  # the reference's rule: answer_text equals the gold letter, character by character


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


@dataclass(frozen=True, slots=True)
class RunManifest:
    """manifest.json: what was run, on what, with what. Two runs compare if protocol id and dataset hashes agree."""

    schema: str
    protocol: str
    protocol_id: str
    template: Template
    video: VideoConfig
    sampling: SamplingConfig
    parser_version: int
    n_total: dict[str, dict[str, int]]  # level -> {"all": N, domain: N}, N from the annotation file
    dataset_hash: dict[str, str]  # level -> sha256 of its annotation file
    model: ModelInfo
    backend: str
    dtype: str
    seed: int
    versions: dict[str, str]
    command: str
    machine: str  # hashed host name
    created_utc: str
    updated_utc: str
    weights_sha256: str | None = None  # hash of sorted (file, sha256); None until the run is complete
    completed_utc: str | None = None
    transport: dict[str, Any] | None = None  # how pixels travel to an API model; part of the protocol id


@dataclass(frozen=True, slots=True)
class GroupSummary:
    """Counts of one level or one domain."""

    n: int  # questions in the annotation file, whatever was run
    selected: int  # questions that belong to this run: n, or fewer under --limit (a SUBSET, never ranked)
    answered: int  # questions with a response
    correct: int
    strict_correct: int
    unparsed: int
    truncated: int
    failed: int  # questions whose last attempt failed
    format_ok: int

    @property
    def accuracy(self) -> float:
        """correct / selected as a fraction; nan for none. Unparsed, truncated and unanswered count as wrong."""
        return self.correct / self.selected if self.selected else float("nan")


@dataclass(frozen=True, slots=True)
class ReasoningProfile:
    """What the reasoning of a run looks like: the collapses that users report show here first."""

    n: int  # answered questions
    empty: int  # no think block, or nothing in it
    letter_only: int  # the reasoning is nothing but an option's letter
    median_words: float  # of the reasoning that is not empty; nan if all is


@dataclass(frozen=True, slots=True)
class RunSummary:
    """Counts of a whole run. status is "complete", "incomplete" or "subset"."""

    status: Literal["complete", "incomplete", "subset"]
    levels: dict[str, GroupSummary]
    domains: dict[str, GroupSummary] = field(default_factory=dict)  # L3 only

    @property
    def pending(self) -> int:
        return sum(level.selected - level.answered for level in self.levels.values())


def to_json(value: Any) -> Any:
    """Dataclasses, paths and tuples as plain JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value
