"""Numbers and names as the page writes them."""

from __future__ import annotations

import math
from collections.abc import Callable

DASH = "–"
# As wide as the plus sign, so that columns align; a hyphen is not.
MINUS = "\u2212"


def percent(value: float) -> str:
    """0.4489 -> "44.9"."""
    return f"{100 * value:.1f}"


def points(value: float) -> str:
    """0.041 -> "+4.1"; a true minus sign, and no sign for what rounds to zero."""
    text = f"{100 * abs(value):.1f}"
    # "+0.0" and "-0.0" would state a direction that is not there.
    return text if text == "0.0" else ("+" if value > 0 else MINUS) + text


def interval_text(lo: float, hi: float, show: Callable[[float], str] = percent) -> str:
    """ "[42.0, 47.6]"; "" where an end is nan."""
    return "" if math.isnan(lo) or math.isnan(hi) else f"[{show(lo)}, {show(hi)}]"


def p_text(p: float) -> str:
    """ "= 0.0124", or "< 0.001"."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def fixed(value: float, decimals: int) -> str:
    """So many decimals, thousands with commas, a true minus sign."""
    text = f"{abs(value):,.{decimals}f}"
    return MINUS + text if value < 0 and float(text.replace(",", "")) else text


def short(value: float) -> str:
    """Three significant digits, thousands with commas, no needless zeros."""
    # Rounded first: 999.6 has to become 1,000, not 999.6.
    size = abs(float(f"{value:.3g}"))
    if size and size < 0.001:
        text = f"{size:.0e}".replace("e-0", "e-")
    else:
        text = f"{size:,.0f}" if size >= 1000 else f"{size:.6f}".rstrip("0").rstrip(".")
    return MINUS + text if value < 0 and size else text


def backbone(base_model: str | None) -> str:
    """The base model without the hub account."""
    return (base_model or "").rstrip("/").rpartition("/")[2]
