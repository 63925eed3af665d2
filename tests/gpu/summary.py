"""The results of first_light.py as a table of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

WIDTH = 80
SHOWN, LONGEST = 4, 300  # last lines of a traceback; characters of a line


def summary(whole: Mapping[str, Any]) -> str:
    """A line per stage, what went wrong, and the numbers that one asks for first."""
    stages: Mapping[str, Any] = whole["stages"]
    lines = ["", f"{'stage':<20}{'status':<34}{'seconds':>9}", "-" * WIDTH]
    for name, one in stages.items():
        lines.append(f"{name:<20}{one['status'][:33]:<34}{one.get('seconds', 0):>9.1f}")
        lines += [part for said in one["complaints"] for part in _wrapped(said)]
        if one["error"]:
            lines += [part for said in one["error"].splitlines()[-SHOWN:] for part in _wrapped(said.strip())]
    lines.append("-" * WIDTH)
    card = next((one["found"]["card"] for one in stages.values() if "card" in one["found"]), "no card")
    lines.append(f"on {card}" + (", in miniature: the numbers mean nothing" if whole["smoke"] else ""))
    for name, one in stages.items():
        lines += _numbers(name, one["found"])
    return "\n".join(line[:WIDTH] for line in lines)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text[:LONGEST], WIDTH, initial_indent="    ", subsequent_indent="    ")


def _numbers(name: str, found: Mapping[str, Any]) -> list[str]:
    """Of a training step: seconds, tokens/s and peaks by stage; of decoding: its speed."""
    lines = []
    speeds = {key: one for key, one in found.items() if isinstance(one, dict) and "ms_per_token" in one}
    for key, one in speeds.items():
        lines.append(f"{key:<44}{one['ms_per_token']:>10.2f} ms/token{one['tokens_per_s']:>12,.0f} /s")
    if "ours" not in found:
        return lines
    theirs, rehearsal = found.get("reference_style", {}), found.get("rehearsal")
    lines += [f"{name}, {found['tokens_per_s']:,.0f} tokens/s", _row("", "s", "peak GB", "rehearsed", "reference s")]
    for stage, one in found["ours"].items():
        peak = rehearsal[stage]["rehearsed_peak_gb"] if isinstance(rehearsal, dict) else None
        other = theirs.get(stage, {}).get("s")
        lines.append(_row(f"  {stage}", *(_number(value) for value in (one["s"], one["peak_gb"], peak, other))))
    other = found.get("reference_style_seconds")
    lines.append(_row("  step", _number(found["seconds"]), "", "", _number(other)))
    return lines


def _row(name: str, *cells: str) -> str:
    return f"{name:<24}" + "".join(f"{cell:>14}" for cell in cells)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
