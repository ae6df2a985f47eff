"""Numbers as text, the same in HTML, Markdown and terminal. Unknown is an em dash, never 0."""

from __future__ import annotations

import math
from typing import Any

__all__ = [
    "UNKNOWN",
    "budget_label",
    "cost",
    "interval",
    "known",
    "multiple",
    "percent",
    "points",
    "short_cost",
    "span",
]

UNKNOWN = "—"
_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


def known(value: Any) -> float | None:
    """The value as a finite float, or None where it is missing, NaN or infinite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def percent(value: Any) -> str:
    """A share in [0, 1] as percent with one decimal."""
    x = known(value)
    return UNKNOWN if x is None else f"{100 * x:.1f}%"


def span(low: Any, high: Any) -> str:
    """An interval of shares: `41.0–47.2%`."""
    a, b = known(low), known(high)
    return UNKNOWN if a is None or b is None else f"{100 * a:.1f}–{100 * b:.1f}%"


def points(value: Any, *, sign: bool = True) -> str:
    """A difference of shares in percentage points, with a real minus sign."""
    x = known(value)
    if x is None:
        return UNKNOWN
    shown = round(100 * x, 1) + 0.0
    text = f"{abs(shown):.1f}"
    if not sign:
        return text
    return f"{'−' if shown < 0 else '+' if shown > 0 else '±'}{text}"


def interval(value: Any, low: Any, high: Any) -> str:
    """A difference with its interval in percentage points: `+1.2 (−0.4 to +2.8)`."""
    return f"{points(value)} ({points(low)} to {points(high)})"


def _scaled(x: float) -> tuple[str, str]:
    for factor, prefix in _PREFIXES:
        if abs(x) >= factor * 0.9995:
            return f"{x / factor:.3g}" if abs(x) / factor < 999.5 else f"{x / factor:.0f}", prefix
    return f"{x:.3g}", ""


def cost(value: Any, unit: str) -> str:
    """`2.13 GFLOPs` or `1,450 tokens`."""
    x = known(value)
    if x is None:
        return UNKNOWN
    if unit == "tokens":
        return f"{x:,.0f} tokens" if x >= 10 else f"{x:.2g} tokens"
    number, prefix = _scaled(x)
    return f"{number} {prefix}FLOPs"


def short_cost(value: Any) -> str:
    """An axis tick: `2G`, `300M`, `1.5k`."""
    x = known(value)
    if x is None:
        return UNKNOWN
    number, prefix = _scaled(x)
    return f"{number}{prefix}"


def multiple(value: Any) -> str:
    """`8×`, `2.5×`."""
    x = known(value)
    return UNKNOWN if x is None else f"{x:,.0f}×" if x >= 10 or abs(x - round(x)) < 0.005 else f"{x:.2g}×"


def budget_label(budget: Any, times: Any, unit: str, one: str = "greedy") -> str:
    """`8× greedy (2.13 GFLOPs)`, or the amount alone where the reference is unknown; `one` names the reference."""
    amount = cost(budget, unit)
    return amount if known(times) is None else f"{multiple(times)} {one} ({amount})"
