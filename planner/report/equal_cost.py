"""What two policies reach at equal mean cost, and what equal accuracy costs each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from planner.report.answers import verdict
from planner.report.document import BudgetView, Cell, Point, Table
from planner.report.numbers import cost, percent, points
from planner.report.pairing import Paired
from planner.report.source import Source

__all__ = ["Side", "at_equal_cost", "to_reach"]

_ROWS = 6
"""At most this many costs, and accuracies, are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two: its source, its views by rising budget, and its held-out curves against mean cost by method."""

    name: str
    source: Source
    views: tuple[BudgetView, ...]
    curves: Mapping[str, tuple[Point, ...]]


def _between(marks: Sequence[Point], x: float) -> tuple[float, float | None] | None:
    """Accuracy and half-width of its interval at a cost, linear in log cost; None outside the curve."""
    for p, q in pairwise(marks):
        if p.x <= x <= q.x:
            t = 0.0 if q.x == p.x else math.log(x / p.x) / math.log(q.x / p.x)
            halves = [None if m.low is None or m.high is None else (m.high - m.low) / 2 for m in (p, q)]
            half = None if halves[0] is None or halves[1] is None else (1 - t) * halves[0] + t * halves[1]
            return (1 - t) * p.y + t * q.y, half
    return None


def at_equal_cost(a: Side, b: Side, unit: str, paired: Paired | None) -> tuple[Table, ...]:
    left, right = a.curves.get("policy", ()), b.curves.get("policy", ())
    if not left or not right:
        return ()
    low, high = max(left[0].x, right[0].x), min(left[-1].x, right[-1].x)
    if low >= high:
        return ()
    rows, tones = [], []
    for i in range(_ROWS):
        x = min(max(low * (high / low) ** (i / (_ROWS - 1)), low), high)
        alone, pair = _unpaired(left, right, x), paired.at(x) if paired is not None else None
        found = pair or alone
        if found is None:
            continue
        one, two, (low_gap, high_gap) = found
        if paired is not None and paired.whole and alone is not None:
            one, two, _ = alone  # the same numbers, not rounded to thousandths
        gap = two - one
        word, tone = verdict(low_gap, high_gap)
        tones.append(tone)
        rows.append(
            (
                Cell(text=cost(x, unit), value=x),
                Cell(text=percent(one), value=one),
                Cell(text=percent(two), value=two),
                Cell(
                    text=points(gap),
                    value=gap,
                    note="" if low_gap is None else f"{points(low_gap)} to {points(high_gap)}",
                    tone=tone,
                ),
                Cell(text=word, tone=tone),
            )
        )
    if not rows:
        return ()
    better, worse = tones.count("good"), tones.count("bad")
    how = (
        f"The differences are paired on the {paired.problems} problems that both were measured on"
        + ("." if paired.whole else ", and all of this table's accuracies are of those alone.")
        if paired is not None
        else "The intervals treat the two as independent: too wide where both were measured on the same problems."
    )
    return (
        Table(
            table_id="equal-cost",
            title="At equal mean cost",
            says=f"Held-out accuracy, interpolated on log cost where both have been measured. {b.name} is better at "
            f"{better} of {len(rows)} costs and worse at {worse}. {how}",
            columns=("Mean cost", a.name, b.name, f"{b.name} minus {a.name}", "Verdict"),
            rows=tuple(rows),
        ),
    )


def _unpaired(
    left: Sequence[Point], right: Sequence[Point], x: float
) -> tuple[float, float, tuple[float | None, float | None]] | None:
    """As `Paired.at`, from the curves alone and as if the two were independent."""
    one, two = _between(left, x), _between(right, x)
    if one is None or two is None:
        return None
    if one[1] is None or two[1] is None:
        return one[0], two[0], (None, None)
    gap, half = two[0] - one[0], math.hypot(one[1], two[1])
    return one[0], two[0], (gap - half, gap + half)


def _cost_at(marks: Sequence[Point], target: float) -> float | None:
    """The least cost at which the curve reaches an accuracy, linear in log cost."""
    before: Point | None = None
    for p in marks:
        if p.y >= target:
            if before is None or p.y == before.y:
                return p.x
            t = (target - before.y) / (p.y - before.y)
            return float(before.x * (p.x / before.x) ** t)
        before = p
    return None


def to_reach(a: Side, b: Side, unit: str) -> tuple[Table, ...]:
    left, right = a.curves.get("policy", ()), b.curves.get("policy", ())
    if not left or not right:
        return ()
    low = max(min(p.y for p in left), min(p.y for p in right))
    high = max(max(p.y for p in left), max(p.y for p in right))
    if low >= high:
        return ()
    rows = []
    for i in range(_ROWS):
        target = low + (high - low) * i / (_ROWS - 1)
        one, two = _cost_at(left, target - 1e-12), _cost_at(right, target - 1e-12)
        ratio = one / two if one is not None and two is not None else None
        rows.append(
            (
                Cell(text=percent(target), value=target),
                Cell(text=cost(one, unit) if one is not None else "not reached", value=one),
                Cell(text=cost(two, unit) if two is not None else "not reached", value=two),
                Cell(text=f"{ratio:.2f}×" if ratio is not None else "", value=ratio),
            )
        )
    factors = [row[3].value for row in rows if row[3].value is not None]
    cheaper = sum(f > 1 for f in factors)
    return (
        Table(
            table_id="reach-table",
            title="Mean cost of reaching an accuracy",
            says=f"{b.name} needs less than {a.name} in {cheaper} of {len(factors)} accuracies that both reach. The "
            "last column divides the first one's cost by the second one's; it has no interval here.",
            columns=("Accuracy", a.name, b.name, "Gain"),
            rows=tuple(rows),
        ),
    )
