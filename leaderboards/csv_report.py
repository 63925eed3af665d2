"""The wide CSV: one row a run, percentages with two decimals. The order of columns is an API: additions go last."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from pathlib import Path

from leaderboards.rows import Cell, LeaderboardRow

CELLS = {
    "l1": "L1",
    "l2": "L2",
    "l3": "L3",
    "l3_daily": "Daily life",
    "l3_hobbies": "Hobbies",
    "l3_recreation": "Recreation",
    "l3_work": "Work",
}

WIDE_COLUMNS = (
    *("run_id", "model", "base_model", "algo", "step", "source", "protocol_id", "status", "coverage", "frames"),
    *(f"{cell}_{part}" for cell in CELLS for part in ("acc", "acc_lo", "acc_hi", "n")),
    *("gap_l1_l3", "gap_lo", "gap_hi", "unparsed", "truncated", "errors"),
    *("model_sha", "dataset_rev", "prompt_sha", "commit", "date_utc", "selected_from_k"),
)


def write_wide_csv(rows: Iterable[LeaderboardRow], path: Path) -> None:
    """Write leaderboard.csv beside, then rename it into place."""
    beside = path.with_name(f".{path.name}.tmp")
    with beside.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, WIDE_COLUMNS)
        writer.writeheader()
        writer.writerows(wide_fields(row) for row in rows)
    beside.replace(path)


def wide_fields(row: LeaderboardRow) -> dict[str, str]:
    """Column -> text; an empty text where there is no number."""
    fields = {
        "run_id": safe_text(row.run_id),
        "model": safe_text(row.model),
        "base_model": safe_text(row.base_model or ""),
        "algo": safe_text(row.algo or ""),
        "step": "" if row.step is None else str(row.step),
        "source": "measured",
        "protocol_id": row.protocol_id,
        "status": row.status,
        "coverage": percent(row.coverage),
        "frames": str(row.frames),
        "gap_l1_l3": percent(row.gap.value) if row.gap else "",
        "gap_lo": percent(row.gap.lo) if row.gap else "",
        "gap_hi": percent(row.gap.hi) if row.gap else "",
        "unparsed": str(row.unparsed),
        "truncated": str(row.truncated),
        "errors": str(row.errors),
        "model_sha": row.model_sha,
        "dataset_rev": row.dataset_rev,
        "prompt_sha": row.prompt_sha,
        "commit": row.commit,
        "date_utc": row.date_utc,
        "selected_from_k": "" if row.selected_from_k is None else str(row.selected_from_k),
    }
    for prefix, name in CELLS.items():
        fields |= _cell_fields(prefix, row.accuracy.get(name))
    return fields


def _cell_fields(prefix: str, cell: Cell | None) -> dict[str, str]:
    if cell is None:
        return {f"{prefix}_{part}": "" for part in ("acc", "acc_lo", "acc_hi", "n")}
    return {
        f"{prefix}_acc": percent(cell.value),
        f"{prefix}_acc_lo": percent(cell.lo),
        f"{prefix}_acc_hi": percent(cell.hi),
        f"{prefix}_n": str(cell.n),
    }


def percent(fraction: float) -> str:
    """ "57.03"; empty for nan."""
    return "" if math.isnan(fraction) else f"{100 * fraction:.2f}"


def safe_text(text: str) -> str:
    """Text that a spreadsheet will not take for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
