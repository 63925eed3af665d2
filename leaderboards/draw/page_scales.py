"""Where values lie in a drawing of the page, and the ticks next to it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from leaderboards.draw.numbers import MINUS, fixed


@dataclass(frozen=True, slots=True)
class Tick:
    at: float  # in drawing units
    text: str


@dataclass(frozen=True, slots=True)
class Scale:
    """Values from `first` to `last` onto drawing units from `start` to `end`; upright ones count downwards."""

    first: float
    last: float
    start: float
    end: float
    ticks: tuple[Tick, ...] = ()

    def __call__(self, value: float) -> float:
        return self.start + (value - self.first) / (self.last - self.first) * (self.end - self.start)


def share_scale(ends: Sequence[float], start: float, end: float) -> Scale:
    """Of fractions: ticks at 1, 2, 5, 10 or 20 points that enclose all ends, at most eight."""
    # Of a single video there is no interval; then the whole range is shown.
    known = [end for end in ends if not math.isnan(end)] or [0.0, 1.0]
    lo, hi = min(known), max(known)
    # More than eight labels would touch.
    for step in (1, 2, 5, 10, 20):
        # 1e-9: a bound that is a tick must not open another step by a rounding error.
        first, last = math.floor(100 * lo / step + 1e-9), math.ceil(100 * hi / step - 1e-9)
        if last - first <= 7:
            break
    last = max(last, first + 1)
    at = [step * i / 100 for i in range(first, last + 1)]
    scale = Scale(at[0], at[-1], start, end)
    return _with_ticks(scale, at, [f"{100 * value:.0f}" for value in at])


def round_scale(values: Sequence[float], start: float, end: float, *, whole: bool = False) -> Scale:
    """Round numbers that enclose the values, with a tick at each; of whole numbers the scale ends where they do."""
    lo, hi = min(values), max(values)
    # Equal values still need a scale with some height.
    step = _round_step(hi - lo or abs(hi) or 1.0, whole=whole)
    first, last = math.floor(lo / step + 1e-9), math.ceil(hi / step - 1e-9)
    last = max(last, first + 1)
    if whole:  # steps: the scale ends where the training does
        scale = Scale(lo, max(hi, lo + 1), start, end)
    else:
        scale = Scale(first * step, last * step, start, end)
    at = [step * i for i in range(first, last + 1) if scale.first <= step * i <= scale.last]
    return _with_ticks(scale, at, _tick_texts(at, step))


def _with_ticks(scale: Scale, at: Sequence[float], texts: Sequence[str]) -> Scale:
    ticks = tuple(Tick(round(scale(value), 1), text) for value, text in zip(at, texts, strict=True))
    return Scale(scale.first, scale.last, scale.start, scale.end, ticks)


def _tick_texts(values: Sequence[float], step: float) -> list[str]:
    """As many decimals as the step needs; below a thousandth in powers of ten, since zeros would not fit."""
    exponent, largest = math.floor(math.log10(step) + 1e-9), max(map(abs, values), default=0.0)
    if not 0 < largest < 1e-3:
        return [fixed(value, max(0, -exponent)) for value in values]
    digits = math.floor(math.log10(largest) + 1e-9) - exponent + 1
    return [re.sub(r"e-0?", "e-", f"{value:.{digits}g}").replace("-", MINUS) for value in values]


def _round_step(span: float, *, whole: bool) -> float:
    """1, 2 or 5 times a power of ten, so that about four of them span it."""
    rough = span / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.99)
    return max(1.0, step) if whole else step
