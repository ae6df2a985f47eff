"""Efficiency gain: what equal accuracy costs the policy and its rivals, and how much of the possible gain it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from planner.report.document import Cell, Section, Table
from planner.report.numbers import cost, known, percent
from planner.report.palette import method_name, style_key
from planner.report.source import Source

__all__ = ["efficiency"]

_LEAST_GAP = 0.01


def efficiency(source: Source, missing: dict[str, str]) -> Section | None:
    """The section, or None with the reason in `missing`."""
    rows = []
    for method, entries in (source.evaluation.get("efficiency_gain") or {}).items():
        for details in entries if isinstance(entries, list) else []:
            if not isinstance(details, Mapping):
                continue
            factor, n = known(details.get("factor")), known(details.get("n"))
            low, high = (known(v) for v in (details.get("ci") or [None, None]))
            against = "Cheapest of them" if method == "cheapest" else method_name(method)
            bound = "at least " if details.get("lower_bound") else ""
            rows.append(
                (
                    Cell(text=f"{against}, N = {n:.0f}" if n is not None else against, key=style_key(method)),
                    Cell(
                        text="not reached" if factor is None else f"{bound}{factor:.2f}×",
                        value=factor,
                        note=f"{low:.2f}–{high:.2f}×" if low is not None and high is not None else "",
                        tone="muted" if factor is None else "",
                    ),
                    Cell(text=percent(details.get("accuracy")), value=known(details.get("accuracy"))),
                )
            )
    if not rows:
        missing.setdefault("efficiency_gain", "No rival's accuracy was measured at which costs could be compared.")
        return None
    table = Table(
        table_id="efficiency-table",
        title="Compute of the rival divided by the policy's, at equal accuracy",
        says=_says(rows),
        columns=("Against", "Gain", "At accuracy"),
        rows=tuple(rows),
    )
    return Section(section_id="efficiency", title="Efficiency gain", tables=(table, *_gap_closed(source)))


def _says(rows: Sequence[tuple[Cell, ...]]) -> str:
    """How often the policy needs less compute, and how often it never gets there."""
    factors = [row[1].value for row in rows if row[1].value is not None]
    text = f"The policy needs less compute in {sum(f > 1 for f in factors)} of {len(rows)} comparisons"
    if len(factors) < len(rows):
        text += f" and never reaches the accuracy in {len(rows) - len(factors)}"
    return f"{text}. Above 1× it reaches the same held-out accuracy with less compute, below 1× with more."


def _gap_closed(source: Source) -> tuple[Table, ...]:
    rows, values = [], []
    for entry in source.evaluation.get("gap_closed") or []:
        value, budget = known(entry.get("value")), known(entry.get("budget"))
        if value is None or budget is None:
            continue
        price = Cell(text=cost(budget, source.unit), value=budget)
        if _to_gain(source, budget) < _LEAST_GAP:
            rows.append((price, Cell(text="less than a point to gain", tone="muted")))
            continue
        values.append(value)
        rows.append((price, Cell(text=_signed(value), value=value)))
    if not values:
        return ()
    return (
        Table(
            table_id="gap-closed",
            title="Share of the way from the best fixed strategy to the per-problem oracle",
            says=f"From {_signed(min(values))} to {_signed(max(values))} over the budgets. 100% would be the best plan "
            "for every problem by its own outcome, 0% is the best fixed strategy, and below 0% is worse than it.",
            columns=("Budget", "Gap closed"),
            rows=tuple(rows),
        ),
    )


def _to_gain(source: Source, budget: float) -> float:
    """Accuracy between the best fixed strategy and the per-problem oracle; a ratio to almost nothing says nothing."""
    methods = (source.evaluated(budget) or {}).get("methods") or {}
    fixed, oracle = (known((methods.get(m) or {}).get("accuracy")) for m in ("best_fixed", "oracle"))
    return 1.0 if fixed is None or oracle is None else oracle - fixed


def _signed(value: float) -> str:
    return percent(value).replace("-", "−")
