"""Other evaluators' result files -> a run directory, keyed by question, with duplicates and gaps reported.

Texts are parsed and scored again by our rules; the reference's strict rule is applied too, and what the file itself
claims is compared with it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from seedbench_r1.config import protocol_id
from seedbench_r1.errors import ConfigError, DataError
from seedbench_r1.files import JsonObject, utc_now
from seedbench_r1.parsing import PARSER_VERSION, assumed_opening
from seedbench_r1.questions import annotation_path, file_sha256, load_annotations
from seedbench_r1.runs.directory import RunDir, run_directory
from seedbench_r1.runs.records import SCHEMA
from seedbench_r1.scoring import split_sizes, summarise, to_record
from seedbench_r1.typed_json import parse_json
from seedbench_r1.types import (
    LEVELS,
    Generation,
    ModelInfo,
    Question,
    RunManifest,
    RunSummary,
    SamplingConfig,
    Template,
    VideoConfig,
)

# "..._L1_results.json" and "...-l1.jsonl": the level is set off by separators.
_LEVEL = re.compile(r"(?:^|[_-])(L[123])(?=[_.-]|$)", re.IGNORECASE)
_FRAMES = re.compile(r"(\d+)frames")
_CHOICES = ("choice_a", "choice_b", "choice_c", "choice_d")


@dataclass(frozen=True, slots=True)
class ImportedAnswer:
    """One answer of another evaluator."""

    question_id: str
    text: str
    where: str  # file and place in it
    options: tuple[str, ...] | None  # as the file has them; None: it does not say
    gold: str | None
    claimed_correct: bool | None  # what the file says; None: nothing


@dataclass(frozen=True, slots=True)
class ImportedFile:
    """A file's answers and what is known of how they were made."""

    path: Path
    answers: tuple[ImportedAnswer, ...]
    max_frames: int | None = None


@dataclass(slots=True)
class ImportReport:
    """What was imported and what was odd about it."""

    run_path: Path
    summary: RunSummary
    imported: int = 0
    duplicates: list[str] = field(default_factory=list)  # question ids answered more than once; the first counts
    gaps: dict[str, list[str]] = field(default_factory=dict)  # level -> questions without an answer
    claimed_correct: int = 0  # by the files themselves, duplicates left out
    claim_differs: list[str] = field(default_factory=list)  # claimed otherwise than the strict rule says


def read_grpo_care(path: Path, level: str | None = None) -> ImportedFile:
    """Read the JSON of GRPO-CARE's evaluator: {"results": [annotation row + output, prediction, reward]}.

    Args:
        path: one of its result files.
        level: by default the L1, L2 or L3 in the file's name.

    Raises:
        ConfigError: the level is not known.
        DataError: not such a file; the message names the entry.
    """
    found = _LEVEL.search(path.stem)
    level = level or (found.group(1).upper() if found else None)
    if level not in LEVELS:
        raise ConfigError(f"{path}: the name does not say L1, L2 or L3. Fix: --level L1.")
    try:
        value = parse_json(_read_text(path))
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON: {error}. Was it cut off?") from error
    results = value.get("results") if isinstance(value, dict) else None
    if not isinstance(results, list):
        raise DataError(f'{path}: expected {{"results": [...]}}, as the reference evaluator writes it.')
    answers = []
    for place, entry in enumerate(results):
        # Named in every error: such files have thousands of entries.
        where = f"{path}: results[{place}]"
        if not isinstance(entry, dict) or "sample_id" not in entry or not isinstance(entry.get("output"), str):
            raise DataError(f"{where}: expected an object with sample_id and output.")
        options = tuple(str(entry[key]) for key in _CHOICES) if all(key in entry for key in _CHOICES) else None
        reward = entry.get("reward")
        answers.append(
            ImportedAnswer(
                question_id=f"{level}/{entry['sample_id']}",
                text=entry["output"],
                where=where,
                options=options,
                gold=entry.get("golden_choice_idx"),
                # The reference's reward is 1 for a right answer; a shaped one is not "right".
                claimed_correct=None if reward is None else reward == 1.0,
            )
        )
    # The only setting that the file's name gives away.
    frames = _FRAMES.search(path.stem)
    return ImportedFile(path, tuple(answers), int(frames.group(1)) if frames else None)


def read_lmms_eval(path: Path, level: str | None = None) -> ImportedFile:
    """Read lmms-eval's <date>_samples_<task>.jsonl. The question is named by question_id (our tasks) or doc.sample_id.

    Raises:
        ConfigError: the level is not known. DataError: not such a file; the message names the line.
    """
    found = _LEVEL.search(path.stem)
    level = level or (found.group(1).upper() if found else None)
    answers = []
    lines = _read_text(path).split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            answers.append(_lmms_answer(parse_json(line), level, where))
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise DataError(f"{where}: not a line of an lmms-eval samples file ({type(error).__name__}).") from error
    return ImportedFile(path, tuple(answers))


READERS = {"grpo-care": read_grpo_care, "lmms-eval": read_lmms_eval}  # by the source's name in the protocol id


def _lmms_answer(sample: JsonObject, level: str | None, where: str) -> ImportedAnswer:
    doc: JsonObject = sample["doc"] if isinstance(sample.get("doc"), dict) else {}
    question_id = sample.get("question_id") or doc.get("question_id")
    if question_id is None:
        level = level or doc.get("task_level")
        if level not in LEVELS:
            raise ConfigError(f"{where}: neither the line nor the file's name says L1, L2 or L3. Fix: --level L1.")
        question_id = f"{level}/{doc['sample_id']}"
    text = sample.get("raw_text")
    if not isinstance(text, str):
        # Other people's tasks have no raw_text; resps nests once for each repeat.
        response = sample["resps"][0]
        text = response[0] if isinstance(response, list) else response
    if not isinstance(text, str):
        raise TypeError
    options = tuple(str(doc[key]) for key in _CHOICES) if all(key in doc for key in _CHOICES) else None
    return ImportedAnswer(question_id, text, where, options, doc.get("golden_choice_idx"), None)


def import_files(
    files: Sequence[ImportedFile],
    data_root: Path,
    runs_dir: Path,
    *,
    source: str,
    model_name: str,
    run_name: str | None = None,
    command: str = "",
) -> ImportReport:
    """Write the answers as a run directory. N comes from the annotation files, so gaps leave the run INCOMPLETE.

    Args:
        files: read by read_grpo_care or read_lmms_eval, each of one level.
        data_root: folder of the data set.
        runs_dir: where the run directory is made.
        source: "grpo-care" or "lmms-eval"; part of the protocol id, so that imports compare with nothing else.
        model_name: as the report shows it.
        run_name: name of the run directory; by default from model_name.
        command: as typed, kept in the manifest.

    Raises:
        DataError: an answer to a question that the annotations do not hold, or to other options or another gold.
    """
    answers = [answer for file in files for answer in file.answers]
    levels = [level for level in LEVELS if any(a.question_id.startswith(f"{level}/") for a in answers)]
    if not answers or not levels:
        raise DataError("The files hold no answers.")
    paths = {level: annotation_path(data_root, level) for level in levels}
    # All questions of a level, so that gaps in the file show as such.
    every = {level: load_annotations(path, data_root, level) for level, path in paths.items()}
    questions = {question.question_id: question for group in every.values() for question in group}
    manifest = replace(_manifest(files, source, model_name, every, paths), command=command)
    path = run_directory(runs_dir, model_name, manifest.protocol_id, run_name)
    # Fresh: importing again replaces the run, instead of adding to it.
    with RunDir.open(path, manifest, questions.values(), fresh=True) as run:
        # Filled while the answers are written.
        report = ImportReport(path, summarise({}, ()))
        for answer in answers:
            _import_answer(run, questions, answer, report)
        report.summary = summarise(run.records(), questions.values(), manifest.n_total)
        run.finish(report.summary, {})
        for level, group in every.items():
            missing = [q.question_id for q in group if q.question_id not in run.records()]
            if missing:
                report.gaps[level] = missing
    return report


def _manifest(
    files: Sequence[ImportedFile],
    source: str,
    model_name: str,
    every: dict[str, list[Question]],
    paths: dict[str, Path],
) -> RunManifest:
    frames = next((file.max_frames for file in files if file.max_frames), None)
    video = VideoConfig() if frames is None else VideoConfig(min_frames=min(4, frames), max_frames=frames)
    # Unknown, and so a wording that no run of ours has: the protocol id differs by it.
    wording = f"as run by {source}: {{question}} {{options}}"
    template = Template({"with_video": wording, "without_video": wording})
    return RunManifest(
        schema=SCHEMA,
        suite="seedbench-r1",
        protocol=f"imported:{source}",
        protocol_id=protocol_id(template, video, SamplingConfig()),
        template=template,
        video=video,
        sampling=SamplingConfig(),
        parser_version=PARSER_VERSION,
        n_total={level: split_sizes(group) for level, group in every.items()},
        dataset_hash={level: file_sha256(path) for level, path in paths.items()},
        model=ModelInfo(str(files[0].path), model_name, _files_hash(files)),
        backend=f"import:{source}",
        dtype="unknown",
        seed=0,
        versions={},
        command="",
        machine="",
        created_utc=utc_now(),
        updated_utc=utc_now(),
    )


def _import_answer(run: RunDir, questions: dict[str, Question], answer: ImportedAnswer, report: ImportReport) -> None:
    question = questions.get(answer.question_id)
    if question is None:
        raise DataError(f"{answer.where}: {answer.question_id} is not in the annotations. Another data set revision?")
    if (answer.options or question.options) != question.options or (answer.gold or question.gold) != question.gold:
        raise DataError(
            f"{answer.where}: options or gold letter of {answer.question_id} differ from the annotations. "
            f"Another data set revision?"
        )
    # The first counts: which of several is meant nobody knows, and the report lists them.
    if answer.question_id in run.records():
        report.duplicates.append(answer.question_id)
        return
    unknown: dict[str, None] = dict.fromkeys(("n_prompt_tokens", "n_tokens", "latency_s"))
    generation = Generation(answer.text, (), "stop", **unknown, opened=assumed_opening(answer.text))
    record = to_record(question, generation)
    run.append(record)
    report.imported += 1
    report.claimed_correct += bool(answer.claimed_correct)
    # A sign that the file was scored by other rules, or on other data.
    if record.score and answer.claimed_correct not in (None, record.score.strict_correct):
        report.claim_differs.append(answer.question_id)


def _files_hash(files: Sequence[ImportedFile]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.path.read_bytes())
    return digest.hexdigest()[:16]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
