"""A run directory: everything a run knows, on disk as soon as it is known.

manifest.json   what was run on what (replaced as a whole)      questions.jsonl  validated snapshot of the questions
records.jsonl   one line per attempt, append-only               summary.json     counts, written at the end
events.jsonl    starts, stops, warnings                         missing.txt      absent media, if any
records.i-of-n.jsonl  the same for one shard
"""

from __future__ import annotations

import dataclasses
import json
import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from seedbench_r1.errors import ConfigError, DataError
from seedbench_r1.files import AppendFile, exclusive, make_folder, set_aside, utc_now, write_json, writing
from seedbench_r1.models.fingerprint import weights_sha256
from seedbench_r1.packed import PackedQuestions, QuestionsById, Selected
from seedbench_r1.runs.answers import read_answers, record_files
from seedbench_r1.runs.checks import check_sizes, doubts_of, write_questions
from seedbench_r1.runs.outcome_table import OutcomeTable
from seedbench_r1.runs.records import (
    SCHEMA,
    WITHOUT_IDENTITY,
    manifest_from_json,
    question_from_json,
    read_lines,
    record_line,
    run_identity,
)
from seedbench_r1.runs.verdicts import load_verdicts
from seedbench_r1.scoring import GROUP_OF, RunSummary, by_domain, summarise
from seedbench_r1.typed_json import parse_json, shown
from seedbench_r1.types import Question, RunManifest, RunRecord, Verdict, to_json

if TYPE_CHECKING:
    import pandas as pd

_FIXED = ("dataset_hash", "backend", "dtype", "seed")  # besides the protocol id and the model's fingerprint


@dataclass(frozen=True, slots=True)
class Run:
    """A run directory as read by the report, the judge and `show`."""

    path: Path
    manifest: RunManifest
    questions: Mapping[str, Question]
    records: Mapping[str, RunRecord]  # read and scored by the present law
    rescored: int = 0  # answers that an earlier version had read
    edited: tuple[str, ...] = ()  # questions whose record says otherwise than its text
    doubts: tuple[str, ...] = ()  # sentences: which other file was edited, and how that shows

    def summary(self) -> RunSummary:
        """Counts of the whole run, by split and by domain (for general benchmarks: by kind)."""
        group_of = GROUP_OF.get(self.manifest.suite, by_domain)
        return summarise(self.records, self.questions.values(), self.manifest.n_total, group_of)

    def question(self, question_id: str) -> tuple[Question, RunRecord | None]:
        """A question ("L3/17") with its record; None: not asked yet. Raises KeyError for one of another run."""
        return self.questions[question_id], self.records.get(question_id)

    def to_dataframe(self, judge_id: str | None = None) -> pd.DataFrame:
        """One row a question, in the run's order.

        Columns: question_id, split, domain, kind, cluster, gold; answer, outcome ("answered", "unparsed", "truncated",
        or the failure's kind; None: not asked yet), credit (0 to 1), correct, strict_correct, format_ok, reasoning,
        text, n_prompt_tokens, n_tokens, latency_s (seconds); consistent (True, False or None) by one judge.

        Args:
            judge_id: whose verdicts; by default the only judge's, if there is one. Raises KeyError for an unknown one.
        """
        import pandas as pd

        judges = load_verdicts(self.path, run_identity(self.manifest))
        # Of several judges none is the obvious one.
        if judge_id is None and len(judges) == 1:
            judge_id = next(iter(judges))
        verdicts = {} if judge_id is None else judges[judge_id]
        return pd.DataFrame([_row(q, self.records.get(i), verdicts.get(i)) for i, q in self.questions.items()])


def _row(question: Question, record: RunRecord | None, verdict: Verdict | None) -> dict[str, object]:
    """One row of Run.to_dataframe."""
    row: dict[str, object] = {
        name: getattr(question, name) for name in ("question_id", "split", "domain", "kind", "cluster", "gold")
    }
    score, parsed = (record.score, record.parsed) if record else (None, None)
    generation, failure = (record.generation, record.failure) if record else (None, None)
    row["answer"] = parsed and parsed.answer
    row["outcome"] = score.outcome if score else failure and failure.kind
    row |= {name: score and getattr(score, name) for name in ("credit", "correct", "strict_correct")}
    row |= {name: parsed and getattr(parsed, name) for name in ("format_ok", "reasoning")}
    row |= {
        name: generation and getattr(generation, name) for name in ("text", "n_prompt_tokens", "n_tokens", "latency_s")
    }
    return row | {"consistent": verdict and verdict.consistent}


def load_run(path: Path, *, questions: Mapping[str, Question] | None = None, texts: bool = True) -> Run:
    """Read a run directory of any suite, shards merged. Raises DataError if it is not one or is damaged.

    questions: what its questions.jsonl holds, where the caller has read the same lines in another run.
    texts: False: for counting, questions and records in little memory: a QuestionsById and an OutcomeTable.
    """
    manifest = read_manifest(path)
    if manifest is None:
        raise DataError(f"{path} is not a run directory (no manifest.json).")
    if questions is None:
        lines = read_lines(path / "questions.jsonl", question_from_json)
        questions = {q.question_id: q for q in lines} if texts else QuestionsById(PackedQuestions(lines))
    check_sizes(path, manifest, questions)
    answers, doubts = read_answers(path, questions, manifest, texts=texts), doubts_of(path, manifest)
    return Run(path, manifest, questions, answers.records, answers.rescored, tuple(answers.edited), doubts)


def read_manifest(path: Path) -> RunManifest | None:
    """manifest.json of a run directory; None if there is none. Raises DataError if unreadable or not a run's."""
    file = path / "manifest.json"
    try:
        value = parse_json(file.read_text(encoding="utf-8"))
        schema = value.get("schema") if isinstance(value, dict) else None
        # Older schemas are read, newer ones refused: what they mean is not known here.
        if schema not in (SCHEMA, *WITHOUT_IDENTITY):
            raise DataError(
                f"{file} has schema {shown(schema)}, expected {SCHEMA!r}: it is not a run's, or a newer version wrote "
                f"it (fix: upgrade)."
            )
        return manifest_from_json(value)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise DataError(
            f"{file} is not a valid manifest ({error}). Was it copied whole? "
            f"Fix: copy it again, or evaluate into a fresh directory (--run-name NAME)."
        ) from error


class RunDir:
    """The writing side of a run directory. One process per shard; a context manager."""

    def __init__(self, path: Path, manifest: RunManifest, questions: QuestionsById, file: AppendFile) -> None:
        self.path = path
        self.manifest = manifest
        self.questions = questions
        self._file = file
        self._identity = run_identity(manifest)
        self._records = self._read()

    @classmethod
    def open(
        cls,
        path: Path,
        manifest: RunManifest,
        questions: Sequence[Question],
        *,
        shard: tuple[int, int] | None = None,
        fresh: bool = False,
    ) -> RunDir:
        """Create the directory, or continue the run in it. Questions that are new to the run are added to it.

        Raises:
            ConfigError: another process writes there, or the directory holds another model, data set, backend, dtype,
                seed or protocol; the message shows the keys that differ.
            ResourceError: the directory cannot be written.
        """
        # Shards share the directory; one of them starting anew would move the others' files away.
        if fresh and shard is not None:
            raise ConfigError("--fresh would take the other shards' records away. Fix: leave out --shard once.")
        make_folder(path)
        # A file for each shard: appends of several processes to one file could interleave on network disks.
        name = "records.jsonl" if shard is None else f"records.{shard[0]}-of-{shard[1]}.jsonl"
        file = AppendFile(path, name, alone=shard is None)
        try:
            with exclusive(path / ".manifest.lock"):
                if fresh:
                    set_aside(path, file)
                manifest, merged = _merge(path, manifest, questions)
            return cls(path, manifest, merged, file)
        # The lock must not outlive a failed opening, whatever ended it.
        except BaseException:
            file.close()
            raise

    def __enter__(self) -> RunDir:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def records(self) -> Mapping[str, RunRecord]:
        """The record that counts for each question so far, without its texts; it grows as records are appended."""
        return self._records

    def pending(
        self, asked: Sequence[Question], *, shard: tuple[int, int] | None = None, retry_errors: bool = True
    ) -> Sequence[Question]:
        """Those of `asked` in this shard that have no answer. Failures are pending unless retry_errors is off.

        A question's shard follows from its place in the run, so shards agree whatever each of them has seen.
        """
        # Shards count from 1, places from 0.
        i, n = shard or (1, 1)
        find, is_settled = self.questions.find, self._records.is_settled
        places = array("I")
        for place, question in enumerate(asked):
            found = find(question.question_id)
            if found and found[0] % n == i - 1 and not is_settled(found[0], retry_errors=retry_errors):
                places.append(place)
        return Selected(asked, places)

    def append(self, record: RunRecord) -> None:
        """Write one attempt: in the file when this returns, on the disk within a second. Raises ResourceError."""
        self._file.append(record_line(record, self._identity))
        self._records.add(record)

    def refresh(self) -> None:
        """Read again what other shards have written meanwhile."""
        self._file.sync()
        self._records = self._read()

    def _read(self) -> OutcomeTable:
        records = read_answers(self.path, self.questions, self.manifest, texts=False).records
        assert isinstance(records, OutcomeTable)
        return records

    def event(self, kind: str, **fields: object) -> None:
        """One line in events.jsonl."""
        # Events are for people: nothing is ever read back from them.
        line = json.dumps({"time": utc_now(), "event": kind, **to_json(fields)}, ensure_ascii=False) + "\n"
        path = self.path / "events.jsonl"
        with writing(path), path.open("a", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(line)

    def note_weights(self, hashes: dict[str, str]) -> None:
        """Keep the weights' hashes; note it if they are not those that an earlier call, or another shard, has kept."""
        with exclusive(self.path / ".manifest.lock"):
            known = read_manifest(self.path) or self.manifest
            names = _changed(known.weight_files, hashes)
            # A version that kept one hash of all of them.
            if hashes and not known.weight_files and known.weights_sha256 not in (None, weights_sha256(hashes)):
                names = list(hashes)
            self.manifest = dataclasses.replace(
                known,
                weight_files=known.weight_files or hashes,
                mixed_weights=known.mixed_weights or (names[0] if names else None),
            )
            if self.manifest != known:
                write_json(self.path / "manifest.json", to_json(self.manifest))

    def finish(self, summary: RunSummary, hashes: dict[str, str]) -> None:
        """Write summary.json, and mark the manifest complete if the run is.

        Raises ConfigError for a run whose weights were not the same in all calls: it is never complete.
        """
        write_json(self.path / "summary.json", to_json(summary))
        # The manifest says complete only of a run that is.
        if summary.status == "incomplete":
            return
        self.note_weights(hashes)
        if self.manifest.mixed_weights is not None:
            raise ConfigError(
                f"{self.path}: {self.manifest.mixed_weights} had other bytes in one call of this run than in another: "
                f"its answers come from two models. It is not complete and is never ranked. Fix: --fresh."
            )
        with exclusive(self.path / ".manifest.lock"):
            self.manifest = dataclasses.replace(
                self.manifest,
                weights_sha256=weights_sha256(hashes) if hashes else None,
                completed_utc=utc_now(),
                updated_utc=utc_now(),
            )
            write_json(self.path / "manifest.json", to_json(self.manifest))


def run_directory(runs_dir: Path, model_name: str, protocol: str, run_name: str | None) -> Path:
    """runs/<model-slug>--<protocol_id>, or runs/<run_name>. Raises ConfigError for a name that is not one folder's."""
    if run_name is None:
        return runs_dir / f"{slug(model_name)}--{protocol}"
    if run_name in ("", ".", "..") or set(run_name) & set("/\\\0"):
        raise ConfigError(
            f"--run-name {run_name!r} is not the name of one folder.\n"
            f"Fix: a name without slashes, such as {slug(run_name)}; --runs-dir DIR says where it lies."
        )
    return runs_dir / run_name


def slug(name: str) -> str:
    """A name as part of a file's: lower case, one hyphen for all that is not a letter, digit, dot or underscore."""
    return re.sub(r"[^a-z0-9._]+", "-", name.lower()).strip("-.") or "model"


def _merge(path: Path, manifest: RunManifest, questions: Sequence[Question]) -> tuple[RunManifest, QuestionsById]:
    """Write the manifest and questions of a new run; check and extend those of an existing one."""
    wanted = QuestionsById(questions)
    existing = read_manifest(path)
    if existing is not None:
        refuse_differences(path, existing, manifest)
        if doubts := doubts_of(path, existing):
            raise ConfigError(f"{path} was edited. {doubts[0]}. Fix: put the file back, or --fresh to start anew.")
        wanted, n_known = _extended(path, wanted)
        completed = existing.completed_utc if len(wanted) == n_known else None
        manifest = dataclasses.replace(
            manifest,
            schema=existing.schema,  # what wrote the first records
            created_utc=existing.created_utc,
            n_total=existing.n_total | manifest.n_total,
            dataset_hash=existing.dataset_hash | manifest.dataset_hash,
            weights_sha256=existing.weights_sha256,
            weight_files=existing.weight_files,
            mixed_weights=existing.mixed_weights,
            completed_utc=completed,
        )
        # Media may be named anew below: a kill between the two files must not leave the hash of other lines.
        write_json(path / "manifest.json", to_json(dataclasses.replace(existing, questions_sha256=None)))
    elif any(file.stat().st_size for file in record_files(path)):
        raise ConfigError(
            f"{path} holds answers but no manifest.json: which model gave them is not known. Nothing was changed. "
            f"Fix: put the manifest back, --run-name NAME for another directory, or --fresh to set the answers aside."
        )
    # The questions first: a manifest never counts more than there are.
    digest = write_questions(path / "questions.jsonl", wanted.values())
    manifest = dataclasses.replace(manifest, questions_sha256=digest, n_questions=len(wanted))
    write_json(path / "manifest.json", to_json(manifest))
    return manifest, wanted


def _extended(path: Path, asked: QuestionsById) -> tuple[QuestionsById, int]:
    """The questions of a run that is continued, and how many it has held so far.

    Known ones first: a question's shard follows from its place, which must not move.
    """
    known = QuestionsById(PackedQuestions(read_lines(path / "questions.jsonl", question_from_json)))
    # As they were read now: their files may lie elsewhere than in the first call.
    found = PackedQuestions(asked.get(question.question_id, question) for question in known.values())
    for question in asked.values():
        if question.question_id not in known:
            found.append(question)
    return QuestionsById(found), len(known)


def refuse_differences(path: Path, existing: RunManifest, new: RunManifest) -> None:
    """Raise ConfigError, naming what differs, if `new` is another run than the one in the directory."""
    differing = []
    if existing.suite != new.suite:
        differing.append(f"suite: {existing.suite} there, {new.suite} now")
    if existing.protocol_id != new.protocol_id:
        differing.append(f"protocol_id: {existing.protocol_id} there, {new.protocol_id} now")
    if existing.model.fingerprint != new.model.fingerprint:
        differing.append(f"model fingerprint: {existing.model.fingerprint} there, {new.model.fingerprint} now")
    changed = _changed(existing.model.files, new.model.files) + _changed(existing.weight_files, new.weight_files)
    names = dict.fromkeys(name.removesuffix(":samples") for name in changed)
    differing += [f"{name} of the model has changed" for name in names]
    for key in _FIXED:
        there, now = getattr(existing, key), getattr(new, key)
        if key == "dataset_hash":
            # Levels may be added to a run; those that both have must come from the same file.
            shared = sorted(set(there) & set(now))
            there, now = ({level: value[level][:12] for level in shared} for value in (there, now))
        if there != now:
            differing.append(f"{key}: {there} there, {now} now")
    if differing:
        raise ConfigError(
            f"{path} holds another run. Differing: {'; '.join(differing)}. Nothing was changed. "
            f"Fix: --run-name NAME opens another directory, --fresh starts this one anew."
        )


def _changed(there: dict[str, str], now: dict[str, str]) -> list[str]:
    """The files that differ; none where one side has not kept any."""
    if not there or not now:
        return []
    return [name for name in sorted({*there, *now}) if there.get(name) != now.get(name)]
