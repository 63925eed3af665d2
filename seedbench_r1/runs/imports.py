"""Other evaluators' result files -> a run directory, keyed by question, with duplicates and gaps reported.

Texts are parsed and scored again by our rules; the reference's strict rule is applied too, and what the file itself
claims is compared with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from seedbench_r1.errors import DataError
from seedbench_r1.files import utc_now
from seedbench_r1.parsing import PARSER_VERSION, assumed_opening
from seedbench_r1.questions import file_sha256
from seedbench_r1.runs.directory import RunDir, run_directory
from seedbench_r1.runs.records import IMPORTED, SCHEMA
from seedbench_r1.runs.result_files import Content, ImportedAnswer, ImportedFile
from seedbench_r1.scoring import GroupOf, RunSummary, split_sizes, summarise, to_record
from seedbench_r1.types import Generation, ModelInfo, Question, RunManifest


@dataclass(frozen=True, slots=True)
class ImportTarget:
    """The questions that the answers are to: all of a split, so that gaps in a file show as such."""

    suite: str
    splits: Mapping[str, Sequence[Question]]
    files: Mapping[str, Path]
    group_of: GroupOf
    hashes: Mapping[str, str] = field(default_factory=dict)  # split -> its questions'; none: its file's sha256

    def named(self) -> dict[str, Question]:
        """By question id."""
        return {question.question_id: question for some in self.splits.values() for question in some}


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


def import_files(
    files: Sequence[ImportedFile],
    target: ImportTarget,
    runs_dir: Path,
    *,
    source: str,
    model_name: str,
    run_name: str | None = None,
    command: str = "",
) -> ImportReport:
    """Write the answers as a run directory. N comes from the question files, so gaps leave the run INCOMPLETE.

    Args:
        files: from one of the readers in result_files.
        target: all questions of the splits that the files may speak of.
        runs_dir: where the run directory is made.
        source: a name in result_files.READERS; part of the protocol id, so that imports compare with nothing else.
        model_name: as the report shows it.
        run_name: name of the run directory; by default from model_name.
        command: as typed, kept in the manifest.

    Raises:
        DataError: an answer to a question that the files do not hold, or to other options or another gold.
    """
    answers = _identified(files, target)
    splits = [split for split in target.splits if any(a.question_id.startswith(f"{split}/") for a in answers)]
    if not splits:
        raise DataError("The files hold no answers.")
    target = replace(target, splits={split: target.splits[split] for split in splits})
    questions = target.named()
    manifest = replace(_manifest(files, source, model_name, target), command=command)
    path = run_directory(runs_dir, model_name, manifest.protocol_id, run_name)
    # Fresh: importing again replaces the run, instead of adding to it.
    with RunDir.open(path, manifest, tuple(questions.values()), fresh=True) as run:
        # Filled while the answers are written.
        report = ImportReport(path, summarise({}, ()))
        for answer in answers:
            _import_answer(run, questions[answer.question_id], answer, report)
        report.summary = summarise(run.records(), questions.values(), manifest.n_total, target.group_of)
        run.finish(report.summary, {})
        for split, group in target.splits.items():
            missing = [q.question_id for q in group if q.question_id not in run.records()]
            if missing:
                report.gaps[split] = missing
    return report


@dataclass(frozen=True, slots=True)
class _Identified:
    """An answer, and which question it is to."""

    question_id: str
    answer: ImportedAnswer


def _identified(files: Sequence[ImportedFile], target: ImportTarget) -> list[_Identified]:
    named = target.named()
    by_content: dict[tuple[str, Content], list[str]] = {}
    for question in named.values():
        by_content.setdefault((question.split, (question.text, question.cluster)), []).append(question.question_id)
    found = []
    for file in files:
        # Several questions may share text and clip, and differ in their options: they are taken in their order.
        left = {content: list(ids) for content, ids in by_content.items()}
        for answer in file.answers:
            ids = left.get((file.split or "", answer.content)) if answer.content else None
            question_id = answer.question_id or (ids.pop(0) if ids and len(ids) > 1 else ids[0] if ids else None)
            if question_id not in named:
                what = question_id or repr(answer.content)
                raise DataError(f"{answer.where}: {what} is not in the annotations. Another data set revision?")
            found.append(_Identified(question_id, answer))
            _check_same(named[question_id], answer)
    return found


def _check_same(question: Question, answer: ImportedAnswer) -> None:
    if (answer.options or question.options) != question.options or (answer.gold or question.gold) != question.gold:
        raise DataError(
            f"{answer.where}: options or gold letter of {question.question_id} differ from the annotations. "
            f"Another data set revision?"
        )


def _manifest(files: Sequence[ImportedFile], source: str, model_name: str, target: ImportTarget) -> RunManifest:
    frames = sorted({file.max_frames for file in files if file.max_frames})
    protocol = f"{IMPORTED}:{source}" + "".join(f", {n} frames" for n in frames)
    return RunManifest(
        schema=SCHEMA,
        suite=target.suite,
        protocol=protocol,
        # Of no settings, since none are known: no measured run can have it.
        protocol_id=hashlib.sha256(protocol.encode()).hexdigest()[:8],
        template=None,
        video=None,
        sampling=None,
        parser_version=PARSER_VERSION,
        n_total={split: split_sizes(group, target.group_of) for split, group in target.splits.items()},
        dataset_hash={split: target.hashes.get(split) or file_sha256(target.files[split]) for split in target.splits},
        model=ModelInfo(str(files[0].path), model_name, _files_hash(files)),
        backend=f"import:{source}",
        dtype="unknown",
        seed=None,
        versions={},
        command="",
        machine="",
        created_utc=utc_now(),
        updated_utc=utc_now(),
    )


def _import_answer(run: RunDir, question: Question, found: _Identified, report: ImportReport) -> None:
    answer = found.answer
    # The first counts: which of several is meant nobody knows, and the report lists them.
    if found.question_id in run.records():
        report.duplicates.append(found.question_id)
        return
    unknown: dict[str, None] = dict.fromkeys(("n_prompt_tokens", "n_tokens", "latency_s"))
    generation = Generation(answer.text, (), "stop", **unknown, opened=assumed_opening(answer.text))
    record = to_record(question, generation)
    run.append(record)
    report.imported += 1
    report.claimed_correct += bool(answer.claimed_correct)
    # A sign that the file was scored by other rules, or on other data.
    if record.score and answer.claimed_correct not in (None, record.score.strict_correct):
        report.claim_differs.append(found.question_id)


def _files_hash(files: Sequence[ImportedFile]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.path.read_bytes())
    return digest.hexdigest()[:16]
