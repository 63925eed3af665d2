"""What the export formats share: one run with its numbers, which runs may be exported, and how they are named."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from leaderboards.draw.csv import BOUNDS, WILSON
from leaderboards.loading import choose_judge, load_runs
from leaderboards.measuring import measure
from leaderboards.outcomes import Measured, QuestionBank, build_bank
from leaderboards.published import SIZES
from leaderboards.rows import LeaderboardRow, build_row
from seedbench_r1.errors import ConfigError, DataError, IncompleteRun
from seedbench_r1.files import make_folder, write_text
from seedbench_r1.types import DOMAINS, RunManifest, RunSettings

DATASET = "TencentARC/SEED-Bench-R1"  # on the Hub

_HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*)(@[\w./-]+)?")


@dataclass(frozen=True, slots=True)
class Exported:
    """One run, by itself: no other run changes its numbers."""

    measured: Measured
    bank: QuestionBank
    row: LeaderboardRow

    @property
    def manifest(self) -> RunManifest:
        """The run's manifest."""
        return self.measured.run.manifest

    @property
    def settings(self) -> RunSettings:
        """Known: an import is not exported. Raises ValueError."""
        settings = self.manifest.settings
        if settings is None:
            raise ValueError("the run's settings are unknown")
        return settings

    @property
    def is_official(self) -> bool:
        """True if every level has as many questions as SEED-Bench-R1's: a miniature or a file of one's own has not."""
        sizes = {level: counts.get("all") for level, counts in self.manifest.n_total.items()}
        return bool(sizes) and all(SIZES.get(level) == n for level, n in sizes.items())


@dataclass(frozen=True, slots=True)
class Share:
    """One number with its 95 % interval. Fractions."""

    group: str  # level or L3 domain
    metric: str  # accuracy, reasoning_consistency, sound_accuracy
    value: float
    lo: float
    hi: float
    method: str  # of the interval
    n: int  # what it is a share of
    se: float | None  # None for an incomplete group
    answered: int
    deff: float | None
    n_clusters: int | None

    @property
    def complete(self) -> bool:
        """True if every question of the group is answered; else lo and hi are bounds."""
        return self.se is not None

    @property
    def level(self) -> str:
        """The level that the group is, or is part of."""
        return "L3" if self.group in DOMAINS else self.group

    @property
    def domain(self) -> str | None:
        """The L3 domain; None for a level."""
        return self.group if self.group in DOMAINS else None


def load_exported(path: Path, *, judge: str | None = None, allow_incomplete: bool = False) -> Exported:
    """Read a run for export.

    Args:
        path: a run directory.
        judge: a judge id, or its beginning; by default the judge with most verdicts on the run.
        allow_incomplete: also a run that is INCOMPLETE or a SUBSET; the files then say so.

    Raises:
        DataError: no usable run. ConfigError: no such judge.
        IncompleteRun: the run is INCOMPLETE or a SUBSET, and allow_incomplete is off.
    """
    # Alone: another run on the board could change the judge or the data set that counts.
    runs, left_out = load_runs([path], None)
    if left_out:
        raise DataError(f"{path} cannot be exported: {left_out[0].reason}")
    (run_id, loaded), *_ = runs.items()
    if loaded.run.manifest.suite != "seedbench-r1":
        raise DataError(
            f"{path} answers the suite {loaded.run.manifest.suite}: these formats name SEED-Bench-R1's levels. "
            f"Fix: leaderboard build {path}, whose CSV files hold every number."
        )
    judge_id = None if judge is None else choose_judge(runs, judge)
    bank = build_bank([loaded.run])
    measured = measure(run_id, loaded, judge_id, bank, only=judge is not None)
    row = build_row(measured, bank)
    if loaded.run.manifest.settings is None:
        raise DataError(
            f"{path} was imported: its settings are unknown, and these formats state them. Fix: export what it was "
            f"imported from."
        )
    if measured.run.edited:
        raise DataError(
            f"{path} was edited: what it stores of {len(measured.run.edited)} answers (e.g. {measured.run.edited[0]}) "
            f"is not what their texts say. Nothing was written. Fix: evaluate again into a fresh directory."
        )
    if measured.run.doubts:
        raise DataError(
            f"{path} was edited. {measured.run.doubts[0]}. Nothing was written. Fix: evaluate again into a fresh "
            f"directory."
        )
    # Numbers of a part would be read as the benchmark's once the file has left this machine.
    if row.status != "complete" and not allow_incomplete:
        raise IncompleteRun(_refusal(path, row, int(measured.outcomes.selected.sum())))
    return Exported(measured, bank, row)


def _refusal(path: Path, row: LeaderboardRow, selected: int) -> str:
    if row.status == "subset":
        what, fix = f"a SUBSET ({selected} of {row.n} questions)", "evaluate without --limit"
    else:
        what, fix = f"INCOMPLETE ({row.answered} of {row.n} questions answered)", "run the same `eval` command again"
    return (
        f"{path} is {what}: its numbers would be taken for the benchmark's. Nothing was written. "
        f"Fix: {fix}, or --allow-incomplete, which says so in the files."
    )


def shares(exported: Exported) -> Iterator[Share]:
    """Accuracy of every level and domain; reasoning consistency and sound accuracy where the run was judged.

    Of a group that is not complete the accuracy is correct / asked, with the bounds of what it can still be.
    """
    row = exported.row
    for name in exported.bank.groups:
        # Missing answers count as wrong, as whoever runs the benchmark to its end may find.
        if name in row.bounds:
            b = row.bounds[name]
            yield Share(name, "accuracy", b.lo, b.lo, b.hi, BOUNDS, b.n, None, b.answered, None, None)
        for metric, cells in (
            ("accuracy", row.accuracy),
            ("reasoning_consistency", row.consistency),
            ("sound_accuracy", row.sound),
        ):
            cell = cells.get(name)
            if cell is not None and cell.n:
                yield Share(
                    group=name,
                    metric=metric,
                    value=cell.value,
                    lo=cell.lo,
                    hi=cell.hi,
                    method=WILSON,
                    n=cell.n,
                    se=None if math.isnan(cell.se) else cell.se,
                    answered=cell.n,
                    deff=cell.deff,
                    n_clusters=cell.n_clusters,
                )


def caveat(exported: Exported) -> str:
    """ "" for a complete run, else "INCOMPLETE 95/160 ..." or "SUBSET ...", with what it means."""
    found = [flag for flag in exported.row.flags if flag.startswith(("INCOMPLETE", "SUBSET"))]
    if not found:
        return ""
    missing = "; missing answers count as wrong in the scores" if exported.row.status == "incomplete" else ""
    return f"{'; '.join(found)}: not comparable with complete runs{missing}"


def hub_id(manifest: RunManifest) -> str | None:
    """The model's id on the Hub if the run was made from one; None for a folder, a server's model, a checkpoint."""
    model = manifest.model
    found = _HUB_ID.fullmatch(model.path)
    # A checkpoint, a folder or a server's model is not the Hub's, whatever it is called.
    if found is None or model.algorithm is not None or manifest.backend not in ("transformers", "vllm"):
        return None
    # A folder "org/name" below the working folder looks like an id of the Hub.
    return None if Path(found[1]).expanduser().exists() else found[1]


def check_model_id(model_id: str) -> str:
    """Return it. Raises ConfigError unless it is of the form org/name."""
    found = _HUB_ID.fullmatch(model_id)
    if found is None or found[2]:
        raise ConfigError(f"--model-id {model_id!r} is not of the form org/name, such as Qwen/Qwen2.5-VL-7B-Instruct.")
    return model_id


def write_new(files: dict[Path, str]) -> list[Path]:
    """Write the files, each completely or not at all; folders are made. Raises ResourceError."""
    # Each in one step: a file exists completely or not at all.
    for path, text in files.items():
        make_folder(path.parent)
        write_text(path, text)
    return list(files)


def json_line(value: object) -> str:
    """One line of JSON with its newline. Lone surrogates, which a model's text may hold, become question marks."""
    return _encodable(json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))) + "\n"


def json_file(value: object) -> str:
    """Indented JSON with its newline; lone surrogates as in json_line."""
    return _encodable(json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2)) + "\n"


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")
