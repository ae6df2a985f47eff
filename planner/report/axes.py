"""Scales and ticks of the figures, and SVG elements with every attribute escaped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Scale", "element", "linear_ticks", "log_ticks", "path", "spread"]


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps [low, high] to pixels [start, end]; `log` scales need low > 0."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        a, b, v = (math.log(t) for t in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return self.start + (self.end - self.start) * ((v - a) / (b - a) if b > a else 0.5)


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers inside [low, high]: 1-2-5 steps where few, decades where many; at most `most`."""
    span = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [m * 10.0**e for e in span for m in steps if low * 0.999 <= m * 10.0**e <= high * 1.001]
        if len(ticks) <= most:
            break
    every = math.ceil(len(ticks) / most) if ticks else 1
    return ticks[::every] if len(ticks) >= 2 else [low, high]


def linear_ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers covering [low, high]; the first and last enclose it."""
    raw = max(high - low, 1e-9) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [k * step for k in range(first, max(last, first + 1) + 1)]


def element(name: str, content: str = "", **attributes: object) -> str:
    """An SVG element; attribute names use `_` for `-`, `class_` for class; `content` is markup already."""
    text = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(f"{v:.1f}" if isinstance(v, float) else str(v))}"'
        for key, v in attributes.items()
        if v is not None
    )
    return f"<{name}{text}>{content}</{name}>"


def path(points: Iterable[tuple[float, float]], *, close: bool = False) -> str:
    return "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points) + ("Z" if close else "")


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near the wanted ones, at least `gap` apart, inside [low, high] while they fit."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = list(wanted)
    floor = low
    for i in order:
        placed[i] = max(wanted[i], floor)
        floor = placed[i] + gap
    ceiling = high
    for i in reversed(order):
        placed[i] = min(placed[i], ceiling)
        ceiling = placed[i] - gap
    return placed
