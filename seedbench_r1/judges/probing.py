"""Carrying probes out on a run: what is pending, one model after the other, each result written as it comes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from seedbench_r1.backends.base import Backend, Scorer
from seedbench_r1.engines.local import MediaSource
from seedbench_r1.errors import ConfigError, IncompleteRun
from seedbench_r1.files import AppendFile
from seedbench_r1.judges.probe_config import BACKENDS, ProbeConfig
from seedbench_r1.judges.probes import (
    ALONE,
    VERSION,
    Asked,
    Probe,
    read_reply,
    read_scores,
    requests_of,
    text_match_request,
)
from seedbench_r1.prompts import build_request
from seedbench_r1.runs.directory import Run
from seedbench_r1.runs.probes import (
    FAILED,
    FILE,
    ROLLOUTS,
    ProbeResult,
    Rollout,
    check_not_imported,
    load_probes,
    load_rollouts,
    probe_line,
    rollout_line,
)
from seedbench_r1.runs.records import run_identity
from seedbench_r1.scoring import lacks_reasoning
from seedbench_r1.types import Failure, Generation, Media, Question, Request, RunRecord, SamplingConfig

MOST_FAILURES = 20  # in a row, before any result: not the questions' fault
TEXT_SAMPLING = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=1024)
Observe = Callable[[str, ProbeResult], None]


class Models(Protocol):
    """Opens what is asked; each call loads a model, which the caller closes."""

    def own(self, run: Run) -> Scorer: ...
    def under(self, run: Run) -> Scorer: ...
    def text(self) -> Backend: ...


def probes_of(config: ProbeConfig, *, under: str | None, text_model: str | None) -> list[Probe]:
    """The probes with their ids.

    Args:
        config: which are asked for.
        under: what stands for --under in an id.
        text_model: what stands for --text-model in an id.
    """
    found = []
    for name in config.kinds:
        more, asks_other, asks_text = "", False, False
        if name == "forced" and under is not None:
            more, asks_other = f"under:{under}", True
        elif name == "text-match":
            more, asks_text = f"by:{text_model or 'own model'}", text_model is not None
        elif name == "shuffle":
            more = f"seed{config.seed}"
        elif name == "swapped":
            more = f"seed{config.seed}-rollouts{config.rollouts}"
        probe_id = f"{name}/{VERSION}" + (f"/{more}" if more else "")
        found.append(Probe(name, probe_id, config.seed, under=asks_other, text_model=asks_text))
    return found


@dataclass(slots=True)
class Progress:
    """Results of a run while it is probed."""

    run: Run
    results: dict[str, dict[str, ProbeResult]]  # probe_id -> question_id -> result
    limit: int | None
    stop: threading.Event
    observe: Observe
    file: AppendFile
    failures: int = 0

    def pending(self, probe: Probe) -> list[str]:
        """Questions whose answer has reasoning, without a settled result. At most the limit."""
        known = self.results.get(probe.probe_id, {})
        waiting = [
            question_id
            for question_id in self.run.questions
            if (record := self.run.records.get(question_id)) is not None
            and record.answered
            and not lacks_reasoning(record)
            and not (question_id in known and known[question_id].settled)
        ]
        return waiting[: self.limit]

    def write(self, question_id: str, result: ProbeResult) -> None:
        """Keep a result. Raises IncompleteRun after MOST_FAILURES in a row without one success."""
        self.file.append(probe_line(question_id, result, run_identity(self.run.manifest)))
        self.results.setdefault(result.probe_id, {})[question_id] = result
        self.observe(question_id, result)
        if self.failures < 0:
            return
        self.failures = self.failures + 1 if not result.settled else -1
        if self.failures >= MOST_FAILURES:
            raise IncompleteRun(
                f"Stopped: the first {self.failures} questions failed, none has a result: "
                f"{result.note.removeprefix(FAILED)}. Fix that and run the same command again."
            )


def probe_run(
    run: Run,
    config: ProbeConfig,
    models: Models,
    probes: Iterable[Probe],
    loader: MediaSource,
    *,
    stop: threading.Event | None = None,
    observe: Observe = lambda question_id, result: None,
) -> dict[str, dict[str, ProbeResult]]:
    """Probe every answer with reasoning that has no settled result yet.

    Args:
        run: its folder gets the results.
        config: from resolve_probe_config.
        models: opened one after the other, and only what has something to do.
        probes: from probes_of.
        loader: decodes the questions' media.
        stop: when set, nothing new is begun; what is in flight is written.
        observe: called with every result right after it was written.

    Returns:
        These probes' results on the run, earlier ones included: probe_id -> question_id -> result.

    Raises:
        ConfigError: another process probes the same run. ResourceError: disk, memory. IncompleteRun: nothing succeeds.
    """
    identity = run_identity(run.manifest)
    chosen = list(probes)
    known = load_probes(run.path, identity, run.questions)
    file = AppendFile(run.path, FILE)
    try:
        results = {probe.probe_id: known.get(probe.probe_id, {}) for probe in chosen}
        progress = Progress(run, results, config.limit, stop or threading.Event(), observe, file)
        own = [probe for probe in chosen if not probe.under and not probe.text_model]
        _with_own_model(progress, own, config, models, loader)
        for probe in chosen:
            if probe.under and progress.pending(probe):
                with contextlib.closing(models.under(run)) as scorer:
                    _score(progress, [probe], scorer, loader, {})
            elif probe.text_model and progress.pending(probe):
                with contextlib.closing(models.text()) as backend:
                    _ask_text_model(progress, probe, backend)
    finally:
        file.close()
    return progress.results


def _with_own_model(
    progress: Progress, probes: list[Probe], config: ProbeConfig, models: Models, loader: MediaSource
) -> None:
    if not any(progress.pending(probe) for probe in probes):
        return
    swapped = next((probe for probe in probes if probe.kind == "swapped"), None)

    rollouts: Mapping[str, Mapping[int, Rollout]] = {}
    with contextlib.closing(models.own(progress.run)) as scorer:
        if swapped is not None and config.rollouts:
            rollouts = _draw(progress, progress.pending(swapped), config, scorer, loader)
        if not progress.stop.is_set():
            _score(progress, probes, scorer, loader, rollouts)


def _draw(
    progress: Progress, wanted: list[str], config: ProbeConfig, backend: Backend, loader: MediaSource
) -> dict[str, dict[int, Rollout]]:
    """The rollouts of these questions, those that are not there yet drawn at temperature 1."""
    run, identity = progress.run, run_identity(progress.run.manifest)
    settings = run.manifest.settings
    assert settings is not None
    sampling = SamplingConfig(
        temperature=1.0, top_p=1.0, max_new_tokens=settings.sampling.max_new_tokens, n=config.rollouts, seed=config.seed
    )
    drawn = f"temperature 1, n {config.rollouts}, seed {config.seed}"
    known = load_rollouts(run.path, drawn, identity)
    # All of a question's or none: the k-th cannot be drawn alone.
    missing = [run.questions[i] for i in wanted if len(known.get(i, {})) < config.rollouts]
    if not missing:
        return known
    file = AppendFile(run.path, ROLLOUTS)
    new: dict[str, list[Rollout]] = {}

    def requests() -> Iterator[Request]:
        for question, media in loader.stream(missing, stop=progress.stop):
            if isinstance(media, Media):  # what fails here fails again when it is scored, and is noted then
                yield build_request(question, media, settings.template)

    try:
        for question_id, result in backend.generate(requests(), sampling):
            if isinstance(result, Generation):
                found = new.setdefault(question_id, [])
                found.append(Rollout(len(found), result.text, result.opened))
                file.append(rollout_line(question_id, drawn, found[-1], identity))
    finally:
        file.close()
    return known | {question_id: {one.k: one for one in found} for question_id, found in new.items()}


def _score(
    progress: Progress,
    probes: Iterable[Probe],
    scorer: Scorer,
    loader: MediaSource,
    rollouts: Mapping[str, Mapping[int, Rollout]],
) -> None:
    """Every pending result of these probes, a question's media decoded once."""
    by_question: dict[str, list[Probe]] = {}
    for probe in probes:
        for question_id in progress.pending(probe):
            by_question.setdefault(question_id, []).append(probe)
    asked: dict[str, tuple[str, Asked]] = {}  # the request's name -> the question's, and what it stands for

    def requests() -> Iterator[Request]:
        for question, media in _with_media(progress, by_question, loader):
            for probe in by_question[question.question_id]:
                made = _request(progress.run, probe, question, media, scorer.opened_for, rollouts)
                if isinstance(made, ProbeResult):
                    progress.write(question.question_id, made)
                    continue
                request, stands_for = made
                asked[request.question_id] = question.question_id, stands_for
                yield request

    for name, scores in scorer.score(requests()):
        question_id, stands_for = asked.pop(name)
        progress.write(question_id, read_scores(stands_for, scores))


def _with_media(
    progress: Progress, by_question: Mapping[str, list[Probe]], loader: MediaSource
) -> Iterator[tuple[Question, Media | Failure]]:
    """Questions that nobody shows clip or image first, then those that were decoded."""
    run = progress.run
    for question_id, probes in by_question.items():
        if progress.stop.is_set():
            return
        if not any(probe.needs_media for probe in probes):
            yield run.questions[question_id], ALONE
    seen = (run.questions[i] for i, probes in by_question.items() if any(probe.needs_media for probe in probes))
    yield from loader.stream(seen, stop=progress.stop)


def _request(
    run: Run,
    probe: Probe,
    question: Question,
    media: Media | Failure,
    opened_for: Callable[[Request], str],
    rollouts: Mapping[str, Mapping[int, Rollout]],
) -> tuple[Request, Asked] | ProbeResult:
    """A request, or the result that says why there is none."""
    record, settings = run.records[question.question_id], run.manifest.settings
    assert settings is not None
    result = ProbeResult(probe.probe_id, before=_answer(record), after=None)
    if isinstance(media, Failure):
        return replace(result, note=f"{FAILED}{media.message}")
    drawn = rollouts.get(question.question_id, {})
    try:
        return requests_of(probe, question, record, media, settings.template, opened_for, drawn)
    except ValueError as error:
        return replace(result, note=str(error))


def _answer(record: RunRecord) -> str:
    return (record.parsed and record.parsed.answer) or ""


def _ask_text_model(progress: Progress, probe: Probe, backend: Backend) -> None:
    asked: dict[str, tuple[Question, Asked]] = {}

    def requests() -> Iterator[Request]:
        for question_id in progress.pending(probe):
            if progress.stop.is_set():
                return
            question = progress.run.questions[question_id]
            request, stands_for = text_match_request(probe, question, progress.run.records[question_id])
            asked[request.question_id] = question, stands_for
            yield request

    for name, reply in backend.generate(requests(), TEXT_SAMPLING):
        question, stands_for = asked.pop(name)
        progress.write(question.question_id, read_reply(stands_for, reply, question))


def check_probable(run: Run, config: ProbeConfig) -> None:
    """Raise ConfigError or DataError for a run that these probes cannot ask anything.

    Runs of an import or of a backend whose model is not loaded here can be probed by a text model alone.
    """
    if run.manifest.suite != "seedbench-r1":
        raise ConfigError(f"{run.path} answers the suite {run.manifest.suite}; probes know seedbench-r1 only.")
    needs_model = [name for name in config.kinds if not (name == "text-match" and config.text_model)]
    if not needs_model:
        return
    check_not_imported(run.path, run.manifest.protocol)
    backend = run.manifest.backend
    if backend not in BACKENDS and config.model is None:
        raise ConfigError(
            f"{run.path} was answered by backend {backend!r}, which cannot continue a prefix or say how likely an "
            f"option is: probe {needs_model[0]} needs the model itself. Fix: --model CHECKPOINT with --backend "
            f"transformers or vllm if you have it, or --probes text-match --text-model MODEL."
        )


def missing_media(run: Run, config: ProbeConfig) -> list[Path]:
    """Files of the run's questions that are not there, if a probe needs them."""
    if set(config.kinds) <= {"text-match"}:
        return []
    return sorted({p for q in run.questions.values() for p in (q.video, q.image) if p is not None and not p.exists()})
