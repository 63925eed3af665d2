"""Run -> LeaderboardRow: every number of a table cell, computed once. Templates and writers never compute."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from leaderboards.outcomes import FAILED, TRUNCATED, UNPARSED, Bools, Measured, QuestionBank
from leaderboards.provenance import provenance_of
from leaderboards.sampled import SampleNumbers
from leaderboards.shares import (
    NO_REASONING,
    Bounds,
    Quadrants,
    consistency_of,
    further_shares,
    has_consistency,
    quadrants_of,
    share,
    sound_of,
    verdict_bounds,
)
from leaderboards.stats import FEW_CLUSTERS, Proportion, gap_interval, square_and_add
from seedbench_r1.prompts import template_sha
from seedbench_r1.types import DOMAINS

ROUNDING = 1e-12  # what sums of fractions are off by
SHOWN_UNPARSED = 0.02  # share of unparsed answers from which a row is flagged
SHOWN_UNJUDGED = 0.01  # share of missing verdicts from which a row is flagged
RANKED_UNPARSED = 0.2  # largest share of unparsed answers of a ranked row: beyond it, the wording is what differs


@dataclass(frozen=True, slots=True)
class Gap:
    """Accuracy on L1 minus accuracy on L3, with its 95 % interval. Fractions."""

    value: float
    lo: float
    hi: float


def stars_of(p_adjusted: float | None) -> str:
    """*** below 0.001, ** below 0.01, * below 0.05; none where nothing was tested."""
    return "" if p_adjusted is None else "*" * sum(p_adjusted < limit for limit in (0.05, 0.01, 0.001))


def open_sign(value: float, least: float, most: float) -> bool:
    """Whether what a difference can be, from least to most, is not all on the side of its value."""
    return not (min(value, least, most) > ROUNDING or max(value, least, most) < -ROUNDING)


@dataclass(frozen=True, slots=True)
class Delta:
    """A measure minus the baseline's on the questions that both have a value for, with its 95 % interval. Fractions.

    The bounds are over all questions that both have answered: verdicts that are missing all against the row and for the
    baseline, and the other way round. Of accuracy, which misses none, they are the value itself.
    """

    value: float
    lo: float  # paired, CR1 by video, Student's t; exact where videos show no spread: stats.paired_interval
    hi: float
    se: float
    n: int  # questions that both have answered (and, of consistency, that both have a verdict for)
    n_clusters: int
    p: float | None  # cluster sign-flip test; None: refused, n is below 95 % of either run's questions
    p_adjusted: float | None  # on a level Holm over all runs tested against the baseline; on a domain, see below
    missing: int = 0  # questions that both have answered, without a verdict in one of them
    bound_lo: float = math.nan
    bound_hi: float = math.nan

    @property
    def sign_is_open(self) -> bool:
        """Whether missing verdicts could turn the difference round, or take it away: see `open_sign`."""
        return self.missing > 0 and open_sign(self.value, self.bound_lo, self.bound_hi)

    @property
    def stars(self) -> str:
        """Of the adjusted p-value (stars_of); none where the sign is open."""
        return "" if self.sign_is_open else stars_of(self.p_adjusted)


@dataclass(frozen=True, slots=True)
class LeaderboardRow:
    """One measured run. Dictionaries are keyed by level ("L1", "L2", "L3", "custom") and, where said, L3 domain."""

    run_id: str
    model: str
    base_model: str | None
    algo: str | None
    step: int | None
    protocol: str
    protocol_id: str
    status: str  # complete, incomplete, subset
    answered: int
    n: int  # questions in the annotation files of the levels asked for
    frames: int | None  # at most; None: an import, of whose settings nothing is known
    accuracy: dict[str, Proportion]  # level and domain; a group is absent unless every question asked of it is answered
    bounds: dict[str, Bounds]  # level and domain; the groups that accuracy lacks
    consistency: dict[str, Proportion]  # level and domain; consistent / judged; empty without verdicts
    sound: dict[str, Proportion]  # level and domain; correct and consistent / judged
    quadrants: dict[str, Quadrants]  # level; empty without verdicts
    shares: dict[str, dict[str, Proportion]]  # further shares by name (see `further_shares`), then level and domain
    gap: Gap | None
    unparsed: int
    truncated: int
    errors: int
    judge_id: str | None
    judge_prompt_sha: str
    model_sha: str
    dataset_rev: str
    prompt_sha: str
    commit: str  # of the toolkit, or its version
    date_utc: str
    selected_from_k: int | None
    provenance: dict[str, str]  # name -> text, for display: no secrets, no home folder
    flags: tuple[str, ...] = ()
    withheld: bool = False  # complete, and not to be ranked or compared all the same: a flag says why
    rank_lo: int | None = None  # rank_lo, rank_hi, tier: None unless ranked
    rank_hi: int | None = None
    tier: str | None = None
    deltas: dict[str, Delta] = field(default_factory=dict)  # level; against the baseline; empty without one
    domain_deltas: dict[str, Delta] = field(default_factory=dict)  # exploratory: Benjamini-Hochberg over all of them
    judged_deltas: dict[str, dict[str, Delta]] = field(default_factory=dict)  # consistency and sound, then level
    verdict_bounds: dict[str, Bounds] = field(default_factory=dict)  # level and domain, where verdicts are missing
    bootstrap: dict[str, tuple[float, float]] = field(default_factory=dict)  # level; accuracy, 10,000 draws of videos
    n_samples: int = 1  # answers to each question, of which accuracy is the mean
    sampled: dict[str, SampleNumbers] = field(default_factory=dict)  # level -> spread, maj@K, pass@k

    @property
    def shown_model(self) -> str:
        """The model's name, and of how many samples its numbers are means."""
        return self.model if self.n_samples == 1 else f"{self.model} (avg@{self.n_samples})"

    @property
    def coverage(self) -> float:
        """answered / n."""
        return self.answered / self.n if self.n else math.nan

    @property
    def fit(self) -> bool:
        """True if the row may be ranked, tested and drawn with others of its protocol."""
        return self.status == "complete" and not self.withheld

    @property
    def ranked(self) -> bool:
        """True if the row has a rank and a tier."""
        return self.tier is not None

    @property
    def rank(self) -> str:
        """ "1-3", or "2" where the interval is one rank; "" unless ranked."""
        if not self.ranked:
            return ""
        return str(self.rank_lo) if self.rank_lo == self.rank_hi else f"{self.rank_lo}-{self.rank_hi}"

    @property
    def consistency_by_correctness(self) -> dict[str, tuple[Proportion, Proportion]]:
        """level -> consistency among correct and among wrong answers."""
        right, wrong = (self.shares.get(f"reasoning_consistency_{side}", {}) for side in ("correct", "wrong"))
        return {name: (right[name], wrong[name]) for name in right if name not in DOMAINS}

    def cells(self, measure: str) -> dict[str, Proportion]:
        """Level and domain -> accuracy, consistency or sound accuracy."""
        return {"accuracy": self.accuracy, "consistency": self.consistency, "sound": self.sound}[measure]

    def delta(self, measure: str, level: str) -> Delta | None:
        """The difference from the baseline in accuracy, consistency or sound; None where there is none."""
        found = self.deltas if measure == "accuracy" else self.judged_deltas.get(measure, {})
        return found.get(level)

    def stars(self, level: str, measure: str = "accuracy") -> str:
        """The difference's stars. Never any on a checkpoint picked as the best of several: its score picked it."""
        delta = self.delta(measure, level)
        return "" if delta is None or (self.selected_from_k or 1) > 1 else delta.stars


def build_row(measured: Measured, bank: QuestionBank, *, rank_unparsed: bool = False) -> LeaderboardRow:
    """Count a run and put intervals around its shares. Rank, tier and deltas need the other runs: `build_board`.

    rank_unparsed: a row may be ranked however many of its answers could not be read.
    """
    manifest, table = measured.run.manifest, measured.outcomes
    every, of_every = measured.responses, bank.repeated(measured.n_samples)
    groups = [name for name in bank.groups if (bank.group(name) & table.selected).any()]
    complete = [name for name in groups if not (bank.group(name) & table.selected & ~table.responded).any()]
    accuracy = {name: share(table.credit, bank.group(name) & table.responded, bank) for name in complete}
    # Of answers without options no judge says anything.
    judged = {name: bank.group(name) & bank.choice for name in groups}
    judged_every = {name: of_every.group(name) & of_every.choice for name in groups}
    rated = [name for name in complete if has_consistency(every, judged_every[name])]
    levels = [name for name in groups if name not in DOMAINS]
    total = sum(sizes.get("all", 0) for split, sizes in manifest.n_total.items() if bank.suite.column(split) in levels)
    unparsed = int((every.outcome == UNPARSED).sum())
    unreadable = unparsed > RANKED_UNPARSED * int(every.responded.sum()) and not rank_unparsed
    return LeaderboardRow(
        run_id=measured.run_id,
        model=manifest.model.name,
        base_model=manifest.model.base_model,
        algo=manifest.model.algorithm,
        step=manifest.model.step,
        protocol=manifest.protocol,
        protocol_id=manifest.protocol_id,
        status=_status(measured, total),
        answered=int(table.responded.sum()),
        n=total,
        frames=None if manifest.video is None else manifest.video.max_frames,
        accuracy=accuracy,
        bounds={name: _bounds(measured, bank.group(name)) for name in groups if name not in accuracy},
        consistency={name: consistency_of(table, judged[name], bank) for name in rated},
        sound={name: sound_of(table, judged[name], bank) for name in rated},
        verdict_bounds={name: found for name in rated if (found := verdict_bounds(every, judged_every[name]))},
        quadrants={name: quadrants_of(every, judged_every[name]) for name in rated if name in levels},
        shares=further_shares(measured, complete, rated, of_every),
        gap=_gap(accuracy, counts=not measured.samples) if bank.suite.has_levels else None,
        unparsed=unparsed,
        truncated=int((every.outcome == TRUNCATED).sum()),
        errors=int((every.outcome == FAILED).sum()),
        judge_id=measured.judge_id,
        judge_prompt_sha=(measured.judge_id or "").rpartition("/")[2],
        model_sha=manifest.weights_sha256 or manifest.model.fingerprint,
        dataset_rev="+".join(sorted({digest[:12] for digest in manifest.dataset_hash.values()})),
        prompt_sha="" if manifest.template is None else template_sha(manifest.template),
        commit=manifest.versions.get("commit") or manifest.versions.get("seedbench-r1", ""),
        date_utc=manifest.completed_utc or manifest.updated_utc,
        selected_from_k=manifest.model.selected_from_k,
        provenance=provenance_of(measured),
        flags=_flags(measured, bank, total),
        n_samples=measured.n_samples,
        sampled=dict(measured.sampled),
        withheld=unreadable or bool(measured.run.edited or measured.run.doubts) or manifest.mixed_weights is not None,
    )


def _status(measured: Measured, total: int) -> str:
    table = measured.outcomes
    if (table.selected & ~table.responded).any():
        return "incomplete"
    return "subset" if int(table.selected.sum()) < total else "complete"


def _bounds(measured: Measured, group: Bools) -> Bounds:
    n, k = int((group & measured.outcomes.selected).sum()), measured.n_samples
    # Of every sample: an answer that is there keeps its credit where another one of its question is missing.
    table, inside = measured.responses, np.tile(group, k)
    correct = float(table.credit[inside & table.responded].sum()) / k
    missing = int((inside & table.selected & ~table.responded).sum()) / k
    answered = int((group & measured.outcomes.responded).sum())
    return Bounds(correct / n, (correct + missing) / n, answered, n)


def _gap(cells: dict[str, Proportion], *, counts: bool) -> Gap | None:
    """counts: every answer is right or wrong; means of several samples are no counts, even where they add up to one."""
    if "L1" not in cells or "L3" not in cells:
        return None
    near, far = cells["L1"], cells["L3"]
    if counts:
        return Gap(*gap_interval(near.k, near.n, far.k, far.n, deff1=near.deff, deff2=far.deff))
    return Gap(*square_and_add((near.value, near.lo, near.hi), (far.value, far.lo, far.hi)))


def _flags(measured: Measured, bank: QuestionBank, total: int) -> tuple[str, ...]:
    """What a reader must know before comparing the row. Flags that need other rows are added by `build_board`."""
    manifest, selected = measured.run.manifest, measured.outcomes.selected
    flags = [f"AVG@{measured.n_samples}"] if measured.samples else []
    if _status(measured, total) == "incomplete":
        flags.append(f"INCOMPLETE {int(measured.outcomes.responded.sum())}/{total}")
    if int(selected.sum()) < total:
        flags.append(f"SUBSET {int(selected.sum())}/{total}")
    # Shares are of all responses, of every sample.
    table, choice = measured.responses, bank.repeated(measured.n_samples).choice
    answered = int(table.responded.sum())
    errors = int((table.outcome == FAILED).sum())
    if errors:
        flags.append(f"ERRORS {errors}")
    unparsed, truncated = int((table.outcome == UNPARSED).sum()), int((table.outcome == TRUNCATED).sum())
    if answered and unparsed / answered > SHOWN_UNPARSED:
        flags.append(f"UNPARSED {100 * unparsed / answered:.1f}%")
    if truncated:
        flags.append(f"TRUNCATED {100 * truncated / answered:.1f}%")
    judged, to_judge = int((table.judged & table.responded).sum()), int((table.responded & choice).sum())
    if judged and 1 - judged / to_judge > SHOWN_UNJUDGED:
        flags.append(f"JUDGED {100 * judged / to_judge:.1f}%")
    if answered and (table.responded & table.bare).sum() >= NO_REASONING * answered:
        flags.append("NO REASONING")
    if manifest.settings is None:
        flags.append("SETTINGS UNKNOWN")
    if measured.run.edited:
        flags.append(f"EDITED {len(measured.run.edited)}")
    flags += [f"EDITED {name}" for name in dict.fromkeys(doubt.partition(":")[0] for doubt in measured.run.doubts)]
    if manifest.mixed_weights is not None:
        flags.append("MIXED WEIGHTS")
    if n_bad := sum(manifest.bad_rows.values()):
        flags.append(f"BAD ROWS {n_bad}")
    if measured.run.rescored:
        flags.append("RESCORED")
    if "dirty" in manifest.versions.get("commit", ""):  # the toolkit's working tree had uncommitted changes
        flags.append("DIRTY")
    if (manifest.model.selected_from_k or 1) > 1:
        flags.append(f"SELECTED 1/{manifest.model.selected_from_k}")
    overlap = measured.snapshot.overlap if measured.snapshot is not None else None
    if overlap is not None and overlap.shared:
        flags.append(f"CONTAM? {overlap.shared}/{overlap.checked}")
    if any(
        len(np.unique(bank.video[(bank.level == name) & selected])) in range(1, FEW_CLUSTERS) for name in bank.levels
    ):
        flags.append("FEW VIDEOS")
    return tuple(flags)
