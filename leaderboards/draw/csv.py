"""leaderboard.csv (a row a run) and leaderboard_long.csv (a row a number).

The order of columns is an API: additions go last. A column of leaderboard.csv is one line of WIDE_COLUMNS.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from leaderboards.board import Board
from leaderboards.published import PublishedRow
from leaderboards.rows import Delta, LeaderboardRow
from leaderboards.sampled import SampleNumbers
from leaderboards.stats import Proportion
from seedbench_r1.files import write_text
from seedbench_r1.types import DOMAINS

WIDE_SCHEMA = "sbr1.leaderboard-wide/1"  # raised when a column changes its meaning, not when one is added
LONG_SCHEMA = "sbr1.leaderboard-long/1"

# Prefix of the columns -> level or L3 domain.
CELLS = {
    "l1": "L1",
    "l2": "L2",
    "l3": "L3",
    "l3_daily": "Daily life",
    "l3_hobbies": "Hobbies",
    "l3_recreation": "Recreation",
    "l3_work": "Work",
}

_OF_LEVELS = re.compile(r"(?:[dp]_)?l[123](?:_.*)?|gap_.*")

LONG_COLUMNS = (
    *("run_id", "level", "domain", "metric", "value", "lo", "hi", "se", "n", "n_clusters", "deff", "ci_method"),
    *("baseline", "diff", "diff_lo", "diff_hi", "p", "p_adj", "test", "source", "diff_min", "diff_max"),
    "diff_n",
)
# Metrics of the long file whose difference from the baseline is tested -> their names here
MEASURE_OF = {"accuracy": "accuracy", "reasoning_consistency": "consistency", "sound_accuracy": "sound"}

# Shares that of several samples, too, are of single responses.
OF_RESPONSES = frozenset({"unparsed", "truncated", "strict_accuracy", "no_reasoning", "undecided"}) | {
    f"reasoning_consistency_{name}" for name in ("correct", "wrong", "judged_only")
}

# How an interval or a p-value was made, in the columns ci_method and test.
WILSON = "wilson, n / deff, clustered by video"
NEWCOMBE = "newcombe hybrid, n / deff, clustered by video"
MEANS = "CR1 t, means, clustered by video"
BOOTSTRAP = "cluster bootstrap, percentile, 10000 draws"
BOUNDS = "missing answers all wrong to all right"
VERDICT_BOUNDS = "missing verdicts all not consistent to all consistent"
CR1_T, EXACT = "interval paired CR1 t", "interval exact: no spread between videos"
SIGN_FLIP = f"cluster sign-flip; {CR1_T}; p_adj Holm"
EXPLORATORY = f"exploratory: cluster sign-flip; {CR1_T}; p_adj Benjamini-Hochberg over all domains and runs"
REFUSED = "refused: fewer than 95 % of the questions shared"


def write_wide_csv(board: Board, path: Path, *, include_reported: bool = False) -> None:
    """Percentages with two decimals, `_lo` and `_hi` their 95 % interval; empty where there is no number."""
    splits = further_splits(board)
    rows = [wide_fields(row, board.baseline, splits) for row in board.rows]
    if include_reported:
        rows += [reported_fields(row, splits) for row in board.published]
    write_table(path, tuple(map(safe_text, wide_columns(splits))), [_safe_names(row) for row in rows])


def write_long_csv(board: Board, path: Path, *, include_reported: bool = False) -> None:
    """Fractions with full precision, one number a line."""
    lines = [line for row in board.rows for line in long_fields(row, board.baseline)]
    if include_reported:
        lines += [line for row in board.published for line in _reported_long(row)]
    write_table(path, LONG_COLUMNS, lines)


def further_splits(board: Board) -> tuple[str, ...]:
    """The splits of other suites, which are columns there; none on a board of SEED-Bench-R1."""
    return () if board.suite.has_levels else board.bank.levels


def wide_fields(row: LeaderboardRow, baseline: str | None, splits: Sequence[str] = ()) -> dict[str, str]:
    """Column -> text of a measured run. splits: of other suites."""
    return {name: show(row, baseline) for name, show in wide_columns(splits).items()}


def wide_columns(splits: Sequence[str] = ()) -> dict[str, Show]:
    """Those of SEED-Bench-R1; or those that every run has, then each split's: split_acc, split_cons, d_split, ..."""
    if not splits:
        return WIDE_COLUMNS
    found = {name: show for name, show in WIDE_COLUMNS.items() if not _OF_LEVELS.fullmatch(name)}
    for split in splits:
        found |= _shares(f"{split}_acc", lambda row: row.accuracy, split)
        found[f"{split}_n"] = _of(lambda row: row.accuracy, split, lambda cell: str(cell.n))
        found |= _shares(f"{split}_cons", lambda row: row.consistency, split)
        found[f"{split}_sound"] = _of(lambda row: row.sound, split, lambda cell: percent(cell.value))
        found |= _bound_columns(split, split) | _sample_columns(split, split)
        for measure, name in (("accuracy", split), ("consistency", f"{split}_cons"), ("sound", f"{split}_sound")):
            found |= _difference_columns(measure, split, name)
    return found


def reported_fields(row: PublishedRow, splits: Sequence[str] = ()) -> dict[str, str]:
    """Column -> text of a paper's row: the printed strings, no interval, no rank."""
    fields = dict.fromkeys(wide_columns(splits), "") | {
        "run_id": row.row_id,
        "model": row.method,
        "base_model": row.base_model,
        "source": "reported",
        "frames": row.frames,
        "flags": "; ".join((*row.flags, f"{row.source}, {row.table}")),
    }
    names = {name: name for name in splits} or {name: prefix for prefix, name in CELLS.items()}
    printed = {names[name]: cell.printed for name, cell in row.accuracy.items() if name in names}
    return fields | {f"{name}_acc": text for name, text in printed.items()}


def long_fields(row: LeaderboardRow, baseline: str | None) -> Iterator[dict[str, str]]:
    """A line for each number of a measured run."""
    measures = {"accuracy": row.accuracy, "reasoning_consistency": row.consistency, "sound_accuracy": row.sound}
    for metric, cells in (measures | row.shares).items():
        for name, cell in cells.items():
            yield _long_cell(row, name, metric, cell) | _long_delta(row, metric, name, baseline)
    # The same value with another interval: ci_method tells them apart.
    for name, (lo, hi) in row.bootstrap.items():
        cell = row.accuracy[name]
        line = _long_cell(row, name, "accuracy", cell)
        yield line | {"lo": exact(lo), "hi": exact(hi), "se": "", "ci_method": BOOTSTRAP}
    # No value: of an incomplete group only its bounds are known.
    for name, bounds in row.bounds.items():
        line = _long_place(row.run_id, name, "accuracy") | {"lo": exact(bounds.lo), "hi": exact(bounds.hi)}
        yield line | {"n": str(bounds.n), "ci_method": BOUNDS}
    for name, bounds in row.verdict_bounds.items():
        line = _long_place(row.run_id, name, "reasoning_consistency") | {"lo": exact(bounds.lo), "hi": exact(bounds.hi)}
        yield line | {"n": str(bounds.n), "ci_method": VERDICT_BOUNDS}
    if row.gap:
        line = _long_place(row.run_id, "L1-L3", "accuracy_gap") | {"value": exact(row.gap.value)}
        yield line | {"lo": exact(row.gap.lo), "hi": exact(row.gap.hi), "ci_method": NEWCOMBE}


def _long_place(run_id: str, name: str, metric: str) -> dict[str, str]:
    # A domain is a part of L3; "all" is the level itself.
    level, domain = ("L3", name) if name in DOMAINS else (name, "all")
    # Every line has every column, so that a missing number is an empty cell.
    line = dict.fromkeys(LONG_COLUMNS, "")
    return line | {
        "run_id": safe_text(run_id),
        "level": level,
        "domain": domain,
        "metric": metric,
        "source": "measured",
    }


def _long_cell(row: LeaderboardRow, name: str, metric: str, cell: Proportion) -> dict[str, str]:
    several = row.n_samples > 1 and metric not in OF_RESPONSES
    return _long_place(row.run_id, name, metric) | {
        "value": exact(cell.value),
        "lo": exact(cell.lo),
        "hi": exact(cell.hi),
        "se": exact(cell.se),
        "n": str(cell.n),
        "n_clusters": str(cell.n_clusters),
        "deff": exact(cell.deff),
        # Means of samples, and credits by degree, are no counts.
        "ci_method": WILSON if float(cell.k).is_integer() and not several else MEANS,
    }


def _long_delta(row: LeaderboardRow, metric: str, name: str, baseline: str | None) -> dict[str, str]:
    measure = MEASURE_OF.get(metric)
    if measure is None:
        return {}
    exploratory = measure == "accuracy" and name in row.domain_deltas
    delta = row.domain_deltas[name] if exploratory else row.delta(measure, name)
    if delta is None:
        return {}
    # Levels and domains are two families, adjusted in two ways.
    test = EXPLORATORY if exploratory else SIGN_FLIP
    if not delta.se > 0:  # nan for a single video
        test = test.replace(CR1_T, EXACT)
    return {
        "baseline": safe_text(baseline or ""),
        "diff": exact(delta.value),
        "diff_lo": exact(delta.lo),
        "diff_hi": exact(delta.hi),
        "p": "" if delta.p is None else exact(delta.p),
        "p_adj": "" if delta.p_adjusted is None else exact(delta.p_adjusted),
        "test": REFUSED if delta.p is None else test,
        "diff_min": exact(delta.bound_lo) if delta.missing else "",
        "diff_max": exact(delta.bound_hi) if delta.missing else "",
        "diff_n": str(delta.n),
    }


def _reported_long(row: PublishedRow) -> Iterator[dict[str, str]]:
    for name, cell in row.accuracy.items():
        # With its percent sign: a printed string, not one of our fractions.
        yield _long_place(row.row_id, name, "accuracy") | {"value": f"{cell.printed}%", "source": "reported"}


def write_table(path: Path, columns: tuple[str, ...], rows: Iterable[Mapping[str, str]]) -> None:
    """A CSV file, completely or not at all. Raises ResourceError."""
    # Built in memory, then written at once: a full disk leaves no half table.
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _one_line(value) for name, value in row.items()} for row in rows)
    write_text(path, stream.getvalue())


def _safe_names(row: Mapping[str, str]) -> dict[str, str]:
    """The name of a user's split may begin as a formula does."""
    return {safe_text(name): text for name, text in row.items()}


def _one_line(value: str) -> str:
    """Carriage returns and other line ends would split a row for readers that know no quotation marks."""
    return " ".join(value.splitlines()) if len(value.splitlines()) > 1 or value.endswith(("\r", "\n")) else value


def percent(fraction: float) -> str:
    """ "57.03"; empty for nan."""
    return "" if math.isnan(fraction) else f"{100 * fraction:.2f}"


def exact(value: float) -> str:
    """All digits of a float; empty for nan."""
    return "" if math.isnan(value) else repr(float(value))


def p_value(p: float | None) -> str:
    """Four significant digits; empty where no test was made."""
    return "" if p is None else f"{p:.4g}"


def _whole(value: int | None) -> str:
    return "" if value is None else str(value)


def safe_text(text: str) -> str:
    """Text that a spreadsheet will not take for a formula."""
    # Spreadsheets run what begins so, behind white space too; the quotation mark makes it text.
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) else text


Show = Callable[[LeaderboardRow, str | None], str]  # of a row and the baseline's run_id
T = TypeVar("T")


def _of(values: Callable[[LeaderboardRow], Mapping[str, T]], group: str, show: Callable[[T], str]) -> Show:
    """What is shown of a row's value for a level or domain; empty where it has none."""
    return lambda row, _: show(values(row)[group]) if group in values(row) else ""


def _shares(name: str, values: Callable[[LeaderboardRow], Mapping[str, Proportion]], group: str) -> dict[str, Show]:
    """A share and the ends of its interval, such as l3_acc, l3_acc_lo and l3_acc_hi."""
    return {
        name: _of(values, group, lambda cell: percent(cell.value)),
        f"{name}_lo": _of(values, group, lambda cell: percent(cell.lo)),
        f"{name}_hi": _of(values, group, lambda cell: percent(cell.hi)),
    }


def _difference_columns(measure: str, group: str, name: str | None = None) -> dict[str, Show]:
    """A difference from the baseline, such as d_l3_cons: ends of its interval, p, and what missing verdicts leave."""
    name = name or f"{group.lower()}_{'cons' if measure == 'consistency' else measure}"

    def of(show: Callable[[Delta], str]) -> Show:
        return lambda row, _: "" if (delta := row.delta(measure, group)) is None else show(delta)

    return {
        f"d_{name}": of(lambda delta: percent(delta.value)),
        f"d_{name}_lo": of(lambda delta: percent(delta.lo)),
        f"d_{name}_hi": of(lambda delta: percent(delta.hi)),
        f"p_{name}": of(lambda delta: p_value(delta.p)),
        f"p_{name}_holm": of(lambda delta: p_value(delta.p_adjusted)),
        f"d_{name}_min": of(lambda delta: percent(delta.bound_lo) if delta.missing else ""),
        f"d_{name}_max": of(lambda delta: percent(delta.bound_hi) if delta.missing else ""),
        f"d_{name}_n": of(lambda delta: str(delta.n)),
    }


def _bound_columns(group: str, prefix: str | None = None) -> dict[str, Show]:
    """What a consistency rate can be where verdicts are missing: all "not consistent", and all "consistent"."""
    name = f"{prefix or group.lower()}_cons"
    return {
        f"{name}_min": _of(lambda row: row.verdict_bounds, group, lambda bounds: percent(bounds.lo)),
        f"{name}_max": _of(lambda row: row.verdict_bounds, group, lambda bounds: percent(bounds.hi)),
    }


def _sample_columns(group: str, prefix: str | None = None) -> dict[str, Show]:
    """Of several samples: the lowest and highest accuracy of one, their standard deviation, maj@K and pass@K."""
    name = prefix or group.lower()
    shown: dict[str, Callable[[SampleNumbers], float]] = {
        "acc_min": lambda numbers: min(numbers.by_sample, default=math.nan),
        "acc_max": lambda numbers: max(numbers.by_sample, default=math.nan),
        "acc_sd": lambda numbers: numbers.deviation,
        "maj": lambda numbers: math.nan if numbers.majority is None else numbers.majority.value,
        "pass": lambda numbers: max((share.value for share in numbers.passed.values()), default=math.nan),
    }
    return {
        f"{name}_{end}": _of(lambda row: row.sampled, group, lambda n, value=value: percent(value(n)))  # type: ignore[misc]
        for end, value in shown.items()
    }


def _accuracy_columns() -> dict[str, Show]:
    found: dict[str, Show] = {}
    # Each with its own n: domains and levels have different numbers of questions.
    for prefix, group in CELLS.items():
        found |= _shares(f"{prefix}_acc", lambda row: row.accuracy, group)
        found[f"{prefix}_n"] = _of(lambda row: row.accuracy, group, lambda cell: str(cell.n))
    return found


# leaderboard.csv, column by column. A new column is one line at the end: the order is an API.
WIDE_COLUMNS: dict[str, Show] = {
    "run_id": lambda row, _: safe_text(row.run_id),
    "model": lambda row, _: safe_text(row.model),
    "base_model": lambda row, _: safe_text(row.base_model or ""),
    "algo": lambda row, _: safe_text(row.algo or ""),
    "step": lambda row, _: _whole(row.step),
    "source": lambda row, _: "imported" if row.frames is None else "measured",
    "protocol_id": lambda row, _: safe_text(row.protocol_id),
    "status": lambda row, _: row.status,
    "coverage": lambda row, _: percent(row.coverage),
    "frames": lambda row, _: _whole(row.frames),
    **_accuracy_columns(),
    **_shares("l1_cons", lambda row: row.consistency, "L1"),
    **_shares("l2_cons", lambda row: row.consistency, "L2"),
    **_shares("l3_cons", lambda row: row.consistency, "L3"),
    "l3_sound": _of(lambda row: row.sound, "L3", lambda cell: percent(cell.value)),
    "gap_l1_l3": lambda row, _: percent(row.gap.value) if row.gap else "",
    "gap_lo": lambda row, _: percent(row.gap.lo) if row.gap else "",
    "gap_hi": lambda row, _: percent(row.gap.hi) if row.gap else "",
    "rank_lo": lambda row, _: _whole(row.rank_lo),
    "rank_hi": lambda row, _: _whole(row.rank_hi),
    "tier": lambda row, _: row.tier or "",
    "baseline": lambda row, baseline: safe_text(baseline or ""),
    "d_l3": _of(lambda row: row.deltas, "L3", lambda delta: percent(delta.value)),
    "d_l3_lo": _of(lambda row: row.deltas, "L3", lambda delta: percent(delta.lo)),
    "d_l3_hi": _of(lambda row: row.deltas, "L3", lambda delta: percent(delta.hi)),
    "p_l3": _of(lambda row: row.deltas, "L3", lambda delta: p_value(delta.p)),
    "p_l3_holm": _of(lambda row: row.deltas, "L3", lambda delta: p_value(delta.p_adjusted)),
    "unparsed": lambda row, _: str(row.unparsed),
    "truncated": lambda row, _: str(row.truncated),
    "errors": lambda row, _: str(row.errors),
    "judge": lambda row, _: safe_text(row.judge_id or ""),
    "judge_prompt_sha": lambda row, _: safe_text(row.judge_prompt_sha),
    "model_sha": lambda row, _: safe_text(row.model_sha),
    "dataset_rev": lambda row, _: safe_text(row.dataset_rev),
    "prompt_sha": lambda row, _: safe_text(row.prompt_sha),
    "commit": lambda row, _: safe_text(row.commit),
    "date_utc": lambda row, _: safe_text(row.date_utc),
    "selected_from_k": lambda row, _: _whole(row.selected_from_k),
    "flags": lambda row, _: safe_text("; ".join(row.flags)),
    "l1_sound": _of(lambda row: row.sound, "L1", lambda cell: percent(cell.value)),
    "l2_sound": _of(lambda row: row.sound, "L2", lambda cell: percent(cell.value)),
    **_bound_columns("L1"),
    **_bound_columns("L2"),
    **_bound_columns("L3"),
    **_difference_columns("consistency", "L1"),
    **_difference_columns("consistency", "L2"),
    **_difference_columns("consistency", "L3"),
    **_difference_columns("sound", "L1"),
    **_difference_columns("sound", "L2"),
    **_difference_columns("sound", "L3"),
    "samples": lambda row, _: str(row.n_samples),
    **_sample_columns("L1"),
    **_sample_columns("L2"),
    **_sample_columns("L3"),
}
