"""Reads a policy folder for the report: its two JSON files, with every text made harmless to look at."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.errors import PolicyError
from planner.policy.folder import read_policy
from planner.report.numbers import known

__all__ = ["Source", "read_source"]

_LAYOUT = {"\n", "\t"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """`policy.json` and `evaluation.json` as read; `evaluation` is {} where the folder has none."""

    policy: Mapping[str, Any]
    evaluation: Mapping[str, Any]

    @property
    def unit(self) -> str:
        return str(self.policy.get("unit", "flops"))

    @property
    def plans(self) -> list[Mapping[str, Any]]:
        return list(self.policy.get("plans") or [])

    @property
    def buckets(self) -> tuple[str, ...]:
        """Bucket names from hard to easy."""
        edges = self.policy.get("bucket_edges") or {}
        return tuple(sorted(edges, key=lambda name: (known(edges[name][0]) or 0.0) if edges[name] else 0.0))

    @property
    def shares(self) -> dict[str, float]:
        """Share of the profiled problems in each bucket; empty where the counts are unknown."""
        counts = {b: known((self.policy.get("bucket_counts") or {}).get(b)) for b in self.buckets}
        total = sum(c for c in counts.values() if c)
        return {b: (c or 0.0) / total for b, c in counts.items()} if total else {}

    @property
    def reference(self) -> str:
        """What 1x is the mean cost of: greedy, or one sample where nothing greedy was measured."""
        return "one sample" if "greedy" in (self.evaluation.get("missing") or {}) else "greedy"

    @property
    def several_models(self) -> bool:
        return len({p.get("policy_model") for p in self.plans}) > 1

    def evaluated(self, budget: float) -> Mapping[str, Any] | None:
        """The held-out evaluation at this budget (to one part in a thousand), or None."""
        for entry in self.evaluation.get("budgets") or []:
            amount = known(entry.get("budget"))
            if amount is not None and abs(amount - budget) <= 1e-3 * abs(budget):
                return dict(entry)
        return None


def _harmless(value: Any) -> Any:
    """Control and direction-changing characters become U+FFFD, so that a text cannot rearrange the page around it."""
    if isinstance(value, str):
        return "".join(
            c if c in _LAYOUT or unicodedata.category(c) not in {"Cc", "Cf", "Cs"} else "\N{REPLACEMENT CHARACTER}"
            for c in value
        )
    if isinstance(value, list):
        return [_harmless(v) for v in value]
    if isinstance(value, dict):
        return {_harmless(k): _harmless(v) for k, v in value.items()}
    return value


def read_source(policy_path: str | Path) -> Source:
    """Read a policy folder.

    Raises PolicyError where it is missing, damaged, of another schema version or without a table.
    """
    document = read_policy(policy_path)
    for name in ("plans", "table", "bucket_edges"):
        if not document.policy.get(name):
            raise PolicyError(
                "empty", where=str(document.folder / "policy.json"), field=name, hint="Fit the policy again"
            )
    return Source(policy=_harmless(document.policy), evaluation=_harmless(document.evaluation))
