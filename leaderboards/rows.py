"""Run -> LeaderboardRow: every number of a table cell, computed once. Templates and writers never compute."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from leaderboards.stats import design_effect, gap_interval, wilson_interval
from seedbench_r1.prompts import template_sha
from seedbench_r1.runs import Run
from seedbench_r1.scoring import summarise
from seedbench_r1.types import LEVELS, RunRecord


@dataclass(frozen=True, slots=True)
class Cell:
    """A share with its 95 % interval, clustered by video. Fractions."""

    k: int
    n: int
    lo: float
    hi: float
    deff: float
    n_clusters: int

    @property
    def value(self) -> float:
        return self.k / self.n if self.n else math.nan


@dataclass(frozen=True, slots=True)
class Gap:
    """Accuracy on L1 minus accuracy on L3, with its 95 % interval. Fractions."""

    value: float
    lo: float
    hi: float


@dataclass(frozen=True, slots=True)
class LeaderboardRow:
    """One measured run."""

    run_id: str
    model: str
    base_model: str | None
    algo: str | None
    step: int | None
    protocol_id: str
    status: str  # complete, incomplete, subset
    coverage: float  # answered / N over the levels asked for
    frames: int
    accuracy: dict[str, Cell]  # by level and by L3 domain; empty unless every question of it is answered
    gap: Gap | None
    unparsed: int
    truncated: int
    errors: int
    model_sha: str
    dataset_rev: str
    prompt_sha: str
    commit: str  # of the toolkit, or its version
    date_utc: str
    selected_from_k: int | None
    flags: tuple[str, ...] = field(default_factory=tuple)


def build_row(run: Run) -> LeaderboardRow:
    """Count a run and put intervals around its shares."""
    manifest = run.manifest
    summary = summarise(run.records, run.questions.values(), manifest.n_total)
    groups = summary.levels | summary.domains
    complete = {name for name, group in groups.items() if group.answered == group.selected}
    cells = {name: accuracy_cell(_records_of(run, name)) for name in groups if name in complete}
    total = sum(group.n for group in summary.levels.values())
    answered = sum(group.answered for group in summary.levels.values())
    levels = summary.levels.values()
    return LeaderboardRow(
        run_id=run.path.name,
        model=manifest.model.name,
        base_model=manifest.model.base_model,
        algo=manifest.model.algorithm,
        step=manifest.model.step,
        protocol_id=manifest.protocol_id,
        status=summary.status,
        coverage=answered / total if total else math.nan,
        frames=manifest.video.max_frames,
        accuracy=cells,
        gap=_gap(cells),
        unparsed=sum(group.unparsed for group in levels),
        truncated=sum(group.truncated for group in levels),
        errors=sum(group.failed for group in levels),
        model_sha=manifest.weights_sha256 or manifest.model.fingerprint,
        dataset_rev="+".join(sorted({digest[:12] for digest in manifest.dataset_hash.values()})),
        prompt_sha=template_sha(manifest.template),
        commit=manifest.versions.get("commit") or manifest.versions.get("seedbench-r1", ""),
        date_utc=manifest.completed_utc or manifest.updated_utc,
        selected_from_k=manifest.model.selected_from_k,
        flags=_flags(summary.status, answered, total),
    )


def accuracy_cell(records: Iterable[RunRecord]) -> Cell:
    """Share of correct answers with the Wilson interval at n / design effect, clusters = video_id."""
    scored = [(float(record.score.correct), record.video_id) for record in records if record.score is not None]
    values, clusters = [value for value, _ in scored], [video for _, video in scored]
    deff = design_effect(values, clusters) if values else 1.0
    k = int(sum(values))
    lo, hi = wilson_interval(k, len(values), deff=deff)
    return Cell(k, len(values), lo, hi, deff, len(set(clusters)))


def _records_of(run: Run, name: str) -> list[RunRecord]:
    if name in LEVELS or name == "custom":
        return [record for record in run.records.values() if record.level == name]
    return [record for record in run.records.values() if record.domain == name]


def _gap(cells: dict[str, Cell]) -> Gap | None:
    if "L1" not in cells or "L3" not in cells:
        return None
    near, far = cells["L1"], cells["L3"]
    return Gap(*gap_interval(near.k, near.n, far.k, far.n, deff1=near.deff, deff2=far.deff))


def _flags(status: str, answered: int, total: int) -> tuple[str, ...]:
    if status == "incomplete":
        return (f"INCOMPLETE {answered}/{total}",)
    return (f"SUBSET {answered}/{total}",) if status == "subset" else ()
