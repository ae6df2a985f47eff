"""What was measured, as pairs of a name and a text; unknown parts are left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planner.report.document import Facts
from planner.report.numbers import UNKNOWN, cost, known, percent, points
from planner.report.palette import strategy_name
from planner.report.source import Source

__all__ = ["measured"]


def measured(source: Source) -> Facts:
    """Models, data, seeds, spend and versions behind the report."""
    policy, evaluation = source.policy, source.evaluation
    provenance = policy.get("provenance") or {}
    facts: list[tuple[str, str]] = []

    def add(name: str, value: Any) -> None:
        text = _flat(value)
        if text:
            facts.append((name, text))

    for name, details in (policy.get("policy_models") or {}).items():
        size = known((details or {}).get("parameters")) if isinstance(details, Mapping) else None
        add("Policy model", f"{name}, {size:,.0f} parameters" if size else name)
    add("Verifier", (policy.get("verifier") or {}).get("name") or "none")
    add("Task", (policy.get("task") or {}).get("name"))
    counts = policy.get("bucket_counts") or {}
    add(
        "Problems by difficulty", ", ".join(f"{counts.get(b, UNKNOWN)} {b}" for b in source.buckets) if counts else None
    )
    edges = policy.get("bucket_edges") or {}
    add("Difficulty", "Pass@1 " + ", ".join(f"{edges[b][0]:g} to {edges[b][1]:g} is {b}" for b in source.buckets))
    add("Held-out problems", evaluation.get("problems"))
    add("Folds", evaluation.get("folds"))
    add("Strategies", ", ".join(dict.fromkeys(strategy_name(str(p["strategy"])) for p in source.plans)))
    add("Plans measured", len(source.plans))
    add(f"1× (mean cost of {source.reference})", cost(policy.get("reference_cost"), source.unit))
    add("Method", evaluation.get("method_note"))
    drop = evaluation.get("drop") or {}
    if known(drop.get("chosen")) is not None and known(drop.get("held_out")) is not None:
        add(
            "Chosen against held out",
            f"{percent(drop['chosen'])} where chosen, {percent(drop['held_out'])} held out "
            f"({points(drop['held_out'] - drop['chosen'])} points)",
        )
    add("Spend", evaluation.get("spend"))
    seconds = known(evaluation.get("fit_seconds"))
    add("Fitting took", f"{seconds:.1f} s" if seconds is not None else None)
    for name, key in (
        ("Bank", "bank"), ("Generated", "profiled"), ("Generated with", "profiled_with"), ("Fitted", "created"),
        ("Fitted with", "packages"), ("Seeds", "seeds"),
    ):  # fmt: skip
        add(name, provenance.get(key))
    add("Fingerprints", policy.get("fingerprints"))
    return tuple(facts)


def _flat(value: Any) -> str:
    """A nested value on one line; unknown parts are left out."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return ", ".join(f"{str(k).replace('_', ' ')} {text}" for k, v in value.items() if (text := _flat(v)))
    if isinstance(value, list):
        return ", ".join(filter(None, map(_flat, value)))
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return (
        f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10000 else str(value)
    )
